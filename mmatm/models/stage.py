"""A stage of a backbone: blocks of one resolution."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stage(nn.Module):
    """The blocks of one resolution, behind the downsampling that leads to it.

    Args:
        downsample: Takes the feature map of the stage before; None in the first stage, which follows the stem.
        blocks: Called with the feature map, and with what `forward` of a subclass adds.

    Attributes:
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
    """

    with_cp = False

    def __init__(self, downsample: nn.Module | None, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of the stage before -> feature map of this stage, with the axes that the backbone works on."""
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = self.run(block, x)
        return x

    def run(self, block: nn.Module, x: Tensor, *extra: Tensor | None) -> Tensor:
        """Calls a block, with checkpointing if the stage is told so."""
        return recompute(block, x, *extra) if self.with_cp else block(x, *extra)


def recompute(module: nn.Module, x: Tensor, *extra: Tensor | None) -> Tensor:
    """Calls a module and, of all activations, keeps its inputs alone: the backward pass computes the others anew.

    Batch norms count a feature map once.

    Args:
        module: Draws the same random numbers again, so that drop path drops the same samples.
        x, *extra: What it is called with.

    Returns:
        What the module returns.
    """
    if not torch.is_grad_enabled():
        return module(x, *extra)
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if not norms or torch.compiler.is_compiling():  # whose recomputation has no side effects
        return checkpoint(module, x, *extra, use_reentrant=False)
    return checkpoint(module, x, *extra, use_reentrant=False, context_fn=partial(_contexts, norms))


def _contexts(norms: list[nn.Module]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of the forward pass and of its recomputation."""
    return nullcontext(), _KeepStatistics(norms)


class _KeepStatistics(AbstractContextManager):
    """In here, batch norms leave their statistics as they are. It is entered once for each backward pass."""

    def __init__(self, norms: list[nn.Module]) -> None:
        self.norms = [norm for norm in norms if norm.training and norm.track_running_stats]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
