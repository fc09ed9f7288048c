"""The CPU kernels: `spectral.cpp`, for float32."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from mmatm.ops.cpu_library import load_library, say_once

_loaded = load_library(Path(__file__).parent, 'spectral')
_library, problem = (None, _loaded) if isinstance(_loaded, str) else (_loaded, None)
if _library is not None:
    _library.star_relu.argtypes = [ctypes.c_int64, ctypes.c_int] + 4 * [ctypes.c_void_p]
    _library.star_relu_gradients.argtypes = [ctypes.c_int64, ctypes.c_int] + 6 * [ctypes.c_void_p]
    _library.filter_spectra.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int] + 3 * [ctypes.c_void_p]
    _library.filter_spectra_gradients.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int] + 7 * [ctypes.c_void_p]


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels compute with these; if they are not there, that is said once."""
    fits = all(x.device.type == 'cpu' and x.dtype == torch.float32 for x in tensors)
    if fits and problem:
        say_once(f'StarReLU and filters of spectra are computed by PyTorch, which is slower: {problem}')
    return fits and problem is None


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale * relu(x)^2 + bias."""
    x = x.contiguous()
    out = torch.empty_like(x)
    pointers = (each.data_ptr() for each in (x, scale, bias, out))
    _library.star_relu(x.numel(), torch.get_num_threads(), *pointers)
    return out


def star_relu_gradients(x: Tensor, scale: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, of the scale, of the bias."""
    x, gradient = x.contiguous(), gradient.contiguous()
    out = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)
    pointers = (each.data_ptr() for each in (x, gradient, scale, *out))
    _library.star_relu_gradients(x.numel(), torch.get_num_threads(), *pointers)
    return out


def filter_spectra(spectra: Tensor, shares: Tensor, basis: Tensor, is_complex: bool) -> None:
    """Multiplies spectra (P, ...) in place with filters that shares (P, F) mix of basis (F, ...); all contiguous."""
    _library.filter_spectra(*_setting(spectra, shares, is_complex), *(y.data_ptr() for y in (spectra, shares, basis)))


def filter_spectra_gradients(
    spectra: Tensor,
    shares: Tensor,
    basis: Tensor,
    counted: Tensor,
    gradients: Tensor,
    for_shares: Tensor,
    for_basis: Tensor,
    is_complex: bool,
) -> None:
    """Turns the results' gradients (P, ...), in place, into the spectra's, and adds those of shares and basis."""
    tensors = (spectra, shares, basis, counted, gradients, for_shares, for_basis)
    setting = _setting(spectra, shares, is_complex)
    if _library.filter_spectra_gradients(*setting, *(each.data_ptr() for each in tensors)):
        raise MemoryError(f'not enough memory for the gradients of {len(spectra)} filtered planes')


def _setting(spectra: Tensor, shares: Tensor, is_complex: bool) -> tuple[ctypes.Array, int, int]:
    shape = (ctypes.c_int64 * 3)(*shares.shape, spectra.shape[1:].numel())
    return shape, int(is_complex), torch.get_num_threads()
