"""Convolution with kernels of each sample's own, against one convolution a sample."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.ops.dynamic_convolution import _of_neighbours, adaptive_mean, dynamic_depthwise


def by_sample(x, weight, bias):
    kernels = (each[:, None] for each in weight)
    return torch.stack([
        F.conv2d(each, kernel, b, padding='same', groups=len(each))
        for each, kernel, b in zip(x, kernels, bias, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize('form', [dynamic_depthwise, _of_neighbours])
@pytest.mark.parametrize('shape', [(2, 3, 8, 9), (1, 4, 3, 2), (3, 1, 1, 12)])
def test_output_and_gradients(form, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*shape[:2], 7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape[:2], generator=generator, dtype=torch.float64, requires_grad=True)
    got, expected = form(x, weight, bias), by_sample(x, weight, bias)
    assert_close(got, expected)
    factor = torch.randn_like(got)
    gradients = torch.autograd.grad((got * factor).sum(), (x, weight, bias))
    assert_close(gradients, torch.autograd.grad((expected * factor).sum(), (x, weight, bias)))


def test_channels_last():
    x = torch.randn(2, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 6, 7, 7), torch.randn(2, 6)
    assert_close(dynamic_depthwise(x, weight, bias), by_sample(x, weight, bias))


@pytest.mark.parametrize(('height', 'width'), [(7, 7), (14, 21), (16, 33), (3, 5), (1, 8)])
def test_bins_of_graphs(height, width, monkeypatch):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(x, 7)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    assert_close(adaptive_mean(x, 7), expected)
