"""What a training survives: kills at any moment, the loss of one of its processes, a full disk."""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, write_config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner as MMEngineRunner
from test_runner import Noise, Toy
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import mmatm.engine.runner
from forked import LIMIT, free_port, kill, processes, run_tool, start, wait, wait_until
from mmatm.checkpoint import latest_checkpoint, read_checkpoint
from mmatm.config import load_config
from mmatm.engine.checkpoint_hook import CheckpointHook, explain_full_disk
from mmatm.engine.launch import describe
from mmatm.engine.runner import Runner
from mmatm.errors import InputError
from mmatm.utils.files import whole_file

KILLS = 10
ITERATIONS = 60
OPTIONS = [
    '--cfg-options', '+randomness.seed=3', f'train_cfg.max_iters={ITERATIONS}', 'train_cfg.val_interval=12',
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=2',
    'default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=3',
]  # fmt: skip


train = partial(run_tool, 'train.py')


def train_on_full_disk(limit: int, *arguments: object) -> None:
    """The same where the kernel refuses to write files above a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    train(*arguments)


def weights(path: object) -> dict:
    return read_checkpoint(str(path))['state_dict']


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder, and what else the saving of them could have left there."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in ('.pth', '.partial'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory, shapes):
    """An uninterrupted training, all of whose checkpoints are kept, and the seconds until its first one."""
    folder = tmp_path_factory.mktemp('whole')
    config = folder / 'config.py'
    load_config(str(write_config(folder, shapes))).dump(config)  # without the files it inherits, to be read fast
    wait(start(str, folder / 'warm_up'))  # for the imports
    begin = time.monotonic()
    process = start(train, folder / 'output', config, *OPTIONS, 'default_hooks.checkpoint.max_keep_ckpts=-1')
    wait_until(lambda: not process.is_alive() or (folder / 'work/iter_3.pth').exists(), 'the first checkpoint')
    seconds = time.monotonic() - begin
    exitcode = wait(process)
    printed = (folder / 'output').read_text()
    assert exitcode == 0, printed[-3000:]
    assert len(logged(printed)) == ITERATIONS
    return SimpleNamespace(config=config, folder=folder / 'work', seconds=seconds, logged=logged(printed))


def logged(printed: str) -> dict[int, tuple[str, str]]:
    """Learning rate and loss by iteration."""
    lines = re.findall(r'Iter\(train\) \[ *(\d+)/.*? lr: (\S+) .*? loss: (\S+) ', printed)
    return {int(number): (rate, loss) for number, rate, loss in lines}


def phase(printed: str, folder: Path) -> str:
    """What a killed training was doing."""
    lines = re.findall(r'Iter\((train|val)\) \[ *(\d+)/\d+\]|Saving checkpoint at (\d+)', printed)
    if not lines:
        return 'before the first iteration'
    done = max((int(number) for mode, number, _ in lines if mode == 'train'), default=0)
    saved = (folder / 'last_checkpoint').read_text() if (folder / 'last_checkpoint').exists() else ''
    if lines[-1][2] and (len(names(folder)) > 1 or not saved.endswith(f'iter_{done}.pth')):
        return 'writing'
    if done % 12 == 0 and 'mIoU' not in printed.rpartition('Saving checkpoint')[2]:
        return 'validation'
    return 'iterations'


def test_kills_at_random_moments(tmp_path, whole):
    seed = random.randrange(1000)
    print(f'seed {seed}')
    moments, phases = random.Random(seed), Counter()
    folder, newest, trainings = tmp_path / '1', 0, 1
    options = ['--resume', *OPTIONS, 'default_hooks.checkpoint.max_keep_ckpts=1']

    def check() -> int:
        path = latest_checkpoint(folder)
        if path is None:
            return 0
        torch.testing.assert_close(weights(path), weights(whole.folder / Path(path).name), rtol=0, atol=0)
        return read_checkpoint(path)['meta']['iter']

    while phases.total() < KILLS:
        process = start(train, tmp_path / 'output', whole.config, '--work-dir', folder, *options)
        process.join(moments.uniform(0, 2 * whole.seconds))
        kill(process)
        ended = process.exitcode == 0  # which it may have done just before the kill
        printed = (tmp_path / 'output').read_text() if (tmp_path / 'output').exists() else ''
        assert ended or process.exitcode == -signal.SIGKILL, printed[-3000:]
        assert logged(printed).items() <= whole.logged.items()
        newest, before = check(), newest
        assert newest >= before
        if ended:
            assert names(folder) == [f'iter_{ITERATIONS}.pth']
            trainings += 1
            folder, newest = tmp_path / str(trainings), 0
        else:
            assert len(list(folder.glob('iter_*.pth'))) <= 2
            phases[phase(printed, folder)] += 1
        (tmp_path / 'output').unlink(missing_ok=True)
    exitcode = wait(start(train, tmp_path / 'output', whole.config, '--work-dir', folder, *options))
    assert exitcode == 0, (tmp_path / 'output').read_text()[-3000:]
    assert check() == ITERATIONS
    assert names(folder) == [f'iter_{ITERATIONS}.pth']
    assert (folder / 'last_checkpoint').read_text() == str(folder / f'iter_{ITERATIONS}.pth')
    print(f'{trainings} trainings, last one {newest} iterations at its last kill; kills: {dict(phases)}')


class Validated(Toy):
    def forward(self, inputs: list, index: list, mode: str = 'tensor') -> dict | list:
        return super().forward(inputs, index) if mode == 'loss' else [{}] * len(inputs)


class Score(BaseMetric):
    """Better at every validation."""

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(None)

    def compute_metrics(self, results: list) -> dict[str, int]:
        return {'score': MessageHub.get_current_instance().get_info('iter')}


def train_toy(folder: Path, at: Callable[[], None] | None = None, number: int = 0, **hook: object) -> None:
    """Trains a toy, resuming it; validates and saves every two iterations.

    Args:
        folder: The work_dir.
        at: Is called before the number-th time that a checkpoint is opened for writing, renamed or removed.
        number: Counts from 1.
        hook: More arguments of the checkpoint hook.
    """
    written = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal written
        if event not in ('open', 'os.rename', 'os.remove') or isinstance(arguments[0], int):  # not one opened before
            return
        path = Path(os.fsdecode(arguments[0]))
        if path.parent.name != folder.name or path.suffix not in ('.pth', '.partial'):
            return
        reads = event == 'open' and arguments[1] in ('r', 'rb', None)
        if not reads and (event != 'os.remove' or path.exists()):
            written += 1
            if written == number:
                at()

    loader = {'batch_size': 2, 'sampler': {'type': 'InfiniteSampler', 'shuffle': True}, 'dataset': Noise()}
    runner = Runner(
        model=Validated(),
        work_dir=str(folder),
        train_cfg={'by_epoch': False, 'max_iters': 40, 'val_interval': 2},
        train_dataloader=loader,
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        val_cfg={},
        val_dataloader={'dataset': Noise(), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        val_evaluator={'type': Score},
        default_hooks={
            'checkpoint': {
                'type': 'CheckpointHook', 'by_epoch': False, 'interval': 2, 'save_best': 'score', 'rule': 'greater',
                **hook,
            },
        },
        randomness={'seed': 5},
        log_level='ERROR',
        resume=True,
    )  # fmt: skip
    mmatm.engine.runner.CurvesHook = Hook  # no curves, which take longer to draw than the rest
    sys.addaudithook(watch)
    try:
        runner.train()
    finally:  # room for what is printed
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """All checkpoints of an uninterrupted training of the toy."""
    folder = tmp_path_factory.mktemp('toy')
    exitcode = wait(start(train_toy, folder / 'output', folder / 'work'))
    assert exitcode == 0, (folder / 'output').read_text()
    return folder / 'work'


def check_toy(folder: Path, toy: Path) -> int:
    """Checks what there is of a training of the toy, and returns how many iterations."""
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    checkpoint = read_checkpoint(path)
    done = checkpoint['meta']['iter']
    torch.testing.assert_close(checkpoint['state_dict'], weights(toy / f'iter_{done}.pth'), rtol=0, atol=0)
    if best := checkpoint['message_hub']['runtime_info'].get('best_ckpt'):
        assert weights(best)
    if (folder / 'last_checkpoint').exists():
        assert weights((folder / 'last_checkpoint').read_text())
    assert len(list(folder.glob('iter_*.pth'))) <= 2
    return done


def end_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """From here on the kernel refuses to write more than 10 bytes to a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


def test_kill_at_every_step_of_saving(tmp_path, toy):
    folder, done = tmp_path / 'work', 0
    for step in itertools.chain([40], itertools.count(1)):  # after two savings at each step of one, until it ends
        exitcode = wait(start(partial(train_toy, max_keep_ckpts=1), tmp_path / 'output', folder, end_process, step))
        assert exitcode in (-signal.SIGKILL, 0), (tmp_path / 'output').read_text()[-3000:]
        done, before = check_toy(folder, toy), done
        assert done >= before
        if exitcode == 0:
            break
    assert step > 20
    assert done == 40
    left = {'best_score_iter_40.pth', 'iter_40.pth'}
    # A best checkpoint that was whole when a kill came before it was recorded stays.
    assert left <= {*names(folder)} <= left | {f'best_score_iter_{iteration}.pth' for iteration in range(40)}


def test_checkpoints_of_one_name_elsewhere(tmp_path, toy):
    """Each overwrites the last one, which must not count as outdated; --resume finds them by `last_checkpoint`."""
    folder, hook = tmp_path / 'work', {'filename_tmpl': 'last.pth', 'out_dir': f'{tmp_path}/elsewhere'}
    for step, expected in ((40, -signal.SIGKILL), (0, 0)):
        process = start(partial(train_toy, max_keep_ckpts=1, **hook), tmp_path / 'output', folder, end_process, step)
        assert wait(process) == expected, (tmp_path / 'output').read_text()[-3000:]
        assert latest_checkpoint(folder) == f'{tmp_path}/elsewhere/work/last.pth'
        done = check_toy(folder, toy)
    assert done == 40
    assert 'best_score_last.pth' in names(tmp_path / 'elsewhere/work')


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', MMEngineCheckpointHook])
def test_every_config_has_the_hook(tmp_path, kind):
    hook = {'type': kind, 'interval': 7, 'priority': 'LOW'}
    runner = Runner(Toy(), str(tmp_path), custom_hooks=[hook], experiment_name=f'{tmp_path.name}', log_level='ERROR')
    hooks = [hook for hook in runner.hooks if isinstance(hook, MMEngineCheckpointHook)]
    assert [type(hook) for hook in hooks] == [CheckpointHook] * 2  # MMEngine's default one, and this
    assert {(hook.interval, str(hook.priority)) for hook in hooks} == {(1, 'VERY_LOW'), (7, 'LOW')}


@pytest.mark.parametrize(
    ('step', 'left', 'newest'),
    [
        (1, [], None),
        (19, ['best_score_iter_2.pth', 'iter_2.pth'], 2),  # writing iter_4.pth
        (22, ['best_score_iter_2.pth', 'iter_2.pth', 'iter_4.pth'], 2),  # last_checkpoint
        (26, ['best_score_iter_2.pth', 'iter_4.pth'], 4),  # best_score_iter_4.pth
        (29, ['best_score_iter_2.pth', 'best_score_iter_4.pth', 'iter_4.pth'], 4),  # iter_4.pth, which names the best
    ],
)
def test_full_disk_while_saving(tmp_path, toy, step, left, newest):
    folder = tmp_path / 'work'
    exitcode = wait(start(partial(train_toy, max_keep_ckpts=1), tmp_path / 'output', folder, fill_disk, step))
    printed = (tmp_path / 'output').read_text()
    assert exitcode == 1, printed[-3000:]
    assert names(folder) == left
    assert check_toy(folder, toy) == (newest or 0)
    advice = (
        f'resume from {folder}/iter_{newest}.pth with --resume' if left else 'start again: there is no checkpoint yet'
    )
    assert f'could not write to {folder} any more (File too large). Make room there, then {advice}' in printed
    exitcode = wait(start(partial(train_toy, max_keep_ckpts=1), tmp_path / 'output', folder))
    assert exitcode == 0, (tmp_path / 'output').read_text()[-3000:]
    assert check_toy(folder, toy) == 40
    assert {'best_score_iter_40.pth', 'iter_40.pth'} <= {*names(folder)}


@pytest.mark.parametrize(
    ('error', 'free', 'message'),
    [
        (OSError(errno.ENOSPC, 'No space left', '{folder}/sub/log'), {}, 'the training could not write to {folder} '),
        (OSError(errno.ENOSPC, 'No space left', '/cache/maps'), {}, 'the training could not write /cache/maps '),
        (OSError(errno.ENOSPC, 'No space left', '{folder}er/log'), {}, 'the training could not write {folder}er/log '),
        (OSError(errno.ENOSPC, 'No space left'), {'{folder}': 0}, 'the training could not write to {folder} '),
        (OSError(errno.ENOSPC, 'No space left'), {'{temp}': 4096}, 'the training could not write to {temp} '),
        (
            OSError(errno.ENOSPC, 'No space left'),
            {'{temp}': 0, '{folder}': 0},
            'the training could not write to {folder} or {temp} ',
        ),
        (
            OSError(errno.EDQUOT, 'Quota exceeded'),
            {},
            'the training could not write any more (Quota exceeded); the system does not say which file. '
            'Free space: 2.0 GB in {folder}, 2.0 GB in {temp}',
        ),
    ],
)
def test_full_disk_is_the_work_dirs_only_if_it_is(tmp_path, monkeypatch, error, free, message):
    names = {'folder': f'{tmp_path}/work', 'temp': f'{tmp_path}/temp'}
    for name in names.values():
        Path(name).mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', names['temp'])
    free = {path.format(**names): size for path, size in free.items()}
    usage = SimpleNamespace(free=2 * 10**9)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free.get(str(path), usage.free)))
    if error.filename:
        error = type(error)(error.errno, error.strerror, error.filename.format(**names))
    with pytest.raises(InputError) as refusal, explain_full_disk(names['folder']):
        raise error
    assert str(refusal.value).startswith(message.format(**names))
    assert 'start again: there is no checkpoint yet' in str(refusal.value)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='Linux has a disk that is always full')
def test_files_that_have_their_name_when_whole_tell_it(tmp_path):
    def write():
        with whole_file(tmp_path / 'a.pth'):
            Path('/dev/full').write_text('0')

    with pytest.raises(OSError, match=r'No space left') as stop:
        write()
    assert stop.value.filename == f'{tmp_path}/a.pth'


def test_full_disk_is_one_message(tmp_path, whole):
    size = (whole.folder / 'iter_3.pth').stat().st_size
    options = [whole.config, '--work-dir', tmp_path / 'work', '--resume', *OPTIONS, 'train_cfg.max_iters=6']

    def outcome(function: Callable) -> tuple[int, str]:
        exitcode = wait(start(function, tmp_path / 'output', *options))
        return exitcode, (tmp_path / 'output').read_text()

    assert outcome(train)[0] == 0
    os.truncate(tmp_path / 'work/iter_6.pth', size // 3)  # as a kill leaves it that hits another runner
    exitcode, printed = outcome(partial(train_on_full_disk, size // 2))
    assert exitcode == 1
    assert printed.count('error: ') == 1
    assert f'resume from {tmp_path}/work/iter_3.pth with --resume' in printed.splitlines()[-1]
    assert 'Traceback' not in printed
    assert names(tmp_path / 'work') == ['iter_3.pth', 'iter_6.pth']
    assert outcome(train)[0] == 0
    got, expected = (weights(folder / 'iter_6.pth') for folder in (tmp_path / 'work', whole.folder))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='finds processes as Linux shows them')
def test_loss_of_a_process_ends_all_and_resumes(tmp_path, whole):
    folder = tmp_path / 'work'
    options = ['--work-dir', folder, '--resume', '--launcher', 'pytorch', *OPTIONS, 'train_cfg.val_interval=10000']
    command = [ROOT / 'tools/dist_train.sh', whole.config, 2, *options, 'train_cfg.max_iters=10000']
    with free_port() as port, (tmp_path / 'output').open('w') as output:
        environment = {**os.environ, 'PYTHON': sys.executable, 'PORT': f'{port}', 'OMP_NUM_THREADS': '1'}
        launcher = subprocess.Popen([*map(str, command)], stdout=output, stderr=output, env=environment)
        try:
            wait_until(lambda: launcher.poll() is not None or (folder / 'iter_3.pth').exists(), 'the first checkpoint')
            assert launcher.poll() is None, (tmp_path / 'output').read_text()[-3000:]
            os.kill(processes(str(folder), 'RANK=1')[0], signal.SIGKILL)  # the others are its data loader's
            assert launcher.wait(LIMIT) != 0
            last = (tmp_path / 'output').read_text().splitlines()[-1]
            wait_until(lambda: not processes(str(folder)), 'the end of all processes')
        finally:
            for pid in processes(str(folder)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            launcher.wait()
    assert last == 'process 1 was killed (SIGKILL), as the system does when memory runs out'

    done = read_checkpoint(latest_checkpoint(folder))['meta']['iter']
    options += [f'train_cfg.max_iters={done + 4}']
    with free_port() as port:
        ranks = [
            start(
                train, tmp_path / f'output{rank}', whole.config, *options,
                RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=f'{port}',
            )
            for rank in '01'
        ]  # fmt: skip
        try:
            ended = [wait(process) for process in ranks]
        finally:
            for process in ranks:
                kill(process)
    printed = (tmp_path / 'output0').read_text()
    assert ended == [0, 0], printed[-3000:]
    assert f'resumed epoch: 0, iter: {done}\n' in printed
    assert (folder / f'iter_{done + 4}.pth').exists()


def test_the_process_that_was_killed_is_named():
    ended = {rank: ProcessFailure(rank, 100 + rank, code, '') for rank, code in enumerate((1, -15, -9, -15))}
    assert describe(ChildFailedError('train.py', ended)).startswith('process 2 was killed (SIGKILL)')
    ended[2].timestamp += 1  # later than the others: not the cause
    assert describe(ChildFailedError('train.py', ended)) == 'process 0 ended with exit status 1'
    ended[0].timestamp += 1
    assert describe(ChildFailedError('train.py', ended)) == 'process 1 was ended by SIGTERM'


@pytest.mark.skipif(torch.cuda.is_available(), reason='MMEngine makes the process group then')
def test_waiting_for_a_process_that_hangs_has_the_limit_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend, timeout: asked.append(timeout))
    monkeypatch.setattr(MMEngineRunner, 'setup_env', lambda self, env_cfg: None)
    runner = Runner.__new__(Runner)
    runner._distributed, runner._launcher = True, 'pytorch'
    runner.setup_env({'dist_cfg': {'backend': 'nccl', 'timeout': 60}})
    runner.setup_env({})
    assert asked == [timedelta(seconds=60), None]
