"""The two-dimensional Fourier transform of real maps, orthonormal.

A spectrum is (..., H, W // 2 + 1, 2): frequencies along both axes as `torch.fft.rfft2` orders them, then the real and
the imaginary part. In exported graphs both transforms are products of matrices, which serve all sizes.
"""

from math import tau

import torch
from torch import Tensor
from torch.nn import functional as F


def rfft2(x: Tensor) -> Tensor:
    """Transforms real maps.

    Args:
        x: (..., H, W), float32 or float64.

    Returns:
        (..., H, W // 2 + 1, 2), of the same dtype.
    """
    if not torch.compiler.is_exporting():
        return torch.view_as_real(torch.fft.rfft2(x, norm='ortho'))
    cos, sin = _waves(x.shape[-1], x)
    columns = x.shape[-1] // 2 + 1
    real, imaginary = x @ cos[:, :columns], -(x @ sin[:, :columns])
    cos, sin = _waves(x.shape[-2], x)
    z = torch.stack((cos @ real + sin @ imaginary, cos @ imaginary - sin @ real), dim=-1)
    return z * (x.shape[-2] * x.shape[-1]) ** -0.5


def irfft2(z: Tensor, width: int) -> Tensor:
    """Transforms spectra back, also those that no real map has.

    Such a spectrum, as a filter without symmetry makes, is transformed along H, and what is then imaginary of columns 0
    and, of an even width, W / 2 is dropped before the transform along W. It is as if these columns were averaged with
    their conjugate mirror images along H before. Libraries differ in what they take of them otherwise.

    Args:
        z: (..., H, W // 2 + 1, 2), float32 or float64.
        width: W.

    Returns:
        (..., H, W), of the same dtype.
    """
    if not torch.compiler.is_exporting():
        z = torch.view_as_real(torch.fft.ifft(torch.view_as_complex(z), dim=-2, norm='ortho'))
        z[..., 0, 1] = 0
        if width % 2 == 0:
            z[..., -1, 1] = 0
        return torch.fft.irfft(torch.view_as_complex(z), n=width, norm='ortho')
    real, imaginary = z.unbind(-1)
    cos, sin = _waves(z.shape[-3], z)
    real, imaginary = cos @ real - sin @ imaginary, cos @ imaginary + sin @ real
    cos, sin = _waves(width, z)
    count = column_counts(width, z)
    y = (real * count) @ cos[: width // 2 + 1] - (imaginary * count) @ sin[: width // 2 + 1]
    return y * (z.shape[-3] * width) ** -0.5


def column_counts(width: int, like: Tensor) -> Tensor:
    """How often each column of half a spectrum stands in the whole one, (W // 2 + 1,): once or, mirrored too, twice."""
    column = torch.arange(width // 2 + 1, device=like.device)
    return 2 - (column == 0).to(like.dtype) - (2 * column == width).to(like.dtype)


def _waves(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of each frequency at each place, both (length, length)."""
    n = torch.arange(length, device=like.device)
    # In whole numbers, as angles of many turns have few digits left. The length is a tensor for ONNX's remainder.
    angle = (n[:, None] * n % (n[-1] + 1)).to(like.dtype) * (tau / length)
    return angle.cos(), angle.sin()


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex numbers (..., 2)."""
    if not torch.compiler.is_exporting():
        return torch.view_as_real(torch.view_as_complex(a) * torch.view_as_complex(b))
    (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
    return torch.stack((ar * br - ai * bi, ar * bi + ai * br), dim=-1)


def map_channels(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Complex linear maps of groups of channels, the same ones at all frequencies.

    Args:
        z: Spectra (B, C, H, columns, 2).
        weight: (2, G, C / G, C / G) for G groups: real and imaginary part, from and to which channel of a group.
        bias: (2, G, C / G).

    Returns:
        (B, C, H, columns, 2).
    """
    grouped = z.flatten(2, 3).unflatten(1, weight.shape[1:3])
    if not torch.compiler.is_exporting():
        weight = torch.view_as_complex(weight.permute(1, 3, 2, 0).contiguous())
        bias = torch.view_as_complex(bias.permute(1, 2, 0).contiguous())
        return torch.view_as_real(weight @ torch.view_as_complex(grouped) + bias[..., None]).view(z.shape)
    (x, y), (wx, wy), (bx, by) = grouped.unbind(-1), weight.transpose(2, 3), bias[..., None]
    return torch.stack((wx @ x - wy @ y + bx, wx @ y + wy @ x + by), dim=-1).view(z.shape)


def resize_bank(bank: Tensor, height: int, columns: int) -> Tensor:
    """Resizes filters on the frequencies of one size to those of another, as DFFormer's authors do.

    Each plane is resized as an image, with bicubic interpolation and corners aligned. Rows are in the transform's
    order, in which positive and negative frequencies are neighbours in the middle: they blend there.

    Args:
        bank: (h, w, F, 2), F filters on a spectrum of h x w.
        height, columns: Of the spectrum to filter.

    Returns:
        (height, columns, F, 2).
    """
    if not torch.compiler.is_exporting() and bank.shape[:2] == (height, columns):
        return bank
    planes = bank.flatten(2).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (height, columns), mode='bicubic', align_corners=True)
    return planes[0].permute(1, 2, 0).unflatten(2, bank.shape[2:])
