"""Checks that the data that a config names exists, before anything is built."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmatm.errors import InputError

_TOOLBOXES = 'mmdet', 'mmengine', 'mmpretrain', 'mmseg'


def missing_data(cfg: Config, parts: Sequence[str] = ('train', 'val')) -> list[str]:
    """The folders and annotation files of a config's datasets and evaluators that do not exist.

    Only local paths of the toolboxes' own datasets are checked: other classes may download their data, or give these
    keys another meaning.

    Args:
        cfg: The config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, those that will run.

    Returns:
        A message for each path, with its key in the config.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    named: dict[str, str] = {}
    for part in parts:
        loader, evaluator = cfg.get(f'{part}_dataloader') or {}, cfg.get(f'{part}_evaluator')
        places = [*_places(loader.get('dataset'), f'{part}_dataloader.dataset')]
        for path, entry in (*places, *_annotations(evaluator, f'{part}_evaluator')):
            named.setdefault(path, entry)
    return [
        f'there is no {"file" if entry.endswith("ann_file") else "folder"} {path} ({entry})'
        for path, entry in named.items()
        if '://' not in path and not Path(path).expanduser().exists()
    ]


def require_data(cfg: Config, parts: Sequence[str] = ('train', 'val')) -> None:
    """Checks that the data exists. Arguments as of `missing_data`.

    Raises:
        InputError: Names all folders and files that do not exist.
    """
    if missing := missing_data(cfg, parts):
        raise InputError('\n'.join(missing))


def _places(dataset: Any, entry: str) -> Iterator[tuple[str, str]]:
    """(path, key in the config) of what a dataset reads; only of its root, if that does not exist."""
    if isinstance(dataset, (list, tuple)):
        for i, part in enumerate(dataset):
            yield from _places(part, f'{entry}.{i}')
    if not isinstance(dataset, dict):
        return
    for wrapped in ('dataset', 'datasets'):
        yield from _places(dataset.get(wrapped), f'{entry}.{wrapped}')
    backend = (dataset.get('backend_args') or dataset.get('file_client_args') or {}).get('backend', 'local')
    if backend not in ('local', 'disk') or not _is_read_by_toolbox(dataset):
        return
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    prefixes = {f'.{key}': path for key, path in prefix.items()} if isinstance(prefix, dict) else {'': prefix}
    below = {f'data_prefix{key}': path for key, path in prefixes.items()} | {'ann_file': dataset.get('ann_file')}
    paths = {key: path for key, path in below.items() if path and isinstance(path, str)}
    uses_root = not all('://' in path or Path(path).is_absolute() for path in paths.values()) or not paths
    if uses_root and root and '://' not in root and not Path(root).expanduser().is_dir():
        yield root, f'{entry}.data_root'
        return
    for key, path in paths.items():
        joined = path if '://' in path or Path(path).is_absolute() or not root else f'{root.rstrip("/")}/{path}'
        yield joined, f'{entry}.{key}'


def _is_read_by_toolbox(dataset: dict) -> bool:
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not isinstance(kind, type) or not issubclass(kind, BaseDataset):
        return False
    downloads = dataset.get('download', 'download' in inspect.signature(kind).parameters)
    return not downloads and kind.load_data_list.__module__.split('.')[0] in _TOOLBOXES


def _annotations(evaluator: Any, entry: str) -> Iterator[tuple[str, str]]:
    if isinstance(evaluator, (list, tuple)):
        for i, part in enumerate(evaluator):
            yield from _annotations(part, f'{entry}.{i}')
    elif isinstance(evaluator, dict) and isinstance(evaluator.get('ann_file'), str):
        yield evaluator['ann_file'], f'{entry}.ann_file'
