"""Another backbone in a config."""

from .swap import Change, NoMapsError, Swap, base_name, swap_backbone, swapped_text

__all__ = ['Change', 'NoMapsError', 'Swap', 'base_name', 'swap_backbone', 'swapped_text']
