"""Effective receptive fields of any backbone, and images with points on them."""

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from models.families import FAMILIES, tiny
from PIL import Image

from mini import MINI
from mmatm.errors import InputError
from mmatm.models import ATMNet, CASViT, FFNet, RIFormer, TransXNet
from mmatm.visualization.features import Features, Grid, find_layers
from mmatm.visualization.panels import InputImage, read_image
from mmatm.visualization.receptive_field import draw_receptive_field

STAGES = {'depths': [1, 1, 1, 1], 'channels': [8, 16, 16, 24], 'mlp_ratios': [2, 2, 2, 2]}


class Plain(BaseModel):
    def forward(self, inputs):
        return inputs


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return InputImage(pixels, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 128 - 1, 1.0)


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


def without_mixing(kind):
    """A network whose tokens are moved by convolutions only, which are symmetric in what they read."""
    torch.manual_seed(0)
    if kind is ATMNet:
        model = ATMNet(MINI)
        for name, parameter in model.named_parameters():
            if 'offset_' in name or 'fusion.fc2' in name:
                torch.nn.init.zeros_(parameter)
        return model.eval().double()
    model = kind({**FAMILIES[kind.__name__].tiny, 'depths': [1, 1, 1, 1]}, parts={'mixer': Nothing})
    for module in list(model.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, torch.nn.GroupNorm):  # over the whole map
                setattr(module, name, torch.nn.Identity())
    return model.eval().double()


class Nothing(torch.nn.Module):
    """A mixer that does nothing."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x, *extra):
        return torch.zeros_like(x)


@pytest.mark.parametrize(('kind', 'first'), [(ATMNet, 1), (CASViT, 0), (RIFormer, 1), (TransXNet, 0), (FFNet, 0)])
def test_token_is_the_middle_of_what_it_sees(kind, first):
    """What moves a token lies symmetrically around its pixel, one of the 4 of a token for all tokens of a backbone."""
    model = without_mixing(kind)
    pixels = np.random.default_rng(0).integers(0, 256, (192, 224, 3), np.uint8)
    image = InputImage(pixels, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 128 - 1, 1.0)
    for layer, token in (('stages.0.blocks.0', (22, 27)), ('stages.1.blocks.0', (12, 13))):
        grid = Grid.of(model, layer)
        assert grid.first == first
        field = Features(model, image.inputs.double(), differentiable=True).field(layer, token)
        for axis, index in enumerate(token):
            seen = field.sum(1 - axis).nonzero().flatten()
            assert 0 < seen[0] < seen[-1] < field.shape[axis] - 1, 'it does not reach the edges'
            assert (seen[0] + seen[-1]) / 2 == grid.stride * index + grid.first
        point = grid.stride * token[1] + grid.first, grid.stride * token[0] + grid.first
        assert grid.nearest(image, point, (99, 99)) == token


def test_points_are_in_pixels_of_the_file(image):
    grid = Grid(stride=8, first=1)
    doubled = InputImage(image.pixels, image.inputs, 2.0)  # of a file of 48x32 pixels
    assert grid.nearest(doubled, (20.5, 16.5), (8, 12)) == grid.nearest(image, (41, 33), (8, 12)) == (4, 5)
    with pytest.raises(InputError, match='point 48 3 is outside the image of 48x32 pixels'):
        grid.nearest(doubled, (48, 3), (8, 12))


@pytest.mark.parametrize(
    'make',
    [
        *(lambda: ATMNet(MINI), lambda: CASViT(STAGES), lambda: RIFormer({**STAGES, 'layer_scale': 1.0})),
        *(lambda: tiny('TransXNet'), lambda: tiny('FFNet'), lambda: tiny('DFFormer'), lambda: tiny('DSM')),
    ],
    ids=['ATMNet', 'CASViT', 'RIFormer', 'TransXNet', 'FFNet', 'DFFormer', 'DSM'],
)
def test_receptive_field_is_the_derivative(image, make):
    """Against finite differences in float64."""
    torch.manual_seed(0)
    model = make().eval().double()
    inputs = image.inputs.double()
    layer, token, pixel, step = 'stages.2.blocks.0', (2, 3), (37, 52), 1e-6

    def token_of(output):
        return output[token] if model.CHANNELS_LAST else output[(slice(None), *token)]

    def token_sum(inputs):
        found = []
        hook = find_layers(model)[layer].register_forward_hook(lambda *args: found.append(token_of(args[2][0]).sum()))
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
    field = Features(model, inputs, differentiable=True).field(layer, token)
    torch.testing.assert_close(field[pixel], expected, rtol=1e-5, atol=1e-9)


def test_the_last_pixel_of_an_odd_size():
    """Sizes that strides do not divide have fewer tokens in ATMNet and RIFormer than in CASViT."""
    pixels = np.zeros((65, 97, 3), np.uint8)
    image = InputImage(pixels, torch.rand(1, 3, 65, 97), 1.0)
    for model, sizes in ((ATMNet(MINI), (16, 24)), (CASViT(STAGES), (17, 25))):
        assert model(image.inputs)[0].shape[2:] == sizes
        figure = draw_receptive_field(
            Features(model.eval(), image.inputs, True), image, ['stages.0.blocks.0'], [(96, 64)]
        )
        assert figure.axes[0].get_title() == 'stages.0.blocks.0 at 96, 64'
        assert 'half of the gradient: ' in figure.axes[0].get_xlabel()
