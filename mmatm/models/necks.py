"""Necks of classifiers that MMPretrain does not have."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.registry import MODELS

from .affnet import ConvNormAct


@MODELS.register_module()
class NormedPooling(nn.Module):
    """A batch norm, then the mean over rows and columns, as in FFNet's classifier.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Feature maps, of which the last one, (B, C, H, W), is taken -> ((B, C),)."""
        return (self.norm(maps[-1]).mean((2, 3)),)


@MODELS.register_module()
class PooledMlp(nn.Module):
    """The mean over rows and columns, a layer norm, and a linear layer with a squared ReLU and a layer norm, as in the
    classifiers of DFFormer.

    Args:
        channels: C.
        out_channels: Of the linear layer.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.Linear(channels, out_channels)
        self.norm2 = nn.LayerNorm(out_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Feature maps, of which the last one, (B, C, H, W), is taken -> ((B, out_channels),)."""
        x = self.fc(self.norm1(maps[-1].mean((2, 3))))
        return (self.norm2(F.relu(x).square()),)


@MODELS.register_module()
class ConvPooling(nn.Module):
    """A 1x1 convolution with a batch norm and an activation, then the mean over rows and columns, as in AFFNet's
    classifier.

    Args:
        channels: C.
        out_channels: Of the convolution.
        act: As in the arch of `mmatm.models.AFFNet`.
    """

    def __init__(self, channels: int, out_channels: int, act: str = 'silu') -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, out_channels, act=act)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Feature maps, of which the last one, (B, C, H, W), is taken -> ((B, out_channels),)."""
        return (self.conv(maps[-1]).mean((2, 3)),)
