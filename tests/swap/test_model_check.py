"""Checking a model on dummy inputs: what is wrong with it is found, and told by stage."""

import pytest
import torch

from mini import MINI
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.swap import swap_backbone
from mmatm.swap.model_check import ModelCheckError, check_model

DETECTOR = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
SEGMENTOR = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'


@pytest.fixture(params=[DETECTOR, SEGMENTOR])
def cfg(request):
    return swap_backbone(load_config(request.param), MINI).cfg


def test_runs(cfg):
    checked = check_model(cfg)
    assert checked.size == 128
    assert 0 < checked.loss < 1e4


def test_does_not_build(cfg):
    cfg.model.backbone.depth = 50
    with pytest.raises(ModelCheckError, match="unexpected keyword argument 'depth'") as error:
        check_model(cfg)
    assert error.value.stage == 'build'


def test_does_not_run(cfg):
    reader = cfg.model.get('neck') or cfg.model.decode_head
    channels = reader.in_channels
    reader.in_channels = [9] * len(channels) if isinstance(channels, list) else 9
    with pytest.raises(ModelCheckError, match='to have 9 channels') as error:
        check_model(cfg)
    assert error.value.stage == 'forward'


def test_has_no_finite_loss(cfg):
    head = cfg.model.get('bbox_head') or cfg.model.decode_head
    loss = head.get('loss_cls') or head.loss_decode
    loss.loss_weight = float('inf')
    with pytest.raises(ModelCheckError, match=r'the loss is (inf|nan)') as error:
        check_model(cfg)
    assert error.value.stage == 'loss'


def test_maps_that_nobody_reads_are_found(cfg):
    backbone = cfg.model.backbone
    reader = cfg.model.get('neck') or cfg.model.decode_head
    stages = backbone.out_indices
    backbone.out_indices = [0, *stages]
    if 'neck' in cfg.model:
        reader.update(in_channels=[8, *reader.in_channels], start_level=1)
    else:
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.in_index += 1
    with pytest.raises(ModelCheckError, match=r'without gradient.*: backbone\.norm0\.weight, backbone\.norm0\.bias$'):
        check_model(cfg)
    cfg.find_unused_parameters = True
    check_model(cfg)


def test_the_same_each_time_and_leaves_chance_alone(cfg):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    checked = check_model(cfg)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert check_model(cfg) == checked


def test_weights_of_other_models_are_not_read(cfg):
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    check_model(cfg)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    with pytest.raises(InputError, match=r'there is no checkpoint nowhere\.pth'):
        check_model(cfg)


def test_weights_of_the_backbone_are_read(cfg, tmp_path):
    """They are infinite, and so is the loss."""
    weights = {name: torch.full_like(weight, torch.inf) for name, weight in ATMNet(MINI).state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'inf.pth')
    check_model(cfg)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'inf.pth'))
    with pytest.raises(ModelCheckError):
        check_model(cfg)


def test_leaves_the_config_as_it_is(cfg):
    before = cfg.pretty_text
    check_model(cfg)
    assert cfg.pretty_text == before


def test_is_of_no_known_kind():
    cfg = load_config(DETECTOR)
    cfg.model = dict(type='mmdet.FPN', in_channels=[8], out_channels=8, num_outs=1)
    with pytest.raises(ModelCheckError, match='no dummy inputs for a FPN'):
        check_model(cfg)


def test_a_larger_size_is_tried(monkeypatch):
    """SSD's extra levels need more than 128 pixels."""
    cfg = swap_backbone('mmdet::ssd/ssd300_coco.py', MINI).cfg
    sizes = []
    monkeypatch.setattr('mmatm.swap.model_check._run', lambda model, size, _: sizes.append(size) or fail(size))

    def fail(size):
        if size == 128:
            raise ModelCheckError('forward', RuntimeError('too small'))

    check_model(cfg)
    assert sizes == [128, 512]
