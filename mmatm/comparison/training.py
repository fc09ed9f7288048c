"""Trains a small segmentor with each token mixer, all by one recipe, each in a process of its own.

A training that was interrupted goes on from its last checkpoint, one that is done is not repeated: the files in the
work_dir are all that is known of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmatm.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = {data: ROOT / f'configs/metaformer/upernet_metaformer_mini_{data}.py' for data in ('shapes', 'streets')}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: ``'shapes'``, ``'streets'``, or a directory in ADE20K's layout with `classes.txt`, a name on each line.
        mixer: Name of a token mixer.
        seed: Of the weights and of the order of the images.
        budget: Iterations.
        work_dirs: Directory for the work_dirs of all trainings.
        imports: Modules that register token mixers.
    """

    data: str
    mixer: str
    seed: int
    budget: int
    work_dirs: Path
    imports: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The work_dir."""
        return self.work_dirs / f'{Path(self.data).name}_{self.budget}' / self.mixer / f'seed{self.seed}'

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
        metrics = json.loads(path.read_text()) if path.is_file() else {}
        return metrics.get(str(self.budget), {}).get('mIoU') if self.checkpoint.is_file() else None

    def write_config(self) -> None:
        """Writes the config: the file in configs/ with mixer, seed and schedule.

        Raises:
            InputError: The directory with the data has no classes.
        """
        warm_up = max(1, self.budget // 20)
        entries: dict[str, Any] = dict(
            _base_=str(CONFIGS.get(self.data, CONFIGS['streets'])),
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
        if self.data not in CONFIGS:
            classes = _read_classes(Path(self.data))
            dataset = dict(data_root=str(Path(self.data).resolve()), metainfo=dict(classes=classes))
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
                entries[loader] = dict(dataset=dataset)
            for head in ('decode_head', 'auxiliary_head'):
                entries['model'][head] = dict(num_classes=len(classes))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(''.join(f'{key} = {value!r}\n' for key, value in entries.items()))


def _read_classes(folder: Path) -> list[str]:
    path = folder / 'classes.txt'
    if not path.is_file():
        raise InputError(
            f'{folder} needs images/ and annotations/ in the layout of ADE20K, and classes.txt with the name of a '
            f'class on each line, but there is no {path}'
        )
    return path.read_text().splitlines()


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
        run.write_config()
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        under_way = [pool.submit(_train, run, threads) for run in runs]
        for future in as_completed(under_way):
            try:
                future.result()
            except InputError:
                for other in under_way:
                    other.cancel()
                raise
            done(1)


def _train(run: Run, threads: int) -> None:
    log = run.folder / 'output.txt'
    paths = os.pathsep.join(filter(None, (str(ROOT), os.getcwd(), os.environ.get('PYTHONPATH', ''))))
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(run.config), '--work-dir', str(run.folder), '--resume']
    with log.open('a') as output:
        process = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONPATH': paths},
            check=False,
        )
    if process.returncode or run.result() is None:
        lines: Sequence[str] = log.read_text().splitlines() or ['no output']
        raise InputError(f'training {run.mixer} with seed {run.seed} failed, see {log}: {lines[-1]}')
