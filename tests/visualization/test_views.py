"""The list of views, and what those of TransXNet and the kept features compute, each against another way to it."""

import asyncio
from itertools import product

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, SEGMENTOR, write_config, write_weights
from models.families import FAMILIES, tiny
from PIL import Image
from torch.nn import functional as F

from mmatm.errors import InputError
from mmatm.visualization import explorer as explorer_module
from mmatm.visualization import page as page_module
from mmatm.visualization.attention import attention_of, draw_heads, find_attention
from mmatm.visualization.explorer import Explorer, Subject
from mmatm.visualization.features import Features, Grid, find_layers
from mmatm.visualization.kernels import find_dynamic, kernels_of
from mmatm.visualization.page import Files, OwnFilesOnly
from mmatm.visualization.panels import InputImage
from mmatm.visualization.views import VIEWS

HAS = {
    'ATMNet': {'offsets', 'distribution'},
    'TransXNet': {'attention', 'heads', 'kernel'},
    **{name: {'spectrum'} for name in ('DFFormer', 'CDFFormer', 'DSM', 'AFFNet')},
}


def image_of(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return InputImage(pixels, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 128 - 1, 1.0)


@pytest.fixture
def image():
    return image_of(64, 96)


@pytest.fixture
def transxnet():
    """In float64, with position biases that matter and selectors that choose."""
    torch.manual_seed(0)
    model = tiny('TransXNet').eval().double()
    for name, parameter in model.named_parameters():
        if (name.endswith('.bias') and parameter.ndim == 4) or '.local.expand.' in name:
            torch.nn.init.normal_(parameter, std=2.0)
    return model


def given(model, part, inputs):
    """What a module is called with, and what it returns."""
    found = []
    hook = part.register_forward_hook(lambda _, *rest: found.append(rest))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    ((arguments, returned),) = found
    return arguments, returned


@pytest.mark.parametrize('name', FAMILIES)
def test_a_backbone_has_a_view_or_says_why_not(name, image):
    torch.manual_seed(0)
    model = tiny(name).eval()
    features = Features(model, image.inputs, differentiable=True)
    for view in VIEWS.values():
        if view.name in HAS.get(name, set()) | {'receptive-field'}:
            assert view.draw(features, image).axes
        else:
            with pytest.raises(InputError, match=rf'{model.TITLE} has none|no layer of this {model.TITLE} has'):
                view.draw(features, image)


@torch.no_grad()
@pytest.mark.parametrize('layer', ['stages.0.blocks.0', 'stages.2.blocks.1', 'stages.3.blocks.0'])
def test_attention_is_the_explicit_softmax(transxnet, image, layer):
    inputs = image.inputs.double()
    attention = find_attention(transxnet)[layer]
    (x, _), _ = given(transxnet, attention, inputs)
    reduced = x if attention.reduce is None else attention.reduce(x)
    reduced = reduced + F.conv2d(reduced, attention.local.weight, attention.local.bias, padding=1, groups=x.shape[1])
    heads = attention.num_heads
    q = F.conv2d(x, attention.q.weight, attention.q.bias).reshape(heads, -1, *x.shape[2:])
    k = F.conv2d(reduced, attention.kv.weight, attention.kv.bias)[:, : x.shape[1]].reshape(
        heads, -1, *reduced.shape[2:]
    )
    table = transxnet.stages[int(layer[7])].bias
    queries, keys = q[0, 0].numel(), k[0, 0].numel()
    bias = F.interpolate(table, (queries, keys), mode='bicubic').view(heads, *x.shape[2:], *reduced.shape[2:])
    features = Features(transxnet, inputs)
    for token in ((0, 0), (1, 2), (x.shape[2] - 1, x.shape[3] - 1)):
        scores = torch.einsum('hc,hcij->hij', q[:, :, *token], k) / q.shape[1] ** 0.5 + bias[:, *token]
        expected = scores.flatten(1).softmax(1).view_as(scores)
        found = attention_of(features, layer, token)
        torch.testing.assert_close(found, expected)
        assert found.std() > 0.01, 'it matters which token is asked'


def test_keys_are_drawn_where_they_read(transxnet, image):
    """The middle of the tokens that a key is reduced from, which are symmetric around it."""
    layer = 'stages.1.blocks.1'
    attention = find_attention(transxnet)[layer]
    x = torch.rand(1, 6, 20, 20).double().requires_grad_()
    (read,) = torch.autograd.grad(attention.reduce(x)[0, :, 2, 3].sum(), x)
    row, column = (read[0].abs().sum((0, 2 - axis)).nonzero().double().mean().item() for axis in (0, 1))
    view = VIEWS['attention'].draw(Features(transxnet, image.inputs.double()), image, [layer], [(40, 30)]).axes[0]
    left, right, lower, upper = view.images[1].get_extent()
    rows, columns = view.images[1].get_array().shape
    grid = Grid.of(transxnet, layer)
    assert upper + (lower - upper) / rows * 2.5 == grid.first + grid.stride * row
    assert left + (right - left) / columns * 3.5 == grid.first + grid.stride * column
    assert (rows, columns) == (2, 3)
    assert view.get_xlim() == (-0.5, 95.5), 'the image alone is shown'


def test_heads_have_a_column_each(transxnet, image):
    layers, points = ['stages.2.blocks.1', 'stages.3.blocks.0'], [(40, 30), (5, 5)]
    features = Features(transxnet, image.inputs.double())
    axes = draw_heads(features, image, layers, points).axes
    drawn = [panel for panel in axes if panel.get_visible()]
    assert [panel.get_title() for panel in drawn] == [
        f'{layer} at {x}, {y}, head {head}'
        for layer, heads in zip(layers, (2, 3), strict=True)
        for (x, y), head in product(points, range(1, heads + 1))
    ]
    row = attention_of(features, layers[1], Grid.of(transxnet, layers[1]).nearest(image, points[1], (2, 3)))
    np.testing.assert_allclose(drawn[-1].images[1].get_array(), row[2] / row[2].max())


@torch.no_grad()
@pytest.mark.parametrize('layer', ['stages.0.blocks.0', 'stages.2.blocks.1'])
def test_kernels_are_those_that_the_layer_convolves_with(transxnet, image, layer):
    """A grouped convolution with them is what the layer returns, up to the bias of each channel."""
    inputs = image.inputs.double()
    part = find_dynamic(transxnet)[layer]
    (x,), returned = given(transxnet, part, inputs)
    kernels, shares = kernels_of(Features(transxnet, inputs), layer)
    rest = returned - F.conv2d(x, kernels[:, None], padding=kernels.shape[-1] // 2, groups=len(kernels))
    torch.testing.assert_close(rest, rest[..., :1, :1].expand_as(rest))
    torch.testing.assert_close(shares.sum(0), torch.ones(len(kernels)).double())
    assert shares.std(1).min() > 0.05, 'banks are chosen'
    # Banks that are constants have kernels that are what is taken of each.
    part.weight.data = torch.arange(1.0, len(shares) + 1).double()[:, None, None, None].expand_as(part.weight).clone()
    again, same = kernels_of(Features(transxnet, inputs), layer)
    torch.testing.assert_close(again.mean((1, 2)), torch.arange(1.0, len(shares) + 1).double() @ same)


def test_kernels_lie_over_the_tokens_that_they_read(transxnet, image):
    layer = 'stages.1.blocks.0'
    figure = VIEWS['kernel'].draw(Features(transxnet, image.inputs.double()), image, [layer], [(40, 30)])
    grid = Grid.of(transxnet, layer)
    row, column = grid.nearest(image, (40, 30), (8, 12))
    left, right, lower, upper = figure.axes[0].images[1].get_extent()
    assert (left + right) / 2 == grid.first + grid.stride * column
    assert (upper + lower) / 2 == grid.first + grid.stride * row
    assert right - left == lower - upper == 7 * grid.stride
    assert [axes.get_title() for axes in figure.axes[:2]] == [f'{layer} at 40, 30', 'mean of all']


@pytest.mark.parametrize('name', ['ATMNet', 'TransXNet'])
def test_fields_are_computed_once_and_are_the_gradients(name, monkeypatch):
    """TransXNet recomputes parts of so large a map, when its parameters have gradients again."""
    torch.manual_seed(0)
    model, inputs, layer, token = tiny(name).eval(), image_of(256, 256).inputs, 'stages.1.blocks.0', (3, 5)
    pixels, found = inputs.clone().requires_grad_(), []
    hook = find_layers(model)[layer].register_forward_hook(lambda *call: found.append(call[2][0]))
    model(pixels)
    hook.remove()
    output = found[0] if model.CHANNELS_LAST else found[0].permute(1, 2, 0)
    (expected,) = torch.autograd.grad(output[token].sum(), pixels)

    features = Features(model, inputs, differentiable=True)
    calls, gradient = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, 'grad', lambda *args, **kwargs: calls.append(args) or gradient(*args, **kwargs))
    field = features.field(layer, token)
    torch.testing.assert_close(field, expected[0].abs().sum(0), rtol=1e-4, atol=1e-7)
    assert features.field(layer, token) is field
    assert len(calls) == 1
    assert features.field(layer, (4, 5)).ne(field).any()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(block._forward_hooks for block in find_layers(model).values())


def test_no_more_fields_are_kept_than_fit(image, monkeypatch):
    monkeypatch.setattr('mmatm.visualization.features._FIELDS', 2)
    features = Features(tiny('RIFormer').eval(), image.inputs, differentiable=True)
    first = features.field('stages.0.blocks.0', (0, 0))
    for column in (1, 2):
        features.field('stages.0.blocks.0', (0, column))
    again = features.field('stages.0.blocks.0', (0, 0))
    assert again is not first
    torch.testing.assert_close(again, first)


@pytest.mark.parametrize(
    ('path', 'method', 'site', 'passes'),
    [
        ('/gradio_api/file=/tmp/figure.png', 'GET', b'same-origin', True),
        ('/gradio_api/file=https://elsewhere.example/a.png', 'GET', b'same-origin', False),
        ('/gradio_api/file/http://elsewhere.example/a.png', 'GET', b'same-origin', False),
        ('/gradio_api/proxy=https://elsewhere.example/a.png', 'GET', b'same-origin', False),
        ('/gradio_api/upload', 'POST', b'same-origin', True),
        ('/gradio_api/upload', 'POST', b'cross-site', False),
        ('/', 'GET', b'cross-site', True),  # a link to the page
    ],
)
def test_what_the_server_is_asked(path, method, site, passes):
    """Nothing is fetched from elsewhere, nor taken from pages of other sites."""
    asked, sent = [], []

    async def app(scope, receive, send):
        asked.append(scope['path'])

    async def send(message):
        sent.append(message)

    scope = dict(type='http', path=path, method=method, headers=[(b'sec-fetch-site', site)])
    asyncio.run(OwnFilesOnly(app)(scope, None, send))
    assert asked == [path] * passes
    assert [message['status'] for message in sent if 'status' in message] == [403] * (not passes)


def test_images_that_are_refused(tmp_path, monkeypatch):
    """By their heads alone: nothing of them is decoded, and no program is started for them."""
    explorer = Explorer([None], 64)
    (tmp_path / 'a.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n')
    with pytest.raises(InputError, match=r'a\.jpg is not an image, or far too large'):
        explorer.image(str(tmp_path / 'a.jpg'))
    Image.new('RGB', (40, 30)).save(tmp_path / 'b.png')
    monkeypatch.setattr(explorer_module, '_PIXELS', 1000)
    monkeypatch.setattr(explorer_module, 'check_images', lambda paths: pytest.fail('decoded'))
    with pytest.raises(InputError, match=r'b\.png has 40x30 pixels'):
        explorer.image(str(tmp_path / 'b.png'))


@pytest.mark.parametrize('text', [SEGMENTOR, DETECTOR, CLASSIFIER], ids=['segmentor', 'detector', 'classifier'])
def test_predictions_are_those_of_the_command(text, shapes, tmp_path, command):
    config = write_config(tmp_path, shapes, text)
    weights, path = write_weights(config), next((shapes / 'ade/images/validation').glob('*.jpg'))
    if text is DETECTOR:  # random weights would find nothing, or masks by chance
        state = torch.load(weights)
        state['state_dict']['roi_head.bbox_head.fc_cls.bias'][0] = 10
        state['state_dict']['roi_head.mask_head.conv_logits.bias'] += 10
        torch.save(state, weights)
    command('image_demo.py', config, weights, path, '--out', tmp_path / 'out')
    with Image.open(path) as plain, Image.open(tmp_path / f'out/vis/{path.stem}.png') as drawn:
        expected, before = np.asarray(drawn, int), np.asarray(plain, int)
    explorer = Explorer([Subject.load(str(config), str(weights))], 64)
    found = explorer.predict(str(path), 0)
    assert abs(found - expected).mean() < 0.5, 'edges of boxes are smoothed differently from call to call'
    assert abs(found - before).mean() > 2
    assert explorer.predict(str(path), 0) is found, 'kept'


def test_figures_that_are_kept(tmp_path, monkeypatch):
    """That which was asked for last goes last."""
    monkeypatch.setattr(page_module, '_FIGURES', 2)
    files = Files(tmp_path)
    first, second = files.folder_of(1), files.folder_of(2)
    assert files.folder_of(1) == first
    files.folder_of(3)
    assert first.is_dir()
    assert not second.exists()
