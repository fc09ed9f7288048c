"""Every backbone of this project, and a user's own, in place of others and of each other."""

import re
import sys
from pathlib import Path

import pytest
from mmengine.registry import MODELS, init_default_scope

from mini import MINI
from mmatm.build import build_module
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet, CASViT, backbones
from mmatm.swap import swap_backbone, swapped_text
from mmatm.swap.model_check import check_model
from mmatm.swap.zoo import without_scope

BACKBONES = backbones()
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
UPERNET = 'mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py'
DILATED_FCN = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
CLASSIFIER = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
SWIN = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'


def small(name):
    """The type of a backbone, its smallest size, and the channels of its four stages."""
    size = next(iter(BACKBONES[name].SIZES))
    return f'mmatm.{name}', size, BACKBONES[name].SIZES[size]['channels']


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


def test_in_a_detector(name):
    backbone, size, channels = small(name)
    cfg = load_config(RETINANET)
    cfg.model.data_preprocessor.std = [1.0, 1.0, 1.0]
    swap = swap_backbone(cfg, size, backbone=backbone)
    model = swap.cfg.model
    assert model.backbone == {'type': backbone, 'arch': size, 'out_indices': [1, 2, 3]}
    assert (list(model.neck.in_channels), model.neck.start_level) == (channels[1:], 0)
    assert swapped_text(swap, RETINANET).startswith(f'# {name} as the backbone, by tools/swap_backbone.py\n')
    assert swap_backbone(swap.cfg, size, backbone=backbone).changes == []
    others = [other for other in BACKBONES if other != name]
    told = '\n'.join([*swap.notes, *(change.why for change in swap.changes)])
    assert not [other for other in others if re.search(rf'\b{other}\b', told)], (
        'texts are of the backbone that was named'
    )


def test_in_a_segmentor(name):
    backbone, size, channels = small(name)
    model = swap_backbone(UPERNET, size, backbone=backbone).cfg.model
    assert model.backbone == {'type': backbone, 'arch': size}
    assert (list(model.decode_head.in_channels), model.auxiliary_head.in_channels) == (channels, channels[2])


def test_in_a_dilated_segmentor(name):
    """The last two stages stand in, at stride 8 where the backbone can be dilated so far, else coarser."""
    backbone, size, channels = small(name)
    swap = swap_backbone(DILATED_FCN, size, backbone=backbone)
    model, notes = swap.cfg.model, '\n'.join(swap.notes)
    densest = min(BACKBONES[name].OUTPUT_STRIDES)
    init_default_scope(swap.cfg.default_scope)
    assert build_module(model.backbone, 'meta').out_strides == (min(16, densest), densest)
    assert (model.decode_head.in_channels, model.decode_head.in_index) == (channels[3], 1)
    assert (model.auxiliary_head.in_channels, model.auxiliary_head.in_index) == (channels[2], 0)
    coarser = f'at stride 8 now reads one at stride {densest}, which is coarser: {name} can have its last stage'
    assert (coarser in notes) == (densest > 8)


def test_in_a_classifier(name):
    backbone, size, channels = small(name)
    cfg = swap_backbone(CLASSIFIER, size, backbone=backbone).cfg
    assert cfg.model.backbone == {'type': backbone, 'arch': size, 'out_indices': [3]}
    assert cfg.model.head.in_channels == channels[3]


def test_in_place_of_another_of_ours_and_back(name):
    """Each stands in for the one before it, so that each is old and new once."""
    names = list(BACKBONES)
    backbone, size, _ = small(name)
    other, other_size, channels = small(names[names.index(name) - 1])
    first = swap_backbone(RETINANET, size, backbone=backbone).cfg
    first.model.backbone.drop_path_rate = 0.25
    there = swap_backbone(first, other_size, backbone=other).cfg
    assert there.model.backbone == {
        'type': other, 'arch': other_size, 'out_indices': [1, 2, 3], 'drop_path_rate': 0.25
    }  # fmt: skip
    assert list(there.model.neck.in_channels) == channels[1:]
    assert without_scope(swap_backbone(there, size, backbone=backbone).cfg) == without_scope(first)


def test_what_is_dilated_for_a_detector_is_refused_where_the_backbone_cannot_be():
    name = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py'
    message = 'ResNet returns feature maps at strides 16, .* CASViT .* can have its last stage at stride 32'
    with pytest.raises(InputError, match=message):
        swap_backbone(name, backbone='mmatm.CASViT')
    # from one that is dilated
    cfg = load_config(RETINANET)
    cfg.model.backbone = dict(type='mmatm.ATMNet', arch=MINI, out_indices=(1, 2, 3), output_stride=16)
    cfg.model.neck.update(in_channels=[16, 16, 24], start_level=0)
    with pytest.raises(InputError, match='ATMNet returns feature maps at strides 8, 16, 16'):
        swap_backbone(cfg, backbone='mmatm.CASViT')


def test_drop_path_is_carried_over():
    assert load_config(SWIN).model.backbone.drop_path_rate == 0.3
    swap = swap_backbone(SWIN, backbone='mmatm.CASViT')
    assert swap.cfg.model.backbone.drop_path_rate == 0.3
    change = next(change for change in swap.changes if change.name == 'model.backbone.drop_path_rate')
    assert (change.new, change.why) == (0.3, 'SwinTransformer had this drop path')
    assert 'drop_path_rate=0.3' in swapped_text(swap, SWIN)
    assert not any('drop_path_rate' in note for note in swap.notes)

    cfg = load_config(SWIN)
    del cfg.model.backbone['drop_path_rate']
    swap = swap_backbone(cfg, backbone='mmatm.CASViT')
    assert swap.cfg.model.backbone.drop_path_rate == 0.1  # mmseg's Swin has it if the config does not say otherwise
    assert any(change.why == 'SwinTransformer had this drop path by default' for change in swap.changes)

    swap = swap_backbone(RETINANET, backbone='mmatm.CASViT')
    assert 'drop_path_rate' not in swap.cfg.model.backbone
    note = 'model: ResNet has no drop path; that of CASViT is 0.0 by default, set by model.backbone.drop_path_rate'
    assert note in swap.notes
    # MMPretrain's ResNet has an option for it that is 0 by default.
    swap = swap_backbone(CLASSIFIER)
    assert 'drop_path_rate' not in swap.cfg.model.backbone
    assert any('that of ATMNet is 0.1 by default' in each for each in swap.notes)


def test_frozen_stages_and_norm_eval_are_told():
    notes = '\n'.join(swap_backbone(RETINANET, backbone='mmatm.CASViT').notes)
    habits = 'not carried over from ResNet: frozen_stages=1, norm_eval=True, norm_cfg (BN)'
    assert f'{habits}. CASViT has frozen_stages=-1, norm_eval=True by default' in notes


def test_sizes():
    assert swap_backbone(RETINANET).cfg.model.backbone.arch == 't'
    assert swap_backbone(RETINANET, backbone='mmatm.CASViT').cfg.model.backbone.arch == 'xs'
    with pytest.raises(InputError, match="no CAS-ViT of size 's12'"):
        swap_backbone(RETINANET, 's12', backbone='mmatm.CASViT')


def test_names():
    assert swap_backbone(RETINANET, backbone='CASViT').cfg.model.backbone.type == 'mmatm.CASViT'
    for wrong in ('mmatm.NoSuchNet', 'ResNet', 'mmdet.ResNet'):
        with pytest.raises(InputError, match=rf'{wrong} is no registered backbone.*mmatm\.ATMNet.*custom_imports'):
            swap_backbone(RETINANET, backbone=wrong)
    with pytest.raises(InputError, match='by its name'):
        swap_backbone(RETINANET, backbone=CASViT)


def test_a_toolbox_has_a_backbone_of_the_same_name():
    """MMPretrain's RIFormer is another class than this project's."""
    cfg = load_config('mmpretrain::riformer/riformer-s12_8xb128_in1k.py')
    assert cfg.model.backbone.type == 'RIFormer'
    swap = swap_backbone(cfg, 's12', backbone='mmatm.RIFormer')
    assert swap.cfg.model.backbone.type == 'mmatm.RIFormer'
    assert swap.cfg.model.backbone.out_indices == [3]


@pytest.mark.parametrize(
    ('name', 'arch', 'config'),
    [
        ('CASViT', dict(depths=[1, 1, 1, 1], channels=[8, 16, 16, 24], mlp_ratios=[2, 2, 2, 2]), DILATED_FCN),
        ('RIFormer', dict(BACKBONES['RIFormer'].SIZES['s12'], depths=[1] * 4, channels=[8, 16, 16, 24]), RETINANET),
    ],
)  # fmt: skip
def test_runs(name, arch, config, tmp_path):
    swap = swap_backbone(config, arch, backbone=f'mmatm.{name}')
    path = tmp_path / 'swapped.py'
    path.write_text(swapped_text(swap, config))
    assert check_model(load_config(str(path))).loss > 0


# A user's own

OWN = """
from mmengine.registry import MODELS

from mmatm.models import ATMNet, Stage


@MODELS.register_module()
class Shallow(ATMNet):
    TITLE = 'Shallow'
    OUTPUT_STRIDES = (32,)
    SIZES = {'n': {'depths': [2, 2, 2, 2], 'channels': [8, 16, 24, 32], 'mlp_ratios': [2, 2, 2, 2],
                   'channels_per_offset': [2, 4, 4, 8], 'offset_interval': 2}}

    def __init__(self, arch='n', **options):
        super().__init__(arch, **options)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A config that imports a user's backbone."""
    (tmp_path / 'own_nets.py').write_text(OWN)
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = '{SWIN}'\ncustom_imports = dict(imports=['own_nets'])\n"
        'model = dict(decode_head=dict(channels=16), auxiliary_head=dict(channels=16))\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield path
    MODELS.module_dict.pop('Shallow', None)
    sys.modules.pop('own_nets', None)


def test_a_users_own(own, command):
    told = command('swap_backbone.py', own, '--backbone', 'Shallow', '--check')
    assert 'ran on images of 128x128; loss ' in told.splitlines()[-1]
    text = Path('mine_shallow_n.py').read_text()
    assert text.startswith('# Shallow as the backbone, by tools/swap_backbone.py\n')
    assert "type='Shallow', arch='n', drop_path_rate=0.3)" in text
    assert 'in_channels=[8, 16, 24, 32]' in text
    assert 'does not import' not in told


def test_a_users_own_that_the_config_does_not_import(own):
    load_config(str(own))  # which imports it
    notes = swap_backbone(UPERNET, backbone='Shallow').notes
    assert 'Shallow is in own_nets, which the config does not import; add it to custom_imports' in notes
    # It is another class than the one that it is made of.
    swap = swap_backbone(swap_backbone(UPERNET, 's').cfg, backbone='Shallow')
    assert {change.name for change in swap.changes} >= {'model.backbone', 'model.decode_head.in_channels'}
    assert swap_backbone(swap.cfg).cfg.model.backbone.type == 'mmatm.ATMNet'


def test_a_users_own_without_a_default_size(own):
    load_config(str(own))
    MODELS.get('Shallow').__init__ = lambda self, arch, **options: ATMNet.__init__(self, arch, **options)
    with pytest.raises(InputError, match='Shallow has no default size; name one of n'):
        swap_backbone(UPERNET, backbone='Shallow')
