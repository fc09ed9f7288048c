"""Learning rates and weight decays in built optimizers, against arithmetic by hand and MMPretrain's constructor."""

import copy
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mini import MINI
from mmatm.build import build_model
from mmatm.checkpoint import read_checkpoint
from mmatm.errors import InputError
from mmatm.models import ATMNet, CASViT
from toy import toy_runner

LR, DECAY, RATE = 0.1, 0.5, 0.8
# Of MINI, by the beginnings of names: four stages of two blocks, between the stem and what follows.
MINI_DEPTHS = {
    'stem.': 0, 'norm': 9,
    'stages.0.blocks.0.': 1, 'stages.0.blocks.1.': 2, 'stages.0.position.': 1,
    'stages.1.blocks.0.': 3, 'stages.1.blocks.1.': 4, 'stages.1.position.': 3, 'stages.1.downsample.': 3,
    'stages.2.blocks.0.': 5, 'stages.2.blocks.1.': 6, 'stages.2.position.': 5, 'stages.2.downsample.': 5,
    'stages.3.blocks.0.': 7, 'stages.3.blocks.1.': 8, 'stages.3.position.': 7, 'stages.3.downsample.': 7,
}  # fmt: skip
TINY = {'depths': [1, 1, 2, 1], 'channels': [8, 8, 16, 16], 'mlp_ratios': [2, 2, 2, 2]}
TINY_DEPTHS = {
    'stem.': 0, 'stages.0.': 1, 'stages.1.': 2, 'stages.2.downsample.': 3, 'stages.2.blocks.0.': 3,
    'stages.2.blocks.1.': 4, 'stages.3.': 5, 'norm': 6,
}  # fmt: skip


def wrapper(model, scope='mmengine', optimizer=None, **paramwise_cfg):
    init_default_scope(scope)
    return build_optim_wrapper(model, {
        'constructor': 'mmatm.LayerDecayOptimWrapperConstructor',
        'optimizer': optimizer or {'type': 'AdamW', 'lr': LR, 'weight_decay': DECAY},
        'paramwise_cfg': {'layer_decay_rate': RATE, **paramwise_cfg},
    })  # fmt: skip


def settings(model, built):
    """(learning rate, weight decay) by name; of every trainable parameter, once."""
    groups = built.optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    assert sum(len(group['params']) for group in groups) == len(found)
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return found


def by_hand(model, depths, backbone='', also_free=()):
    """What `settings` are to be; `depths` by the beginnings of the backbone's own names."""
    expected = {}
    for name, parameter in model.named_parameters():
        lr = LR
        if name.startswith(backbone):
            (depth,) = {d for start, d in depths.items() if name.removeprefix(backbone).startswith(start)}
            lr *= RATE ** (max(depths.values()) - depth)
        decay = 0.0 if parameter.ndim == 1 or name.endswith(also_free) else DECAY
        if parameter.requires_grad:
            expected[name] = (pytest.approx(lr), decay)
    return expected


@pytest.mark.parametrize('frozen', [-1, 0, 2])
def test_atmnet(frozen):
    model = ATMNet(MINI, frozen_stages=frozen)
    built = wrapper(model)
    expected = by_hand(model, MINI_DEPTHS, also_free='.position.weight')
    assert settings(model, built) == expected
    assert expected['stages.3.position.weight'] == (pytest.approx(0.1 * 0.64), 0.0)
    assert expected['norm0.weight'] == (0.1, 0.0)
    if frozen == 2:
        assert 'stages.1.blocks.1.norm1.weight' not in expected
    assert len(built.optimizer.param_groups) == {-1: 19, 0: 17, 2: 9}[frozen]


def test_casvit():
    model = CASViT(TINY)
    assert settings(model, wrapper(model)) == by_hand(model, TINY_DEPTHS)


def from_config(name, backbone, **heads):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.model.backbone = backbone
    cfg.merge_from_dict({f'model.{key.replace("__", ".")}': value for key, value in heads.items()})
    return build_model(cfg, 'meta')


@pytest.fixture(scope='module')
def segmentor():
    """UperNet, and Semantic FPN's config is like it."""
    backbone = {'type': 'mmatm.ATMNet', 'arch': MINI}
    channels = {'decode_head__in_channels': MINI['channels'], 'auxiliary_head__in_channels': 16}
    return from_config('upernet_atmnet_t_ade20k', backbone, **channels)


def test_segmentor(segmentor):
    built = wrapper(segmentor, 'mmseg')
    expected = by_hand(segmentor, MINI_DEPTHS, 'backbone.', '.position.weight')
    assert settings(segmentor, built) == expected
    assert expected['decode_head.fpn_bottleneck.conv.weight'] == (0.1, 0.5)
    assert expected['decode_head.fpn_bottleneck.bn.weight'] == (0.1, 0.0)
    # The heads share the groups of the last depth, with decay and without, also where a custom key changes nothing.
    same = wrapper(segmentor, 'mmseg', custom_keys={'decode_head': {'lr_mult': 1.0}})
    assert len(built.optimizer.param_groups) == len(same.optimizer.param_groups) == 20


def test_detector():
    backbone = {'type': 'mmatm.CASViT', 'arch': TINY, 'out_indices': (1, 2, 3), 'frozen_stages': 1}
    model = from_config('retinanet_atmnet_t_1x_coco', backbone, neck__in_channels=[8, 16, 16])
    found = settings(model, wrapper(model, 'mmdet'))
    assert found == by_hand(model, TINY_DEPTHS, 'backbone.')
    assert {name.split('.')[0] for name in found} == {'backbone', 'neck', 'bbox_head'}


def test_custom_keys_and_other_factors(segmentor):
    found = settings(segmentor, wrapper(
        segmentor,
        bias_lr_mult=2.0,
        norm_decay_mult=1.0,
        custom_keys={
            'decode_head': {'lr_mult': 10},
            'auxiliary_head': {'decay_mult': 0.1},
            'backbone.stages.1.blocks.0': {'lr_mult': 0.5, 'decay_mult': 2.0},
        },
    ))  # fmt: skip
    # Of a custom key with lr_mult alone, norms and biases stay exempt.
    assert found['decode_head.conv_seg.weight'] == (pytest.approx(1.0), 0.5)
    assert found['decode_head.conv_seg.bias'] == (pytest.approx(1.0), 0.0)
    assert found['auxiliary_head.convs.0.bn.bias'] == found['auxiliary_head.conv_seg.bias']
    assert found['auxiliary_head.conv_seg.bias'] == (0.1, pytest.approx(0.05))
    # Factors multiply that of depth 3 of 9.
    first = 'backbone.stages.1.blocks.0.mixer.fc_w.'
    assert found[f'{first}weight'] == found[f'{first}bias'] == (pytest.approx(0.1 * 0.8**6 * 0.5), pytest.approx(1.0))
    assert found['backbone.stages.1.blocks.1.mixer.fc_w.bias'] == (pytest.approx(0.1 * 0.8**5 * 2), 0.0)
    assert found['backbone.stages.1.blocks.1.norm1.weight'] == (pytest.approx(0.1 * 0.8**5), 0.5)


def test_settings_of_the_optimizer_in_custom_keys():
    model = nn.ModuleDict({'backbone': ATMNet(MINI), 'head': nn.Linear(2, 2)})
    built = wrapper(model, custom_keys={'head': {'betas': (0.8, 0.9)}})
    parameters = [group['params'] for group in built.optimizer.param_groups if group['betas'] == (0.8, 0.9)]
    assert sorted(p.ndim for group in parameters for p in group) == [1, 2]
    assert settings(model, built)['head.bias'] == (0.1, 0.0)  # still exempt


def test_weight_decay_that_the_optimizer_has_by_default():
    model = ATMNet(MINI)
    found = settings(model, wrapper(model, optimizer={'type': 'AdamW', 'lr': LR}))
    assert {decay for _, decay in found.values()} == {0.0, 0.01}
    assert found['stem.bias'][1] == 0.0


def test_student_and_teacher():
    model = nn.ModuleDict({'student': nn.ModuleDict({'backbone': ATMNet(MINI)}), 'teacher': CASViT(TINY)})
    found = settings(model, wrapper(model))
    assert found['student.backbone.stem.weight'] == (pytest.approx(0.1 * 0.8**9), 0.5)
    assert found['teacher.stem.0.weight'] == (pytest.approx(0.1 * 0.8**6), 0.5)
    assert found['teacher.norm3.weight'] == found['student.backbone.norm3.weight'] == (0.1, 0.0)


VIT = {'embed_dims': 16, 'num_layers': 3, 'num_heads': 2, 'feedforward_channels': 32}
OTHERS = {
    'ViT': {'type': 'mmpretrain.VisionTransformer', 'arch': VIT, 'img_size': 32, 'patch_size': 16},
    'ConvNeXt': {'type': 'mmpretrain.ConvNeXt', 'arch': 'atto'},
    'ResNet': {'type': 'mmpretrain.ResNet', 'depth': 50},
}


@pytest.mark.parametrize('name', OTHERS)
def test_backbones_of_mmpretrain_as_its_own_constructor(name):
    head = {'type': 'LinearClsHead', 'num_classes': 2, 'in_channels': 16}
    classifier = {'type': 'ImageClassifier', 'backbone': copy.deepcopy(OTHERS[name]), 'head': head}
    model = build_model(Config({'model': classifier, 'default_scope': 'mmpretrain'}), 'meta')
    found = settings(model, wrapper(model, 'mmpretrain'))
    own = build_optim_wrapper(model, {
        'constructor': 'LearningRateDecayOptimWrapperConstructor',
        'optimizer': {'type': 'AdamW', 'lr': LR, 'weight_decay': DECAY},
        'paramwise_cfg': {'layer_decay_rate': RATE, 'norm_decay_mult': 0, 'bias_decay_mult': 0, 'flat_decay_mult': 0},
    })  # fmt: skip
    assert found == settings(model, own)
    assert len({lr for lr, _ in found.values()}) > 3
    # The same, where MMPretrain's constructor does not go.
    parts = nn.ModuleDict({'student': nn.ModuleDict({'encoder': model.backbone})})
    elsewhere = settings(parts, wrapper(parts))
    assert elsewhere == {f'student.encoder.{n[9:]}': v for n, v in found.items() if n.startswith('backbone.')}


def test_distributed(tmp_path):
    model = ATMNet(MINI)
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        built = wrapper(MMDistributedDataParallel(model))
    finally:
        dist.destroy_process_group()
    assert settings(model, built) == by_hand(model, MINI_DEPTHS, also_free='.position.weight')


def test_a_parameter_in_two_places():
    model = nn.ModuleDict({'backbone': ATMNet(MINI), 'one': nn.Linear(2, 2)})
    model['other'] = nn.Sequential(model['one'])
    with pytest.raises(InputError, match=r'in two places \(one\.weight, one\.bias, other\.0\.weight\); .*bypass_dup'):
        wrapper(model)
    assert settings(model, wrapper(model, bypass_duplicate=True))['one.weight'] == (0.1, 0.5)


@pytest.mark.parametrize(
    ('paramwise', 'words'),
    [
        ({'layer_decay_rate': 0}, 'must be a number above 0 and at most 1, not 0'),
        ({'layer_decay_rate': 1.1}, 'not 1.1'),
        ({'layer_decay_rate': float('nan')}, 'not nan'),
        ({'layer_decay_rate': True}, 'not True'),
        ({'layer_decay_rate': '0.8'}, "not '0.8'"),
        ({'decay_rate': 0.9, 'num_layers': 12}, r'takes layer_decay_rate, .*, not decay_rate, num_layers.*_delete_'),
        ({'custom_keys': ['head']}, r'custom_keys must be of the form'),
        ({'custom_keys': {'head': 0.1}}, r'custom_keys must be of the form'),
        ({'custom_keys': {'head': {'lr': 0.1}}}, r'lr_mult and decay_mult, not lr$'),
        ({'custom_keys': {'stem': {'lr_mul': 0.1}}}, r'settings of the optimizer \(lr, betas, .*\), not lr_mul$'),
    ],
)
def test_settings_that_cannot_work(paramwise, words):
    with pytest.raises(InputError, match=words):
        wrapper(ATMNet(MINI), **paramwise)


def test_settings_that_are_missing():
    build = {'constructor': 'mmatm.LayerDecayOptimWrapperConstructor', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    with pytest.raises(InputError, match=r'needs a rate, such as paramwise_cfg=dict\(layer_decay_rate='):
        build_optim_wrapper(ATMNet(MINI), build)
    with pytest.raises(InputError, match=r'needs a learning rate in the config'):
        wrapper(ATMNet(MINI), optimizer={'type': 'AdamW'})
    for factor in ({'flat_decay_mult': 0.0}, {'custom_keys': {'stem': {'decay_mult': 0.0}}}):
        with pytest.raises(InputError, match=r"(flat_decay_mult|decay_mult of 'stem') multiplies a weight decay, "):
            wrapper(ATMNet(MINI), optimizer={'type': 'AdamW', 'lr': 0.1}, **factor)


def test_no_backbone_with_depths():
    model = nn.ModuleDict({'backbone': nn.Conv2d(3, 3, 1), 'head': nn.Linear(2, 2)})
    with pytest.raises(InputError, match=r'no part of this ModuleDict .*: backbone \(Conv2d\), head \(Linear\)\. All'):
        wrapper(model)
    classifier = {'type': 'ImageClassifier', 'backbone': {'type': 'MobileNetV2'}}
    model = build_model(Config({'model': classifier, 'default_scope': 'mmpretrain'}), 'meta')
    with pytest.raises(InputError, match=r'no part of this ImageClassifier .*: backbone \(MobileNetV2\)'):
        wrapper(model)


def test_backbone_without_depths_in_its_size():
    model = build_model(Config({'model': {'type': 'mmpretrain.ResNet', 'depth': 18}}), 'meta')
    with pytest.raises(InputError, match='the model is a ResNet without layer depths in this size'):
        wrapper(model)


def test_log_has_a_line_for_each_depth(capsys):
    model = nn.ModuleDict({'backbone': CASViT(TINY, frozen_stages=1)})
    wrapper(model, norm_decay_mult=0.0, bias_lr_mult=1.0)
    lines = capsys.readouterr().out.splitlines()
    frozen = sum(not p.requires_grad for p in model.parameters())
    trained = len(list(model.parameters())) - frozen
    assert f'layer decay 0.8: {trained} trained parameters in 9 groups, {frozen} frozen' in lines[0]
    assert [line.partition(',')[0].strip() for line in lines[1:]] == ['backbone'] * 5
    assert lines[1].strip().startswith('backbone, depth 2 of 6: lr * 0.41, ')  # 0.8 ** 4
    assert sum(int(line.split()[-2]) for line in lines[1:]) == trained


class Small(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = ATMNet(MINI, drop_path_rate=0.5), nn.Linear(24, 2)

    def forward(self, inputs, mode='tensor'):
        images = torch.stack(inputs)[:, :, None, None].expand(-1, -1, 32, 32)
        output = self.head(self.backbone(images)[-1].mean((2, 3)))
        return {'loss': output.square().mean()} if mode == 'loss' else list(output)


def test_resumed_as_if_not_interrupted(tmp_path):
    def train(folder, iterations, **more):
        runner = toy_runner(folder, {'max_iters': iterations}, model=Small(), **more, optim_wrapper={
            'constructor': 'mmatm.LayerDecayOptimWrapperConstructor',
            'optimizer': {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.05},
            'paramwise_cfg': {'layer_decay_rate': 0.7},
        })  # fmt: skip
        runner.train()
        return read_checkpoint(str(folder / f'iter_{iterations}.pth'))

    whole = train(tmp_path / 'whole', 8)
    train(tmp_path / 'parts', 4)
    parts = train(tmp_path / 'parts', 8, resume=True)
    for name, weight in whole['state_dict'].items():
        assert torch.equal(weight, parts['state_dict'][name]), name
    groups = whole['optimizer']['param_groups']
    assert groups == parts['optimizer']['param_groups']
    # The warm-up of `toy_runner` goes from a tenth at first to the whole at iteration 12, in each group alike.
    factor = 0.1 + 0.9 * 8 / 11
    expected = Counter({round(1e-3 * 0.7 ** (9 - depth) * factor, 12): 2 for depth in range(10)})
    assert Counter(round(group['lr'], 12) for group in groups) == expected
