"""The configs of the backbones that have a folder each, against their names, the backbones and the recipes."""

import json
import re
from functools import cache

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmatm.analysis.papers import is_own, read_tables
from mmatm.build import build_model
from mmatm.models import backbone_class, backbones

FOLDERS = {name.lower(): kind for name, kind in backbones().items() if (ROOT / 'configs' / name.lower()).is_dir()}
FILES = {path.stem: path for folder in FOLDERS for path in sorted((ROOT / 'configs' / folder).glob('*.py'))}
# {method}_{backbone}_{size}[_{schedule}]_{dataset}
NAME = re.compile(
    rf'((?P<method>\w+)_)?(?P<backbone>{"|".join(FOLDERS)})_(?P<size>[a-z0-9]+)(_\dx)?_(?P<data>ade20k|coco|in1k)'
)
CLASSIFIERS = {
    'casvit': ['casvit_{}_in1k'],
    'riformer': ['riformer_{}_in1k'],
    'transxnet': ['transxnet_{}_in1k', 'transxnet_b_384_in1k'],
    'ffnet': [
        *['ffnet_{}_in1k', 'ffnet_3_384_in1k', 'ffnet_4_384_in1k'],
        *[f'ffnet_{size}_distilled_in1k' for size in '123'],
    ],
    **{name: [f'{name}_{{}}_in1k'] for name in ('dfformer', 'cdfformer', 'affnet', 'dsm')},
    'metaformer': [],  # of no paper: a skeleton to compare mixers in
}
CASVIT_DROP_PATH = {'xs': 0.0, 's': 0.0, 'm': 0.1, 't': 0.1}
RIFORMER_DROP_PATH = {'s12': 0.1, 's24': 0.1, 's36': 0.2, 'm36': 0.2, 'm48': 0.2}
TRANSXNET_DROP_PATH = {'t': 0.1, 's': 0.2, 'b': 0.3}
FFNET_DROP_PATH = {'1': 0.1, '2': 0.2, '3': 0.3, '4': 0.3}
SPECTRAL_DROP_PATH = {'s18': 0.1, 's36': 0.2, 'm36': 0.3, 'b36': 0.3}
NO_DROP_PATH = dict.fromkeys(('s18', 's36', 'm36', 'b36', 'et', 't', 'base'), 0.0)
PUBLISHED, SWIN, PVT, ATMNET = 'published by the authors', "Swin's stands in", "PVT's stands in", "ATMNet's stands in"
# Batch of 8 GPUs, learning rate, weight decay, drop path, who the recipe is of.
RECIPES = {
    ('casvit', 'mask_rcnn'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, PUBLISHED),
    ('casvit', 'retinanet'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, PUBLISHED),
    ('casvit', 'semantic_fpn'): (32, 2e-4, 1e-4, CASVIT_DROP_PATH, PUBLISHED),
    ('casvit', 'cascade_mask_rcnn'): (16, 1e-4, 0.05, CASVIT_DROP_PATH, SWIN),
    ('casvit', 'upernet'): (16, 6e-5, 0.01, CASVIT_DROP_PATH, ATMNET),
    ('casvit', None): (1024, 1e-3, 0.05, CASVIT_DROP_PATH, ATMNET),
    ('riformer', 'mask_rcnn'): (16, 1e-4, 0.05, RIFORMER_DROP_PATH, SWIN),
    ('riformer', 'retinanet'): (16, 1e-4, 1e-4, RIFORMER_DROP_PATH, PVT),
    ('riformer', 'semantic_fpn'): (32, 2e-4, 1e-4, RIFORMER_DROP_PATH, PVT),
    ('riformer', 'cascade_mask_rcnn'): (16, 1e-4, 0.05, RIFORMER_DROP_PATH, SWIN),
    ('riformer', 'upernet'): (16, 6e-5, 0.01, RIFORMER_DROP_PATH, ATMNET),
    ('riformer', None): (4096, 4e-3, 0.05, dict.fromkeys(RIFORMER_DROP_PATH, 0.1), "MMPretrain's, published"),
    ('transxnet', 'mask_rcnn'): (16, 1e-4, 0.05, TRANSXNET_DROP_PATH, PUBLISHED),
    ('transxnet', 'retinanet'): (16, 1e-4, 1e-4, TRANSXNET_DROP_PATH, PUBLISHED),
    ('transxnet', 'semantic_fpn'): (32, 2e-4, 1e-4, TRANSXNET_DROP_PATH, PUBLISHED),
    ('transxnet', 'cascade_mask_rcnn'): (16, 1e-4, 0.05, TRANSXNET_DROP_PATH, SWIN),
    ('transxnet', 'upernet'): (16, 6e-5, 0.01, TRANSXNET_DROP_PATH, ATMNET),
    ('transxnet', None): (1024, 1e-3, 0.05, TRANSXNET_DROP_PATH, ATMNET),
    ('ffnet', 'mask_rcnn'): (16, 1e-4, 0.05, FFNET_DROP_PATH, SWIN),
    ('ffnet', 'retinanet'): (16, 1e-4, 1e-4, FFNET_DROP_PATH, PVT),
    ('ffnet', 'semantic_fpn'): (32, 2e-4, 1e-4, FFNET_DROP_PATH, PVT),
    ('ffnet', 'cascade_mask_rcnn'): (16, 1e-4, 0.05, {'1': 0.2, '2': 0.35, '3': 0.6, '4': 0.6}, PUBLISHED),
    ('ffnet', 'upernet'): (16, 1e-4, 0.05, FFNET_DROP_PATH, PUBLISHED),
    ('ffnet', None): (1024, 1e-3, 0.05, FFNET_DROP_PATH, ATMNET),
    **{
        (name, method): recipe
        for name in ('dfformer', 'cdfformer')
        for method, recipe in {
            'mask_rcnn': (16, 1e-4, 0.05, SPECTRAL_DROP_PATH, SWIN),
            'retinanet': (16, 1e-4, 0.05, NO_DROP_PATH, PUBLISHED),
            'semantic_fpn': (32, 2e-4, 1e-4, NO_DROP_PATH, PUBLISHED),
            'upernet': (16, 6e-5, 0.01, SPECTRAL_DROP_PATH, ATMNET),
            None: (1024, 1e-3, 0.05, SPECTRAL_DROP_PATH, ATMNET),
        }.items()
    },
    **{
        (name, method): recipe
        for name, drop_path in (('affnet', NO_DROP_PATH), ('dsm', SPECTRAL_DROP_PATH))
        for method, recipe in {
            'mask_rcnn': (16, 1e-4, 0.05, drop_path, SWIN),
            'retinanet': (16, 1e-4, 1e-4, drop_path, PVT),
            'semantic_fpn': (32, 2e-4, 1e-4, drop_path, PVT),
            'upernet': (16, 6e-5, 0.01, drop_path, ATMNET),
            None: (1024, 1e-3, 0.05, drop_path, ATMNET),
        }.items()
    },
}
STANDING_IN = {('ffnet', method, '1'): "the larger ones' stands in" for method in ('cascade_mask_rcnn', 'upernet')}
# The others have tests of their own.
PAPERS = [name for name in FILES if not re.search('_shapes|_streets|_384_|_distilled_', name)]


def golden(backbone: str) -> dict:
    return json.loads((ROOT / f'tests/golden/{backbone}/{backbone}.json').read_text())


@cache
def load(name: str) -> Config:
    return Config.fromfile(FILES[name])


@pytest.mark.parametrize('backbone', list(FOLDERS))
def test_every_config_is_there_and_no_other(backbone):
    sizes = [f'{backbone}_{size}' for size in FOLDERS[backbone].SIZES]
    schedules = {'cascade_mask_rcnn': '3x_coco', 'mask_rcnn': '1x_coco', 'retinanet': '1x_coco'}
    methods = [method for name, method in RECIPES if name == backbone and method]
    wanted = {f'{method}_{size}_{schedules.get(method, "ade20k")}' for method in methods for size in sizes}
    wanted |= {name.format(size) for name in CLASSIFIERS[backbone] for size in FOLDERS[backbone].SIZES}
    wanted.add(f'upernet_{backbone}_mini_shapes')
    if backbone == 'metaformer':
        wanted |= {'upernet_metaformer_mini_streets', 'upernet_metaformer_s12_streets'}
    assert {name for name, path in FILES.items() if path.parent.name == backbone} == wanted


@pytest.mark.parametrize('name', PAPERS)
def test_name_and_content(name):
    part = NAME.fullmatch(name)
    cfg = load(name)
    model, backbone = cfg.model, cfg.model.backbone
    batch, lr, weight_decay, drop_path, recipe = RECIPES[part['backbone'], part['method']]
    recipe = STANDING_IN.get((part['backbone'], part['method'], part['size']), recipe)
    kind = FOLDERS[part['backbone']]
    assert backbone_class(backbone.type) is kind
    assert backbone.arch == part['size']
    assert backbone.drop_path_rate == drop_path[part['size']]
    if part['method']:
        checkpoint = f'checkpoints/{kind.imagenet_config(part["size"])}.pth'
        assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': checkpoint}
    else:
        assert not any(init['type'] == 'Pretrained' for init in backbone.get('init_cfg') or ())
        assert cfg.load_from is None

    channels = [kind.SIZES[part['size']]['channels'][i] for i in backbone.get('out_indices', range(4))]
    if part['method'] == 'upernet':
        assert model.decode_head.in_channels == channels
        assert model.auxiliary_head.in_channels == channels[2]
    elif part['method']:
        assert model.neck.in_channels == channels
        assert len(channels) == (3 if part['method'] == 'retinanet' else 4)
    else:
        assert model.neck.get('channels', channels[0]) == channels[0]
        assert model.head.in_channels == model.neck.get('out_channels', channels[0])

    assert cfg.auto_scale_lr.base_batch_size == batch
    if batch != 4096:  # of 32 GPUs
        assert 8 * cfg.train_dataloader.batch_size == batch
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    last = cfg.param_scheduler[-1]
    iterations = (80000 if part['backbone'] == 'transxnet' else 40000, 160000)
    if part['data'] == 'ade20k':
        assert cfg.train_cfg.max_iters == last.end == iterations[part['method'] == 'upernet']
    elif part['data'] == 'coco':
        epochs, steps = (36, [27, 33]) if '_3x_' in name else (12, [8, 11])
        assert cfg.train_cfg.max_epochs == last.end == epochs
        assert last.milestones == steps
    title = f'{kind.TITLE}-{part["size"].upper()}'
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
            assert load(name).model.backbone.get('norm_eval', FOLDERS['casvit'].NORM_EVAL) == norm_eval


def test_published_settings_of_transxnet():
    for method in ('mask_rcnn', 'retinanet'):
        warm_up, steps = load(f'{method}_transxnet_s_1x_coco').param_scheduler
        assert (warm_up.begin, warm_up.end, steps.milestones) == (0, 500, [8, 11])
    assert 'paramwise_cfg' not in load('retinanet_transxnet_s_1x_coco').optim_wrapper
    warm_up, decay = load('semantic_fpn_transxnet_s_ade20k').param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end) == ('LinearLR', 0.1, 1000)
    assert (decay.type, decay.eta_min, decay.begin) == ('CosineAnnealingLR', 1e-8, 1000)


def test_weight_decay_of_transxnets_mask_rcnn():
    """By the authors' names of parameters: none where a name holds "norm"."""
    cfg = load('mask_rcnn_transxnet_t_1x_coco')
    model = build_model(cfg, 'meta')
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    published = type(model.backbone).PUBLISHED
    names = golden('transxnet')['published_names']['transxnet_t']['parameter_shapes']
    for theirs in names:
        parameter = model.backbone.get_parameter(published.own_name(theirs))
        assert decays[id(parameter)] == (0.0 if 'norm' in theirs else 0.05), theirs
    assert len(names) == len(list(model.backbone.parameters()))


@pytest.mark.parametrize(('size', 'rate'), [('1', 1.0), ('2', 1.0), ('3', 0.9), ('4', 0.9)])
def test_published_settings_of_ffnet(size, rate):
    cfg = load(f'cascade_mask_rcnn_ffnet_{size}_3x_coco')
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=0.8, layers='published')
    assert cfg.param_scheduler[0].end == 500
    head = cfg.model.roi_head.bbox_head[0]
    assert (head.type, head.norm_cfg.type, head.loss_bbox.type) == ('ConvFCBBoxHead', 'SyncBN', 'GIoULoss')
    assert head.loss_bbox.loss_weight == 10.0
    cfg = load(f'upernet_ffnet_{size}_ade20k')
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=rate, layers='published')
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, decay.type, decay.power) == (1e-6, 1500, 'PolyLR', 1.0)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert dict(type='ResizeToMultiple', size_divisor=32) in loader.dataset.pipeline


def test_published_depths_of_ffnet():
    """The groups of the authors' detectors, by their names of modules."""
    cfg = load('cascade_mask_rcnn_ffnet_2_3x_coco')
    model = build_model(cfg, 'meta')
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    expected = {
        'patch_embed.0.c.weight': 13,
        'stages.0.2.channel_mixer.main.fc1.weight': 1,
        'stages.1.0.proj.0.conv.c.weight': 2,
        'stages.1.3.token_mixer.0.main.fc.c.weight': 2,
        'stages.2.0.proj.1.conv.bn.bias': 3,
        **{f'stages.2.{m}.token_mixer.0.main.fc.c.weight': 3 + m // 3 for m in range(1, 16)},
        'stages.3.0.proj.1.conv.c.weight': 12,
        'stages.3.3.channel_mixer.main.fc2.bias': 12,
        'norm0.weight': 13,
    }
    for theirs, group in expected.items():
        parameter = model.backbone.get_parameter(FOLDERS['ffnet'].PUBLISHED.own_name(theirs))
        assert rates[id(parameter)] == pytest.approx(1e-4 * 0.8 ** (13 - group)), theirs


@pytest.mark.parametrize('name', [name for name in FILES if '_384_' in name or '_distilled_' in name])
def test_other_classifiers(name):
    cfg = load(name)
    size = name.split('_')[1]
    assert cfg.model.backbone.arch == size
    assert cfg.model.head.in_channels == backbone_class(cfg.model.backbone.type).SIZES[size]['channels'][-1]
    (scale,) = {step.scale for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step}
    if '_384_' in name:
        assert cfg.load_from == f'checkpoints/{name.replace("_384", "")}.pth'
        assert scale == 384
    else:
        assert cfg.train_cfg is cfg.train_dataloader is None  # only tests
        assert scale == 292


def test_no_two_configs_resolve_to_the_same():
    texts = [re.sub(r'checkpoints/[\w.]+', '', repr(load(name)._cfg_dict.to_dict())) for name in FILES]
    assert len(texts) == len(set(texts))


def test_published_banks_of_dfformer():
    """The authors' detectors and segmenters resize the filters before they are trained."""
    for name in FILES:
        if re.search('_c?dffor', name) and 'mini' not in name:
            grid = 800 if name.endswith('coco') else 512
            assert load(name).model.backbone.bank_size == grid, name
    for size in ('s18', 's36'):
        assert 'paramwise_cfg' not in load(f'retinanet_dfformer_{size}_1x_coco').optim_wrapper  # decay on everything


def test_schedules_of_published_figures_are_the_configs():
    """What docs/papers says that a figure was trained for, where the authors' recipe is known."""
    tables = [table for table in read_tables(ROOT / 'docs') if 'images' in table.get('trained', '')]
    assert len(tables) > 8
    for table in tables:
        for row in table['rows']:
            if is_own(table, row):
                cfg = Config.fromfile(ROOT / table['paper']['configs'] / f'{row["config"]}.py')
                schedule = cfg.train_cfg
                length = (
                    f'{schedule.max_iters // 1000}k iterations'
                    if schedule.get('max_iters')
                    else f'{schedule.max_epochs} epochs'
                )
                assert table['trained'] == f'{length}, {cfg.auto_scale_lr.base_batch_size} images', row['config']
