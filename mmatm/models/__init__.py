"""The backbones."""

from .atmnet import ATMNet
from .backbone import Backbone
from .casvit import CASViT
from .registered import backbone_class, backbones, published_links, published_weights
from .riformer import RIFormer
from .stage import Stage

__all__ = [
    'ATMNet',
    'Backbone',
    'CASViT',
    'RIFormer',
    'Stage',
    'backbone_class',
    'backbones',
    'published_links',
    'published_weights',
]
