"""FFNet, the backbone of "MetaMixer Is All You Need"."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.errors import InputError
from mmatm.registry import MODELS

from .backbone import Backbone
from .layers import ConvNorm, Depthwise, DropPath, LayerNorm2d, Pointwise, gelu
from .loading import Published
from .stage import Stage


class TwoKernels(nn.Module):
    """The sum of two depthwise convolutions with batch norms, one of them 3x3; fused, a single one of the larger size.

    Args:
        in_channels: C.
        out_channels: A multiple of C: neighbouring output channels read the same input channel.
        kernel_size: Of the larger one.
        stride: Of both.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.large = ConvNorm(in_channels, out_channels, kernel_size, stride, groups=in_channels)
        self.small = ConvNorm(in_channels, out_channels, 3, stride, groups=in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H', W')."""
        return self.large(x) + self.small(x)

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """One convolution with bias that does the same in evaluation mode."""
        conv, small = self.large.fused(), self.small.fused()
        margin = (conv.kernel_size[0] - 3) // 2
        conv.weight += F.pad(small.weight, [margin] * 4)
        conv.bias += small.bias
        return conv


class MixChannels(nn.Module):
    """A batch norm and a 1x1 convolution, with a shortcut: what mixes the channels between two stages."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = Pointwise(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return x + self.conv(self.norm(x))

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """One convolution with bias that does the same in evaluation mode."""
        conv = Pointwise(len(self.conv.weight), len(self.conv.weight)).to(self.conv.weight).eval()
        norm, weight = self.norm, self.conv.weight[:, :, 0, 0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        conv.weight[:, :, 0, 0] = weight * scale + torch.eye(len(weight)).to(weight)
        conv.bias.copy_(weight @ (norm.bias - norm.running_mean * scale))
        return conv


def _depthwise(channels: int, kernel_size: int) -> nn.Module:
    """A depthwise convolution of the token mixer, which has no batch norm if it is 3x3."""
    if kernel_size == 3:
        return Depthwise(channels, 3)
    return TwoKernels(channels, channels, kernel_size)


class FFNifiedAttention(nn.Module):
    """Attention in which convolutions stand for the products with keys and values (section 3.2 of the paper):

        out = V(GELU(K(Q(x))))

    with a 1x1 convolution Q and depthwise convolutions K and V.

    Args:
        channels: C.
        kernel_size: Of K and V.
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.query = ConvNorm(channels, channels)
        self.key = _depthwise(channels, kernel_size)
        self.value = _depthwise(channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return self.value(gelu(self.key(self.query(x))))


class Mlp(nn.Module):
    """A depthwise convolution and two 1x1 convolutions.

    Args:
        channels: C.
        ratio: Hidden channels by C.
        kernel_size: Of the depthwise convolution.
    """

    def __init__(self, channels: int, ratio: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size == 3:
            self.depthwise = ConvNorm(channels, channels, 3, groups=channels)
        else:
            self.depthwise = TwoKernels(channels, channels, kernel_size)
        self.fc1 = Pointwise(channels, ratio * channels)
        self.fc2 = Pointwise(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return self.fc2(gelu(self.fc1(self.depthwise(x))))


class Block(nn.Module):
    """A token mixer and an MLP, each with a shortcut and no norm in front.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        mlp_kernel: Kernel size of the MLP's depthwise convolution.
        layer_scale: Whether both branches are scaled by a number for each channel.
        drop_path_rate: Drop path of both branches.
        mixer: Built with C; called with the feature map (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        mlp_kernel: int,
        layer_scale: bool,
        drop_path_rate: float,
        mixer: type[nn.Module] = FFNifiedAttention,
    ) -> None:
        super().__init__()
        self.mixer = mixer(channels)
        self.mlp = Mlp(channels, mlp_ratio, mlp_kernel)
        self.scale1 = self.scale2 = None
        if layer_scale:
            self.scale1 = nn.Parameter(torch.ones(channels, 1, 1))
            self.scale2 = nn.Parameter(torch.ones(channels, 1, 1))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        for branch, scale in ((self.mixer, self.scale1), (self.mlp, self.scale2)):
            y = branch(x)
            x = self.drop_path(x, y if scale is None else scale * y)
        return x


def _size(depths: list[int], channels: list[int], mlp_kernel: int, layer_scale: bool) -> dict[str, Any]:
    return dict(
        depths=depths,
        channels=channels,
        stem_channels=64,
        mlp_ratios=[3, 3, 3, 3],
        mixer_kernels=[3, 3, 7, 7],
        mlp_kernels=[mlp_kernel] * 4,
        layer_scale=layer_scale,
    )


_RELEASE = 'https://github.com/ysj9909/FFNet/releases/download/v1.0/ffnet_{}.pth.tar'


@MODELS.register_module()
class FFNet(Backbone):
    """FFNet, of [MetaMixer Is All You Need](https://arxiv.org/abs/2406.02021).

    `fuse` folds all batch norms and the second kernels of its depthwise convolutions.

    Args:
        arch: A named size, ``'1'``, ``'2'``, ``'3'``, ``'4'``, or a dict with exactly these keys, a list of four for
            the stages each unless said: ``depths``; ``channels``, each a multiple of those before; ``stem_channels``
            (one number), inside the stem; ``mlp_ratios``, hidden channels of the MLPs by those; ``mixer_kernels`` and
            ``mlp_kernels``, odd sizes of the depthwise kernels of mixers and MLPs; ``layer_scale`` (True or False),
            whether branches are scaled.
        out_norms: Whether feature maps have a layer norm. The authors' classifiers have none there, and another
            initialisation: narrow normals, and layer scales of 1e-6 in place of 1.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval: As in `Backbone`;
            `parts` are ``block`` as `Block` and ``mixer`` as `FFNifiedAttention`, whose `kernel_size` a class of
            yours may name too.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import FFNet
        >>> [tuple(y.shape) for y in FFNet('1')(torch.rand(1, 3, 64, 96))]
        [(1, 80, 16, 24), (1, 160, 8, 12), (1, 320, 4, 6), (1, 640, 2, 3)]
    """

    TITLE = 'FFNet'
    SIZES: ClassVar = {
        '1': _size([2, 2, 8, 2], [80, 160, 320, 640], 3, False),
        '2': _size([3, 3, 15, 3], [88, 176, 352, 704], 7, False),
        '3': _size([4, 4, 22, 5], [96, 192, 384, 768], 7, True),
        '4': _size([4, 4, 27, 3], [128, 256, 512, 1024], 7, True),
    }
    PARTS: ClassVar = {'block': Block, 'mixer': FFNifiedAttention}
    PUBLISHED = Published(
        signature='patch_embed.0.c.weight',
        renames=((r'(patch_embed|stages)\..*', lambda match: _own_name(match[0])),),
        head={'norm.': 'neck.norm.', 'head.': 'head.fc.'},
        containers=('state_dict', 'model'),
        links={
            **{f'ffnet_{size}_in1k': _RELEASE.format(size) for size in '123'},
            **{f'ffnet_{size}_384_in1k': _RELEASE.format(f'{size}_384') for size in '34'},
            **{f'ffnet_{size}_distilled_in1k': _RELEASE.format(f'{size}_distillation') for size in '123'},
        },
    )
    NORM = partial(LayerNorm2d, eps=1e-6)

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        channels, kernels = arch['channels'], [*arch['mixer_kernels'], *arch['mlp_kernels']]
        if any(after % before for before, after in pairwise(channels)):
            raise InputError(f'the channels of each stage must be a multiple of those before, not {channels}')
        if any(size % 2 == 0 or size < 3 for size in kernels):
            raise InputError(f'sizes of kernels must be odd and 3 or more, not {kernels}')

    @classmethod
    def imagenet_config(cls, size: str) -> str:
        return 'ffnet_4_384_in1k' if size == '4' else f'ffnet_{size}_distilled_in1k'

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        between = arch['stem_channels']
        return nn.Sequential(
            ConvNorm(self.in_channels, between, 3, stride=2), nn.GELU(), ConvNorm(between, arch['channels'][0], 3, 2)
        )

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels = arch['channels'][i]
        downsample = None
        if i:
            depthwise = TwoKernels(arch['channels'][i - 1], channels, 7, stride=2)
            downsample = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=MixChannels(channels)))
        mixer = self.part('mixer', i, kernel_size=arch['mixer_kernels'][i])
        settings = (arch['mlp_ratios'][i], arch['mlp_kernels'][i], arch['layer_scale'])
        blocks = (self.part('block', i)(channels, *settings, rate, mixer=mixer) for rate in rates)
        return Stage(downsample, blocks)

    def draw(self, module: nn.Module) -> None:
        """As the authors' classifiers, without `out_norms`. Their dense networks keep PyTorch's initialisation."""
        if self.has_norms:
            return
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Block) and module.scale1 is not None:
            nn.init.constant_(module.scale1, 1e-6)
            nn.init.constant_(module.scale2, 1e-6)

    def get_published_depth(self, name: str) -> tuple[int, int]:
        """Depth of a parameter as in the authors' training; see `Backbone.get_published_depth`.

        Stages 0, 1 and 3 are one depth each, stage 2 has one for every three modules, its downsampling being the
        first. The stem is as deep as what follows the stages, so that it has the full learning rate.
        """
        parts = name.split('.')
        if parts[0] != 'stages':
            return 13, 14
        stage = int(parts[1])
        module = int(parts[3]) + 1 if parts[2] == 'blocks' else 0
        return {0: 1, 1: 2, 2: 3 + module // 3, 3: 12}[stage], 14


# Parts of the authors' names -> ours, in this order.
_NAMES = (
    ('patch_embed.', 'stem.'),
    ('.0.proj.0.', '.downsample.depthwise.'),
    ('.0.proj.1.conv.', '.downsample.pointwise.'),
    ('.0.proj.1.', '.downsample.pointwise.'),  # fused
    ('.token_mixer.0.layer_scale', '.scale1'),
    ('.token_mixer.0.main.fc.', '.mixer.query.'),
    ('.token_mixer.0.main.conv1.', '.mixer.key.'),
    ('.token_mixer.0.main.conv2.', '.mixer.value.'),
    ('.channel_mixer.layer_scale', '.scale2'),
    ('.channel_mixer.main.conv.', '.mlp.depthwise.'),
    ('.channel_mixer.main.', '.mlp.'),
    ('.conv.c.', '.large.conv.'),
    ('.conv.bn.', '.large.norm.'),
    ('.conv1.c.', '.small.conv.'),
    ('.conv1.bn.', '.small.norm.'),
    ('.c.', '.conv.'),
    ('.bn.', '.norm.'),
)


def _own_name(name: str) -> str:
    """The authors' name of a parameter -> ours. In their stages but the first, the downsampling is module 0."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    block = re.match(r'stages\.(\d)\.(\d+)\.', name)
    if block is None:
        return name
    stage, module = map(int, block.groups())
    return f'stages.{stage}.blocks.{module - (stage > 0)}.{name[block.end() :]}'
