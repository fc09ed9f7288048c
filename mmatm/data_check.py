"""Looks for damaged data before a training or test begins, not hours into it."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from mmatm.config import innermost_dataset
from mmatm.errors import InputError

_ENDS = {'.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9', '.png': b'IEND\xaeB`\x82'}
_SHOWN = 5


def check_dataset(dataset: Any, num_classes: int | None = None) -> None:
    """Checks that no picture of a data set is cut short, and that its label maps hold its classes only.

    Pictures are decoded only where the file does not end as its format ends; label maps always are.

    Args:
        dataset: A data set of MMEngine's kind, or a wrapper of some.
        num_classes: The classes of a segmentor that the data set is for; more than it has are refused.

    Raises:
        InputError: Names the files.
    """
    pictures, labels = set(), {}
    for leaf in _leaves(dataset):
        classes = leaf.metainfo.get('classes') or ()
        if hasattr(leaf, 'reduce_zero_label') and num_classes is not None and len(classes) > num_classes:
            raise InputError(f'the data has {len(classes)} classes, but the model num_classes={num_classes}')
        for i in range(len(leaf)):
            info = leaf.get_data_info(i)
            pictures.add(info.get('img_path'))
            if path := info.get('seg_map_path'):
                labels[path] = _allowed_labels(leaf, info)
    local = [path for path in pictures if path and '://' not in path]
    local_labels = [(path, allowed) for path, allowed in labels.items() if '://' not in path]
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(_check_picture, local), *pool.map(lambda item: _check_label(*item), local_labels)]
    _refuse(found)
    print_log(
        f'data: {len(dataset)} samples; {len(local)} pictures and {len(local_labels)} label maps are whole', 'current'
    )


def check_pictures(paths: Sequence[str]) -> None:
    """Checks that no picture is cut short, decoding only those that do not end as their format ends.

    Raises:
        InputError: Names the files.
    """
    with ThreadPoolExecutor() as pool:
        _refuse(pool.map(_check_picture, paths))


def _refuse(found: Iterable[str | None]) -> None:
    problems = sorted(problem for problem in found if problem)
    if problems:
        more = f'\n  and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
        raise InputError('damaged data:\n  ' + '\n  '.join(problems[:_SHOWN]) + more)


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets with a list of pictures below wrappers."""
    inner = (
        getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None) or getattr(dataset, '_dataset', None)
    )
    if inner is not None:
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from _leaves(part)
    elif hasattr(dataset, 'get_data_info'):
        yield dataset


def _allowed_labels(dataset: Any, info: dict) -> tuple[int, int] | None:
    """(highest class, ignored value) in the label files of a semantic segmentation set; None if that is not known."""
    # With classes of the user's choice the files hold those of the original data set.
    if not hasattr(dataset, 'reduce_zero_label') or info.get('label_map') or not dataset.metainfo.get('classes'):
        return None
    return len(dataset.metainfo['classes']) - (not dataset.reduce_zero_label), dataset.ignore_index


def describe_dataset(cfg: dict) -> str:
    """Where a data set's config looks for its samples."""
    cfg = innermost_dataset(cfg)
    places = ', '.join(f'{key}={cfg[key]!r}' for key in ('data_root', 'data_prefix', 'ann_file') if cfg.get(key))
    return f'{cfg["type"]} with {places}'


def _check_picture(path: str) -> str | None:
    try:
        end = _ENDS.get(Path(path).suffix.lower())
        if end is not None:
            with Path(path).open('rb') as file:
                file.seek(0, 2)
                file.seek(-min(len(end), file.tell()), 2)
                if file.read() == end:
                    return None
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError) as error:
        return _problem(path, error)
    return None


def _check_label(path: str, allowed: tuple[int, int] | None) -> str | None:
    try:
        with Image.open(path) as picture:
            label = np.asarray(picture)
    except (OSError, SyntaxError) as error:
        return _problem(path, error)
    if allowed is not None:
        highest, ignored = allowed
        beyond = [int(value) for value in np.unique(label) if value > highest and value != ignored]
        if beyond:
            return f'{path}: label values {beyond}, but the highest class is {highest}'
    return None


def _problem(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f'{path}: does not exist'
    return f'{path}: cut short or not a picture ({str(error).split(chr(10))[0]})'
