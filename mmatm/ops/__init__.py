"""Axial sampling, ATMNet's only custom operation, behind one function for all backends."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference

__all__ = ['axial_sample']

# Fastest first. A backend joins with its function and a `why_not(x, offset)` that says why it cannot run, or None.
_BACKENDS: dict[str, tuple[Callable, Callable]] = {
    'reference': (reference.axial_sample, lambda x, offset: None),
}


def axial_sample(x: Tensor, offset: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Samples every row and every column of a token map at positions moved by real offsets.

    With G groups of S = C / G consecutive channels, g the group of channel c, and L linear interpolation with zeros
    outside the map:

        x_w[b, i, j, c] = L(x[b, i, :, c], j + offset[b, i, j, g])
        x_h[b, i, j, c] = L(x[b, :, j, c], i + offset[b, i, j, G + g])

    This is the token selection of the paper's section "Active Token Mixer".

    Args:
        x: Token map (B, H, W, C), floating.
        offset: Offsets (B, H, W, 2G) in tokens, floating, unbounded: G along the width, then G along the height.
            Non-finite ones count as outside.
        backend: A backend's name, or None for the fastest that can run.

    Returns:
        (x_w, x_h), each (B, H, W, C) of x's dtype.

    Raises:
        ValueError: The shapes do not fit each other, the backend is unknown or cannot run.
        TypeError: x or offset is not floating.
    """
    if x.ndim != 4 or offset.ndim != 4 or x.shape[:3] != offset.shape[:3]:
        raise ValueError(
            'x must be (B, H, W, C) and offset (B, H, W, 2G) of the same map, '
            f'not {tuple(x.shape)} and {tuple(offset.shape)}'
        )
    if offset.shape[-1] == 0 or offset.shape[-1] % 2 or x.shape[-1] % (offset.shape[-1] // 2):
        raise ValueError(f'{offset.shape[-1]} offsets (2G) do not divide {x.shape[-1]} channels into G groups')
    if not (torch.is_floating_point(x) and torch.is_floating_point(offset)):
        raise TypeError(f'x and offset must be floating, not {x.dtype} and {offset.dtype}')

    if backend is None:
        return next(run for run, why_not in _BACKENDS.values() if why_not(x, offset) is None)(x, offset)
    if backend not in _BACKENDS:
        raise ValueError(f"no backend '{backend}'; there are {', '.join(_BACKENDS)}")
    run, why_not = _BACKENDS[backend]
    if reason := why_not(x, offset):
        raise ValueError(f"backend '{backend}' cannot run: {reason}")
    return run(x, offset)
