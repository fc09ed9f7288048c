"""The page of tools/explore.py, by Gradio. All that it computes and draws, `Explorer` does."""

import hashlib
import ipaddress
import math
import os
import re
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mmatm.apis.inference import IMAGE_SUFFIXES
from mmatm.errors import InputError

from .explorer import Explorer, Subject
from .panels import QUERY, InputImage, Point, save_figure
from .views import VIEWS

_UPLOAD = 20 * 2**20  # bytes of an image at most
_FIGURES = 64  # that are kept
# Nothing on the page is from elsewhere, and this has browsers refuse it if something should be.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; form-action 'self'; base-uri 'self'; "
    "frame-ancestors 'none'"
)
_ELSEWHERE = re.compile(r'/(file|proxy)[=/]+https?:')  # what Gradio would fetch for a client


class OwnFilesOnly:
    """Has browsers load nothing from elsewhere, the server fetch nothing either, and other sites send nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message['headers'], (b'content-security-policy', _POLICY.encode())]
            await send(message)

        foreign = (b'sec-fetch-site', b'cross-site') in scope.get('headers', ()) and scope.get('method') != 'GET'
        if foreign or _ELSEWHERE.search(scope.get('path', '')):
            await send_with_policy({'type': 'http.response.start', 'status': 403, 'headers': []})
            await send({'type': 'http.response.body', 'body': b''})
        else:
            await self.app(scope, receive, send_with_policy)


def serve(explorer: Explorer, images: Sequence[Path], host: str, port: int) -> None:
    """Serves the page until it is interrupted.

    Args:
        explorer: The models.
        images: To choose from, besides those that users drop.
        host: The address to listen on.
        port: The port, 0 for any that is free.

    Raises:
        InputError: Gradio is not installed, or nothing can listen there.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when it is imported
    try:
        import gradio as gr
        import uvicorn
        from fastapi import FastAPI
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise InputError(f'the page needs Gradio ({error}): pip install gradio') from None
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(
            f'nothing can listen on {host}, port {port}: {error}; choose others by --host and --port'
        ) from None

    with listener, tempfile.TemporaryDirectory(prefix='mmatm-explore-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        app = FastAPI(openapi_url=None)
        gr.mount_gradio_app(
            app,
            make_page(explorer, images, Path(folder)),
            path='/',
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            show_error=False,
            max_file_size=_UPLOAD,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
        )
        app.add_middleware(OwnFilesOnly)
        address, port = listener.getsockname()[:2]
        if ipaddress.ip_address(address).is_loopback:  # no other site may pass for this machine
            names = ['127.0.0.1', 'localhost', '[::1]', address]
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
        print(f'look at http://{f"[{host}]" if ":" in host else host}:{port} in a browser; Ctrl+C ends it', flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level='error', timeout_graceful_shutdown=1))
        server.run(sockets=[listener])


class Files:
    """Folders of the figures drawn last, one for each, from which they can be shown again and saved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: deque[Path] = deque()

    def folder_of(self, *what: object) -> Path:
        """The folder of what is drawn; if it is new, the oldest ones make room."""
        folder = self._folder / hashlib.sha256(repr(what).encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        if folder in self._kept:
            self._kept.remove(folder)
        self._kept.append(folder)
        while len(self._kept) > _FIGURES:
            shutil.rmtree(self._kept.popleft())
        return folder


def make_page(explorer: Explorer, images: Sequence[Path], folder: Path) -> Any:
    """The page, as Gradio's Blocks; figures are written to a folder from which Gradio may serve files."""
    import gradio as gr

    files = Files(folder / 'figures')
    names = [subject.name for subject in explorer.subjects]
    if len(names) > 1:  # they may be of one config
        names = [f'{number}: {name}' for number, name in enumerate(names, 1)]
    bar = gr.Progress()
    examples = [str(path) for path in images]
    over_image = ['nothing', *(f'prediction of {name}' for name in names)]

    def show(spot: Spot, over: str) -> tuple:
        """The image to click on, and what to know of it."""
        note = f'{Path(spot.path).name} at {_words(spot.point)}; click another point'
        try:
            image = explorer.image(spot.path)
        except InputError as error:  # its file is gone
            return gr.skip(), f'⚠ {error}'
        pixels = image.pixels
        try:
            if over != over_image[0]:
                pixels = explorer.predict(spot.path, over_image.index(over) - 1)
        except InputError as error:
            note = f'⚠ {error}'
        return _marked(pixels, [side * image.scale for side in spot.point]), note

    def choose(new: str | None, spot: Spot | None, over: str, progress: gr.Progress = bar) -> tuple:
        """Another image; one that is refused leaves all as it is."""
        if new is None:
            return spot, gr.skip(), gr.skip() if spot else 'choose an image'
        try:
            progress(0.1, desc='image and prediction')
            height, width = (image := explorer.image(new)).pixels.shape[:2]
        except InputError as error:
            return spot, gr.skip(), f'⚠ {error}'
        spot = Spot(new, _in_file(image, width // 2, height // 2))
        return spot, *show(spot, over)

    def click(spot: Spot, over: str, event: gr.SelectData) -> tuple:
        try:
            spot = Spot(spot.path, _in_file(explorer.image(spot.path), *event.index))
        except InputError as error:  # its file is gone
            return spot, gr.skip(), f'⚠ {error}'
        return spot, *show(spot, over)

    def cover(spot: Spot | None, over: str) -> tuple:
        """Another prediction over the image."""
        return show(spot, over) if spot else (gr.skip(), gr.skip())

    def adapt(name: str, view: str) -> Any:
        """The slider over the layers that a view has in a model, at the usual one."""
        try:
            found = explorer.subjects[names.index(name)].layers(VIEWS[view])
        except InputError:
            found = []
        if len(found) < 2:
            return gr.Slider(visible=False, value=0)
        usual = VIEWS[view].usual(found)[-1]
        return gr.Slider(visible=True, maximum=len(found) - 1, value=found.index(usual), label=f'layer: {usual}')

    def draw(
        shown: bool, spot: Spot | None, name: str, view: str, index: int, progress: gr.Progress = bar
    ) -> Iterator[tuple]:
        """A view as PNG, the command that draws it, the layer's name, a note; and then files of it to save."""
        unsaved = [gr.DownloadButton(value=None, interactive=False)] * 2
        if spot is None or not shown:
            yield None, *unsaved, '', gr.skip(), ''
            return
        path, point = spot
        start, which = time.perf_counter(), names.index(name)
        try:
            layers = explorer.subjects[which].layers(VIEWS[view])
            layer = layers[min(int(index), len(layers) - 1)] if layers else None
            shown_at = point if VIEWS[view].of_points else None
            stem = '_'.join(filter(None, (Path(path).stem, view, layer)))
            png, svg = (
                files.folder_of(path, which, view, layer, shown_at) / f'{stem}.{kind}' for kind in ('png', 'svg')
            )
            figure = None
            if not (png.exists() and svg.exists()):
                progress(0.1, desc=view)
                figure = explorer.draw(path, which, view, layer, point)
                save_figure(figure, str(png))
        except InputError as error:
            yield None, *unsaved, '', gr.skip(), f'⚠ {error}'
            return
        image = path if path in examples else Path(path).name
        command = explorer.command(image, which, view, layer, point, png.name)
        label = gr.Slider(label=f'layer: {layer}') if layer else gr.skip()
        note = f'{VIEWS[view].shows}; drawn in {time.perf_counter() - start:.2f} s'
        rest = command, label, note
        if figure:
            yield str(png), *unsaved, *rest
            unfinished = svg.with_stem('unfinished')
            save_figure(figure, str(unfinished))
            unfinished.replace(svg)
        # All again: of what is skipped here, the page may lose what it has just been given.
        yield str(png), *(gr.DownloadButton(value=str(file), interactive=True) for file in (png, svg)), *rest

    async def keep_uploaded(path: str) -> str | None:
        """What Gradio does with the file of an upload, but for addresses, which it would fetch."""
        if str(path).startswith(('http:', 'https:')):
            raise gr.Error('images are uploaded, not fetched')
        return await gr.File.async_move_resource_to_block_cache(upload, path)

    def make_pane(number: int) -> tuple[Any, list, list, list]:
        """The column of a pane; what chooses its view, what `draw` takes of it and what it returns."""
        name = names[min(number, len(names) - 1)]
        view = next(view for view in VIEWS if has_view(explorer.subjects[names.index(name)], view))
        with gr.Column(min_width=360, visible=number == 0 or len(names) > 1) as column:
            with gr.Row():
                model = gr.Radio(names, value=name, label='model', visible=len(names) > 1, elem_id=f'model{number}')
                kind = gr.Dropdown(list(VIEWS), value=view, label='view', elem_id=f'view{number}')
            layer = gr.Slider(0, 1, 0, step=1, label='layer', buttons=[], elem_id=f'layer{number}')
            figure = gr.Image(show_label=False, interactive=False, buttons=['fullscreen'], elem_id=f'figure{number}')
            note = gr.Markdown(elem_id=f'note{number}')
            with gr.Row():
                png, svg = (
                    gr.DownloadButton(
                        f'save as {name}', size='sm', interactive=False, elem_id=f'{name.lower()}{number}'
                    )
                    for name in ('PNG', 'SVG')
                )
            command = gr.Code(
                label='draws the same',
                language='shell',
                interactive=False,
                lines=2,
                wrap_lines=True,
                buttons=['copy'],
                show_line_numbers=False,
                elem_id=f'command{number}',
            )
        return column, [model, kind], [model, kind, layer], [figure, png, svg, command, layer, note]

    with gr.Blocks(title='Look inside', analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        spot = gr.State()
        with gr.Row():
            with gr.Column(scale=3, min_width=360):
                shown = gr.Image(label='click a point', interactive=False, format='jpeg', buttons=[], elem_id='image')
                note = gr.Markdown(elem_id='note')
                over = gr.Radio(over_image, value=over_image[1], label='over the image', elem_id='over')
                example = gr.Dropdown(
                    [(Path(path).name, path) for path in examples],
                    label='choose an image',
                    visible=bool(images),
                    elem_id='example',
                )
                upload = gr.File(
                    label=f'or drop one, of {_UPLOAD >> 20} MB at most',
                    file_types=sorted(IMAGE_SUFFIXES),
                    height=120,
                    elem_id='upload',
                )
                upload.async_move_resource_to_block_cache = keep_uploaded
            with gr.Column(scale=6):
                beside = gr.Checkbox(len(names) > 1, label='two side by side', elem_id='beside')
                with gr.Row():
                    panes = [make_pane(number) for number in range(2)]

        # One computation at a time, whoever asks; of what is asked meanwhile in one window, the last.
        guarded = dict(concurrency_limit=1, concurrency_id='models', api_visibility='private')
        latest = dict(guarded, trigger_mode='always_last')
        chosen = [spot, shown, note]
        opened = page.load(lambda: None, **guarded)
        for (column, choices, inputs, outputs), flag in zip(panes, (gr.State(True), beside), strict=True):
            layer = outputs[4]
            drawing = dict(fn=draw, inputs=[flag, spot, *inputs], outputs=outputs, **latest)
            opened = opened.then(adapt, choices, layer, **guarded)
            for each in choices:
                each.change(adapt, choices, layer, **latest).then(**drawing)
            layer.input(**drawing)
            spot.change(**drawing)
            if flag is beside:
                beside.change(lambda on: gr.Column(visible=on), beside, column, **guarded).then(**drawing)
        opened.then(choose, [example, spot, over], chosen, **guarded)
        example.select(choose, [example, spot, over], chosen, **guarded)
        uploaded = upload.upload(choose, [upload, spot, over], chosen, **guarded)
        uploaded.then(lambda: None, None, upload, **guarded)  # which has room for another one
        # What shows that it works would lie over the image and catch further clicks.
        shown.select(click, [spot, over], chosen, show_progress='hidden', trigger_mode='multiple', **guarded)
        over.change(cover, [spot, over], [shown, note], **latest)
    return page.queue(api_open=False, max_size=64)


class Spot(NamedTuple):
    """What a window is at: the path of an image, and a point in pixels of its file."""

    path: str
    point: Point


def has_view(subject: Subject, view: str) -> bool:
    """Whether a model has a view."""
    try:
        return bool(VIEWS[view].layers(subject.backbone))
    except InputError:
        return False


def _in_file(image: InputImage, x: float, y: float) -> Point:
    """A pixel of the image on the page -> the point in pixels of its file, of few digits as the command line has it."""
    return math.floor(10 * x / image.scale) / 10, math.floor(10 * y / image.scale) / 10


def _words(point: Point) -> str:
    return f'{point[0]:g}, {point[1]:g}'


def _marked(pixels: np.ndarray, place: Sequence[float]) -> Image.Image:
    """The image (H, W, 3) with a mark at a place."""
    marked = Image.fromarray(pixels)
    radius = max(marked.size) / 60
    draw = ImageDraw.Draw(marked)
    for size, colour in ((1.4, 'white'), (1.0, QUERY), (0.4, 'white')):
        draw.circle(place, size * radius, fill=colour)
    return marked
