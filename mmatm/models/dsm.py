"""DSM: this project's reading of the abstract of "Dynamic Spectrum Mixer for Visual Recognition", of which neither text
nor code is public. It is not the authors' network, and their accuracy says nothing of it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmatm.ops.spectral import COSINE, cosine_bands, filter_planes
from mmatm.registry import MODELS

from .spectral_skeleton import Selector, SpectralBackbone, StarReLU, narrow, widen


class SpectrumMixer(nn.Module):
    """Weights the bands of frequencies of each channel, as each image asks for; a reading of the paper's abstract.

    With M = 2C hidden channels, K bands that sum to 1 at each frequency, the cosine transform D and linear layers
    without bias,

        out = W2 D^-1(D(StarReLU(W1 x)) * sum of t_k * band_k over k),    t = 2 sigmoid(R(mean of x))

    A map is mirrored at its borders for it. At first t is 1, and all bands pass.

    Args:
        channels: C.
        num_bands: K.
    """

    def __init__(self, channels: int, num_bands: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * channels, bias=False)
        self.act = StarReLU()
        self.selector = Selector(channels, num_bands, 2 * channels)
        self.fc2 = nn.Linear(2 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        share = 2 * self.selector(x).sigmoid()
        exact = torch.promote_types(x.dtype, torch.float32)
        bands = cosine_bands(x.shape[1], x.shape[2], self.selector.num_filters, exact, x.device)
        y = filter_planes(widen(self.fc1, x), self.act.scale, self.act.bias, share, bands, COSINE)
        return narrow(self.fc2, y)

    def init_parameters(self) -> None:
        nn.init.zeros_(self.selector.fc2.weight)


@MODELS.register_module()
class DSM(SpectralBackbone):
    """A reading of the abstract of [Dynamic Spectrum Mixer](https://arxiv.org/abs/2309.06721), by this project.

    The paper's network is not public beyond its abstract. This one has DFFormer's skeleton and mixers as its abstract
    describes them; there are no published weights for it, and the paper's accuracy is not its.

    Args:
        arch: A named size, ``'s18'``, ``'s36'``, or a dict with exactly these keys, a list of four for the stages each
            unless said: ``depths``; ``channels``, 4 or more; ``mlp_ratios``, hidden channels of the MLPs by those;
            ``num_bands`` (one number) of frequencies that are weighted.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval, out_norms: As in
            `Backbone`; `parts` are ``block`` as `Block` and ``mixer`` as `SpectrumMixer`, whose `num_bands` a class of
            yours may name too.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import DSM
        >>> [tuple(y.shape) for y in DSM('s18')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'DSM reading'
    SIZES: ClassVar = {
        size: dict(depths=depths, channels=[64, 128, 320, 512], mlp_ratios=[4, 4, 4, 4], num_bands=8)
        for size, depths in (('s18', [3, 3, 9, 3]), ('s36', [3, 12, 18, 3]))
    }
    PARTS: ClassVar = {**SpectralBackbone.PARTS, 'mixer': SpectrumMixer}

    def mixer_settings(self, i: int, arch: Mapping[str, Any]) -> dict[str, Any]:
        return dict(num_bands=arch['num_bands'])
