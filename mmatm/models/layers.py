"""Layers that several backbones have."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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


class ConvNorm(nn.Sequential):
    """A convolution without bias and a batch norm.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: Of the convolution. Without a stride it keeps the size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def fused(self) -> nn.Conv2d:
        """One convolution with bias that does the same in evaluation mode."""
        return fuse_conv_bn_eval(self.conv, self.norm)


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
