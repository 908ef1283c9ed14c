# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Files of a process that will lose its rights: opened in advance, and used by their names later.

Before :func:`hold` and :func:`prepare` are called, files are opened when they are asked for. Each process has one set
of rights, so there is one set of held files.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import stat as modes
from typing import IO, cast

# Temporary files that are made in advance: what a vmcore is unpacked to and put in order in, and findings.
FILES_PER_VMCORE = 4
SPARE_FILES = 4
# Open files that aren't of a vmcore, at most.
MOST_OTHERS = 600

_held: dict[str, int] = {}
_failed: dict[str, OSError] = {}
_scratch: list[int] = []
_null: int | None = None


def hold(path: str) -> None:
    """Open a file for later. That it can't be opened is said when it is asked for."""
    if path in _held or path in _failed:
        return
    try:
        # A FIFO must not block, and what isn't a file isn't read.
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if _is_readable(fd):
            os.close(fd)
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        _held[path] = fd
    except OSError as e:
        _failed[path] = e


def hold_descriptor(path: str, fd: int) -> None:
    """
    Hold a file that is open under a name.

    :param fd: Its descriptor; the caller no longer owns it.
    """
    _failed.pop(path, None)
    release(path)
    _held[path] = fd


def _is_readable(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return modes.S_ISREG(mode) or modes.S_ISBLK(mode)


def release(path: str) -> None:
    """Close a held file."""
    fd = _held.pop(path, None)
    if fd is not None:
        os.close(fd)


def allow_many(vmcores: int) -> None:
    """
    Let this process have as many open files as it can need.

    :param vmcores: How many will be open at the same time.
    """
    needed = MOST_OTHERS + (1 + FILES_PER_VMCORE) * 2 * vmcores
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard < 0 else min(needed, hard), hard))


def stat(path: str) -> os.stat_result:
    """
    Get the status of a file.

    :raises OSError: if it can't be opened.
    """
    if path in _failed:
        raise _failed[path]
    return os.fstat(_held[path]) if path in _held else os.stat(path)


def open_file(path: str) -> int:
    """
    Open a file for reading, from its start. Of a held file all descriptors have one position.

    :raises OSError: if it can't be opened.
    """
    if path in _failed:
        raise _failed[path]
    if path not in _held:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.dup(_held[path])
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def is_held(path: str) -> bool:
    """Tell whether a file was opened in advance."""
    return path in _held


def prepare(vmcores: int) -> None:
    """
    Get what the process will need and couldn't get without rights: the null device, and files for :func:`scratch`.

    :param vmcores: How many will be opened.
    """
    global _null
    _null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Without room for them, their first use says so.
    with contextlib.suppress(OSError):
        for _ in range(SPARE_FILES + FILES_PER_VMCORE * vmcores):
            with _unnamed() as file:
                _scratch.append(os.dup(file.fileno()))


def _unnamed() -> IO[bytes]:
    # It loads OpenSSL, for random names.
    import tempfile

    return tempfile.TemporaryFile(prefix="mminspect-")


class _Recycled(io.BufferedRandom):
    """A file that goes back to those that are free when it is closed."""

    def __init__(self, fd: int) -> None:
        super().__init__(io.FileIO(fd, "r+b"))
        self._spare = os.dup(fd)
        self._owner = os.getpid()

    def close(self) -> None:
        """Empty it, and give it back. In a worker process it is the parent's."""
        if not self.closed:
            super().close()
            if self._owner == os.getpid():
                os.ftruncate(self._spare, 0)
                os.lseek(self._spare, 0, os.SEEK_SET)
                _scratch.append(self._spare)


def scratch(is_kept: bool = False) -> IO[bytes]:
    """
    Make a temporary file that has no name, so it is gone on every way out.

    :param is_kept: Whether others have descriptors of it when it is closed.
    :raises OSError: if there is no room for it.
    """
    if _null is None:
        return _unnamed()
    if not _scratch:
        raise OSError(errno.EMFILE, "no more temporary files can be made without rights")
    fd = _scratch.pop()
    return open(fd, "w+b") if is_kept else cast(IO[bytes], _Recycled(fd))


def null() -> int:
    """Open the null device for writing."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if _null is None else os.dup(_null)
