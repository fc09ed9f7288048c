"""`python -m mmatm.engine.launch`: torchrun with its arguments, which ends with one line on the process that failed."""

import os
import signal
import sys
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def describe(error: ChildFailedError) -> str:
    """Names the process that failed first, and how it ended."""
    # A kill comes from outside, and the others' errors in the same second from it.
    failures = error.failures
    rank = min(failures, key=lambda rank: (failures[rank].timestamp, failures[rank].exitcode != -signal.SIGKILL))
    if failures[rank].exitcode == -signal.SIGKILL:
        return f'process {rank} was killed (SIGKILL), as the system does when memory runs out'
    if failures[rank].exitcode < 0:
        return f'process {rank} was ended by {failures[rank].signal_name()}'
    return f'process {rank} ended with exit status {failures[rank].exitcode}'


if __name__ == '__main__':
    try:
        with TemporaryDirectory(prefix='mmatm-') as said:
            os.environ['MMATM_SAID'] = said  # where processes note what they said, see mmatm/utils/command_line.py
            main()
    except ChildFailedError as error:
        sys.exit(describe(error))
    except SignalException as error:
        sys.exit(f'all processes were ended by {signal.Signals(error.sigval).name}')
