"""Depthwise convolution that keeps the size, with the same kernels for all samples or with each sample's own.

PyTorch's gradient by kernels of 5x5 and 7x7 takes ten times as long as its forward pass on a CPU, so there is a CPU
kernel for float32. Everywhere else, and in graphs, it is PyTorch's convolution.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmatm.ops.cpu_library import say_once

from . import cpu

__all__ = ['depthwise']


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves each channel with a kernel of its own, with zeros around the map.

    Args:
        x: (B, C, H, W).
        weight: (N, K, K), K odd; N is C, or B * C for kernels of each sample's own.
        bias: (N), or None.

    Returns:
        (B, C, H, W).
    """
    if not _takes(x, weight):
        return _pytorch(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Depthwise.apply(x, weight, bias)
    return _forward(x, weight, bias)


def _pytorch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    maps = x if weight.shape[0] == x.shape[1] else x.reshape(1, weight.shape[0], *x.shape[2:])
    return F.conv2d(maps, weight[:, None], bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]).reshape(x.shape)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # On small maps PyTorch's large kernels are faster: measured with 2 threads and AVX2.
    return (_pytorch if weight.shape[-1] > 5 and x.shape[3] < 32 else cpu.forward)(x, weight, bias)


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the CPU kernel computes this; if it is not there, that is said once."""
    if (
        x.device.type != 'cpu'
        or torch.compiler.is_compiling()
        or not x.dtype == weight.dtype == torch.float32
        or weight.shape[-1] not in cpu.SIZES
        or torch.is_autocast_enabled('cpu')
    ):
        return False
    if cpu.problem:
        say_once(f"depthwise convolutions are PyTorch's, which are slower in training: {cpu.problem}")
    return cpu.problem is None


class _Depthwise(torch.autograd.Function):
    """The CPU kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _forward(gradient, weight.flip(1, 2), None) if of_x else None,
            cpu.weight_gradient(x, weight, gradient) if of_weight else None,
            gradient.sum((2, 3)).view(-1, weight.shape[0]).sum(0) if of_bias else None,
        )
