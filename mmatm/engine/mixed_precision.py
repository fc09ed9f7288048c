"""Mixed precision on machines without CUDA, where MMEngine has none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from torch import nn

from mmatm.errors import InputError
from mmatm.registry import OPTIM_WRAPPERS

# Settings of MMEngine's AmpOptimWrapper that others do not have.
OF_AMP = ('loss_scale', 'dtype', 'use_fsdp')
# What takes its place, and what a training computes in then.
PRECISIONS = {'mmatm.CpuAmpOptimWrapper': 'bfloat16', 'OptimWrapper': 'float32'}


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Mixed precision of bfloat16 on a CPU, by autocast; it needs no scaling of losses.

    The runner puts it in the place of MMEngine's ``AmpOptimWrapper``, see `fit_to_machine`.

    Args:
        settings: Those of ``OptimWrapper``.

    Raises:
        InputError: There is a GPU, on which this would cast nothing.
    """

    def __init__(self, **settings: Any) -> None:
        if torch.cuda.is_available():
            raise InputError(
                'mmatm.CpuAmpOptimWrapper is for CPUs, and there is a GPU here: set optim_wrapper.type=AmpOptimWrapper'
            )
        super().__init__(**settings)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What the forward pass of a training step runs in."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def fit_to_machine(wrapper: dict[str, Any], model: nn.Module) -> str:
    """Where there is no CUDA, replaces MMEngine's mixed precision by what the CPU has.

    That is bfloat16 if the CPU has instructions for it. Detectors are in float32 even so: their boxes need it, and mmcv
    has their operations on CPUs in no other type.

    Args:
        wrapper: The config of an optimizer wrapper; changed in place.
        model: What is trained.

    Returns:
        What to tell the user; nothing if nothing was changed.
    """
    if torch.cuda.is_available():
        return ''
    kind = wrapper.get('type')
    if isinstance(kind, str):
        kind = MMENGINE_OPTIM_WRAPPERS.get(kind)
    if kind is not AmpOptimWrapper:
        return ''
    for key in OF_AMP:
        wrapper.pop(key, None)
    bfloat16, float32 = PRECISIONS
    of_mmdet = any(kind.__module__.startswith('mmdet.') for kind in type(model).__mro__)
    wrapper['type'] = bfloat16 if computes_bfloat16() and not of_mmdet else float32
    if wrapper['type'] == bfloat16:
        return 'no CUDA here: mixed precision in bfloat16 on the CPU'
    why = 'detectors have no other precision on a CPU' if of_mmdet else 'PyTorch knows of no bfloat16 instructions here'
    return f'no CUDA here: training in float32 instead of mixed precision, as {why}'


def mixed_with() -> str:
    """What mixed precision is of on this machine, but for detectors on a CPU; ``'float32'`` if it has none."""
    if torch.cuda.is_available():
        return 'float16'
    return 'bfloat16' if computes_bfloat16() else 'float32'


def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16, as far as PyTorch tells: those of x86."""
    found = getattr(torch.cpu, 'get_capabilities', dict)()  # not in earlier versions
    return bool(found.get('avx512_bf16') or found.get('amx_bf16'))
