"""The backbones."""

from .atmnet import ATMNet
from .backbone import Backbone, Stage, backbone_class, backbones, published_links, published_weights
from .casvit import CASViT
from .riformer import RIFormer

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
