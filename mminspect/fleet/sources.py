# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user names as a fleet: files, folders, globs and lists of these."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mminspect.errors import MminspectError

# What a line of a list can have: the longest path.
MAX_LINE = 1 << 16


class Source(NamedTuple):
    """
    A file.

    :ivar skipped: Why it isn't read, ``None`` if it is.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    skipped: str | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells whether it was read already."""
        return self.path, self.size, self.mtime_ns


def expand(names: Sequence[str]) -> Iterator[Source]:
    """
    Go through the files that are named, each once, those of a folder in the order of their names.

    :param names: Files, folders, globs, and ``@LIST``: a file with one of these in each line.
    :raises MminspectError: if a list can't be read, or a name is no file's.
    """
    seen: set[str] = set()
    for name in _named(names):
        for path in _files(name):
            path = os.path.abspath(path)
            if path not in seen:
                seen.add(path)
                yield look_at(path)


def _named(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if not name.startswith("@"):
            yield name
            continue
        try:
            with open(name[1:], encoding="utf-8", errors="surrogateescape") as lines:
                while line := lines.readline(MAX_LINE):
                    if line.strip():
                        yield line.rstrip("\n")
        except OSError as e:
            raise MminspectError(f"{name[1:]}: {e.strerror or e}") from None


def _files(name: str) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _walk(name)
    elif os.path.lexists(name):
        yield name
    elif glob.has_magic(name):
        found = False
        for path in sorted(glob.iglob(name, recursive=True)):
            found = True
            yield from _walk(path) if os.path.isdir(path) else (path,)
        if not found:
            raise MminspectError(f"{name}: no file is named so")
    else:
        raise MminspectError(f"{name}: No such file or directory")


def _walk(directory: str) -> Iterator[str]:
    for parent, folders, files in os.walk(directory, onerror=_say_why):
        folders.sort()
        yield from (os.path.join(parent, file) for file in sorted(files))


def _say_why(error: OSError) -> None:
    raise MminspectError(f"{error.filename}: {error.strerror}") from None


def look_at(path: str) -> Source:
    """Look at a file: what isn't a regular one with something in it is skipped."""
    try:
        found = os.stat(path)
    except OSError as e:
        return Source(path, skipped=e.strerror or str(e))
    if not stat.S_ISREG(found.st_mode):
        return Source(path, skipped="not a regular file")
    if not found.st_size:
        return Source(path, 0, found.st_mtime_ns, "empty")
    return Source(path, found.st_size, found.st_mtime_ns)
