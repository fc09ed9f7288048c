"""When operations run in their ONNX form: made of standard operators, for a graph in ONNX."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_contexts = 0


@contextmanager
def onnx_forms() -> Iterator[None]:
    """Inside, `torch.export.export` traces all operations of this package in their ONNX forms.

    `torch.onnx.export` of a module needs no such context. An operation with kernels of its own has its form in its
    folder, as `mmatm.ops.axial_sampling.onnx`, and runs it when `in_onnx_export()`.
    """
    global _contexts
    _contexts += 1
    try:
        yield
    finally:
        _contexts -= 1


def in_onnx_export() -> bool:
    """Whether the graph that is traced is for ONNX."""
    # Outside of an export, which is nearly always, this costs a look at a flag.
    return torch.compiler.is_exporting() and (_contexts > 0 or torch.onnx.is_in_onnx_export())
