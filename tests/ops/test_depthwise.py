"""The CPU kernel of depthwise convolutions against PyTorch's in float64."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.ops import depthwise as operation
from mmatm.ops.depthwise import cpu, depthwise

SHAPES = [(2, 3, 9, 5), (1, 4, 1, 1), (3, 2, 17, 33), (1, 5, 2, 64), (2, 1, 40, 130), (2, 3, 7, 8)]


def inputs(shape, size, samples=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    kernels = samples * shape[1]
    return [
        torch.randn(each, generator=generator, dtype=dtype).requires_grad_()
        for each in (shape, (kernels, size, size), (kernels,))
    ]


def exact(x, weight, bias):
    x, weight = x.double(), weight.double()
    bias = None if bias is None else bias.double()
    maps = x.reshape(1, -1, *x.shape[2:]) if len(weight) > x.shape[1] else x
    return F.conv2d(maps, weight[:, None], bias, padding='same', groups=len(weight)).view(x.shape)


@pytest.fixture(params=['kernel', 'PyTorch'])
def by(request, monkeypatch):
    """Which of the two computes the forward pass, where both can."""
    assert cpu.problem is None
    monkeypatch.setattr(operation, '_forward', {'kernel': cpu.forward, 'PyTorch': operation._pytorch}[request.param])


@pytest.mark.usefixtures('by')
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('size', [1, 3, 5, 7])
@pytest.mark.parametrize('own', [False, True], ids=['shared', 'of each sample'])
@pytest.mark.parametrize('with_bias', [False, True])
def test_output_and_gradients(shape, size, own, with_bias):
    x, weight, bias = inputs(shape, size, shape[0] if own else 1)
    arguments = (x, weight, bias) if with_bias else (x, weight)
    got, expected = (f(*arguments, *([] if with_bias else [None])) for f in (depthwise, exact))
    assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(got)
    found = torch.autograd.grad(got, arguments, gradient)
    wanted = torch.autograd.grad(expected, arguments, gradient.double())
    # Rounding is in proportion to the sum of magnitudes, however small the sum that is left of them.
    magnitudes = [each.detach().abs().requires_grad_() for each in arguments]
    sums = exact(*magnitudes, *([] if with_bias else [None]))
    for one, other, most in zip(
        found, wanted, torch.autograd.grad(sums, magnitudes, gradient.double().abs()), strict=True
    ):
        assert ((one - other.to(one)).abs() <= 1e-6 * most).all()


def test_it_is_the_kernel_that_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(cpu, 'weight_gradient', lambda x, weight, gradient: calls.append(1) or torch.zeros_like(weight))
    depthwise(*inputs((1, 2, 8, 8), 7)).sum().backward()
    assert calls == [1]


@pytest.mark.parametrize('layout', ['channels-last', 'a slice', 'transposed'])
def test_other_layouts(layout):
    x, weight, bias = inputs((2, 6, 36, 34), 5)
    if layout == 'channels-last':
        other = x.detach().contiguous(memory_format=torch.channels_last)
    else:
        other = torch.zeros(2, 9, 36, 34)[:, 2:8] if layout == 'a slice' else torch.zeros(2, 6, 34, 36).transpose(2, 3)
        other.copy_(x.detach())
    other.requires_grad_()
    assert not other.is_contiguous()
    for one in (x, other):
        depthwise(one, weight, bias).square().sum().backward()
    assert_close(other.grad, x.grad)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_types_are_pytorchs(dtype, monkeypatch):
    monkeypatch.setattr(cpu, 'forward', None)
    x, weight, bias = inputs((2, 3, 9, 40), 7, dtype=dtype)
    assert_close(depthwise(x, weight, bias).double(), exact(x, weight, bias), rtol=0.05, atol=0.1)


def test_other_sizes_are_pytorchs():
    x, weight, bias = inputs((2, 3, 9, 10), 9)
    assert_close(depthwise(x, weight, bias).double(), exact(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_without_the_kernel_it_is_said_once(monkeypatch, recwarn):
    monkeypatch.setattr(cpu, 'problem', 'the CPU kernel was not built: reinstall mmatm')
    x, weight, bias = inputs((2, 3, 9, 10), 7)
    for _ in range(2):
        assert_close(depthwise(x, weight, bias).double(), exact(x, weight, bias), rtol=1e-5, atol=1e-5)
    (warning,) = [str(w.message) for w in recwarn if 'depthwise' in str(w.message)]
    assert warning.endswith('slower in training: the CPU kernel was not built: reinstall mmatm')


def test_threads_do_not_change_the_result():
    x, weight, bias = inputs((2, 5, 20, 40), 7)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(torch.autograd.grad(depthwise(x, weight, bias).square().sum(), (x, weight, bias)))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
