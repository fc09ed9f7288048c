"""From a model in PyTorch to a graph of standard operators in ONNX."""

import ast
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.sym_node import SymNode
from torch.overrides import TorchFunctionMode

from mmatm.errors import InputError
from mmatm.ops import onnx_forms

from .blame import WHOLE, innermost, module_names, own_name, refusal

if TYPE_CHECKING:  # an extra of the installation
    from onnx import ModelProto

INPUT = 'images'


class RawOutputs(nn.Module):
    """A model with a forward pass from images to a flat tuple of tensors."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        outputs = self.model(images, mode='tensor')
        # Heads of detectors name their outputs as arguments of their loss.
        taker = getattr(getattr(self.model, 'bbox_head', None), 'loss_by_feat', None)
        if isinstance(outputs, Tensor):
            named = {'logits': outputs}
        elif taker is not None and isinstance(outputs, tuple):
            names = inspect.signature(taker).parameters
            named = dict(pair for name, output in zip(names, outputs, strict=False) for pair in _flatten(name, output))
        else:
            named = dict(_flatten('output', outputs))
        return named


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in lists, tuples and dicts, with their places: `cls_scores_0`."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(f'{name}_{key}', entry)


@dataclass(frozen=True)
class Graph:
    """A graph in ONNX.

    Attributes:
        proto: The graph.
        parts: The part of the model that a node comes from, by the node's name.
        constant: The parts that turned sizes of feature maps into constants.
    """

    proto: 'ModelProto'
    parts: dict[str, str]
    constant: list[str]


def to_onnx(raw: RawOutputs, images: Tensor, names: list[str]) -> Graph:
    """The graph of a model for batches of any number of images of any size.

    Raises:
        InputError: A part of the model, which is named, cannot be traced or has no standard operators.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # PyTorch's about itself
        program, constant = _trace(raw, images)
        try:
            proto = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=names,
                dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},),
            ).model_proto
        except Exception as error:
            raise refusal(raw.model, 'the conversion to ONNX', error) from error
    graph = proto.graph
    parts = {}
    for node in graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == 'pkg.torch.onnx.name_scopes'), "['', '']")
        parts[node.name] = own_name(ast.literal_eval(scopes)[-2])
        if node.domain:
            raise InputError(
                f'{type(raw.model).__name__} cannot be exported: in its {parts[node.name] or WHOLE}, '
                f'{node.domain}.{node.op_type} is not a standard operator of ONNX'
            )
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]  # the exporter's own, with paths of this machine
    return Graph(proto, parts, constant)


def _trace(raw: RawOutputs, images: Tensor) -> tuple[ExportedProgram, list[str]]:
    """The program for any size, and the parts of the model that turned a size into a constant: `int(x.shape[2])`.

    PyTorch lets that pass for sizes of feature maps, which are the same for images of several sizes.
    """
    names = module_names(raw.model)
    constant: dict[str, None] = {}
    guard_int = SymNode.guard_int

    def note(node: SymNode, file: str, line: int) -> int:
        if node.maybe_as_int() is None:
            frames = [frame for frame, _ in traceback.walk_stack(None)]
            constant[innermost(names, reversed(frames)) or WHOLE] = None
        return guard_int(node, file, line)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(SymNode, 'guard_int', note))
        patches.enter_context(onnx_forms())
        patches.enter_context(_PlainPooling())
        if 'mmseg' in sys.modules:  # whose resizing turns sizes into constants without need
            patches.enter_context(mock.patch('mmseg.models.utils.wrappers.int', torch.sym_int, create=True))
        try:
            open_sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
            program = torch.export.export(raw, (images,), dynamic_shapes=(open_sizes,), strict=False)
        except Exception as error:
            raise refusal(raw.model, 'tracing with dynamic shapes', error, list(constant)) from error
    return program, list(constant)


class _PlainPooling(TorchFunctionMode):
    """Adaptive average pooling of feature maps of any size, which ONNX does not have."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.adaptive_avg_pool2d:
            return adaptive_avg_pool2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d` as two matrix products: (..., H, W) -> (..., *output_size)."""
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    height, width = (old if new is None else new for old, new in zip(input.shape[-2:], size, strict=True))
    return _averages(input, -2, height) @ input @ _averages(input, -1, width).mT


def _averages(x: Tensor, axis: int, count: int) -> Tensor:
    """(count, n), which averages n values along an axis in so many windows."""
    n = x.shape[axis]
    window, value = torch.arange(count)[:, None], torch.arange(n)
    start, end = window * n // count, ((window + 1) * n + count - 1) // count
    return ((value >= start) & (value < end)).to(x.dtype) / (end - start)
