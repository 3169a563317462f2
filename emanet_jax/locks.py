"""Locks between processes, by a file."""

import contextlib
import errno
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # answers of some network disks

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Holds the lock of a file until the `with` block ends; gives whether it is held.

    The system frees the lock when its holder ends, however it ends. A disk that knows no locks is
    logged, and the block runs without one.

    Args:
        path: of the file, made if need be.
        wait: for another process that holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
        OSError: the file cannot be opened for writing.
    """
    with path.open("a") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.info("%s is on a disk without locks: let one process at a time write there.", path)
            held = False
        yield held
