"""Commands of tools/ in processes of their own, several at once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mmatm.errors import InputError

ROOT = Path(__file__).parents[2]
_running: set[subprocess.Popen] = set()


def run_tool(log: Path, threads: int, tool: str, *arguments: str) -> None:
    """Runs a command of tools/, and adds its output to a file.

    Raises:
        InputError: It failed; the message is the last line of its output.
    """
    paths = filter(None, (str(ROOT), str(Path.cwd()), os.environ.get('PYTHONPATH')))
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONPATH': os.pathsep.join(paths)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('a') as output:
        command = [sys.executable, str(ROOT / 'tools' / tool), *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _running.add(process)
        code = process.wait()
        _running.discard(process)
    if code:
        *_, last = log.read_text().splitlines() or ['no output']
        raise InputError(f'{tool} failed, see {log}: {last}')


def run_all(tasks: Sequence[Callable[[int], None]], jobs: int, done: Callable[[int], None]) -> None:
    """Runs tasks, several at once.

    Where this process is interrupted or terminated, the commands that `run_tool` started are too.

    Args:
        tasks: Each is called with its share of the machine's cores.
        jobs: How many at once.
        done: Called with 1 after each.

    Raises:
        InputError: As a task did; no other is begun then, and those under way are finished.
    """
    stop = threading.Event()

    def attempt(task: Callable[[int], None]) -> None:
        if stop.is_set():
            return
        try:
            task(threads_each(jobs))
        except BaseException:
            stop.set()
            raise

    before = signal.signal(signal.SIGTERM, _interrupt)
    with ThreadPoolExecutor(jobs) as pool:
        under_way = [pool.submit(attempt, task) for task in tasks]
        try:
            for future in as_completed(under_way):
                future.result()
                done(1)
        except KeyboardInterrupt:
            stop.set()
            for process in list(_running):
                process.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def threads_each(jobs: int) -> int:
    """The share of the machine's cores of each of some jobs."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt
