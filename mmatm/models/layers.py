"""Layers that several backbones have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmatm.ops.depthwise import depthwise


class DropPath(nn.Module):
    """Adds a branch to its shortcut. In training, samples go without it by chance, the others get more of it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return shortcut + branch
        keep = 1 - self.rate
        kept = branch.new_empty((len(branch), *[1] * (branch.ndim - 1))).bernoulli_(keep)
        return torch.addcmul(shortcut, branch, kept, value=1 / keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution on a token map (B, H, W, C), channels-last in memory before and after."""
    return conv(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of feature maps (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, on a CPU as a product of matrices, which is faster where there are few channels.

    Args:
        in_channels, out_channels, bias: As of a convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        if x.device.type != 'cpu' or torch.compiler.is_compiling() or not x.is_contiguous():
            return super().forward(x)
        weight = self.weight.flatten(1).expand(len(x), -1, -1)
        y = weight.bmm(x.flatten(2)) if self.bias is None else torch.baddbmm(self.bias[:, None], weight, x.flatten(2))
        return y.unflatten(2, x.shape[2:])


class Depthwise(nn.Conv2d):
    """A depthwise convolution that keeps the size, by `mmatm.ops.depthwise`.

    Args:
        channels, kernel_size, bias: As of a convolution; the size is odd.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return depthwise(x, self.weight[:, 0], self.bias)

    def with_shortcut(self, x: Tensor) -> Tensor:
        """x plus the convolution of it, as one convolution."""
        size = self.kernel_size[0]
        identity = self.weight.new_zeros(size, size)
        identity[size // 2, size // 2] = 1
        return depthwise(x, self.weight[:, 0] + identity, self.bias)


class ConvNorm(nn.Sequential):
    """A convolution without bias and a batch norm.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: Of the convolution. Without a stride it keeps the size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        if kernel_size == stride == groups == 1:
            self.conv = Pointwise(in_channels, out_channels, bias=False)
        elif stride == 1 and groups == in_channels == out_channels:
            self.conv = Depthwise(in_channels, kernel_size, bias=False)
        else:
            padding = kernel_size // 2
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def fused(self) -> nn.Conv2d:
        """One convolution with bias that does the same in evaluation mode."""
        return fuse_conv_bn_eval(self.conv, self.norm)


def gelu(x: Tensor) -> Tensor:
    """GELU. x must not be used any more: for inference its memory is taken for the result."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta:
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)


def gelu_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """GELU, then a batch norm. x must not be used any more: for inference its memory is taken for the result."""
    plain = isinstance(norm, nn.BatchNorm2d) and not norm.training and x.dtype == norm.weight.dtype
    if torch.is_grad_enabled() or not plain or torch.compiler.is_compiling() or x.is_meta:
        return norm(gelu(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    x = gelu(x)
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


def fuse_modules(module: nn.Module) -> int:
    """Replaces, in place, the modules inside that have a method ``fused()`` with what it returns.

    Returns:
        How many were replaced.
    """
    count = 0
    for name, child in module.named_children():
        if hasattr(child, 'fused'):
            setattr(module, name, child.fused())
            count += 1
        else:
            count += fuse_modules(child)
    return count
