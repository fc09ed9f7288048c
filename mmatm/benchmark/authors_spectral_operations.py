"""The baselines of the spectral backbones in the benchmarks: their operations as their authors wrote them.

DFFormer forms a complex filter for the whole feature map of each image and resizes its filters at every pass; AFFNet
maps real and imaginary parts one after the other; all convolutions are PyTorch's. Of DSM there is no code: its
baseline is a plain form, with the weights of all bands for the whole feature map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.models.affnet import AdaptiveFrequencyFilter
from mmatm.models.dfformer import DynamicFilter, SeparableConvolution
from mmatm.models.dsm import SpectrumMixer
from mmatm.models.spectral_skeleton import Mlp, StarReLU
from mmatm.ops.spectral import cosine_bands, dct2, idct2, resize_bank

from .authors_operations import use_pytorch_convolutions


class PlainStarReLU(StarReLU):
    """`StarReLU` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.relu(x) ** 2 + self.bias


class PlainMlp(Mlp):
    """`Mlp` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainFilter(DynamicFilter):
    """`DynamicFilter` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        height, width = x.shape[1:3]
        share = self.selector(x).softmax(-1).to(torch.complex64)
        spectrum = torch.fft.rfft2(self.act(self.fc1(x)).float(), dim=(1, 2), norm='ortho')
        bank = torch.view_as_complex(resize_bank(self.bank, height, width // 2 + 1).contiguous())
        filters = torch.einsum('bmf,hwf->bhwm', share, bank)
        return self.fc2(torch.fft.irfft2(spectrum * filters, s=(height, width), dim=(1, 2), norm='ortho'))


class PlainConvolution(SeparableConvolution):
    """`SeparableConvolution` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        y = self.depthwise(self.act(self.fc1(x)).permute(0, 3, 1, 2))
        return self.fc2(y.permute(0, 2, 3, 1))


class PlainAdaptiveFilter(AdaptiveFrequencyFilter):
    """`AdaptiveFrequencyFilter` with the same parameters and results, but for PReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        spectrum = torch.fft.rfft2(x.float(), dim=(2, 3), norm='ortho')
        real, imaginary = (part.unflatten(1, (self.GROUPS, -1)) for part in (spectrum.real, spectrum.imag))
        real, imaginary = map(self.act_real, self._map(real, imaginary, self.w1, self.b1))
        real, imaginary = self._map(real, imaginary, self.w2, self.b2)
        z = F.softshrink(torch.stack((real, imaginary), dim=-1), self.SHRINK)
        z = torch.view_as_complex(z).flatten(1, 2) * spectrum
        return x + torch.fft.irfft2(z, s=x.shape[2:], dim=(2, 3), norm='ortho')

    @staticmethod
    def _map(real: Tensor, imaginary: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def product(x: Tensor, w: Tensor) -> Tensor:
            return torch.einsum('bgihw,gio->bgohw', x, w)

        bias = bias[..., None, None]
        return (
            product(real, weight[0]) - product(imaginary, weight[1]) + bias[0],
            product(real, weight[1]) + product(imaginary, weight[0]) + bias[1],
        )


class PlainSpectrum(SpectrumMixer):
    """`SpectrumMixer` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) -> the same."""
        share = 2 * self.selector(x).sigmoid()
        bands = cosine_bands(*x.shape[1:3], share.shape[-1], device=x.device)
        weights = torch.einsum('bmk,khw->bmhw', share, bands)
        y = idct2(dct2(self.act(self.fc1(x)).permute(0, 3, 1, 2)) * weights)
        return self.fc2(y.permute(0, 2, 3, 1))


_PLAIN = {
    plain.__base__: plain
    for plain in (PlainStarReLU, PlainMlp, PlainFilter, PlainConvolution, PlainAdaptiveFilter, PlainSpectrum)
}


def use_authors_spectral_operations(model: nn.Module) -> nn.Module:
    """Turns every part of a model into that of the baseline, in place; parameters stay."""
    for module in model.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return use_pytorch_convolutions(model)
