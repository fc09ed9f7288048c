"""Reads configs as the commands in tools/ need them: checked."""

import difflib
import inspect
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmatm.errors import InputError

# The keys, and indices of lists, that lead to an entry of a config.
Keys = tuple[str | int, ...]

# What has an effect at the top of a config; all else there are variables that other entries were made from.
_TOP_LEVEL = {
    *inspect.signature(Runner).parameters,
    'tta_model',
    'tta_pipeline',
    'model_wrapper_cfg',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'sync_bn',
    'find_unused_parameters',
    'compile',
    'check_data',
}
_ALWAYS_KNOWN = {*_TOP_LEVEL, 'randomness.seed', 'randomness.deterministic', 'randomness.diff_rank_seed'}


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Reads a config and applies `--cfg-options`.

    Args:
        path: A file, or a config of an installed toolbox, as `mmseg::upernet/NAME.py`.
        options: Values by dotted key. A key must exist, unless it begins with `+`, which adds it.

    Raises:
        InputError: There is no such config, or no such key, or changing the key would have no effect.
    """
    file = Path(installed_file(path) if '::' in path else path)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob('*.py')], n=1)
        meant = path.removesuffix(file.name) + near[0] if near else ''
        raise InputError(f'there is no config {path}' + (f'; did you mean {meant}?' if near else ''))
    try:
        cfg = Config.fromfile(file)
    except (AttributeError, ImportError, KeyError, NameError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f'the config {path} cannot be read: {type(error).__name__}: {error}') from error
    for key, value in (options or {}).items():
        if not key.startswith('+'):
            _check_key(cfg, key)
        try:
            cfg.merge_from_dict({key.removeprefix('+'): value})
        except (AssertionError, IndexError, KeyError, TypeError) as error:
            raise InputError(f'{key} cannot be set in this config: {error}') from None
    return cfg


def has_name(path: str) -> bool:
    """Whether MMEngine takes a name of an installed toolbox's config, also in `_base_`: not gn+ws/ or legacy_1.x/."""
    return re.match(r'\w*::\w*/\w*', path) is not None


def installed_file(name: str) -> str:
    """The file that a name like `mmdet::gn+ws/NAME.py` stands for, be it there or not."""
    package, _, path = name.partition('::')
    return str(installed_configs(package) / path)


def installed_configs(package: str) -> Path:
    """The folder with the configs of an installed toolbox.

    MMEngine's own functions that take names of configs install what they do not find, and go by other names of the
    packages than the forks'.

    Raises:
        InputError: The toolbox is not installed, or without its configs.
    """
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise InputError(f'{package or "a toolbox without a name"} is not installed here, so it has no configs here')
    folder = Path(spec.origin).parent / '.mim/configs'
    if not folder.is_dir():
        raise InputError(f'{package} was installed without its configs; install it with pip, not from its sources')
    return folder


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All entries below a config node, as (dotted key, value), parents before children."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in entries:
        child = f'{path}.{key}' if path else str(key)
        yield child, value
        yield from walk(value, child)


def dicts(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, dict]]:
    """A config node and all below it, as far as they are dicts, with the keys that lead to them."""
    if isinstance(node, dict):
        yield path, node
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in list(entries):
        yield from dicts(child, (*path, key))


def dotted(keys: Keys) -> str:
    """Keys as `--cfg-options` takes them."""
    return '.'.join(map(str, keys))


def effective_entries(cfg: Config) -> Iterator[tuple[str, Any]]:
    """All entries of a config as `walk` gives them, but not variables of its file, which others were made from."""
    return ((key, value) for key, value in walk(cfg._cfg_dict) if key.partition('.')[0] in _TOP_LEVEL)


def _check_key(cfg: Config, key: str) -> None:
    tree = cfg._cfg_dict.to_dict()
    known = dict(walk(tree))
    top = key.split('.')[0]
    effective = _TOP_LEVEL - ({'data_preprocessor'} if 'data_preprocessor' in tree.get('model', ()) else set())
    if key not in known and key not in _ALWAYS_KNOWN:
        usable = [name for name in known if name.split('.')[0] in effective]
        near = difflib.get_close_matches(key, usable, n=1, cutoff=0)[0]
        raise InputError(f'the config has no {key}; the nearest is {near}. To add a new key write +{key}=...')
    if top not in effective:
        # Numbers are too common to tell where they came from.
        telling = not isinstance(tree[top], (int, float))
        used = [n for n, value in known.items() if telling and n.split('.')[0] in effective and value == tree[top]]
        instead = ' '.join(f'{name}{key.removeprefix(top)}=...' for name in used)
        raise InputError(
            f'{top} is a variable of the config file, so that changing it here would have no effect; '
            + (f'set the entries made from it: {instead}' if used else 'copy the config and change it there')
        )


def innermost_dataset(dataset: dict) -> dict:
    """The config of the dataset below wrappers, as `RepeatDataset`."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset
