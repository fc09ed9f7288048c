"""CAS-ViT, the backbone of "Convolutional Additive Self-attention Vision Transformers"."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.registry import MODELS

from .backbone import Backbone
from .layers import Depthwise, DropPath
from .loading import Published
from .stage import Stage


class Gate(nn.Module):
    """Weights a feature map by position, then by channel: the paper's context mapping of queries and keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            Depthwise(channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 1, 1, bias=False)
        )
        self.channel = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x * self.spatial(x).sigmoid()
        return x * self.channel(x.mean((2, 3), keepdim=True)).sigmoid()


class AdditiveTokenMixer(nn.Module):
    """Convolutional additive self-attention: queries and keys are added, not multiplied with each other.

    With q, k, v = QKV(x), gates phi of queries and keys, and depthwise convolutions DW:

        out = DW_out(DW(phi_q(q) + phi_k(k)) * v)

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.gate_q = Gate(channels)
        self.gate_k = Gate(channels)
        self.dwc = Depthwise(channels, 3)
        self.proj = Depthwise(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return self.proj(self.dwc(self.gate_q(q) + self.gate_k(k)) * v)


class Block(nn.Module):
    """A local convolution, a token mixer and an MLP, each with a shortcut, the latter two after a batch norm.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        drop_path_rate: Drop path of mixer and MLP.
        mixer: Built with C; called with the normalised feature map (B, C, H, W).
    """

    def __init__(
        self, channels: int, mlp_ratio: int, drop_path_rate: float, mixer: type[nn.Module] = AdditiveTokenMixer
    ) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            Depthwise(channels, 3),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.norm1 = nn.BatchNorm2d(channels)
        self.mixer = mixer(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Conv2d(channels, mlp_ratio * channels, 1),
                act=nn.GELU(),
                fc2=nn.Conv2d(mlp_ratio * channels, channels, 1),
            )
        )
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x + self.local(x)
        x = self.drop_path(x, self.mixer(self.norm1(x)))
        return self.drop_path(x, self.mlp(self.norm2(x)))


def _halve(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)


@MODELS.register_module()
class CASViT(Backbone):
    """CAS-ViT, of [Convolutional Additive Self-attention Vision Transformers](https://arxiv.org/abs/2408.03703).

    The two global means in its gates make features depend on the crop. Its mixer is quadratic in its input: without
    trained weights, activations grow fast with depth while batch norms keep to their statistics (`norm_eval`).

    Args:
        arch: A named size, ``'xs'``, ``'s'``, ``'m'``, ``'t'``, or a dict with exactly these keys, a list of four for
            the stages each: ``depths``; ``channels``; ``mlp_ratios``, hidden channels of the MLPs by those.
        norm_eval: Batch norms inside keep to their running statistics, by default as in the authors' detectors and
            segmentors. Say False where training begins from random weights. The norms of the outputs, whose statistics
            are in no ImageNet checkpoint, do not keep to them.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg: As in `Backbone`; `parts` are
            ``block`` as `Block` and ``mixer`` as `AdditiveTokenMixer`.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import CASViT
        >>> [tuple(y.shape) for y in CASViT('xs')(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 56, 8, 12), (1, 112, 4, 6), (1, 220, 2, 3)]
    """

    TITLE = 'CAS-ViT'
    SIZES: ClassVar = {
        'xs': dict(depths=[2, 2, 4, 2], channels=[48, 56, 112, 220], mlp_ratios=[4, 4, 4, 4]),
        's': dict(depths=[3, 3, 6, 3], channels=[48, 64, 128, 256], mlp_ratios=[4, 4, 4, 4]),
        'm': dict(depths=[3, 3, 6, 3], channels=[64, 96, 192, 384], mlp_ratios=[4, 4, 4, 4]),
        't': dict(depths=[3, 3, 6, 3], channels=[96, 128, 256, 512], mlp_ratios=[4, 4, 4, 4]),
    }
    PARTS: ClassVar = {'block': Block, 'mixer': AdditiveTokenMixer}
    PUBLISHED = Published(
        signature='network.0.0.local_perception.network.0.weight',
        renames=(
            (r'patch_embed\.', 'stem.'),
            (r'network\.([135])\.proj\.', lambda m: f'stages.{(int(m[1]) + 1) // 2}.downsample.conv.'),
            (r'network\.([135])\.norm\.', lambda m: f'stages.{(int(m[1]) + 1) // 2}.downsample.norm.'),
            (r'network\.(\d)\.(\d+)\.local_perception\.network\.', lambda m: f'{_block(m)}local.'),
            (
                r'network\.(\d)\.(\d+)\.attn\.oper_([qk])\.0\.block\.',
                lambda m: f'{_block(m)}mixer.gate_{m[3]}.spatial.',
            ),
            (
                r'network\.(\d)\.(\d+)\.attn\.oper_([qk])\.1\.block\.1\.',
                lambda m: f'{_block(m)}mixer.gate_{m[3]}.channel.',
            ),
            (r'network\.(\d)\.(\d+)\.attn\.', lambda m: f'{_block(m)}mixer.'),
            (r'network\.(\d)\.(\d+)\.', lambda m: _block(m)),
            (r'norm([0246])\.', lambda m: f'norm{int(m[1]) // 2}.'),
            (r'norm\.', 'norm3.'),  # of the classifier
        ),
        head={'head.': 'head.fc.', 'dist_head.': 'head.fc.'},
        # What the authors' evaluation reads. EMA weights stand beside it in some files.
        containers=('model', 'state_dict'),
        links=dict.fromkeys(
            ('casvit_xs_in1k', 'casvit_s_in1k', 'casvit_m_in1k', 'casvit_t_in1k'),
            'Google Drive, by the table in MODEL_ZOO.md of https://github.com/Tianfang-Zhang/CAS-ViT',
        ),
    )
    NORM = nn.BatchNorm2d
    NORM_EVAL = True

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        if min(arch['channels']) < 2:
            raise InputError(f'the stem halves the channels: there are to be 2 or more, not {arch["channels"]}')

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        channels = arch['channels'][0]
        half = channels // 2
        return nn.Sequential(
            *(_halve(self.in_channels, half), nn.BatchNorm2d(half), nn.ReLU()),
            *(_halve(half, channels), nn.BatchNorm2d(channels), nn.ReLU()),
        )

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels = arch['channels'][i]
        downsample = None
        if i:
            conv = _halve(arch['channels'][i - 1], channels)
            downsample = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels)))
        blocks = (
            self.part('block', i)(channels, arch['mlp_ratios'][i], rate, mixer=self.part('mixer', i)) for rate in rates
        )
        return Stage(downsample, blocks)


def _block(match: re.Match) -> str:
    """Where block k of entry 2i of the authors' network is here."""
    return f'stages.{int(match[1]) // 2}.blocks.{match[2]}.'
