#!/usr/bin/env python
"""Times clicks on the page of tools/explore.py as a user sees them: from the click to the new figure, in Chromium on
the same machine, for docs/visualization.md. It needs Playwright and Chromium."""

import argparse
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmatm.apis.inference import load_model
from mmatm.benchmark.report import split_docs, update_docs
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.stack import installed
from mmatm.utils.command_line import run
from mmatm.utils.environment import environment
from mmatm.utils.markdown import table

ROOT = Path(__file__).parents[2]
VIEWS = ('offsets', 'receptive-field')
WAIT = 120_000  # milliseconds
# Shares of the image's width and height.
POINTS = ((0.2, 0.3), (0.7, 0.4), (0.4, 0.8), (0.8, 0.7), (0.5, 0.15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', help='of which the upper left square is taken')
    parser.add_argument(
        '--config',
        default=str(ROOT / 'configs/upernet_atmnet_t_ade20k.py'),
        help="the model's, with random weights; by default UperNet with ATMNet-T",
    )
    parser.add_argument('--docs', type=Path, help='write into visualization.md in this directory')
    args = parser.parse_args()
    if args.docs:
        split_docs(args.docs / 'visualization.md', 'clicks')
    chromium = find_chromium()
    seen = ', '.join(f'{key} {value}' for key, value in [*environment('cpu').items(), *installed(['gradio']).items()])
    with tempfile.TemporaryDirectory() as folder, served(args.config, args.image, Path(folder)) as address:
        rows = time_clicks(address, chromium)
    head = ['view', 'seconds of a click on a new point: median', 'least and most', 'on one clicked before']
    text = f'{Path(args.config).stem}, seen with: {seen}.\n\n{table(head, rows)}'
    print(text)
    if args.docs:
        update_docs(args.docs / 'visualization.md', 'clicks', text)


@contextmanager
def served(config: str, image: str, folder: Path) -> Iterator[str]:
    """The address of a page for an image, made a square, and a model with random weights."""
    checkpoint, square = folder / 'random.pth', folder / 'square.png'
    try:
        with Image.open(image) as whole:
            whole.convert('RGB').crop((0, 0, min(whole.size), min(whole.size))).save(square)
    except OSError as error:
        raise InputError(f'{image} cannot be read: {error}') from None
    torch.save({'state_dict': load_model(load_config(config), None).state_dict()}, checkpoint)
    command = [sys.executable, str(ROOT / 'tools/explore.py'), config, str(checkpoint), str(square), '--port', '0']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        found = next(filter(None, (re.search(r'http://[\d.]+:\d+', line) for line in server.stdout)), None)
        if found is None:
            raise InputError('tools/explore.py served no page; what it says is above')
        yield found[0]
    finally:
        server.send_signal(signal.SIGINT)  # by which it removes its files
        server.communicate()


def find_chromium() -> str:
    """The browser, which Playwright works.

    Raises:
        InputError: One of them is not installed.
    """
    if find_spec('playwright') is None:
        raise InputError('clicks are timed in a browser by Playwright: pip install playwright')
    found = shutil.which('chromium') or shutil.which('google-chrome')
    if found is None:
        raise InputError('clicks are timed in Chromium, which is not installed (Debian: apt install chromium)')
    return found


def time_clicks(address: str, chromium: str) -> list[Sequence[str]]:
    """A row for each view: its name, and seconds by click."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=['--no-sandbox'])  # its own page is trusted
        page = browser.new_page(viewport={'width': 1600, 'height': 1400})
        page.set_default_timeout(WAIT)
        page.goto(address)
        for number, view in enumerate(VIEWS):
            page.locator('#view0 input').click()
            page.get_by_role('option', name=view, exact=True).click()
            wait_until_saved(page, view)
            # Other points for each view: what is kept of one may serve another. The first click warms up.
            points = [((x + 0.05 * number) % 1, y) for x, y in POINTS]
            _, *new = [time_click(page, point, view) for point in points]
            again = [time_click(page, point, view) for point in points[:-1]]
            rows.append([
                view,
                f'{statistics.median(new):.2f}',
                f'{min(new):.2f} to {max(new):.2f}',
                f'{statistics.median(again):.2f}',
            ])  # fmt: skip
        browser.close()
    return rows


def time_click(page: Any, point: tuple[float, float], view: str) -> float:
    """Seconds from a click to another figure."""
    box = page.locator('#image img').bounding_box()
    before = page.locator('#figure0 img').get_attribute('src')
    start = time.perf_counter()
    page.mouse.click(box['x'] + point[0] * box['width'], box['y'] + point[1] * box['height'])
    page.wait_for_function(
        'before => (shown => shown && shown.src != before && shown.complete && shown.naturalWidth)'
        "(document.querySelector('#figure0 img'))",
        arg=before,
    )
    seconds = time.perf_counter() - start
    wait_until_saved(page, view)
    return seconds


def wait_until_saved(page: Any, view: str) -> None:
    """Waits until a pane has a figure of a view and files of it, and so nothing is computed any more."""
    page.wait_for_function(
        "view => document.querySelector('#command0 .cm-content')?.textContent.includes(`--view ${view}`)"
        " && document.querySelector('#figure0 img') && document.querySelector('#svg0')?.disabled === false",
        arg=view,
    )
    time.sleep(0.5)  # the page is at rest


if __name__ == '__main__':
    run(main)
