"""How it is measured: time, memory and precision."""

import ctypes
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from mmatm.models import ATMNet
from mmatm.models.atmnet import Block
from mmatm.ops import axial_sample

MIN_SAMPLE_S = 20e-3  # shorter runs are timed several at once
MIN_REPEATS, MAX_REPEATS = 5, 200


def time_all(runs: dict[str, Callable[[], None]], seconds: float, device: str) -> dict[str, dict[str, float]]:
    """Times several functions in turn, so that a change in the machine's speed meets them all.

    Args:
        runs: Functions by name.
        seconds: For how long; each function runs 5 times at least and 200 times at most, after a warm-up.
        device: ``'cpu'`` or ``'cuda'``.

    Returns:
        For each name: ``median_ms``, ``quartiles_ms`` and ``repeats``.
    """
    counts = {}
    for name, run in runs.items():
        _time(run, 1, device)
        counts[name] = max(1, round(MIN_SAMPLE_S / _time(run, 1, device)))
    samples = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    repeats = 0
    while repeats < MIN_REPEATS or (time.perf_counter() < end and repeats < MAX_REPEATS):
        for name, run in runs.items():
            samples[name].append(1e3 * _time(run, counts[name], device))
        repeats += 1
    results = {}
    for name, values in samples.items():
        first, median, third = statistics.quantiles(values, n=4)
        results[name] = dict(median_ms=median, quartiles_ms=(first, third), repeats=repeats)
    return results


def _time(run: Callable[[], None], count: int, device: str) -> float:
    """Seconds a run, the mean of a few."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        run()
    _synchronize(device)
    return (time.perf_counter() - start) / count


def _synchronize(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def peak_memory(device: str, prepare: Callable[..., Callable[[], None]], *arguments: Any) -> float | None:
    """MiB that one run of ``prepare(*arguments)`` takes at most beyond what was taken before it.

    On a CPU in a process of its own: in this one, memory that others have freed would be used unseen.

    Returns:
        The figure, or None where it cannot be seen.
    """
    if device == 'cuda':  # whose allocator counts by itself
        return _peak_memory(device, prepare, arguments)
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as executor:
        return executor.submit(_peak_memory, device, prepare, arguments).result()


def _peak_memory(device: str, prepare: Callable[..., Callable[[], None]], arguments: tuple) -> float | None:
    run = prepare(*arguments)
    run()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL('libc.so.6').malloc_trim(0)  # freed memory back to the system
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    except (OSError, AttributeError):
        return None
    before = _memory('VmRSS')
    run()
    return _memory('VmHWM') - before


def _memory(entry: str) -> float:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f'{entry}:'))


def profile(run: Callable[[], None], repeats: int = 3, most: int = 8) -> list[dict[str, Any]]:
    """PyTorch's operators that a run spends its time in, on the CPU: ``operator``, ``calls``, ``ms``, ``share``."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(1).sum()  # the profiler's own start counts with the first operator
        for _ in range(repeats):
            run()
    found = {
        event.key: (event.count / repeats, event.self_cpu_time_total / 1e3 / repeats)
        for event in profiler.key_averages()
    }
    del found['aten::ones'], found['aten::fill_']
    total = sum(ms for _, ms in found.values())
    largest = sorted(found.items(), key=lambda item: -item[1][1])[:most]
    return [dict(operator=key, calls=round(calls), ms=ms, share=ms / total) for key, (calls, ms) in largest]


def precision(device: str) -> list[dict[str, Any]]:
    """Each type against float64 at 128x128 tokens.

    The operation has 64 channels and offsets 3 tokens wide. Its inputs are rounded to the type first, so that errors
    are the operation's own; offsets stay in float32. The last row shows what computing positions in bf16 would do. The
    network is ATMNet-T on a 512x512 image under autocast, its offset predictors scaled to offsets of some tokens.

    Returns:
        A row for each type: the relative error, ||got - exact|| / ||exact||, of the operation's result and of both its
        gradients, and of the network's last map.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 128, 128, 64, generator=generator)
    offset = 3 * torch.randn(1, 128, 128, 64, generator=generator)
    weights = torch.randn(2, 1, 128, 128, 64, generator=generator)
    token = torch.arange(128.0)
    rounded = torch.cat(
        [
            (token[:, None] + offset[..., :32]).bfloat16().float() - token[:, None],
            (token[:, None, None] + offset[..., 32:]).bfloat16().float() - token[:, None, None],
        ],
        dim=-1,
    )
    model = ATMNet('t').to(device).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Block) and module.predicts_offsets:
                module.offset_fc.weight.mul_(20)
    image = torch.randn(1, 3, 512, 512, generator=generator).to(device)
    rows = []
    for name, dtype, moved in (
        ('float32', torch.float32, offset),
        ('float16', torch.float16, offset),
        ('bfloat16', torch.bfloat16, offset),
        ('bfloat16, positions too (not done)', torch.bfloat16, rounded),
    ):
        got = _maps_and_gradients(x.to(device, dtype), moved.to(device), weights.to(device, dtype))
        exact = _maps_and_gradients(x.to(dtype).double(), offset.double(), weights.to(dtype).double())
        errors = [((a.double().cpu() - b).norm() / b.norm()).item() for a, b in zip(got, exact, strict=True)]
        rows.append(dict(type=name, result=errors[0], x_gradient=errors[1], offset_gradient=errors[2], network=None))
        if moved is offset:
            with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
                rows[-1]['network'] = model(image)[-1].double()
    with torch.no_grad():
        exact = model.double()(image.double())[-1]
    for row in rows:
        if row['network'] is not None:
            row['network'] = ((row['network'] - exact).norm() / exact.norm()).item()
    return rows


def _maps_and_gradients(x: torch.Tensor, offset: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    x, offset = x.requires_grad_(), offset.clone().requires_grad_()
    maps = torch.stack(axial_sample(x, offset))
    return [maps.detach(), *torch.autograd.grad(maps, (x, offset), weights)]
