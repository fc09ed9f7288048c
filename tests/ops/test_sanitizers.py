"""The CPU kernel under AddressSanitizer and UndefinedBehaviorSanitizer, by a program without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

FLAGS = ['-std=c++17', '-g', '-O1', '-Wno-psabi', '-fopenmp', '-DSOURCE_CRC=0u']
SANITIZERS = ['-fsanitize=address,undefined,float-cast-overflow', '-fno-sanitize-recover=all']
CASES = 6_000


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """Builds the sources with sanitizers; returns the program."""
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('needs g++')
    folder = tmp_path_factory.mktemp('sanitizers')

    def build(*sources: Path) -> Path:
        program = folder / sources[0].stem
        done = subprocess.run(
            [compiler, *FLAGS, *SANITIZERS, *map(str, sources), '-o', str(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return program

    # Some compilers come without the sanitizers' libraries, and then nothing can be built with them.
    (folder / 'nothing.cpp').write_text('int main() {}')
    try:
        build(folder / 'nothing.cpp')
    except AssertionError as error:
        pytest.skip(f'this g++ has no sanitizers: {str(error)[-300:]}')
    return build


@pytest.mark.parametrize(
    'source',
    ['axial_sampling/axial_sample.cpp', 'depthwise/depthwise.cpp', 'spectral/spectral.cpp'],
    ids=lambda source: source.partition('/')[0],
)
def test_the_cpu_kernel_on_random_cases(build, source):
    kernel = ROOT / 'mmatm/ops' / source
    program = build(ROOT / f'tests/ops/sanitize_{kernel.name}', kernel)
    # Leaks are counted by the program: looking for them at the end is not allowed everywhere.
    options = {'ASAN_OPTIONS': 'detect_leaks=0', 'UBSAN_OPTIONS': 'print_stacktrace=1', 'OMP_WAIT_POLICY': 'passive'}
    done = subprocess.run(
        [program, str(CASES), '20'],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        errors='replace',
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[:5000]
    assert done.stdout == f'{CASES} cases\n'
