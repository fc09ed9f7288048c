#!/usr/bin/env python
"""Measures how the time of each token mixer grows with the pixels of an image, for docs/benchmarks.md: the exponent p
of time ~ pixels^p, and a chart."""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.benchmark.report import split_docs, update_docs
from mmatm.models.active_token_mixer import ActiveTokenMixer
from mmatm.models.affnet import AdaptiveFrequencyFilter
from mmatm.models.dfformer import DynamicFilter, SeparableConvolution
from mmatm.models.dsm import SpectrumMixer
from mmatm.utils.environment import environment

CHANNELS = 64
SIDES = (128, 192, 256, 384, 512, 768, 1024)  # of images, in pixels; a token is 4x4 of them


class Attention(nn.Module):
    """Self-attention of all tokens, one head of 64 channels, by PyTorch's fused operator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        q, k, v = self.qkv(x.flatten(1, 2)[:, None]).chunk(3, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v)[:, 0]).unflatten(1, x.shape[1:3])


# Name -> what makes the mixer, and its arguments for a map of so many tokens a side.
MIXERS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    'active (ATMNet)': (ActiveTokenMixer, lambda n: (tokens(n), 3 * torch.randn(1, n, n, CHANNELS))),
    'dynamic filter (DFFormer)': (DynamicFilter, lambda n: (tokens(n),)),
    'adaptive frequency filter (AFFNet)': (AdaptiveFrequencyFilter, lambda n: (torch.randn(1, CHANNELS, n, n),)),
    'dynamic spectrum (DSM, a reading)': (SpectrumMixer, lambda n: (tokens(n),)),
    'depthwise 7x7 (CDFFormer)': (SeparableConvolution, lambda n: (tokens(n),)),
    'attention': (Attention, lambda n: (tokens(n),)),
}


def tokens(n: int) -> Tensor:
    return torch.randn(1, n, n, CHANNELS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=3.0, help='for each mixer and size; default: %(default)s')
    parser.add_argument('--docs', type=Path, help='write into benchmarks.md in this directory, and the chart beside it')
    args = parser.parse_args(arguments)
    if args.docs:
        split_docs(args.docs / 'benchmarks.md', 'cost')
    seen = ', '.join(f'{key} {value}' for key, value in environment('cpu').items())
    lines = [
        f'Seen with: {seen}.',
        '',
        f'Milliseconds of one mixer of {CHANNELS} channels, without gradients, on a map of 4x4 pixels a token; the '
        'exponent of pixels is fitted from 256 pixels a side on.',
        '',
        '| mixer | ' + ' | '.join(map(str, SIDES)) + ' | exponent |',
        '| --- ' * (len(SIDES) + 2) + '|',
    ]
    times = {}
    for name, (kind, inputs) in MIXERS.items():
        torch.manual_seed(0)
        mixer = kind(CHANNELS).eval()
        if hasattr(mixer, 'init_parameters'):
            mixer.init_parameters()
        times[name] = [milliseconds(mixer, inputs(side // 4), args.seconds) for side in SIDES]
        lines.append(
            f'| {name} | ' + ' | '.join(f'{ms:.2f}' for ms in times[name]) + f' | {exponent(times[name]):.2f} |'
        )
        print(lines[-1], flush=True)
    text = '\n'.join(lines)
    print(text)
    if args.docs:
        draw(times, args.docs / 'cost.svg')
        update_docs(args.docs / 'benchmarks.md', 'cost', text)


@torch.no_grad()
def milliseconds(mixer: nn.Module, inputs: tuple[Tensor, ...], seconds: float) -> float:
    """The median of as many runs as fit into the time, three at least."""
    mixer(*inputs)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        mixer(*inputs)
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def exponent(times: Sequence[float]) -> float:
    """The slope of log(time) by log(pixels), by least squares."""
    points = [(2 * math.log(side), math.log(ms)) for side, ms in zip(SIDES, times, strict=True) if side >= 256]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def draw(times: dict[str, list[float]], path: Path) -> None:
    """Draws time by pixels on logarithmic axes."""
    matplotlib.use('svg')
    from matplotlib import pyplot

    matplotlib.rcParams['svg.hashsalt'] = 'cost'
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout='constrained')
    for name, ms in times.items():
        axes.loglog(SIDES, ms, marker='o', label=f'{name}: pixels^{exponent(ms):.2f}')
    axes.set_xticks(SIDES, map(str, SIDES))
    axes.minorticks_off()
    axes.set(xlabel='side of the image, pixels', ylabel='one mixer, ms')
    axes.legend(fontsize='small')
    figure.savefig(path, metadata={'Date': None})


if __name__ == '__main__':
    main()
