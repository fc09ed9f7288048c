"""What ONNX Runtime computes with a graph, beside PyTorch, and how long both take."""

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmatm.errors import InputError
from mmatm.models import find_backbone, image_channels

from .blame import refusal
from .onnx_graph import INPUT, Graph, RawOutputs

if TYPE_CHECKING:  # an extra of the installation
    from onnxruntime import InferenceSession

_RUNS = 5


@dataclass(frozen=True)
class Check:
    """How a graph's outputs compare with PyTorch's at one size.

    Attributes:
        shape: (N, 3, H, W) of the images.
        output: The output that deviates most from PyTorch's.
        deviation: By how much: the largest difference, relative to the output's largest magnitude.
    """

    shape: tuple[int, ...]
    output: str
    deviation: float

    def __str__(self) -> str:
        return f'{times(self.shape)}: {self.deviation:.1e} in {self.output}'


def check_images(raw: RawOutputs, shape: tuple[int, int]) -> tuple[list[Tensor], int]:
    """Dummy images of three sizes that a model takes, and the number that all sizes have to be multiples of.

    The largest come first. There are one or three in a batch, never two as in the trace.

    Raises:
        InputError: The model does not run on images alone, or (H, W) is too small for three sizes.
    """
    height, width = shape
    backbone = find_backbone(raw)
    least = backbone.MIN_SIZE if backbone else 32
    if min(shape) < least:
        raise InputError(
            f'the graph is checked on images of {least}x{least} pixels or more; {height}x{width} is too small'
        )
    generator = torch.Generator().manual_seed(0)
    for divisor in (1, 32):  # some necks need sizes that can be halved
        sizes = [
            tuple(-(-max(least, pixels) // divisor) * divisor for pixels in size)
            for size in (shape, (height * 3 // 4 - 1, width * 2 // 3 + 1), (height // 2 + 1, width - 3))
        ]
        batches = [
            torch.randn(n, image_channels(raw), *size, generator=generator)
            for n, size in zip((1, 3, 1), sizes, strict=True)
        ]
        try:
            for images in batches:
                raw(images)
        except Exception as error:
            if divisor == 32:
                raise refusal(raw.model, 'its forward pass on images alone', error) from error
            continue
        if len(set(sizes)) < 3:
            raise InputError(
                f'the graph is checked at three sizes up to {height}x{width}, and these are not all different; '
                'give a larger one, such as 128x128'
            )
        return batches, divisor
    raise AssertionError


def open_session(path: Path) -> 'InferenceSession':
    """ONNX Runtime with a graph, on the CPU, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def compare(raw: RawOutputs, graph: Graph, session: 'InferenceSession', images: Tensor) -> Check:
    """Runs PyTorch and ONNX Runtime on a batch.

    Raises:
        InputError: ONNX Runtime fails, and in which part of the model.
    """
    try:
        results = session.run(None, {INPUT: images.numpy()})
    except Exception as error:
        nodes = re.findall(r"Name:'(\w+)'", str(error))
        parts = [part for node in nodes if (part := graph.parts.get(node))] or graph.constant
        raise refusal(raw.model, f'ONNX Runtime on images of {times(images.shape)}', error, parts) from error
    deviations = {
        name: _deviation(torch.from_numpy(result), expected)
        for (name, expected), result in zip(raw.named(images).items(), results, strict=True)
    }
    worst = max(deviations, key=lambda name: math.inf if math.isnan(deviations[name]) else deviations[name])
    return Check(tuple(images.shape), worst, deviations[worst])


def _deviation(result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        return math.inf
    return ((result - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo().tiny)).item()


def times(shape: Sequence[int]) -> str:
    """1x3x64x72."""
    return 'x'.join(map(str, shape))


def median_ms(run: Callable[[], Any]) -> float:
    """Milliseconds of a call, the median of some after the first."""
    run()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3
