# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The content of a file as a short text: equal only for the same content.

Of captures, logs and small vmcores it is a hash of all bytes. To hash a large vmcore would take longer than to judge
it. There it is a hash of its size, the time of its last change to the nanosecond, and pieces: the first, the last and
some in between. So a large file is known again when it was moved, linked, or copied with its time, but not after other
copies: then it is read once more, which costs time and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

# Up to so many bytes all of a file is hashed.
WHOLE = 64 << 20
PIECE = 1 << 20
# Pieces of a larger file, and their bytes.
SAMPLES = 64
SAMPLE = 64 << 10


def open_regular(path: str) -> int:
    """
    Open a file for reading. No other kind of file is opened, not even for a moment.

    :raises OSError: if it can't be.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


def content_id(path: str, size: int, mtime_ns: int) -> str | None:
    """
    Identify what is in a file.

    :param size: Bytes that it is expected to have.
    :param mtime_ns: Time of its last change, likewise.
    :return: ``None`` if it can't be read, or is another by now.
    """
    try:
        fd = open_regular(path)
    except OSError:
        return None
    try:
        if not _is_as_expected(fd, size, mtime_ns):
            return None
        digest = hashlib.blake2b(digest_size=20)
        if size <= WHOLE:
            while piece := os.read(fd, PIECE):
                digest.update(piece)
        else:
            digest.update(b"%d %d " % (size, mtime_ns))
            for number in range(SAMPLES):
                digest.update(os.pread(fd, SAMPLE, (size - SAMPLE) * number // (SAMPLES - 1)))
        # What is written to meanwhile has no content yet.
        if not _is_as_expected(fd, size, mtime_ns):
            return None
    except OSError:
        return None
    finally:
        os.close(fd)
    return f"{'all' if size <= WHOLE else 'some'}-{digest.hexdigest()}"


def _is_as_expected(fd: int, size: int, mtime_ns: int) -> bool:
    found = os.fstat(fd)
    return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)


def is_unchanged(path: str, size: int, mtime_ns: int) -> bool:
    """Tell whether a file is still the one that was listed."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)
