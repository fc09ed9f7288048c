"""What measurements depend on, to be recorded beside them."""

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mmatm.stack import FORKS, UPSTREAM, installed
from mmatm.version import __version__


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """The versions of mmatm, Python and PyTorch, and of MMEngine, the toolboxes and `more` where they are installed."""
    own = dict(mmatm=__version__, python=platform.python_version(), torch=torch.__version__)
    return {**own, **installed([*UPSTREAM, *FORKS, *more])}


def environment(device: str) -> dict[str, Any]:
    """The versions of packages, and what computes on a device, ``'cpu'`` or ``'cuda'``."""
    names = [line.split(':')[1].strip() for line in _cpu_info() if line.startswith('model name')]
    found = dict(
        **versions(),
        cpu=names[0] if names else platform.processor(),
        threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
    )
    if device == 'cuda':
        found['gpu'] = torch.cuda.get_device_name()
    return found


def _cpu_info() -> list[str]:
    path = Path('/proc/cpuinfo')
    return path.read_text().splitlines() if path.exists() else []
