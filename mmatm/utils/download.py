"""Fetches files from http addresses and Google Drive, resumes after a break, and names them when they are whole."""

import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from rich.progress import DownloadColumn, TransferSpeedColumn

from mmatm.errors import InputError
from mmatm.utils.counting_bar import counting_bar
from mmatm.utils.files import NO_ROOM, alone, give_name

# Links as Google Drive gives them, and the file's id in them.
_DRIVE = re.compile(r'https://drive\.google\.com/(?:file/d/|[^#]*[?&]id=)([\w-]+)')
_SECONDS = 60  # without a byte
_CHUNK = 1 << 16  # what a break of the connection loses at most


def is_address(path: str) -> bool:
    """Whether a path is one that `download` takes, and no file."""
    return re.match('https?://', path, re.I) is not None


def cached(url: str, check: Callable[[Path], object]) -> Path:
    """The file of an address in torch's cache, fetched if it is not there; one that is there needs no network.

    A name that ends with the file's hash, as `resnet50-0676ba61.pth`, is torch's own, and torch and MMEngine find the
    file too. To other names eight digits of the address are added, so that one address is never taken for another.

    Args:
        url: An http address.
        check: As `download` takes it.

    Raises:
        InputError: As `download`; the file is not the one of the hash in its name.
    """
    parts = urlsplit(url.partition('#')[0])
    name = Path(unquote(parts.path)).name or 'file'
    digits = _hash_in(name)
    if digits is None:
        address = hashlib.sha256(parts.geturl().encode()).hexdigest()
        name = f'{Path(name).stem}.{address[:8]}{Path(name).suffix}'
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name

    def check_all(partial: Path) -> None:
        if digits and not (found := _sha256(partial)).startswith(digits):
            raise InputError(f'its SHA-256 begins with {found[: len(digits)]}, not with {digits} as its name says')
        check(partial)

    if not path.is_file():
        download(url, path, check_all)
    return path


def download(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Fetches a file, unless it is there. Of several processes one does, and the others wait for it.

    Until it is whole and checked it is called `NAME.partial`. An incomplete file is kept, and the next call resumes it
    if the server can tell that the file has not changed since; a file that fails the check is removed.

    Args:
        url: An http address, or that of a file on Google Drive, which needs the package gdown.
        path: The file to write. Folders are made.
        check: Called with the file before it has its name; raises an InputError if it is not the one wanted.

    Raises:
        InputError: No network, no such file, cut short, no room; or it fails the check.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path) as locked:
            if path.is_file():
                return
            drive = _DRIVE.match(url)
            # Where others cannot be kept away, each has a file of its own.
            tag = ('' if locked else f'.{time.time_ns()}') + ('.drive' if drive else '')
            partial = path.with_name(f'{path.name}{tag}.partial')
            with _explain_disk(url, path.parent):
                if drive:
                    _from_drive(url, drive[1], partial, path)
                else:
                    _from_http(url, partial, path)
                try:
                    check(partial)
                except InputError as error:
                    partial.unlink()
                    _record(partial).unlink(missing_ok=True)
                    raise InputError(f'the file from {url} is not the right one and was removed: {error}') from None
                give_name(partial, path)
                _record(partial).unlink(missing_ok=True)
    except OSError as error:  # of the folder and the lock
        raise InputError(f'{url} cannot be put at {path}: {error}') from None


@contextmanager
def _explain_disk(url: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise InputError(
            f'no room in {folder} for {url} ({error.strerror}). Make room and run this again to resume'
        ) from None


def _from_http(url: str, partial: Path, path: Path) -> None:
    record = _record(partial)
    known = _read_record(record, url)
    start = partial.stat().st_size if known and partial.is_file() else 0
    if start and start == known['size']:
        return  # ended between the last byte and the check
    # Else the server might compress it, and its length would be another.
    headers = {'User-Agent': 'mmatm', 'Accept-Encoding': 'identity'}
    if start:
        headers |= {'Range': f'bytes={start}-', 'If-Range': known['validator']}
    by_hand = f'Fetch it elsewhere and put it at {path}, or name another file'
    try:
        response = urlopen(Request(url, headers=headers), timeout=_SECONDS)
    except HTTPError as error:
        if error.code == 416 and start:  # its end is before ours
            record.unlink()
            return _from_http(url, partial, path)
        raise InputError(f'{url}: the server answers {error.code} {error.reason}. {by_hand}') from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', error)
        raise InputError(f'{urlsplit(url).netloc} cannot be reached to fetch {url} ({reason}). {by_hand}') from None
    with response:
        if not start or response.status != 206:
            start = 0  # another file by now, or a server that sends whole files only
        # Some send a part whatever If-Range says, or another part.
        elif known['validator'] != _validator(response) or _first_byte(response) != start:
            record.unlink()
            return _from_http(url, partial, path)
        _write(response, url, partial, start)


def _validator(response: HTTPResponse) -> str | None:
    """What changes when the file on the server does."""
    tag = response.headers.get('ETag')
    # A weak one tells of the same content, not of the same bytes.
    return tag if tag and not tag.startswith('W/') else response.headers.get('Last-Modified')


def _first_byte(response: HTTPResponse) -> int | None:
    found = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    return int(found[1]) if found else None


def _write(response: HTTPResponse, url: str, partial: Path, start: int) -> None:
    """Writes the body of an answer, which begins with the file's byte `start`, behind the bytes before it."""
    size = None if response.length is None else start + response.length
    if whole := re.search(r'/(\d+)$', response.headers.get('Content-Range', '')):
        size = int(whole[1])
    validator = _validator(response)
    if size and shutil.disk_usage(partial.parent).free < size - start:
        raise OSError(ENOSPC, f'{size - start:,} bytes are needed')
    # Not by the logger, with which only rank 0 speaks: another may have been faster.
    from_where = f' from byte {start:,} on' if start else ''
    print(f'fetching {url} to {partial.parent}{from_where}', file=sys.stderr, flush=True)
    reason = ''
    bar = counting_bar(partial.stem, start, size, DownloadColumn(), TransferSpeedColumn())
    with partial.open('ab' if start else 'wb') as file, bar as advance:
        _record(partial).write_text(json.dumps({'url': url, 'validator': validator, 'size': size}))
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, HTTPException) as error:
                reason = f' ({type(error).__name__})'
                break
            if not chunk:
                break
            file.write(chunk)
            advance(len(chunk))
    done = partial.stat().st_size
    if reason or (size is not None and done != size):
        of = '' if size is None else f' of {size:,}'
        again = 'resume' if validator else 'start over (the server does not tell whether its file changes)'
        raise InputError(f'{url} was cut short{reason} after {done:,}{of} bytes. Run this again to {again}')


def _record(partial: Path) -> Path:
    """Where it is written down what a partial file is a part of."""
    return partial.with_name(f'{partial.name}.json')


def _read_record(record: Path, url: str) -> dict[str, Any] | None:
    try:
        known = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):  # a kill may have cut it short
        return None
    return known if known['url'] == url and known['validator'] else None


def _from_drive(url: str, file_id: str, partial: Path, path: Path) -> None:
    by_hand = f'fetch it by hand from {url} and put it at {path}'
    try:
        import gdown
    except ImportError:
        raise InputError(f'Google Drive needs gdown: pip install gdown and run this again, or {by_hand}') from None
    try:
        # What is cut short it keeps under a name of its own, so `partial` is whole if it is there.
        gdown.download(id=file_id, output=str(partial), resume=True, quiet=not sys.stderr.isatty())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        reason = ' '.join(str(error).split())
        raise InputError(f'gdown cannot fetch {url} ({reason}). Run this again to resume, or {by_hand}') from None
    if not partial.is_file():  # how older versions say that they failed
        raise InputError(f'gdown cannot fetch {url}, see above. Run this again, or {by_hand}')


def _hash_in(name: str) -> str | None:
    """The first digits of a file's SHA-256 that torch's convention has at the end of its name; no date."""
    found = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    return found[1] if found and not re.fullmatch(r'(19|20)\d{6}', found[1]) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
