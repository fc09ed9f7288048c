"""The configs of the backbones that have a folder each, against their names, the backbones and the recipes."""

import re
from functools import cache

import pytest
from conftest import ROOT
from mmengine.config import Config

from mmatm.build import build_model
from mmatm.models import backbone_class, backbones

FOLDERS = {name.lower(): kind for name, kind in backbones().items() if (ROOT / 'configs' / name.lower()).is_dir()}
FILES = {path.stem: path for folder in FOLDERS for path in sorted((ROOT / 'configs' / folder).glob('*.py'))}
# {method}_{backbone}_{size}[_{schedule}]_{dataset}
NAME = re.compile(
    rf'((?P<method>\w+)_)?(?P<backbone>{"|".join(FOLDERS)})_(?P<size>[a-z0-9]+)(_\dx)?_(?P<data>ade20k|coco|in1k)'
)
METHODS = {
    'casvit': ['mask_rcnn_{}_1x_coco', 'retinanet_{}_1x_coco', 'semantic_fpn_{}_ade20k', '{}_in1k'],
    'riformer': [
        *['mask_rcnn_{}_1x_coco', 'retinanet_{}_1x_coco', 'semantic_fpn_{}_ade20k'],
        *['upernet_{}_ade20k', '{}_in1k'],
    ],
}
CASVIT_DROP_PATH = {'xs': 0.0, 's': 0.0, 'm': 0.1, 't': 0.1}
RIFORMER_DROP_PATH = {'s12': 0.1, 's24': 0.1, 's36': 0.2, 'm36': 0.2, 'm48': 0.2}
# Batch of 8 GPUs, learning rate, weight decay, drop path, who the recipe is of.
RECIPES = {
    ('casvit', 'mask_rcnn'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, 'published by the authors'),
    ('casvit', 'retinanet'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, 'published by the authors'),
    ('casvit', 'semantic_fpn'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, 'published by the authors'),
    ('casvit', None): (1024, 1e-3, 0.05, CASVIT_DROP_PATH, "ATMNet's stands in"),
    ('riformer', 'mask_rcnn'): (16, 1e-4, 0.05, RIFORMER_DROP_PATH, "Swin's stands in"),
    ('riformer', 'retinanet'): (16, 1e-4, 1e-4, RIFORMER_DROP_PATH, "PVT's stands in"),
    ('riformer', 'semantic_fpn'): (32, 2e-4, 1e-4, RIFORMER_DROP_PATH, "PVT's stands in"),
    ('riformer', 'upernet'): (16, 6e-5, 0.01, RIFORMER_DROP_PATH, "ATMNet's stands in"),
    ('riformer', None): (4096, 4e-3, 0.05, dict.fromkeys(RIFORMER_DROP_PATH, 0.1), "MMPretrain's, published"),
}
PAPERS = [name for name in FILES if not name.endswith('_shapes')]


@cache
def load(name: str) -> Config:
    return Config.fromfile(FILES[name])


@pytest.mark.parametrize('backbone', list(FOLDERS))
def test_every_config_is_there_and_no_other(backbone):
    sizes = [f'{backbone}_{size}' for size in FOLDERS[backbone].SIZES]
    wanted = {method.format(size) for method in METHODS[backbone] for size in sizes}
    wanted.add(f'upernet_{backbone}_mini_shapes')
    assert {name for name, path in FILES.items() if path.parent.name == backbone} == wanted


@pytest.mark.parametrize('name', PAPERS)
def test_name_and_content(name):
    part = NAME.fullmatch(name)
    cfg = load(name)
    model, backbone = cfg.model, cfg.model.backbone
    batch, lr, weight_decay, drop_path, recipe = RECIPES[part['backbone'], part['method']]
    assert backbone_class(backbone.type) is FOLDERS[part['backbone']]
    assert backbone.arch == part['size']
    assert backbone.drop_path_rate == drop_path[part['size']]
    if part['method']:
        checkpoint = f'checkpoints/{part["backbone"]}_{part["size"]}_in1k.pth'
        assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': checkpoint}
    else:
        assert not any(init['type'] == 'Pretrained' for init in backbone.get('init_cfg') or ())
        assert cfg.load_from is None

    channels = list(build_model(cfg, 'meta').backbone.out_channels)
    if part['method'] == 'upernet':
        assert model.decode_head.in_channels == channels
        assert model.auxiliary_head.in_channels == channels[2]
    elif part['method']:
        assert model.neck.in_channels == channels
        assert len(channels) == (3 if part['method'] == 'retinanet' else 4)
    else:
        assert [model.head.in_channels] == channels

    assert cfg.auto_scale_lr.base_batch_size == batch
    if batch != 4096:  # of 32 GPUs
        assert 8 * cfg.train_dataloader.batch_size == batch
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    last = cfg.param_scheduler[-1]
    if part['data'] == 'ade20k':
        assert cfg.train_cfg.max_iters == last.end == (160000 if part['method'] == 'upernet' else 40000)
    elif part['data'] == 'coco':
        assert cfg.train_cfg.max_epochs == last.end == 12
        assert last.milestones == [8, 11]
    title = f'{FOLDERS[part["backbone"]].TITLE}-{part["size"].upper()}'
    comment = FILES[name].read_text().partition('\n')[0]
    assert title in comment
    assert f'Recipe: {recipe}' in comment


def test_published_settings_of_cas_vit():
    for method in ('mask_rcnn', 'retinanet'):
        cfg = load(f'{method}_casvit_m_1x_coco')
        warm_up = cfg.param_scheduler[0]
        assert (warm_up.begin, warm_up.end, warm_up.start_factor) == (0, 500, 1e-6)
        assert 'paramwise_cfg' not in cfg.optim_wrapper  # weight decay on everything
    cfg = load('semantic_fpn_casvit_m_ade20k')
    assert [(s.type, s.power, s.begin) for s in cfg.param_scheduler] == [('PolyLR', 0.9, 0)]
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    for name in FILES:
        if 'casvit' in name:
            norm_eval = 'mini' not in name and 'in1k' not in name
            assert build_model(load(name), 'meta').backbone.norm_eval == norm_eval


def test_no_two_configs_resolve_to_the_same():
    texts = [re.sub(r'checkpoints/[\w.]+', '', repr(load(name)._cfg_dict.to_dict())) for name in FILES]
    assert len(texts) == len(set(texts))
