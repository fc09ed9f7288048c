"""Reads checkpoints, without trusting them: this project's, the toolboxes' and those of the backbones' authors."""

import argparse
import codecs
import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer, MMLogger, print_log
from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.utils.download import cached, is_address


def _statistic(owner: type, name: str) -> Callable:
    """What MMEngine's log buffers need of `getattr` when they are read: their own four statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {owner!r} and {name!r}')
    return getattr(HistoryBuffer, name)


# How many names a message shows of each kind; all could be hundreds.
_SHOWN = 3

# What MMEngine puts into its checkpoints beside tensors, and the authors' scripts into theirs. torch.load refuses
# everything else, and runs none of it. numpy < 2 wrote the same functions under another module's name.
_multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
_ALLOWED = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    codecs.encode,
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ('?', 'i4', 'i8', 'u1', 'f2', 'f4', 'f8')},
    *[
        (getattr(_multiarray, name), f'{package}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for package in ('numpy.core', 'numpy._core')
    ],
]  # fmt: skip
# For all of the process: the toolboxes' own inferencers could not read MMEngine's checkpoints without it.
torch.serialization.add_safe_globals(_ALLOWED)


def load_safely(file: Any, map_location: Any = None, mmap: bool | None = None) -> Any:
    """`torch.load` for plain values, tensors and what is allowed here, whatever others have done to PyTorch's list.

    Raises:
        pickle.UnpicklingError: The file holds something else. None of it was run.
    """
    known = torch.serialization.get_safe_globals()
    # What was allowed before stays allowed at the end of the block.
    with torch.serialization.safe_globals([entry for entry in _ALLOWED if entry not in known]):
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)


# The forks' MMEngine reads a file again with all it holds, code too, if it was refused; and takes what it allowed
# itself from PyTorch's list after each file.
if hasattr(mmengine.runner.checkpoint, '_safe_torch_load'):
    mmengine.runner.checkpoint._safe_torch_load = load_safely

# Where checkpoints have their weights: the averaged ones of the authors' and of timm's scripts, then the others.
# MMEngine swaps them when saving, so that `state_dict` are the averaged ones.
CONTAINERS = 'model_ema', 'state_dict_ema', 'state_dict', 'model'


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """Yields the local file of a checkpoint, which is there until the end of the block; paths as in `read_checkpoint`.

    Raises:
        InputError: It cannot be fetched, or what comes is no checkpoint.
    """
    if is_address(path):
        yield str(cached(path, check=lambda file: read_checkpoint(str(file))))
    else:
        with get_local_path(path) as local_path:
            yield local_path


def read_checkpoint(
    path: str, map_location: Any = 'cpu', digest: bool = False, containers: Sequence[str] = CONTAINERS
) -> dict:
    """Reads a checkpoint and puts its weights, the averaged (EMA) ones if there are any, under `state_dict`.

    Args:
        path: A local path; an http address, fetched into torch's cache once; or what MMEngine's file backends read.
        map_location: As `torch.load` takes it.
        digest: Whether to return the file's SHA-256 too.
        containers: Where in the file the weights are, by key: the first that is there.

    Returns:
        The file's dict with `state_dict`, and with `sha256` if asked, without the other containers of weights.

    Raises:
        InputError: The file is missing, cut short, no checkpoint, or holds code; it cannot be fetched.
    """
    try:
        with local_file(path) as local_path, Path(local_path).open('rb') as file:
            sha256 = _sha256(file) if digest else None
            checkpoint = load_safely(file, map_location)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f'there is no checkpoint {path}') from None
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if unsafe := re.search(r'GLOBAL (\S+)', str(error)):
            raise InputError(
                f'{path} holds more than weights ({unsafe[1]}), or is cut short. It could run code when loaded, so it '
                'was not loaded. Ask its author for a file with tensors and plain values only'
            ) from None
        raise InputError(f'{path} is damaged or was not written by torch.save; it was not loaded') from None
    except Exception as error:  # damaged bytes make the unpickler stumble in any way
        reason = f'{type(error).__name__} {error}'.partition('\n')[0]
        raise InputError(f'{path} is cut short or not a PyTorch checkpoint ({reason})') from None
    if not isinstance(checkpoint, dict):
        raise InputError(f'{path} holds a {type(checkpoint).__name__}, not a dict of weights')

    found = [key for key in (*containers, *CONTAINERS) if isinstance(checkpoint.get(key), Mapping)]
    if not found:
        checkpoint, found = {'weights': checkpoint}, ['weights']
    weights = {name.removeprefix('module.'): w for name, w in checkpoint[found[0]].items()}
    if not any(isinstance(weight, Tensor) for weight in weights.values()):
        raise InputError(f'{path} holds no weights')
    rest = {key: value for key, value in checkpoint.items() if key not in found}
    return {**rest, 'state_dict': weights, **({'sha256': sha256} if digest else {})}


def _sha256(file: BinaryIO) -> str:
    found = hashlib.sha256()
    while block := file.read(1 << 22):
        found.update(block)
    file.seek(0)
    return found.hexdigest()


def fill_model(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights that have to fill a model; a warning names those that it does not use.

    Raises:
        InputError: Names parameters that are missing or of another shape, the first of them.
    """
    try:
        with own_names_shown(weights):
            keys = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes, a line each
        shown = brief({'the weights belong to another model than that of the config': str(error).splitlines()[1:]})
        raise InputError(shown) from None
    missing = [name for name in keys.missing_keys if not name.endswith('num_batches_tracked')]
    if missing:
        raise InputError(f'the weights do not fill the model; {brief({"missing": missing})}')
    if keys.unexpected_keys:
        unused = ', '.join(keys.unexpected_keys)
        print_log(f'weights that this model does not use: {unused}', 'current', logging.WARNING)


class ForeignWeightsError(InputError):
    """Weights of which a backbone can use none.

    Attributes:
        title: The backbone's.
    """

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(title, reason)  # which other processes build it from
        self.title = title

    def __str__(self) -> str:
        return 'these are not weights of {}; {}'.format(*self.args)


@contextmanager
def own_names_shown(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Makes the refusal of another network's weights show the names that they had before anything renamed them."""
    try:
        yield
    except ForeignWeightsError as error:
        raise ForeignWeightsError(error.title, f'their names are like {first_names(list(weights))}') from None


def first_names(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(name.strip() for name in names[:_SHOWN]) + more


def brief(names: Mapping[str, Sequence[str]]) -> str:
    """The first names of each kind, in a line; all of them go into the log file of a training or test, if there is one.

    Args:
        names: By what they are, as 'missing'.
    """
    line = '; '.join(f'{kind}: {first_names(found)}' for kind, found in names.items())
    files = [h for h in MMLogger.get_current_instance().handlers if isinstance(h, logging.FileHandler)]
    if not files or all(len(found) <= _SHOWN for found in names.values()):
        return line
    whole = '\n'.join(f'{kind}: {", ".join(name.strip() for name in found)}' for kind, found in names.items())
    for file in files:
        file.handle(logging.LogRecord('mmengine', logging.INFO, __file__, 0, whole, None, None))
    return f'{line}; all names are in {files[0].baseFilename}'


def latest_checkpoint(folder: str) -> str | None:
    """The newest whole checkpoint of the training in a folder, or None if it has none yet.

    That is the one that `last_checkpoint` names; if this file is empty, the training has saved nothing yet. If
    the named one is cut short or gone, it is the one with the most iterations of the same training.
    """
    named = Path(folder) / 'last_checkpoint'
    text = named.read_text().strip() if named.is_file() else None
    if text == '':
        return None
    if text is not None and ('://' in text or _is_whole(text)):  # elsewhere than on a disk whole or not at all
        return text
    checkpoints = training_checkpoints(folder)
    return checkpoints[0][1] if checkpoints else None


def checkpoint_to_resume(resume: bool | str | None, load_from: str | None, folder: str) -> str | None:
    """The checkpoint that a training resumes from, or None if it starts from the beginning.

    Args:
        resume: A path; True or `'auto'` for the newest in the folder, if there is one.
        load_from: With `resume=True`, MMEngine's way to name the checkpoint.
        folder: The work_dir.
    """
    if resume is True and load_from:
        return load_from
    return latest_checkpoint(folder) if resume in (True, 'auto') else resume or None


def training_checkpoints(folder: str) -> list[tuple[int, str]]:
    """(iterations, path) of the whole checkpoints of the training that saved last in a folder, the newest first."""
    found = []
    for path in Path(folder).glob('*.pth'):
        if re.fullmatch(r'(iter|epoch)_\d+', path.stem) and _is_whole(path):
            with suppress(InputError):
                meta = read_meta(str(path))
                found.append((meta.get('time', ''), meta.get('mmatm', {}).get('training'), meta['iter'], str(path)))
    if not found:
        return []
    _, training, *last = max(found, key=lambda entry: (entry[0], entry[2]))
    if training is None:  # written by others, who do not record which training it is from
        return [tuple(last)]
    return sorted(((i, path) for _, other, i, path in found if other == training), reverse=True)


def _is_whole(path: str | Path) -> bool:
    return zipfile.is_zipfile(path)  # the end of the file, written last, is there


def read_meta(path: str) -> dict:
    """What a checkpoint on a disk records of its training; its tensors are not read.

    Raises:
        InputError: As `read_checkpoint`; or it records nothing.
    """
    try:
        meta = load_safely(path, 'cpu', mmap=True)['meta']
        return {**meta, 'iter': int(meta['iter'])}
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise InputError(f'{path} does not record which training it is from ({type(error).__name__})') from None
