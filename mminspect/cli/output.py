# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where output goes: stdout, or a file that appears only when all of it is written; messages to stderr.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, TextIO

import click

from mminspect.errors import MminspectError

# As many links as the kernel follows.
MAX_LINKS = 40


def stdout() -> TextIO:
    """
    Get the standard output.

    :raises MminspectError: if the caller closed it.
    """
    # Python leaves it None then, whatever typeshed says.
    out: TextIO | None = sys.stdout
    if out is None:
        raise MminspectError("the standard output is closed; open it, or give a file with -o")
    return out


def say(message: str) -> None:
    """Write a message to stderr."""
    try:
        click.echo(f"mminspect: {message}", err=True)
    except OSError:
        discard(2)


def discard(fd: int) -> None:
    """Keep Python from writing at exit what could not be written now."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def _own_descriptor(path: str) -> int | None:
    """Get the open descriptor that a path such as ``/dev/stdout`` or ``/dev/fd/3`` stands for."""
    for _ in range(MAX_LINKS):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory or ".")
        if name.isdigit() and re.fullmatch(rf"/proc/{os.getpid()}(/task/[0-9]+)?/fd", directory):
            return int(name)
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(directory, os.readlink(path))
    return None


def check_writable(path: str | None, inputs: Sequence[str | None] = ()) -> None:
    """
    Check that an output file can be made, before the work for it is done.

    :param inputs: Files that are read; none of them may be the output.
    :raises MminspectError: if it can't.
    """
    if path is None or path == "-":
        stdout()
        return
    if not path:
        raise MminspectError("the name of the output file is empty")
    if _own_descriptor(path) is not None:
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise MminspectError(f"{path}: is a directory; give a file to write")
    if not os.path.isdir(directory):
        raise MminspectError(f"{path}: can't be written: there is no directory {directory}")
    for name in inputs:
        if name and os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name):
            raise MminspectError(f"{path}: is a file that is read; give another one to write")
    if not os.access(directory, os.W_OK):
        raise MminspectError(f"{path}: can't be written: permission denied")


@contextlib.contextmanager
def open_output(path: str | None, binary: bool = False) -> Iterator[IO[Any]]:
    """
    Open an output file, or stdout.

    A regular file is made beside its final place and is moved there at the end. On failure nothing is left. A
    symbolic link at the final place is replaced, not followed, so that nobody can plant one. A path that stands for
    an open descriptor of this process, such as ``/dev/stdout``, is written directly, and so is anything that isn't a
    regular file.

    :param path: Path, ``None`` or ``-`` for stdout.
    :param binary: Whether bytes are written.
    :raises MminspectError: if the file can't be written.
    """
    if path is None or path == "-":
        yield stdout().buffer if binary else stdout()
        return
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    try:
        check_writable(path)
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            with open(os.dup(descriptor), mode, encoding=encoding) as out:
                yield out
            return
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, mode, encoding=encoding) as out:
                yield out
            return
        fd, temporary = tempfile.mkstemp(prefix=".mminspect-", dir=os.path.dirname(path) or ".")
    except BrokenPipeError:
        raise
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
