"""Looks for damaged data before a training or test begins, not hours into it. A machine checks each file once."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from logging import WARNING
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError
from rich.progress import MofNCompleteColumn
from torch import nn

from mmatm.config import innermost_dataset
from mmatm.datasets.class_check import ClassCheck
from mmatm.errors import InputError
from mmatm.utils.counting_bar import counting_bar
from mmatm.utils.files import alone, whole_file

_ENDS = {'.jpg': b'\xff\xd9', '.jpeg': b'\xff\xd9', '.png': b'IEND\xaeB`\x82'}
_SHOWN = 5
# Samples whose files are in memory at a time, and files that a thread takes at a time.
_WINDOW, _SLICE = 2048, 32


def check_dataset(dataset: Any, model: nn.Module) -> set[tuple[str, ...]]:
    """Checks that a dataset has the model's classes, no damaged images, and no label values beyond its classes.

    It checks the files that the pipelines read from local disks. An image is whole if its last bytes are the end marker
    of its format; only without that marker is it decoded. Label maps are decoded whenever it is known which values they
    may have. A file that this machine has found whole is not checked again until its size or time changes.

    Args:
        dataset: A dataset of MMEngine's kind, or a wrapper of some. Others are not checked.
        model: The model that is to be trained or tested, without wrappers.

    Returns:
        The names of the labels in the order of each annotation file, where they are known.

    Raises:
        InputError: Names the files, or the classes.
    """
    parts = list(leaves(dataset))
    classes = ClassCheck(model)
    for part in parts:
        classes.compare(part)
    name, total = 'checking the data', sum(map(len, parts))
    with _FileCheck() as files, counting_bar(name, 0, total, MofNCompleteColumn()) as advance:
        for part in parts:
            readers = _readers(part)
            if 'img_path' not in readers and len(part) and part.get_data_info(0).get('img_path'):
                kind = type(part).__name__
                print_log(
                    f'the images of {kind} are not checked: no loading transform was found in its pipeline', 'current'
                )
            for start in range(0, len(part), _WINDOW):
                window = range(start, min(start + _WINDOW, len(part)))
                files.check([file for index in window for file in _files(part, index, readers, classes)])
                advance(len(window))
    files.refuse()
    if parts:
        print_log(f'checked the data of {len(dataset)} samples: {files.describe()}', 'current')
    classes.report()
    return classes.orders


def check_images(paths: Sequence[str]) -> None:
    """Checks that no image is damaged, decoding only those that lack the end marker of their format.

    Raises:
        InputError: Names the files.
    """
    from mmcv.transforms import LoadImageFromFile  # not when this is imported: it takes seconds

    reader = _Reader(LoadImageFromFile(), is_plain=True, is_local=True)
    with _FileCheck() as files:
        files.check([_File(reader, path, lambda path=path: {'img_path': path}) for path in paths])
    files.refuse()


def describe_dataset(cfg: dict) -> str:
    """Where a dataset's config looks for its samples."""
    cfg = innermost_dataset(cfg)
    places = ', '.join(f'{key}={cfg[key]!r}' for key in ('data_root', 'data_prefix', 'ann_file') if cfg.get(key))
    return f'{cfg["type"]} with {places}'


def leaves(dataset: Any) -> Iterator[Any]:
    """The datasets with a list of samples below wrappers."""
    inner = (
        getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None) or getattr(dataset, '_dataset', None)
    )
    if inner is not None:
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from leaves(part)
    elif hasattr(dataset, 'get_data_info'):
        yield dataset


@dataclass(frozen=True, eq=False)
class _Reader:
    """How a pipeline reads images or label maps.

    Attributes:
        transform: The one that reads them.
        is_plain: It is the toolboxes' usual one, which reads JPEGs that are cut short without an error; Pillow refuses.
        is_local: It reads from local disks.
        is_label: It reads label maps.
        allowed: The highest value of a class in label maps, and the ignored value; None if they are not known.
    """

    transform: Any
    is_plain: bool
    is_local: bool
    is_label: bool = False
    allowed: tuple[int, int] | None = None

    @cached_property
    def name(self) -> str:
        return f'{type(self.transform).__name__} {getattr(self.transform, "imdecode_backend", "")} {self.allowed}'


class _File(NamedTuple):
    reader: _Reader
    path: str
    sample: Callable[[], dict]


def _readers(dataset: Any) -> dict[str, _Reader]:
    """How files are read, by the sample's key with their path; files that no known transform reads are left out."""
    from mmcv.transforms import LoadImageFromFile

    transforms = list(_transforms(getattr(dataset, 'pipeline', None)))
    readers = {}
    for transform in transforms:
        name = type(transform).__name__
        if not name.startswith('Load') or getattr(transform, 'ignore_empty', False):
            continue
        args = getattr(transform, 'backend_args', None) or getattr(transform, 'file_client_args', None)
        is_local = not args or args == {'backend': 'local'}
        if 'Annotation' in name:
            toolbox = type(transform).__module__.partition('.')[0]
            is_plain = toolbox in ('mmcv', 'mmseg', 'mmdet')
            allowed = _allowed_labels(dataset, transform) if is_plain else None
            if getattr(transform, 'with_seg', True):
                readers.setdefault('seg_map_path', _Reader(transform, is_plain, is_local, True, allowed))
        elif 'Proposal' not in name:
            is_plain = getattr(type(transform), 'transform', None) is LoadImageFromFile.transform
            for key in ('img_path', 'img_path2'):
                readers.setdefault(key, _Reader(transform, is_plain, is_local))
    return readers


def _transforms(node: Any) -> Iterator[Any]:
    """A pipeline's transforms, with those inside others, as in the toolboxes' augmentation at test time."""
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _transforms(part)
    elif node is not None:
        yield node
        for inside in ('transforms', 'subroutines'):
            yield from _transforms(getattr(node, inside, None))


def _allowed_labels(dataset: Any, transform: Any) -> tuple[int, int] | None:
    classes = dataset.metainfo.get('classes')
    # If the user chose some classes, label maps still hold those of the original dataset.
    if not hasattr(dataset, 'reduce_zero_label') or getattr(dataset, 'label_map', None) or not classes:
        return None
    reduced = dataset.reduce_zero_label or getattr(transform, 'reduce_zero_label', False)
    return len(classes) - (not reduced), dataset.ignore_index


def _files(dataset: Any, index: int, readers: dict[str, _Reader], classes: ClassCheck) -> Iterator[_File]:
    """The files of a sample, whose classes are counted on the way."""
    sample = dataset.get_data_info(index)
    classes.count(dataset, sample)
    for key, reader in readers.items():
        paths = sample.get(key)
        for path in paths if isinstance(paths, (list, tuple)) else [paths]:
            if isinstance(path, (str, os.PathLike)) and str(path):
                # Samples are large: the few that are needed later are recomputed.
                yield _File(reader, str(path), partial(dataset.get_data_info, index))


class _FileCheck:
    """Checks files, and notes in torch's cache which are whole; takes 8 bytes of memory a file."""

    def __init__(self) -> None:
        self._notes = Path(torch.hub.get_dir()) / 'mmatm/whole_files'
        # Sorted numbers of files, see `_identify`: a file has another one if its path, size or time changes.
        self._known = _numbers(self._notes)
        self._new: list[np.ndarray] = []
        self._problems: list[str] = []
        self._damaged = self._images = self._labels = self._again = self._elsewhere = 0
        self._asked: dict[_Reader, list[str | None]] = {}

    def __enter__(self) -> '_FileCheck':
        self._pool = ThreadPoolExecutor()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        new = np.concatenate([np.empty(0, np.uint64), *self._new])
        if not len(new):
            return
        try:
            self._notes.parent.mkdir(parents=True, exist_ok=True)
            with alone(self._notes), whole_file(self._notes) as path:
                np.union1d(_numbers(self._notes), new).tofile(path)
        except OSError as problem:
            text = f'the result of the data check cannot be saved, so the next start repeats it: {problem}'
            print_log(text, 'current', WARNING)

    def check(self, files: list[_File]) -> None:
        """Checks the files that are not known to be whole."""
        numbers = np.array(self._spread(_identify, files), np.uint64)
        remote = np.array([not file.reader.is_local or '://' in file.path for file in files], bool)
        plain = np.array([file.reader.is_plain for file in files], bool)
        elsewhere = remote | (~plain & (numbers == 0))  # a custom transform may take names that are no files
        for i in np.flatnonzero(elsewhere):
            self._ask(files[i])
        known = np.zeros(len(files), bool)
        if len(self._known):
            places = np.searchsorted(self._known, numbers).clip(max=len(self._known) - 1)
            known = self._known[places] == numbers
        unknown = np.flatnonzero(~known & ~elsewhere)
        problems = self._spread(_look_at, [files[i] for i in unknown])
        self._add(problems)
        self._new.append(numbers[unknown[[not problem for problem in problems]]])
        labels = np.array([file.reader.is_label for file in files], bool)
        self._labels += int((labels & ~elsewhere).sum())
        self._images += int((~labels & ~elsewhere).sum())
        self._again += int((known & ~elsewhere).sum())
        self._elsewhere += int(elsewhere.sum())

    def refuse(self) -> None:
        """Raises an InputError if a file is damaged."""
        if self._problems:
            more = f'\n  and {self._damaged - _SHOWN} more' if self._damaged > _SHOWN else ''
            raise InputError('damaged data:\n  ' + '\n  '.join(self._problems) + more)

    def describe(self) -> str:
        """What was checked, for the end of a message."""
        text = f'{self._images} images and {self._labels} label maps, all undamaged'
        text += f' ({self._again} of these files were checked earlier)' if self._again else ''
        return text + (f'; {self._elsewhere} files not on local disks were not checked' if self._elsewhere else '')

    def _ask(self, file: _File) -> None:
        """Lets the pipeline read a file that is not local, unless it has read one before or failed several times."""
        answers = self._asked.setdefault(file.reader, [])
        if None not in answers and len(answers) < _SHOWN:
            answers.append(_read(file))
            self._add(answers[-1:])

    def _add(self, problems: list[str | None]) -> None:
        found = [problem for problem in problems if problem]
        self._damaged += len(found)
        self._problems = (self._problems + found)[:_SHOWN]

    def _spread(self, function: Any, files: list[_File]) -> list:
        slices = [files[i : i + _SLICE] for i in range(0, len(files), _SLICE)]
        return [result for part in self._pool.map(lambda part: [*map(function, part)], slices) for result in part]


def _numbers(notes: Path) -> np.ndarray:
    return np.fromfile(notes, np.uint64) if notes.is_file() else np.empty(0, np.uint64)


def _identify(file: _File) -> int:
    """A number for a file in its present state, and for how it is read; 0 if it does not exist."""
    try:
        stat = os.stat(file.path)  # noqa: PTH116 (faster)
    except (OSError, ValueError):
        return 0  # no other file has it
    path = os.path.abspath(file.path)  # noqa: PTH100
    # With the inode, as disks of several machines may have the same paths.
    text = f'{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}\0{file.reader.name}'
    return int.from_bytes(hashlib.blake2b(text.encode(errors='surrogateescape'), digest_size=8).digest(), 'little')


def _look_at(file: _File) -> str | None:
    """What is wrong with a local file."""
    try:
        if file.reader.allowed is not None:
            return _look_at_label(file)
        end = _ENDS.get(Path(file.path).suffix.lower())
        with Path(file.path).open('rb') as opened:
            if end is not None:
                opened.seek(0, 2)
                opened.seek(-min(len(end), opened.tell()), 2)
                if opened.read() == end:
                    return None
        if end is not None and file.reader.is_plain:
            with Image.open(file.path) as image:
                image.load()
            return None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # OpenCV may know it
    except (OSError, SyntaxError, ValueError) as error:
        return _problem(file.path, error)
    return _read(file)


def _look_at_label(file: _File) -> str | None:
    with Image.open(file.path) as image:
        values = np.unique(np.asarray(image))
    highest, ignored = file.reader.allowed
    beyond = [int(value) for value in values if value > highest and value != ignored]
    return f'{file.path}: label values {beyond}, but the highest class is {highest}' if beyond else None


def _read(file: _File) -> str | None:
    """What the pipeline says when it reads a file."""
    try:
        file.reader.transform.transform(file.sample())
    except Exception as error:  # whatever transforms and backends raise
        return _problem(file.path, error)
    return None


def _problem(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f'{path}: does not exist'
    if isinstance(error, Image.DecompressionBombError):
        size = str(error).split(' exceeds')[0]
        return f'{path}: more pixels than Pillow opens ({size}); crop it, or read it with imdecode_backend=cv2'
    what = 'cut short or not an image' if os.path.exists(path) else 'cannot be read'  # noqa: PTH110 (keys of backends)
    return f'{path}: {what} ({str(error).split(chr(10))[0]})'
