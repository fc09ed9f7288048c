"""The runner on a toy model: resuming, for every kind of loop, sampler and checkpoint."""

import hashlib
import itertools
import shutil
from functools import partial
from typing import ClassVar

import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from forked import free_port, kill, start, wait
from mmatm.checkpoint import checkpoint_to_resume, latest_checkpoint, read_checkpoint, read_meta
from mmatm.engine import mixed_precision
from mmatm.engine import runner as runner_module
from mmatm.engine.runner import Runner
from mmatm.errors import InputError

_numbers = itertools.count()


class Noise(Dataset):
    """Samples that differ at every drawing."""

    read = 0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        Noise.read += 1
        noise = np.random.rand() + torch.rand(()).item()
        return {'inputs': torch.full((3,), index + noise), 'index': index}


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, inputs, index, mode='tensor'):
        if mode == 'predict':
            return [{}] * len(inputs)
        self.seen.append([int(i) for i in index])
        return {'loss': self.dropout(self.linear(torch.stack(inputs))).square().mean()}


BY_ITERATION, BY_EPOCH = {'by_epoch': False, 'max_iters': 12}, {'by_epoch': True, 'max_epochs': 3}


def build(folder, train_cfg=BY_ITERATION, sampler='InfiniteSampler', workers=0, checkpoint=None, **more):
    """A runner of the toy: 12 iterations, in epochs of four. `checkpoint` has arguments of the hook, or an interval."""
    hook = checkpoint if isinstance(checkpoint, dict) else {'interval': checkpoint or 1}
    return Runner(**{
        'model': Toy(),
        'work_dir': str(folder),
        'train_cfg': dict(train_cfg),
        'train_dataloader': {
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': workers > 0,
            'sampler': {'type': sampler, 'shuffle': True},
            'dataset': Noise(),
        },
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9}},
        'param_scheduler': {'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.1, 'end': 12},
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'by_epoch': train_cfg['by_epoch'], **hook}},
        'experiment_name': f'toy_to_resume{next(_numbers)}',  # MMEngine keeps loggers and message hubs by this name
        'randomness': {'seed': None if more.get('resume') else 5},  # a resumed training takes up the first one's
        'log_level': 'ERROR',
        **more,
    })  # fmt: skip


def run(folder, *args, **more):
    """Trains the toy and returns the samples of each iteration."""
    runner = build(folder, *args, **more)
    model = runner.model
    runner.train()
    if runner.train_dataloader.num_workers:  # at once: when they are collected they are waited for
        runner.train_dataloader._iterator._shutdown_workers()
    return model.seen


def copy_checkpoint(whole, parts, name):
    """As if the training had been killed after it wrote this one."""
    parts.mkdir(exist_ok=True)
    shutil.copy(whole / name, parts)
    (parts / 'last_checkpoint').write_text(str(parts / name))


def state(path):
    """What a checkpoint holds that a training goes on from."""
    checkpoint = read_checkpoint(str(path))
    parts = {key: checkpoint.get(key) for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')}
    parts['optimizer'].pop('base_param_settings', None)
    return parts


def exact(value):
    """A value with lists for tensors, to be compared bit by bit."""
    if isinstance(value, dict):
        return {key: exact(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(entry) for entry in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def assert_same(path, expected):
    assert exact(state(path)) == exact(state(expected))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # MMEngine waits 2 s between the epochs of a loader


ITERATIONS = {'by_epoch': False}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('train_cfg', 'sampler', 'hook', 'at'),
    [
        (BY_ITERATION, 'InfiniteSampler', {}, 9),
        (BY_ITERATION, 'DefaultSampler', {}, 3),
        (BY_ITERATION, 'DefaultSampler', {}, 4),
        (BY_ITERATION, 'DefaultSampler', {}, 8),
        (BY_ITERATION, 'DefaultSampler', {}, 11),
        (BY_EPOCH, 'DefaultSampler', {}, 4),
        (BY_EPOCH, 'DefaultSampler', ITERATIONS, 2),
        (BY_EPOCH, 'DefaultSampler', ITERATIONS, 7),
        (BY_EPOCH, 'DefaultSampler', ITERATIONS, 8),
    ],
)
def test_resumed_as_if_not_interrupted(tmp_path, train_cfg, sampler, hook, at, workers):
    by_epoch = train_cfg['by_epoch'] and not hook
    options = train_cfg, sampler, workers, {'interval': 1, **hook}
    whole = run(tmp_path / 'whole', *options)
    assert len(whole) == 12
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', f'epoch_{at // 4}.pth' if by_epoch else f'iter_{at}.pth')
    Noise.read = 0
    seen = run(tmp_path / 'parts', *options, resume=True)
    assert seen == whole[at:]
    if workers == 0:
        assert Noise.read == 2 * len(seen)  # what was trained on is not read again
    name = 'epoch_3.pth' if by_epoch else 'iter_12.pth'
    assert_same(tmp_path / 'parts' / name, tmp_path / 'whole' / name)


def test_the_rest_of_an_epoch_counts_from_where_it_was(tmp_path):
    class Record(Hook):
        counted: ClassVar = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.counted.append((runner.epoch, batch_idx))

    options = BY_EPOCH, 'DefaultSampler', 0, {'interval': 1, **ITERATIONS}
    run(tmp_path / 'whole', *options)
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_6.pth')
    run(tmp_path / 'parts', *options, resume=True, custom_hooks=[Record()])
    assert Record.counted == [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_within_an_epoch_of_other_data_is_refused(tmp_path):
    options = BY_EPOCH, 'DefaultSampler', 0, {'interval': 1, **ITERATIONS}
    run(tmp_path, *options)
    copy_checkpoint(tmp_path, tmp_path / 'parts', 'iter_6.pth')
    runner = build(tmp_path / 'parts', *options, resume=True)
    runner._train_dataloader['batch_size'] = 4
    with pytest.raises(InputError, match=r'iter_6\.pth was saved within an epoch, after 2 of its 4 batches, but an '):
        runner.train()


def test_epochs_of_other_lengths_before(tmp_path):
    """Resumed with another batch size at the end of an epoch, which is warned of, and once more."""

    def train(epochs, batch_size, **more):
        data = {'batch_size': batch_size, 'sampler': {'type': 'DefaultSampler', 'shuffle': True}, 'dataset': Noise()}
        return len(run(tmp_path, {**BY_EPOCH, 'max_epochs': epochs}, train_dataloader=data, **more))

    assert [train(1, 2), train(2, 4, resume=True), train(3, 4, resume=True)] == [4, 2, 2]
    checkpoint = read_checkpoint(str(tmp_path / 'epoch_1.pth'))
    del checkpoint['meta']['mmatm']  # written by others
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert train(2, 8, resume=True) == 1


def test_batches_of_a_sampler_of_their_own_are_noted(tmp_path):
    data = Noise()
    loader = {
        'dataset': data,
        'batch_size': 2,
        'batch_sampler': {'type': Pairs},
        'sampler': {'type': 'InfiniteSampler'},
    }
    run(tmp_path, train_dataloader=loader)
    assert read_meta(str(tmp_path / 'iter_12.pth'))['mmatm']['batch_size'] == 2


class Pairs(BatchSampler):
    def __init__(self, sampler, batch_size=2):
        super().__init__(sampler, 2, False)


@pytest.mark.parametrize('by', [BY_ITERATION, BY_EPOCH], ids=['iterations', 'epochs'])
@pytest.mark.parametrize('kind', ['shuffled', 'generator', 'plain'])
def test_a_data_loader_that_is_given(tmp_path, by, kind):
    def loader():
        data = Noise()
        more = {
            'shuffled': {'shuffle': True},
            'generator': {'sampler': RandomSampler(data, generator=torch.Generator().manual_seed(8))},
            'plain': {},
        }[kind]
        return DataLoader(data, batch_size=2, collate_fn=_collate, **more)

    hook = {'interval': 1, **ITERATIONS}
    whole = run(tmp_path / 'whole', by, train_dataloader=loader(), checkpoint=hook)
    assert (whole[:4] == whole[4:8]) == (kind == 'plain')
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_7.pth')
    torch.rand(5)  # another state of the generator that all share
    seen = run(tmp_path / 'parts', by, train_dataloader=loader(), checkpoint=hook, resume=True)
    assert seen == whole[7:]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')


def _collate(samples):
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def test_the_data_set_of_a_runner_serves_other_loaders_too(tmp_path):
    data = Noise()
    run(tmp_path, train_dataloader=DataLoader(data, batch_size=2, collate_fn=_collate))
    assert len(list(DataLoader(data, batch_size=2))) == 4
    numbers = [{'inputs': torch.ones(3), 'index': i} for i in range(8)]  # a list takes no attributes
    assert len(run(tmp_path, train_dataloader=DataLoader(numbers, batch_size=2, collate_fn=_collate))) == 12


VALIDATION = {
    'val_cfg': {},
    'val_dataloader': {'dataset': Noise(), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
}
EMA = {'custom_hooks': [{'type': 'EMAHook', 'momentum': 0.3}]}


@pytest.mark.parametrize(('by', 'sampler'), [(BY_ITERATION, 'InfiniteSampler'), (BY_EPOCH, 'DefaultSampler')])
def test_train_val_train_on_one_runner(tmp_path, by, sampler):
    class Stop(Hook):
        def after_train_iter(self, runner, **_):
            runner.train_loop.stop_training = runner.iter == 7

    def trained(folder, *hooks):
        more = {**VALIDATION, 'val_evaluator': [Nothing()], 'custom_hooks': [*EMA['custom_hooks'], *hooks]}
        more['train_cfg'] = {**by, 'val_interval': 100}
        scaled = {'enable': True, 'base_batch_size': 1}
        runner = build(tmp_path / folder, sampler=sampler, auto_scale_lr=scaled, **more)
        runner.train()
        return runner

    whole = trained('whole')
    runner = trained('parts', Stop())
    assert runner.iter == 8
    assert runner.val() == {'nothing': 0}
    runner.train_loop.stop_training = False
    runner.train()
    assert runner.model.seen == whole.model.seen
    name = 'epoch_3.pth' if by['by_epoch'] else 'iter_12.pth'
    assert_same(tmp_path / 'parts' / name, tmp_path / 'whole' / name)


class Nothing:
    """An evaluator of nothing."""

    dataset_meta = None
    metrics = ()

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        return {'nothing': 0}


def test_validated_before_it_is_resumed(tmp_path):
    run(tmp_path / 'whole')
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    more = {**VALIDATION, 'val_evaluator': [Nothing()], 'train_cfg': {**BY_ITERATION, 'val_interval': 100}}
    runner = build(tmp_path / 'parts', resume=True, **more)
    runner.val()
    runner.train()
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')


def test_averaged_weights_are_resumed(tmp_path):
    whole = run(tmp_path / 'whole', **EMA)
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    assert run(tmp_path / 'parts', **EMA, resume=True) == whole[5:]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')
    found = state(tmp_path / 'whole/iter_12.pth')
    assert not torch.equal(found['state_dict']['linear.weight'], found['ema_state_dict']['module.linear.weight'])


def test_the_loss_scaler_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(runner_module, 'fit_to_machine', lambda wrapper, _: (wrapper, ''))
    monkeypatch.setattr(amp, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    # It doubles every three steps.
    mixed = {
        'type': 'AmpOptimWrapper',
        'loss_scale': {'init_scale': 4.0, 'growth_interval': 3},
        'dtype': 'bfloat16',
        'optimizer': {'type': 'SGD', 'lr': 1e-3},
    }
    whole = run(tmp_path / 'whole', optim_wrapper=mixed)
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    assert run(tmp_path / 'parts', optim_wrapper=mixed, resume=True) == whole[5:]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')
    assert state(tmp_path / 'parts/iter_12.pth')['optimizer']['loss_scaler']['scale'] == 4 * 2**4


@pytest.mark.skipif(torch.cuda.is_available(), reason='of CPUs')
def test_mixed_precision_of_a_cpu_is_resumed(tmp_path, monkeypatch):
    mixed = {'type': 'mmatm.CpuAmpOptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-3}}
    whole = run(tmp_path / 'whole', optim_wrapper=mixed)
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    assert run(tmp_path / 'parts', optim_wrapper=mixed, resume=True) == whole[5:]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')
    plain = run(tmp_path / 'plain', optim_wrapper={**mixed, 'type': 'OptimWrapper'})
    # MMEngine's becomes this one.
    monkeypatch.setattr(mixed_precision, 'computes_bfloat16', lambda: True)
    asked = {'type': 'AmpOptimWrapper', 'optimizer': {'type': torch.optim.AdamW, 'lr': 1e-3}, 'loss_scale': 'dynamic'}
    assert run(tmp_path / 'fitted', optim_wrapper=asked) == whole
    assert asked['type'] == 'AmpOptimWrapper'
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'called', 'iter_5.pth')
    called = build(tmp_path / 'called', optim_wrapper=asked)
    called.resume(str(tmp_path / 'called/iter_5.pth'))
    assert isinstance(called.optim_wrapper, mixed_precision.CpuAmpOptimWrapper)
    assert_same(tmp_path / 'fitted/iter_12.pth', tmp_path / 'whole/iter_12.pth')
    weights = [state(tmp_path / name / 'iter_12.pth')['state_dict']['linear.weight'] for name in ('plain', 'whole')]
    assert plain == whole
    assert not torch.equal(*weights), 'it computes in another precision'


SUMMED = {'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1e-3}, 'accumulative_counts': 2}}


def test_summed_gradients(tmp_path, capfd):
    whole = run(tmp_path / 'whole', **SUMMED, log_level='WARNING')
    assert 'checkpoints whose iteration is not a multiple of 2 cannot be resumed' in capfd.readouterr().out
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_6.pth')
    assert run(tmp_path / 'parts', **SUMMED, resume=True) == whole[6:]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    with pytest.raises(
        InputError, match=r'iter_5\.pth was saved after 5 iterations, while gradients were .* over 2 .*iter_12\.pth ins'
    ):
        run(tmp_path / 'parts', **SUMMED, resume=True)


def test_checkpoints_without_an_optimizer_are_not_resumed(tmp_path):
    run(tmp_path)
    whole = read_checkpoint(str(tmp_path / 'iter_4.pth'))
    for lacking in ('optimizer', 'param_schedulers'):
        torch.save({key: value for key, value in whole.items() if key != lacking}, tmp_path / 'best.pth')
        with pytest.raises(InputError, match=rf'best\.pth holds no {lacking}, .* Resume \S+iter_12\.pth instead'):
            run(tmp_path, resume=True, load_from=str(tmp_path / 'best.pth'))
    torch.save({**whole, 'param_schedulers': []}, tmp_path / 'best.pth')
    with pytest.raises(InputError, match='holds another number of schedulers than'):
        run(tmp_path, resume=True, load_from=str(tmp_path / 'best.pth'))
    torch.save({**whole, 'optimizer': {**whole['optimizer'], 'param_groups': []}}, tmp_path / 'best.pth')
    with pytest.raises(
        InputError, match=r'from a training with another optimizer: .*different number of parameter groups'
    ):
        run(tmp_path, resume=True, load_from=str(tmp_path / 'best.pth'))


def test_checkpoints_that_will_not_be_resumed_are_warned_of(tmp_path, capfd):
    run(tmp_path, checkpoint={'interval': 6, 'save_optimizer': False}, log_level='WARNING')
    assert 'the config saves checkpoints without optimizer or schedulers: they cannot' in capfd.readouterr().out
    with pytest.raises(InputError, match=r'iter_12\.pth holds no optimizer, .* Resume another one, or start'):
        run(tmp_path, resume=True)


@pytest.mark.parametrize('resume', ['auto', 'iter_12.pth', True])
def test_what_is_named_is_tested_whatever_is_to_be_resumed(tmp_path, resume):
    run(tmp_path)
    resume = str(tmp_path / resume) if resume == 'iter_12.pth' else resume
    more = {'val_evaluator': [Nothing()], **VALIDATION, 'train_cfg': {**BY_ITERATION, 'val_interval': 100}}
    runner = build(tmp_path, **more, resume=resume, load_from=str(tmp_path / 'iter_2.pth'))
    runner.val()
    assert exact(dict(runner.model.state_dict())) == exact(state(tmp_path / 'iter_2.pth')['state_dict'])


def test_weights_to_start_from_that_leave_a_part_random(tmp_path):
    torch.save({'state_dict': {'other.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r"other\.pth: none of these weights belongs to this .*\['other\.weight'\]"):
        run(tmp_path, load_from=str(tmp_path / 'other.pth'))
    torch.save({'state_dict': {'head.bias': torch.ones(2)}}, tmp_path / 'head.pth')
    init = {'type': 'Pretrained', 'checkpoint': 'absent.pth'}
    model = {'type': 'TwoParts', 'backbone': {'init_cfg': init}}
    MODELS.register_module('TwoParts', module=TwoParts, force=True)
    with pytest.raises(InputError, match=r'head\.pth: these weights hold none for backbone, which would stay random'):
        run(tmp_path, load_from=str(tmp_path / 'head.pth'), model=model)


class TwoParts(Toy):
    def __init__(self, backbone, data_preprocessor=None):
        super().__init__()
        self.backbone, self.head, self.linear = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)


def test_a_checkpoint_is_read_once_to_be_resumed(tmp_path, monkeypatch):
    run(tmp_path)
    reads, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda file, **more: reads.append(more.get('mmap')) or load(file, **more))
    run(tmp_path, {**BY_ITERATION, 'max_iters': 13}, resume=True, load_from=str(tmp_path / 'iter_12.pth'))
    assert reads == [None]


def test_a_checkpoint_is_read_once_to_be_tested(tmp_path, monkeypatch):
    """Its weights, and all that the result file says of it, come from one reading."""
    run(tmp_path)
    runner = build(tmp_path, val_evaluator=[Nothing()], **VALIDATION, load_from=str(tmp_path / 'iter_12.pth'))
    reads, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda file, **more: reads.append(file) or load(file, **more))
    runner.val()
    digest, meta = runner.tested
    assert digest == hashlib.sha256((tmp_path / 'iter_12.pth').read_bytes()).hexdigest()
    assert meta['iter'] == 12
    assert len(reads) == 1


def test_resuming_a_changed_training_is_noted(tmp_path, capfd):
    def train(iterations, lr, **more):
        loader = {'batch_size': 2, 'sampler': {'type': 'InfiniteSampler'}}
        cfg = {
            'model': {}, 'train_dataloader': loader, 'train_cfg': {'max_iters': iterations},
            'optim_wrapper': {'optimizer': {'lr': lr}}, 'param_scheduler': [],
        }  # fmt: skip
        run(tmp_path, {**BY_ITERATION, 'max_iters': iterations}, cfg=cfg, log_level='WARNING', **more)
        return read_meta(str(tmp_path / f'iter_{iterations}.pth'))['mmatm']

    first = train(2, 0.5)
    assert first['changed'] == {}
    assert (first['processes'], first['batch_size'], first['batches'], first['samples']) == (1, 2, 4, 8)
    second = train(3, 0.1, resume=True)
    assert second['training'] == first['training']
    assert second['changed'] == {'optim_wrapper.optimizer.lr': '0.5', 'train_cfg.max_iters': '2'}
    assert train(4, 0.1, resume=True)['changed'] == second['changed'] | {'train_cfg.max_iters': '2, then 3'}
    assert train(5, 0.1)['training'] != first['training']
    data = {'batch_size': 4, 'sampler': {'type': 'InfiniteSampler'}, 'dataset': Noise()}
    capfd.readouterr()
    train(6, 0.1, resume=True, train_dataloader=data)
    assert 'batch_size is 4 now and was 2 in ' in capfd.readouterr().out


def test_which_checkpoint_is_resumed(tmp_path):
    last_year = tmp_path / 'iter_160000.pth'
    run(tmp_path, checkpoint=100)
    saved = read_checkpoint(str(tmp_path / 'iter_12.pth'))
    torch.save({**saved, 'meta': {**saved['meta'], 'iter': 160000, 'time': '20251125_120000'}}, last_year)
    (tmp_path / 'last_checkpoint').write_text(str(last_year))
    assert latest_checkpoint(tmp_path) == str(last_year)

    # By epoch in a training that saves by iteration too: compared in iterations.
    hooks = {'custom_hooks': [{'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}]}
    run(tmp_path, BY_EPOCH, 'DefaultSampler', **hooks)
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth')

    def cut(name):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-100])

    for name, expected in (
        ('epoch_3.pth', 'iter_12.pth'),
        ('iter_12.pth', 'iter_9.pth'),
        ('iter_9.pth', 'epoch_2.pth'),
    ):
        cut(name)
        assert latest_checkpoint(tmp_path) == str(tmp_path / expected)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))  # whole: it counts
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'iter_3.pth')
    for path in [*tmp_path.glob('epoch_*.pth'), *tmp_path.glob('iter_?.pth')]:
        cut(path.name)
    assert checkpoint_to_resume('auto', None, tmp_path) == str(last_year)
    assert checkpoint_to_resume(True, 'a.pth', tmp_path) == checkpoint_to_resume('a.pth', None, tmp_path) == 'a.pth'
    assert checkpoint_to_resume(False, 'a.pth', tmp_path) is None


def test_a_training_that_saved_nothing_is_not_taken_for_the_one_before(tmp_path, capfd):
    run(tmp_path)
    run(tmp_path, checkpoint={'interval': 100, 'save_last': False})  # as if killed before its first checkpoint
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / 'iter_12.pth').rename(tmp_path / 'iter_160000.pth')
    assert len(run(tmp_path, resume=True, log_level='WARNING')) == 12
    assert f'{tmp_path}/iter_160000.pth is from an earlier training; to resume that one' in capfd.readouterr().out
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'iter_12.pth')


@pytest.mark.parametrize('resume', ['auto', False])
def test_weights_to_start_from_stay_if_nothing_is_resumed(tmp_path, resume):
    run(tmp_path / 'other')
    start_from = str(tmp_path / 'other/iter_12.pth')
    runner = build(tmp_path / 'new', {**BY_ITERATION, 'max_iters': 0}, resume=resume, load_from=start_from)
    runner.train()
    torch.testing.assert_close(dict(runner.model.state_dict()), state(start_from)['state_dict'], rtol=0, atol=0)


@pytest.mark.parametrize('way', ['val', 'resume'])
def test_only_what_is_tested_or_resumed_has_to_fill_the_model(tmp_path, way):
    run(tmp_path)
    whole = str(tmp_path / 'iter_12.pth')
    torch.save({'state_dict': {'linear.bias': torch.ones(2)}}, tmp_path / 'part.pth')
    more = {**VALIDATION, 'val_evaluator': [Nothing()], 'train_cfg': {**BY_ITERATION, 'val_interval': 100}}
    runner = build(tmp_path, **more, load_from=whole)
    runner.val() if way == 'val' else runner.resume(whole)
    runner.load_checkpoint(str(tmp_path / 'part.pth'))
    assert runner.model.linear.bias.tolist() == [1, 1]
    runner = build(tmp_path, **more, load_from=str(tmp_path / 'part.pth'))
    with pytest.raises(InputError, match='the weights do not fill the model'):
        runner.val()
    runner.load_checkpoint(str(tmp_path / 'part.pth'))


def train_in_two(folder, rank, port, **more):
    runner = build(folder, sampler='DefaultSampler', launcher='pytorch', checkpoint=1, **more)
    runner.train()
    print('seen', runner.model.module.seen)


def in_two(folder, **more):
    """What each of two processes saw of the data."""
    with free_port() as port:
        ranks = []
        for rank in '01':
            variables = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1'}
            function = partial(train_in_two, folder, rank, port, **more)
            ranks.append(start(function, folder.with_name(f'{folder.name}{rank}'), **variables, MASTER_PORT=f'{port}'))
        try:
            ended = [wait(process) for process in ranks]
        finally:
            for process in ranks:
                kill(process)
    printed = [folder.with_name(f'{folder.name}{rank}').read_text() for rank in '01']
    assert ended == [0, 0], printed
    return [eval(text.rpartition('seen ')[2]) for text in printed]


def test_two_processes_resume_as_if_not_interrupted(tmp_path):
    whole = in_two(tmp_path / 'whole')
    assert [len(seen) for seen in whole] == [12, 12]
    assert whole[0] != whole[1]
    copy_checkpoint(tmp_path / 'whole', tmp_path / 'parts', 'iter_5.pth')
    assert in_two(tmp_path / 'parts', resume=True) == [seen[5:] for seen in whole]
    assert_same(tmp_path / 'parts/iter_12.pth', tmp_path / 'whole/iter_12.pth')
