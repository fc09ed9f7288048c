"""Work that one process of each machine does while all others wait."""

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.dist import get_world_size, is_distributed, is_main_process
from torch.distributed.distributed_c10d import _get_default_store

from mmatm.errors import InputError

_SECONDS_BETWEEN_LOOKS = 0.2
_ERROR = 'mmatm_error'
_numbers = itertools.count()


def _alone() -> bool:
    return not is_distributed() or get_world_size() == 1


@contextmanager
def announce_errors() -> Iterator[None]:
    """Tells processes that wait in `once_per_machine` of an error in the block, so that they end too."""
    try:
        yield
    except Exception as error:
        if not _alone():
            words = str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
            _get_default_store().set(_ERROR, words if is_main_process() else f'{platform.node()}: {words}')
        raise


def once_per_machine(work: Callable[[], None]) -> None:
    """Does something in the first process of each machine, and returns when it is done on all of them.

    The others poll the processes' store: a collective would time out after some minutes. All processes have to call
    this, in the same order.

    Raises:
        InputError: In place of an error of another process.
    """
    if _alone():
        return work()
    store, name = _get_default_store(), f'mmatm_{next(_numbers)}'
    with announce_errors():
        if os.environ.get('LOCAL_RANK', '0') == '0':
            work()
    store.add(name, 1)
    while store.add(name, 0) < get_world_size():
        if store.check([_ERROR]):
            raise InputError(store.get(_ERROR).decode())
        time.sleep(_SECONDS_BETWEEN_LOOKS)
