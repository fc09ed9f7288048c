"""Mixed precision on machines without CUDA, where MMEngine has none."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from mmatm.registry import OPTIM_WRAPPERS

_OF_CUDA = ('loss_scale', 'dtype', 'use_fsdp')


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: bfloat16 where autocast has it, which needs no scaling of losses.

    `fit_to_machine` puts it in the place of MMEngine's ``AmpOptimWrapper``. Arguments are those of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What the forward pass of a training step runs in."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def fit_to_machine(cfg: Config) -> None:
    """Where there is no CUDA, replaces float16's mixed precision by that of the CPU, and logs that.

    It is bfloat16's on a CPU that computes in it, else there is none: training is in float32.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') != 'AmpOptimWrapper' or torch.cuda.is_available():
        return
    for key in _OF_CUDA:
        wrapper.pop(key, None)
    if computes_bfloat16():
        wrapper['type'] = 'mmatm.CpuAmpOptimWrapper'
        print_log('no CUDA here: mixed precision in bfloat16 on the CPU', 'current')
    else:
        wrapper['type'] = 'OptimWrapper'
        print_log(
            'no CUDA here, nor a CPU with instructions for bfloat16: training in float32 instead of mixed precision',
            'current',
        )


def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16, as far as PyTorch tells; those of x86."""
    found = getattr(torch.cpu, 'get_capabilities', dict)()  # not in earlier versions
    return bool(found.get('avx512_bf16') or found.get('amx_bf16'))
