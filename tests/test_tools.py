"""The commands of tools/, run as a user runs them."""

import json
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, ROOT, write_config
from PIL import Image

import golden_data
import stand_ins
from forked import free_port, kill, run_tool, start, wait
from mmatm.checkpoint import read_checkpoint
from mmatm.errors import InputError
from mmatm.utils.command_line import run


def miou(output: str) -> str:
    return re.findall(r'mIoU: (\d+\.\d+)', output)[-1]


@pytest.fixture(scope='module')
def training(tmp_path_factory, shapes, tool):
    """What a training of six iterations printed, and its last checkpoint."""
    folder = tmp_path_factory.mktemp('training')
    return tool('train.py', write_config(folder, shapes)), folder / 'work/iter_6.pth'


@pytest.fixture
def port():
    with free_port() as number:
        yield f'{number}'


def two(folder, *commands, port):
    """Runs two commands of tools/ as the processes of a launcher; returns what the first one printed."""
    started = []
    try:
        for rank, (path, *arguments) in enumerate(commands):
            environment = {'RANK': f'{rank}', 'LOCAL_RANK': f'{rank}', 'WORLD_SIZE': '2', 'MASTER_PORT': port}
            output = folder / f'output{rank}'
            started.append(start(run_tool, output, Path(path).name, *arguments, MASTER_ADDR='127.0.0.1', **environment))
        ended = [wait(process) for process in started]
    finally:
        for process in started:
            kill(process)
    printed = (folder / 'output0').read_text()
    assert ended == [0, 0], printed[-3000:]
    return printed


@pytest.fixture
def trained(training):
    return training[1]


def test_train_test_and_distributed_test(config, tmp_path, tool, training, port):
    output, checkpoint = training
    assert (checkpoint.parent / 'last_checkpoint').read_text() == str(checkpoint)

    no_training_data = '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}/absent'
    folders = '--show-dir', tmp_path / 'shown', '--out', tmp_path / 'maps'
    alone = tool('test.py', config, checkpoint, *folders, *no_training_data)
    assert miou(alone) == miou(output)
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 6
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 6
    assert miou(tool('dist_test.sh', config, checkpoint, 2, PORT=port)) == miou(alone)
    assert 'mIoU' in tool('test.py', config, checkpoint, '--tta', '--out', tmp_path / 'predictions.pkl')
    assert (tmp_path / 'predictions.pkl').stat().st_size > 0
    drawn = tool('draw_segmentation.py', config, checkpoint, '--count', 2)
    with Image.open(re.search(r'drawn: (\S+)', drawn)[1]) as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 100


def test_distributed_training_with_sync_bn(config, tmp_path, tool, port):
    options = '--amp', '--auto-scale-lr', '--cfg-options', 'train_cfg.max_iters=2'
    output = tool('dist_train.sh', config, 2, *options, PORT=port)
    assert 'GPU number: 2' in output
    assert output.count('no CUDA here: ') == 1  # by the first process
    assert 'based on batch size of 8 and the current batch size is 8' in output
    assert (tmp_path / 'work/iter_2.pth').exists()


@pytest.mark.parametrize('name', ['train', 'test'])
def test_slurm(config, tmp_path, tool, trained, name, port):
    """With stand-ins of Slurm's commands, and of Python, that note the tasks; they are run on this machine."""
    commands = tmp_path / 'bin'
    commands.mkdir()
    # The nodes of the job, the first of which another step has.
    (commands / 'scontrol').write_text(
        '#!/bin/sh\necho "$3" | sed "s/allocated/127.0.0.2\\n127.0.0.1/; s/step/127.0.0.1/"\n'
    )
    (commands / 'srun').write_text(
        '#!/bin/bash\n'
        'echo "$@" | tr "\\n" " " >>"$(dirname "$0")/asked"\n'
        'while [[ $1 == --* ]]; do shift; done\n'
        'export SLURM_JOB_ID=7 SLURM_STEP_ID=1 SLURMD_NODENAME=node5 TMPDIR=/local\n'
        'export SLURM_NTASKS=2 SLURM_JOB_NODELIST=allocated SLURM_STEP_NODELIST=step\n'
        'SLURM_PROCID=1 SLURM_LOCALID=1 "$@" && SLURM_PROCID=0 SLURM_LOCALID=0 "$@"\n'
    )
    (commands / 'python').write_text(
        '#!/bin/sh\n'
        'for name in RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT MMATM_SAID\n'
        'do printenv "$name"; done >"$0$RANK"\n'
        'printf "%s\\n" "$@" >>"$0$RANK"\n'
    )
    for command in commands.iterdir():
        command.chmod(0o755)
    environment = {'PATH': f'{commands}:{os.environ["PATH"]}', 'PYTHON': 'python', 'GPUS': '2', 'PORT': port}
    if name == 'train':
        last = tmp_path / 'elsewhere'
        options = ('--cfg-options', 'train_cfg.max_iters=2')
    else:
        last, options = trained, ()
    tool(f'slurm_{name}.sh', 'gpu', 'job', config, last, *options, **environment)
    assert '--partition=gpu --job-name=job --gres=gpu:2 --ntasks=2' in (commands / 'asked').read_text()
    tasks = [(commands / f'python{rank}').read_text().splitlines() for rank in (0, 1)]
    said = '/local/mmatm-7.1.0-node5'
    expected = [[rank, rank, '2', '127.0.0.1', port, said, f'{ROOT}/tools/{name}.py'] for rank in '01']
    assert [task[:7] for task in tasks] == expected
    output = two(tmp_path, *(task[6:] for task in tasks), port=port)
    assert 'GPU number: 2' in output
    assert (tmp_path / 'elsewhere/iter_2.pth').exists() if name == 'train' else miou(output)


def weights(path):
    return read_checkpoint(str(path))['state_dict']


def test_resume_without_a_fixed_seed_takes_up_the_first_runs(config, tmp_path, tool):
    options = ['--cfg-options', 'train_cfg.max_iters=6']
    tool('train.py', config, *options)
    whole = weights(tmp_path / 'work/iter_6.pth')
    (tmp_path / 'work/iter_6.pth').unlink()
    output = tool('train.py', config, '--resume', *options)
    assert 'resumed epoch: 0, iter: 4' in output
    torch.testing.assert_close(weights(tmp_path / 'work/iter_6.pth'), whole, rtol=0, atol=0)


def test_make_shapes(tmp_path, tool):
    output = tool('make_shapes.py', tmp_path / 'shapes', '--count', 4, '--size', 32, fresh=True)
    assert '4 images for training, 1 for validation' in output
    assert len(list((tmp_path / 'shapes/coco/train2017').glob('*.jpg'))) == 4


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_help(name, tool):
    assert 'usage' in tool(name, '--help', fresh=True)


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_usage(name, tool):
    assert re.search(r'usage: \S+ (CONFIG|PARTITION)', tool(name, 'config.py', fails=True))


def test_resuming_runs_no_text_of_the_checkpoint(config, tmp_path, tool, trained):
    checkpoint = read_checkpoint(str(trained))
    checkpoint['meta']['config'] = f"__import__('os').mkdir('{tmp_path}/trace')"
    torch.save(checkpoint, tmp_path / 'evil.pth')
    output = tool('train.py', config, '--resume', tmp_path / 'evil.pth', '--cfg-options', 'train_cfg.max_iters=7')
    assert 'resumed epoch: 0, iter: 6' in output
    assert not (tmp_path / 'trace').exists()


def test_weights_alone_cannot_be_resumed_but_started_from(config, error_of, tmp_path, tool, trained):
    torch.save({'state_dict': weights(trained)}, tmp_path / 'weights.pth')
    message = error_of('train.py', config, '--resume', tmp_path / 'weights.pth')
    assert 'cannot be resumed; start from its weights with load_from' in message
    # The pretrained weights of the backbone are not needed then.
    options = f'load_from={tmp_path}/weights.pth', '+model.backbone.init_cfg.checkpoint=absent.pth'
    output = tool('train.py', config, '--cfg-options', *options, '+model.backbone.init_cfg.type=Pretrained')
    assert f'Load checkpoint from {tmp_path}/weights.pth' in output
    message = error_of('train.py', config, '--from-scratch', '--cfg-options', 'load_from=weights.pth')
    assert 'give only one of the two' in message


def test_old_layout_is_tested_directly(config, tmp_path, tool):
    arch = {'depths': [2] * 4, 'channels': [8, 16, 16, 24], 'mlp_ratios': [2] * 4, 'channels_per_offset': [2, 4, 4, 8]}
    shapes = stand_ins.authors_shapes({**arch, 'offset_interval': 2}, pyramid=True)
    backbone = golden_data.authors_weights(shapes)
    path = stand_ins.upernet_file(tmp_path / 'old.pth', backbone, arch['channels'], 7, 16, 8)
    output = tool('test.py', config, path)
    assert miou(output)
    assert 'weights that this model does not use' not in output


def test_distributed_refusal_is_one_message(config, tool, tmp_path, port):
    output = tool('dist_test.sh', config, tmp_path / 'absent.pth', 2, fails=True, PORT=port, TMPDIR=str(tmp_path))
    assert len(re.findall(r'error in process [01] on \S+: there is no checkpoint', output)) == 1
    assert output.count('there is no checkpoint') == 1
    assert 'Traceback' not in output
    assert not list(tmp_path.glob('mmatm*'))


@pytest.mark.parametrize('launched', [True, False])
def test_each_node_says_its_errors(tmp_path, monkeypatch, capsys, launched):
    """The first process that has an error says it, be it the first of the node or not; the others theirs, if any."""

    def refuse(message):
        raise InputError(message)

    def said(rank, message, node):
        if launched:  # else by hand, where nobody tells which processes belong together
            monkeypatch.setenv('MMATM_SAID', str(tmp_path / node))
        monkeypatch.setenv('RANK', str(rank))
        with pytest.raises(SystemExit) as stop:
            run(lambda: refuse(message))
        assert stop.value.code == 1
        return capsys.readouterr().err

    monkeypatch.setenv('WORLD_SIZE', '4')
    host = socket.gethostname()
    assert said(1, 'no data', 'a') == f'error in process 1 on {host}: no data\n'
    assert said(0, 'no data', 'a') == ('' if launched else f'error in process 0 on {host}: no data\n')
    assert said(0, 'no weights', 'a') == f'error in process 0 on {host}: no weights\n'
    assert said(2, 'no data', 'b') == f'error in process 2 on {host}: no data\n'
    (tmp_path / 'c').write_text('where no folder can be made')
    for rank in (2, 3):
        assert said(rank, 'no data', 'c') == f'error in process {rank} on {host}: no data\n'


def test_checkpoint_without_a_head_is_not_tested(config, error_of, tmp_path, trained):
    state_dict = weights(trained)
    for name in ('decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'):
        del state_dict[name]
    torch.save({'state_dict': state_dict}, tmp_path / 'headless.pth')
    message = error_of('test.py', config, tmp_path / 'headless.pth')
    assert 'do not fill the model; missing: decode_head.conv_seg.weight, decode_head.conv_seg.bias' in message
    message = error_of('test.py', config, trained, '--cfg-options', 'model.decode_head.num_classes=9')
    assert 'size mismatch for decode_head.conv_seg.weight' in message


def metrics(folder, name):
    found = json.loads((folder / name).read_text())
    return found['metrics'], found['data']['images'], found['environment']['processes']


def test_detector_trains_and_tests_alike_in_one_process_and_two(tmp_path, shapes, tool, port):
    config = write_config(tmp_path, shapes, DETECTOR)
    output = tool('train.py', config)
    assert 'coco/segm_mAP: ' in output
    # Untrained boxes overlap nothing: with all that they have in common, let the tests find something.
    options = '--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0'
    tool('test.py', config, tmp_path / 'work/epoch_1.pth', *options)
    alone = metrics(tmp_path / 'work', 'result_epoch_1.json')
    command = 'test.py', config, tmp_path / 'work/epoch_1.pth', '--launcher', 'pytorch', *options
    two(tmp_path, command, command, port=port)
    together = metrics(tmp_path / 'work', 'result_epoch_1.json')
    assert (alone[1:], together[1:]) == ((6, 1), (6, 2))
    assert alone[0] == together[0]
    assert alone[0]['coco/bbox_mAP_50'] >= 0
    found = json.loads((tmp_path / 'work/result_epoch_1.json').read_text())
    assert found['training']['iterations'] == 6
    assert found['finished']


def test_classifier_trains_and_is_the_start_weight_of_a_segmentor(tmp_path, shapes, tool, config):
    (tmp_path / 'classifier').mkdir()
    path = write_config(tmp_path / 'classifier', shapes, CLASSIFIER)
    output = tool('train.py', path)
    assert re.search(r'accuracy/top1: \d+', output)
    checkpoint = tmp_path / 'classifier/work/epoch_1.pth'
    tool('test.py', path, checkpoint)
    assert metrics(tmp_path / 'classifier/work', 'result_epoch_1.json')[1] == 24
    start = f'+model.backbone.init_cfg.checkpoint={checkpoint}', '+model.backbone.init_cfg.type=Pretrained'
    output = tool('train.py', config, '--cfg-options', 'train_cfg.max_iters=1', *start)
    assert re.search(rf'ATMNet: loaded \d+ tensors from {checkpoint}; not used from it: head', output)


def test_get_flops(tool):
    output = tool('get_flops.py', ROOT / 'configs/atmnet_mini_shapes.py', '--shape', 96, 96, fresh=True)
    assert re.search(r'backbone +1\.261 +0\.\d\d\nhead +0\.001 +0\.00\ntotal +1\.262 ', output)
