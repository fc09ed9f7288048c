#!/usr/bin/env python
"""Times this project's small operations beside PyTorch's, on the CPU, for docs/decisions.md: milliseconds, medians."""

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mmatm.models.layers import Pointwise
from mmatm.ops.biased_attention import cubic_taps, resize_flat
from mmatm.ops.depthwise import depthwise
from mmatm.ops.spectral import dct2
from mmatm.utils.environment import environment


def main() -> None:
    print(', '.join(f'{key} {value}' for key, value in environment('cpu').items()))
    print('operation | ours | PyTorch')
    for channels, side in ((48, 128), (224, 32), (448, 16)):
        for size in (3, 5, 7):
            compare_depthwise(channels, side, size)
        compare_pointwise(channels, side)
    for length in (7, 14, 28, 56, 128, 200, 336, 512):
        maps = torch.randn(max(1, 2**21 // length**2), length, length)
        compare(
            f'cosine transform of {len(maps)} maps of {length}x{length}, by matrices and by FFT',
            lambda maps=maps: dct2(maps),
            lambda maps=maps: cosine_by_fft(cosine_by_fft(maps).mT).mT,
        )
    table = torch.randn(1, 1, 56**2, 49)
    compare(
        'position bias of 128x128 queries and 16x16 keys',
        lambda: resize_flat(table, (128, 128), (16, 16)),
        lambda: F.interpolate(table, (128**2, 16**2), mode='bicubic'),
    )
    rows = torch.randn(56**2, 256)
    index, weight = cubic_taps(56**2, 128**2, rows.device)
    bags, weights = index.T.contiguous(), weight.T.float().contiguous()
    compare(
        'its rows alone, as an embedding bag and by four index_select',
        lambda: F.embedding_bag(bags, rows, mode='sum', per_sample_weights=weights),
        lambda: sum(rows.index_select(0, i) * w[:, None] for i, w in zip(index, weight.float(), strict=True)),
    )


def compare_depthwise(channels: int, side: int, size: int) -> None:
    x = torch.randn(1, channels, side, side, requires_grad=True)
    weight = torch.randn(channels, size, size, requires_grad=True)

    def ours() -> Tensor:
        return depthwise(x, weight, None)

    def theirs() -> Tensor:
        return F.conv2d(x, weight[:, None], padding=size // 2, groups=channels)

    name = f'depthwise {size}x{size}, {channels} channels of {side}x{side}'
    compare(f'{name}, forward', without_gradient(ours), without_gradient(theirs))
    compare(f'{name}, both passes', lambda: ours().sum().backward(), lambda: theirs().sum().backward())


def cosine_by_fft(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of rows (..., N), by an FFT of the same length."""
    n = x.shape[-1]
    turns = torch.arange(n // 2 + 1) * (-math.pi / (2 * n))
    z = torch.fft.rfft(torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), dim=-1))
    z = z * torch.polar(torch.full_like(turns, math.sqrt(2 / n)), turns)
    y = torch.cat((z.real, -z.imag[..., 1 : (n + 1) // 2].flip(-1)), dim=-1)
    y[..., 0] *= math.sqrt(0.5)
    return y


def compare_pointwise(channels: int, side: int) -> None:
    conv, x = Pointwise(channels, 4 * channels), torch.randn(1, channels, side, side)
    compare(
        f'1x1, {channels} to {4 * channels} channels at {side}x{side}',
        without_gradient(lambda: conv(x)),
        without_gradient(lambda: F.conv2d(x, conv.weight, conv.bias)),
    )


def without_gradient(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.no_grad()(run)


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(12):  # in turn, so that a change in the machine's speed meets both
        for run, found in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            found.append(1e3 * (time.perf_counter() - start))
    print(f'{name} | {statistics.median(times[0][2:]):.2f} | {statistics.median(times[1][2:]):.2f}')


if __name__ == '__main__':
    main()
