"""What figures depend on, to be written down beside them."""

import platform
from pathlib import Path
from typing import Any

import torch

from mmatm.version import __version__


def environment(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    names = [line.split(':')[1].strip() for line in _cpu_info() if line.startswith('model name')]
    found = dict(
        mmatm=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
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
