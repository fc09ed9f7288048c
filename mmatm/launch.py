"""`torchrun`, but a process that fails has the last word: `python -m mmatm.launch` takes torchrun's arguments."""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    try:
        main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(f'process {rank} ended with exit status {failure.exitcode}')
