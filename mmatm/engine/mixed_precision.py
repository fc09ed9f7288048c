"""Mixed precision on machines without CUDA, where MMEngine has none."""

from collections.abc import Iterator, Mapping
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


def fit_to_machine(wrapper: dict[str, Any], model: nn.Module) -> tuple[dict[str, Any], str]:
    """Where there is no CUDA, replaces MMEngine's mixed precision by what the CPU has.

    That is bfloat16 if the CPU has instructions for it, but float32 for models with parts of mmdet or operations of
    mmcv, NMS among them, which have no bfloat16 on CPUs.

    Args:
        wrapper: The config of an optimizer wrapper, or of several by name.
        model: What is trained.

    Returns:
        The config, a changed copy if need be; and what to tell the user, nothing if nothing was changed.
    """
    if torch.cuda.is_available():
        return wrapper, ''
    if not {'type', 'optimizer'} & wrapper.keys():
        fitted = {key: fit_to_machine(each, model) for key, each in wrapper.items() if isinstance(each, dict)}
        said = next((said for _, said in fitted.values() if said), '')
        return ({**wrapper, **{key: each for key, (each, _) in fitted.items()}}, said) if said else (wrapper, '')
    kind = wrapper.get('type')
    if isinstance(kind, str):
        kind = MMENGINE_OPTIM_WRAPPERS.get(kind)
    if kind is not AmpOptimWrapper:
        return wrapper, ''
    bfloat16, float32 = PRECISIONS
    needs_float32 = any(type(part).__module__.startswith(('mmdet.', 'mmcv.ops.')) for part in model.modules())
    new = bfloat16 if computes_bfloat16() and not needs_float32 else float32
    rest = {key: value for key, value in wrapper.items() if key not in OF_AMP}
    if new == bfloat16:
        return {**rest, 'type': new}, 'no CUDA here: mixed precision in bfloat16 on the CPU'
    reason = (
        'operations of mmcv or mmdet in it have no bfloat16 on a CPU'
        if needs_float32
        else 'PyTorch knows of no bfloat16 instructions here'
    )
    return {**rest, 'type': new}, f'no CUDA here: training in float32 instead of mixed precision, as {reason}'


def precision_of(wrapper: Mapping[str, Any]) -> str:
    """What is computed in by the config of an optimizer wrapper that a checkpoint records."""
    return PRECISIONS.get(wrapper.get('type', 'OptimWrapper')) or wrapper.get('dtype') or 'float16'


def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16, as far as PyTorch tells: those of x86."""
    found = getattr(torch.cpu, 'get_capabilities', dict)()  # not in earlier versions
    return bool(found.get('avx512_bf16') or found.get('amx_bf16'))
