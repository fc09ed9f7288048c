"""The form of axial sampling in an ONNX graph."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_axes(x: Tensor, offset: Tensor) -> Tensor:
    """`mmatm.ops.axial_sample_stacked` in operators that ONNX has, and that are fast in ONNX Runtime.

    It samples both axes at once, and reads the S channels that share an offset together.

    Args:
        x: Token map (B, H, W, C).
        offset: Offsets (B, H, W, 2G), floating.

    Returns:
        (B, H, W, 3C): x_w, x_h and x.
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
