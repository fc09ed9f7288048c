"""Pretrained weights in every form that the toolboxes' configs have, and how models are built without them."""

import copy

import torch
from conftest import ROOT
from mmengine.config import Config, ConfigDict

from mmatm.analysis.results import read_results
from mmatm.apis.inference import load_model
from mmatm.build import build_model
from mmatm.config import load_config
from mmatm.pretrained import missing_pretrained, pretrained_weights, without_pretrained

# Every form at once: a detector with a teacher, whose backbone and its part load files.
MODEL = ConfigDict(
    type='A',
    pretrained='open-mmlab://resnet50_v1c',
    teacher_ckpt='teacher.pth',
    init_cfg=dict(type='Pretrained', checkpoint='whole.pth', prefix='student.'),
    backbone=dict(
        type='B',
        init_cfg=[dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='backbone.pth')],
        plugins=[dict(type='C', pretrained=True), dict(type='D', init_cfg=[dict(checkpoint='plugin.pth')])],
    ),
    neck=dict(type='E', init_cfg=dict(type='Xavier', layer='Conv2d'), pretrained=None),
    detector=dict(
        type='F', init_cfg=None, backbone=dict(type='mmatm.ATMNet', arch='t', init_cfg=dict(checkpoint='t.pth'))
    ),
)


def test_every_form_is_found():
    found = {'.'.join(map(str, x.keys)): x.file for x in pretrained_weights(MODEL)}
    assert found == {
        'pretrained': 'open-mmlab://resnet50_v1c',
        'teacher_ckpt': 'teacher.pth',
        'init_cfg.checkpoint': 'whole.pth',
        'backbone.init_cfg.1.checkpoint': 'backbone.pth',
        'backbone.plugins.0.pretrained': None,
        'backbone.plugins.1.init_cfg.0.checkpoint': 'plugin.pth',
        'detector.backbone.init_cfg.checkpoint': 't.pth',
    }
    assert [x.file for x in pretrained_weights(MODEL) if x.of_teacher] == ['teacher.pth']
    assert [x.file for x in pretrained_weights(MODEL) if x.backbone] == ['t.pth']


def test_taken_out_whole():
    before = copy.deepcopy(MODEL)
    rest = without_pretrained(MODEL)
    assert before == MODEL
    assert rest == dict(
        type='A',
        backbone=dict(
            type='B', init_cfg=[dict(type='Kaiming', layer='Conv2d')], plugins=[dict(type='C'), dict(type='D')]
        ),
        neck=MODEL.neck,
        detector=dict(type='F', init_cfg=None, backbone=dict(type='mmatm.ATMNet', arch='t')),
    )
    assert without_pretrained(MODEL, keep=lambda found: found.of_teacher) == {**rest, 'teacher_ckpt': 'teacher.pth'}


def test_missing_files_are_named_in_every_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'plugin.pth').touch()
    messages = missing_pretrained(MODEL)
    assert [message.split()[3] for message in messages] == ['whole.pth', 'teacher.pth', 'backbone.pth', 't.pth']
    assert '--cfg-options model.backbone.init_cfg.1.checkpoint=FILE, or train from random' in messages[2]
    assert 'from-scratch' not in messages[1]
    assert 'fetch_weights.py atmnet_t_in1k' in messages[3]


def test_of_a_toolbox_from_scratch(error_of, tmp_path):
    name = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
    assert [x.file for x in pretrained_weights(load_config(name).model)] == ['open-mmlab://resnet50_v1c']
    for part in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / 'ade' / kind / part).mkdir(parents=True)
    # It gets as far as the data, and dumps what it would train with.
    roots = [f'{part}_dataloader.dataset.data_root={tmp_path}/ade' for part in ('train', 'val')]
    message = error_of('train.py', name, '--from-scratch', '--work-dir', tmp_path, '--cfg-options', *roots)
    assert 'no images found' in message
    (dumped,) = tmp_path.glob('*.py')
    assert list(pretrained_weights(Config.fromfile(dumped).model)) == []


def test_no_command_asks_for_what_it_does_not_start_from(config, command, error_of, tmp_path):
    """From the beginning they are needed, also with --resume; with --from-scratch, a checkpoint or load_from not."""
    options = '--cfg-options', '+model.pretrained=absent.pth', 'train_cfg.max_iters=2', 'train_cfg.val_interval=9'
    options += ('default_hooks.checkpoint.interval=1',)
    for more in ([], ['--resume']):
        message = error_of('train.py', config, *more, *options)
        assert 'the pretrained weights absent.pth are not there' in message
        assert 'model.pretrained=FILE' in message
    assert not (tmp_path / 'work').exists()
    command('train.py', config, '--from-scratch', *options)
    saved = tmp_path / 'work/iter_2.pth'
    assert saved.exists()
    command('train.py', config, '--resume', *options, 'train_cfg.max_iters=3')
    assert (tmp_path / 'work/iter_3.pth').exists()
    command('train.py', config, '--work-dir', tmp_path / 'other', *options, f'load_from={saved}')
    assert (tmp_path / 'other/iter_2.pth').exists()
    # What the training dumped is the recipe, and can be tested and gone on with.
    (dumped,) = (tmp_path / 'work').glob('*.py')
    cfg = Config.fromfile(dumped)
    assert (cfg.resume, cfg.load_from, cfg.model.pretrained) == ('auto', None, 'absent.pth')
    assert 'mIoU' in command('test.py', dumped, tmp_path / 'work/iter_3.pth')
    assert not read_results(tmp_path / 'work')[0]['changed'].keys() & {'load_from', 'resume'}
    command('train.py', dumped, '--cfg-options', 'train_cfg.max_iters=4')
    assert (tmp_path / 'work/iter_4.pth').exists()


def test_models_are_built_one_way():
    cfg = load_config(str(ROOT / 'configs/upernet_atmnet_mini_shapes.py'))
    cfg.model.pretrained = 'absent.pth'
    cfg.model.decode_head.norm_cfg = dict(type='SyncBN')
    cfg.model.pop('data_preprocessor')
    model = build_model(cfg)
    assert type(model.data_preprocessor).__name__ == 'SegDataPreProcessor'
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    on_meta = build_model(cfg, 'meta')
    assert {p.device.type for p in on_meta.parameters()} == {'meta'}
    assert on_meta.state_dict().keys() == load_model(cfg, None).state_dict().keys()
    assert cfg.model.pretrained == 'absent.pth'
