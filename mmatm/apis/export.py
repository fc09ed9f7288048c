"""Writes a model's raw outputs as an ONNX graph of standard operators, and checks it with ONNX Runtime."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from mmatm.config import walk
from mmatm.errors import InputError
from mmatm.utils.files import whole_file

from .onnx_check import Check, check_images, compare, median_ms, open_session
from .onnx_graph import INPUT, RawOutputs, to_onnx

TOLERANCE = 1e-4
_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what its check found.

    Attributes:
        opset: The version of ONNX's operators.
        outputs: The names of the outputs, with their axes.
        metadata: What the file says to those who feed it, see `metadata`.
        size_divisor: 1 for images of any size, 32 where height and width have to be multiples of 32.
        checks: The deviation at each size, the largest size first.
        torch_ms: Milliseconds of PyTorch on one image of the largest size, the median of some runs.
        onnx_ms: Milliseconds of ONNX Runtime on it, with as many threads.
    """

    opset: int
    outputs: dict[str, list[int | str]]
    metadata: dict[str, str]
    size_divisor: int
    checks: list[Check]
    torch_ms: float
    onnx_ms: float


def require_exportable(cfg: Config) -> None:
    """Checks, before a model is built, whether it can be exported.

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
            f'{cfg.model.type} cannot be exported because of its {names}: the number of proposals depends on the '
            'image, so that no shape after them is known. Single-stage detectors, segmentors and classifiers can '
            'be exported'
        )


def export_onnx(model: BaseModel, path: Path, shape: tuple[int, int]) -> Exported:
    """Writes what `model(images, mode='tensor')` gives for any number of images of any size.

    The file gets its name only after ONNX Runtime gave the same as PyTorch at three sizes, most of them no multiples
    of 32, and with batches of other sizes than the traced one.

    Args:
        model: A classifier, segmentor or single-stage detector in evaluation mode, on the CPU.
        path: The file to write.
        shape: (H, W) of the largest images to check the graph with, and to measure its time.

    Raises:
        InputError: A part of the model, which is named, cannot be exported; or the graph's outputs are not PyTorch's.
    """
    import onnx

    raw = RawOutputs(model)
    with torch.no_grad():
        batches, size_divisor = check_images(raw, shape)
        graph = to_onnx(raw, torch.cat([batches[0]] * 2), list(raw.named(batches[0])))
        proto = graph.proto
        for key, value in metadata(model, size_divisor).items():
            proto.metadata_props.add(key=key, value=value)
        with whole_file(path) as unfinished:
            onnx.save(proto, unfinished)
            onnx.checker.check_model(unfinished, full_check=True)
            session = open_session(unfinished)
            checks = [compare(raw, graph, session, images) for images in batches]
            if not all(check.deviation <= TOLERANCE for check in checks):  # NaN is not either
                raise InputError(
                    f'ONNX Runtime and PyTorch differ by more than {TOLERANCE:g} of the largest value of an output: '
                    + ', '.join(map(str, checks))
                    + (f'. Its {" and ".join(graph.constant)} turns sizes into constants' if graph.constant else '')
                )
            feed = {INPUT: batches[0].numpy()}
            times = median_ms(lambda: raw(batches[0])), median_ms(lambda: session.run(None, feed))
    axes = {
        output.name: [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
        for output in proto.graph.output
    }
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    return Exported(proto.opset_import[0].version, axes, properties, size_divisor, checks, *times)


def metadata(model: BaseModel, size_divisor: int = 1) -> dict[str, str]:
    """What is needed to prepare a model's inputs and to read its outputs, as JSON.

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
