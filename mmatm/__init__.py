"""Backbones of token mixers for dense prediction, for the OpenMMLab toolboxes."""

from .stack import check_stack, find_forks_configs
from .version import __version__

__all__ = ['__version__']

check_stack()
find_forks_configs()
