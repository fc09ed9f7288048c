"""Figures of spectral mixers: which frequencies of a feature map they let through for an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor
from torch.nn import functional as F

from mmatm.models import DSM, AFFNet, Backbone, CDFFormer, DFFormer
from mmatm.models.affnet import AdaptiveFrequencyFilter
from mmatm.models.dfformer import DynamicFilter
from mmatm.models.dsm import SpectrumMixer
from mmatm.ops.spectral import cosine_bands, map_channels, rfft2

from .features import Features, find_parts

SpectralMixer = DynamicFilter | SpectrumMixer | AdaptiveFrequencyFilter

_SIDE = 2.0  # inches of a panel


@dataclass(frozen=True)
class Filters:
    """What a mixer does to the M channels of one map, by frequency, in the order of `torch.fft.fft2` or of `dct2`.

    Attributes:
        gain: (M, H, W), what the size of each frequency is multiplied by.
        parts: (F, H, W), the gains of the filters or bands that a channel's is mixed of; F is 0 if there are none.
        shares: (F,), how much of each part a channel gets, on average.
        is_fourier: Whether the frequencies are those of the Fourier transform, else of the cosine transform.
    """

    gain: Tensor
    parts: Tensor
    shares: Tensor
    is_fourier: bool


def find_mixers(backbone: Backbone) -> dict[str, SpectralMixer]:
    """The layers that have a spectral mixer, and their mixers.

    Raises:
        InputError: No layer has one.
    """
    *others, last = (kind.TITLE for kind in (DFFormer, CDFFormer, DSM, AFFNet))
    return find_parts(backbone, SpectralMixer, f'only {", ".join(others)} and {last} have spectral mixers')


def last_of_stages(layers: Sequence[str]) -> list[str]:
    """Of some layers the last one of each stage."""
    return list({layer.split('.')[1]: layer for layer in layers}.values())


@torch.no_grad()
def filters_of(mixer: SpectralMixer, x: Tensor) -> Filters:
    """What a mixer does to the only map of a batch.

    Args:
        mixer: The mixer.
        x: What it is called with: (1, H, W, C), or of AFFNet (1, C, H, W).
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    if isinstance(mixer, AdaptiveFrequencyFilter):
        x = x.to(exact)
        w1, b1, w2, b2 = (each.to(x.dtype) for each in (mixer.w1, mixer.b1, mixer.w2, mixer.b2))
        z = map_channels(mixer._activate(map_channels(rfft2(x), w1, b1)), w2, b2)
        gain = fourier_gain(F.softshrink(z, mixer.SHRINK)[0], x.shape[-1])
        return Filters(gain, gain[:0], gain.new_empty(0), is_fourier=True)
    height, width = x.shape[1:3]
    if isinstance(mixer, DynamicFilter):
        share = mixer.selector(x)[0].to(exact).softmax(-1)
        bank = mixer.filters(height, width // 2 + 1).to(exact)
        mixed = (share @ bank.flatten(1)).unflatten(1, bank.shape[1:])
        return Filters(fourier_gain(mixed, width), fourier_gain(bank, width), share.mean(0), is_fourier=True)
    share = 2 * mixer.selector(x)[0].to(exact).sigmoid()
    bands = cosine_bands(height, width, mixer.selector.num_filters, exact, x.device)
    return Filters((share @ bands.flatten(1)).unflatten(1, bands.shape[1:]), bands, share.mean(0), is_fourier=False)


def fourier_gain(filters: Tensor, width: int) -> Tensor:
    """The gain of each frequency of real maps, in the whole spectrum.

    Args:
        filters: Of half spectra, (..., H, W // 2 + 1, 2).
        width: W.

    Returns:
        (..., H, W), in the order of `torch.fft.fft2`.
    """
    z = torch.view_as_complex(filters.contiguous()).clone()
    # The transform back takes the mean of what these columns hold of a frequency and of its mirror image.
    both = [0, width // 2] if width % 2 == 0 else [0]
    z[..., both] = (z[..., both] + _mirrored(z[..., both]).conj()) / 2
    half = z.abs()
    return torch.cat((half, _mirrored(half[..., 1 : (width + 1) // 2]).flip(-1)), dim=-1)


def _mirrored(x: Tensor) -> Tensor:
    """(..., H, columns), row h -> row -h."""
    return x.flip(-2).roll(1, -2)


def draw_filters(features: Features, layers: Sequence[str]) -> Figure:
    """What the spectral mixers of some layers let through, on average over channels, and what that is mixed of.

    A row for each layer. The gain has colours of its own, the parts beside it share theirs.

    Args:
        features: Of an image.
        layers: Of `find_mixers`.

    Raises:
        InputError: The backbone has no spectral mixers.
    """
    mixers = find_mixers(features.backbone)
    recorded = {layer: filters_of(mixers[layer], features.given(layer, mixers[layer])[0]) for layer in layers}
    columns = 1 + max(len(filters.parts) for filters in recorded.values())
    figure = Figure((_SIDE * columns + 2.2, (_SIDE + 0.45) * len(recorded) + 0.3), layout='constrained')
    grid = figure.subplots(len(recorded), columns, squeeze=False)
    for row, (name, filters) in zip(grid, recorded.items(), strict=True):
        height, width = filters.gain.shape[1:]
        shown = _draw(row[0], filters.gain.mean(0).cpu().numpy(), filters.is_fourier)
        row[0].set_title('mean gain' if len(filters.parts) else 'mean gain |m|', fontsize=9)
        row[0].set_ylabel(f'{name}\n{height}x{width} tokens', fontsize=9)
        figure.colorbar(shown, ax=row[0], shrink=0.9).ax.tick_params(labelsize=7)
        top = filters.parts.max().item() if len(filters.parts) else None
        for i, (axes, part, share) in enumerate(zip(row[1:], filters.parts, filters.shares.tolist(), strict=False), 1):
            shown = _draw(axes, part.cpu().numpy(), filters.is_fourier, top)
            axes.set_title(f'filter {i}: {share:.1%}' if filters.is_fourier else f'band {i}: {share:.2f}', fontsize=9)
            axes.tick_params(labelleft=i == 1)
        if top is not None:
            bar = figure.colorbar(shown, ax=row[1 : 1 + len(filters.parts)], shrink=0.9, fraction=0.02, pad=0.01)
            bar.ax.tick_params(labelsize=7)
        for axes in row[1 + len(filters.parts) :]:
            axes.set_axis_off()
    figure.supxlabel('frequency along rows and columns, in cycles per token', fontsize=9)
    return figure


def _draw(axes: Axes, gain: np.ndarray, is_fourier: bool, top: float | None = None) -> AxesImage:
    """Draws a gain (H, W) from 0 to a top, by default its own; the zero frequency is in the middle or upper left."""
    frequencies = [np.fft.fftshift(np.fft.fftfreq(n)) if is_fourier else np.arange(n) / (2 * n) for n in gain.shape]
    steps = [(1 if is_fourier else 0.5) / n for n in gain.shape]
    (upper, lower), (left, right) = (
        (f[0] - step / 2, f[-1] + step / 2) for f, step in zip(frequencies, steps, strict=True)
    )
    shown = axes.imshow(
        np.fft.fftshift(gain) if is_fourier else gain,
        cmap='viridis',
        vmin=0,
        vmax=top,
        extent=(left, right, lower, upper),
        aspect='auto',
        interpolation='nearest',
    )
    ticks = [-0.25, 0, 0.25] if is_fourier else [0, 0.25]
    axes.set(xticks=ticks, yticks=ticks, xlim=(left, right), ylim=(lower, upper), box_aspect=1)
    axes.tick_params(labelsize=6, length=2)
    return shown
