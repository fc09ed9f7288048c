"""Saves checkpoints such that one is always whole: a new one is written first, then the outdated one removed."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from mmatm.checkpoint import latest_checkpoint
from mmatm.errors import InputError
from mmatm.utils.files import NO_ROOM, whole_file

# A disk with less room than that, in bytes, is full.
_FULL = 2**20


@contextmanager
def explain_full_disk(folder: str) -> Iterator[None]:
    """Where a full disk ends a training, says which disk it was and which checkpoint in the work_dir to resume.

    Raises:
        InputError: In place of an `OSError` of a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        newest = latest_checkpoint(folder)
        raise InputError(
            f'{_refused(error, folder)}. Make room there, then '
            + (f'resume from {newest} with --resume' if newest else 'start again: there is no checkpoint yet')
        ) from None


def _refused(error: OSError, folder: str) -> str:
    """What could not be written, as far as that is known: many errors name no file, and the disk may be any."""
    words = f'any more ({error.strerror})'
    if isinstance(error.filename, str):
        inside = Path(error.filename).absolute().is_relative_to(Path(folder).absolute())
        return f'the training could not write {f"to {folder}" if inside else error.filename} {words}'
    # Beside the work_dir, the one for temporary files and the memory through which data loaders hand on samples.
    places = [place for place in dict.fromkeys((folder, tempfile.gettempdir(), '/dev/shm')) if Path(place).is_dir()]
    free = {place: shutil.disk_usage(place).free for place in places}
    if full := [place for place in places if free[place] < _FULL]:
        return f'the training could not write to {" or ".join(full)} {words}'
    rooms = ', '.join(f'{size / 1e9:.1f} GB in {place}' for place, size in free.items())
    return f'the training could not write {words}; the system does not say which file. Free space: {rooms}'


class CheckpointHook(MMEngineCheckpointHook):
    """`mmengine.hooks.CheckpointHook`, with its arguments, that removes a checkpoint only after it wrote the next.

    The disk needs room for one checkpoint more than are kept.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.filename_tmpl.format(0) == self.filename_tmpl.format(1):
            self.max_keep_ckpts = -1  # all have one name: the next overwrites the last

    def before_train(self, runner: Any) -> None:
        """As in MMEngine; then removes outdated checkpoints that an interrupted training had no time to remove."""
        limit = self.max_keep_ckpts
        if limit > 0:
            self.max_keep_ckpts = sys.maxsize  # for a while there is one more, and MMEngine is not to remove it here
        super().before_train(runner)
        self.max_keep_ckpts = limit
        if runner.iter == 0 and is_main_process():
            with whole_file(Path(runner.work_dir) / 'last_checkpoint') as path:
                path.write_text('')  # checkpoints in the folder are from other trainings
        resumed = runner.message_hub.get_info('last_ckpt', None)
        if resumed and self.file_backend.isfile(resumed):
            self.last_ckpt = resumed
            self._forget_outdated(runner)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._forget_outdated(runner)

    def _forget_outdated(self, runner: Any) -> None:
        if is_main_process():
            with whole_file(Path(runner.work_dir) / 'last_checkpoint') as path:
                path.write_text(self.last_ckpt)
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        backend = self.file_backend
        self.file_backend = hiding = _HidingBackend(backend)
        super()._save_best_checkpoint(runner, metrics)
        self.file_backend = backend
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        for path in hiding.hidden:
            if path not in best:
                self._remove(path)

    def _remove(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)


class _HidingBackend:
    """A file backend that reports no file as existing, and keeps the paths that it was asked for."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.hidden: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def isfile(self, path: str) -> bool:
        self.hidden.append(path)
        return False
