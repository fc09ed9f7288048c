"""Work that one process of each machine does while all others wait."""

import itertools
import os
import platform
import time
from collections.abc import Callable

from mmengine.dist import get_world_size, is_distributed, is_main_process
from torch.distributed.distributed_c10d import _get_default_store

from mmatm.errors import InputError

_SECONDS_BETWEEN_LOOKS = 0.2
_numbers = itertools.count()


def once_a_machine(work: Callable[[], None]) -> None:
    """Does something in the first process of each machine, and goes on when it is done on all of them.

    The others ask the processes' store whether it is: in a collective they would wait for some minutes only. All
    processes have to call this, in the same order.

    Raises:
        InputError: The work's, in every process.
    """
    is_first = os.environ.get('LOCAL_RANK', '0') == '0'
    if not is_distributed() or get_world_size() == 1:
        return work()
    store, name = _get_default_store(), f'mmatm_{next(_numbers)}'
    try:
        if is_first:
            work()
    except InputError as error:
        store.set(f'{name}_error', str(error) if is_main_process() else f'{platform.node()}: {error}')
    store.add(f'{name}_done', 1)
    while store.add(f'{name}_done', 0) < get_world_size():
        if store.check([f'{name}_error']):
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if store.check([f'{name}_error']):
        raise InputError(store.get(f'{name}_error').decode())
