"""MetaFormer: one plain skeleton for every token mixer, in which mixers are compared."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.registry import MODELS, TOKEN_MIXERS

from .backbone import Backbone
from .layers import DropPath, LayerNorm2d, Pointwise
from .options import NUM_STAGES
from .stage import Stage
from .token_mixers import Pooling


class Mlp(nn.Sequential):
    """A 1x1 convolution, GELU and another 1x1 convolution.

    Args:
        channels: C.
        ratio: Hidden channels by C.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__(Pointwise(channels, ratio * channels), nn.GELU(), Pointwise(ratio * channels, channels))


class Block(nn.Module):
    """A token mixer and an MLP, each after a layer norm over the channels and with a shortcut.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        drop_path_rate: Drop path of both branches.
        mixer: Built with C; called with the normalised feature map (B, C, H, W).
    """

    def __init__(self, channels: int, mlp_ratio: int, drop_path_rate: float, mixer: type[nn.Module] = Pooling) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.mixer = mixer(channels)
        self.norm2 = LayerNorm2d(channels)
        self.mlp = Mlp(channels, mlp_ratio)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = self.drop_path(x, self.mixer(self.norm1(x)))
        return self.drop_path(x, self.mlp(self.norm2(x)))


def _size(depths: list[int], channels: list[int]) -> dict[str, Any]:
    return dict(depths=depths, channels=channels, mlp_ratios=[4, 4, 4, 4])


@MODELS.register_module()
class MetaFormer(Backbone):
    """The plain skeleton of [MetaFormer Is Actually What You Need for Vision](https://arxiv.org/abs/2111.11418), for
    any token mixer.

    All parameters are initialised as PyTorch does, but for those that a mixer initialises itself. There is no layer
    scale, so that a mixer is at work from the first step.

    Args:
        arch: A named size, ``'s12'``, ``'s18'``, ``'mini'``, or a dict with exactly these keys, a list of four for the
            stages each: ``depths``; ``channels``; ``mlp_ratios``, hidden channels of the MLPs by those.
        token_mixer: The name of a mixer in `mmatm.registry.TOKEN_MIXERS`, or a list of four for the stages. Those of
            this project are in mmatm/models/token_mixers.py; docs/mixers.md shows how one of yours takes part.
        image_size: Side of the square images, in pixels, that a mixer's parameters are built for, where they depend on
            it. Others are taken all the same.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval, out_norms: As in
            `Backbone`; `parts` are ``block`` as `Block` and ``mixer``, a class in place of `token_mixer`.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import MetaFormer
        >>> [tuple(y.shape) for y in MetaFormer('s12', token_mixer='cycle')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'MetaFormer'
    SIZES: ClassVar = {
        's12': _size([2, 2, 6, 2], [64, 128, 320, 512]),
        's18': _size([3, 3, 9, 3], [64, 128, 320, 512]),
        'mini': _size([2, 2, 4, 2], [32, 64, 96, 128]),
    }
    PARTS: ClassVar = {'block': Block, 'mixer': Pooling}
    NORM = LayerNorm2d

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
        token_mixer: str | Sequence[str] = 'pooling',
        image_size: int = 224,
    ) -> None:
        if not isinstance(image_size, int) or image_size < self.MIN_SIZE:
            raise InputError(f'image_size must be a whole number of {self.MIN_SIZE} pixels or more, not {image_size}')
        self._image_size = image_size
        # What `parts` replaces is this network's, not the class's.
        self.PARTS = {**type(self).PARTS, 'mixer': _find_mixers(token_mixer)}
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

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Conv2d(self.in_channels, arch['channels'][0], 7, stride=4, padding=2)

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels = arch['channels'][i]
        downsample = nn.Conv2d(arch['channels'][i - 1], channels, 3, stride=2, padding=1) if i else None
        side = -(-((self._image_size - 3) // 4 + 1) // 2**i)
        mixer = self.part('mixer', i, stage=i, side=side)
        block = self.part('block', i)
        return Stage(downsample, (block(channels, arch['mlp_ratios'][i], rate, mixer=mixer) for rate in rates))


def _find_mixers(names: str | Sequence[str]) -> tuple[type[nn.Module], ...]:
    """The mixer of each stage.

    Raises:
        InputError: A name that is not registered, or a list of another length than four.
    """
    each = list(names) if isinstance(names, (list, tuple)) else [names] * NUM_STAGES
    if len(each) != NUM_STAGES:
        raise InputError(f'token_mixer is one name, or a list of {NUM_STAGES}, not of {len(each)}')
    for name in each:
        if not name or not isinstance(name, str) or TOKEN_MIXERS.get(name) is None:
            raise InputError(
                f'there is no token mixer {name!r}; there are {", ".join(TOKEN_MIXERS.module_dict)}. One of yours is '
                'registered by @mmatm.registry.TOKEN_MIXERS.register_module(NAME), in a file that custom_imports of '
                'the config names'
            )
    return tuple(TOKEN_MIXERS.get(name) for name in each)
