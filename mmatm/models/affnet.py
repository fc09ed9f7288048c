"""AFFNet, the backbone of "Adaptive Frequency Filters As Efficient Global Token Mixers"."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.errors import InputError
from mmatm.ops.precision import without_autocast
from mmatm.ops.spectral import irfft2, map_channels, multiply, rfft2
from mmatm.registry import MODELS

from .backbone import Backbone
from .layers import ConvNorm, DropPath
from .loading import Published
from .stage import Stage

# Name of an activation -> what makes it, given for how many channels it has parameters of their own.
ACTIVATIONS = {'silu': lambda channels: nn.SiLU(), 'relu': lambda channels: nn.ReLU(), 'prelu': nn.PReLU}


class PositionNorm(nn.Module):
    """A layer norm over channels whose epsilon is added to the standard deviation, not to the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        deviation = variance.clamp(min=1e-30).sqrt()  # whose derivative at 0 is infinite
        return (x - mean) / (deviation + 1e-5) * self.weight[:, None, None] + self.bias[:, None, None]


ATTN_NORMS = {'group_norm': partial(nn.GroupNorm, 1), 'layer_norm': PositionNorm}


class ConvNormAct(ConvNorm):
    """A convolution without bias, a batch norm and an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: As of `ConvNorm`.
        act: Key of `ACTIVATIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str = 'silu',
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups)
        self.act = ACTIVATIONS[act](out_channels)

    def fused(self) -> nn.Sequential:
        """A convolution with bias and the activation, which do the same in evaluation mode."""
        return nn.Sequential(super().fused(), self.act)


class MBConv(nn.Module):
    """An inverted residual: a 1x1 convolution to more channels, a depthwise 3x3 and a 1x1 convolution, each with a
    batch norm; with a shortcut where the map keeps its size and its channels.

    Args:
        in_channels, out_channels: C, C'.
        expansion: Channels in between by C, about: they are a multiple of 8.
        stride: Of the depthwise convolution.
        dilation: Of the depthwise convolution.
        act: Key of `ACTIVATIONS`.
        drop_path_rate: Drop path of the branch beside the shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: int = 1,
        dilation: int = 1,
        act: str = 'silu',
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        inner = _round(expansion * in_channels)
        self.expand = ConvNormAct(in_channels, inner, act=act)
        self.depthwise = ConvNormAct(inner, inner, 3, stride, groups=inner, act=act)
        if dilation > 1:
            self.depthwise.conv = nn.Conv2d(
                inner, inner, 3, stride, padding=dilation, dilation=dilation, groups=inner, bias=False
            )
        self.reduce = ConvNorm(inner, out_channels)
        self.drop_path = DropPath(drop_path_rate) if stride == 1 and in_channels == out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        y = self.reduce(self.depthwise(self.expand(x)))
        return y if self.drop_path is None else self.drop_path(x, y)


def _round(channels: int) -> int:
    """The nearest multiple of 8, halves up, or the one after it where that is less than nine tenths."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class AdaptiveFrequencyFilter(nn.Module):
    """A filter of the spectrum that is computed from the spectrum itself (section 3.2 of the paper):

        out = x + irfft2(shrink(w2 act(w1 F + b1) + b2) * F),    F = rfft2(x)

    w1 and w2 are complex and map the channels of each of 8 groups; the activation and the soft shrinking by 0.01 take
    real and imaginary parts apart. It computes in float32, or in float64 for x of float64. A map is periodic for it.

    Args:
        channels: C, a multiple of 8.
        act: Key of `ACTIVATIONS`.
    """

    GROUPS = 8
    SHRINK = 0.01

    def __init__(self, channels: int, act: str = 'silu') -> None:
        super().__init__()
        each = channels // self.GROUPS
        self.w1, self.w2 = (nn.Parameter(torch.empty(2, self.GROUPS, each, each)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(torch.empty(2, self.GROUPS, each)) for _ in range(2))
        self.act_real, self.act_imaginary = (ACTIVATIONS[act](1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        with without_autocast(x):
            y = x.to(torch.promote_types(x.dtype, torch.float32))
            w1, b1, w2, b2 = (each.to(y.dtype) for each in (self.w1, self.b1, self.w2, self.b2))
            spectrum = rfft2(y)
            z = self._activate(map_channels(spectrum, w1, b1))
            z = F.softshrink(map_channels(z, w2, b2), self.SHRINK)
            return (y + irfft2(multiply(z, spectrum), x.shape[-1])).to(x.dtype)

    def _activate(self, z: Tensor) -> Tensor:
        """Of a spectrum (B, C, H, columns, 2)."""
        if not isinstance(self.act_real, nn.PReLU):
            return self.act_real(z)
        real, imaginary = z.unbind(-1)
        return torch.stack((self.act_real(real), self.act_imaginary(imaginary)), dim=-1)

    def init_parameters(self) -> None:
        for parameter in (self.w1, self.b1, self.w2, self.b2):
            nn.init.normal_(parameter, std=0.02)


class Block(nn.Module):
    """An inverted residual and a token mixer, each after a norm; the shortcut is around both.

    Args:
        channels: C.
        drop_path_rate: Drop path of the branch.
        act: Key of `ACTIVATIONS`.
        attn_norm: Key of `ATTN_NORMS`.
        mixer: Built with C; called with the normalised feature map (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        act: str = 'silu',
        attn_norm: str = 'group_norm',
        mixer: type[nn.Module] = AdaptiveFrequencyFilter,
    ) -> None:
        super().__init__()
        self.norm1 = ATTN_NORMS[attn_norm](channels)
        self.local = MBConv(channels, channels, 2, act=act)
        self.norm2 = ATTN_NORMS[attn_norm](channels)
        self.mixer = mixer(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return self.drop_path(x, self.mixer(self.norm2(self.local(self.norm1(x)))))


class MixingStage(Stage):
    """Blocks, a norm and a 1x1 convolution, whose result is put beside the blocks' input and fused with it.

    Args:
        downsample, blocks: As of `Stage`.
        channels: C.
        act, attn_norm: As of `Block`.
    """

    def __init__(
        self, downsample: nn.Module, blocks: Iterable[nn.Module], channels: int, act: str, attn_norm: str
    ) -> None:
        super().__init__(downsample, blocks)
        self.norm = ATTN_NORMS[attn_norm](channels)
        self.proj = ConvNorm(channels, channels)
        self.fusion = ConvNormAct(2 * channels, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.run(self.downsample, x)
        for block in self.blocks:
            y = self.run(block, y)
        return self.run(self.fusion, torch.cat((x, self.proj(self.norm(y))), dim=1))


def _size(channels: list[int], expansion: int) -> dict[str, Any]:
    return dict(
        depths=[3, 2, 4, 3],
        channels=channels,
        stem_channels=32,
        expansion=expansion,
        act='silu',
        attn_norm='group_norm',
    )


_ONEDRIVE = 'linked in the README of https://github.com/microsoft/TokenMixers (OneDrive)'


@MODELS.register_module()
class AFFNet(Backbone):
    """AFFNet, of [Adaptive Frequency Filters As Efficient Global Token Mixers](https://arxiv.org/abs/2307.14008)
    (ICCV 2023).

    Its feature maps have no norms. `fuse` folds its batch norms.

    Args:
        arch: A named size, ``'et'``, ``'t'``, ``'base'``, or a dict with exactly these keys, a list of four for the
            stages: ``depths``, in stage 0 of inverted residuals, the first of which downsamples; ``channels``, from
            stage 1 on multiples of 8; and single entries: ``stem_channels``, of the map that stage 0 takes;
            ``expansion`` of the inverted residuals in stem, stage 0 and transitions; ``act``, ``'silu'``, ``'relu'``
            or ``'prelu'``; ``attn_norm`` of the blocks with token mixers, ``'group_norm'`` (of one group) or
            ``'layer_norm'`` (over the channels of a position).
        output_stride: Pixels per token of the last stage: 32, 16 or 8. Stages that would be coarser do not downsample;
            the convolution after one that does not is dilated, as in the authors' DeepLab.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval: As in `Backbone`;
            `parts` are ``block`` as `Block` and ``mixer`` as `AdaptiveFrequencyFilter`, whose `act` a class of yours
            may name too. Stage 0 has neither.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import AFFNet
        >>> [tuple(y.shape) for y in AFFNet('et')(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 64, 8, 12), (1, 104, 4, 6), (1, 144, 2, 3)]
    """

    TITLE = 'AFFNet'
    SIZES: ClassVar = {
        'et': _size([48, 64, 104, 144], 2),
        't': _size([48, 96, 160, 192], 4),
        'base': _size([64, 128, 256, 320], 4),
    }
    PARTS: ClassVar = {'block': Block, 'mixer': AdaptiveFrequencyFilter}
    PUBLISHED = Published(
        signature='conv_1.block.conv.weight',
        renames=((r'(conv_1|layer_\d)\..*', lambda match: _own_name(match[0])),),
        head={'conv_1x1_exp.block.': 'neck.conv.', 'classifier.fc.': 'head.fc.'},
        containers=('ema_state_dict', 'model_state_dict', 'state_dict'),
        links={f'affnet_{size}_in1k': _ONEDRIVE for size in ('et', 't', 'base')},
    )
    OUTPUT_STRIDES = (8, 16, 32)

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        if any(channels % AdaptiveFrequencyFilter.GROUPS for channels in arch['channels'][1:]):
            raise InputError(f'channels of stages 1 to 3 must be multiples of 8, not {arch["channels"][1:]}')
        for key, known in (('act', ACTIVATIONS), ('attn_norm', ATTN_NORMS)):
            if arch[key] not in known:
                raise InputError(f"arch['{key}'] must be one of {', '.join(known)}, not {arch[key]}")

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        act = arch['act']
        return nn.Sequential(
            ConvNormAct(self.in_channels, 16, 3, stride=2, act=act),
            MBConv(16, arch['stem_channels'], arch['expansion'], act=act),
        )

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels, act, attn_norm = arch['channels'][i], arch['act'], arch['attn_norm']
        before = arch['channels'][i - 1] if i else arch['stem_channels']
        # A stage that does not downsample reads the map before at the distances that its weights do not expect.
        stride, near = (2, 1) if dilation == 1 else (1, dilation // 2)
        downsample = MBConv(before, channels, arch['expansion'], stride, near, act)
        if i == 0:
            rest = (MBConv(channels, channels, arch['expansion'], act=act, drop_path_rate=rate) for rate in rates[1:])
            return Stage(None, [downsample, *rest])
        mixer = self.part('mixer', i, act=act)
        blocks = (self.part('block', i)(channels, rate, act, attn_norm, mixer=mixer) for rate in rates)
        return MixingStage(downsample, blocks, channels, act, attn_norm)

    def adapt(self, weights: dict[str, Tensor]) -> None:
        has_prelu = any(re.search(r'\.act(_real)?\.weight$', name) for name in weights)
        own_prelu = any(isinstance(module, nn.PReLU) for module in self.modules())
        if 'stem.0.conv.weight' in weights and has_prelu != own_prelu:
            own, theirs = ('without', 'with') if has_prelu else ('with', 'without')
            raise InputError(
                f'the weights are of an {self.TITLE} {theirs} PReLU, this one is {own} it: give arch as a dict of the '
                "size's entries with another `act`"
            )


# Parts of the authors' names -> ours, in this order.
_NAMES = (
    ('.global_rep.', '.blocks.'),
    ('.filter.act2.', '.mixer.act_imaginary.'),
    ('.filter.act.', '.mixer.act_real.'),
    ('.filter.', '.mixer.'),
    ('.mlp.', '.local.'),
    ('.exp_1x1.', '.expand.'),
    ('.conv_3x3.', '.depthwise.'),
    ('.red_1x1.', '.reduce.'),
    ('.conv_proj.', '.proj.'),
    ('.block.', '.'),
)


def _own_name(name: str) -> str:
    """The authors' name of a parameter -> ours. Their layers 2 to 5 are our stages."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    name = re.sub(r'^conv_1\.', 'stem.0.', name)
    name = re.sub(r'^layer_1\.0\.', 'stem.1.', name)
    name = re.sub(r'^layer_(\d)\.', lambda match: f'stages.{int(match[1]) - 2}.', name)
    name = re.sub(r'^stages\.0\.', 'stages.0.blocks.', name)
    name = re.sub(r'^(stages\.[123])\.0\.', r'\1.downsample.', name)
    name = re.sub(r'^(stages\.[123])\.1\.', r'\1.', name)
    # The norm behind the blocks is one more of them.
    return re.sub(r'^(stages\.[123])\.blocks\.\d+\.(weight|bias)$', r'\1.norm.\2', name)
