#!/usr/bin/env python
"""Measures how the time of a training step of ATMNet-xT grows with images, pixels and processes on a CPU, for
docs/benchmarks.md, and computes on paper what many GPUs would have to send."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from mmatm.benchmark.report import split_docs, update_docs
from mmatm.models import ATMNet
from mmatm.utils.environment import environment
from mmatm.utils.markdown import table

RUNS = 5
IMAGES = ((1, 224), (2, 224), (4, 224), (8, 224))  # number, side in pixels
PIXELS = ((1, 128), (1, 256), (1, 384), (1, 512))

# On paper, of UperNet + ATMNet-T on 512x512 crops in bf16: parameters and multiply-accumulates as docs/results.md has
# them (counted at 512x2048), two images a GPU.
PARAMETERS, MACS, BATCH = 57.13e6, 926.25e9 / 4, 2
# What is assumed: operations per second that a GPU reaches, bytes per second of a GPU's link to its node and of its
# share of the network between nodes of eight.
RATE, NODE_LINK, NETWORK_LINK = 200e12, 400e9, 50e9
GPUS = (8, 16, 32, 64, 128, 256, 512)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--docs', type=Path, help='write into benchmarks.md in this directory')
    args = parser.parse_args(arguments)
    if args.docs:
        split_docs(args.docs / 'benchmarks.md', 'scaling')
    seen = ', '.join(f'{key} {value}' for key, value in environment('cpu').items())
    text = '\n\n'.join([f'Seen with: {seen}.', *measured(), on_paper()])
    print(text)
    if args.docs:
        update_docs(args.docs / 'benchmarks.md', 'scaling', text)


def measured() -> list[str]:
    """Tables of times: by images, by pixels, by processes."""
    texts = []
    for title, sizes, number in (('images', IMAGES, lambda n, side: n), ('pixels', PIXELS, lambda n, side: side**2)):
        rows, first = [], 0.0
        for images, side in sizes:
            seconds = time_step(images, side)
            first = first or seconds / number(images, side)
            each = seconds / number(images, side) / first
            rows.append([f'{images} x {side}x{side}', f'{1e3 * seconds:.0f}', f'{each:.2f}'])
        head = ['images', 'ms a step', f'for each of the {title}, by the first row']
        texts.append(table(head, rows))
        print(texts[-1], flush=True)
    one, two = (in_processes(count) for count in (1, 2))
    rows = [['1', f'{1e3 * one:.0f}', '1.00'], ['2', f'{1e3 * two:.0f}', f'{one / two:.2f}']]
    texts.append(table(['processes of one thread, 2 x 224x224 each', 'ms a step', 'efficiency'], rows))
    return texts


def time_step(images: int, side: int, wrap: Callable[[ATMNet], torch.nn.Module] = lambda model: model) -> float:
    """Seconds of a training step with AdamW, the median of some."""
    torch.manual_seed(0)
    model = wrap(ATMNet('xt').train())
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(images, 3, side, side)
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        sum(y.square().mean() for y in model(x)).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def in_processes(count: int) -> float:
    """Seconds of a step in each of some processes, which average their gradients."""
    with multiprocessing.get_context('spawn').Manager() as manager:
        found = manager.list()
        multiprocessing.spawn(_process, (count, found), nprocs=count)
        return max(found)


def _process(rank: int, count: int, found: list[float]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29517')
    distributed.init_process_group('gloo', rank=rank, world_size=count)
    found.append(time_step(2, 224, DistributedDataParallel))
    distributed.destroy_process_group()


def on_paper() -> str:
    """A table of what many GPUs send in a step, against what they compute."""
    compute = 3 * 2 * MACS * BATCH / RATE
    rows = []
    for count in GPUS:
        sent = 2 * 4 * PARAMETERS * (count - 1) / count  # by a ring: each gradient once down and once up
        seconds = sent / (NODE_LINK if count <= 8 else NETWORK_LINK)
        rows.append([
            str(count), str(count * BATCH), f'{sent / 1e6:.0f}', f'{1e3 * seconds:.1f}', f'{1e3 * compute:.1f}',
            f'{seconds / compute:.2f}',
        ])  # fmt: skip
    head = ['GPUs', 'images a step', 'MB sent by each', 'ms to send them', 'ms to compute', 'sent by computed']
    assumed = (
        f'Assumed are {RATE / 1e12:.0f} TFLOP/s of a GPU, {NODE_LINK / 1e9:.0f} GB/s within a node of eight, '
        f'{NETWORK_LINK / 1e9:.0f} GB/s of each GPU between nodes'
    )
    what = 'On paper, UperNet + ATMNet-T, two images of 512x512 a GPU, gradients in float32 by a ring.'
    return f'{what} {assumed}:\n\n{table(head, rows)}'


if __name__ == '__main__':
    main()
