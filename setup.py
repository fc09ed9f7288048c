"""Builds the CPU kernel where a C++ compiler is there; all else about the package is in setup.cfg."""

import platform
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

flags = ['-O3', '-std=c++17', '-fvisibility=hidden', '-fno-math-errno', '-fno-trapping-math', '-Wno-psabi']
if platform.machine().lower() in ('x86_64', 'amd64'):
    flags += ['-mavx2', '-mfma']
source = 'mmatm/ops/axial_sampling/axial_sample.cpp'
openmp = [] if sys.platform == 'darwin' else ['-fopenmp']  # Apple's compiler has none: one thread there

setup(
    ext_modules=[
        Extension(
            'mmatm.ops.axial_sampling._axial_sample',
            [source],
            define_macros=[('SOURCE_CRC', f'{zlib.crc32(Path(source).read_bytes())}u')],
            extra_compile_args=flags + openmp,
            extra_link_args=openmp,
            # A plain library for ctypes: it fits every Python, and the package works without it.
            py_limited_api=True,
            optional=True,
        )
    ]
)
