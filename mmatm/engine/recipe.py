"""Which entries of a config decide the result of a training, and how two configs differ in them."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmatm.config import Keys, dotted

_PARTS = (
    'model', 'data_preprocessor', 'load_from', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler',
    'auto_scale_lr', 'custom_hooks', 'sync_bn',
)  # fmt: skip
# Where the data lies and how fast it is read, how often is validated, and what is recomputed to save memory.
NEUTRAL = {
    'data_root', 'data_prefix', 'ann_file', 'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor',
    'backend_args', 'val_interval', 'val_begin', 'dynamic_intervals', 'with_cp',
}  # fmt: skip
# Keys whose values are paths, of which the name counts.
_PATHS = {'checkpoint', 'load_from', 'pretrained', 'teacher_ckpt'}
NONE = 'none'


def differences(training: dict, recipe: dict) -> dict[str, str]:
    """The entries in which a training's config differs from a recipe's, as far as they decide its result.

    Args:
        training: The config of the training, as `read_text` gives it.
        recipe: The config to compare it with, likewise: its text has names for classes.

    Returns:
        The training's values by dotted key, `'none'` for entries that it does not have.
    """
    found = {}
    # With `resume=True`, MMEngine's `load_from` is what is resumed.
    left_out = {'load_from'} if True in (training.get('resume'), recipe.get('resume')) else set()
    for part in [part for part in _PARTS if part not in left_out]:
        found.update(_differences((part,), training.get(part), recipe.get(part)))
    return found


def joined(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Settings of a training that was resumed, by dotted key: ``'0.5, then 0.1'`` where they are not the same."""
    both = {key: f'{before[key]}, then {after[key]}' for key in before.keys() & after.keys()}
    return {**before, **after, **{key: text for key, text in both.items() if before[key] != after[key]}}


def _differences(keys: Keys, value: Any, other: Any) -> Iterator[tuple[str, str]]:
    if keys[-1] in NEUTRAL:
        return
    both = [value, other]
    if all(isinstance(x, dict) for x in both):
        for key in dict.fromkeys([*value, *other]):
            yield from _differences((*keys, key), value.get(key), other.get(key))
    elif all(isinstance(x, (list, tuple)) for x in both) and len(value) == len(other):
        for i, pair in enumerate(zip(value, other, strict=True)):
            yield from _differences((*keys, i), *pair)
    elif _plain(keys[-1], value) != _plain(keys[-1], other):
        yield dotted(keys), NONE if value is None else str(_plain(keys[-1], value))


def _plain(key: str | int, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(k, value[k]) for k in sorted(value, key=str)}  # as MMEngine's text has them
    if isinstance(value, (list, tuple)):
        return [_plain('', entry) for entry in value]
    return Path(value).name if key in _PATHS and isinstance(value, str) and '://' not in value else value


def read_text(text: str) -> dict[str, Any]:
    """The entries of a config's text as MMEngine writes it, into checkpoints among others. Nothing of it is executed.

    Raises:
        ValueError: The text holds something else than values.
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f'no config: {error}') from None
    if not all(isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name) for x in statements):
        raise ValueError('no config: it holds more than assignments')
    return {statement.targets[0].id: _value(statement.value) for statement in statements}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        if not all(isinstance(arg, ast.Dict) for arg in node.args) or not all(x.arg for x in node.keywords):
            raise ValueError('no config: a dict that is not written out')
        given = [_value(arg) for arg in node.args]  # with keys that are no names
        return {**(given[0] if given else {}), **{keyword.arg: _value(keyword.value) for keyword in node.keywords}}
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):
        return getattr(math, node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    return ast.literal_eval(node)
