"""Layers that several backbones have."""

import torch
from torch import Tensor, nn


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
