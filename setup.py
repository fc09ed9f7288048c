"""Builds the CPU kernels where a C++ compiler is there; all else about the package is in setup.cfg."""

import platform
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

flags = ['-O3', '-std=c++17', '-fvisibility=hidden', '-fno-math-errno', '-fno-trapping-math', '-Wno-psabi']
if platform.machine().lower() in ('x86_64', 'amd64'):
    flags += ['-mavx2', '-mfma']
openmp = [] if sys.platform == 'darwin' else ['-fopenmp']  # Apple's compiler has none: one thread there


def kernel(folder: str, name: str) -> Extension:
    """The library of an operation: a plain one for ctypes, which fits every Python. The package works without it."""
    source = f'mmatm/ops/{folder}/{name}.cpp'
    return Extension(
        f'mmatm.ops.{folder}._{name}',
        [source],
        define_macros=[('SOURCE_CRC', f'{zlib.crc32(Path(source).read_bytes())}u')],
        extra_compile_args=flags + openmp,
        extra_link_args=openmp,
        py_limited_api=True,
        optional=True,
    )


setup(
    ext_modules=[
        kernel('axial_sampling', 'axial_sample'),
        kernel('depthwise', 'depthwise'),
        kernel('spectral', 'spectral'),
    ]
)
