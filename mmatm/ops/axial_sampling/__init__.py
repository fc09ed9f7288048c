"""Axial sampling, ATMNet's only custom operation, behind one function for all backends."""

import functools
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mmatm.ops.cpu_library import say_once
from mmatm.ops.onnx_forms import in_onnx_export

from . import cpu, reference
from .onnx import sample_axes

__all__ = ['axial_sample', 'axial_sample_stacked']


def axial_sample(x: Tensor, offset: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Samples every row and every column of a token map at positions moved by real offsets.

    With G groups of S = C / G consecutive channels, g the group of channel c, and L linear interpolation with zeros
    outside the map:

        x_w[b, i, j, c] = L(x[b, i, :, c], j + offset[b, i, j, g])
        x_h[b, i, j, c] = L(x[b, :, j, c], i + offset[b, i, j, G + g])

    This is the token selection of the paper's section "Active Token Mixer". Under autocast x is sampled in autocast's
    type, as a matrix product would take it; offsets never are. Interpolation is done in float32, or in float64 where x
    is float64. The kernels' backward pass gives the same bits each time, and cannot be differentiated again; the
    reference's can.

    Args:
        x: Token map (B, H, W, C), floating.
        offset: Offsets (B, H, W, 2G) in tokens, floating, unbounded: G along the width, then G along the height.
            Non-finite ones count as outside.
        backend: ``'cpu'`` (the native kernel), ``'triton'`` (GPUs), ``'reference'`` (plain PyTorch, any device), or
            None for the fastest that can run.

    Returns:
        (x_w, x_h), each (B, H, W, C), of x's dtype or autocast's: views of one tensor (B, H, W, 3C).

    Raises:
        ValueError: The shapes or devices do not fit each other, the backend is unknown or cannot run.
        TypeError: x or offset is not floating.
    """
    x_w, x_h, _ = axial_sample_stacked(x, offset, backend).chunk(3, dim=-1)
    return x_w, x_h


def axial_sample_stacked(x: Tensor, offset: Tensor, backend: str | None = None) -> Tensor:
    """`axial_sample` for a matrix product over all that a token mixes: (B, H, W, 3C), which is x_w, x_h and x."""
    _check(x, offset)
    device = x.device.type
    if device != 'meta' and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    if in_onnx_export():
        return sample_axes(x, offset)
    return _BACKENDS[_choose(x, backend)](x, offset)


def _check(x: Tensor, offset: Tensor) -> None:
    if x.ndim != 4 or offset.ndim != 4 or x.shape[:3] != offset.shape[:3]:
        raise ValueError(
            'x must be (B, H, W, C) and offset (B, H, W, 2G) with the same B, H and W, '
            f'not {tuple(x.shape)} and {tuple(offset.shape)}'
        )
    if offset.shape[-1] == 0 or offset.shape[-1] % 2 or x.shape[-1] % (offset.shape[-1] // 2):
        raise ValueError(f'{offset.shape[-1]} offsets (2G) do not divide {x.shape[-1]} channels into G groups')
    if not (torch.is_floating_point(x) and torch.is_floating_point(offset)):
        raise TypeError(f'x and offset must be floating, not {x.dtype} and {offset.dtype}')
    if x.device != offset.device:
        raise ValueError(f'x and offset must be on one device, not on {x.device} and {offset.device}')


def _choose(x: Tensor, backend: str | None) -> str:
    """The name of the backend to run."""
    if backend is not None:
        if backend not in _BACKENDS:
            raise ValueError(f"there is no backend '{backend}'; the backends are {', '.join(_BACKENDS)}")
        if reason := _why_not(backend, x):
            raise ValueError(f"backend '{backend}' cannot run: {reason}")
        return backend
    reasons = []
    for name in ('cpu', 'triton') if not _INTERPRETER else ('cpu',):  # nobody wants the interpreter unasked
        reason = _why_not(name, x)
        if reason is None:
            return name
        reasons.append(reason)
    if not torch.compiler.is_compiling() and not x.is_meta:
        say_once(f'axial sampling uses the reference implementation, which is slower: {"; ".join(reasons)}')
    return 'reference'


def _why_not(name: str, x: Tensor) -> str | None:
    """Why a backend cannot take this map, or None."""
    if name == 'cpu':
        return cpu.why_not(x)
    if name == 'triton' and not x.is_cuda:
        return None if _INTERPRETER else f'the Triton kernels take tensors on a GPU, not on {x.device}'
    if name == 'triton' and x.dtype not in cpu.TYPES:
        return f'the Triton kernels take {", ".join(map(str, cpu.TYPES))}, not {x.dtype}'
    if name == 'triton' and not torch.compiler.is_compiling() and _too_old(x.device):
        return f'the Triton kernels need an NVIDIA GPU of compute capability 7.0 or higher, not {x.device}'
    return _TRITON_PROBLEM if name == 'triton' else None


@functools.cache
def _too_old(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0)


def _find_triton_problem() -> str | None:
    if importlib.util.find_spec('triton') is None:
        return 'the Triton kernels need the package triton, which is not installed'
    if not any(map(shutil.which, (os.environ.get('CC', ''), 'cc', 'gcc', 'clang'))):
        return 'the Triton kernels need a C compiler (gcc or clang), which is not installed'
    return None


def _stacked_reference(x: Tensor, offset: Tensor) -> Tensor:
    return torch.cat((*reference.axial_sample(x, offset), x), dim=-1)


def _operator(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The forward() and backward() of a module as one differentiable operator of PyTorch."""

    def kernels() -> ModuleType:
        return importlib.import_module(f'.{name}', __package__)  # late: Triton takes long to import

    @torch.library.custom_op(f'mmatm::axial_sample_{name}', mutates_args=())
    def forward(x: Tensor, offset: Tensor) -> Tensor:
        return kernels().forward(x, offset)

    @forward.register_fake
    def _(x: Tensor, offset: Tensor) -> Tensor:
        return x.new_empty((*x.shape[:3], 3 * x.shape[3]))

    @torch.library.custom_op(f'mmatm::axial_sample_{name}_backward', mutates_args=())
    def backward(sampled: Tensor, offset: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return kernels().backward(sampled, offset, gradient)

    @backward.register_fake
    def _(sampled: Tensor, offset: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return sampled.new_empty((*sampled.shape[:3], sampled.shape[3] // 3)), offset.new_empty(offset.shape)

    def keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])  # x is a third of the output

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(
            f"axial sampling's backend '{name}' has no second derivative; use backend='reference' for that"
        )

    forward.register_autograd(lambda ctx, gradient: backward(*ctx.saved_tensors, gradient), setup_context=keep)
    backward.register_autograd(refuse)

    def run(x: Tensor, offset: Tensor) -> Tensor:
        # float32 at least: a bf16 position is off by a whole token beyond 256.
        return forward(x, offset.to(torch.promote_types(x.dtype, torch.float32)))

    return run


_BACKENDS = {'cpu': _operator('cpu'), 'triton': _operator('triton'), 'reference': _stacked_reference}
_TRITON_PROBLEM = _find_triton_problem()
_INTERPRETER = os.environ.get('TRITON_INTERPRET') == '1'
