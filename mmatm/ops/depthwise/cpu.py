"""The CPU kernel: `depthwise.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from mmatm.ops.cpu_library import load_library

SIZES = (1, 3, 5, 7)
_loaded = load_library(Path(__file__).parent, 'depthwise')
_library, problem = (None, _loaded) if isinstance(_loaded, str) else (_loaded, None)
if _library is not None:
    _library.depthwise_forward.argtypes = [ctypes.c_void_p, ctypes.c_int] + 4 * [ctypes.c_void_p]
    _library.depthwise_weight_gradient.argtypes = [ctypes.c_void_p, ctypes.c_int] + 3 * [ctypes.c_void_p]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, H, W), weight (N, K, K), bias (N): N is C, or B * C for kernels of each sample's own -> (B, C, H, W)."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty_like(x)
    _call(_library.depthwise_forward, x, weight, x, weight, bias, out)
    return out


def weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """What `forward` was given, and its result's gradient -> the weight's."""
    x, gradient = x.contiguous(), gradient.contiguous()
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    _call(_library.depthwise_weight_gradient, x, weight, x, gradient, out)
    return out


def _call(function: ctypes._CFuncPtr, x: Tensor, weight: Tensor, *tensors: Tensor | None) -> None:
    shape = (ctypes.c_int64 * 5)(x.shape[0] * x.shape[1], len(weight), *x.shape[2:], weight.shape[-1])
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    if function(shape, torch.get_num_threads(), *pointers):
        raise MemoryError(f'not enough memory for the buffers of a depthwise convolution of {tuple(x.shape)}')
