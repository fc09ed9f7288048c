"""Writes a model's raw outputs as an ONNX graph of standard operators, and checks it with ONNX Runtime."""

import ast
import importlib.util
import inspect
import json
import math
import re
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.sym_node import SymNode
from torch.overrides import TorchFunctionMode

from mmatm.config import walk
from mmatm.errors import InputError
from mmatm.models import Backbone
from mmatm.ops import axial_sampling

if TYPE_CHECKING:  # an extra of the installation
    from onnx import ModelProto
    from onnxruntime import InferenceSession

INPUT = 'images'
TOLERANCE = 1e-4
_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
_RUNS = 5
_WHOLE = 'own forward pass'  # the part to blame where none of the model's modules is


@dataclass(frozen=True)
class Check:
    """Of a graph, at one size.

    Attributes:
        shape: (N, 3, H, W) of the images.
        output: The output that deviates most from PyTorch's.
        deviation: By how much: the largest difference, relative to the output's largest magnitude.
    """

    shape: tuple[int, ...]
    output: str
    deviation: float

    def __str__(self) -> str:
        return f'{_times(self.shape)}: {self.deviation:.1e} in {self.output}'


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        opset: The version of ONNX's operators.
        outputs: The names of the outputs, with their axes.
        metadata: What is in the file for those who feed it, see `metadata`.
        size_divisor: 1 for images of any size, 32 where the model takes multiples of it only.
        checks: The deviation at each size, the largest size first.
        torch_ms: Milliseconds that PyTorch takes for one image of the largest size, the median of some runs.
        onnx_ms: Those that ONNX Runtime takes, with as many threads.
    """

    opset: int
    outputs: dict[str, list[int | str]]
    metadata: dict[str, str]
    size_divisor: int
    checks: list[Check]
    torch_ms: float
    onnx_ms: float


def require_exportable(cfg: Config) -> None:
    """Checks what can be checked before a model is built.

    Raises:
        InputError: A package is missing, or the model is a two-stage detector.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f'the export needs {", ".join(missing)}: pip install {" ".join(missing)}')
    if not cfg.get('model'):
        raise InputError('the config has no model')
    parts = {key.rpartition('.')[2] for key, _ in walk(cfg.model)}
    if 'roi_head' in parts:
        names = ' and '.join(name for name in ('rpn_head', 'roi_head') if name in parts)
        raise InputError(
            f'{cfg.model.type} cannot be exported because of its {names}: proposals are chosen by their values, so '
            'that no shape after them is known. Single-stage detectors, segmentors and classifiers can be'
        )


def export_onnx(model: BaseModel, path: Path, shape: tuple[int, int]) -> Exported:
    """Writes what `model(images, mode='tensor')` gives for any number of images of any size.

    The file is written under its name only after ONNX Runtime gave the same as PyTorch at three sizes, most of them
    no multiples of 32, and with other numbers of images than were traced.

    Args:
        model: A classifier, segmentor or single-stage detector in evaluation mode, on the CPU.
        path: The file to write.
        shape: (H, W) of the largest images to check the graph with, and to measure its time.

    Raises:
        InputError: The model cannot be exported, and which part of it is to blame; or the graph gives something else.
    """
    import onnx

    raw = _RawOutputs(model)
    with torch.no_grad():
        batches, size_divisor = _images(raw, shape)
        graph = _to_onnx(raw, torch.cat([batches[0]] * 2), list(raw.named(batches[0])))
        proto = graph.proto
        for key, value in metadata(model, size_divisor).items():
            proto.metadata_props.add(key=key, value=value)
        unfinished = path.with_name(f'{path.name}.unfinished')
        try:
            onnx.save(proto, unfinished)
            onnx.checker.check_model(unfinished, full_check=True)
            session = _session(unfinished)
            checks = [_check(raw, graph, session, images) for images in batches]
            if not all(check.deviation <= TOLERANCE for check in checks):  # NaN is not either
                raise InputError(
                    f'ONNX Runtime does not give what PyTorch gives, to {TOLERANCE:g}; largest deviation at '
                    + ', '.join(map(str, checks))
                    + (f'. Sizes are made constant in its {" and ".join(graph.constant)}' if graph.constant else '')
                )
            feed = {INPUT: batches[0].numpy()}
            times = _median_ms(lambda: raw(batches[0])), _median_ms(lambda: session.run(None, feed))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    axes = {
        output.name: [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
        for output in proto.graph.output
    }
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    return Exported(proto.opset_import[0].version, axes, properties, size_divisor, checks, *times)


def metadata(model: BaseModel, size_divisor: int = 1) -> dict[str, str]:
    """What one needs to feed a model and to read what it gives, as JSON.

    `mean` and `std` of the three channels, with values of 0 to 255; `channel_order`; `pad_size_divisor`, to whose
    multiples images are padded on the right and below, with zeros after the normalisation; and `classes`.
    """
    preprocessor = model.data_preprocessor
    # Each toolbox has its own name. Images are read as BGR.
    swaps = any(getattr(preprocessor, name, False) for name in ('_channel_conversion', 'channel_conversion', 'to_rgb'))
    of_mmseg = (getattr(preprocessor, 'test_cfg', None) or {}).get('size_divisor')
    values = {
        'mean': _per_channel(preprocessor, 'mean', 0.0),
        'std': _per_channel(preprocessor, 'std', 1.0),
        'channel_order': 'RGB' if swaps else 'BGR',
        'pad_size_divisor': max(size_divisor, getattr(preprocessor, 'pad_size_divisor', 1), of_mmseg or 1),
        'classes': getattr(model, 'dataset_meta', {}).get('classes'),
    }
    return {key: json.dumps(value) for key, value in values.items() if value is not None}


def _per_channel(preprocessor: nn.Module, name: str, default: float) -> list[float]:
    value = getattr(preprocessor, name, None)
    if value is None:
        return [default] * 3
    return [round(number, 4) for number in value.flatten().expand(3).tolist()]


class _RawOutputs(nn.Module):
    """A model with a forward pass from images to a flat tuple of tensors."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())

    def named(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.model(images, mode='tensor')
        # The heads of detectors name their outputs where they take them.
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


# From PyTorch to ONNX


@dataclass(frozen=True)
class _Graph:
    """In ONNX, with the part of the model that each node is of, and the parts that made sizes of maps constant."""

    proto: 'ModelProto'
    parts: dict[str, str]
    constant: list[str]


def _to_onnx(raw: _RawOutputs, images: Tensor, names: list[str]) -> _Graph:
    """The graph with all sizes open."""
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
            raise _refusal(raw.model, 'the conversion to ONNX', error) from error
    graph = proto.graph
    parts = {}
    for node in graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == 'pkg.torch.onnx.name_scopes'), "['', '']")
        parts[node.name] = _own_name(ast.literal_eval(scopes)[-2])
        if node.domain:
            raise InputError(
                f'{type(raw.model).__name__} cannot be exported: in its {parts[node.name] or _WHOLE}, '
                f'{node.domain}.{node.op_type} is no standard operator of ONNX'
            )
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]  # the exporter's own, with paths of this machine
    return _Graph(proto, parts, constant)


def _trace(raw: _RawOutputs, images: Tensor) -> tuple[ExportedProgram, list[str]]:
    """The program with all sizes open, and the parts of the model that made one a constant, as `int(x.shape[2])` does.

    PyTorch lets that pass where it is the size of a map, which some sizes of images share.
    """
    names = _names(raw.model)
    constant: dict[str, None] = {}
    guard_int = SymNode.guard_int

    def note(node: SymNode, file: str, line: int) -> int:
        if node.maybe_as_int() is None:
            frames = [frame for frame, _ in traceback.walk_stack(None)]
            constant[_innermost(names, reversed(frames)) or _WHOLE] = None
        return guard_int(node, file, line)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(SymNode, 'guard_int', note))
        patches.enter_context(
            mock.patch.dict(axial_sampling._BACKENDS, dict.fromkeys(axial_sampling._BACKENDS, sample_axes))
        )
        patches.enter_context(_PlainPooling())
        if 'mmseg' in sys.modules:  # whose resizing makes sizes constants without need
            patches.enter_context(mock.patch('mmseg.models.utils.wrappers.int', torch.sym_int, create=True))
        try:
            open_sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
            program = torch.export.export(raw, (images,), dynamic_shapes=(open_sizes,), strict=False)
        except Exception as error:
            raise _refusal(raw.model, 'tracing it with open sizes', error, list(constant)) from error
    return program, list(constant)


def sample_axes(x: Tensor, offset: Tensor) -> Tensor:
    """`mmatm.ops.axial_sample_stacked` in operators that ONNX has, and that are fast in ONNX Runtime.

    Both axes at once, and a read is of all the S channels that share an offset.
    """
    batch, height, width, channels = x.shape
    groups = offset.shape[-1] // 2
    lines = x.reshape(-1, channels // groups)
    own = torch.arange(batch * height * width * groups).view(batch, height, width, 1, groups)  # the tokens' places
    token = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing='xy'), dim=-1)[..., None]
    length = token[-1, -1] + 1  # (2, 1), as all that follows has the two axes before the groups
    step = torch.stack([torch.full((1,), groups), torch.full((1,), width * groups)])

    offset = offset.unflatten(-1, (2, groups))
    before = offset.floor()
    fraction = offset - before

    def read(shift: Tensor, weight: Tensor) -> Tensor:
        inside = (token + shift >= 0) & (token + shift < length)
        place = own + torch.where(inside, shift, 0).long() * step
        return torch.where(inside, weight, 0)[..., None] * F.embedding(place, lines)

    sampled = read(before, 1 - fraction) + read(before + 1, fraction)  # (B, H, W, 2, G, S)
    return torch.cat((sampled.flatten(3), x), dim=-1)


class _PlainPooling(TorchFunctionMode):
    """Adaptive average pooling of maps of any size, which ONNX does not have."""

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


# What cannot be exported


def _refusal(model: nn.Module, step: str, error: Exception, suspects: Sequence[str] = ()) -> InputError:
    """The message about an error in a step, which names the part at work, or else the suspects."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    part = _part_at_work(model, error) or ' and '.join(suspects) or _WHOLE
    line = traceback.extract_tb(cause.__traceback__)[-1].line
    what = ' '.join((str(cause) or f'at {line}').split())[:300]
    return InputError(
        f'{type(model).__name__} cannot be exported: {step} fails in its {part}: {type(cause).__name__}: {what}'
    )


def _part_at_work(model: nn.Module, error: BaseException | None) -> str:
    """The innermost module that was at work when an error was raised, '' for the model itself."""
    names = _names(model)
    part = ''
    while error is not None:
        part = _innermost(names, [frame for frame, _ in traceback.walk_tb(error.__traceback__)]) or part
        error = error.__cause__
    return part


def _innermost(names: dict[int, str], frames: Iterable[FrameType]) -> str:
    """The last module, by name, of those that methods in frames are of or that their node of a graph is from.

    Hooks would not see the heads of detectors, whose forward() is called directly.
    """
    part = ''
    for frame in frames:
        part = names.get(id(frame.f_locals.get('self')), part)
        for value in frame.f_locals.values():
            if isinstance(value, torch.fx.Node) and value.meta.get('nn_module_stack'):
                part = _own_name(list(value.meta['nn_module_stack'].values())[-1][0])
    return part


def _own_name(name: str) -> str:
    """In the model, of a module of `_RawOutputs`."""
    return name.partition('model.')[2]


def _names(model: nn.Module) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules()}


# What the graph gives


def _images(raw: _RawOutputs, shape: tuple[int, int]) -> tuple[list[Tensor], int]:
    """Made-up images of three sizes that a model takes, and of which number all sizes have to be multiples.

    The largest are first; none has two images, as the trace has, but one or three.
    """
    height, width = shape
    if min(shape) < Backbone.MIN_SIZE:
        raise InputError(f'images have {Backbone.MIN_SIZE}x{Backbone.MIN_SIZE} pixels or more, not {height}x{width}')
    generator = torch.Generator().manual_seed(0)
    for divisor in (1, 32):  # some necks need sizes that can be halved
        sizes = [
            tuple(-(-max(Backbone.MIN_SIZE, pixels) // divisor) * divisor for pixels in size)
            for size in (shape, (height * 3 // 4 - 1, width * 2 // 3 + 1), (height // 2 + 1, width - 3))
        ]
        batches = [torch.randn(n, 3, *size, generator=generator) for n, size in zip((1, 3, 1), sizes, strict=True)]
        try:
            for images in batches:
                raw(images)
        except Exception as error:
            if divisor == 32:
                raise _refusal(raw.model, 'running it on images alone', error) from error
            continue
        if len(set(sizes)) < 3:
            raise InputError(f'{height}x{width} leaves no three sizes to check the graph with; 128x128 does')
        return batches, divisor
    raise AssertionError


def _session(path: Path) -> 'InferenceSession':
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def _check(raw: _RawOutputs, graph: _Graph, session: 'InferenceSession', images: Tensor) -> Check:
    try:
        results = session.run(None, {INPUT: images.numpy()})
    except Exception as error:
        nodes = re.findall(r"Name:'(\w+)'", str(error))
        parts = [part for node in nodes if (part := graph.parts.get(node))] or graph.constant
        raise _refusal(raw.model, f'ONNX Runtime at {_times(images.shape)}', error, parts) from error
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


def _times(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))


def _median_ms(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
