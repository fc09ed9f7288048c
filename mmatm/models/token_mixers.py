"""The token mixers of `MetaFormer`, under one signature.

A mixer is a module that is built with the number of channels C and called with a normalised feature map (B, C, H, W);
it returns another of the same shape. Its constructor may also name `stage`, 0 to 3, and `side`, the number of tokens
along each side of the map of a square image of the network's `image_size`, and is then given them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.errors import InputError
from mmatm.ops import axial_sample_stacked
from mmatm.ops.biased_attention import resize_flat
from mmatm.ops.precision import without_autocast
from mmatm.registry import TOKEN_MIXERS

from .active_token_mixer import ActiveTokenMixer
from .affnet import AdaptiveFrequencyFilter
from .casvit import AdditiveTokenMixer
from .dfformer import DynamicFilter
from .dsm import SpectrumMixer
from .ffnet import FFNifiedAttention
from .layers import Depthwise
from .transxnet import DualMixer

_HEAD = 32  # channels of a head of attention


def _require(mixer: str, channels: int, multiple: int) -> None:
    """Raises an `InputError` where the channels of a stage do not fit a mixer."""
    if channels % multiple:
        raise InputError(f'the token mixer {mixer} needs a multiple of {multiple} channels, not {channels}')


def _to_tokens(x: Tensor) -> Tensor:
    """Feature map (B, C, H, W) -> token map (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _to_maps(x: Tensor) -> Tensor:
    """Token map (B, H, W, C) -> feature map (B, C, H, W)."""
    return x.permute(0, 3, 1, 2).contiguous()


@TOKEN_MIXERS.register_module('active')
class Active(ActiveTokenMixer):
    """ATMNet's, with offsets predicted from its own input by a linear layer, in every block."""

    def __init__(self, channels: int, stage: int) -> None:
        super().__init__(channels)
        share = (2, 4, 4, 8)[stage]  # channels that have an offset in common, as in ATMNet
        _require('active', channels, share)
        self.offset = nn.Linear(channels, 2 * channels // share)

    def forward(self, x: Tensor) -> Tensor:
        x = _to_tokens(x)
        with without_autocast(x):  # in bf16 an offset of 40 tokens would be off by up to an eighth of a token
            offset = self.offset(x.to(self.offset.weight.dtype))
        return _to_maps(self.mix(axial_sample_stacked(x.contiguous(), offset)))


@TOKEN_MIXERS.register_module('cycle')
class Cycle(ActiveTokenMixer):
    """CycleMLP's: channel i of a token reads the one (i + 1) mod 3 - 1 tokens further along each axis, zeros outside
    the map; then as the active mixer, whose offsets it fixes. Of [CycleMLP](https://arxiv.org/abs/2107.10224)."""

    def forward(self, x: Tensor) -> Tensor:
        x = _to_tokens(x)
        return _to_maps(self.mix(torch.cat((_cycle(x, 2), _cycle(x, 1), x), dim=-1)))


def _cycle(x: Tensor, axis: int) -> Tensor:
    """What each channel of a token map (B, H, W, C) reads along an axis, 1 or 2."""
    along = (0, 0, 1, 1) if axis == 2 else (0, 0, 0, 0, 1, 1)
    before, here, after = (F.pad(x, along).narrow(axis, i, x.shape[axis]) for i in range(3))
    channel = torch.arange(x.shape[-1], device=x.device) % 3
    return torch.where(channel == 0, here, torch.where(channel == 1, after, before))


@TOKEN_MIXERS.register_module('dual_dynamic')
class DualDynamic(DualMixer):
    """TransXNet's, with a position bias of its own, where TransXNet's blocks share one for each stage."""

    def __init__(self, channels: int, stage: int, side: int) -> None:
        self.sr_ratio = (8, 4, 2, 1)[stage]
        heads = max(1, channels // (2 * _HEAD))
        _require('dual_dynamic', channels, 2 * heads)
        super().__init__(channels, num_heads=heads, sr_ratio=self.sr_ratio)
        self.bias = nn.Parameter(torch.zeros(1, heads, side**2, self._keys(side) ** 2))

    def _keys(self, side: int) -> int:
        return (side + self.sr_ratio - 1) // self.sr_ratio  # ONNX rounds quotients of negative numbers up

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        bias = resize_flat(self.bias, (height, width), (self._keys(height), self._keys(width)))
        return super().forward(x, bias)

    def init_parameters(self) -> None:
        for parameter in (self.local.weight, self.local.bias):
            nn.init.trunc_normal_(parameter, std=0.02)


TOKEN_MIXERS.register_module('additive', module=AdditiveTokenMixer)
TOKEN_MIXERS.register_module('ffnified', module=FFNifiedAttention)


@TOKEN_MIXERS.register_module('adaptive_frequency')
class AdaptiveFrequency(AdaptiveFrequencyFilter):
    """AFFNet's."""

    def __init__(self, channels: int) -> None:
        _require('adaptive_frequency', channels, self.GROUPS)
        super().__init__(channels)


@TOKEN_MIXERS.register_module('dynamic_filter')
class DynamicFilterOfMaps(DynamicFilter):
    """DFFormer's."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(channels, bank=(side, side // 2 + 1))

    def forward(self, x: Tensor) -> Tensor:
        return _to_maps(super().forward(_to_tokens(x)))


@TOKEN_MIXERS.register_module('dynamic_spectrum')
class DynamicSpectrum(SpectrumMixer):
    """That of the reading of DSM."""

    def forward(self, x: Tensor) -> Tensor:
        return _to_maps(super().forward(_to_tokens(x)))


# The controls


@TOKEN_MIXERS.register_module('identity')
class Affine(nn.Module):
    """RIFormer's: no mixing, but a factor and a bias for each channel; its output is at first 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.weight - 1)[:, None, None] + self.bias[:, None, None]


@TOKEN_MIXERS.register_module('pooling')
class Pooling(nn.Module):
    """PoolFormer's: the mean of 3x3 tokens without the token itself. It has no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x


@TOKEN_MIXERS.register_module('depthwise')
class DepthwiseConvolution(Depthwise):
    """A depthwise 7x7 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 7)


@TOKEN_MIXERS.register_module('attention')
class Attention(nn.Module):
    """Self-attention of all tokens, with heads of 32 channels and no position embedding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        _require('attention', channels, self.heads)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = _to_tokens(x).flatten(1, 2)
        q, k, v = self.qkv(y).unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(y).transpose(1, 2).unflatten(2, x.shape[2:])
