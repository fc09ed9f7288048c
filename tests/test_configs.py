"""The configs, against the numbers and names they stand for."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import golden_data
import stand_ins
from mmatm.archs import ARCHS
from mmatm.checkpoint import read_checkpoint
from mmatm.shapes import SEMANTIC_CLASSES

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
UPERNETS = {'xt': '45.3', 't': '57.1', 's': '68.6', 'b': '82.1', 'l': '107.892'}
DROP_PATH = {'xt': 0.1, 't': 0.1, 's': 0.2, 'b': 0.2, 'l': 0.2}


@cache
def upernet(size: str) -> Config:
    return Config.fromfile(ROOT / f'configs/upernet_atmnet_{size}_ade20k.py')


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):  # no memory, no time
        return MODELS.build(cfg.model)


@pytest.mark.parametrize(('size', 'published'), UPERNETS.items())
def test_upernet(size, published):
    cfg = upernet(size)
    model = build(cfg)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert f'{millions:.{len(published.split(".")[1])}f}' == published
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (size, DROP_PATH[size])
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': f'checkpoints/atmnet_{size}_in1k.pth'}
    assert list(model.backbone.out_channels) == cfg.model.decode_head.in_channels == ARCHS[size]['channels']
    assert cfg.model.auxiliary_head.in_channels == ARCHS[size]['channels'][2]


def test_upernet_recipe():
    cfg = upernet('l')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 6e-5, 'betas': (0.9, 0.999), 'weight_decay': 0.01}
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 160000
    assert [s.type for s in cfg.param_scheduler] == ['LinearLR', 'PolyLR']
    heads = cfg.model.decode_head, cfg.model.auxiliary_head
    assert [(h.channels, h.loss_decode.loss_weight, h.num_classes) for h in heads] == [(512, 1.0, 150), (256, 0.4, 150)]
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    scales, flips = cfg.tta_pipeline[1].transforms[:2]
    assert [s.scale for s in scales] == [(int(2048 * r), int(512 * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert [f.prob for f in flips] == [0.0, 1.0]


def test_no_weight_decay_reaches_exactly_the_norms():
    cfg = upernet('xt')
    cfg = Config({**cfg.to_dict(), 'optim_wrapper': {**cfg.optim_wrapper.to_dict(), 'type': 'OptimWrapper'}})
    cfg.optim_wrapper.pop('loss_scale')
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    exempt = {id(p) for group in optimizer.param_groups if group['weight_decay'] == 0 for p in group['params']}
    norms = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    expected = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    assert exempt == expected
    assert id(model.backbone.stages[0].blocks[0].offset_norm.weight) in exempt


def test_no_two_configs_resolve_to_the_same():
    texts = [re.sub(r'checkpoints/\S+', '', Config.fromfile(path).pretty_text) for path in CONFIGS]
    assert len(texts) == len(set(texts)) == 6


def test_authors_upernet_file_has_every_key(tmp_path):
    """A stand-in of the authors' UperNet-L file fills the whole model: same keys, same shapes."""
    backbone = golden_data.authors_weights(stand_ins.authors_shapes(ARCHS['l'], pyramid=True))
    path = stand_ins.upernet_file(tmp_path / 'l.pth', backbone, ARCHS['l']['channels'], 150, 512, 256)
    weights = read_checkpoint(str(path))['state_dict']
    model = build(upernet('l'))
    keys = model.load_state_dict(weights, strict=True, assign=True)
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_shapes_config_fits_the_data():
    cfg = Config.fromfile(ROOT / 'configs/upernet_atmnet_mini_shapes.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.classes == SEMANTIC_CLASSES
        assert loader.dataset.reduce_zero_label
    model = build(cfg)
    assert model.num_classes == len(SEMANTIC_CLASSES)
    assert Path(cfg.train_dataloader.dataset.data_root) == Path('data/shapes/ade')
