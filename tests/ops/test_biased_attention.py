"""Attention with a resized position bias, against PyTorch's interpolation and a plain softmax in float64."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.ops import biased_attention
from mmatm.ops.biased_attention import attend, cubic_taps, resize_flat, resize_grid


def plain_flat(table, queries, keys):
    size = (queries[0] * queries[1], keys[0] * keys[1])
    return F.interpolate(table, size, mode='bicubic', align_corners=False)[0]


def plain_grid(table, queries, keys):
    """Each pair of axes in turn, the others as a batch."""
    _, heads, before, _ = table.shape
    side, key_side = round(before**0.5), round(table.shape[3] ** 0.5)
    x = table.view(heads * before, 1, key_side, key_side)
    x = F.interpolate(x, keys, mode='bicubic', align_corners=False).flatten(1)
    x = x.view(heads, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(x, queries, mode='bicubic', align_corners=False).flatten(2).transpose(1, 2)


MODES = {'flat': (resize_flat, plain_flat), 'grid': (resize_grid, plain_grid)}
SIZES = [((4, 4), (2, 2)), ((5, 9), (3, 4)), ((3, 2), (1, 1)), ((8, 8), (5, 3)), ((2, 8), (4, 1))]


@pytest.fixture(params=['whole', 'parts'])
def held(request, monkeypatch):
    """The bias as a whole, or in parts of few queries."""
    monkeypatch.setattr(biased_attention, '_WHOLE', {'whole': 2**23, 'parts': 0}[request.param])
    monkeypatch.setattr(biased_attention, '_SCORES', {'cpu': 60, 'cuda': 60})


def inputs(queries, keys):
    generator = torch.Generator().manual_seed(0)
    new = partial(torch.randn, generator=generator, dtype=torch.float64)
    table, q = new(1, 3, 16, 4), new(2, 3, queries[0] * queries[1], 5)
    k, v = new(2, 2, 3, keys[0] * keys[1], 5)
    return [x.requires_grad_() for x in (q, k.clone(), v.clone(), table)]


def plain(q, k, v, bias):
    return (q @ k.transpose(-2, -1) / 5**0.5 + bias).softmax(-1) @ v


@pytest.mark.usefixtures('held')
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('queries', 'keys'), SIZES)
def test_output_and_gradients(mode, queries, keys):
    resize, plain_resize = MODES[mode]
    q, k, v, table = inputs(queries, keys)
    expected = plain(q, k, v, plain_resize(table, queries, keys))
    got = attend(q, k, v, resize(table, queries, keys))
    assert_close(got, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert_close(attend(q, k, v, resize(table, queries, keys)), expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(got)
    gradients = torch.autograd.grad((got * weight).sum(), (q, k, v, table))
    assert_close(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v, table)), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures('held')
def test_gradients_by_finite_differences():
    q, k, v, table = inputs((2, 3), (1, 2))
    assert torch.autograd.gradcheck(lambda *x: attend(*x[:3], resize_flat(x[3], (2, 3), (1, 2))), (q, k, v, table))


def test_a_frozen_bias_gets_no_gradient():
    q, k, v, table = inputs((4, 5), (2, 2))
    table.requires_grad_(False)
    attend(q, k, v, resize_flat(table, (4, 5), (2, 2))).sum().backward()
    assert table.grad is None
    assert v.grad is not None


@pytest.mark.parametrize(('before', 'after'), [(7, 7), (7, 16), (49, 1050), (49, 12), (3, 1)])
def test_taps_are_those_of_pytorch(before, after):
    x = torch.randn(1, 1, before, 1, dtype=torch.float64)
    expected = F.interpolate(x, (after, 1), mode='bicubic', align_corners=False)[0, 0, :, 0]
    index, weight = cubic_taps(before, after, x.device)
    assert_close((x[0, 0, :, 0][index] * weight).sum(0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('mode', MODES)
def test_the_size_that_it_was_built_for_is_left_as_it_is(mode):
    table = torch.randn(1, 3, 16, 4)
    assert_close(MODES[mode][0](table, (4, 4), (2, 2)).part(0, 16), table[0])


def test_grid_keeps_places_where_they_are():
    """A bias of how far a key is to the right of a query stays that on a larger map; flattened, it does not."""
    column = torch.arange(8.0) / 8
    far = column.repeat(8)[:, None] - column.repeat(8)
    wide = (torch.arange(16.0) + 0.5) / 16 - 0.5 / 8  # columns of the map in those of the table
    expected = wide.repeat(12)[:, None] - column.repeat(8)
    inner = (wide.repeat(12) >= 0.2) & (wide.repeat(12) <= 0.7)  # no border within reach
    sizes = (12, 16), (8, 8)
    got = resize_grid(far[None, None], *sizes).part(0, 192)[0]
    assert_close(got[inner], expected[inner], rtol=0, atol=0.01)  # a straight line bends a little in bicubic
    assert (resize_flat(far[None, None], *sizes).part(0, 192)[0] - expected)[inner].abs().max() > 0.3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures('held')
def test_half_precision(dtype):
    q, k, v, table = inputs((5, 9), (3, 4))
    expected = plain(q, k, v, plain_flat(table, (5, 9), (3, 4)))
    table = table.detach().float().requires_grad_()
    got = attend(*(x.to(dtype) for x in (q, k, v)), resize_flat(table, (5, 9), (3, 4)))
    assert got.dtype == dtype
    assert_close(got.double(), expected, rtol=0.05, atol=0.05)
    got.float().sum().backward()
    assert table.grad.dtype == torch.float32
    assert table.grad.isfinite().all()


def test_scores_are_never_all_there():
    """Peak memory of both passes is far below one map of the scores, which are 16,384 x 1,024 here."""
    from torch.profiler import ProfilerActivity, profile

    q, k, v = torch.randn(1, 1, 16384, 4), torch.randn(1, 1, 1024, 4), torch.randn(1, 1, 1024, 4)
    table = torch.randn(1, 1, 256, 16, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        attend(q.requires_grad_(), k, v, resize_flat(table, (128, 128), (32, 32))).sum().backward()
    largest = max(event.cpu_memory_usage for event in found.events())
    assert largest < 16384 * 1024 * 4 / 4
