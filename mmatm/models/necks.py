"""Necks of classifiers that MMPretrain does not have."""

from torch import Tensor, nn

from mmatm.registry import MODELS


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
