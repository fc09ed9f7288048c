"""Depthwise convolution with kernels of each sample's own."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .depthwise import depthwise
from .onnx_forms import in_onnx_export


def dynamic_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolves each channel of each sample with a kernel of its own, with zeros around the map.

    Args:
        x: (B, C, H, W).
        weight: (B, C, K, K), K odd.
        bias: (B, C).

    Returns:
        (B, C, H, W).
    """
    if in_onnx_export():  # where the number of groups is a constant
        return _of_neighbours(x, weight, bias)
    return depthwise(x, weight.flatten(0, 1), bias.flatten())


def _of_neighbours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as a product of each token's K * K neighbours, which takes K * K times the memory of x."""
    size, channels = weight.shape[-1], x.shape[1]
    pick = torch.eye(size**2, dtype=x.dtype, device=x.device).view(size**2, 1, size, size)
    neighbours = F.conv2d(x, pick.repeat(channels, 1, 1, 1), padding=size // 2, groups=channels)
    neighbours = neighbours.unflatten(1, (channels, size**2)).flatten(3)
    y = weight.flatten(2)[:, :, None] @ neighbours + bias[..., None, None]
    return y.view(x.shape)


def adaptive_mean(x: Tensor, size: int) -> Tensor:
    """Means of the bins of `torch.nn.functional.adaptive_avg_pool2d`, also in graphs of open sizes.

    Args:
        x: (B, C, H, W).
        size: Rows and columns of bins.

    Returns:
        (B, C, size, size).
    """
    if not torch.compiler.is_compiling():
        return F.adaptive_avg_pool2d(x, size)
    return _bins(x.shape[2], size, x) @ x @ _bins(x.shape[3], size, x).transpose(0, 1)


def _bins(length: int, size: int, like: Tensor) -> Tensor:
    """(size, length): what each bin takes of each place."""
    number = torch.arange(size, device=like.device)[:, None]
    start, stop = number * length // size, ((number + 1) * length + size - 1) // size
    place = torch.arange(length, device=like.device)
    return (((place >= start) & (place < stop)) / (stop - start)).to(like.dtype)
