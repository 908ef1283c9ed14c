# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where output goes: stdout, or a file that appears only when all of it is written; messages to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, TextIO, cast

import click

from mminspect.errors import MminspectError
from mminspect.program import files
from mminspect.program.text import Guarded, one_line

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
    return guarded(out)


def guarded(out: IO[str]) -> TextIO:
    """Wrap a stream so that no text from outside does harm there."""
    return cast(TextIO, Guarded(cast(TextIO, out)))


def say(message: str) -> None:
    """Write a message to stderr: one line, whatever is in it."""
    try:
        click.echo(f"mminspect: {one_line(message)}", err=True)
    except OSError:
        discard(2)


def echo(message: str) -> None:
    """Write a line that isn't an error to stderr."""
    click.echo(one_line(message), err=True)


def discard(fd: int) -> None:
    """Keep Python from writing at exit what could not be written now."""
    os.dup2(files.null(), fd)


def own_descriptor(path: str) -> int | None:
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
    if own_descriptor(path) is not None:
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
    an open descriptor of this process, such as ``/dev/stdout``, is written directly, and so is a device or a FIFO of
    root or of this user.

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
        with contextlib.ExitStack() as stack:
            descriptor = own_descriptor(path)
            if descriptor is not None:
                fd = os.dup(descriptor)
            else:
                directory, name = _open_directory(path)
                stack.callback(os.close, directory)
                special = _open_special(directory, name)
                fd = special if special is not None else stack.enter_context(_replaced(directory, name))
            with open(fd, mode, encoding=encoding, closefd=False) as out:
                stack.callback(os.close, fd)
                yield out if binary else guarded(out)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise MminspectError(f"{path}: can't be written: {e.strerror}") from None


def _open_directory(path: str) -> tuple[int, str]:
    """Open the directory of a path. All that follows is done in it, whatever its name stands for by then."""
    directory, name = os.path.split(path)
    return os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name


def _open_special(directory: int, name: str) -> int | None:
    """Open what isn't a regular file, a link or somebody else's, if it is there."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        return None
    return os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=directory)


@contextlib.contextmanager
def _replaced(directory: int, name: str) -> Iterator[int]:
    """
    Make a file in a directory that takes a name there when the context is left without an exception.

    Whoever owns the directory can put other files in place of this one at any time. So nothing but making, moving and
    removing it is done by name.

    :return: A descriptor for writing.
    """
    temporary = f".mminspect-{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=directory)
    made = os.fstat(fd)
    try:
        # Closed by then: what is left to write, and its errors, come first.
        kept = os.dup(fd)
        try:
            yield fd
            # It was private; the file shall have the rights that the caller's umask gives.
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(kept, 0o666 & ~umask)
        finally:
            os.close(kept)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not os.path.samestat(made, there):
        raise OSError(errno.ESTALE, "somebody else changed the directory meanwhile")
