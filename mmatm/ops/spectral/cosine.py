"""The two-dimensional discrete cosine transform, orthonormal: DCT-II, and DCT-III back."""

from functools import lru_cache
from math import pi

import torch
from torch import Tensor


def dct2(x: Tensor) -> Tensor:
    """Transforms maps, as `scipy.fft.dctn(x, type=2, norm='ortho', axes=(-2, -1))`.

    Args:
        x: (..., H, W), float32 or float64.

    Returns:
        (..., H, W): frequencies along both axes.
    """
    return _matrix(x.shape[-2], x) @ (x @ _matrix(x.shape[-1], x).transpose(0, 1))


def idct2(s: Tensor) -> Tensor:
    """Transforms spectra (..., H, W) of `dct2` back."""
    return _matrix(s.shape[-2], s).transpose(0, 1) @ (s @ _matrix(s.shape[-1], s))


def cosine_bands(
    height: int, width: int, number: int, dtype: torch.dtype = torch.float32, device: torch.device | str = 'cpu'
) -> Tensor:
    """Splits the frequencies of `dct2` into bands, from low to high.

    Band k is a hat function of rho = max(row / H, column / W): 1 at (k + 0.5) / K, linear to 0 at the neighbours'
    centres, constant beyond the first and the last centre, so that all bands sum to 1.

    Args:
        height, width: H and W.
        number: K.
        dtype, device: Of the bands.

    Returns:
        (K, H, W), kept for the sizes that were used last: not to be changed in place.
    """
    make = _make_bands if torch.compiler.is_compiling() else _kept_bands
    return make(height, width, number, dtype, torch.device(device))


def _make_bands(height: int, width: int, number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    row, column = (torch.arange(n, device=device).to(dtype) / n for n in (height, width))
    place = torch.maximum(row[:, None], column) * number - 0.5
    place = place.clamp(0, number - 1)
    band = torch.arange(number, device=device)[:, None, None]
    return (1 - (place - band).abs()).clamp(min=0)


@lru_cache(maxsize=16)
def _kept_bands(height: int, width: int, number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _make_bands(height, width, number, dtype, device)


def _matrix(length: int, like: Tensor) -> Tensor:
    """(frequency, place), kept for the lengths that were used last."""
    if torch.compiler.is_compiling():
        return _make_matrix(length, like.dtype, like.device)
    return _kept_matrix(length, like.dtype, like.device)


def _make_matrix(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    n = torch.arange(length, device=device)
    # In whole numbers, as angles of many turns have few digits left. The length is a tensor for ONNX's remainder.
    angle = ((2 * n + 1) * n[:, None] % (4 * (n[-1] + 1))).to(dtype) * (pi / (2 * length))
    scale = (2 - (n == 0).to(dtype)) / length
    return scale.sqrt()[:, None] * angle.cos()


@lru_cache(maxsize=64)
def _kept_matrix(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _make_matrix(length, dtype, device)
