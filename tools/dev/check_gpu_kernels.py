#!/usr/bin/env python
"""Checks the Triton kernels on a GPU: CUDA's compute-sanitizer looks for accesses that it should not make, and large
maps are computed many times, whose results must have the same bits, close to those of float64.

Of global memory, where the gradient by x is added up between barriers, no sanitizer sees a race: the repeated runs
would show one, as the order of the additions would change."""

import argparse
import os
import shutil
import subprocess
import sys

import torch
from torch import Tensor

from mmatm.errors import InputError
from mmatm.ops import axial_sample
from mmatm.utils.command_line import run
from mmatm.utils.environment import environment

TOOLS = ('memcheck', 'racecheck', 'synccheck', 'initcheck')
# B, H, W, C and the channels of a group: maps as large as ATMNet-T's at 800x1280, and one with lines of odd lengths.
LARGE = ((2, 200, 320, 64, 2), (2, 100, 160, 128, 4), (4, 50, 80, 320, 8), (4, 25, 40, 512, 8), (3, 77, 301, 66, 3))
SMALL = ((1, 7, 19, 12, 2), (2, 1, 33, 24, 8), (1, 35, 1, 16, 4), (1, 9, 5, 6, 3))
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=100, help='of each large map; by default %(default)s')
    parser.add_argument('--small', action='store_true', help='only compute small maps once, to run under a sanitizer')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise InputError('there is no GPU that PyTorch can use')
    if args.small:
        for shape in SMALL:
            for dtype in TYPES:
                _compute(*_inputs(shape, dtype))
        return
    print(environment('cuda'))
    failed = _sanitize()
    for shape in LARGE:
        for dtype in TYPES:
            failed |= _repeat(shape, dtype, args.repeats)
    if failed:
        sys.exit('a check failed')


def _sanitize() -> bool:
    """Runs this file with small maps under each tool; says what it found, and whether anything."""
    if shutil.which('compute-sanitizer') is None:
        print('compute-sanitizer: not installed, so not run')
        return False
    failed = False
    for tool in TOOLS:
        command = ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9', sys.executable, __file__, '--small']
        # Each tensor in memory of its own: within PyTorch's pool no access is seen to be out of bounds.
        own = {**os.environ, 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
        ended = subprocess.run(command, capture_output=True, text=True, env=own)
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        print(f'{tool}: exit status {ended.returncode}; {said[-1] if said else "no output"}', flush=True)
        if ended.returncode:
            print('\n'.join(said[:20]))
        failed |= ended.returncode != 0
    return failed


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, offsets three tokens wide, and gradients of x_w and x_h."""
    *places, channels, size = shape
    generator = torch.Generator('cuda').manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device='cuda')

    x, gradients = normal(*places, channels).to(dtype), normal(2, *places, channels).to(dtype)
    return x, 3 * normal(*places, 2 * channels // size), gradients


def _compute(x: Tensor, offset: Tensor, gradients: Tensor, backend: str = 'triton') -> list[Tensor]:
    """Both maps and the gradients of x and of the offsets."""
    x, offset = x.detach().requires_grad_(), offset.detach().requires_grad_()
    maps = torch.stack(axial_sample(x, offset, backend))
    return [maps.detach(), *torch.autograd.grad(maps, (x, offset), gradients)]


def _repeat(shape: tuple[int, ...], dtype: torch.dtype, repeats: int) -> bool:
    """Computes a map many times; says how often other bits came, and how far they are from float64's."""
    inputs = _inputs(shape, dtype)
    first = _compute(*inputs)
    other = sum(
        any(not torch.equal(a, b) for a, b in zip(first, _compute(*inputs), strict=True)) for _ in range(repeats)
    )
    exact = _compute(*(part.double() for part in inputs), backend='reference')
    errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(first, exact, strict=True)]
    bound = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    said = ', '.join(f'{name} {error:.1e}' for name, error in zip(('maps', 'by x', 'by offsets'), errors, strict=True))
    print(f'{shape} {dtype}: {other} of {repeats} runs with other bits; errors: {said}', flush=True)
    return other > 0 or not all(error < bound for error in errors)


if __name__ == '__main__':
    run(main)
