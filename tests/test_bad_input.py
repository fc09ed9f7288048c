"""Bad input to the commands of tools/: one message, a failing exit status, and nothing lost."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DETECTOR, ROOT, write_config
from PIL import Image

import stand_ins


def test_missing_config(error_of):
    message = error_of('train.py', ROOT / 'configs/upernet_atmnet_tiny_ade20k.py')
    assert re.search(r'there is no config .*; did you mean .*upernet_atmnet_t_ade20k\.py\?', message)
    assert 'there is no config mmseg::upernet/absent.py' in error_of('train.py', 'mmseg::upernet/absent.py')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'train_cfg.max_iter=3',
            r'the config has no train_cfg\.max_iter; the nearest is train_cfg\.max_iters\. To add',
        ),
        ('model.backbone.arhc=t', r'no model\.backbone\.arhc; the nearest is model\.backbone\.arch'),
        ('optim_wraper.optimizer.lr=1', r'no optim_wraper\.optimizer\.lr; the nearest is optim_wrapper\.optimizer\.lr'),
        ('data_preprocessor.mean="[0,0,0]"', r'data_preprocessor is a variable of the config file'),
        ('randomness.sed=3', r'no randomness\.sed; '),
        ('+train_dataloader.dataset.pipeline.9.prob=1', r'pipeline\.9\.prob cannot be set in this config'),
        ('runner_type=FlexibleRunner', r'no runner_type'),
        ('+runner_type=FlexibleRunner', r'runner_type=FlexibleRunner is not supported here'),
        ('train_dataloader.dataset.pipeline.9.prob=1', r'no train_dataloader\.dataset\.pipeline\.9\.prob'),
        (
            'channels="[1,2,3,4]"',
            r'would have no effect; set the entries made from it: model\.backbone\.arch\.channels=\.',
        ),
    ],
)
def test_option_that_does_not_exist(config, error_of, option, message):
    assert re.search(message, error_of('train.py', config, '--cfg-options', option))


def test_missing_pretrained_weights(error_of, tmp_path):
    message = error_of('train.py', ROOT / 'configs/upernet_atmnet_t_ade20k.py', '--work-dir', tmp_path)
    assert 'pretrained weights checkpoints/atmnet_t_in1k.pth are not there' in message
    assert '1eFv5SsGr6ZpupY0wB-N2mjVhQLSo92o-' in message
    assert 'python tools/fetch_weights.py atmnet_t_in1k' in message
    assert '--from-scratch' in message
    message = error_of('train.py', ROOT / 'configs/upernet_atmnet_s_ade20k.py', '--work-dir', tmp_path)
    assert 'The authors do not publish them' in message


def test_all_that_is_missing_is_said_at_once(error_of, tmp_path):
    path = ROOT / 'configs/upernet_atmnet_t_ade20k.py'
    roots = [f'{part}_dataloader.dataset.data_root={tmp_path}/{part}' for part in ('train', 'val')]
    message = error_of('train.py', path, '--work-dir', tmp_path, '--cfg-options', *roots)
    assert 'pretrained weights checkpoints/atmnet_t_in1k.pth are not there' in message
    assert all(
        f'no folder {tmp_path}/{part} ({part}_dataloader.dataset.data_root)' in message for part in ('train', 'val')
    )
    assert message.startswith('error: 2 things are wrong')


def test_from_scratch_is_instead_of_the_configs_pretrained_weights_only(config, error_of, tmp_path):
    options = f'train_dataloader.dataset.data_root={tmp_path}/absent', 'model.backbone.arch=xt'
    options = '--work-dir', tmp_path / 'work', '--cfg-options', *options
    # No word of the classifier at 224 that it would start from; the data is looked for next.
    assert 'absent' in error_of('train.py', ROOT / 'configs/atmnet_l_384_in1k.py', '--from-scratch', *options)
    message = error_of('train.py', config, '--from-scratch', '--resume', tmp_path / 'weights.pth')
    assert 'give only one of the two' in message


def test_missing_and_empty_data(config, error_of, tmp_path):
    option = 'train_dataloader.dataset.data_root='
    message = error_of('train.py', config, '--cfg-options', f'{option}{tmp_path}/absent')
    assert re.search(r'there is no folder .*absent \(train_dataloader\.dataset\.data_root\)', message)
    for kind in ('images', 'annotations'):
        (tmp_path / 'empty' / kind / 'training').mkdir(parents=True)
    message = error_of('train.py', config, '--cfg-options', f'{option}{tmp_path}/empty')
    assert 'no images found for BaseSegDataset' in message


def damage(folder: Path, name: str) -> None:
    image, label = folder / 'images/training/000003.jpg', folder / 'annotations/training/000003.png'
    if name == 'label beyond':
        with Image.open(label) as file:
            values = np.array(file)
        values[0, 0] = 9
        Image.fromarray(values).save(label)
    elif name == 'label absent':
        label.unlink()
    else:
        path = label if name == 'label cut' else image
        path.write_bytes(b'' if name == 'image empty' else path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('image cut', r'images/training/000003\.jpg: cut short'),
        ('image empty', r'images/training/000003\.jpg: cut short or not an image'),
        ('label cut', r'annotations/training/000003\.png: cut short'),
        ('label absent', r'annotations/training/000003\.png: does not exist'),
        ('label beyond', r'annotations/training/000003\.png: label values \[9\], but the highest class is 7'),
    ],
)
def test_damaged_data(config, error_of, shapes, tmp_path, kind, message):
    subprocess.run(['cp', '-r', shapes / 'ade', tmp_path / 'ade'], check=True)
    damage(tmp_path / 'ade', kind)
    found = error_of('train.py', config, '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}/ade')
    assert re.search(rf'damaged data:\n  \S*{message}', found)
    assert not list((tmp_path / 'work').glob('*.pth'))


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('trace',)


META = {'epoch': 0, 'iter': 2, 'seed': 0}
OTHER_SIZE = {
    'depths': [2, 2, 2, 3],
    'channels': [8, 16, 16, 32],
    'mlp_ratios': [2] * 4,
    'channels_per_offset': [2] * 4,
}


def bad_checkpoint(kind: str, path: Path) -> Path:
    if kind == 'other size':
        shapes = stand_ins.authors_shapes({**OTHER_SIZE, 'offset_interval': 2}, pyramid=True)
        weights = {f'backbone.{name}': torch.zeros(shape) for name, shape in shapes.items()}
    else:
        weights = {'conv1.weight': torch.zeros(64, 3, 7, 7)}
    if kind != 'absent':
        meta = RunsCode() if kind == 'code' else META
        torch.save({'state_dict': weights, 'meta': meta, 'optimizer': {}, 'param_schedulers': [{}, {}]}, path)
    if kind == 'cut':
        path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize('way', ['test', 'resume', 'load_from'])
@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('absent', r'there is no checkpoint \S+bad\.pth'),
        ('cut', r'bad\.pth is cut short or not a PyTorch checkpoint'),
        ('other size', r'bad\.pth: weights of ATMNet of a custom size \(depths \[2, 2, 2, 3\]'),
        ('other network', r'bad\.pth: these are not weights of ATMNet'),
        ('code', r'bad\.pth holds more than weights \(posix\.mkdir\)'),
    ],
)
def test_bad_checkpoints(config, error_of, tmp_path, monkeypatch, way, kind, message):
    monkeypatch.chdir(tmp_path)
    path = bad_checkpoint(kind, tmp_path / 'bad.pth')
    arguments = {
        'test': ['test.py', config, path],
        'resume': ['train.py', config, '--resume', path],
        'load_from': ['train.py', config, '--cfg-options', f'load_from={path}'],
    }[way]
    assert re.search(message, error_of(*arguments))
    assert not (tmp_path / 'trace').exists()
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_more_classes_than_the_model(config, error_of):
    options = 'model.decode_head.num_classes=3', 'model.auxiliary_head.num_classes=3'
    assert re.search(
        r'data has 7 classes \(.*\), but the model has decode_head\.num_classes=3 and auxiliary_head\.num_classes=3',
        error_of('train.py', config, '--cfg-options', *options),
    )


def test_commands_for_one_task_refuse_the_others(tmp_path, shapes, config, error_of):
    """Before the checkpoint is read."""
    path = write_config(tmp_path, shapes, DETECTOR)
    message = 'MaskRCNN of this config is for detection; this command is for semantic segmentation'
    assert message in error_of('draw_segmentation.py', path, tmp_path / 'absent.pth')
    path = write_config(tmp_path, shapes)
    message = 'EncoderDecoder of this config is for semantic segmentation; this command is for detection'
    assert message in error_of('dev/overfit_coco.py', path, '--data-root', tmp_path, '--work-dir', tmp_path / 'work')
