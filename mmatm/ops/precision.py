"""Which type operations compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context on x's device in which autocast changes no types."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
