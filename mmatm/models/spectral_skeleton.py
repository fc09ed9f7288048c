"""What DFFormer, CDFFormer and the reading of DSM share: all but the token mixer (MetaFormer's convolutional stem and
transitions, StarReLU, scaled shortcuts)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmatm.errors import InputError
from mmatm.ops.spectral import star_relu

from .backbone import Backbone
from .layers import DropPath, convolve
from .stage import Stage

_norm = partial(nn.LayerNorm, eps=1e-6, bias=False)


class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias, with one learned number each."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return star_relu(x, self.scale, self.bias)


class Selector(nn.Module):
    """Says, from the mean over a map, how much of each filter each channel is to get.

    Args:
        channels: C.
        num_filters: F.
        planes: M, channels to be filtered.
    """

    def __init__(self, channels: int, num_filters: int, planes: int) -> None:
        super().__init__()
        self.num_filters = num_filters
        self.fc1 = nn.Linear(channels, channels // 4, bias=False)
        self.act = StarReLU()
        self.fc2 = nn.Linear(channels // 4, num_filters * planes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> (B, M, F)."""
        y = self.fc2(self.act(self.fc1(x.mean((1, 2)))))
        return y.unflatten(1, (self.num_filters, -1)).transpose(1, 2)


def widen(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer without bias on a token map (B, H, W, C), which gives a feature map (B, M, H, W)."""
    weight = linear.weight.expand(x.shape[0], -1, -1)
    return weight.bmm(x.flatten(1, 2).transpose(1, 2)).unflatten(2, x.shape[1:3])


def narrow(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer without bias on a feature map (B, M, H, W), which gives a token map (B, H, W, C)."""
    weight = linear.weight.T.expand(x.shape[0], -1, -1)
    return x.flatten(2).transpose(1, 2).bmm(weight).unflatten(1, x.shape[2:])


class Mlp(nn.Module):
    """Two linear layers without bias and StarReLU between them, which is computed anew in the backward pass.

    Args:
        channels: C.
        ratio: Hidden channels by C.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels, bias=False)
        self.act = StarReLU()
        self.fc2 = nn.Linear(ratio * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        y = self.fc1(x)
        if not torch.is_grad_enabled():
            return self._project(y)
        return checkpoint(self._project, y, use_reentrant=False, preserve_rng_state=False)

    def _project(self, y: Tensor) -> Tensor:
        return self.fc2(self.act(y))


class Block(nn.Module):
    """A token mixer and an MLP, each after a norm and with a shortcut.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        scaled: Whether both shortcuts are scaled by a number for each channel.
        drop_path_rate: Drop path of both branches.
        mixer: Built with C; called with the normalised token map (B, H, W, C).
    """

    def __init__(
        self, channels: int, mlp_ratio: int, scaled: bool, drop_path_rate: float, mixer: type[nn.Module]
    ) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.mixer = mixer(channels)
        self.norm2 = _norm(channels)
        self.mlp = Mlp(channels, mlp_ratio)
        self.scale1 = self.scale2 = None
        if scaled:
            self.scale1 = nn.Parameter(torch.ones(channels))
            self.scale2 = nn.Parameter(torch.ones(channels))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        for norm, branch, scale in ((self.norm1, self.mixer, self.scale1), (self.norm2, self.mlp, self.scale2)):
            x = self.drop_path(x if scale is None else scale.to(x.dtype) * x, branch(norm(x)))
        return x


class Stem(nn.Sequential):
    """A 7x7 convolution of stride 4 and a norm, from images (B, in_channels, H, W) to a feature map (B, C, H', W')."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            OrderedDict(conv=nn.Conv2d(in_channels, channels, 7, stride=4, padding=2), norm=_norm(channels))
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Downsample(nn.Sequential):
    """A norm and a 3x3 convolution of stride 2, from a token map (B, H, W, C) to another."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            OrderedDict(norm=_norm(in_channels), conv=nn.Conv2d(in_channels, channels, 3, stride=2, padding=1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, self.norm(x))


class SpectralBackbone(Backbone):
    """A backbone of `Block`s whose token mixers are a subclass's: `PARTS` and `mixer_settings`."""

    PARTS: ClassVar = {'block': Block}
    NORM = partial(nn.LayerNorm, eps=1e-6)
    CHANNELS_LAST = True

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        if min(arch['channels']) < 4:
            raise InputError(f'channels must be 4 or more, not {arch["channels"]}')

    def mixer_settings(self, i: int, arch: Mapping[str, Any]) -> dict[str, Any]:
        """What the constructor of a mixer in stage i may name beside its channels."""
        raise NotImplementedError

    @staticmethod
    def map_side(pixels: int, i: int) -> int:
        """The side of the map of stage i, for a square image's in pixels."""
        side = (pixels - 3) // 4 + 1
        return -(-side // 2**i)

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        return Stem(self.in_channels, arch['channels'][0])

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels = arch['channels'][i]
        downsample = Downsample(arch['channels'][i - 1], channels) if i else None
        mixer = self.part('mixer', i, **self.mixer_settings(i, arch))
        settings = (channels, arch['mlp_ratios'][i], i >= 2)
        return Stage(downsample, (self.part('block', i)(*settings, rate, mixer=mixer) for rate in rates))

    @staticmethod
    def draw(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
