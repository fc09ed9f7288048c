"""Trains a small segmentor with each token mixer, all by one recipe, each in a process of its own.

A training that was interrupted goes on from its last checkpoint, one that is done is not repeated: the files in the
work_dir are all that is known of it. Several calls at once do no harm: a training that another is at is waited for.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmatm.checkpoint import read_meta
from mmatm.engine.mixed_precision import precision_of
from mmatm.engine.recipe import read_text
from mmatm.errors import InputError
from mmatm.utils.environment import environment
from mmatm.utils.files import alone

from .processes import ROOT, run_all, run_tool

DATA = ('shapes', 'streets')
SIZES = ('mini', 's12')


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: ``'shapes'``, ``'streets'``, or a directory in ADE20K's layout with `classes.txt`, a name on each line.
        mixer: Name of a token mixer.
        seed: Of the weights and of the order of the images.
        budget: Iterations.
        size: ``'mini'``, or ``'s12'`` for street scenes at their full size.
        work_dirs: Directory for the work_dirs of all trainings.
        imports: Modules that register token mixers.
    """

    data: str
    mixer: str
    seed: int
    budget: int
    size: str
    work_dirs: Path
    imports: tuple[str, ...] = ()

    @property
    def comparison(self) -> str:
        """A name of what is to be compared with each other."""
        name = self.data
        if name not in DATA:  # two directories may have one name
            path = Path(self.data).resolve()
            name = f'{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}'
        return f'{name}_{self.size}_{self.budget}'

    @property
    def folder(self) -> Path:
        """The work_dir."""
        return self.work_dirs / self.comparison / self.mixer / f'seed{self.seed}'

    @property
    def recipe(self) -> Path:
        """The config in configs/ that it is trained by."""
        data = self.data if self.data in DATA else 'streets'
        return ROOT / f'configs/metaformer/upernet_metaformer_{self.size}_{data}.py'

    @property
    def config(self) -> Path:
        return self.folder / 'config.py'

    @property
    def checkpoint(self) -> Path:
        """That of the last iteration."""
        return self.folder / f'iter_{self.budget}.pth'

    def result(self) -> float | None:
        """mIoU in percent after the last iteration; None if it is not done."""
        path = self.folder / 'curves.json'
        metrics = json.loads(path.read_text()).get(str(self.budget), {}) if path.is_file() else {}
        path = self.folder / f'result_{self.checkpoint.stem}.json'  # of tools/test.py
        if not metrics and path.is_file():
            metrics = json.loads(path.read_text())['metrics']
        return metrics.get('mIoU')

    def forget(self) -> None:
        """Removes the work_dir, as soon as no other call trains in it."""
        if self.folder.exists():
            with alone(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)

    def where(self) -> dict[str, Any]:
        """What it was trained with and on."""
        path = self.folder / 'environment.json'
        return json.loads(path.read_text()) if path.is_file() else {}

    def note(self, where: dict[str, Any]) -> None:
        """Writes what `where` reads."""
        (self.folder / 'environment.json').write_text(json.dumps(where))

    def write_config(self) -> None:
        """Writes the config.

        Raises:
            InputError: As `settings` does.
        """
        settings = self.settings()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(''.join(f'{key} = {value!r}\n' for key, value in settings.items()))

    def settings(self) -> dict[str, Any]:
        """What the config says: the file in configs/ with mixer, seed and schedule.

        Raises:
            InputError: There is no recipe for this size and data, or the directory with the data has no classes.
        """
        if not self.recipe.is_file():
            raise InputError(f'there is no recipe for size {self.size} on {self.data}: {self.recipe.name} is not there')
        warm_up = max(1, self.budget // 20)
        entries: dict[str, Any] = dict(
            _base_=str(self.recipe),
            model=dict(backbone=dict(token_mixer=self.mixer)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
                dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=warm_up, end=self.budget),
            ],
            train_cfg=dict(max_iters=self.budget, val_interval=self.budget),
            default_hooks=dict(checkpoint=dict(interval=max(1, self.budget // 4), max_keep_ckpts=1)),
            randomness=dict(seed=self.seed),
        )
        if self.imports:
            entries['custom_imports'] = dict(imports=list(self.imports), allow_failed_imports=False)
        if self.data not in DATA:
            classes = _read_classes(Path(self.data))
            dataset = dict(data_root=str(Path(self.data).resolve()), metainfo=dict(classes=classes))
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
                entries[loader] = dict(dataset=dataset)
            for head in ('decode_head', 'auxiliary_head'):
                entries['model'][head] = dict(num_classes=len(classes))
        return entries


def device() -> str:
    """What MMEngine trains on here."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def _read_classes(folder: Path) -> list[str]:
    path = folder / 'classes.txt'
    if not path.is_file():
        raise InputError(
            f'{folder} needs images/ and annotations/ in the layout of ADE20K, and classes.txt with the name of a '
            f'class on each line, but there is no {path}'
        )
    classes = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if len(classes) < 2:
        raise InputError(f'{path} must name two classes or more, one on each line')
    return classes


def train_all(runs: Iterable[Run], jobs: int, done: Callable[[int], None]) -> None:
    """Trains what is not trained yet.

    Args:
        runs: The trainings.
        jobs: How many are trained at once; they share the machine's cores.
        done: Called with 1 after each.

    Raises:
        InputError: A training failed; those under way are finished before.
    """
    runs = [run for run in runs if run.result() is None]
    for run in runs:
        run.settings()  # refuses what cannot be trained before anything is
    run_all([partial(_train_alone, run) for run in runs], jobs, done)


def _train_alone(run: Run, threads: int) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with alone(run.folder):
        if run.result() is None:  # another call may have trained it meanwhile
            run.write_config()
            _train(run, threads)


def _train(run: Run, threads: int) -> None:
    log = run.folder / 'output.txt'
    work_dir = ['--work-dir', str(run.folder)]
    if not run.checkpoint.is_file():
        run.note({**environment(device()), 'threads': threads})
        run_tool(log, threads, 'train.py', str(run.config), *work_dir, '--resume')
    wrapper = read_text(read_meta(str(run.checkpoint))['cfg'])['optim_wrapper']
    run.note({**run.where(), 'precision': precision_of(wrapper)})
    if run.result() is None:  # stopped during the validation, which follows the last checkpoint
        run_tool(log, threads, 'test.py', str(run.config), str(run.checkpoint), *work_dir)
    if run.result() is None:
        raise InputError(f'training {run.mixer} with seed {run.seed} left no result, see {log}')
