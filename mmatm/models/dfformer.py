"""DFFormer and CDFFormer, the backbones of "FFT-based Dynamic Token Mixer for Vision"."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.ops.depthwise import depthwise
from mmatm.ops.spectral import FOURIER, filter_planes, resize_bank
from mmatm.registry import MODELS

from .loading import Published
from .spectral_skeleton import Selector, SpectralBackbone, StarReLU, narrow, widen


class DynamicFilter(nn.Module):
    """A global filter of the frequencies of each channel, mixed for each image of a few filters (section 3.2 of the
    paper). With M = 2C hidden channels, F filters and linear layers without bias,

        out = W2 irfft2(rfft2(StarReLU(W1 x)) * sum of t_f * filter_f over f),    t = softmax over f of R(mean of x)

    A map is periodic for it: its left border meets its right one, its top the bottom.

    Args:
        channels: C.
        num_filters: F.
        bank: Rows and columns of the spectrum that the filters are kept for. Other spectra get them resized: in
            training at each pass; without gradients, on a CPU, those of the latest size are kept.
    """

    def __init__(self, channels: int, num_filters: int = 4, bank: tuple[int, int] = (56, 29)) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * channels, bias=False)
        self.act = StarReLU()
        self.selector = Selector(channels, num_filters, 2 * channels)
        self.bank = nn.Parameter(torch.empty(*bank, num_filters, 2))
        self.fc2 = nn.Linear(2 * channels, channels, bias=False)
        self._kept: tuple[Tensor | None, Tensor | None] = (None, None)

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        share = self.selector(x).softmax(-1)
        basis = self.filters(x.shape[1], x.shape[2] // 2 + 1)
        y = filter_planes(widen(self.fc1, x), self.act.scale, self.act.bias, share, basis, FOURIER)
        return narrow(self.fc2, y)

    def filters(self, height: int, columns: int) -> Tensor:
        """The filters of a spectrum, (F, height, columns, 2)."""
        kept, resized = self._kept
        # Whether the weights have changed is seen by their values, as not all changes leave a mark on a tensor. On a
        # GPU to ask takes longer than to resize.
        keeps = not (torch.is_grad_enabled() or torch.compiler.is_compiling()) and self.bank.device.type == 'cpu'
        if keeps and kept is not None and resized.shape[1:3] == (height, columns) and torch.equal(kept, self.bank):
            return resized
        resized = resize_bank(self.bank, height, columns).permute(2, 0, 1, 3).contiguous()
        if keeps:
            self._kept = self.bank.detach().clone(), resized
        return resized

    def init_parameters(self) -> None:
        nn.init.normal_(self.bank, std=0.02)


class SeparableConvolution(nn.Module):
    """A depthwise 7x7 convolution between two linear layers without bias: W2 DW(StarReLU(W1 x)).

    Args:
        channels: C; 2C between the linear layers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * channels, bias=False)
        self.act = StarReLU()
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 7, padding=3, groups=2 * channels, bias=False)
        self.fc2 = nn.Linear(2 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        if x.is_cpu and not torch.is_grad_enabled():
            # PyTorch's convolution of channels last is the fastest in inference; its gradients are slow.
            y = self.depthwise(self.act(self.fc1(x)).permute(0, 3, 1, 2))
            return self.fc2(y.permute(0, 2, 3, 1))
        y = self.act(widen(self.fc1, x))
        return narrow(self.fc2, depthwise(y, self.depthwise.weight[:, 0].contiguous(), None))


def _size(depths: list[int], channels: list[int]) -> dict[str, Any]:
    return dict(depths=depths, channels=channels, mlp_ratios=[4, 4, 4, 4], num_filters=4)


_RELEASE = 'https://github.com/okojoalg/dfformer/releases/download/weights/{}.pth'


def _published(name: str) -> Published:
    return Published(
        signature='downsample_layers.0.conv.weight',
        renames=((r'(downsample_layers|stages)\..*', lambda match: _own_name(match[0])),),
        head={'norm.': 'neck.norm1.', 'head.fc1.': 'neck.fc.', 'head.norm.': 'neck.norm2.', 'head.fc2.': 'head.fc.'},
        links={f'{name}_{size}_in1k': _RELEASE.format(f'{name}_{size}') for size in ('s18', 's36', 'm36', 'b36')},
    )


@MODELS.register_module()
class DFFormer(SpectralBackbone):
    """DFFormer, of [FFT-based Dynamic Token Mixer for Vision](https://arxiv.org/abs/2303.03932) (AAAI 2024).

    Args:
        arch: A named size, ``'s18'``, ``'s36'``, ``'m36'``, ``'b36'``, or a dict with exactly these keys, a list of
            four for the stages each unless said: ``depths``; ``channels``, 4 or more; ``mlp_ratios``, hidden channels
            of the MLPs by those; ``num_filters`` (one number) that a filter is mixed of.
        bank_size: Side of the square images whose spectra the filters are kept for, as they are learned and stored.
            Other spectra get them resized at each size. A checkpoint of other filters is resized once more when it is
            loaded: 512 and 800 do that to the authors' ImageNet checkpoints, of 224, as their segmenters and detectors
            do before they are trained. 224 keeps what a checkpoint holds, and gives slightly other numbers.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval, out_norms: As in
            `Backbone`; `parts` are ``block`` as `Block` and ``mixer`` as `DynamicFilter`, whose `num_filters` and
            `bank` a class of yours may name too.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import DFFormer
        >>> [tuple(y.shape) for y in DFFormer('s18')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'DFFormer'
    SIZES: ClassVar = {
        's18': _size([3, 3, 9, 3], [64, 128, 320, 512]),
        's36': _size([3, 12, 18, 3], [64, 128, 320, 512]),
        'm36': _size([3, 12, 18, 3], [96, 192, 384, 576]),
        'b36': _size([3, 12, 18, 3], [128, 256, 512, 768]),
    }
    PARTS: ClassVar = {**SpectralBackbone.PARTS, 'mixer': DynamicFilter}
    PUBLISHED = _published('dfformer')

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
        bank_size: int = 224,
    ) -> None:
        if not isinstance(bank_size, int) or bank_size < self.MIN_SIZE:
            raise InputError(f'bank_size must be a whole number of {self.MIN_SIZE} pixels or more, not {bank_size}')
        self._bank_size = bank_size
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

    def mixer_settings(self, i: int, arch: Mapping[str, Any]) -> dict[str, Any]:
        side = self.map_side(self._bank_size, i)
        return dict(num_filters=arch['num_filters'], bank=(side, side // 2 + 1))

    def adapt(self, weights: dict[str, Tensor]) -> None:
        resized = {}
        for name, own in self.named_parameters():
            given = weights.get(name)
            if name.endswith('.bank') and given is not None and given.ndim == 4 and given.shape[2:] == own.shape[2:]:
                weights[name] = resize_bank(given, *own.shape[:2])
                if given.shape != own.shape:
                    resized[tuple(given.shape[:2])] = tuple(own.shape[:2])
        if resized:
            sizes = ', '.join(f'{h}x{w} to {to_h}x{to_w}' for (h, w), (to_h, to_w) in resized.items())
            print_log(f'{self.TITLE}: resized the banks of filters from {sizes}', 'current')


@MODELS.register_module()
class CDFFormer(DFFormer):
    """CDFFormer, of [FFT-based Dynamic Token Mixer for Vision](https://arxiv.org/abs/2303.03932) (AAAI 2024): as
    `DFFormer`, with depthwise convolutions in place of filters in stages 0 and 1.

    Args:
        arch: As of `DFFormer`.
        bank_size: As of `DFFormer`.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval, out_norms: As of
            `DFFormer`; the ``mixer`` of stages 0 and 1 is `SeparableConvolution`.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import CDFFormer
        >>> [tuple(y.shape) for y in CDFFormer('s18')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'CDFFormer'
    PARTS: ClassVar = {
        **SpectralBackbone.PARTS,
        'mixer': (SeparableConvolution, SeparableConvolution, DynamicFilter, DynamicFilter),
    }
    PUBLISHED = _published('cdfformer')


# Parts of the authors' names -> ours.
_NAMES = (
    ('.token_mixer.', '.mixer.'),
    ('.pwconv1.', '.fc1.'),
    ('.act1.', '.act.'),
    ('.reweight.', '.selector.'),
    ('.complex_weights', '.bank'),
    ('.dwconv.', '.depthwise.'),
    ('.pwconv2.', '.fc2.'),
    ('.res_scale1.scale', '.scale1'),
    ('.res_scale2.scale', '.scale2'),
    ('.pre_norm.', '.norm.'),
    ('.post_norm.', '.norm.'),
)


def _own_name(name: str) -> str:
    """The authors' name of a parameter -> ours."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    name = name.replace('downsample_layers.0.', 'stem.')
    name = re.sub(r'^downsample_layers\.(\d)\.', r'stages.\1.downsample.', name)
    return re.sub(r'^stages\.(\d)\.(\d)', r'stages.\1.blocks.\2', name)
