# SPDX-License-Identifier: LGPL-2.1-or-later
"""Output files that appear only when all of them is written."""

import contextlib
import os
import stat
import sys
import tempfile
from typing import IO, Any, Iterator, Optional

from mminspect.errors import MminspectError


def check_writable(path: Optional[str]) -> None:
    """
    Check that an output file can be made, before the work for it is done.

    :raises MminspectError: if it can't.
    """
    if path is None or path == "-":
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise MminspectError(f"{path}: is a directory; give a file to write")
    if not os.path.isdir(directory):
        raise MminspectError(f"{path}: can't be written: there is no directory {directory}")
    if not os.access(directory, os.W_OK):
        raise MminspectError(f"{path}: can't be written: permission denied")


@contextlib.contextmanager
def open_output(path: Optional[str], binary: bool = False) -> Iterator[IO[Any]]:
    """
    Open an output file, or stdout.

    A regular file is made beside its final place and is moved there at the end. On failure nothing is left. A
    symbolic link at the final place is replaced, not followed.

    :param path: Path, ``None`` or ``-`` for stdout.
    :param binary: Whether bytes are written.
    :raises MminspectError: if the file can't be written.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer if binary else sys.stdout
        return
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    try:
        check_writable(path)
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, mode, encoding=encoding) as out:
                yield out
            return
        fd, temporary = tempfile.mkstemp(prefix=".mminspect-", dir=os.path.dirname(path) or ".")
    except OSError as e:
        raise MminspectError(f"{path}: can't be written: {e.strerror}") from None
    try:
        with open(fd, mode, encoding=encoding) as out:
            yield out
        # mkstemp() makes it private; the file shall have the rights that the caller's umask gives.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BrokenPipeError:
        os.unlink(temporary)
        raise
    except OSError as e:
        os.unlink(temporary)
        raise MminspectError(f"{path}: can't be written: {e.strerror}") from None
    except BaseException:
        os.unlink(temporary)
        raise
