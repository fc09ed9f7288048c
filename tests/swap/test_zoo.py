"""Swapping configs of the toolboxes by the hundred: a sample of them, and the account that is kept."""

import json
import multiprocessing
import signal
from pathlib import Path

import pytest

from mmatm.errors import InputError
from mmatm.models import ATMNet, CASViT
from mmatm.swap import zoo
from mmatm.swap.zoo import Outcome, examine, examine_all, leaf_configs, read_csv, render, write_csv

DOCS = Path(__file__).parents[2] / 'docs'
ATMNET = 'mmatm.ATMNet', 'xt'
RUN = [
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detectors/cascade-rcnn_r50-sac_1x_coco.py',
    'mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py',
    'mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py',
    'mmdet::htc/htc_r50_fpn_1x_coco.py',
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
    'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'mmdet::regnet/retinanet_regnetx-1.6GF_fpn_1x_coco.py',
    'mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py',
    'mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py',
    'mmdet::rtmdet/classification/cspnext-s_8xb256-rsb-a1-600e_in1k.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'mmdet::solo/solo_r50_fpn_1x_coco.py',
    'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',
    'mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py',
    'mmseg::encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py',
    'mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    'mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
    'mmseg::twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py',
    'mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py',
    'mmseg::vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512.py',
]


# Several seconds each
SLOW = {
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detectors/cascade-rcnn_r50-sac_1x_coco.py',
    'mmdet::htc/htc_r50_fpn_1x_coco.py',
    'mmdet::masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
    'mmdet::solo/solo_r50_fpn_1x_coco.py',
    'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
    'mmseg::vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512.py',
}


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RUN])
def test_swapped_and_run(name, tmp_path):
    outcome = examine(name, *ATMNET, tmp_path, compare=False)
    assert (outcome.outcome, outcome.reason) == ('run', '')


def test_the_record_holds_every_config():
    outcomes = read_csv(DOCS / 'swap_zoo.csv')
    recorded = [o.config for o in outcomes]
    installed = sorted(n for t in zoo.TOOLBOXES for n in leaf_configs(t))
    if 'onedl-' in zoo.environment():  # the record is of upstream's; the forks have some more
        installed = [name for name in installed if name in recorded]
    assert recorded == installed
    known = {o.config: o.outcome for o in outcomes}
    assert {known[name] for name in RUN} == {'run'}
    assert all(o.reason for o in outcomes if o.outcome != 'run')
    due = [o for o in outcomes if o.counts]
    assert sum(o.outcome == 'run' for o in due) >= 0.95 * len(due)


def test_the_table_is_of_the_record():
    text = (DOCS / 'swap_zoo.md').read_text()
    environment = next(line for line in text.splitlines() if line.startswith('Seen with'))
    assert render(read_csv(DOCS / 'swap_zoo.csv'), ATMNet, 'xt', environment) == text


def outcome(config, outcome, reason='', original='runs', gives_maps=True):
    return Outcome(config, 'ResNet', outcome, reason, original, gives_maps)


OUTCOMES = [
    outcome('mmdet::a/1.py', 'run'),
    outcome('mmdet::a/2.py', 'run', original='loss: KeyError: x'),
    outcome('mmdet::b/3.py', 'refused', 'has class | tokens', gives_maps=False),
    outcome('mmdet::b/4.py', 'refused', 'a stack'),
    outcome('mmseg::c/5.py', 'built', 'loss: ValueError: y'),
    outcome('mmseg::c/6.py', 'failed', 'build: lap is not installed', original='build: lap is not installed'),
]


def test_the_table():
    lines = render(OUTCOMES, CASViT, 's', 'Seen with nothing.').splitlines()
    assert any('swapped for CASViT of size s by' in line for line in lines)
    for line in (
        '# CASViT in every config of mmdet and mmsegmentation',
        '| mmdet | 4 | 2 |  | 2 |  | 1 of 2, 50.0 % |',
        '| mmseg | 2 |  | 1 |  | 1 | 0 of 1, 0.0 % |',
        '| both | 6 | 2 | 1 | 2 | 1 | 1 of 3, 33.3 % |',
        '| 1 | mmdet::b/3.py | has class / tokens |',
        '| 1 | mmseg::c/5.py | mmatm: loss: ValueError: y |',
        '| 1 | mmseg::c/6.py | the environment, without a package or file: build: lap is not installed |',
        '| mmdet::a | 2 | 2 |  |  |  |',
    ):
        assert line in lines


def test_the_record_is_read_back(tmp_path):
    write_csv(OUTCOMES, tmp_path / 'zoo.csv')
    assert read_csv(tmp_path / 'zoo.csv') == OUTCOMES


@pytest.fixture
def forks(monkeypatch):
    """Processes that have imported what this one has."""
    monkeypatch.setattr(zoo, 'get_context', lambda method: multiprocessing.get_context('fork'))


def test_goes_on_where_it_was_stopped(tmp_path, forks):
    first = outcome('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', 'failed', 'kept from before')
    lines = json.dumps(zoo.asdict(first)) + '\n' + '{"config": "mmdet::cut sho'
    (tmp_path / 'outcomes.jsonl').write_text(lines)
    other = 'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py'
    found = list(examine_all([other, first.config], *ATMNET, tmp_path, 1))
    assert found[0] == first
    assert (found[1].config, found[1].outcome, found[1].gives_maps) == (other, 'refused', True)
    again = list(examine_all([other, first.config], *ATMNET, tmp_path, 1))
    assert {o.config: o for o in again} == {o.config: o for o in found}


def test_outcomes_of_another_environment_are_not_taken_up(tmp_path, monkeypatch, forks):
    monkeypatch.setattr(zoo, 'environment', lambda: 'torch 1')
    assert list(examine_all([], *ATMNET, tmp_path, 1)) == []
    with pytest.raises(InputError, match='of another environment or backbone'):
        list(examine_all([], 'mmatm.CASViT', 'xs', tmp_path, 1))
    monkeypatch.setattr(zoo, 'environment', lambda: 'torch 2')
    with pytest.raises(InputError, match='of another environment or backbone'):
        list(examine_all([], *ATMNET, tmp_path, 1))


def test_models_that_are_the_same_share_a_check(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(zoo, 'check_model', checked.append)
    for name in ('retinanet_r50_fpn_1x_coco', 'retinanet_r50_fpn_2x_coco', 'retinanet_r101_fpn_1x_coco'):
        assert examine(f'mmdet::retinanet/{name}.py', *ATMNET, tmp_path).outcome == 'run'
    # the two depths as they are, and the swapped one
    assert len(checked) == 3


def test_whose_defect_it_is(tmp_path, monkeypatch):
    def check(cfg):
        raise zoo.ModelCheckError('loss', RuntimeError('/home/user/mmdet/x.py at 0x7f12 is bad'))

    monkeypatch.setattr(zoo, 'check_model', check)
    found = examine('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', *ATMNET, tmp_path)
    assert found.outcome == 'built'
    assert found.reason == found.original == 'loss: RuntimeError: x.py at 0x... is bad'
    assert found.defect == 'the toolbox'
    assert not found.counts
    monkeypatch.setattr(zoo, 'check_model', lambda cfg: check(cfg) if cfg.model.backbone.type != 'ResNet' else None)
    found = examine('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', *ATMNET, tmp_path)
    assert found.defect == 'mmatm'
    assert found.counts


def test_a_failure_of_another_kind_than_before_is_ours():
    assert outcome('mmdet::a/1.py', 'failed', 'AssertionError: x', original='build: no lap').defect == 'mmatm'
    assert outcome('mmdet::a/1.py', 'built', 'loss: x', original='build: no lap').defect == 'mmatm'
    assert outcome('mmdet::a/1.py', 'built', 'loss: x', original='loss: y').defect == 'the toolbox'


def test_a_check_that_takes_too_long(tmp_path, monkeypatch):
    """Whatever it catches, and at whatever size it is."""
    sizes, alarms = [], []

    def run(model, size, _):
        sizes.append(size)
        try:
            signal.raise_signal(signal.SIGALRM)  # as the alarm does, at no other place than this
        except Exception as error:
            raise zoo.ModelCheckError('forward', error) from error

    monkeypatch.setattr('mmatm.swap.model_check._run', run)
    monkeypatch.setattr('mmatm.swap.model_check._build', lambda cfg: None)
    monkeypatch.setattr(signal, 'alarm', alarms.append)
    found = examine('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', *ATMNET, tmp_path, compare=False)
    assert (found.outcome, found.reason) == ('built', 'forward: more than 600 s')
    assert sizes == [128]
    assert alarms == [600, 0]


def test_a_config_that_cannot_be_read(tmp_path):
    name = 'mmdet::sort/faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17train.py'
    found = examine(name, *ATMNET, tmp_path)
    assert (found.outcome, found.defect, found.counts) == ('failed', 'the toolbox', False)


def test_the_command(tmp_path, tool, error_of):
    told = tool('dev/swap_zoo.py', '--only', 'mmdet::cornernet/*', '--work-dir', tmp_path, '--jobs', 1)
    assert '3 of 3' in told
    assert 'HourglassNet returns feature maps at strides 4, 4' in told
    assert 'no config of mmdet or mmseg is called nonsense' in error_of('dev/swap_zoo.py', '--only', 'nonsense')
