"""Resumes a training as if it had not been interrupted.

All randomness of an iteration follows from (seed, rank, iteration): the model's from a hook that seeds before each
iteration, the data's from a key that every sample's index carries to its worker. Nothing has to be stored, and
samples that were trained on are skipped without being read.
"""

import itertools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from mmatm.checkpoint import load_safely, training_checkpoints
from mmatm.engine.recipe import differences, joined, read_text
from mmatm.errors import InputError

_MODEL, _DATA, _ORDER = 0, 1, 2


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and PyTorch from whole numbers above -1; different keys give independent streams."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_everything(*key)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


class Draw(int):
    """A sample's index that knows the key for the randomness of this drawing."""

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...]) -> 'Draw':
        draw = super().__new__(cls, index)
        draw.key = key
        return draw

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.key)


class NumberedBatches:
    """A batch sampler whose indices are `Draw`s, and that can begin later.

    Args:
        batches: The batch sampler to number.
        seed: The training's seed.

    Attributes:
        epoch: The epoch whose batches are returned.
        endless: Whether each pass is the next epoch, as loops by iterations need it; else `epoch` is set before it.
        skip: Batches to leave out; if endless, over as many epochs as needed.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.sampler = batches.sampler
        self.batch_size = getattr(batches, 'batch_size', None)
        self.epoch = 0
        self.endless = False
        self.skip = 0
        self._batches = batches
        self._seed = seed

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        while True:
            given, number = False, -1
            for number, batch in enumerate(self._ordered()):
                if self.skip:
                    self.skip -= 1
                    continue
                given = True
                key = (_DATA, self._seed, get_rank(), self.epoch, number)
                yield [Draw(index, (*key, place)) for place, index in enumerate(batch)]
            if not self.endless:
                return
            self.epoch += 1
            if given or number < 0:  # else the epoch was skipped as a whole
                return

    def _ordered(self) -> Iterator[list[int]]:
        """The batches of an epoch in their order, which follows from the seed and the epoch."""
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(self.epoch)
            yield from self._batches
            return
        # PyTorch's samplers draw an order from the global state, or from a generator of their own.
        key = (_ORDER, self._seed, self.epoch)
        if isinstance(generator := getattr(self.sampler, 'generator', None), torch.Generator):
            generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        batches = iter(self._batches)
        for number in itertools.count():
            with _seeded(*key, number):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _get_samples(dataset: Any, draws: list[int]) -> list:
    samples = []
    for draw in draws:
        if isinstance(draw, Draw):  # another loader of this dataset may give plain indices
            seed_everything(*draw.key)
        samples.append(dataset[int(draw)])
    return samples


def number_batches(loader: DataLoader, seed: int) -> None:
    """Makes the randomness of a loader follow from the seed and each sample's number, in place.

    Loaders that give no batches of a map-style dataset stay as they are.

    Args:
        loader: The loader.
        seed: The training's seed.
    """
    batches = loader.batch_sampler
    if batches is None or isinstance(loader.dataset, IterableDataset):
        return
    if isinstance(batches, NumberedBatches):  # for another training
        batches = batches._batches
    # PyTorch guards this attribute of a loader, and asks a dataset for whole batches if it has __getitems__.
    object.__setattr__(loader, 'batch_sampler', NumberedBatches(batches, seed))
    loader._iterator = None  # of workers that persist between epochs
    with suppress(AttributeError):  # a list, whose samples are what they are
        loader.dataset.__getitems__ = partial(_get_samples, loader.dataset)


def refuse_to_resume(path: str, checkpoint: dict, optim_wrapper: Any, schedulers: Any) -> None:
    """Checks that a training can resume from a checkpoint as if it had not been interrupted.

    Args:
        path: The checkpoint's file.
        checkpoint: What it holds.
        optim_wrapper: MMEngine's wrapper of the optimizer, or its config.
        schedulers: MMEngine's schedulers of a parameter, or their configs; a dict of them for several optimizers.

    Raises:
        InputError: It cannot, and why.
    """
    meta = checkpoint.get('meta') or {}
    if not {'epoch', 'iter', 'seed'} <= set(meta):
        raise InputError(
            f'{path} does not hold the state of a training, so it cannot be resumed; start from its weights with '
            'load_from'
        )
    absent = [name for name, needed in (('optimizer', True), ('param_schedulers', schedulers)) if needed and
              name not in checkpoint]  # fmt: skip
    if absent:
        raise InputError(
            f'{path} holds no {" and no ".join(absent)}, like best and published checkpoints, so it cannot be resumed. '
            f'Resume {_instead(path)}, or start from its weights with load_from'
        )
    saved, wanted = (_scheduler_counts(x) for x in (checkpoint.get('param_schedulers'), schedulers))
    if saved != wanted:
        raise InputError(
            f'{path} holds another number of schedulers than param_scheduler of the config; resume it with the config '
            'that it was trained with'
        )
    counts = gradients_summed(optim_wrapper)
    if meta['iter'] % counts:
        raise InputError(
            f'{path} was saved after {meta["iter"]} iterations, while gradients were accumulated over {counts} '
            f'(accumulative_counts), and does not hold those gradients. Resume {_instead(path, counts)}'
        )


def _scheduler_counts(schedulers: Any) -> dict[str, int]:
    """The number of schedulers of each optimizer."""
    by_optimizer = schedulers if isinstance(schedulers, dict) and 'type' not in schedulers else {'': schedulers}
    return {
        name: len(listed) if isinstance(listed, (list, tuple)) else listed is not None
        for name, listed in by_optimizer.items()
    }


def _instead(path: str, counts: int = 1) -> str:
    """The checkpoint beside another one to resume."""
    for iterations, other in training_checkpoints(str(Path(path).parent)):
        if other != path and iterations % counts == 0 and 'optimizer' in load_safely(other, 'cpu', mmap=True):
            return f'{other} instead'
    return 'another one'


class ExactResumeHook(Hook):
    """Seeds every training iteration, resumes the data where the training is, and records in checkpoints where."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._note = {'training': uuid4().hex, 'changed': {}}
        # Iterations of the epoch that a loop by epochs begins with, of a checkpoint within it.
        self._done_in_epoch = 0
        # The iteration that the epoch began with.
        self._began = 0

    def begin(self, loader: DataLoader, by_epoch: bool, cfg: Config, path: str | None, meta: dict | None) -> None:
        """Prepares for a training; called before its loop is built.

        Args:
            loader: The data loader of the training.
            by_epoch: Whether its loop counts epochs, not iterations.
            cfg: Its config.
            path: The checkpoint that is resumed.
            meta: What the checkpoint tells of the training; None if none is resumed.

        Raises:
            InputError: The data has another number of batches than the epoch that the checkpoint was saved in.
        """
        numbered = isinstance(loader.batch_sampler, NumberedBatches)
        before = (meta or {}).get('mmatm', {})
        self._note.update(
            processes=get_world_size(),
            batch_size=loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None),
            batches=len(loader) if hasattr(loader.dataset, '__len__') else None,
            samples=len(loader.dataset) if hasattr(loader.dataset, '__len__') else None,
            summed=gradients_summed(cfg.get('optim_wrapper') or {}),
        )
        if numbered:
            loader.batch_sampler.endless = not by_epoch
        if meta is None:
            return
        for key in ('processes', 'batch_size', 'samples'):
            if before.get(key) not in (None, self._note[key]):
                print_log(
                    f'{key} is {self._note[key]} now and was {before[key]} in {path}: the training resumes, but with '
                    'other batches than if it had not been interrupted',
                    'current',
                    logging.WARNING,
                )
        self._note['training'] = before.get('training', self._note['training'])
        self._note['changed'] = joined(before.get('changed', {}), _changed(meta, cfg))
        if not by_epoch:
            if numbered:
                loader.batch_sampler.skip = meta['iter']
            return
        batches = before.get('batches') or len(loader)
        self._done_in_epoch = before.get('done_in_epoch', _done_in_epoch(meta, batches))
        fits = numbered and batches == len(loader) and 0 < self._done_in_epoch <= batches
        if self._done_in_epoch and not fits:
            now = f'an epoch now has {len(loader)}' if numbered else 'this data loader cannot skip batches'
            raise InputError(
                f'{path} was saved within an epoch, after {self._done_in_epoch} of its {batches} batches, but {now}. '
                'Resume a checkpoint from the end of an epoch, or use the same batch size, number of processes and '
                'data as before'
            )

    def note(self, runner: Any, by_epoch: bool) -> dict[str, Any]:
        """What checkpoints record of the training beside what MMEngine writes into them.

        `training` identifies it, also after it was resumed; `changed` has the settings that differed before it was.
        `batches` are those of an epoch, `batch_size` is that of a process, `summed` are the iterations of a step.
        """
        return {**self._note, 'done_in_epoch': 0 if by_epoch else runner.iter + 1 - self._began}

    def before_train(self, runner: Any) -> None:
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop) and isinstance(loop.dataloader.batch_sampler, NumberedBatches):
            # The loop is about to drop as many entries as there were iterations.
            loop.dataloader_iterator = _Advanced(loop.dataloader_iterator, loop.iter)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.interval > 0:
                self._warn_of_checkpoints(hook, runner)

    def _warn_of_checkpoints(self, hook: CheckpointHook, runner: Any) -> None:
        """Warns at the start of checkpoints that it will not be possible to resume."""
        if not hook.save_optimizer or (runner.param_schedulers and not hook.save_param_scheduler):
            print_log(
                'the config saves checkpoints without optimizer or schedulers: they cannot be resumed',
                'current',
                logging.WARNING,
            )
        counts = gradients_summed(runner.optim_wrapper)
        interval = hook.interval * (len(runner.train_dataloader) if counts > 1 and hook.by_epoch else 1)
        if interval % counts:
            print_log(
                f'gradients are accumulated over {counts} iterations, but a checkpoint is saved every {interval}: '
                f'checkpoints whose iteration is not a multiple of {counts} cannot be resumed',
                'current',
                logging.WARNING,
            )

    def before_train_epoch(self, runner: Any) -> None:
        loop = runner.train_loop
        batches = loop.dataloader.batch_sampler
        if isinstance(loop, IterBasedTrainLoop) or not isinstance(batches, NumberedBatches):
            return
        batches.epoch = loop.epoch
        done, self._done_in_epoch = self._done_in_epoch, 0
        self._began = loop.iter - done
        if done:
            batches.skip = done
            run_iter = loop.run_iter  # whose first argument counts from the epoch's first batch
            loop.run_iter = lambda index, data_batch: run_iter(index + done, data_batch)

    def after_train_epoch(self, runner: Any) -> None:
        vars(runner.train_loop).pop('run_iter', None)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(_MODEL, runner.seed, get_rank(), runner.iter)


def gradients_summed(optim_wrapper: Any) -> int:
    """Iterations between two steps of an optimizer, given as MMEngine's wrapper or its config."""
    if isinstance(optim_wrapper, dict):
        return optim_wrapper.get('accumulative_counts', 1)
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def _done_in_epoch(meta: dict, batches: int) -> int:
    """The same for checkpoints that do not record it, if all epochs before had as many batches."""
    epoch, iterations = meta['epoch'], meta['iter']
    return 0 if epoch and iterations % epoch == 0 else iterations - epoch * batches


def _changed(meta: dict, cfg: Config) -> dict[str, str]:
    """The settings that were others in the training that a checkpoint is from."""
    try:
        return differences(read_text(meta['cfg']), read_text(cfg.pretty_text))
    except (KeyError, ValueError):
        return {'settings': 'not known before it was resumed'}


class _Advanced:
    """An iterator whose first entries MMEngine drops: they are None here, as the sampler skips the batches itself."""

    def __init__(self, iterator: Any, done: int) -> None:
        self._iterator = iterator._iterator if isinstance(iterator, _Advanced) else iterator
        # The forks' MMEngine calls `skip_iter`, upstream's takes the entries.
        self._to_drop = 0 if hasattr(self._iterator, 'skip_iter') else done

    def skip_iter(self, num_iters: int) -> None:
        """Does nothing: the sampler skips them."""

    def __next__(self) -> Any:
        if self._to_drop:
            self._to_drop -= 1
            return None
        return next(self._iterator)
