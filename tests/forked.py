"""Processes that tests start, wait for and end, however slow or busy the machine is."""

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import quick  # noqa: F401

ROOT = Path(__file__).parents[1]
LIMIT = 900  # seconds, after which what is waited for is taken to hang

# Forked from a process that has imported everything, and that itself does nothing else.
_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload([
    'mmatm.engine.runner', 'mmatm.models', 'mmatm.engine.curves', 'mmseg.apis', 'mmseg.models', 'mmseg.datasets',
    'mmdet.models',
    'mmdet.datasets', 'mmpretrain.models', 'mmpretrain.datasets', 'matplotlib.figure', 'pkg_resources', 'pytest',
])  # fmt: skip


def _run(function: Callable, output: Path, arguments: tuple, environment: dict[str, str]) -> None:
    gc.freeze()  # what was imported is no garbage
    os.setsid()  # with the workers that load the data, to be killed with them
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def start(function: Callable, output: Path, *arguments: object, **environment: str) -> BaseProcess:
    """Starts a function in a process, and session, of its own; what it prints goes into a file.

    Args:
        function: What can be pickled.
        output: The file.
        arguments: Of the function.
        environment: Variables besides those of this process.
    """
    if forkserver._forkserver._forkserver_pid is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('OMP_NUM_THREADS', '1')  # PyTorch looks at it when it is imported
            forkserver.ensure_running()
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
    process = _context.Process(target=_run, args=(function, output, arguments, environment))
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """Ends a process, if it has not ended, and all of its session; `exitcode` tells which it was."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # before setsid, or after its end
        process.kill()
    process.join(LIMIT)
    assert process.exitcode is not None, 'a process that cannot be killed'


def wait(process: BaseProcess) -> int:
    """Waits for the end of a process and returns its exit status, negative for a signal."""
    process.join(LIMIT)
    if process.exitcode is None:
        kill(process)
        pytest.fail(f'a process did not end in {LIMIT} s')
    return process.exitcode


def wait_until(holds: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < limit, f'{what}: not in {LIMIT} s'
        time.sleep(0.02)


def run_tool(name: str, *arguments: object) -> None:
    """`python tools/NAME ...` in this process."""
    sys.argv = [str(ROOT / 'tools' / name), *map(str, arguments)]
    sys.path[:0] = [str(ROOT / 'tools'), *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
    runpy.run_path(sys.argv[0], run_name='__main__')


def processes(word: str, variable: str = '') -> list[int]:
    """Those with a word in their command line and a variable (`NAME=value`) in their environment, oldest first."""
    found = []
    for path in Path('/proc').glob('[0-9]*'):
        # A process may end between any two of these lines; others' environments are not for us.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if word.encode() not in (path / 'cmdline').read_bytes():
                continue
            if variable and variable.encode() not in (path / 'environ').read_bytes().split(b'\0'):
                continue
            found.append((int((path / 'stat').read_bytes().rpartition(b')')[2].split()[19]), int(path.name)))
    return [pid for _, pid in sorted(found)]


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that a server in another process can listen on, and that nobody is given meanwhile."""
    with socket.socket() as holder:
        # The kernel lets a second socket have a port if both say so and none listens yet, but gives it to none that
        # asks for any port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(('', 0))
        yield holder.getsockname()[1]
