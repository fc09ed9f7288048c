"""The configs, against the numbers and names they stand for."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn

import golden_data
import stand_ins
from mmatm.analysis.papers import own_rows, read_streets, read_tables
from mmatm.build import build_model
from mmatm.checkpoint import read_checkpoint
from mmatm.datasets.shapes import SEMANTIC_CLASSES, SHAPES
from mmatm.models import ATMNet
from mmatm.models.whole_model import for_model

STREETS = read_streets(ROOT / 'docs')['configs']
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
NAME = re.compile(
    r'((?P<method>\w+)_)?atmnet_(?P<size>xt|t|s|b|l)(_(?P<pixels>384))?(_(?P<schedule>\dx))?_(?P<data>ade20k|coco|in1k)'
)
PAPERS = [path.stem for path in CONFIGS if NAME.fullmatch(path.stem)]
OTHERS = {'upernet_atmnet_mini_shapes', 'mask_rcnn_atmnet_mini_shapes', 'atmnet_mini_shapes', *STREETS}
DETECTION_DROP_PATH = {'xt': 0.1, 't': 0.1, 's': 0.2, 'b': 0.2, 'l': 0.2}
# batch of 8 GPUs, learning rate, weight decay, drop path
RECIPES = {
    'upernet': (16, 6e-5, 0.01, {'xt': 0.1, 't': 0.1, 's': 0.2, 'b': 0.2, 'l': 0.2}),
    'semantic_fpn': (32, 2e-4, 1e-4, dict.fromkeys(('xt', 't', 's', 'b', 'l'), 0.1)),
    'mask_rcnn': (16, 1e-4, 0.05, DETECTION_DROP_PATH),
    'cascade_mask_rcnn': (16, 1e-4, 0.05, DETECTION_DROP_PATH),
    'retinanet': (16, 1e-4, 1e-4, DETECTION_DROP_PATH),
    None: (1024, 1e-3, 0.05, {'xt': 0.1, 't': 0.1, 's': 0.2, 'b': 0.3, 'l': 0.3}),
}
TYPES = {
    'upernet': 'EncoderDecoder',
    'semantic_fpn': 'EncoderDecoder',
    'mask_rcnn': 'MaskRCNN',
    'cascade_mask_rcnn': 'CascadeRCNN',
    'retinanet': 'RetinaNet',
    None: 'ImageClassifier',
}


@cache
def load(name: str) -> Config:
    return Config.fromfile(ROOT / f'configs/{name}.py')


def test_every_config_of_the_paper_is_there_and_no_other():
    sizes = ('xt', 't', 's', 'b', 'l')
    families = ['upernet_{}_ade20k', 'semantic_fpn_{}_ade20k', 'retinanet_{}_1x_coco', '{}_in1k']
    families += [f'{method}_{{}}_{n}x_coco' for method in ('mask_rcnn', 'cascade_mask_rcnn') for n in (1, 3)]
    wanted = {family.format(f'atmnet_{size}') for family in families for size in sizes} | {'atmnet_l_384_in1k'}
    assert set(PAPERS) == wanted
    assert {path.stem for path in CONFIGS} == wanted | OTHERS


@pytest.mark.parametrize('name', PAPERS)
def test_name_and_content(name):
    part = NAME.fullmatch(name)
    cfg = load(name)
    batch, lr, weight_decay, drop_path = RECIPES[part['method']]
    if part['pixels']:
        lr, weight_decay = 4e-5, 1e-8
    model, backbone = cfg.model, cfg.model.backbone
    assert model.type == TYPES[part['method']]
    assert (backbone.type, backbone.arch) == ('mmatm.ATMNet', part['size'])
    assert backbone.drop_path_rate == drop_path[part['size']]
    if part['method']:
        assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': f'checkpoints/atmnet_{part["size"]}_in1k.pth'}
    else:
        assert 'init_cfg' not in backbone
        assert cfg.load_from == (f'checkpoints/atmnet_{part["size"]}_in1k.pth' if part['pixels'] else None)

    channels = list(build_model(cfg, 'meta').backbone.out_channels)
    if part['method'] == 'upernet':
        assert model.decode_head.in_channels == channels
        assert model.auxiliary_head.in_channels == channels[2]
    elif part['method']:
        assert model.neck.in_channels == channels
        assert channels == ATMNet.SIZES[part['size']]['channels'][1 if part['method'] == 'retinanet' else 0 :]
    else:
        assert [model.head.in_channels] == channels == ATMNet.SIZES[part['size']]['channels'][-1:]

    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    assert optimizer.betas == (0.9, 0.999)
    last = cfg.param_scheduler[-1]
    if part['data'] == 'ade20k':
        assert cfg.train_cfg.max_iters == last.end == (160000 if part['method'] == 'upernet' else 40000)
        assert cfg.data_root == 'data/ade/ADEChallengeData2016'
    else:
        epochs = int(part['schedule'][0]) * 12 if part['schedule'] else 30 if part['pixels'] else 300
        assert cfg.train_cfg.max_epochs == last.end == epochs
    comment = (ROOT / f'configs/{name}.py').read_text().partition('\n')[0]
    assert re.search(r'Recipe: .*(published|stands? in)', comment)


def test_upernet_recipe():
    cfg = load('upernet_atmnet_l_ade20k')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert [s.type for s in cfg.param_scheduler] == ['LinearLR', 'PolyLR']
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == 1500
    assert cfg.param_scheduler[0].start_factor * 6e-5 <= 1e-6
    assert (cfg.param_scheduler[1].power, cfg.param_scheduler[1].eta_min) == (1.0, 0.0)
    heads = cfg.model.decode_head, cfg.model.auxiliary_head
    assert [(h.channels, h.loss_decode.loss_weight, h.num_classes) for h in heads] == [(512, 1.0, 150), (256, 0.4, 150)]


@pytest.mark.parametrize('method', ['upernet', 'semantic_fpn'])
def test_ade20k_pipelines(method):
    cfg = load(f'{method}_atmnet_t_ade20k')
    resize = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomResize')
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    scales, flips = cfg.tta_pipeline[1].transforms[:2]
    assert [s.scale for s in scales] == [(int(2048 * r), int(512 * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert [f.prob for f in flips] == [0.0, 1.0]
    assert cfg.model.decode_head.num_classes == 150


def test_semantic_fpn_recipe():
    cfg = load('semantic_fpn_atmnet_l_ade20k')
    assert [(s.type, s.power, s.begin) for s in cfg.param_scheduler] == [('PolyLR', 0.9, 0)]
    assert (cfg.model.neck.out_channels, cfg.model.decode_head.channels) == (256, 128)


@pytest.mark.parametrize('method', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_detection_schedules(method):
    once, thrice = load(f'{method}_atmnet_t_1x_coco'), load(f'{method}_atmnet_t_3x_coco')
    assert [cfg.param_scheduler[1].milestones for cfg in (once, thrice)] == [[8, 11], [27, 33]]
    assert once.param_scheduler[0] == thrice.param_scheduler[0]
    assert once.param_scheduler[0].end == 1000
    assert [t.type for t in once.train_dataloader.dataset.pipeline][2] == 'Resize'
    assert once.train_dataloader.dataset.pipeline[2].scale == (1333, 800)
    policies = next(t for t in thrice.train_dataloader.dataset.pipeline if t.type == 'RandomChoice').transforms
    assert [[t.type for t in policy] for policy in policies] == [
        ['RandomChoiceResize'],
        ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize'],
    ]
    assert once.test_dataloader == thrice.test_dataloader


def test_cascade_heads():
    heads = load('cascade_mask_rcnn_atmnet_b_3x_coco').model.roi_head.bbox_head
    for head in heads:
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert head.loss_bbox == {'type': 'GIoULoss', 'loss_weight': 10.0}
        assert head.norm_cfg.type == 'SyncBN'
        assert head.reg_class_agnostic
        assert head.reg_decoded_bbox
    assert [head.bbox_coder.target_stds[0] for head in heads] == [0.1, 0.05, 0.033]


def test_retinanet_levels():
    model = build_model(load('retinanet_atmnet_xt_1x_coco'), 'meta')
    assert model.backbone.out_strides == (8, 16, 32)
    assert [s[0] for s in model.bbox_head.prior_generator.strides] == [8, 16, 32, 64, 128]
    assert (model.neck.start_level, model.neck.num_outs, model.neck.add_extra_convs) == (0, 5, 'on_input')
    assert load('retinanet_atmnet_xt_1x_coco').optim_wrapper.get('clip_grad') is None
    assert load('retinanet_atmnet_xt_1x_coco').param_scheduler[1].milestones == [8, 11]


def test_imagenet_recipe():
    cfg = load('atmnet_t_in1k')
    pipeline = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
    augment = pipeline['RandAugment']
    assert (augment.policies, augment.magnitude_level, augment.magnitude_std) == ('timm_increasing', 9, 0.5)
    assert pipeline['RandomErasing'].erase_prob == 0.25
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor * 1e-3) == (5, pytest.approx(1e-6))
    assert (cosine.begin, cosine.eta_min) == (5, 1e-5)
    assert [(h.type, 1 - h.momentum) for h in cfg.custom_hooks] == [('EMAHook', pytest.approx(0.99996))]


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@pytest.mark.parametrize(
    ('name', 'exempt'),
    [
        ('upernet_atmnet_xt_ade20k', lambda owner, name: isinstance(owner, NORMS)),
        ('semantic_fpn_atmnet_xt_ade20k', lambda owner, name: False),
        ('mask_rcnn_atmnet_xt_1x_coco', lambda owner, name: isinstance(owner, NORMS)),
        ('cascade_mask_rcnn_atmnet_xt_3x_coco', lambda owner, name: isinstance(owner, NORMS)),
        ('retinanet_atmnet_xt_1x_coco', lambda owner, name: False),
        (
            'atmnet_xt_in1k',
            lambda owner, name: isinstance(owner, NORMS) or name.endswith('bias') or '.position.' in name,
        ),
    ],
)
def test_no_weight_decay_reaches_exactly_what_the_recipe_names(name, exempt):
    cfg = load(name)
    wrapper = {**cfg.optim_wrapper.to_dict(), 'type': 'OptimWrapper'}
    wrapper.pop('loss_scale', None)
    model = build_model(cfg, 'meta')
    optimizer = build_optim_wrapper(model, ConfigDict(wrapper)).optimizer
    decayed = {id(p) for group in optimizer.param_groups if group['weight_decay'] > 0 for p in group['params']}
    names = {
        f'{prefix}.{n}': (id(p), owner)
        for prefix, owner in model.named_modules()
        for n, p in owner.named_parameters(recurse=False)
    }
    assert {n for n, (i, _) in names.items() if i not in decayed} == {
        n for n, (_, owner) in names.items() if exempt(owner, n)
    }
    assert 'backbone.stages.0.blocks.0.offset_norm.weight' in names


def test_no_two_configs_resolve_to_the_same():
    texts = [re.sub(r'checkpoints/[\w.]+', '', repr(load(path.stem)._cfg_dict.to_dict())) for path in CONFIGS]
    assert len(texts) == len(set(texts)) == 48


@pytest.mark.parametrize('size', ['xt', pytest.param('l', marks=pytest.mark.slow)])
def test_authors_upernet_file_has_every_key(tmp_path, size):
    """A stand-in of the authors' UperNet file fills the whole model: same keys, same shapes."""
    backbone = golden_data.authors_weights(stand_ins.authors_shapes(ATMNet.SIZES[size], pyramid=True))
    path = stand_ins.upernet_file(tmp_path / 'upernet.pth', backbone, ATMNet.SIZES[size]['channels'], 150, 512, 256)
    fill(build_model(load(f'upernet_atmnet_{size}_ade20k'), 'meta'), path)


def test_authors_imagenet_file_has_every_key(tmp_path):
    weights = golden_data.authors_weights(stand_ins.authors_shapes(ATMNet.SIZES['xt'], pyramid=False))
    fill(build_model(load('atmnet_xt_in1k'), 'meta'), stand_ins.imagenet_file(tmp_path / 'xt.pth', weights))


def fill(model: nn.Module, path: Path) -> None:
    weights = for_model(read_checkpoint(str(path))['state_dict'], model)
    keys = model.load_state_dict(weights, strict=True, assign=True)
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize('name', sorted(OTHERS - set(STREETS)))
def test_shapes_configs_fit_the_data(name):
    cfg = load(name)
    classes, folder = (SHAPES, 'coco') if 'rcnn' in name else (sorted(SHAPES), 'imagenet')
    if 'upernet' in name:
        classes, folder = SEMANTIC_CLASSES, 'ade'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.dataset.get('metainfo') or loader.dataset)['classes'] == classes
        assert Path(loader.dataset.data_root) == Path('data/shapes') / folder
    model = build_model(cfg, 'meta')
    head = {'ade': 'decode_head', 'coco': 'roi_head.bbox_head', 'imagenet': 'head'}[folder]
    assert model.get_submodule(head).num_classes == len(classes)
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size


def test_streets_configs_differ_in_the_model_only():
    configs = [load(name) for name in STREETS]
    for key in ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert all(cfg[key] == configs[0][key] for cfg in configs)
    for cfg in configs:
        assert not any(
            'checkpoint' in (part.get('init_cfg') or ()) for part in cfg.model.values() if isinstance(part, dict)
        )
        assert cfg.model.get('pretrained') is None
        assert 'init_cfg' not in cfg.model.backbone
        assert [cfg.model[head].num_classes for head in ('decode_head', 'auxiliary_head')] == [11, 11]
        features = build_model(cfg, 'meta').backbone(torch.empty(1, 3, 64, 64, device='meta'))
        assert [f.shape[1] for f in features] == cfg.model.decode_head.in_channels


def test_mim_finds_the_configs():
    """In the package, where mim looks."""
    folder = ROOT / 'mmatm/.mim'
    imported = yaml.safe_load((folder / 'model-index.yml').read_text())['Import']
    assert sorted(imported) == sorted(
        path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/**/metafile.yml')
    )
    models = [model for file in imported for model in yaml.safe_load((folder / file).read_text())['Models']]
    assert all((folder / model['Config']).is_file() for model in models)
    wanted = sorted(path for _, _, path in own_rows(read_tables(ROOT / 'docs')))
    assert sorted(model['Config'] for model in models) == wanted
    assert set(PAPERS) <= {model['Name'] for model in models} == {Path(model['Config']).stem for model in models}
    metrics = {name for model in models for name in model['Results'][0]['Metrics']}
    assert metrics
    assert all(name == 'not published' or name.endswith((' (paper)', ' (MMPretrain)')) for name in metrics)
