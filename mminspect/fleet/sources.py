# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user names as a fleet: files, folders, globs and lists of these."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mminspect.errors import MminspectError
from mminspect.program.text import shell_word
from mminspect.render.json_ import SURROGATE

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
    def name(self) -> str:
        """The path, in results. One that isn't UTF-8 is a word of a shell, as no path that begins with / is."""
        return self.path if self.path.isascii() or not SURROGATE.search(self.path) else shell_word(self.path)

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells whether it was read already."""
        return self.name, self.size, self.mtime_ns


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
        for path in _matches(name):
            found = True
            yield from _walk(path) if os.path.isdir(path) else (path,)
        if not found:
            raise MminspectError(f"{name}: no file is named so")
    else:
        raise MminspectError(f"{name}: No such file or directory")


def _matches(pattern: str) -> Iterator[str]:
    """Expand a glob. ``**`` is any folder in a folder, but follows no links, which may lead around in circles."""
    before, recursive, after = pattern, False, ""
    parts = pattern.split("/")
    if "**" in parts:
        at = parts.index("**")
        before, recursive, after = (
            "/".join(parts[:at]) or pattern[:1].strip("*") or ".",
            True,
            "/".join(parts[at + 1 :]),
        )
    for base in sorted(glob.iglob(before)):
        if not recursive:
            yield base
        elif os.path.isdir(base):
            for parent, folders, _ in os.walk(base):
                folders.sort()
                yield from _matches(os.path.join(glob.escape(parent), after or "*"))


def _walk(directory: str) -> Iterator[str]:
    unreadable: list[str] = []
    for parent, folders, files in os.walk(directory, onerror=lambda e: unreadable.append(str(e.filename))):
        folders.sort()
        links = [folder for folder in folders if os.path.islink(os.path.join(parent, folder))]
        yield from (os.path.join(parent, file) for file in sorted([*files, *links]))
    # It is said of the folder why it isn't read.
    yield from unreadable


def look_at(path: str) -> Source:
    """Look at a file: what isn't a regular one with something in it is skipped."""
    try:
        found = os.stat(path)
    except OSError as e:
        return Source(path, skipped=e.strerror or str(e))
    if stat.S_ISDIR(found.st_mode):
        is_link = os.path.islink(path)
        return Source(path, skipped="a link to a folder, which isn't followed" if is_link else "can't list this folder")
    if not stat.S_ISREG(found.st_mode):
        return Source(path, skipped="not a regular file")
    if not found.st_size:
        return Source(path, 0, found.st_mtime_ns, "empty")
    return Source(path, found.st_size, found.st_mtime_ns)
