"""The CPU kernel: `axial_sample.cpp`."""

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor

from mmatm.ops.cpu_library import load_library

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # as axial_sample.cpp has them
_loaded = load_library(Path(__file__).parent, 'axial_sample')
_library, _problem = (None, _loaded) if isinstance(_loaded, str) else (_loaded, None)
if _library is not None:
    _library.axial_sample_forward.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int] + 3 * [ctypes.c_void_p]
    _library.axial_sample_backward.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int] + 5 * [ctypes.c_void_p]


def why_not(x: Tensor) -> str | None:
    """Why the kernel cannot take this map, or None."""
    if _problem is not None:
        return _problem
    if x.device.type != 'cpu':
        return f'the CPU kernel takes tensors on the CPU, not on {x.device}'
    if x.dtype not in TYPES:
        return f'the CPU kernel takes {", ".join(map(str, TYPES))}, not {x.dtype}'
    # Places in the sampled map are counted in 32 bits, and a float knows numbers of tokens to 2^24.
    if 3 * math.prod(x.shape[1:]) >= 2**31 or max(x.shape[1:3]) > 2**24:
        return f'the CPU kernel takes fewer than 2^31 / 3 values an image, lines of 2^24 tokens, not {tuple(x.shape)}'
    return None


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """x (B, H, W, C), offset (B, H, W, 2G) of the arithmetic type -> x_w, x_h and x, (B, H, W, 3C)."""
    x, offset = x.contiguous(), offset.contiguous()
    sampled = x.new_empty((*x.shape[:3], 3 * x.shape[3]))
    _call(_library.axial_sample_forward, x, offset, x, offset, sampled)
    return sampled


def backward(sampled: Tensor, offset: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What forward() returned, its second argument and its result's gradient -> the gradients of its arguments."""
    sampled, offset, gradient = sampled.contiguous(), offset.contiguous(), gradient.contiguous()
    x = sampled[..., -(sampled.shape[-1] // 3) :]
    x_gradient, offset_gradient = offset.new_empty(x.shape), torch.empty_like(offset)
    _call(_library.axial_sample_backward, x, offset, sampled, offset, gradient, x_gradient, offset_gradient)
    return x_gradient.to(x.dtype), offset_gradient


def _call(function: ctypes._CFuncPtr, x: Tensor, offset: Tensor, *tensors: Tensor) -> None:
    shape = (ctypes.c_int64 * 5)(*x.shape, offset.shape[-1] // 2)
    pointers = (tensor.data_ptr() for tensor in tensors)
    if function(TYPES[x.dtype], shape, torch.get_num_threads(), *pointers):
        raise MemoryError(f'not enough memory for the buffers of axial sampling on a token map {tuple(x.shape)}')
