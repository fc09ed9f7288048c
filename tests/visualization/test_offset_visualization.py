"""Images of where tokens look: what is drawn is what the operation reads."""

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, SEGMENTOR, write_config, write_weights
from matplotlib.colors import to_rgb
from mmengine.model import BaseModel
from PIL import Image

from mini import MINI
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.ops import axial_sample
from mmatm.visualization.offsets import (
    InputImage,
    count_looks,
    draw_distribution,
    draw_offsets,
    find_layers,
    find_token,
    read_image,
    receptive_field,
    record_offsets,
    stride_of,
)

LAYERS = [f'stages.{stage}.blocks.{block}' for stage in range(4) for block in range(2)]


class Plain(BaseModel):
    def forward(self, inputs):
        return inputs


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
        if block.leader:
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


def test_followers_read_by_their_leaders_offsets(image):
    model = network(output_stride=16)
    look(model, 1.5, -2)
    offsets = record_offsets(model, image.inputs)
    assert list(offsets) == LAYERS
    for name, offset in offsets.items():
        factor = 2 if name.startswith('stages.3') else 1  # dilated
        assert offset.shape[:2] == (64 // stride_of(model, name), 96 // stride_of(model, name))
        row, column = offset.chunk(2, -1)
        torch.testing.assert_close(row, torch.full_like(row, 1.5 * factor))
        torch.testing.assert_close(column, torch.full_like(column, -2.0 * factor))
    assert [stride_of(model, name) for name in LAYERS[::2]] == [4, 8, 16, 16]


def test_figure_5_has_its_circles_where_the_tokens_are(image):
    model = network()
    look(model, 1, -2)
    figure = draw_offsets(model, image, ['stages.1.blocks.0', 'stages.0.blocks.1'], [(40, 30), (2, 3)])
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
    leader = model.stages[1].blocks[0]
    leader.offset_fc.bias.data[0] = -1.0  # one group of the four looks the other way
    row = draw_offsets(model, image, ['stages.1.blocks.0'], [(41, 33)]).axes[0].collections[0]
    found = {x: alpha for (x, _), alpha in zip(row.get_offsets().tolist(), row.get_facecolors()[:, 3], strict=True)}
    most = 16  # all channels at the query itself, along the column
    assert found[49] == pytest.approx(12 / most)
    assert found[33] == pytest.approx(4 / most)


def test_images_are_read_upright_and_in_8_bits(tmp_path):
    model = Plain(data_preprocessor=dict(type='ImgDataPreprocessor'))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new('RGB', (40, 80)).save(tmp_path / 'turned.jpg', exif=exif)
    assert read_image(model, str(tmp_path / 'turned.jpg')).inputs.shape == (1, 3, 40, 80)
    Image.fromarray(np.full((40, 40), 128 * 256, np.uint16)).save(tmp_path / 'deep.png')
    image = read_image(model, str(tmp_path / 'deep.png'), 60)
    assert image.pixels.shape == (60, 60, 3)
    assert set(image.pixels.ravel().tolist()) == {128}
    Image.fromarray(np.array([[[200, 0, 100]]], np.uint8)).resize((32, 32)).save(tmp_path / 'red.png')
    image = read_image(model, str(tmp_path / 'red.png'))
    assert image.pixels[0, 0].tolist() == [200, 0, 100]
    assert image.inputs[0, :, 0, 0].tolist() == [100, 0, 200]  # BGR, which the preprocessor is to turn


def test_token_is_the_middle_of_what_it_sees(image):
    """Without looking aside and without fusion, what moves a token lies symmetrically around its pixel."""
    model = network()
    look(model, 0, 0)
    for block in find_layers(model).values():
        torch.nn.init.zeros_(block.mixer.fusion.fc2.weight)
    for layer, token in (('stages.0.blocks.0', (6, 9)), ('stages.1.blocks.1', (4, 6))):
        stride = stride_of(model, layer)
        (field,) = receptive_field(model, image.inputs, layer, [token])
        for axis, index in enumerate(token):
            seen = field.sum(1 - axis).nonzero().flatten()
            assert (seen[0] + seen[-1]) / 2 == stride * index + 1
        assert find_token(image, (stride * token[1] + 1, stride * token[0] + 1), stride, (99, 99)) == token


def test_points_are_in_pixels_of_the_file(image):
    doubled = InputImage(image.pixels, image.inputs, 2.0)  # of a file of 48x32 pixels
    assert find_token(doubled, (20.5, 16.5), 8, (8, 12)) == find_token(image, (41, 33), 8, (8, 12)) == (4, 5)
    with pytest.raises(InputError, match='point 48 3 is outside the image of 48x32 pixels'):
        find_token(doubled, (48, 3), 8, (8, 12))


def test_receptive_field_is_the_derivative(image):
    """Against finite differences in float64."""
    model = network().double()
    inputs = image.inputs.double()
    layer, token, pixel, step = 'stages.2.blocks.0', (2, 3), (37, 52), 1e-6

    def token_sum(inputs):
        found = []
        hook = find_layers(model)[layer].register_forward_hook(lambda *args: found.append(args[2][0][token].sum()))
        with torch.no_grad():
            model(inputs)
        hook.remove()
        return found[0]

    expected = 0
    for channel in range(3):
        more, less = inputs.clone(), inputs.clone()
        more[0, channel][pixel] += step
        less[0, channel][pixel] -= step
        expected += ((token_sum(more) - token_sum(less)) / (2 * step)).abs()
    (field,) = receptive_field(model, inputs, layer, [token])
    torch.testing.assert_close(field[pixel], expected, rtol=1e-5, atol=1e-9)


def test_distribution(image):
    model = network()
    look(model, 3, -1)
    figure = draw_distribution(model, image)
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
    command('visualize_offsets.py', *arguments, *chosen, '--short-side', 80, '--out', tmp_path / 'offsets.png')
    command('visualize_offsets.py', *arguments, '--mode', 'receptive-field', '--out', tmp_path / 'field.png')
    command('visualize_offsets.py', *arguments, '--mode', 'distribution', '--out', tmp_path / 'spread.svg')
    for name in ('offsets.png', 'field.png'):
        with Image.open(tmp_path / name) as drawn:
            assert len(drawn.convert('RGB').getcolors(2**24)) > 1000
    assert (tmp_path / 'spread.svg').read_text().startswith('<?xml')


def test_bad_input(tmp_path, config, shapes, error_of):
    image = shapes / 'ade/images/validation/000001.jpg'
    weights = write_weights(config)

    def error(*options, image=image):
        return error_of('visualize_offsets.py', config, weights, image, *options)

    assert 'there is no layer stages.9; there are stages.0.blocks.0, stages.0' in error('--layer', 'stages.9')
    assert 'point 64 3 is outside the image of 64x64 pixels' in error('--point', 64, 3)
    assert 'the suffix says the format; there are' in error('--out', tmp_path / 'a.mp4')
    assert 'leave out --layer and --point' in error('--mode', 'distribution', '--point', 1, 1)
    assert 'there is no image' in error(image=tmp_path / 'absent.jpg')
    assert 'has 30x30 pixels, ATMNet takes 32x32 or more' in error('--short-side', 30)
    other = tmp_path / 'lenet.py'
    other.write_text(
        "default_scope = 'mmpretrain'\n"
        "model = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=3), head=dict(type='ClsHead'))\n"
    )
    message = error_of('visualize_offsets.py', other, write_weights(other), image)
    assert 'the ImageClassifier of this config has no ATMNet' in message
