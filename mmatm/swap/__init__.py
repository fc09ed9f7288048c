"""Another backbone in a config."""

from .account import Change, Swap
from .feature_maps import NoMapsError
from .replace import base_name, swap_backbone, swapped_text

__all__ = ['Change', 'NoMapsError', 'Swap', 'base_name', 'swap_backbone', 'swapped_text']
