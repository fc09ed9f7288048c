"""Commands of tools/ in processes of their own, several at once."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mmatm.errors import InputError

ROOT = Path(__file__).parents[2]


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
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        *_, last = log.read_text().splitlines() or ['no output']
        raise InputError(f'{tool} failed, see {log}: {last}')


def run_all(tasks: Sequence[Callable[[int], None]], jobs: int, done: Callable[[int], None]) -> None:
    """Runs tasks, several at once.

    Args:
        tasks: Each is called with its share of the machine's cores.
        jobs: How many at once.
        done: Called with 1 after each.

    Raises:
        InputError: As a task did; no other is begun then, and those under way are finished.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        under_way = [pool.submit(task, threads) for task in tasks]
        try:
            for future in as_completed(under_way):
                future.result()
                done(1)
        finally:
            for future in under_way:
                future.cancel()
