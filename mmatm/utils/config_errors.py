"""Finds the entry of a config behind an error of a registry, a constructor or a layer."""

import difflib
import inspect
import logging
import re
from collections.abc import Iterator
from itertools import chain
from types import FrameType
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import Registry
from torch import Tensor, nn

from mmatm.config import effective_entries
from mmatm.stack import FORKS, UPSTREAM, installed

_TOOLBOXES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
_REGISTRIES = [entry for entry in vars(mmengine.registry).values() if isinstance(entry, Registry)]


def config_of(error: BaseException) -> Config | None:
    """The config of the command that an error ended: the first one among the variables of the traceback's functions.

    Every command works on one; what it calls may copy and change it.
    """
    held = chain.from_iterable(frame.f_locals.values() for frame in _frames(error))
    return next((value for value in held if isinstance(value, Config)), None)


def explain(error: BaseException, cfg: Config) -> str | None:
    """Says which entry of a config is wrong, and how, in one line that ends with the error's own message.

    It recognises types that are in no registry, arguments that a class does not take or lacks, and `in_channels` that
    differ from the feature maps that a part of the model is given. For any other error in a part of the model, it logs
    which part that is. A toolbox that cannot be imported is named instead of an entry.

    Returns:
        The line; None if nothing is known to be wrong.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = ' '.join(text.split())
    if broken := _broken_import(error):
        found = broken
    elif unknown := _unknown(error, text):
        found = _unknown_type(cfg, *unknown)
    elif isinstance(error, TypeError) and '__init__()' in text:
        found = _wrong_argument(cfg, text)
    else:
        found = _wrong_channels(cfg, error)
    return found and f'{found} ({type(error).__name__}: {text[:300]})'


def _broken_import(error: BaseException) -> str | None:
    """What to say of an error that ended the import of a toolbox."""
    modules = [frame.f_globals.get('__name__', '') for frame in _frames(error) if frame.f_code.co_name == '<module>']
    broken = [name for name in modules if name.partition('.')[0] in _TOOLBOXES]
    if not broken:
        return None
    versions = ', '.join(f'{name} {version}' for name, version in installed((*UPSTREAM, *FORKS)).items())
    return (
        f'{broken[-1]} cannot be imported here, whatever the config says: a package that it needs may be missing or '
        f'too new, see docs/faq.md; tools/setup.sh makes an environment that works. Installed are {versions}'
    )


def _unknown(error: BaseException, text: str) -> tuple[str, str] | None:
    """The name that was found in no registry, and the registry's name."""
    if unknown := re.search(r'(\S+) is not in the (?:\S+::)?([\w ]+) registry', text):
        return unknown[1], unknown[2]
    # Other ways to look up a name complain of the None that they found.
    if 'Cannot find None in registry' in text:  # mmcv's layers
        return _local(error, 'layer_type', ''), 'model'
    if 'None is not a callable object' in text:  # MMEngine's optimizers
        return _local(error, 'optimizer_cfg', {}).get('type', ''), 'optimizer'
    return None


def _local(error: BaseException, name: str, default: Any) -> Any:
    """The value of a variable in the innermost function with it that an error came through."""
    held = [frame.f_locals[name] for frame in _frames(error) if name in frame.f_locals]
    return held[-1] if held else default


def _unknown_type(cfg: Config, name: str, registry: str) -> str | None:
    entries = [key for key, value in effective_entries(cfg) if key.endswith('type') and value == name]
    if not entries:
        return None
    names = []
    for root in _REGISTRIES:
        if root.name == registry:
            with root.switch_scope_and_registry(None) as current:
                names += [*current.module_dict, *root.module_dict]
            names += [f'{scope}.{kind}' for scope, child in root.children.items() for kind in child.module_dict]
    near = difflib.get_close_matches(name, names, n=1)
    return f'{" and ".join(entries)}: there is no {name}' + (f'; the nearest is {near[0]}' if near else '')


def _wrong_argument(cfg: Config, text: str) -> str | None:
    unexpected = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text)
    lacking = re.search(r'(\w+)\.__init__\(\) missing \d+ required [\w -]+: (.+)', text)
    for entry, node in effective_entries(cfg):
        if not isinstance(node, dict) or 'type' not in node:
            continue
        if unexpected and unexpected[2] in node:
            kind = _class(node)
            bases = [base for base in kind.__mro__ if base.__name__ == unexpected[1]] if kind is not None else []
            if bases:
                return _left_over(entry, node, kind, bases[0], unexpected[2])
        if lacking and _name(node['type']) == lacking[1] and not set(re.findall(r"'(\w+)'", lacking[2])) & set(node):
            return f'{entry}: {lacking[1]} needs {lacking[2]}'
    return None


def _left_over(entry: str, node: dict, kind: type, base: type, refused: str) -> str:
    """The message on an argument that a base of a class refused, which may be inherited from another config."""
    taken = {**inspect.signature(kind).parameters, **inspect.signature(base).parameters}
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    others = [] if passes_on else [key for key in node if key not in taken and key not in ('type', '_scope_', refused)]
    near = difflib.get_close_matches(refused, sorted(set(taken) - set(node)), n=1)
    found = f'{entry}: {kind.__name__} takes no {", ".join([refused, *others])}'
    found += f'; the nearest is {near[0]}' if near else ''
    if re.search(r'\.\d+(\.|$)', entry):  # lists are not merged
        return found
    return (
        f'{found}. To drop settings inherited from another type, write dict(_delete_=True, type=...) in the config, or '
        f'give --cfg-options +{entry}._delete_=True +{entry}.type={kind.__name__} and its settings, each with +'
    )


def _name(kind: Any) -> str:
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _class(node: dict) -> type | None:
    """The class that an entry of a config is built from."""
    kind = node.get('type')
    if isinstance(kind, str):
        for root in _REGISTRIES:
            with root.switch_scope_and_registry(None) as registry:
                if (found := registry.get(kind)) is not None:
                    return found if isinstance(found, type) else None
    return kind if isinstance(kind, type) else None


def _wrong_channels(cfg: Config, error: BaseException) -> str | None:
    frames = [frame for frame in _frames(error) if isinstance(frame.f_locals.get('self'), nn.Module)]
    kind = _name((cfg.get('model') or {}).get('type'))
    models = (frame.f_locals['self'] for frame in frames)
    model = next((module for module in models if type(module).__name__ == kind), None)
    if model is None:
        return None
    names = {module: name for name, module in model.named_modules()}
    inside = [frame for frame in frames if frame.f_locals['self'] in names]
    path, node = _entry(cfg.model, names[inside[-1].f_locals['self']])
    if not path:
        return None
    part = model.get_submodule(path)
    given = next((_maps(frame) for frame in inside if frame.f_locals['self'] is part), [])
    wanted, index = node.get('in_channels', getattr(part, 'in_channels', None)), getattr(part, 'in_index', None)
    if given and _is_of_channels(error, wanted) and not _fit(wanted, given, index):
        taken = f', of which in_index={index} takes {_chosen(given, index)}' if isinstance(index, int) else ''
        return f'model.{path}.in_channels={wanted}, but it is given feature maps of {given} channels{taken}'
    maps = f', given feature maps of {given} channels' if given else ''
    print_log(f'in model.{path} of the config ({type(part).__name__}){maps}:', 'current', logging.ERROR)
    return None


def _is_of_channels(error: BaseException, wanted: Any) -> bool:
    """Whether an error may be that of a layer or neck that was given feature maps of other numbers or channels."""
    several = isinstance(wanted, (list, tuple))
    if not all(isinstance(channels, int) for channels in (wanted if several else [wanted])):
        return False
    counted = several and isinstance(error, (AssertionError, IndexError))
    return counted or re.search('channel|mat1 and mat2|normalized_shape|running_mean', str(error)) is not None


def _entry(node: Any, name: str) -> tuple[str, dict]:
    """The innermost entry of a model's config that a module's name leads into, without `model.`, and its value."""
    path, found = '', node
    parts = name.split('.')
    for i, part in enumerate(parts):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            break
        if isinstance(node, dict):
            path, found = '.'.join(parts[: i + 1]), node
    return path, found


def _maps(frame: FrameType) -> list[int]:
    """The channels of the feature maps (B, C, H, W), or features (B, C), in the first argument that has some."""
    code = frame.f_code
    count = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS)
    for name in code.co_varnames[1:count]:
        if found := [tensor.shape[1] for tensor in _tensors(frame.f_locals.get(name)) if tensor.ndim in (2, 4)]:
            return found
    return []


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(_tensors, value))


def _chosen(given: list[int], index: int | list[int] | None) -> list[int]:
    indices = range(len(given)) if index is None else [index] if isinstance(index, int) else index
    return [given[i] for i in indices if -len(given) <= i < len(given)]


def _fit(wanted: int | list[int], given: list[int], index: int | list[int] | None) -> bool:
    chosen = _chosen(given, index)
    return wanted in chosen if isinstance(wanted, int) else list(wanted) == chosen


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
