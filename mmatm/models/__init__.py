"""The backbones."""

from .atmnet import ATMNet
from .backbone import Backbone
from .casvit import CASViT
from .layers import DropPath
from .loading import Published
from .registered import (
    backbone_class,
    backbones,
    find_backbone,
    image_channels,
    published_links,
    published_weights,
)
from .riformer import RIFormer
from .stage import Stage

# What commands and functions take that are given no backbone.
DEFAULT_BACKBONE = 'mmatm.ATMNet'

__all__ = [
    'DEFAULT_BACKBONE',
    'ATMNet',
    'Backbone',
    'CASViT',
    'DropPath',
    'Published',
    'RIFormer',
    'Stage',
    'backbone_class',
    'backbones',
    'find_backbone',
    'image_channels',
    'published_links',
    'published_weights',
]
