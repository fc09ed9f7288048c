"""Swapping the backbone of toolbox configs and of a user's own."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.testing import assert_close

from mini import MINI
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.swap import base_name, swap_backbone, swapped_text
from mmatm.swap.model_check import checked_part
from mmatm.swap.zoo import without_scope


def changed(swap):
    return {change.name for change in swap.changes}


def test_the_file_holds_only_the_differences():
    name = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    swap = swap_backbone(name)
    assert (
        swapped_text(swap, name)
        == f"""# ATMNet as the backbone, by tools/swap_backbone.py
_base_ = '{name}'
model = dict(
    backbone=dict(_delete_=True, type='mmatm.ATMNet', arch='t'),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
"""
    )
    notes = '\n'.join(swap.notes)
    for words in (
        'model: not carried over from ResNet: frozen_stages=1, norm_eval=True, norm_cfg (BN). '
        'ATMNet has frozen_stages=-1, norm_eval=False by default',
        'model: ResNet has no drop path; that of ATMNet is 0.1 by default, set by model.backbone.drop_path_rate',
        'the optimizer, SGD, and its learning rate stay as they were',
        'random weights',
    ):
        assert words in notes


def read_sizes(cfg, size):
    """(H, W) of every map that a head reads, or of all that a neck gives."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(checked_part(cfg, 64))
    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.rand(1, 3, size, size))
    read = range(len(maps))
    if cfg.model.get('decode_head') and not cfg.model.get('neck'):
        heads = [cfg.model.decode_head, *([cfg.model.auxiliary_head] if 'auxiliary_head' in cfg.model else [])]
        read = [i for head in heads for i in (head.in_index if isinstance(head.in_index, list) else [head.in_index])]
        read += [0] if 'c1_channels' in cfg.model.decode_head else []
    return [tuple(maps[i].shape[2:]) for i in read]


@pytest.mark.parametrize(
    ('name', 'stages', 'output_stride'),
    [
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', [1, 2, 3], 32),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', None, 32),
        ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', [1, 2, 3], 32),
        ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', [2, 3], 32),
        ('mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py', [3], 32),
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py', [3], 16),
        ('mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py', [2], 32),
        ('mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py', [0, 2, 3], 8),
        ('mmseg::deeplabv3/deeplabv3_r101-d16-mg124_4xb2-40k_cityscapes-512x1024.py', [2, 3], 16),
        ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', None, 32),
        ('mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py', None, 32),
    ],
)
def test_maps_keep_their_resolution(name, stages, output_stride):
    """The model before is the independent source."""
    cfg = load_config(name)
    swap = swap_backbone(cfg, MINI)
    backbone = swap.cfg.model.backbone
    assert backbone.get('out_indices') == stages
    assert backbone.get('output_stride', 32) == output_stride
    assert read_sizes(swap.cfg, 256) == read_sizes(cfg, 256)


def test_heads_without_neck_read_the_maps_of_their_index():
    name = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    model = swap_backbone(name).cfg.model
    assert model.backbone.out_indices == [0, 2, 3]  # without the map that nobody reads
    assert (model.decode_head.in_channels, model.decode_head.in_index, model.decode_head.c1_in_channels) == (512, 2, 64)
    assert (model.auxiliary_head.in_channels, model.auxiliary_head.in_index) == (320, 1)
    assert model.pretrained is None


@pytest.mark.parametrize(
    ('name', 'stages', 'auxiliary'),
    [
        # the fused map is the first of five, at stride 8
        ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', [0, 1, 2, 3], [0, 1, 2, 3]),
        # of three, at strides 8, 8, 16: rising, but the deepest is the first
        ('mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py', [1, 2, 3], [1, 2]),
        # a decoder, from stride 16 to 1
        ('mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py', [2, 3], [2]),
    ],
)
def test_heads_of_maps_in_any_order(name, stages, auxiliary):
    """The decode head gets the last stage, auxiliary heads the stages of their strides."""
    channels = [64, 128, 320, 512]
    model = swap_backbone(name).cfg.model
    assert model.backbone.output_stride == 8
    assert list(model.backbone.get('out_indices', range(4))) == stages
    heads = model.auxiliary_head if isinstance(model.auxiliary_head, list) else [model.auxiliary_head]
    for head, stage in zip([model.decode_head, *heads], [3, *auxiliary], strict=True):
        assert (stages[head.in_index], head.in_channels) == (stage, channels[stage])


def test_a_head_without_convolutions_has_the_channels_it_reads():
    model = swap_backbone('mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py').cfg.model
    assert (model.decode_head.in_channels, model.decode_head.channels) == (512, 512)


def test_levels_that_a_neck_does_not_read():
    """A norm without gradient stops distributed training."""
    swap = swap_backbone('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
    neck = swap.cfg.model.neck
    assert (neck.start_level, list(neck.in_channels), swap.cfg.model.backbone.out_indices) == (
        0,
        [128, 320, 512],
        [1, 2, 3],
    )
    assert 'find_unused_parameters' not in swap.cfg

    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.neck.update(end_level=2, num_outs=3)
    swap = swap_backbone(cfg)
    assert swap.cfg.find_unused_parameters is True
    assert 'out_indices' not in swap.cfg.model.backbone

    # a head that is told of three maps and reads the last
    cfg = swap_backbone('mmseg::encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py').cfg
    assert cfg.find_unused_parameters is True
    assert list(cfg.model.decode_head.in_channels) == [128, 320, 512]


def test_only_what_reads_the_maps_is_set():
    """K-Net's update heads have 512 channels of their own, like a map of both backbones."""
    name = 'mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py'
    before, after = load_config(name).model, swap_backbone(name).cfg.model
    assert after.decode_head.kernel_generate_head.in_channels == 512
    assert before.decode_head.kernel_update_head == after.decode_head.kernel_update_head
    cfg = swap_backbone(name).cfg  # with one map only
    cfg.model.backbone.out_indices = [3]
    cfg.model.decode_head.kernel_generate_head.in_index = 0
    cfg.model.auxiliary_head = None
    after = swap_backbone(cfg, 'l').cfg.model
    assert after.decode_head.kernel_generate_head.in_channels == 768
    assert before.decode_head.kernel_update_head == after.decode_head.kernel_update_head


def test_several_backbones():
    name = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    cfg = swap_backbone(name).cfg
    assert cfg.model.detector.backbone.type == 'mmatm.ATMNet'
    for node in (cfg.model.detector.data_preprocessor, cfg.model.data_preprocessor.data_preprocessor):
        assert (list(node.mean), node.bgr_to_rgb) == ([123.675, 116.28, 103.53], True)

    swap = swap_backbone('mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py')
    assert swap.cfg.model.detector.backbone.type == 'mmatm.ATMNet'
    assert swap.cfg.model.detector.init_cfg is None  # a whole detector's weights
    assert swap.cfg.model.reid.backbone.type == 'mmpretrain.ResNet'
    assert any('model.reid stays as it was' in note for note in swap.notes)

    twice = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    twice.model = dict(type='Pair', student=copy.deepcopy(twice.model), teacher=copy.deepcopy(twice.model))
    swap = swap_backbone(twice)
    for part in (swap.cfg.model.student, swap.cfg.model.teacher):
        assert part.backbone.type == 'mmatm.ATMNet'
        assert list(part.neck.in_channels) == [128, 320, 512]


def test_a_tracker_does_not_turn_colours_twice():
    name = 'mmdet::strongsort/strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py'
    assert load_config(name).model.tracker.reid.img_norm_cfg.to_rgb is True
    model = swap_backbone(name).cfg.model
    assert model.data_preprocessor.bgr_to_rgb is True
    assert model.tracker.reid.img_norm_cfg.to_rgb is False


def test_images_that_nothing_normalises_are_told():
    cfg = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    del cfg.model['data_preprocessor']
    assert any('no data_preprocessor' in note for note in swap_backbone(cfg).notes)


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py',
        'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
        'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        'mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
    ],
)
def test_images_are_normalised_as_the_weights_expect(name):
    cfg = swap_backbone(name, MINI).cfg
    init_default_scope(cfg.default_scope)
    preprocessor = MODELS.build(checked_part(cfg, 32).data_preprocessor)
    bgr = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    got = preprocessor({'inputs': [bgr], 'data_samples': None}, False)['inputs']
    got = torch.stack(got) if isinstance(got, list) else got
    # torchvision's figures of ImageNet, for values from 0 to 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert_close(got[0], (bgr.flip(0) / 255 - mean) / std, rtol=1e-4, atol=1e-4)


def test_optimizer_settings_of_the_old_backbone_go():
    swap = swap_backbone('mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')
    wrapper = swap.cfg.optim_wrapper
    assert wrapper.constructor == 'DefaultOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0}
    assert any('mmatm.LayerDecayOptimWrapperConstructor' in note for note in swap.notes)


def test_layer_decay_that_asks_the_backbone_stays():
    cfg = load_config('mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')
    cfg.optim_wrapper.constructor = 'mmatm.LayerDecayOptimWrapperConstructor'
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.8)
    swap = swap_backbone(cfg)
    assert swap.cfg.optim_wrapper == cfg.optim_wrapper
    assert not any('optim_wrapper' in note for note in swap.notes)

    name = 'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py'
    before, after = (c.optim_wrapper.paramwise_cfg for c in (load_config(name), swap_backbone(name).cfg))
    assert 'backbone.stages.0.blocks.0.norm' in before.custom_keys
    gone = set(before.custom_keys) - set(after.custom_keys)
    assert {key.startswith('backbone.') or key == 'relative_position_bias_table' for key in gone} == {True}
    assert after.custom_keys['backbone'] == before.custom_keys['backbone']
    assert after.custom_keys.query_embed == before.custom_keys.query_embed
    assert after.norm_decay_mult == before.norm_decay_mult == 0

    # keys that name parts of both stay
    swin = swap_backbone('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py')
    assert dict(swin.cfg.optim_wrapper.paramwise_cfg.custom_keys)['norm'] == {'decay_mult': 0.0}


def test_keys_of_heads_stay():
    cfg = load_config('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    keys = {'bn': 1, 'conv': 2, 'layer1': 3, 'decode_head': 4, 'backbone': 5, 'backbone.layer2': 6, 'typo': 7}
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={key: dict(lr_mult=float(n)) for key, n in keys.items()})
    kept = swap_backbone(cfg).cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert set(kept) == {'bn', 'conv', 'decode_head', 'backbone', 'typo'}

    cfg = load_config('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'student.backbone.layer1': dict(lr_mult=0.0)})
    assert swap_backbone(cfg).cfg.optim_wrapper.paramwise_cfg.custom_keys == {}


def test_an_optimizer_of_another_form_is_told():
    cfg = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    cfg.optim_wrapper.constructor = 'MyConstructor'
    assert any('optim_wrapper stays as it was' in note for note in swap_backbone(cfg).notes)


def test_parts_of_the_method_that_go_are_told():
    notes = '\n'.join(swap_backbone('mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py').notes)
    assert 'model: dcn of ResNet had a part in this method and went with it' in notes


def test_weights_of_whole_models_go():
    name = 'mmdet::common/lsj-100e_coco-detection.py'
    with pytest.raises(InputError, match='the config has no `model`'):
        swap_backbone(name)
    cfg = load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    cfg.load_from = 'retinanet.pth'
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='retinanet.pth')
    swap = swap_backbone(cfg)
    assert swap.cfg.load_from is None
    assert swap.cfg.model.init_cfg is None
    assert cfg.load_from == 'retinanet.pth'  # the one that was given is as it was


@pytest.mark.parametrize(
    'name',
    ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'],
)
def test_swapping_again_changes_the_size(name, tmp_path):
    path = tmp_path / 'swapped.py'
    path.write_text(swapped_text(swap_backbone(name, 't'), name))
    cfg = load_config(str(path))
    assert swap_backbone(cfg, 't').changes == []
    assert swap_backbone(cfg, 'tiny').changes == []
    assert changed(swap_backbone(cfg, 's')) == {'model.backbone.arch'}
    larger = swap_backbone(cfg, 'l')
    assert all(name.split('.')[-1] in ('arch', 'in_channels') for name in changed(larger))
    assert without_scope(larger.cfg.model) == without_scope(swap_backbone(name, 'l').cfg.model)


def test_weights_of_another_size_go():
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    cfg = swap_backbone(name, 't', 'atmnet_t.pth').cfg
    assert cfg.model.backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': 'atmnet_t.pth'}
    assert swap_backbone(cfg, 's').cfg.model.backbone.init_cfg is None
    assert swap_backbone(cfg, 's', 'atmnet_s.pth').cfg.model.backbone.init_cfg.checkpoint == 'atmnet_s.pth'
    cfg.load_from = 'whole_model.pth'  # which would come after the new weights
    assert swap_backbone(cfg, 't', Path('new.pth')).cfg.load_from is None
    assert swap_backbone(cfg, 't', Path('new.pth')).cfg.model.backbone.init_cfg.checkpoint == 'new.pth'


def test_imagenet_weights_fill_all_but_the_output_norms(tmp_path):
    """From a file as a classifier has it: the stages that are not built and no output norms."""
    given = {n: w for n, w in ATMNet(MINI).state_dict().items() if not n.startswith('norm')}
    given = {name: torch.randn_like(weight) for name, weight in given.items()}
    torch.save({'state_dict': given}, tmp_path / 'imagenet.pth')
    for name in ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
                 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'):  # fmt: skip
        cfg = swap_backbone(name, MINI, str(tmp_path / 'imagenet.pth')).cfg
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        model.init_weights()
        own = model.backbone.state_dict()
        assert {n for n in own if n not in given} == {n for n in own if n.startswith('norm')}
        for key in own.keys() & given.keys():
            assert_close(own[key], given[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py', 'last stage of ResNet .shared_head.'),
        (
            'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
            'HourglassNet returns feature maps at strides 4, 4',
        ),
        ('mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py', 'feeds its feature maps back'),
        (
            'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
            'DDRNet returns one tensor',
        ),
        ('mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', 'class tokens'),
        ('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', 'no entry `backbone`'),
        ('mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py', '6 channels'),
        ('mmdet::retinanet/retinanet_r18_fpn_1x.py', 'there is no config'),
    ],
)
def test_refusals(name, message):
    with pytest.raises(InputError, match=message):
        swap_backbone(name, 'xt')


def test_bad_arguments():
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    with pytest.raises(InputError, match="no ATMNet of size 'huge'"):
        swap_backbone(name, 'huge')
    cfg = load_config(name)
    cfg.model.neck.in_channels = [1, 2, 3, 4]
    with pytest.raises(
        InputError, match=r'nothing in model.neck says that it reads feature maps of \[64, 128, 256, 512\]'
    ):
        swap_backbone(cfg, 'l')
    cfg = load_config('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    cfg.model.decode_head = dict(type='MyHead', feat_dim=512)
    with pytest.raises(InputError, match=r'nothing in model.decode_head says that it reads feature maps'):
        swap_backbone(cfg)
    with pytest.raises(InputError, match=r'or a dict, not 3'):
        swap_backbone(name, 3)
    cfg = load_config(name)
    cfg.model.backbone.type = 'NoSuchNet'
    with pytest.raises(InputError, match=r'NoSuchNet could not be run on an RGB image.*NoSuchNet is not in'):
        swap_backbone(cfg)


def test_new_style_configs_are_refused():
    cfg = Config(dict(default_scope='mmdet', model=dict(type=object, backbone=dict(type='ResNet', depth=18))))
    with pytest.raises(InputError, match='new style'):
        swap_backbone(cfg)


# The command, on a project as users have them

PROJECT = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class MyShapes(BaseSegDataset):
    METAINFO = dict(classes=('background', *'abcdefg'), palette=[[i, i, i] for i in range(8)])

    def __init__(self, **kwargs):
        super().__init__(img_suffix='.jpg', seg_map_suffix='.png', **kwargs)


@HOOKS.register_module()
class Diary(Hook):
    def __init__(self, path):
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(self.path, 'a') as file:
            file.write(f'{runner.iter} {float(outputs["loss"]):.3f}\\n')
"""
CONFIG = """
_base_ = ['mmseg::_base_/models/fcn_r50-d8.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['my_project'], allow_failed_imports=False)
size = (64, 64)
model = dict(
    data_preprocessor=dict(size=size, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(depth=50, frozen_stages=1, with_cp=True),
    decode_head=dict(num_classes=8, channels=16),
    auxiliary_head=dict(num_classes=8, channels=16),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='RandomCrop', crop_size=size),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='MyShapes',
        data_root='{data}/ade',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=pipeline,
    ),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01),
    paramwise_cfg=dict(custom_keys={{'backbone.layer1': dict(lr_mult=0.1), 'head': dict(lr_mult=10.0)}}),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
custom_hooks = [dict(type='Diary', path='{folder}/diary.txt')]
load_from = 'my_resnet_fcn.pth'
"""


@pytest.fixture
def project(tmp_path, shapes):
    (tmp_path / 'my_project.py').write_text(PROJECT)
    (tmp_path / 'my_config.py').write_text(CONFIG.format(data=shapes, folder=tmp_path))
    return tmp_path


def test_a_users_project(project, tool):
    out = project / 'deeper/my_atmnet.py'
    out.parent.mkdir()
    environment = {'PYTHONPATH': f'{project}:{ROOT}', 'COLUMNS': '120'}
    arguments = project / 'my_config.py', '--arch', 'xt', '--out', out, '--check'
    told = tool('swap_backbone.py', *arguments, fresh=True, **environment)
    for words in (
        'model.auxiliary_head.in_channels: 1024 -> 320',
        'these are weights of a model with the old backbone',
        'not carried over from ResNetV1c: frozen_stages=1, norm_cfg (SyncBN). ',
        'optim_wrapper.paramwise_cfg.custom_keys: a dict of backbone.layer1, head -> a dict of head',
    ):
        assert words in told
    lines = told.splitlines()
    first = lines.index('model.backbone: ResNetV1c -> mmatm.ATMNet')
    assert first < lines.index(f'wrote {out}') == len(lines) - 2
    assert 'ran on images of 128x128; loss ' in lines[-1]
    assert len(lines) <= 24, told
    assert max(map(len, lines[first:])) <= 120
    text = out.read_text()
    assert "_base_ = '../my_config.py'" in text
    assert (
        text
        == """# ATMNet as the backbone, by tools/swap_backbone.py
_base_ = '../my_config.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmatm.ATMNet',
        arch='xt',
        out_indices=[2, 3],
        output_stride=8,
        with_cp=True,
    ),
    decode_head=dict(in_channels=512, in_index=1),
    auxiliary_head=dict(in_channels=320, in_index=0),
    pretrained=None,
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
)
load_from = None
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, head=dict(lr_mult=10.0))))
"""
    )
    tool('train.py', out, '--work-dir', project / 'work', **environment)
    diary = (project / 'diary.txt').read_text().splitlines()
    assert [line.split()[0] for line in diary] == ['0', '1', '2']
    weights = torch.load(project / 'work/iter_3.pth', weights_only=False)['state_dict']
    assert 'backbone.stages.3.position.weight' in weights


def test_the_command_does_not_overwrite(tmp_path, monkeypatch, error_of):
    monkeypatch.chdir(tmp_path)
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    Path('retinanet_r18_fpn_1x_coco_atmnet_s.py').write_text('mine')
    assert 'exists already' in error_of('swap_backbone.py', name, '--arch', 's')
    assert Path('retinanet_r18_fpn_1x_coco_atmnet_s.py').read_text() == 'mine'
    message = error_of('swap_backbone.py', 'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py')
    assert message.startswith('error: HourglassNet returns feature maps')
    assert 'must end in .py' in error_of('swap_backbone.py', name, '--out', 'x')
    assert 'there is no folder nowhere' in error_of('swap_backbone.py', name, '--out', 'nowhere/x.py')
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failing_check_is_one_message(tmp_path, error_of):
    path = tmp_path / 'bad.py'
    path.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\nmodel = dict(bbox_head=dict(in_channels=7))"
    )
    message = error_of('swap_backbone.py', path, '--arch', 'xt', '--out', tmp_path / 'new.py', '--check')
    assert 'the model fails at forward: RuntimeError' in message
    path.write_text("_base_ = './nowhere.py'")
    assert 'bad.py cannot be read: FileNotFoundError' in error_of('swap_backbone.py', path)


def test_paths_of_the_base(tmp_path, monkeypatch):
    """Names that MMEngine does not inherit by, and folders behind links, are inherited by paths that lead there."""
    (tmp_path / 'real/deep').mkdir(parents=True)
    (tmp_path / 'link').symlink_to('real/deep')
    (tmp_path / "it's.py").write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'")
    monkeypatch.chdir(tmp_path)
    for config in ("it's.py", 'mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py'):
        swap = swap_backbone(config, 'xt')
        path = Path('link/new.py')
        path.write_text(swapped_text(swap, base_name(config, swap.cfg, path.parent)))
        assert without_scope(load_config(str(path)).model) == without_scope(swap.cfg.model)
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    assert base_name(name, load_config(name), Path('link')) == name


def test_the_check_reads_the_weights(tmp_path, error_of):
    torch.save({'state_dict': ATMNet('xt').state_dict()}, tmp_path / 'xt.pth')
    name = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    message = error_of(
        'swap_backbone.py',
        name,
        '--arch',
        't',
        '--weights',
        tmp_path / 'xt.pth',
        '--out',
        tmp_path / 'new.py',
        '--check',
    )
    assert 'do not fill' in message
