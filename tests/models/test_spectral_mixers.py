"""What each spectral mixer does at odd sizes, to constant maps, and when a map is shifted, mirrored or doubled in size.

Maps are (B, C, H, W) here, float64; parameters are drawn so that every filter has an effect.
"""

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.models.affnet import AdaptiveFrequencyFilter
from mmatm.models.dfformer import DynamicFilter
from mmatm.models.dsm import SpectrumMixer

SIZES = [(8, 8), (7, 5), (6, 9), (9, 6), (1, 1), (1, 4), (5, 2)]
EACH = pytest.mark.parametrize('name', ['DFFormer', 'AFFNet', 'DSM'])


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(name):
    kinds = {
        'DFFormer': lambda: DynamicFilter(8, num_filters=3, bank=(6, 4)),
        'AFFNet': lambda: AdaptiveFrequencyFilter(16),
        'DSM': lambda: SpectrumMixer(8, num_bands=5),
    }
    mixer = kinds[name]().double().eval()
    with torch.no_grad():
        for seed, (key, parameter) in enumerate(mixer.named_parameters()):
            # Means of maps are small, and the selector squares them.
            parameter.copy_(draw(*parameter.shape, seed=100 + seed) * (20 if key == 'selector.fc2.weight' else 0.5))
    return mixer


def inputs(name, height, width, seed=0):
    return draw(2, 16 if name == 'AFFNet' else 8, height, width, seed=seed)


@torch.no_grad()
def mix(mixer, x):
    """(B, C, H, W) -> the same, also of mixers of token maps."""
    if isinstance(mixer, AdaptiveFrequencyFilter):
        return mixer(x)
    return mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def star(module, x):
    return module.scale * x.relu() ** 2 + module.bias


@torch.no_grad()
def hidden(mixer, x):
    """What is filtered, (B, M, H, W)."""
    return star(mixer.act, torch.einsum('mc,bchw->bmhw', mixer.fc1.weight, x))


@torch.no_grad()
def logits(mixer, x):
    """What the selector says of each filter, (B, F, M)."""
    y = star(mixer.selector.act, x.mean((2, 3)) @ mixer.selector.fc1.weight.T) @ mixer.selector.fc2.weight.T
    return y.view(len(x), mixer.selector.num_filters, -1)


@torch.no_grad()
def project(mixer, y):
    return torch.einsum('cm,bmhw->bchw', mixer.fc2.weight, y)


def close(got, expected):
    assert_close(got, expected, rtol=1e-10, atol=1e-10 * max(1, expected.abs().max().item()))


def far(one, other):
    """Whether two maps differ by more than a tenth of the second."""
    return (one - other).norm() > 0.1 * other.norm()


@EACH
def test_sizes_leave_no_trace(name):
    """Maps keep their size, whatever came before, and no parameter is of a map's size."""
    used = build(name)
    shapes = {key: value.shape for key, value in used.state_dict().items()}
    for height, width in [*SIZES, *SIZES[::-1], (12, 7)]:
        x = inputs(name, height, width)
        got = mix(used, x)
        assert got.shape == x.shape
        assert torch.equal(got, mix(build(name), x))
    assert {key: value.shape for key, value in used.state_dict().items()} == shapes


# Shifts. Fourier: periodic.


@pytest.mark.parametrize(('height', 'width'), SIZES)
@pytest.mark.parametrize('shift', [(1, 0), (0, 1), (2, 3)])
def test_dfformer_commutes_with_circular_shifts(height, width, shift):
    mixer, x = build('DFFormer'), inputs('DFFormer', height, width)
    close(mix(mixer, x.roll(shift, (2, 3))), mix(mixer, x).roll(shift, (2, 3)))


@pytest.mark.parametrize(('height', 'width'), [(6, 6), (7, 5), (4, 9), (1, 4)])
def test_dfformer_is_a_circular_convolution(height, width):
    """With the filters' inverse transform, which wraps around the borders."""
    mixer, x = build('DFFormer'), inputs('DFFormer', height, width)
    planes = mixer.bank.detach().permute(2, 3, 0, 1)  # (F, 2, h, w)
    if (height, width // 2 + 1) != (6, 4):
        planes = F.interpolate(planes, (height, width // 2 + 1), mode='bicubic', align_corners=True)
    filters = torch.einsum('bfm,fruv->bmuvr', logits(mixer, x).softmax(1), planes).numpy()
    kernel = torch.from_numpy(np.fft.irfft2(filters[..., 0] + 1j * filters[..., 1], s=(height, width)))
    h = hidden(mixer, x)
    y = sum(kernel[:, :, i, j, None, None] * h.roll((i, j), (2, 3)) for i in range(height) for j in range(width))
    close(mix(mixer, x), project(mixer, y))


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_affnet_with_fixed_filters_commutes_with_circular_shifts(height, width):
    mixer, x = build('AFFNet'), inputs('AFFNet', height, width)
    nn.init.zeros_(mixer.w2)
    close(mix(mixer, x.roll((2, 3), (2, 3))), mix(mixer, x).roll((2, 3), (2, 3)))


def test_affnet_does_not_commute_with_circular_shifts():
    """Its filter sees real and imaginary parts, which a shift turns into each other."""
    mixer, x = build('AFFNet'), inputs('AFFNet', 7, 6)
    assert far(mix(mixer, x.roll(1, 3)), mix(mixer, x).roll(1, 3))


@pytest.mark.parametrize(('height', 'width'), [(3, 5), (4, 3), (1, 4)])
@EACH
def test_repeated_maps(name, height, width):
    """A map of 2 x 3 copies becomes one of 2 x 3 copies by Fourier mixers; not by DSM's, for which it has borders."""
    y = mix(build(name), inputs(name, height, width).tile(1, 1, 2, 3))
    copies = y[:, :, :height, :width].tile(1, 1, 2, 3)
    if name == 'DSM':
        assert far(y, copies)
    else:
        close(y, copies)


# Mirror images. Cosine: mirrored.


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_dsm_commutes_with_mirroring(height, width):
    mixer, x = build('DSM'), inputs('DSM', height, width)
    for axes in ((2,), (3,), (2, 3)):
        close(mix(mixer, x.flip(axes)), mix(mixer, x).flip(axes))


def test_what_does_not_commute():
    mixer, x = build('DSM'), inputs('DSM', 7, 6)
    assert far(mix(mixer, x.roll(1, 3)), mix(mixer, x).roll(1, 3))
    for name in ('DFFormer', 'AFFNet'):
        mixer, x = build(name), inputs(name, 7, 6)
        assert far(mix(mixer, x.flip(3)), mix(mixer, x).flip(3))


def bands(height, width, number):
    """By their definition, (K, H, W)."""
    rho = np.maximum(np.arange(height)[:, None] / height, np.arange(width) / width)
    each = np.eye(number)
    return torch.from_numpy(np.stack([np.interp(rho, (np.arange(number) + 0.5) / number, k) for k in each]))


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_dsm_is_a_fourier_filter_of_the_mirrored_map(height, width):
    """Of the map and its mirror images, 2H x 2W, in which the tokens at the borders stand twice."""
    mixer, x = build('DSM'), inputs('DSM', height, width)
    filters = torch.einsum('bkm,kuv->bmuv', 2 * logits(mixer, x).sigmoid(), bands(height, width, 5))
    # Frequencies of the doubled map are half steps; a mirrored map has nothing at the highest, H and W.
    rows, columns = (torch.minimum(torch.arange(2 * n), 2 * n - torch.arange(2 * n)) for n in (height, width))
    filters = F.pad(filters, (0, 1, 0, 1))[:, :, rows][:, :, :, columns]
    h = hidden(mixer, x)
    h = torch.cat((h, h.flip(2)), dim=2)
    h = torch.cat((h, h.flip(3)), dim=3)
    y = torch.fft.ifft2(torch.fft.fft2(h) * filters).real[:, :, :height, :width]
    close(mix(mixer, x), project(mixer, y))


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_dsm_at_first_passes_everything(height, width):
    mixer, x = build('DSM'), inputs('DSM', height, width)
    mixer.init_parameters()
    close(mix(mixer, x), project(mixer, hidden(mixer, x)))


def open_bands(mixer, monkeypatch, *open_ones):
    """Has the selector let these bands alone pass, twice as strong."""
    said = torch.full((1, 1, mixer.selector.num_filters), -100.0, dtype=torch.float64)
    said[..., list(open_ones)] = 100
    planes = mixer.fc1.out_features
    monkeypatch.setattr(mixer.selector, 'forward', lambda x: said.expand(len(x), planes, -1).contiguous())


@pytest.mark.parametrize('band', range(5))
def test_dsm_with_one_band_open(band, monkeypatch):
    mixer, x = build('DSM'), inputs('DSM', 7, 10)
    open_bands(mixer, monkeypatch, band)
    spectrum = scipy.fft.dctn(hidden(mixer, x).numpy(), norm='ortho', axes=(2, 3))
    y = scipy.fft.idctn(2 * bands(7, 10, 5)[band].numpy() * spectrum, norm='ortho', axes=(2, 3))
    close(mix(mixer, x), project(mixer, torch.from_numpy(y)))


# Constant maps.


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_constant_map_by_dfformer(height, width):
    """Only the filters' real part at frequency zero acts, which is the bank's corner at every size."""
    mixer, x = build('DFFormer'), inputs('DFFormer', 1, 1)
    share = logits(mixer, x).softmax(1)
    at_zero = torch.einsum('bfm,f->bm', share, mixer.bank.detach()[0, 0, :, 0])[..., None, None]
    expected = project(mixer, hidden(mixer, x) * at_zero)
    close(mix(mixer, x.expand(-1, -1, height, width)), expected.expand(-1, -1, height, width))


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_constant_map_by_dsm(height, width):
    """Only the lowest band's weight acts."""
    mixer, x = build('DSM'), inputs('DSM', 1, 1)
    lowest = 2 * logits(mixer, x)[:, 0].sigmoid()[..., None, None]
    expected = project(mixer, hidden(mixer, x) * lowest)
    close(mix(mixer, x.expand(-1, -1, height, width)), expected.expand(-1, -1, height, width))


def constant_by_affnet(mixer, x, tokens):
    """Of a constant map of so many tokens, with values x (B, C): the spectrum has sqrt(tokens) x at frequency zero."""
    w1, b1, w2, b2 = (each[0] + 1j * each[1] for each in (y.detach() for y in (mixer.w1, mixer.b1, mixer.w2, mixer.b2)))
    z = torch.einsum('bgi,gio->bgo', (tokens**0.5 * x).view(len(x), 8, -1).to(w1.dtype), w1) + b1
    z = torch.complex(F.silu(z.real), F.silu(z.imag))
    z = (torch.einsum('bgi,gio->bgo', z, w2) + b2).real.flatten(1)
    return x * (1 + z.sign() * (z.abs() - 0.01).clamp(min=0))


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_constant_map_by_affnet(height, width):
    mixer, x = build('AFFNet'), inputs('AFFNet', 1, 1)
    expected = constant_by_affnet(mixer, x[:, :, 0, 0], height * width)[..., None, None]
    close(mix(mixer, x.expand(-1, -1, height, width)), expected.expand(-1, -1, height, width))


# Maps of twice the size.


def test_affnets_filters_depend_on_the_number_of_tokens():
    """Even of a constant map: the larger it is, the larger its spectrum at frequency zero, of which the filter is."""
    mixer, x = build('AFFNet'), inputs('AFFNet', 1, 1)
    one, other = (mix(mixer, x.expand(-1, -1, n, n))[:, :, 0, 0] for n in (7, 14))
    assert far(other, one)
    close(other, constant_by_affnet(mixer, x[:, :, 0, 0], 4 * 49))


@pytest.mark.parametrize('frequency', [2, 5, 7])
def test_dsms_bands_are_of_waves_per_token(frequency, monkeypatch):
    """A wave of frequency k out of 10 is of the bands at k / 10; drawn twice as large, of those at k / 20."""
    mixer = build('DSM')
    with torch.no_grad():
        mixer.fc1.weight.copy_(torch.eye(16, 8))
        mixer.fc2.weight.copy_(torch.eye(8, 16))
        mixer.act.scale.fill_(1)
        mixer.act.bias.zero_()
    for band in range(5):
        open_bands(mixer, monkeypatch, 0, band)  # the lowest passes the mean
        for size in (10, 20):
            place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
            wave = (torch.pi * frequency * place).cos().expand(2, 8, size, size)
            passed = sum(bands(size, size, 5)[k, 0, frequency].item() for k in {0, band})
            # StarReLU squares it.
            close(mix(mixer, (1 + 0.5 * wave).sqrt()), 2 * (1 + 0.5 * passed * wave))


def test_dfformers_bank_is_resized_to_twice_the_size():
    """As one that was resized at loading; and resized there and back, a bank is another."""
    mixer, x = build('DFFormer'), inputs('DFFormer', 6, 6)
    loaded = DynamicFilter(8, num_filters=3, bank=(12, 7)).double()
    planes = mixer.bank.detach().permute(2, 3, 0, 1)
    planes = F.interpolate(planes, (12, 7), mode='bicubic', align_corners=True).permute(2, 3, 0, 1)
    assert_close(planes[[0, 0, -1, -1], [0, -1, 0, -1]], mixer.bank.detach()[[0, 0, -1, -1], [0, -1, 0, -1]])
    loaded.load_state_dict(mixer.state_dict() | {'bank': planes})
    double = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    close(mix(loaded, double), mix(mixer, double))
    assert (mix(loaded, x) - mix(mixer, x)).norm() > 1e-3 * mix(mixer, x).norm()


@pytest.mark.parametrize('enlarge', ['repeated', 'bilinear'])
@EACH
def test_maps_of_twice_the_size_are_filtered_otherwise(name, enlarge):
    """The mixers are of waves per token, not of waves per image: what is enlarged meets lower frequencies' filters."""
    mixer, x = build(name), inputs(name, 7, 6)
    modes = {'repeated': dict(mode='nearest'), 'bilinear': dict(mode='bilinear', align_corners=False)}

    def twice(y):
        return F.interpolate(y, scale_factor=2, **modes[enlarge])

    y = mix(mixer, twice(x))
    assert y.shape[2:] == (14, 12)
    assert far(F.avg_pool2d(y, 2), F.avg_pool2d(twice(mix(mixer, x)), 2))
