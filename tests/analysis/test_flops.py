"""Counting, against published figures, other counters and arithmetic by hand."""

import json

import pytest
import torch
from conftest import ROOT
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import nn

from mmatm.analysis.flops import count, image_shape
from mmatm.analysis.papers import configs, count_all, own_rows, read_tables, shape_of
from mmatm.analysis.tables import FLOPS_TOLERANCE, agrees
from mmatm.build import build_model
from mmatm.config import load_config
from mmatm.errors import InputError

TABLES = read_tables(ROOT / 'docs')
RECORDED = json.loads((ROOT / 'docs/results.json').read_text())['counts']
ROWS = {row['config']: (table, row, path) for table, row, path in configs(TABLES)}


# Of a backbone's sizes the smallest is always counted, by each method.
OWN = {row['config'] for _, row, _ in own_rows(TABLES)}
LARGE = {row['config'] for table, row, _ in own_rows(TABLES) if row['model'] in list(table['paper']['sizes'])[1:]}
# CAS-ViT's published classifiers have a second head, of a weight and a bias for each class.
SECOND_HEAD = {f'casvit_{size}_in1k': 1000 * (c + 1) for size, c in dict(xs=220, s=256, m=384, t=512).items()}


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in ROWS if '_3x_' not in n],
)
def test_counts_agree_with_the_record_and_what_is_published(name):
    table, row, path = ROWS[name]
    total = count(load_config(path), shape_of(table, row))['total']
    assert {'params': total.params, 'flops': total.flops} == RECORDED[name]
    params = total.params + SECOND_HEAD.get(name, 0)
    for key, counted, tolerance in (('params', params / 1e6, 0.0), ('flops', total.flops / 1e9, FLOPS_TOLERANCE)):
        if key in row and not agrees(row[key], counted, tolerance):
            assert 'note' in row or 'note' in table, f'{name}: {key} {counted} is not the published {row[key]}'
            assert not (key == 'params' and name in OWN)
            assert abs(counted / row[key] - 1) < 0.03


def test_the_record_is_of_these_configs():
    assert set(RECORDED) == set(ROWS)
    for name in RECORDED:
        if '_3x_' in name and 'atmnet' in name:
            assert RECORDED[name] == RECORDED[name.replace('_3x_', '_1x_')]


def test_agreement():
    assert agrees(2.2, 2.18)  # rounds to it
    assert agrees(926.9, 926.0, 0.005)
    assert not agrees(926.9, 926.0)
    assert not agrees(2.2, 2.14, 0.005)
    assert not agrees(45.3, 45.5)
    assert not agrees(107.892, 107.4)
    assert agrees(35, 35.4)
    assert not agrees(35, 35.6)
    assert agrees(107.892, 107.89154)


@pytest.mark.parametrize('name', ['upernet_atmnet_mini_shapes', 'atmnet_mini_shapes'])
def test_same_as_mmengine_counts_by_tracing(name, tmp_path):
    """MMEngine computes the model, and counts what ran. It sees the mixer's definition, as that is what is traced."""
    cfg = load_config(str(ROOT / f'configs/{name}.py'))
    counted = count(cfg, (64, 96))
    with torch.device('cpu'):
        model = build_model(cfg, 'meta').eval().to_empty(device='cpu')
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # no offsets
    analyzer = FlopAnalyzer(model, torch.zeros(1, 3, 64, 96))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert counted['total'].flops == analyzer.total() - analyzer.by_operator()['adaptive_avg_pool2d']
    assert counted['backbone'].flops == analyzer.total('backbone')


def test_the_mixer_is_counted_unfolded():
    """A map of 32x32 tokens of 16 channels would be folded; its four linear layers count 4 C^2 a token all the same."""
    arch = dict(depths=[2] * 4, channels=[16] * 4, mlp_ratios=[1] * 4, channels_per_offset=[2] * 4, offset_interval=2)
    backbone = dict(type='mmatm.ATMNet', arch=arch, out_indices=(0,))
    cfg = Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone)))
    tokens, c = 32 * 32, 16
    mixers = 2 * (tokens * 4 * c * c + c * c // 4 + c // 4 * 3 * c)
    mlps = 2 * tokens * 2 * c * c
    predictor = tokens * (9 * c + c * c)  # position convolution, 2G = C offsets
    norms = tokens * 5 * c * (2 * 2 + 1 + 1)  # of two blocks, the offset predictor and the output
    stem = tokens * 7 * 7 * 3 * c
    assert count(cfg, (128, 128))['total'].flops == mixers + mlps + predictor + norms + stem


def test_heads_of_two_stage_detectors_by_hand():
    counted = count(load_config(str(ROOT / 'configs/mask_rcnn_atmnet_xt_1x_coco.py')), (800, 1280))
    assert counted['roi_head.bbox_head'].flops == 1000 * 1024 * (256 * 7 * 7 + 1024 + 81 + 4 * 80)
    convolutions, upsampling, classes = 4 * 14 * 14 * 9 * 256 * 256, 14 * 14 * 4 * 256 * 256, 28 * 28 * 256 * 80
    assert counted['roi_head.mask_head'].flops == 100 * (convolutions + upsampling + classes)
    parts = [c for name, c in counted.items() if name != 'total']
    assert sum(c.flops for c in parts) == counted['total'].flops
    assert sum(c.params for c in parts) == counted['total'].params
    cascade = count(load_config(str(ROOT / 'configs/cascade_mask_rcnn_atmnet_xt_1x_coco.py')), (800, 1280))
    assert cascade['roi_head.mask_head'].flops == 3 * counted['roi_head.mask_head'].flops


def test_image_shape():
    def shape(name):
        return image_shape(load_config(str(ROOT / f'configs/{name}.py')))

    assert shape('retinanet_atmnet_t_1x_coco') == (800, 1280)
    assert shape('upernet_atmnet_t_ade20k') == (512, 512)
    assert [shape('atmnet_l_in1k'), shape('atmnet_l_384_in1k')] == [(224, 224), (384, 384)]
    with pytest.raises(InputError, match='--shape H W'):
        image_shape(Config(dict(model=dict(type='ImageClassifier'))))


def test_what_cannot_be_counted_says_so():
    with pytest.raises(InputError, match='ATMNet takes images of 32x32 or more, not 16x16'):
        count(load_config(str(ROOT / 'configs/atmnet_mini_shapes.py')), (16, 16))
    with pytest.raises(InputError, match='SparseRCNN cannot be counted'):
        count(load_config('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'), (64, 64))
    with pytest.raises(InputError, match=r'there is no forward pass here for its roi_head\.semantic_head'):
        count(load_config('mmdet::htc/htc_r50_fpn_1x_coco.py'), (64, 64))
    with pytest.raises(InputError, match='no model'):
        count(Config(dict(default_scope='mmdet')), (64, 64))


def test_count_all_takes_every_row():
    table = next(table for table in TABLES if table['name'] == 'retinanet_1x')
    table = {**table, 'rows': table['rows'][:1]}
    assert count_all([table]) == {name: RECORDED[name] for name in ['retinanet_atmnet_xt_1x_coco']}
    counts = {'retinanet_atmnet_xt_1x_coco': dict(params=1, flops=2), 'another': dict(params=3, flops=4)}
    assert count_all([table], counts) == {'retinanet_atmnet_xt_1x_coco': dict(params=1, flops=2)}
