#!/usr/bin/env python
"""Builds mmcv for this Python's PyTorch and installs it: `python tools/build_mmcv.py mmcv==2.1.0`.

Without CUDA, its 77 C++ files are joined into a few, as nearly all of the compile time goes into PyTorch's headers,
which all of them include. With CUDA it is built as it comes.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from sysconfig import get_config_var

PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
AS_IT_IS = ['--no-deps', '--no-build-isolation']
# They define macros, functions or structs of the same names as others, and are compiled alone.
ALONE = {
    'cpu/psamask.cpp',
    'cpu/bezier_align.cpp',
    'cpu/roi_align.cpp',
    'cpu/roi_align_rotated.cpp',
    'cpu/rotated_feature_align.cpp',
}


def main() -> None:
    requirement = sys.argv[1]
    if builds_for_device():
        install(requirement)
        if not loads():  # pip's cache holds one that was built against another torch
            install(requirement, '--no-cache-dir', '--force-reinstall')
    else:
        folder = Path(sys.prefix) / 'build-mmcv'
        shutil.rmtree(folder, ignore_errors=True)
        # Debug information of PyTorch's headers is more than half of the time. Newer setuptools take CFLAGS in place of
        # Python's own flags, optimisation among them: they are repeated.
        flags = {'CFLAGS': f'{get_config_var("CFLAGS")} {os.environ.get("CFLAGS", "")} -g0', 'MAX_JOBS': str(cores())}
        source = unpack(requirement, folder / 'joined')
        join(source / 'mmcv/ops/csrc')
        try:
            install(str(source), **flags)
        except subprocess.CalledProcessError:
            say('the joined files of mmcv do not compile here: building it file by file, 10 to 25 minutes on 2 cores')
            install(str(unpack(requirement, folder / 'plain')), **flags)
        shutil.rmtree(folder)
    if not loads():
        sys.exit(f'{requirement} was built, but does not load; the error is above')


def builds_for_device() -> bool:
    """Whether mmcv's setup.py compiles more than its C++ files here."""
    import torch

    forced = any(os.environ.get(f'FORCE_{device}') == '1' for device in ('CUDA', 'MLU', 'MPS', 'NPU'))
    return forced or torch.cuda.is_available() or torch.backends.mps.is_available()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def unpack(requirement: str, folder: Path) -> Path:
    """Downloads the source of a package, and returns the folder that has its setup.py."""
    subprocess.run(
        [*PIP, 'download', *AS_IT_IS, '--no-binary', ':all:', '--dest', str(folder), requirement], check=True
    )
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as file:
        # Python 3.11 has the filter from 3.11.4 on.
        file.extractall(folder, **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
    return folder / archive.name.removesuffix('.tar.gz')


def join(csrc: Path) -> None:
    """Moves the C++ files out of sight of mmcv's setup.py, and writes as many as there are cores that include them."""
    plain, joined = csrc / 'plain', csrc / 'pytorch'
    joined.rename(plain)
    joined.mkdir()
    files = [path.relative_to(plain).as_posix() for path in sorted([*plain.glob('*.cpp'), *plain.glob('cpu/*.cpp')])]
    together = [file for file in files if file not in ALONE]
    count = min(max(cores(), 2), 8)
    groups = [together[i::count] for i in range(count)] + [[file] for file in files if file in ALONE]
    for i, group in enumerate(groups):
        (joined / f'joined_{i}.cpp').write_text(''.join(f'#include "../plain/{file}"\n' for file in group))


def install(what: str, *options: str, **environment: str) -> None:
    command = [*PIP, 'install', '-v', *AS_IT_IS, *options, what]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def loads() -> bool:
    return subprocess.run([sys.executable, '-c', 'import mmcv.ops'], check=False).returncode == 0


def say(line: str) -> None:
    """On the screen: of standard output tools/setup.sh makes a log file."""
    print(line, flush=True)
    if 'SCREEN' in os.environ:
        with open(int(os.environ['SCREEN']), 'w', closefd=False) as screen:
            print(f'    {line}', file=screen)


if __name__ == '__main__':
    main()
