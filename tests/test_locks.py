"""Locks between processes, and disks that have none."""

import errno
import fcntl
import logging
import os

import pytest

from emanet_jax.locks import file_lock


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path, wait=False), pytest.raises(BlockingIOError), file_lock(path, wait=False):
        pass
    with file_lock(path, wait=True) as held, path.open() as file, pytest.raises(BlockingIOError):
        assert held
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "ENOTSUP"])
@pytest.mark.parametrize("wait", [False, True])
def test_a_disk_without_locks_is_logged(tmp_path, monkeypatch, caplog, code, wait):
    def flock(*_):
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    with caplog.at_level(logging.INFO, "emanet_jax"), file_lock(path, wait=wait) as held:
        assert not held
    assert f"{path} is on a disk without locks" in caplog.text


def test_other_errors_are_raised(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), file_lock(tmp_path / "lock", wait=True):
        pass
