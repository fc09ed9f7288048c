"""The definition of axial sampling in plain PyTorch: any device, any floating dtype, differentiable."""

import torch
from torch import Tensor


def axial_sample(x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Samples rows and columns at moved positions. Arguments and results as in `mmatm.ops.axial_sample`."""
    groups = offset.shape[-1] // 2
    grouped = x.unflatten(-1, (groups, -1))  # (B, H, W, G, S)
    along_width, along_height = offset.split(groups, dim=-1)
    x_w = _sample(grouped, along_width, dim=2)
    x_h = _sample(grouped, along_height, dim=1)
    return x_w.flatten(-2), x_h.flatten(-2)


def _sample(x: Tensor, offset: Tensor, dim: int) -> Tensor:
    """L(v, p) of every token and group, the lines v being those of x (B, H, W, G, S) along dim."""
    # float32 at least, as a bf16 position is off by a whole token beyond 256; and whole tokens and the fraction apart,
    # as floor(j + o) = j + floor(o) then holds exactly, whatever the rounding of a sum j + o would be.
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    token = torch.arange(x.shape[dim], device=x.device).view([-1 if d == dim else 1 for d in range(4)])
    before = offset.detach().floor()
    fraction = offset - before
    return _read(x, token + before, 1 - fraction, dim) + _read(x, token + before + 1, fraction, dim)


def _read(x: Tensor, position: Tensor, weight: Tensor, dim: int) -> Tensor:
    """weight * x[position] along dim; zero where the position is outside or not a number."""
    inside = (position >= 0) & (position < x.shape[dim])
    index = torch.where(inside, position, 0).long()
    weight = torch.where(inside, weight, 0).to(x.dtype)
    # expand() is a view: the S channels of a group share one index.
    value = x.gather(dim, index[..., None].expand(*index.shape, x.shape[-1]))
    return weight[..., None] * torch.where(inside[..., None], value, 0)  # the value too: 0 * infinity is not 0
