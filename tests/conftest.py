"""Shared by the tests: a small dataset of shapes, a small config on it, and the commands of tools/."""

import contextlib
import functools
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Where there is no GPU, its kernels run in Triton's interpreter. Triton looks at this when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

from mmengine.utils import ManagerMixin

import quick  # noqa: F401
from forked import LIMIT, ROOT, run_tool, start, wait
from mmatm.apis.inference import load_model
from mmatm.config import load_config
from mmatm.datasets.shapes import write_shapes

SEGMENTOR = """
_base_ = '{root}/configs/upernet_atmnet_mini_shapes.py'
channels = [8, 16, 16, 24]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(
            depths=[2, 2, 2, 2],
            channels=channels,
            mlp_ratios=[2, 2, 2, 2],
            channels_per_offset=[2, 4, 4, 8],
        ),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=channels, channels=16, dropout_ratio=0.1),
    auxiliary_head=dict(in_channels=16, channels=8),
)
train_dataloader = dict(batch_size=4, dataset=dict(data_root='{data}/ade'))
val_dataloader = dict(dataset=dict(data_root='{data}/ade'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=6, val_interval=6)
default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=2))
work_dir = '{work_dir}'
"""

DETECTOR = """
_base_ = '{root}/configs/mask_rcnn_atmnet_mini_shapes.py'
model = dict(backbone=dict(arch=dict(depths=[2, 2, 2, 2], channels=[8, 16, 16, 24], mlp_ratios=[2, 2, 2, 2])),
             neck=dict(in_channels=[8, 16, 16, 24]))
dataset = dict(data_root='{data}/coco/')
train_dataloader = dict(batch_size=4, dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
work_dir = '{work_dir}'
"""

CLASSIFIER = """
_base_ = '{root}/configs/atmnet_mini_shapes.py'
model = dict(backbone=dict(arch=dict(depths=[2, 2, 2, 2], channels=[8, 16, 16, 24], mlp_ratios=[2, 2, 2, 2])),
             head=dict(in_channels=24))
train_dataloader = dict(dataset=dict(data_root='{data}/imagenet'))
val_dataloader = dict(dataset=dict(data_root='{data}/imagenet'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
work_dir = '{work_dir}'
"""


def forget() -> None:
    """MMEngine keeps loggers, scopes and more by their names: a name of a second is given twice within it."""
    kinds = [ManagerMixin]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind._instance_dict.clear()


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    forget()


@pytest.fixture(scope='session', autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory):
    """For what is noted of data that was checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(tmp_path_factory.mktemp('torch')))
        yield


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(folder, count=24, size=64)
    return folder


def write_config(folder: Path, shapes: Path, text: str = SEGMENTOR) -> Path:
    path = folder / 'mini.py'
    path.write_text(text.format(root=ROOT, data=shapes, work_dir=folder / 'work'))
    return path


def write_weights(config: Path) -> Path:
    """Draws weights for a config's model and saves them beside it."""
    path = config.with_suffix('.pth')
    torch.save({'state_dict': load_model(load_config(str(config)), None).state_dict()}, path)
    return path


@pytest.fixture
def config(tmp_path: Path, shapes: Path) -> Path:
    """A config that trains in seconds; its work_dir is tmp_path / 'work'."""
    return write_config(tmp_path, shapes)


@pytest.fixture(scope='session')
def tool(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a command of tools/ in a process of its own and returns what it printed.

    Python's are forked from a process that has imported all they need, unless `fresh`.
    """
    folder = tmp_path_factory.mktemp('tool')

    def run(name: str, *arguments: object, fails: bool = False, fresh: bool = False, **environment: str) -> str:
        if fresh or name.endswith('.sh'):
            code, printed = run_apart(name, arguments, environment)
        else:
            code = wait(start(run_tool, folder / 'output', name, *map(str, arguments), **environment))
            printed = (folder / 'output').read_text()
        assert (code != 0) == fails, printed
        return printed

    return run


def run_apart(name: str, arguments: tuple, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status of a command as a user runs it, and what it printed."""
    interpreter = [] if name.endswith('.sh') else [sys.executable]
    process = subprocess.Popen(
        [*interpreter, str(ROOT / 'tools' / name), *map(str, arguments)],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    finally:
        with contextlib.suppress(ProcessLookupError):  # there may be more in its session than itself
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, printed


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs a command of tools/ in this process, which saves the imports, and returns what it printed."""

    def run(name: str, *arguments: object) -> str:
        forget()
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def error_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command of tools/ that must end with one message, and returns the message."""

    def run(name: str, *arguments: object) -> str:
        forget()
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        assert isinstance(stop.value.code, str), 'a message makes the exit status 1'
        return stop.value.code

    return run


@pytest.fixture
def compile_model():
    """`torch.compile` into one graph, forgetting what earlier tests compiled: PyTorch limits how often it does."""
    torch.compiler.reset()
    return functools.partial(torch.compile, fullgraph=True)


@pytest.fixture
def forget_mixers() -> Iterator[None]:
    """Token mixers that a test registers are forgotten after it."""
    from mmatm.comparison.costs import known_mixers
    from mmatm.registry import TOKEN_MIXERS

    known = set(known_mixers())
    yield
    for name in set(known_mixers()) - known:
        TOKEN_MIXERS.module_dict.pop(name)
