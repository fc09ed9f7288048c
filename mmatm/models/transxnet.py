"""TransXNet, the backbone of "TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer"."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.errors import InputError
from mmatm.ops.biased_attention import PositionBias, attend, resize_flat, resize_grid
from mmatm.ops.dynamic_convolution import adaptive_mean, dynamic_depthwise
from mmatm.registry import MODELS

from .backbone import Backbone
from .layers import ConvNorm, Depthwise, DropPath, Pointwise, gelu_norm
from .loading import Published
from .stage import Stage, recompute

_norm = partial(nn.GroupNorm, 1)


class PooledConvNorm(ConvNorm):
    """`ConvNorm`, whose batch norm takes its running statistics for a single value a channel, which has none itself."""

    def forward(self, x: Tensor) -> Tensor:
        x, norm = self.conv(x), self.norm
        synced = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
        if not norm.training or synced or x.numel() > x.shape[1]:
            return norm(x)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class DynamicConvolution(nn.Module):
    """The paper's input-dependent depthwise convolution (IDConv): kernels of each sample's own, mixed of some banks.

    Args:
        channels: C.
        num_banks: G.
        kernel_size: K.
    """

    def __init__(self, channels: int, num_banks: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_banks, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(num_banks, channels))
        self.reduce = PooledConvNorm(channels, channels // 4)
        self.expand = Pointwise(channels // 4, num_banks * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        kernels = self.kernels(x)
        bias = (self._share(x.mean((2, 3), keepdim=True))[..., 0, 0] * self.bias).sum(1)
        return dynamic_depthwise(x, kernels, bias)

    def kernels(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the kernels of each sample's own, (B, C, K, K)."""
        return (self.shares(x) * self.weight).sum(1)

    def shares(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> what each sample's kernels take of each bank at each place, (B, G, C, K, K)."""
        return self._share(adaptive_mean(x, self.weight.shape[-1]))

    def _share(self, pooled: Tensor) -> Tensor:
        """(B, C, h, w) -> the share of each bank at each place, (B, G, C, h, w)."""
        return self.expand(F.gelu(self.reduce(pooled))).unflatten(1, self.weight.shape[:2]).softmax(1)


class Attention(nn.Module):
    """The paper's overlapping spatial reduction attention (OSRA): keys and values are of a reduced feature map.

    Args:
        channels: C.
        num_heads: Divides C.
        sr_ratio: Side of a key by that of a query.
    """

    def __init__(self, channels: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Pointwise(channels, channels)
        self.kv = Pointwise(channels, 2 * channels)
        self.local = Depthwise(channels, 3)
        self.reduce = None
        if sr_ratio > 1:
            self.reduce = nn.Sequential(
                ConvNorm(channels, channels, sr_ratio + 3, sr_ratio, groups=channels),
                nn.GELU(),
                ConvNorm(channels, channels, groups=channels),
            )

    def forward(self, x: Tensor, bias: PositionBias) -> Tensor:
        """(B, C, H, W) -> the same."""
        return attend(*self.qkv(x), bias).transpose(2, 3).reshape(x.shape)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> queries, keys and values, (B, heads, places, channels of a head) each."""
        reduced = x if self.reduce is None else self.reduce(x)
        reduced = self.local.with_shortcut(reduced)
        q, k, v = (self._heads(y) for y in (self.q(x), *self.kv(reduced).chunk(2, dim=1)))
        return q, k, v

    def _heads(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H * W, channels of a head)."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)


class Exchange(nn.Sequential):
    """The paper's squeezed token enhancer (STE): a depthwise and two 1x1 convolutions.

    Args:
        channels: C.
        inner: Channels between the 1x1 convolutions.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__(
            *(Depthwise(channels, 3), nn.GELU(), nn.BatchNorm2d(channels)),
            *(Pointwise(channels, inner), nn.GELU(), nn.BatchNorm2d(inner)),
            *(Pointwise(inner, channels), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        depthwise, _, norm1, reduce, _, norm2, expand, norm3 = self
        x = gelu_norm(depthwise(x), norm1)
        return norm3(expand(gelu_norm(reduce(x), norm2)))


class DualMixer(nn.Module):
    """The paper's dual dynamic token mixer (D-Mixer): a dynamic convolution of one half of the channels and attention
    of the other, then convolutions that tell each other what the halves found.

    Args:
        channels: C.
        num_banks: Of the dynamic convolution.
        num_heads: Of the attention.
        sr_ratio: Of the attention.
    """

    def __init__(self, channels: int, num_banks: int = 2, num_heads: int = 1, sr_ratio: int = 1) -> None:
        super().__init__()
        self.local = DynamicConvolution(channels // 2, num_banks)
        self.attention = Attention(channels // 2, num_heads, sr_ratio)
        self.proj = Exchange(channels, max(16, channels // 8))

    def forward(self, x: Tensor, bias: PositionBias) -> Tensor:
        """(B, C, H, W) -> the same."""
        local, other = x.chunk(2, dim=1)
        x = torch.cat((self.local(local), self.attention(other, bias)), dim=1)
        return x + self.proj(x)


class Mlp(nn.Module):
    """The paper's multi-scale feed-forward network: two 1x1 convolutions, between them depthwise ones of four sizes.

    Args:
        channels: C.
        ratio: Hidden channels by C.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * channels
        quarter = hidden // 4
        self.fc1 = Pointwise(channels, hidden, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        widths = (hidden - 3 * quarter, quarter, quarter, quarter)
        self.depthwise = nn.ModuleList(Depthwise(n, size) for n, size in zip(widths, (1, 3, 5, 7), strict=True))
        self.norm2 = nn.BatchNorm2d(hidden)
        self.fc2 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = gelu_norm(self.fc1(x), self.norm1)
        parts = x.split([conv.out_channels for conv in self.depthwise], dim=1)
        x = torch.cat([conv.with_shortcut(part) for conv, part in zip(self.depthwise, parts, strict=True)], dim=1)
        return self.fc2(gelu_norm(x, self.norm2))


class Scale(nn.Module):
    """A factor, 1e-5 at first, and a bias for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1, 1), 1e-5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], x, self.weight[..., 0])


# Feature maps of as many tokens let their MLPs compute anew in the backward pass what would fill most of the memory:
# seven maps of four times the channels.
_LARGE = 64 * 64


class Block(nn.Module):
    """A position embedding, a token mixer and an MLP, each with a shortcut, the latter two after a norm.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        drop_path_rate: Drop path of mixer and MLP.
        mixer: Built with C; called with the normalised feature map (B, C, H, W) and the `PositionBias` of the stage.
    """

    def __init__(
        self, channels: int, mlp_ratio: int, drop_path_rate: float, mixer: type[nn.Module] = DualMixer
    ) -> None:
        super().__init__()
        self.position = Depthwise(channels, 7)
        self.norm1 = _norm(channels)
        self.mixer = mixer(channels)
        self.scale1 = Scale(channels)
        self.norm2 = _norm(channels)
        self.mlp = Mlp(channels, mlp_ratio)
        self.scale2 = Scale(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, bias: PositionBias) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = self.position.with_shortcut(x)
        x = self.drop_path(x, self.scale1(self.mixer(self.norm1(x), bias)))
        y = self.norm2(x)
        large = not torch.compiler.is_compiling() and y.shape[2] * y.shape[3] >= _LARGE
        return self.drop_path(x, self.scale2(recompute(self.mlp, y) if large else self.mlp(y)))


class BiasedStage(Stage):
    """Blocks that share a position bias.

    Args:
        downsample, blocks: As of `Stage`.
        bias: Shape (1, heads, queries, keys) of the bias.
        sr_ratio: Side of a key by that of a query.
        resize: `resize_flat` or `resize_grid`.
    """

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Iterable[nn.Module],
        bias: tuple[int, int, int, int],
        sr_ratio: int,
        resize: Any,
    ) -> None:
        super().__init__(downsample, blocks)
        self.bias = nn.Parameter(torch.zeros(bias))
        self.sr_ratio = sr_ratio
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        size = x.shape[2:]
        bias = self.resize(self.bias, tuple(size), tuple((n + self.sr_ratio - 1) // self.sr_ratio for n in size))
        for block in self.blocks:
            x = self.run(block, x, bias)
        return x


def _size(
    depths: list[int], channels: list[int], num_heads: list[int], num_banks: list[int], mlp_ratios: list[int]
) -> dict[str, Any]:
    return dict(
        depths=depths,
        channels=channels,
        num_heads=num_heads,
        num_banks=num_banks,
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=mlp_ratios,
        image_size=224,
    )


_RELEASE = 'https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-{}.pth.tar'


@MODELS.register_module()
class TransXNet(Backbone):
    """TransXNet, of [TransXNet](https://arxiv.org/abs/2310.19380) (TNNLS 2025).

    A forward pass of one sample in training takes the running statistics for the batch norms of a single value.

    Args:
        arch: A named size, ``'t'``, ``'s'``, ``'b'``, or a dict with exactly these keys, a list of four for the stages
            each unless said: ``depths``; ``channels``; ``num_heads``, which divide half of the channels; ``num_banks``
            of the dynamic convolutions; ``sr_ratios``, side of a key by that of a query; ``mlp_ratios``, hidden
            channels of the MLPs by the channels; ``image_size`` (one number), of the square images that the position
            biases are built for.
        bias_resize: How position biases are resized to other images. ``'flat'`` is the authors' way, which their
            weights expect: flattened maps are resized as if they had one axis, so that on maps of another width a
            query meets other keys than in training. ``'grid'`` keeps places where they are, and gives other numbers.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval, out_norms: As in
            `Backbone`; `parts` are ``block`` as `Block` and ``mixer`` as `DualMixer`, whose `num_banks`, `num_heads`
            and `sr_ratio` a class of yours may name too.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import TransXNet
        >>> [tuple(y.shape) for y in TransXNet('t')(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 224, 4, 6), (1, 448, 2, 3)]
    """

    TITLE = 'TransXNet'
    SIZES: ClassVar = {
        't': _size([3, 3, 9, 3], [48, 96, 224, 448], [1, 2, 4, 8], [2, 2, 2, 2], [4, 4, 4, 4]),
        's': _size([4, 4, 12, 4], [64, 128, 320, 512], [1, 2, 5, 8], [2, 2, 3, 4], [6, 6, 4, 4]),
        'b': _size([4, 4, 21, 4], [76, 152, 336, 672], [2, 4, 8, 16], [2, 2, 4, 4], [8, 8, 4, 4]),
    }
    PARTS: ClassVar = {'block': Block, 'mixer': DualMixer}
    PUBLISHED = Published(
        signature='patch_embed.proj.conv.weight',
        renames=(
            (r'classifier\.0\.', 'norm3.'),
            (r'(patch_embed|network|relative_pos_enc|norm\d)\..*', lambda match: _own_name(match[0])),
        ),
        head={'classifier.2.': 'head.fc.'},
        # What their evaluation reads. EMA weights stand beside it in some files.
        containers=('state_dict', 'model'),
        links={
            **{f'transxnet_{size}_in1k': _RELEASE.format(size) for size in 'tsb'},
            'transxnet_b_384_in1k': _RELEASE.format('b-384'),
        },
    )
    NORM = _norm
    NO_DECAY = ('.bias',)  # of positions and of the dynamic convolutions, which have several axes

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool | None = None,
        with_cp: bool = False,
        in_channels: int = 3,
        parts: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
        out_norms: bool = True,
        bias_resize: str = 'flat',
    ) -> None:
        resizes = {'flat': resize_flat, 'grid': resize_grid}
        if bias_resize not in resizes:
            raise InputError(f"bias_resize must be 'flat', as the authors do it, or 'grid', not {bias_resize!r}")
        self._resize = resizes[bias_resize]
        super().__init__(
            arch,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            in_channels=in_channels,
            parts=parts,
            init_cfg=init_cfg,
            out_norms=out_norms,
        )

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        for i, (channels, heads) in enumerate(zip(arch['channels'], arch['num_heads'], strict=True)):
            if channels % (2 * heads) or channels < 8:
                raise InputError(
                    f'stage {i} has {channels} channels and {heads} heads: channels must be a multiple of twice the '
                    'heads, and 8 or more'
                )

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        return ConvNorm(self.in_channels, arch['channels'][0], 7, stride=4)

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels, heads, sr_ratio = arch['channels'][i], arch['num_heads'][i], arch['sr_ratios'][i]
        downsample = ConvNorm(arch['channels'][i - 1], channels, 3, stride=2) if i else None
        settings = dict(num_banks=arch['num_banks'][i], num_heads=heads, sr_ratio=sr_ratio)
        mixer = self.part('mixer', i, **settings)
        blocks = (self.part('block', i)(channels, arch['mlp_ratios'][i], rate, mixer=mixer) for rate in rates)
        side = -(-arch['image_size'] // 2 ** (i + 2))
        shape = (1, heads, side**2, (-(-side // sr_ratio)) ** 2)
        return BiasedStage(downsample, blocks, shape, sr_ratio, self._resize)

    @staticmethod
    def draw(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, DynamicConvolution)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, DynamicConvolution):
            nn.init.trunc_normal_(module.bias, std=0.02)

    def adapt(self, weights: dict[str, Tensor]) -> None:
        for i, stage in enumerate(self.stages):
            name, own = f'stages.{i}.bias', stage.bias
            given = weights.get(name)
            if given is None or given.ndim != 4 or given.shape == own.shape or given.shape[1] != own.shape[1]:
                continue
            sides = (round(n**0.5) for n in own.shape[2:])
            queries, keys = ((side, side) for side in sides)
            weights[name] = self._resize(given, queries, keys).part(0, own.shape[2])[None]
            print_log(f'TransXNet: resized {name} from {tuple(given.shape)} to {tuple(own.shape)}', 'current')


# Parts of the authors' names -> ours, in this order.
_NAMES = (
    ('patch_embed.proj.', 'stem.'),
    ('.pos_embed.', '.position.'),
    ('.token_mixer.local_unit.proj.0.', '.mixer.local.reduce.'),
    ('.token_mixer.local_unit.proj.1.', '.mixer.local.expand.'),
    ('.token_mixer.local_unit.', '.mixer.local.'),
    ('.token_mixer.global_unit.sr.0.', '.mixer.attention.reduce.0.'),
    ('.token_mixer.global_unit.sr.1.', '.mixer.attention.reduce.2.'),
    ('.token_mixer.global_unit.local_conv.', '.mixer.attention.local.'),
    ('.token_mixer.global_unit.', '.mixer.attention.'),
    ('.token_mixer.', '.mixer.'),
    ('.mlp.fc1.0.', '.mlp.fc1.'),
    ('.mlp.fc1.2.', '.mlp.norm1.'),
    ('.mlp.dwconv.proj.', '.mlp.depthwise.'),
    ('.mlp.norm.', '.mlp.norm2.'),
    ('.mlp.fc2.0.', '.mlp.fc2.conv.'),
    ('.mlp.fc2.1.', '.mlp.fc2.norm.'),
    ('.layer_scale_', '.scale'),
    ('.bn.', '.norm.'),
)


def _own_name(name: str) -> str:
    """The authors' name of a parameter -> ours. Even entries of their network are stages, odd ones downsample."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    name = re.sub(r'^network\.([135])\.proj\.', lambda m: f'stages.{(int(m[1]) + 1) // 2}.downsample.', name)
    name = re.sub(r'^network\.([0246])\.(\d+)\.', lambda m: f'stages.{int(m[1]) // 2}.blocks.{m[2]}.', name)
    name = re.sub(r'^norm([0246])\.', lambda m: f'norm{int(m[1]) // 2}.', name)
    return re.sub(r'^relative_pos_enc\.(\d)$', r'stages.\1.bias', name)
