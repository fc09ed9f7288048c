"""The backbones."""

from .affnet import AFFNet
from .atmnet import ATMNet
from .backbone import Backbone
from .casvit import CASViT
from .dfformer import CDFFormer, DFFormer
from .dsm import DSM
from .ffnet import FFNet
from .layers import DropPath
from .loading import Published
from .metaformer import MetaFormer
from .necks import ConvPooling, NormedPooling, PooledMlp
from .registered import (
    backbone_class,
    backbones,
    find_backbone,
    fuse_backbones,
    image_channels,
    published_links,
    published_weights,
)
from .riformer import RIFormer
from .stage import Stage
from .transxnet import TransXNet

# What commands and functions take that are given no backbone.
DEFAULT_BACKBONE = 'mmatm.ATMNet'

__all__ = [
    'DEFAULT_BACKBONE',
    'DSM',
    'AFFNet',
    'ATMNet',
    'Backbone',
    'CASViT',
    'CDFFormer',
    'ConvPooling',
    'DFFormer',
    'DropPath',
    'FFNet',
    'MetaFormer',
    'NormedPooling',
    'PooledMlp',
    'Published',
    'RIFormer',
    'Stage',
    'TransXNet',
    'backbone_class',
    'backbones',
    'find_backbone',
    'fuse_backbones',
    'image_channels',
    'published_links',
    'published_weights',
]
