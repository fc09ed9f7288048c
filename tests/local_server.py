"""A web server on this machine that fails as it is told to."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; what it was asked for is in `requests`, as (path, Range or None, status)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None, int]] = []
        # How many bytes of a body are sent at most before the connection is closed.
        self.cut: int | None = None
        self.ranges = True
        # Sends parts, but does not look whether the file is still the one that they are of.
        self.heeds_if_range = True
        self.says_length = True
        self.etag: str | None = '"first"'
        # Set to let a body go on after its first half.
        self.go_on: threading.Event | None = None

    def url(self, path: str) -> str:
        return f'http://127.0.0.1:{self.server_port}/{path}'


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers['Range']
        body = server.files.get(self.path.lstrip('/'))
        if body is None:
            server.requests.append((self.path, asked, 404))
            self.send_error(404)
            return
        start, size = 0, len(body)
        if asked and server.ranges and (self.headers['If-Range'] == server.etag or not server.heeds_if_range):
            start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1])
        status = 416 if start >= size > 0 else 206 if start else 200
        server.requests.append((self.path, asked, status))
        self.send_response(status)
        if status == 206:
            self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
        body = body[start:] if status != 416 else b''
        if server.says_length:
            self.send_header('Content-Length', str(len(body)))
        if server.etag:
            self.send_header('ETag', server.etag)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who asked has gone
            if server.go_on is not None:
                self.wfile.write(body[: len(body) // 2])
                server.go_on.wait(60)
                body = body[len(body) // 2 :]
            self.wfile.write(body[: server.cut])

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
