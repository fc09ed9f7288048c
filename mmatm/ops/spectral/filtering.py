"""Filters of spectra that are mixed of a few for each plane, without a spectrum's filter for a whole feature map."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmatm.ops.precision import without_autocast

from . import cpu
from .cosine import dct2, idct2
from .fourier import column_counts, irfft2, multiply, rfft2

# Values of a feature map that are transformed at once: on a CPU, measured with 2 threads.
_VALUES = {'cpu': 2**20, 'cuda': 2**26}


class Transform(NamedTuple):
    """A transform of planes and what a filter does to their spectra.

    Attributes:
        forward: Planes (..., H, W) -> spectra.
        inverse: Spectra and W -> planes.
        multiply: The product of a spectrum and a filter.
        is_complex: Whether the last axis of a spectrum is of real and imaginary parts.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor, int], Tensor]
    multiply: Callable[[Tensor, Tensor], Tensor]
    is_complex: bool


FOURIER = Transform(rfft2, irfft2, multiply, True)
COSINE = Transform(dct2, lambda spectrum, width: idct2(spectrum), torch.mul, False)


def star_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """scale * relu(x)^2 + bias. Only x is kept for the backward pass.

    Args:
        x: Of any shape.
        scale, bias: One number each, (1,).
    """
    if torch.compiler.is_compiling():
        exact = torch.promote_types(x.dtype, torch.float32)
        return (scale * F.relu(x).to(exact).square() + bias).to(x.dtype)
    return _StarRelu.apply(x, scale, bias)


def _star(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if cpu.takes(x, scale, bias):
        return cpu.star_relu(x, scale, bias)
    y = F.relu(x).to(torch.promote_types(x.dtype, torch.float32))
    return y.mul_(y).mul_(scale).add_(bias)


def _star_gradients(x: Tensor, scale: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, of the scale, of the bias."""
    if cpu.takes(x, scale, gradient):
        return cpu.star_relu_gradients(x, scale, gradient)
    positive = F.relu(x).to(gradient.dtype)
    product = gradient * positive
    for_scale = torch.dot(product.flatten(), positive.flatten())
    return product.mul_(2 * scale).to(x.dtype), for_scale.view(1), gradient.sum().view(1)


class _StarRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return _star(x, scale, bias).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        return _star_gradients(x, scale, gradient.to(torch.promote_types(x.dtype, torch.float32)))


def filter_planes(x: Tensor, scale: Tensor, bias: Tensor, share: Tensor, basis: Tensor, transform: Transform) -> Tensor:
    """Filters the spectrum of StarReLU(x):

        y = T^-1(T(scale * relu(x)^2 + bias) * sum of share_f * basis_f over f)

    It is computed in float32, or in float64 for x of float64. The backward pass needs x alone and transforms it again;
    no more than a part of the spectra and of their filters is ever held, but in graphs (compiling, exporting).

    Args:
        x: Feature map (B, C, H, W).
        scale, bias: Of StarReLU, one number each, (1,).
        share: (B, C, F): how much of each filter a channel of a sample gets.
        basis: F filters, (F, *spectrum of a plane).
        transform: `FOURIER` or `COSINE`.

    Returns:
        (B, C, H, W), of x's dtype.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    height, width = x.shape[2:]
    spectrum = (height, width // 2 + 1, 2) if transform.is_complex else (height, width)
    if share.shape[:2] != x.shape[:2] or basis.shape != (share.shape[2], *spectrum):
        raise ValueError(
            f'x (B, C, H, W) needs share (B, C, F) and basis (F, {", ".join(map(str, spectrum))}), not '
            f'{tuple(x.shape)}, {tuple(share.shape)} and {tuple(basis.shape)}'
        )
    exact = torch.promote_types(x.dtype, torch.float32)
    share, basis, scale, bias = (each.to(exact).contiguous() for each in (share, basis, scale, bias))
    with without_autocast(x):
        if not torch.compiler.is_compiling():
            return _Filter.apply(x, scale, bias, share, basis, transform)
        spectrum = transform.forward(star_relu(x.to(exact), scale, bias))
        filters = (share @ basis.flatten(1)).view(spectrum.shape)
        return transform.inverse(transform.multiply(spectrum, filters), x.shape[-1]).to(x.dtype)


class _Filter(torch.autograd.Function):
    """`filter_planes`, part by part."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, bias: Tensor, share: Tensor, basis: Tensor, transform: Transform
    ) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        width, flat = x.shape[-1], basis.flatten(1)
        for planes, shares, to in _parts(x.flatten(0, 1), share.flatten(0, 1), out.flatten(0, 1)):
            spectrum = transform.forward(_star(planes, scale, bias)).contiguous()
            _filter(spectrum, shares, flat, transform)
            to.copy_(transform.inverse(spectrum, width))
        ctx.save_for_backward(x, scale, bias, share, basis)
        ctx.transform = transform
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(gradient):
            return _Filter._gradients(ctx, gradient)

    @staticmethod
    def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With orthonormal transforms, the adjoint of the inverse is the transform, but for how often the columns of
        # half a spectrum count; of x the counts cancel out.
        x, scale, bias, share, basis = ctx.saved_tensors
        transform, width = ctx.transform, x.shape[-1]
        counts = column_counts(width, basis)[:, None] if transform.is_complex else 1
        counted, flat = (basis * counts).flatten(1), basis.flatten(1)
        for_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        for_share = torch.zeros_like(share, memory_format=torch.contiguous_format)
        for_basis = torch.zeros_like(flat)
        for_scale, for_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        each = (y.flatten(0, 1) for y in (x, share, gradient, for_x, for_share))
        for planes, shares, given, to_x, to_share in _parts(*each):
            spectrum = transform.forward(_star(planes, scale, bias)).contiguous()
            given = transform.forward(given.to(scale.dtype)).contiguous()
            _filter_gradients(spectrum, shares, flat, counted, given, to_share, for_basis, transform)
            part, *sums = _star_gradients(planes, scale, transform.inverse(given, width))
            to_x.copy_(part)
            for_scale += sums[0]
            for_bias += sums[1]
        return for_x, for_scale, for_bias, for_share, for_basis.view(basis.shape) * counts, None


def _parts(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of the first axis of each, as many planes of x at once as are to be transformed."""
    if not len(x):
        return iter(())
    size = max(1, _VALUES.get(x.device.type, _VALUES['cuda']) // (x.shape[1] * x.shape[2]))
    return zip(*(each.split(size) for each in (x, *others)), strict=True)


def _filter(spectra: Tensor, shares: Tensor, basis: Tensor, transform: Transform) -> None:
    """Multiplies spectra (P, ...), in place, with filters that shares (P, F) mix of basis (F, values)."""
    if cpu.takes(spectra, shares, basis):
        cpu.filter_spectra(spectra, shares, basis, transform.is_complex)
    else:
        _product(spectra, (shares @ basis).view(spectra.shape), transform)


def _filter_gradients(
    spectra: Tensor,
    shares: Tensor,
    basis: Tensor,
    counted: Tensor,
    gradients: Tensor,
    for_shares: Tensor,
    for_basis: Tensor,
    transform: Transform,
) -> None:
    """Turns the results' gradients (P, ...), in place, into the spectra's, and adds those of shares and basis.

    counted is basis as the shares' gradients are to count it. The spectra are used up.
    """
    if cpu.takes(spectra, shares, basis, gradients):
        tensors = (spectra, shares, basis, counted, gradients, for_shares, for_basis)
        cpu.filter_spectra_gradients(*tensors, transform.is_complex)
        return
    for_filter = _product(_conjugate(spectra, transform), gradients, transform).flatten(1)
    for_shares.add_(for_filter @ counted.T)
    for_basis.addmm_(shares.T, for_filter)
    filters = (shares @ basis).view(gradients.shape)
    _product(gradients, _conjugate(filters, transform), transform)


def _product(a: Tensor, b: Tensor, transform: Transform) -> Tensor:
    """The product, in a's memory."""
    x, y = map(torch.view_as_complex, (a, b)) if transform.is_complex else (a, b)
    x.mul_(y)
    return a


def _conjugate(a: Tensor, transform: Transform) -> Tensor:
    """The conjugate, in a's memory."""
    if transform.is_complex:
        a[..., 1].neg_()
    return a
