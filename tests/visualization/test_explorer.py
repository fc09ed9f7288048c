"""The page of tools/explore.py, in Chromium, and what is refused before there is a page."""

import os
import re
import shlex
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import SEGMENTOR, write_config, write_weights
from PIL import Image

from forked import kill, run_tool, start, wait_until

TRANSXNET = """
_base_ = '{root}/configs/atmnet_mini_shapes.py'
arch = dict(
    depths=[1, 1, 2, 1], channels=[8, 16, 16, 24], num_heads=[1, 1, 2, 3], num_banks=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1], mlp_ratios=[2, 2, 2, 2], image_size=64,
)
model = dict(
    backbone=dict(_delete_=True, type='mmatm.TransXNet', arch=arch, out_indices=(3,)), head=dict(in_channels=24)
)
test_dataloader = dict(dataset=dict(data_root='{data}/imagenet'))
"""
WAIT = 120_000


@pytest.fixture(scope='module')
def models(tmp_path_factory, shapes):
    """Configs and weights of a segmentor with ATMNet and of a classifier with TransXNet."""
    found = []
    for name, text in (('segmentor', SEGMENTOR), ('classifier', TRANSXNET)):
        folder = tmp_path_factory.mktemp(name)
        config = write_config(folder, shapes, text).rename(folder / f'{name}.py')
        found.append((config, write_weights(config)))
    return found


@pytest.fixture(scope='module')
def images(shapes):
    return sorted((shapes / 'ade/images/validation').glob('*.jpg'))[:3]


@pytest.fixture(scope='module')
def served(tmp_path_factory, models, images):
    """The process that serves the page of both models, and its address."""
    pytest.importorskip('gradio', reason='the page is not tested: Gradio is not installed (pip install gradio)')
    output = tmp_path_factory.mktemp('explore') / 'output'
    output.touch()
    (first, second), options = models, ('--short-side', 96, '--port', 0)
    server = start(run_tool, output, 'explore.py', *first, *images, '--beside', *second, *options)
    try:
        wait_until(lambda: not server.is_alive() or 'look at' in output.read_text(), 'the page')
        assert server.is_alive(), output.read_text()
        yield server, re.search(r'http://127\.0\.0\.1:\d+', output.read_text())[0]
    finally:
        kill(server)
    assert 'Traceback' not in output.read_text()


@pytest.fixture(scope='module')
def address(served):
    return served[1]


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip(
        'playwright.sync_api', reason='the page is not tested: Playwright is not installed (pip install playwright)'
    )
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    if chromium is None:
        pytest.skip('the page is not tested: Chromium is not installed (Debian: apt install chromium)')
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=['--no-sandbox'])  # its own page is trusted
        yield browser
        browser.close()


class Window:
    """A window with the page, and what a user does in it."""

    def __init__(self, browser, address):
        from playwright.sync_api import expect

        self.expect = expect
        self.page = browser.new_context(viewport={'width': 1600, 'height': 1400}).new_page()
        self.page.set_default_timeout(WAIT)
        self.requests = []
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.blocked = ''
        self.page.on('console', self.listen)
        self.page.goto(address)
        self.drawn(0, '--point 32 32 ')
        self.drawn(1, '--point 32 32 ')

    def listen(self, message):
        if 'Content Security Policy' in message.text:
            self.blocked += message.text

    def drawn(self, pane, *words):
        """Waits until a pane has a figure that a command with these words draws, and returns the command."""
        command = self.page.locator(f'#command{pane} .cm-content')
        for word in words:
            self.expect(command).to_contain_text(word)
        self.expect(self.page.locator(f'#figure{pane} img')).to_be_visible()
        self.expect(self.page.locator(f'#svg{pane}')).to_be_enabled()
        return shlex.split(''.join(command.locator('.cm-line').all_text_contents()))

    def click(self, x, y):
        """A point in pixels of the images, which have 64x64."""
        image = self.page.locator('#image img')
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        self.page.mouse.click(
            *(box[side] + at / 64 * box[n] for side, at, n in (('x', x, 'width'), ('y', y, 'height')))
        )

    def choose(self, element, option):
        self.page.locator(f'#{element} input').click()
        self.page.get_by_role('option', name=option, exact=True).click()

    def upload(self, name, data):
        files = [{'name': name, 'mimeType': 'image/jpeg', 'buffer': data}]
        self.page.locator('#upload input[type=file]').set_input_files(files)

    def says(self, note, text):
        self.expect(self.page.locator(f'#{note}')).to_contain_text(re.compile(text))

    def save(self, pane, kind, folder):
        with self.page.expect_download() as found:
            self.page.locator(f'#{kind}{pane}').click()
        found.value.save_as(folder / found.value.suggested_filename)
        return folder / found.value.suggested_filename


@pytest.fixture
def windows(browser, address):
    """Opens windows, and closes them."""
    opened = []

    def open_one():
        opened.append(Window(browser, address))
        return opened[-1]

    yield open_one
    for each in opened:
        each.page.context.close()


@pytest.fixture
def window(windows):
    return windows()


def test_no_file_is_served_but_those_of_the_page(address, models, tmp_path):
    """Nor is any fetched from elsewhere, nor is the page given to a site that passes for this machine."""

    def status(path, data=None, **headers):
        request = urllib.request.Request(f'{address}{path}', data, headers)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        error.value.close()
        return error.value.code

    for place in (models[0][0], models[0][1], '/etc/passwd', tmp_path):
        assert status(f'/gradio_api/file={place}') in (403, 404)
    assert status('/gradio_api/file=http://127.0.0.2:9/a.png') == 403
    assert status('/gradio_api/proxy=https://127.0.0.2:9/a.png') == 403
    assert status('/', Host='elsewhere.example') == 400
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n%b\r\n--x--\r\n'
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    assert status('/gradio_api/upload', form % bytes(21 << 20), **kind) == 413


def test_click_save_slide_and_draw_the_same_by_the_command(window, address, tmp_path, command, models, images):
    window.click(10, 50)
    found = window.drawn(0, '--view offsets', '--layer stages.2.blocks.1', '--point 10')
    assert found[:5] == ['python', 'tools/visualize.py', *map(str, models[0]), str(images[0])]
    point = found[found.index('--point') :][:3]
    assert [float(word) for word in point[1:]] == pytest.approx([10, 50], abs=1)
    saved = window.save(0, 'png', tmp_path)
    assert saved.name == found[-1] == f'{images[0].stem}_offsets_stages.2.blocks.1.png'
    command('visualize.py', *found[2:-1], tmp_path / 'again.png')
    with Image.open(saved) as one, Image.open(tmp_path / 'again.png') as other:
        np.testing.assert_allclose(np.asarray(one, int), np.asarray(other, int), atol=2)
    assert window.save(0, 'svg', tmp_path).read_text().startswith('<?xml')
    # The other model looks from the same point.
    assert window.drawn(1, '--view attention', shlex.join(point))[2:5] == [*map(str, models[1]), str(images[0])]

    before = window.page.locator('#figure0 img').get_attribute('src')
    window.page.locator('#layer0 input[type=range]').fill('1')
    window.drawn(0, '--layer stages.0.blocks.1')
    window.expect(window.page.locator('#layer0')).to_contain_text('layer: stages.0.blocks.1')
    window.expect(window.page.locator('#figure0 img')).not_to_have_attribute('src', before)
    window.drawn(1, '--layer stages.2.blocks.1')

    # All of this was its own; if something were not, browsers are told not to load it.
    assert {url for url in window.requests if not url.startswith((f'{address}/', 'data:', 'blob:'))} == set()
    assert len(window.requests) > 10
    refused = window.page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'loaded', error => error.message)")
    assert refused == 'Failed to fetch'
    assert 'http://127.0.0.2:9/' in window.blocked


def test_views(window):
    """Each of both models, or why there is none; a view without layers has no slider."""
    window.choose('view0', 'attention')
    window.says('note0', 'only TransXNet has attention to draw, this ATMNet has none')
    window.expect(window.page.locator('#layer0 input[type=range]')).to_be_hidden()
    window.expect(window.page.locator('#figure0 img')).to_be_hidden()
    window.choose('view0', 'distribution')
    assert not {'--layer', '--point'} & set(window.drawn(0, '--view distribution'))
    window.choose('view0', 'receptive-field')
    window.drawn(0, '--view receptive-field', '--layer stages.2.blocks.1')
    window.choose('view1', 'kernel')
    window.drawn(1, '--view kernel')
    window.page.locator('#model1').get_by_text('1: segmentor').click()
    window.says('note1', 'only TransXNet has dynamic kernels to draw, this ATMNet has none')
    window.page.locator('#beside input').click()
    window.expect(window.page.locator('#figure1')).to_be_hidden()


def test_a_long_computation_shows_that_it_lives(window, served):
    """As long as the server does not answer, seconds are counted over the figure."""
    tracker = window.page.locator('#figure0 [data-testid=status-tracker]:not(.hide)')
    seconds = tracker.get_by_text(re.compile(r'^\s*\d+\.\d'))
    window.expect(seconds).to_have_count(0)
    os.kill(served[0].pid, signal.SIGSTOP)
    try:
        window.page.locator('#layer0 input[type=range]').fill('1')
        window.expect(seconds).to_be_visible()
        before = seconds.inner_text()
        window.expect(seconds).not_to_have_text(before)
    finally:
        os.kill(served[0].pid, signal.SIGCONT)
    window.drawn(0, '--layer stages.0.blocks.1')
    window.expect(seconds).to_have_count(0)


def test_images_chosen_and_dropped_and_predictions(window, images, tmp_path):
    """One that is broken, too long or too large is refused, and the page goes on working."""
    window.choose('example', images[1].name)
    window.drawn(0, str(images[1]))
    window.drawn(1, str(images[1]))
    seen = []
    for name in ('nothing', 'prediction of 1: segmentor', 'prediction of 2: classifier'):
        before = window.page.locator('#image img').get_attribute('src')
        if not seen:  # where the page begins with a prediction
            seen.append(before)
        window.page.locator('#over').get_by_text(name).click()
        window.expect(window.page.locator('#image img')).not_to_have_attribute('src', before)
        seen.append(window.page.locator('#image img').get_attribute('src'))
    assert seen[0].rpartition('/')[0] == seen[2].rpartition('/')[0], 'named by what they show'
    assert len({src.rpartition('/')[0] for src in seen}) == 3

    data = images[2].read_bytes()
    window.upload('broken.jpg', data[: len(data) // 2])
    window.says('note', r'broken\.jpg is cut short')
    window.upload('text.jpg', b'no image at all')
    window.says('note', r'text\.jpg is not an image, or far too large')
    Image.new('RGB', (500, 100)).save(tmp_path / 'long.png')
    window.upload('long.png', (tmp_path / 'long.png').read_bytes())
    window.says('note', r'long\.png has 500x100 pixels; images here have 64 million at most, and are 4 times as long')
    window.click(20, 20)
    window.drawn(0, '--point 20', str(images[1]))
    window.upload('mine.jpg', data)
    window.drawn(0, ' mine.jpg --view offsets', '--point 32 32 ')
    large = tmp_path / 'large.jpg'
    large.write_bytes(data)
    os.truncate(large, 21 << 20)
    window.page.locator('#upload input[type=file]').set_input_files(large)
    window.expect(window.page.get_by_text('exceed the maximum allowed size of 20').first).to_be_visible()
    window.click(50, 20)
    window.drawn(0, ' mine.jpg', '--point 50')


def test_two_windows_at_once(window, windows, images):
    other = windows()
    other.choose('example', images[2].name)
    other.drawn(0, str(images[2]))
    window.click(10, 10)
    other.click(50, 50)
    window.click(12, 40)
    for pane in (0, 1):
        assert str(images[0]) in window.drawn(pane, '--point 12')
        assert str(images[2]) in other.drawn(pane, '--point 50')


def test_refused_before_there_is_a_page(models, images, error_of, tmp_path, monkeypatch):
    (config, weights), (other, others) = models
    message = error_of('explore.py', config, others, *images)
    assert f'{others}: ' in message
    assert 'explore.py' not in message
    assert f'{weights}: ' in error_of('explore.py', config, weights, '--beside', other, weights)
    assert 'no images in absent' in error_of('explore.py', config, weights, 'absent')
    assert 'is 1 pixel or more, not 0' in error_of('explore.py', config, weights, '--short-side', 0)
    monkeypatch.setitem(sys.modules, 'gradio', None)
    message = error_of('explore.py', config, weights)
    assert message.startswith('error: the page needs Gradio (')
    assert message.endswith('): pip install gradio')


def test_refused_where_nothing_can_listen(models, error_of):
    pytest.importorskip('gradio', reason='the page is not tested: Gradio is not installed (pip install gradio)')
    config, weights = models[0]
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = error_of('explore.py', config, weights, '--port', port)
    assert f'nothing can listen on 127.0.0.1, port {port}: ' in message
