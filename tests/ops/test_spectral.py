"""Spectral operations against scipy, NumPy and PyTorch's own gradients in float64."""

import numpy as np
import pytest
import scipy.fft
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.ops.spectral import (
    COSINE,
    FOURIER,
    cosine_bands,
    cpu,
    dct2,
    filter_planes,
    filtering,
    idct2,
    irfft2,
    map_channels,
    resize_bank,
    rfft2,
    star_relu,
)

SIZES = [(8, 8), (7, 5), (6, 9), (9, 6), (1, 1), (1, 4), (5, 2)]


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=['transform', 'product'])
def exporting(request, monkeypatch):
    """Runs a test in both forms: as usual, and as in exported graphs."""
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: request.param == 'product')


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_fourier_transform_is_scipys(height, width):
    x = draw(2, 3, height, width)
    z = rfft2(x)
    expected = scipy.fft.rfft2(x.numpy(), norm='ortho')
    assert_close(torch.view_as_complex(z.contiguous()), torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert_close(irfft2(z, width), x, rtol=0, atol=1e-12)


@pytest.mark.usefixtures('exporting')
def test_channels_of_spectra_are_mapped_by_groups():
    z, weight, bias = draw(2, 6, 4, 3, 2), draw(2, 2, 3, 3, seed=1), draw(2, 2, 3, seed=2)
    each, w, b = ((y[0] + 1j * y[1]).numpy() for y in (z.movedim(-1, 0), weight, bias))
    expected = np.einsum('bgixy,gio->bgoxy', each.reshape(2, 2, 3, 4, 3), w) + b[..., None, None]
    assert_close(torch.view_as_complex(map_channels(z, weight, bias)), torch.from_numpy(expected.reshape(2, 6, 4, 3)))


@pytest.mark.usefixtures('exporting')
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_spectra_of_no_real_map(height, width):
    """The inverse transform along H, then along W without the imaginary part of the columns that are real."""
    z = draw(3, height, width // 2 + 1, 2)
    along_h = np.fft.ifft(torch.view_as_complex(z).numpy(), axis=-2, norm='ortho')
    along_h[..., 0].imag = 0
    if width % 2 == 0:
        along_h[..., -1].imag = 0
    expected = np.fft.irfft(along_h, n=width, axis=-1, norm='ortho')
    assert_close(irfft2(z.clone(), width), torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_cosine_transform_is_scipys(height, width):
    x = draw(2, 3, height, width)
    expected = scipy.fft.dctn(x.numpy(), type=2, norm='ortho', axes=(-2, -1))
    assert_close(dct2(x), torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert_close(idct2(dct2(x)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('height', 'width'), [(8, 8), (7, 12), (3, 5)])
def test_cosine_bands(height, width):
    """Against their definition, value by value."""
    number = 8
    bands = cosine_bands(height, width, number, torch.float64)
    for row in range(height):
        for column in range(width):
            rho = max(row / height, column / width)
            expected = np.interp(rho, (np.arange(number) + 0.5) / number, np.arange(number))
            weights = [max(0.0, 1 - abs(expected - k)) for k in range(number)]
            assert bands[:, row, column].tolist() == pytest.approx(weights, abs=1e-12)
    assert_close(bands.sum(0), torch.ones(height, width, dtype=torch.float64))


def test_a_constant_map_is_in_the_lowest_band():
    spectrum = dct2(torch.ones(6, 10, dtype=torch.float64))
    energy = (spectrum * cosine_bands(6, 10, 8, spectrum.dtype)).square().sum((1, 2))
    assert energy[0] == pytest.approx(60.0)
    assert energy[1:].max() < 1e-20


def plain(x, scale, bias, share, basis, transform):
    """As the definition says, with a filter for the whole map."""
    h = scale * F.relu(x) ** 2 + bias
    if transform is COSINE:
        return idct2(dct2(h) * torch.einsum('bcf,fuv->bcuv', share, basis))
    filters = torch.view_as_complex(torch.einsum('bcf,fuvr->bcuvr', share, basis).contiguous())
    along_h = torch.fft.ifft(torch.fft.rfft2(h, norm='ortho') * filters, dim=-2, norm='ortho')
    return torch.fft.irfft(along_h, n=x.shape[-1], dim=-1, norm='ortho')


def arguments(height, width, transform, dtype=torch.float64, batch=2):
    spectrum = (height, width // 2 + 1, 2) if transform is FOURIER else (height, width)
    shapes = (batch, 3, height, width), (1,), (1,), (batch, 3, 4), (4, *spectrum)
    x, scale, bias, share, basis = (draw(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes))
    share = share.mT.contiguous().mT  # as it comes, with channels as the last axis in memory
    return [each.requires_grad_() for each in (x, scale, bias, share, basis)]


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
@pytest.mark.parametrize(('height', 'width'), SIZES)
@pytest.mark.parametrize('planes', [1, 4, 100])
def test_filters_are_the_definition(transform, height, width, planes, monkeypatch):
    """Output and all gradients, with so many planes at once."""
    monkeypatch.setitem(filtering._VALUES, 'cpu', planes * height * width)
    given = arguments(height, width, transform)
    got, expected = filter_planes(*given, transform), plain(*given, transform)
    assert_close(got, expected, rtol=0, atol=1e-12)
    gradient = draw(*got.shape, seed=9)
    found = torch.autograd.grad(got, given, gradient)
    for one, other in zip(found, torch.autograd.grad(expected, given, gradient), strict=True):
        assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
@pytest.mark.parametrize(('height', 'width'), [*SIZES, (37, 70)])
@pytest.mark.parametrize('kernel', [True, False])
@pytest.mark.parametrize('batch', [1, 2])
def test_filters_in_float32(transform, height, width, kernel, batch, monkeypatch, capsys):
    """By the CPU kernel and without it, in more than one part and block, against float64."""
    assert cpu.problem is None
    if not kernel:
        monkeypatch.setattr(cpu, 'problem', 'it was taken away')
        monkeypatch.setattr(cpu, 'say_once', print)
    monkeypatch.setitem(filtering._VALUES, 'cpu', 4 * height * width)
    exact = arguments(height, width, transform, batch=batch)
    given = [each.detach().float().requires_grad_() for each in exact]
    got, expected = filter_planes(*given, transform), plain(*exact, transform)
    gradient = draw(*got.shape, seed=9)
    found = torch.autograd.grad(got, given, gradient.float())
    for one, other in zip((got, *found), (expected, *torch.autograd.grad(expected, exact, gradient)), strict=True):
        assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * other.norm().item())
    assert ('which is slower: it was taken away' in capsys.readouterr().out) == (not kernel)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
def test_no_samples(transform):
    given = arguments(8, 6, transform, torch.float32, batch=0)
    got = filter_planes(*given, transform)
    assert got.shape == (0, 3, 8, 6)
    assert not any(gradient.any() for gradient in torch.autograd.grad(got.sum(), given))


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
def test_the_backward_pass_in_autocast(transform):
    given = arguments(8, 6, transform, torch.float32)
    expected = torch.autograd.grad(filter_planes(*given, transform).square().sum(), given)
    with torch.autocast('cpu', torch.bfloat16):
        got = torch.autograd.grad(filter_planes(*given, transform).square().sum(), given)
    assert_close(got, expected)


@pytest.mark.parametrize('which', [3, 4])
def test_shapes_that_do_not_fit(which):
    given = arguments(8, 8, FOURIER, torch.float32)
    given[which] = given[which].detach()[:, 1:]
    with pytest.raises(ValueError, match=r'needs share \(B, C, F\) and basis \(F, 8, 5, 2\), not'):
        filter_planes(*given, FOURIER)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
def test_filters_do_not_depend_on_threads(transform):
    given = arguments(37, 70, transform, torch.float32)
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            got = filter_planes(*given, transform)
            results.append((got, *torch.autograd.grad(got.sin().sum(), given)))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert_close(others, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
def test_filters_keep_no_spectra(transform):
    given = arguments(16, 16, transform)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y) or y, lambda y: y):
        filter_planes(*given, transform)
    assert sorted(tuple(y.shape) for y in kept) == sorted(tuple(y.shape) for y in given)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_filters_compute_in_float32(transform, dtype):
    """For types of half the width, also under autocast: only input and output are rounded."""
    given = [y.detach() for y in arguments(12, 10, transform)]
    given[0] = given[0].to(dtype)
    exact = plain(*(y.double() for y in given), transform)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = filter_planes(given[0], *(y.float() for y in given[1:]), transform)
    assert got.dtype == dtype
    assert_close(got.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_star_relu():
    x, scale, bias = draw(3, 5).requires_grad_(), draw(1, seed=1).requires_grad_(), draw(1, seed=2).requires_grad_()
    assert_close(star_relu(x, scale, bias), scale * F.relu(x) ** 2 + bias)
    assert torch.autograd.gradcheck(star_relu, (x, scale, bias))


@pytest.mark.parametrize('size', [1, 7, 70_001])
def test_star_relu_in_float32(size):
    """By the CPU kernel, against float64."""
    exact = [draw(size).requires_grad_(), draw(1, seed=1).requires_grad_(), draw(1, seed=2).requires_grad_()]
    given = [each.detach().float().requires_grad_() for each in exact]
    gradient = draw(size, seed=3)
    expected = exact[1] * F.relu(exact[0]) ** 2 + exact[2]
    got = star_relu(*given)
    found = torch.autograd.grad(got, given, gradient.float())
    for one, other in zip((got, *found), (expected, *torch.autograd.grad(expected, exact, gradient)), strict=True):
        assert_close(one.double(), other, rtol=1e-5, atol=1e-6 * size**0.5)
    assert star_relu(torch.tensor([float('nan')]), torch.ones(1), torch.ones(1)).isnan()


def test_banks_are_resized_as_images():
    bank = draw(4, 3, 2, 2)
    assert resize_bank(bank, 4, 3) is bank
    got = resize_bank(bank, 7, 4)
    assert got.shape == (7, 4, 2, 2)
    assert_close(got[0, 0], bank[0, 0])  # corners stay
    assert_close(got[-1, -1], bank[-1, -1])
    for f in range(2):
        for part in range(2):
            plane = bank[None, None, :, :, f, part]
            expected = F.interpolate(plane, (7, 4), mode='bicubic', align_corners=True)[0, 0]
            assert_close(got[:, :, f, part], expected)


@pytest.mark.parametrize('width', [8, 9])
def test_inverse_transforms_leave_nothing_to_the_library(width, monkeypatch):
    """Rows that are transformed have the symmetry of a real row's spectrum, of which all libraries make the same."""
    given = []
    inverse = torch.fft.irfft
    monkeypatch.setattr(torch.fft, 'irfft', lambda z, **options: given.append(z.clone()) or inverse(z, **options))
    y = irfft2(draw(6, width // 2 + 1, 2), width)
    assert_close(given[0], torch.fft.rfft(y, norm='ortho'), rtol=0, atol=1e-12)


@pytest.mark.parametrize('transform', [FOURIER, COSINE], ids=['Fourier', 'cosine'])
def test_compiled_filters(transform, compile_model):
    given = arguments(6, 8, transform)
    got = compile_model(filter_planes, backend='aot_eager', fullgraph=True)(*given, transform)
    assert_close(got, plain(*given, transform), rtol=0, atol=1e-12)
