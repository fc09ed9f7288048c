"""Makes a resumed training go on as if it had not been interrupted.

All randomness of an iteration follows from (seed, rank, iteration): the model's from a hook that seeds before each
iteration, the data's from a number that every drawn sample carries to its worker. Nothing has to be stored, and
samples that were trained on are skipped without being read.
"""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

_MODEL, _DATA = 0, 1


def seed_everything(*key: int) -> None:
    """Seeds Python, NumPy and PyTorch from whole numbers above -1; different keys give independent streams."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


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
        skip: Batches to leave out.
    """

    def __init__(self, batches: Any, seed: int, skip: int) -> None:
        self.sampler = batches.sampler
        self._batches = batches
        self._seed = seed
        self.skip = skip

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = getattr(self.sampler, 'epoch', 0)
        for number, batch in enumerate(self._batches):
            if self.skip:
                self.skip -= 1
                continue
            key = (_DATA, self._seed, get_rank(), epoch, number)
            yield [Draw(index, (*key, place)) for place, index in enumerate(batch)]


def _get_samples(dataset: Any, draws: list[Draw]) -> list:
    samples = []
    for draw in draws:
        seed_everything(*draw.key)
        samples.append(dataset[int(draw)])
    return samples


def number_batches(loader: DataLoader, seed: int, skip: int = 0) -> None:
    """Makes the randomness of a loader that has not started follow from the seed and each sample's number, in place.

    Args:
        loader: Loader of a map-style dataset.
        seed: The training's seed.
        skip: Batches that were trained on, to leave out without reading them.
    """
    # PyTorch guards this attribute of a loader, and asks a dataset for whole batches if it has __getitems__.
    object.__setattr__(loader, 'batch_sampler', NumberedBatches(loader.batch_sampler, seed, skip))
    loader.dataset.__getitems__ = partial(_get_samples, loader.dataset)


class ExactResumeHook(Hook):
    """Seeds every training iteration, and spares MMEngine from reading and dropping what was trained on."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        loop = runner.train_loop
        batches = loop.dataloader.batch_sampler
        if isinstance(loop, IterBasedTrainLoop) and isinstance(batches, NumberedBatches):
            # The forks' MMEngine calls `skip_iter`, upstream's takes and drops as many entries.
            done = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else loop.iter
            loop.dataloader_iterator = _Advanced(loop.dataloader_iterator, batches, done)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(_MODEL, runner.seed, get_rank(), runner.iter)


class _Advanced:
    """An iterator whose first `done` entries, that the sampler has skipped, are None."""

    def __init__(self, iterator: Iterator, batches: NumberedBatches, done: int) -> None:
        self._iterator = iterator
        self._batches = batches
        self._done = done

    def skip_iter(self, num_iters: int) -> None:
        """Does nothing: the sampler skips them."""

    def __next__(self) -> Any:
        if self._done:
            self._done -= 1
            return None
        while True:
            try:
                return next(self._iterator)
            except StopIteration:  # of an epoch that is skipped as a whole; finite samplers have epochs
                if not self._batches.skip:
                    raise
