"""Writes a config file that inherits another one and holds only what differs."""

import math
import re
from collections.abc import Iterable, Sequence
from keyword import iskeyword
from typing import Any

_WIDTH = 100


class _Entries(dict):
    """New values by key of a dict, or by index of a list."""


class _Whole(dict):
    """A dict in place of another value, not merged into it."""


def config_text(base: str, changes: Iterable[tuple[Sequence[str | int], Any, Any]], result: dict, comment: str) -> str:
    """The text of a config file.

    Args:
        base: What it inherits: an installed toolbox's config, or a path as seen from the new file.
        changes: The keys that lead to an entry, the entry's value before, and its new value, in the order in which
            they were made.
        result: The config after them.
        comment: The first line, without #.
    """
    tree = _Entries()
    for path, old, new in changes:
        _insert(tree, path, old, new)
    lines = [f'# {comment}', f'_base_ = {_literal(base)}']
    lines += [f'{key} = {_render(value, result[key], f"_base_.{key}", 0, False)}' for key, value in tree.items()]
    return '\n'.join(lines) + '\n'


def _insert(tree: dict, path: Sequence[str | int], old: Any, new: Any) -> None:
    inside_new = False
    for key in path[:-1]:
        tree = tree.setdefault(key, _Entries())
        inside_new |= not isinstance(tree, _Entries)
    whole = isinstance(new, dict) and old is not None and not inside_new
    tree[path[-1]] = _Whole(new) if whole else new


def _render(value: Any, result: Any, base: str, indent: int, in_list: bool) -> str:
    """A value as it stands in a config file.

    Args:
        value: The value, or what changes in it.
        result: The value in the config after the changes.
        base: The expression for the value in the base.
        indent: Of the line it begins on.
        in_list: Whether it is in a list. MMEngine merges dicts, but not those in lists, which name their base.
    """
    if isinstance(value, _Entries) and isinstance(result, (list, tuple)):
        items = [
            _render(value[i], result[i], f'{base}[{i}]', indent + 4, True) if i in value else f'{base}[{i}]'
            for i in range(len(result))
        ]
        return _layout('[', items, ']', indent)
    if isinstance(value, _Entries):
        rendered = {
            key: _render(entry, result[key], _access(base, key), indent + 4, in_list) for key, entry in value.items()
        }
        return _layout_dict(rendered, base if in_list else '', indent)
    if isinstance(value, dict):
        entries = {**({'_delete_': True} if isinstance(value, _Whole) and not in_list else {}), **value}
        return _layout_dict(
            {key: _render(entry, entry, '', indent + 4, in_list) for key, entry in entries.items()}, '', indent
        )
    if isinstance(value, (list, tuple)):
        opening, closing = '[]' if isinstance(value, list) else ('(', ',)' if len(value) == 1 else ')')
        return _layout(opening, [_render(entry, entry, '', indent + 4, in_list) for entry in value], closing, indent)
    return _literal(value)


def _literal(value: Any) -> str:
    """A value as Python and MMEngine read it back: `inf` is no name, and {{ }} are MMEngine's variables."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return re.sub(r'\{(?=\{)', r'\\x7b', repr(value)) if isinstance(value, str) else repr(value)


def _access(base: str, key: str) -> str:
    return f'{base}.{key}' if key.isidentifier() and not iskeyword(key) else f'{base}[{_literal(key)}]'


def _layout_dict(entries: dict[str, str], base: str, indent: int) -> str:
    """A dict of entries that are written already, on top of those of a base."""
    if all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in entries):
        return _layout(
            'dict(', [*[base] * bool(base), *(f'{key}={text}' for key, text in entries.items())], ')', indent
        )
    items = [*[f'**{base}'] * bool(base), *(f'{_literal(key)}: {text}' for key, text in entries.items())]
    return _layout('{', items, '}', indent)


def _layout(opening: str, items: Sequence[str], closing: str, indent: int) -> str:
    """On one line if it fits there, else each item on its own."""
    line = f'{opening}{", ".join(items)}{closing}'
    if '\n' not in line and indent + len(line) <= _WIDTH:
        return line
    pad = ' ' * (indent + 4)
    return f'{opening}\n' + ''.join(f'{pad}{item},\n' for item in items) + ' ' * indent + closing
