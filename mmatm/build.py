"""Builds the models of configs, and parts of them, for everything but training and testing."""

import copy
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmatm.pretrained import PretrainedWeights, without_pretrained


def model_config(cfg: Config) -> dict:
    """A copy of a config's `model`, with what MMEngine's runner gives it: the preprocessor that stands beside it."""
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def build_model(cfg: Config, device: str = 'cpu') -> nn.Module:
    """Builds the model of a config of any task; see `build_module`."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return build_module(model_config(cfg), device)


def build_module(cfg: dict, device: str = 'cpu', keep: Callable[[PretrainedWeights], bool] | None = None) -> nn.Module:
    """Builds a model or a part of one with random weights, to run in one process: SyncBN becomes BN.

    Args:
        cfg: Its config. The default scope has to be that of its toolbox.
        device: `'meta'` builds it without values, which takes no time.
        keep: Which pretrained weights of the config are kept.
    """
    cfg = without_pretrained(cfg, keep)
    try:
        with torch.device(device):
            model = MODELS.build(cfg)
    except RuntimeError:  # a constructor that looks at values, as Swin's
        if device != 'meta':
            raise
        model = MODELS.build(cfg).to(device)
    return revert_sync_batchnorm(model)
