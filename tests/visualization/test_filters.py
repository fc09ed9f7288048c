"""Figures of spectral mixers: what is drawn is what the mixers do to waves."""

from math import pi, tau
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_config, write_weights
from models.families import tiny
from PIL import Image

from mmatm.apis.inference import figure_paths
from mmatm.errors import InputError
from mmatm.models.affnet import AdaptiveFrequencyFilter
from mmatm.models.dfformer import DynamicFilter
from mmatm.models.dsm import SpectrumMixer
from mmatm.ops.spectral import irfft2
from mmatm.visualization.features import Features
from mmatm.visualization.filters import draw_filters, filters_of, find_mixers, last_of_stages
from mmatm.visualization.panels import InputImage

SPECTRUM = '--view', 'spectrum'
SIZES = pytest.mark.parametrize('size', [(6, 8), (5, 7), (7, 2)], ids=['even', 'odd', 'narrow'])
LAST = {
    'DFFormer': ['stages.0.blocks.0', 'stages.1.blocks.1', 'stages.2.blocks.1', 'stages.3.blocks.0'],
    'CDFFormer': ['stages.2.blocks.1', 'stages.3.blocks.0'],
    'DSM': ['stages.0.blocks.0', 'stages.1.blocks.1', 'stages.2.blocks.1', 'stages.3.blocks.0'],
    'AFFNet': ['stages.1.blocks.0', 'stages.2.blocks.1', 'stages.3.blocks.0'],
}


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return InputImage(pixels, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 128 - 1, 1.0)


def draw(model, image):
    """The last mixer of each stage."""
    return draw_filters(Features(model, image.inputs), last_of_stages(find_mixers(model)))


def network(name):
    """A tiny network whose selectors ask for something else for each channel."""
    torch.manual_seed(0)
    model = tiny(name).eval()
    for key, parameter in model.named_parameters():
        if 'selector.fc' in key:
            torch.nn.init.normal_(parameter, std=4.0)
    return model


def transparent(mixer):
    """Makes all but the filter pass the channels on: the output is the first half of what was filtered."""
    torch.manual_seed(0)
    mixer.double().eval()
    channels = mixer.fc2.out_features
    mixer.fc1.weight.data = torch.eye(channels).double().repeat(2, 1)
    mixer.fc2.weight.data = torch.eye(channels, 2 * channels).double()
    for parameter in (*mixer.selector.parameters(), *([mixer.bank] if hasattr(mixer, 'bank') else [])):
        torch.nn.init.normal_(parameter, std=1.0)
    return mixer


@torch.no_grad()
@SIZES
def test_gain_of_the_dynamic_filter_is_what_waves_grow_by(size):
    mixer = transparent(DynamicFilter(8, 3, (6, 5)))
    row, column = (torch.arange(n).double() / n for n in size)
    for h, w in np.ndindex(size):
        wave = 1 + torch.cos(tau * (h * row[:, None] + w * column) + 0.3)
        x = wave.sqrt().expand(1, 8, *size).permute(0, 2, 3, 1).contiguous()  # StarReLU squares it
        grown = torch.fft.fft2(mixer(x).permute(0, 3, 1, 2))[0, :, h, w] / torch.fft.fft2(wave)[h, w]
        torch.testing.assert_close(filters_of(mixer, x).gain[:8, h, w], grown.abs())


@torch.no_grad()
@SIZES
def test_gain_of_the_spectrum_mixer_is_what_waves_grow_by(size):
    mixer = transparent(SpectrumMixer(8, 3))
    row, column = ((2 * torch.arange(n).double() + 1) * pi / (2 * n) for n in size)
    for h, w in np.ndindex(size):
        wave = torch.cos(h * row)[:, None] * torch.cos(w * column)
        x = (1 + wave).sqrt().expand(1, 8, *size).permute(0, 2, 3, 1).contiguous()
        grown = (mixer(x)[0].permute(2, 0, 1) * wave).sum((1, 2)) / ((1 + wave) * wave).sum()
        torch.testing.assert_close(filters_of(mixer, x).gain[:8, h, w], grown)


@torch.no_grad()
@SIZES
@pytest.mark.parametrize('act', ['silu', 'prelu'])
def test_gain_of_the_adaptive_filter_is_what_it_adds_to_waves(act, size):
    torch.manual_seed(0)
    mixer = AdaptiveFrequencyFilter(16, act).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    row, column = (torch.arange(n).double() / n for n in size)
    for h, w in np.ndindex(size):
        x = torch.rand(1, 16, 1, 1).double() * torch.cos(tau * (h * row[:, None] + w * column) + 0.3)
        added, given = (torch.fft.fft2(y)[0, :, h, w] for y in (mixer(x) - x, x))
        torch.testing.assert_close(filters_of(mixer, x).gain[:, h, w], (added / given).abs())


@pytest.mark.parametrize('name', LAST)
def test_the_last_mixer_of_each_stage_is_drawn(name, image):
    model = network(name)
    figure = draw(model, image)
    assert not any(mixer._forward_pre_hooks for mixer in find_mixers(model).values())
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    sides = {str(i): f'{16 // 2**i}x{24 // 2**i}' for i in range(4)}
    assert rows == [f'{block}\n{sides[block[7]]} tokens' for block in LAST[name]]


def inputs_of(model, image):
    """What the mixers that are drawn are called with."""
    found = []
    hooks = [
        mixer.register_forward_hook(lambda mixer, args, output: found.append((mixer, args[0])))
        for mixer in (find_mixers(model)[layer] for layer in last_of_stages(find_mixers(model)))
    ]
    with torch.no_grad():
        model(image.inputs)
    for hook in hooks:
        hook.remove()
    return found


def pictures(figure, columns):
    """Values and titles of the panels, by row."""
    panels = [(axes.images[0].get_array().data, axes.get_title()) for axes in figure.axes if not is_bar(axes)]
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def is_bar(axes):
    return axes.get_label() == '<colorbar>'


@torch.no_grad()
@pytest.mark.parametrize('name', ['DFFormer', 'CDFFormer'])
def test_banks_and_their_mixture(name, image):
    """Against the spectra of the filters' responses to an impulse."""
    model = network(name)
    rows = pictures(draw(model, image), 4)
    for row, (mixer, x) in zip(rows, inputs_of(model, image), strict=True):
        height, width = x.shape[1:3]
        share = mixer.selector(x).softmax(-1)[0]
        bank = mixer.filters(height, width // 2 + 1)
        mixed = torch.einsum('mf,fhwz->mhwz', share, bank)
        gains = [torch.fft.fft2(irfft2(each, width), norm='ortho').abs() for each in (mixed, bank)]
        for (drawn, _), expected in zip(row, (gains[0].mean(0), *gains[1]), strict=True):
            np.testing.assert_allclose(drawn[height // 2, width // 2], expected[0, 0], rtol=1e-4)
            np.testing.assert_allclose(drawn, np.fft.fftshift(expected), rtol=1e-4, atol=1e-6)
        assert [title for _, title in row] == [
            'mean gain',
            *(f'filter {i}: {each:.1%}' for i, each in enumerate(share.mean(0), 1)),
        ]
        assert share.std(0).min() > 0.01, 'it matters which mean is taken'


@torch.no_grad()
def test_bands_and_their_weights(image):
    model = network('DSM')
    rows = pictures(draw(model, image), 5)
    for (gain, *bands), (mixer, x) in zip(rows, inputs_of(model, image), strict=True):
        weights = 2 * mixer.selector(x)[0].sigmoid().mean(0)
        assert [title for _, title in bands] == [f'band {i}: {each:.2f}' for i, each in enumerate(weights, 1)]
        expected = sum(each * values for each, (values, _) in zip(weights.numpy(), bands, strict=True))
        np.testing.assert_allclose(gain[0], expected, rtol=1e-5)


def test_bands_that_all_pass(image):
    """As in a network that is not trained. The zero frequency is in the upper left corner."""
    model = network('DSM')
    for mixer in find_mixers(model).values():
        torch.nn.init.zeros_(mixer.selector.fc2.weight)
    figure = draw(model, image)
    for (gain, _), *bands in pictures(figure, 5):
        np.testing.assert_allclose(gain, 1, rtol=1e-6)
        np.testing.assert_allclose(sum(values for values, _ in bands), 1, rtol=1e-6)
        assert bands[0][0][0, 0] == 1
        assert [title for _, title in bands] == [f'band {i}: 1.00' for i in (1, 2, 3, 4)]
    left, right, lower, upper = figure.axes[0].images[0].get_extent()
    half = -0.25 / 24, -0.25 / 16  # of the pixel whose middle is the zero frequency
    assert (left, upper, right, lower) == pytest.approx((*half, 0.5 + half[0], 0.5 + half[1]))
    assert figure.axes[0].images[0].origin == 'upper'


@torch.no_grad()
def test_affnet_has_its_gain_only(image):
    model = network('AFFNet')
    rows = pictures(draw(model, image), 1)
    for ((drawn, title),), (mixer, x) in zip(rows, inputs_of(model, image), strict=True):
        assert title == 'mean gain |m|'
        np.testing.assert_allclose(drawn, np.fft.fftshift(filters_of(mixer, x).gain.mean(0)), rtol=1e-5)


@pytest.mark.parametrize('name', ['DFFormer', 'DSM'])
def test_colours_show_values(name, image):
    """The gain has its own range, the parts share one; both begin at 0 and have a bar."""
    figure = draw(network(name), image)
    panels = [axes.images[0] for axes in figure.axes if not is_bar(axes)]
    columns = len(panels) // 4
    assert sum(map(is_bar, figure.axes)) == 8
    for start in range(0, len(panels), columns):
        gain, *parts = panels[start : start + columns]
        assert gain.get_clim() == pytest.approx((0, gain.get_array().max()))
        top = max(part.get_array().max() for part in parts)
        assert {part.get_clim() for part in parts} == {(0, top)}


DFFORMER = """
_base_ = '{root}/configs/dfformer/upernet_dfformer_mini_shapes.py'
channels = [8, 16, 16, 24]
arch = dict(depths=[1, 1, 1, 1], channels=channels, mlp_ratios=[2, 2, 2, 2], num_filters=2)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=arch, bank_size=64),
    decode_head=dict(in_channels=channels, channels=16),
    auxiliary_head=dict(in_channels=16, channels=8),
)
test_dataloader = dict(dataset=dict(data_root='{data}/ade'))
"""


def test_command(tmp_path, shapes, command):
    config = write_config(tmp_path, shapes, DFFORMER)
    images = sorted((shapes / 'ade/images/validation').iterdir())[:2]
    out = tmp_path / 'figures'
    printed = command(
        'visualize.py', config, write_weights(config), *images, *SPECTRUM, '--short-side', 80, '--out', out
    )
    assert printed == ''.join(f'drawn: {out / image.stem}.png\n' for image in images)
    assert sorted(path.stem for path in out.iterdir()) == [image.stem for image in images]
    for path in out.iterdir():
        with Image.open(path) as drawn:
            assert len(drawn.convert('RGB').getcolors(2**24)) > 100


def test_bad_input(config, shapes, tmp_path, error_of):
    arguments = config, write_weights(config)
    message = error_of('visualize.py', *arguments, *SPECTRUM, shapes / 'ade/images/validation/000001.jpg')
    have = 'only DFFormer, CDFFormer, DSM reading and AFFNet have spectral mixers'
    assert message.endswith(f'{have} to draw, this ATMNet has none')
    assert 'no images in' in error_of('visualize.py', *arguments, *SPECTRUM, tmp_path / 'absent.jpg')


def test_images_of_several_folders_do_not_overwrite_one_another():
    one, other = Path('a/1.jpg'), Path('b/1.jpg')
    assert figure_paths([one, other], Path('out')) == {one: Path('out/a/1.png'), other: Path('out/b/1.png')}
    assert figure_paths([one], Path('out')) == {one: Path('out/1.png')}
    with pytest.raises(InputError, match=r'the results of a/1\.jpg and a/1\.bmp would both be written to out/1\.png'):
        figure_paths([one, Path('a/1.bmp')], Path('out'))
