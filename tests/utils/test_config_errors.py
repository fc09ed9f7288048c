"""Configs that cannot be built or whose parts do not fit: one message with the config's entry."""

import importlib.util
import re

import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, write_config
from mmengine.registry import MODELS
from torch import nn

from mmatm.config import load_config
from mmatm.utils.config_errors import explain


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.decode_head.type=UPerHed', 'model.decode_head.type: there is no UPerHed; the nearest is UPerHead'),
        (
            'model.auxiliary_head.type=mmseg.FCNHed',
            'model.auxiliary_head.type: there is no mmseg.FCNHed; the nearest is mmseg.FCNHead',
        ),
        (
            'model.backbone.type=mmatm.ATMNett',
            'model.backbone.type: there is no mmatm.ATMNett; the nearest is mmatm.ATMNet',
        ),
        (
            'model.decode_head.norm_cfg.type=SynBN',
            'model.decode_head.norm_cfg.type: there is no SynBN; the nearest is SyncBN',
        ),
        ('optim_wrapper.optimizer.type=AdanW', 'optim_wrapper.optimizer.type: there is no AdanW; the nearest is AdamW'),
        (
            'train_dataloader.dataset.pipeline.1.type=LoadAnotations',
            'train_dataloader.dataset.pipeline.1.type: there is no LoadAnotations; the nearest is LoadAnnotations',
        ),
        (
            '+model.decode_head.numm_convs=2',
            'model.decode_head: UPerHead takes no numm_convs. To drop settings',
        ),
        (
            '+param_scheduler.0.enb=2',
            'param_scheduler.0: LinearLR takes no enb (TypeError: ',
        ),
        (
            '+model.neck.type=FPN',
            "model.neck: FPN needs 'in_channels', 'out_channels', and 'num_outs' (TypeError: ",
        ),
        (
            'model.auxiliary_head.in_channels=24',
            'model.auxiliary_head.in_channels=24, but it is given feature maps of [8, 16, 16, 24] channels, of which '
            'in_index=2 takes [16]',
        ),
        (
            'model.decode_head.in_channels=[8,16,24,24]',
            'model.decode_head.in_channels=[8, 16, 24, 24], but it is given feature maps of [8, 16, 16, 24] channels',
        ),
    ],
)
def test_training_names_the_entry(config, error_of, option, message):
    found = error_of('train.py', config, '--cfg-options', option)
    assert found.startswith(f'error: {message}')
    assert '\n' not in found


def test_other_commands_name_the_entry(tmp_path, shapes, error_of):
    config = write_config(tmp_path, shapes, DETECTOR)
    wrong = '--cfg-options', 'model.neck.in_channels=[8,16,24,24]'
    message = 'model.neck.in_channels=[8, 16, 24, 24], but it is given feature maps of [8, 16, 16, 24] channels'
    assert message in error_of('train.py', config, *wrong)
    assert message in error_of('get_flops.py', config, '--shape', 64, 64, *wrong)
    message = 'model.neck.in_channels=[8, 16, 16], but it is given feature maps of [8, 16, 16, 24] channels'
    assert message in error_of('train.py', config, '--cfg-options', 'model.neck.in_channels=[8,16,16]')
    message = 'model.rpn_head.type: there is no RPNHed; the nearest is RPNHead'
    wrong = '--cfg-options', 'model.rpn_head.type=RPNHed'
    for name, *arguments in (
        ('test.py', config, 'weights.pth'),
        ('get_flops.py', config),
        ('visualize.py', config, 'weights.pth', shapes / 'coco/val2017', '--view', 'offsets'),
        ('image_demo.py', config, 'weights.pth', shapes / 'coco/val2017'),
    ):
        assert message in error_of(name, *arguments, *wrong)
    config = write_config(tmp_path, shapes, CLASSIFIER)
    message = 'model.head.in_channels=16, but it is given feature maps of [24] channels'
    assert message in error_of('train.py', config, '--cfg-options', 'model.head.in_channels=16')


def test_settings_left_from_another_type_can_be_deleted(config, error_of, command, tmp_path):
    """In a config that inherits it and on the command line, in the way that the message tells."""
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{config}'\noptim_wrapper = dict(optimizer=dict(type='SGD', momentum=0.9))\n")
    message = error_of('train.py', child)
    assert message.startswith('error: optim_wrapper.optimizer: SGD takes no betas')
    assert 'dict(_delete_=True, type=...)' in message
    assert '+optim_wrapper.optimizer._delete_=True +optim_wrapper.optimizer.type=SGD' in message
    assert "SGD.__init__() got an unexpected keyword argument 'betas'" in message
    child.write_text(child.read_text().replace('type=', 'lr=0.1, _delete_=True, type='))
    assert load_config(str(child)).optim_wrapper.optimizer == {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}
    options = {f'+optim_wrapper.optimizer.{k}': v for k, v in (('_delete_', True), ('type', 'SGD'), ('lr', 0.1))}
    assert load_config(str(config), options).optim_wrapper.optimizer == {'type': 'SGD', 'lr': 0.1}


class Faulty(nn.Module):
    """A layer of the user's, with a mistake that no config makes."""

    def __init__(self, in_channels):
        super().__init__()
        self.in_channels = in_channels
        self.inner = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.inner(x) + torch.zeros(7)


class Whole(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = MODELS.build(part)

    def forward(self, x):
        return self.part([x])


@pytest.mark.parametrize('channels', [3, 5])  # the second is wrong, but not what the error is about
def test_mistakes_of_the_program_keep_their_traceback(config, monkeypatch, capsys, channels):
    for kind in (Faulty, Whole):
        monkeypatch.setitem(MODELS._module_dict, kind.__name__, kind)
    cfg = load_config(str(config))
    cfg.model = {'type': 'Whole', 'part': {'type': 'Faulty', 'in_channels': channels}}
    with pytest.raises(TypeError) as stop:
        MODELS.build(cfg.model)(torch.zeros(1, 3, 8, 8))
    assert explain(stop.value, cfg) is None
    assert re.search(
        r'model\.part of the config \(Faulty\), given feature maps of \[3\] channels:$',
        capsys.readouterr().out,
        re.M,
    )
    with pytest.raises(KeyError) as stop:
        {}['Faulty is not here']
    assert explain(stop.value, cfg) is None


def test_toolbox_that_cannot_be_imported_is_named(tmp_path, config):
    path = tmp_path / 'broken.py'
    path.write_text('class Model(None):\n    pass\n')
    spec = importlib.util.spec_from_file_location('mmpretrain.models.broken', path)
    with pytest.raises(TypeError) as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    message = explain(caught.value, load_config(str(config)))
    assert re.match(r'mmpretrain\.models\.broken cannot be imported here.* mmengine \d.*NoneType takes no', message)
