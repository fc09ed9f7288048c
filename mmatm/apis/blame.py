"""Which part of a model stands in the way of its export."""

import traceback
from collections.abc import Iterable, Sequence
from types import FrameType

import torch
from torch import nn

from mmatm.errors import InputError

WHOLE = 'own forward pass'  # the part to blame where none of the model's modules is


def refusal(model: nn.Module, step: str, error: Exception, suspects: Sequence[str] = ()) -> InputError:
    """The error to raise for one in a step of the export: names the part at work, or else the suspects."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    part = _part_at_work(model, error) or ' and '.join(suspects) or WHOLE
    line = traceback.extract_tb(cause.__traceback__)[-1].line
    what = ' '.join((str(cause) or f'at {line}').split())[:300]
    return InputError(
        f'{type(model).__name__} cannot be exported: {step} failed in its {part}: {type(cause).__name__}: {what}'
    )


def _part_at_work(model: nn.Module, error: BaseException | None) -> str:
    """The innermost module that was at work when an error was raised, '' for the model itself."""
    names = module_names(model)
    part = ''
    while error is not None:
        part = innermost(names, [frame for frame, _ in traceback.walk_tb(error.__traceback__)]) or part
        error = error.__cause__
    return part


def innermost(names: dict[int, str], frames: Iterable[FrameType]) -> str:
    """The name of the last module that a frame belongs to: as `self` of a method, or through a node of a graph.

    Hooks would not see the heads of detectors, whose forward() is called directly.
    """
    part = ''
    for frame in frames:
        part = names.get(id(frame.f_locals.get('self')), part)
        for value in frame.f_locals.values():
            if isinstance(value, torch.fx.Node) and value.meta.get('nn_module_stack'):
                part = own_name(list(value.meta['nn_module_stack'].values())[-1][0])
    return part


def own_name(name: str) -> str:
    """The name of a module of `RawOutputs` -> its name in the model."""
    return name.partition('model.')[2]


def module_names(model: nn.Module) -> dict[int, str]:
    """The names of a model's modules, by the modules' ids."""
    return {id(module): name for name, module in model.named_modules()}
