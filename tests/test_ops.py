"""Axial sampling against its definition, torchvision's deformable convolution and finite differences."""

import math

import pytest
import torch
from torchvision.ops import deform_conv2d

from mmatm.ops import axial_sample

SHAPES = [(2, 5, 7, 6, 3), (1, 1, 9, 4, 4), (3, 8, 1, 4, 1), (1, 13, 11, 8, 2)]


def random_case(b, h, w, c, groups, dtype=torch.float64, spread=4.0):
    generator = torch.Generator().manual_seed(b * h * w * c)
    x = torch.randn(b, h, w, c, generator=generator, dtype=torch.float64)
    offset = spread * torch.randn(b, h, w, 2 * groups, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), offset.to(dtype).requires_grad_()


def by_hand(x, offset):
    """The definition, one channel at a time."""
    b, h, w, c = x.shape
    groups = offset.shape[-1] // 2
    x_w, x_h = torch.zeros_like(x), torch.zeros_like(x)

    def read(line, position):
        low = math.floor(position)
        values = [line[p].item() if 0 <= p < len(line) else 0.0 for p in (low, low + 1)]
        return (1 - (position - low)) * values[0] + (position - low) * values[1]

    for n in range(b):
        for i in range(h):
            for j in range(w):
                for k in range(c):
                    group = k // (c // groups)
                    x_w[n, i, j, k] = read(x[n, i, :, k], j + offset[n, i, j, group].item())
                    x_h[n, i, j, k] = read(x[n, :, j, k], i + offset[n, i, j, groups + group].item())
    return x_w, x_h


def by_deform_conv2d(x, offset):
    """As ATMNet's authors compute it: a zero-filled field of (row, column) offsets for each channel, twice."""
    b, h, w, c = x.shape
    groups = offset.shape[-1] // 2
    per_channel = offset.repeat_interleave(c // groups, -1).permute(0, 3, 1, 2)
    identity = torch.eye(c, dtype=x.dtype)[:, :, None, None]
    results = []
    for axis, moved in ((1, per_channel[:, :c]), (0, per_channel[:, c:])):
        field = torch.zeros(b, c, 2, h, w, dtype=x.dtype)
        field[:, :, axis] = moved
        sampled = deform_conv2d(x.permute(0, 3, 1, 2), field.flatten(1, 2), identity)
        results.append(sampled.permute(0, 2, 3, 1))
    return tuple(results)


@pytest.mark.parametrize('shape', SHAPES)
def test_definition(shape):
    x, offset = random_case(*shape)
    for got, expected in zip(axial_sample(x, offset), by_hand(x.detach(), offset.detach()), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_deform_conv2d_and_its_gradients(shape):
    x, offset = random_case(*shape)
    weights = [torch.randn(shape[:4], dtype=torch.float64) for _ in range(2)]
    results = []
    for function in (axial_sample, by_deform_conv2d):
        maps = function(x, offset)
        gradients = torch.autograd.grad(sum((y * g).sum() for y, g in zip(maps, weights, strict=True)), (x, offset))
        results.append((*maps, *gradients))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_gradcheck(shape):
    x, offset = random_case(*shape)
    with torch.no_grad():  # away from whole numbers, where the derivative jumps
        offset.copy_(offset.floor() + 0.1 + 0.8 * (offset - offset.floor()))
    assert torch.autograd.gradcheck(axial_sample, (x, offset))


def test_zero_offsets_keep_the_map():
    x, offset = random_case(2, 6, 5, 8, 4)
    for y in axial_sample(x, torch.zeros_like(offset)):
        torch.testing.assert_close(y, x, rtol=0, atol=0)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan, 1e30, -1e30])
def test_samples_outside_are_zero_without_gradient(value):
    x, offset = random_case(1, 4, 4, 2, 1)
    offset = torch.full_like(offset, value).requires_grad_()
    maps = axial_sample(x, offset)
    sum(y.sum() for y in maps).backward()
    for tensor in (*maps, x.grad, offset.grad):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float32, 1e-6)])
def test_positions_are_exact_in_low_precision(dtype, tolerance):
    # In bf16 the sum 300 + 0.5 would be 300: positions must not be computed in the map's type.
    x = torch.linspace(0, 1, 400, dtype=torch.float64).expand(1, 1, 400).unsqueeze(-1)
    offset = torch.full((1, 1, 400, 2), 0.5, dtype=torch.float64)
    got, _ = axial_sample(x.to(dtype), offset.to(dtype))
    assert got.dtype == dtype
    expected, _ = axial_sample(x.to(dtype).double(), offset)
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    x = (torch.arange(400) % 2).to(dtype).view(1, 1, 400, 1)
    got, _ = axial_sample(x, torch.full((1, 1, 400, 2), 0.25, dtype=dtype))
    torch.testing.assert_close(got[0, 0, 300:398:2, 0], torch.full((49,), 0.25, dtype=dtype), rtol=0, atol=0)


def test_non_contiguous_input_and_empty_batch():
    x, offset = random_case(2, 5, 7, 6, 3)
    expected = axial_sample(x, offset)
    strided = x.detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for got, y in zip(axial_sample(strided, offset), expected, strict=True):
        torch.testing.assert_close(got, y, rtol=0, atol=0)
    assert [y.shape for y in axial_sample(x[:0], offset[:0])] == [(0, 5, 7, 6)] * 2


def test_index_fields_are_per_group():
    x, offset = random_case(1, 8, 8, 32, 2)
    sizes = []

    def note(tensor):
        if not tensor.is_floating_point():
            sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        axial_sample(x, offset)
    assert sizes, 'the definition was expected to keep indices for its backward pass'
    assert max(sizes) <= 8 * 8 * 8 * 2  # bytes of one int64 per token and group


@pytest.mark.parametrize(
    ('x_shape', 'offset_shape', 'options', 'message'),
    [
        ((1, 4, 4, 6), (1, 4, 5, 4), {}, 'same map'),
        ((4, 4, 6), (4, 4, 4), {}, 'must be'),
        ((1, 4, 4, 6), (1, 4, 4, 3), {}, 'do not divide'),
        ((1, 4, 4, 6), (1, 4, 4, 8), {}, 'do not divide'),
        ((1, 4, 4, 6), (1, 4, 4, 0), {}, 'do not divide'),
        ((1, 4, 4, 6), (1, 4, 4, 2), {'backend': 'abacus'}, "no backend 'abacus'; there are reference"),
    ],
)
def test_bad_arguments(x_shape, offset_shape, options, message):
    with pytest.raises(ValueError, match=message):
        axial_sample(torch.zeros(x_shape), torch.zeros(offset_shape), **options)


def test_integer_input_is_refused():
    with pytest.raises(TypeError, match=r'floating, not torch\.int64'):
        axial_sample(torch.zeros(1, 4, 4, 2, dtype=torch.int64), torch.zeros(1, 4, 4, 2))
