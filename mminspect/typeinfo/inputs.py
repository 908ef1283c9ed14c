# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that the user names beside the vmcore."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from typing import IO

from mminspect.errors import TypeInfoError
from mminspect.program import files


@contextlib.contextmanager
def open_input(path: str, what: str) -> Iterator[IO[bytes]]:
    """
    Open a regular file for reading. Others could block, or never end.

    :param what: What the file should be, for messages, e.g. ``a System.map``.
    :raises TypeInfoError: if it can't be opened, or is something else.
    """
    if not path:
        raise TypeInfoError(f"the name of the file is empty; give {what}")
    try:
        mode = files.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise TypeInfoError(f"{path}: is a directory; give {what}")
        if not stat.S_ISREG(mode):
            raise TypeInfoError(f"{path}: not a regular file; give {what}")
        with open(files.open_file(path), "rb") as file:
            yield file
    except OSError as e:
        raise TypeInfoError(f"{path}: {e.strerror or e}") from None
