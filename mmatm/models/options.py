"""The options of a backbone: checked, and brought into one form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from mmatm.errors import InputError
from mmatm.registry import find_module

NUM_STAGES = 4


def check_arch(arch: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a custom arch by the example of a published size, and gives its lists as lists.

    Raises:
        InputError: Missing, extra or impossible entries.
    """
    missing, extra = sorted(set(example) - set(arch)), sorted(set(arch) - set(example))
    if missing or extra:
        raise InputError(
            f'a custom arch must have exactly the keys {sorted(example)}; missing: {missing}, unknown: {extra}'
        )
    for key, value in arch.items():
        wanted, is_so = _wanted(example[key])
        if not is_so(value):
            raise InputError(f"arch['{key}'] must be {wanted}, not {value}")
    return {key: list(value) if isinstance(example[key], list) else value for key, value in arch.items()}


def resolve_parts(parts: Mapping[str, Any], own: Mapping[str, Any], title: str) -> dict[str, list[Any]]:
    """The classes to build each stage with, by part.

    Args:
        parts: As a user gives them, see `Backbone`.
        own: The backbone's `PARTS`.
        title: The backbone's, for messages.

    Raises:
        InputError: Unknown part or class, or a list of another length than four.
    """
    if unknown := sorted(set(parts) - set(own)):
        raise InputError(f'parts of {title} are {", ".join(own) or "none"}, not {", ".join(unknown)}')
    resolved = {}
    for name, default in own.items():
        each = _each_stage(parts.get(name))
        if len(each) != NUM_STAGES:
            raise InputError(f"parts['{name}'] is one class, or a list of {NUM_STAGES}, not of {len(each)}")
        resolved[name] = [
            kind if entry is None else _module_class(name, entry)
            for kind, entry in zip(_each_stage(default), each, strict=True)
        ]
    return resolved


def _each_stage(part: object) -> list[Any]:
    """One for all stages, or one for each -> one for each."""
    return list(part) if isinstance(part, (list, tuple)) else [part] * NUM_STAGES


def resolve_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    """Stage numbers, negative ones from the end -> rising numbers 0 to 3.

    Raises:
        InputError: Empty, out of range, repeated or not rising.
    """
    valid = isinstance(out_indices, Sequence) and all(isinstance(i, int) for i in out_indices)
    indices = tuple(i + NUM_STAGES if i < 0 else i for i in out_indices) if valid else ()
    if not indices or not set(indices) <= set(range(NUM_STAGES)) or list(indices) != sorted(set(indices)):
        raise InputError(f'out_indices must be rising numbers of stages 0 to {NUM_STAGES - 1}, not {out_indices}')
    return indices


def check_init_cfg(init_cfg: dict | list[dict] | None) -> dict[str, Any] | None:
    """The arguments of `Backbone._load_pretrained`; None if no checkpoint is to be loaded."""
    if isinstance(init_cfg, list) and any(cfg['type'] == 'Pretrained' for cfg in init_cfg):
        raise InputError('a pretrained checkpoint fills the whole backbone: give init_cfg as one dict, not in a list')
    if not isinstance(init_cfg, dict) or init_cfg['type'] != 'Pretrained':
        return None
    given = {key: value for key, value in init_cfg.items() if key not in ('type', 'map_location')}
    known = {'checkpoint', 'prefix', 'allow_missing', 'allow_unused', 'fit_stem'}
    if not given.get('checkpoint') or not set(given) <= known:
        raise InputError(
            f'init_cfg of type Pretrained takes {", ".join(sorted(known))}, not {", ".join(map(str, given))}'
        )
    for key in ('allow_missing', 'allow_unused'):
        if isinstance(given.get(key), str):
            raise InputError(f'{key} of init_cfg must be a list of patterns: [{given[key]!r}]')
    return given


def _module_class(part: str, entry: object) -> type[nn.Module]:
    """The class that an entry of `parts` stands for."""
    kind = find_module(entry) if isinstance(entry, str) else entry
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise InputError(
            f"parts['{part}']: {entry!r} is not a registered module; register its class with "
            'mmengine.registry.MODELS.register_module(), and import its file with custom_imports in the config'
        )
    return kind


def _wanted(example: object) -> tuple[str, Callable[[object], bool]]:
    """What an entry of an arch is to be, in words and as a check, by the example of a published size."""

    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def each_stage(value: object) -> bool:
        return isinstance(value, Sequence) and len(value) == NUM_STAGES and all(map(whole, value))

    if isinstance(example, bool):
        return 'True or False', lambda value: isinstance(value, bool)
    if isinstance(example, int):
        return 'a whole number above 0', whole
    if isinstance(example, float):
        return 'a number above 0', lambda value: isinstance(value, (int, float)) and value > 0
    if isinstance(example, str):
        return 'a word', lambda value: isinstance(value, str)
    return f'{NUM_STAGES} whole numbers above 0', each_stage


def list_or(numbers: Sequence[int]) -> str:
    """8, 16 or 32."""
    *others, last = map(str, numbers)
    return f'{", ".join(others)} or {last}' if others else last
