"""Loads the CPU kernels: C++ libraries that are built when mmatm is installed, and called through ctypes."""

import ctypes
import functools
import platform
import warnings
import zlib
from pathlib import Path

import torch

_BUILD = (
    'reinstall mmatm on a machine with a C++ compiler: `pip install --force-reinstall --no-deps --no-cache-dir`, in a '
    'clone followed by `-e .`'
)


@functools.cache
def say_once(message: str) -> None:
    """Warns of what runs slower than it could, once for each message."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def load_library(folder: Path, name: str) -> ctypes.CDLL | str:
    """The library of an operation, or why there is none.

    Args:
        folder: The operation's.
        name: Of its source, `NAME.cpp`; the library is `_NAME`.
    """
    path = next(folder.glob(f'_{name}*.so'), None)
    if path is None:
        return f'the CPU kernel was not built: {_BUILD}'
    x86 = platform.machine().lower() in ('x86_64', 'amd64')
    if x86 and not torch.backends.cpu.get_cpu_capability().startswith('AVX'):
        return 'the CPU kernel needs a processor with AVX2'
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f'the CPU kernel does not load ({error}): {_BUILD}'
    source = folder / f'{name}.cpp'  # not in a wheel
    if source.exists() and zlib.crc32(source.read_bytes()) != ctypes.c_uint32.in_dll(library, 'source_crc').value:
        return f'the CPU kernel was built from another version of its source: {_BUILD}'
    return library
