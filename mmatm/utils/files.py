"""Files that get their name only when they are whole, and that one process at a time writes."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mmengine.logging import print_log

from mmatm.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to, which becomes `path` when the block ends without an error.

    One temporary path serves all files of a folder: what a kill leaves there, the next file overwrites.

    Raises:
        OSError: As writing raised it, with the path if it named none.
    """
    partial = path.with_name('unfinished.partial')
    try:
        yield partial
        give_name(partial, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as where writing to an open file fails
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def give_name(partial: Path, path: Path) -> None:
    """Renames a file that is whole, once it is on the disk."""
    with partial.open('rb+') as file:
        os.fsync(file.fileno())  # network disks tell here that they are full
    partial.replace(path)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Lets only one process at a time write a file; the others wait at the beginning of the block.

    While a process is in the block there is a `NAME.lock` beside the file. A kill frees it.

    Yields:
        Whether the file system supports locks. If not, several processes may be in the block.

    Raises:
        InputError: That of the process that was waited for, so that not each process repeats the attempt.
    """
    lock = path.with_name(f'{path.name}.lock')
    while True:
        with lock.open('a+') as file:
            locked = _lock(file.fileno(), path)
            if locked and not _is(file.fileno(), lock):  # who was waited for has finished, and removed it
                file.seek(0)
                if error := file.read():
                    raise InputError(error)
                continue
            file.truncate(0)  # of a process that was killed
            try:
                yield locked
            except InputError as error:
                file.write(str(error))
                file.flush()
                raise
            finally:
                lock.unlink(missing_ok=True)  # before others get hold of it
            return


@contextmanager
def first_to_do(note: Path) -> Iterator[bool]:
    """Lets one of several processes do something, noted in a file; the others wait at the beginning of the block.

    Yields:
        Whether none has done it yet. True for all where nothing can be noted, as on a full disk.
    """
    done, file = False, None
    with ExitStack() as stack:
        with suppress(OSError):
            note.parent.mkdir(exist_ok=True)
            file = stack.enter_context(note.open('a+'))
            if fcntl is not None:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # until it is done; a kill frees it
            file.seek(0)
            done = bool(file.read())
        yield not done
        if file is not None and not done:
            with suppress(OSError):
                os.write(file.fileno(), b'done')


def _lock(descriptor: int, path: Path) -> bool:
    if fcntl is None:
        return False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log(f'waiting for another process that is writing {path}', 'current')
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
