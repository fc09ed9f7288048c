"""Images of where tokens look: what is drawn is what the operation reads."""

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, SEGMENTOR, write_config, write_weights
from matplotlib.colors import to_rgb
from PIL import Image

from mini import MINI
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.ops import axial_sample
from mmatm.visualization.features import Features, Grid, find_layers
from mmatm.visualization.offsets import count_looks, draw_distribution, draw_offsets, offset_of
from mmatm.visualization.panels import InputImage
from mmatm.visualization.views import VIEWS

OFFSETS = '--view', 'offsets'
LAYERS = [f'stages.{stage}.blocks.{block}' for stage in range(4) for block in range(2)]


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 128 - 1
    return InputImage(pixels, inputs, 1.0)


def network(**kwargs):
    torch.manual_seed(0)
    model = ATMNet(MINI, **kwargs)
    model.init_weights()
    return model.eval()


def look(model, width, height):
    """Makes all tokens of all layers look so many tokens along the row and the column."""
    for block in find_layers(model).values():
        if block.predicts_offsets:
            torch.nn.init.zeros_(block.offset_fc.weight)
            row, column = block.offset_fc.bias.data.chunk(2)
            row.fill_(width)
            column.fill_(height)


def test_counts_are_what_the_operation_reads():
    """The operation on a map that is one at a single token gives each channel's weight on that token."""
    generator = torch.Generator().manual_seed(1)
    height, width, groups, channels = 5, 7, 3, 6
    offset = 4 * torch.randn(height, width, 2 * groups, generator=generator)
    i, j = 3, 2
    by_column, by_row = count_looks(offset, (i, j), channels)
    for counts, branch, tokens in (
        (by_column, 0, [(i, w) for w in range(width)]),
        (by_row, 1, [(h, j) for h in range(height)]),
    ):
        for count, token in zip(counts, tokens, strict=True):
            x = torch.zeros(1, height, width, channels)
            x[0][token] = 1
            expected = axial_sample(x, offset[None], 'reference')[branch][0, i, j].sum()
            torch.testing.assert_close(count, expected)


def test_blocks_read_by_the_last_predicted_offsets(image):
    model = network(output_stride=16)
    look(model, 1.5, -2)
    features = Features(model, image.inputs)
    assert list(find_layers(model)) == LAYERS
    for name in LAYERS:
        offset = offset_of(features, name)
        factor = 2 if name.startswith('stages.3') else 1  # dilated
        assert offset.shape[:2] == (64 // Grid.of(model, name).stride, 96 // Grid.of(model, name).stride)
        row, column = offset.chunk(2, -1)
        torch.testing.assert_close(row, torch.full_like(row, 1.5 * factor))
        torch.testing.assert_close(column, torch.full_like(column, -2.0 * factor))
    assert [Grid.of(model, name).stride for name in LAYERS[::2]] == [4, 8, 16, 16]


def test_figure_5_has_its_circles_where_the_tokens_are(image):
    model = network()
    look(model, 1, -2)
    figure = draw_offsets(
        Features(model, image.inputs), image, ['stages.1.blocks.0', 'stages.0.blocks.1'], [(40, 30), (2, 3)]
    )
    panel = figure.axes[0]  # stride 8: (40, 30) is nearest to token (4, 5) at pixel (41, 33)
    row, column, query = panel.collections
    assert query.get_offsets().tolist() == [[41, 33]]
    seen = row.get_facecolors()[:, 3] > 0
    assert row.get_offsets()[seen].tolist() == [[49, 33]]
    seen = column.get_facecolors()[:, 3] > 0
    assert column.get_offsets()[seen].tolist() == [[41, 17]]
    assert panel.get_xlabel() == 'beyond the edge: 0% of the row, 0% of the column'
    # At the upper edge nothing is above.
    assert figure.axes[3].get_title() == 'stages.0.blocks.1 at 2, 3'
    assert figure.axes[3].get_xlabel() == 'beyond the edge: 0% of the row, 100% of the column'


def test_opacity_is_the_number_of_channels(image):
    model = network()
    look(model, 1, 0)
    block = model.stages[1].blocks[0]
    block.offset_fc.bias.data[0] = -1.0  # one group of the four looks the other way
    row = draw_offsets(Features(model, image.inputs), image, ['stages.1.blocks.0'], [(41, 33)]).axes[0].collections[0]
    found = {x: alpha for (x, _), alpha in zip(row.get_offsets().tolist(), row.get_facecolors()[:, 3], strict=True)}
    most = 16  # all channels at the query itself, along the column
    assert found[49] == pytest.approx(12 / most)
    assert found[33] == pytest.approx(4 / most)


def test_distribution(image):
    model = network()
    look(model, 3, -1)
    figure = draw_distribution(Features(model, image.inputs))
    assert len(figure.axes) == 4
    texts = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert texts == ['along the row: 3.00 on average', 'along the column: 1.00 on average']
    row = next(patch for patch in figure.axes[2].patches if patch.get_edgecolor()[:3] == to_rgb('#ff7f0e'))
    x, y = row.get_xy().T
    assert 2.5 < x[y.argmax()] < 3.5


@pytest.mark.parametrize('text', [SEGMENTOR, DETECTOR, CLASSIFIER], ids=['segmentor', 'detector', 'classifier'])
def test_command(text, tmp_path, shapes, command):
    config = write_config(tmp_path, shapes, text)
    arguments = config, write_weights(config), shapes / 'ade/images/validation/000001.jpg'
    chosen = '--layer', 'stages.1.blocks.0', 'stages.3.blocks.1', '--point', 5, 60, '--point', 33.5, 20
    command(
        'visualize.py', *arguments, '--view', 'offsets', *chosen, '--short-side', 80, '--out', tmp_path / 'offsets.png'
    )
    command('visualize.py', *arguments, '--view', 'receptive-field', '--out', tmp_path / 'field.png')
    command('visualize.py', *arguments, '--view', 'distribution', '--out', tmp_path / 'spread.svg')
    for name in ('offsets.png', 'field.png'):
        with Image.open(tmp_path / name) as drawn:
            assert len(drawn.convert('RGB').getcolors(2**24)) > 1000
    assert (tmp_path / 'spread.svg').read_text().startswith('<?xml')


CASVIT = """
_base_ = '{root}/configs/atmnet_mini_shapes.py'
arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 16, 24], mlp_ratios=[2, 2, 2, 2])
model = dict(backbone=dict(_delete_=True, type='mmatm.CASViT', arch=arch, out_indices=(3,)), head=dict(in_channels=24))
test_dataloader = dict(dataset=dict(data_root='{data}/imagenet'))
"""


def test_other_backbones_have_receptive_fields_only(tmp_path, shapes, command, error_of):
    config = write_config(tmp_path, shapes, CASVIT)
    arguments = config, write_weights(config), shapes / 'ade/images/validation/000001.jpg'
    assert 'drawn: ' in command(
        'visualize.py', *arguments, '--view', 'receptive-field', '--out', tmp_path / 'field.png'
    )
    for view, message in (
        ('offsets', 'only ATMNet has offsets to draw, CAS-ViT has none'),
        ('distribution', 'only ATMNet has offsets to draw, CAS-ViT has none'),
        ('attention', 'only TransXNet has attention to draw, this CAS-ViT has none'),
        ('heads', 'only TransXNet has attention to draw, this CAS-ViT has none'),
        ('kernel', 'only TransXNet has dynamic kernels to draw, this CAS-ViT has none'),
        ('spectrum', 'have spectral mixers to draw, this CAS-ViT has none'),
    ):
        assert message in error_of('visualize.py', *arguments, '--view', view)


def test_blocks_of_the_users_have_no_offsets_to_draw(image):
    class Same(torch.nn.Module):
        predicts_offsets = False

        def __init__(self, *args, **kwargs):
            super().__init__()

        def forward(self, x, offset):
            return x

    model = ATMNet(MINI, parts={'block': [None, None, Same, None]}).eval()
    features = Features(model, image.inputs)
    assert list(VIEWS['offsets'].find(model)) == [name for name in LAYERS if not name.startswith('stages.2')]
    assert VIEWS['offsets'].layers(model) == ['stages.3.blocks.1']
    with pytest.raises(InputError, match=r'no layer stages\.2\.blocks\.0; the layers are stages\.0\.blocks\.0, st'):
        VIEWS['offsets'].draw(features, image, ['stages.2.blocks.0'])


def test_bad_input(tmp_path, config, shapes, error_of):
    image = shapes / 'ade/images/validation/000001.jpg'
    weights = write_weights(config)

    def error(*options, image=image):
        return error_of('visualize.py', config, weights, image, *OFFSETS, *options)

    assert 'the view offsets has no layer stages.9; the layers are stages.0.blocks.0, stages.0' in error(
        '--layer', 'stages.9'
    )
    assert 'point 64 3 is outside the image of 64x64 pixels' in error('--point', 64, 3)
    assert 'the suffix chooses the format, and must be one of ' in error('--out', tmp_path / 'a.mp4')
    for option, value, message in (
        ('--point', (1, 1), 'the view distribution shows all tokens; leave out --point'),
        ('--layer', ('stages.2.blocks.0',), 'the view distribution shows all layers; leave out --layer'),
    ):
        assert message in error('--view', 'distribution', option, *value)
    message = error('--out', tmp_path / 'a.png', image=image.parent)
    assert f'{tmp_path}/a.png is one figure, for 6 images; give a folder' in message
    assert 'no images in' in error(image=tmp_path / 'absent.jpg')
    assert 'ATMNet takes images of 32x32 or more, not 30x30' in error('--short-side', 30)
    assert 'the shorter side of an image is 1 pixel or more, not 0' in error('--short-side', 0)
    other = tmp_path / 'lenet.py'
    other.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=3), head=dict(type='ClsHead'))\n"
    )
    message = error_of('visualize.py', other, write_weights(other), image, *OFFSETS)
    assert 'the ImageClassifier of this config has no backbone of mmatm; those are AFFNet, ATMNet,' in message
