# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect capture``."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from mminspect.cli.output import echo
from mminspect.cli.session import Session
from mminspect.commands.capture import capture
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs

# Endings of compressed files that a capture can't be.
_OTHER_ENDINGS = (".7z", ".bz2", ".lz4", ".lzma", ".lzo", ".rar", ".tgz", ".z", ".zip", ".zstd")


def run(inputs: Inputs, output: str, user: str) -> None:
    """Write a capture and say how large it is."""
    check_ending(output)
    with Session(inputs, output, user) as session:
        with session.output(binary=True) as file, session.kernel() as kernel, compressed(file, output) as out:
            size = capture(kernel, inputs, out)
        written = session.written
    if written is None:
        written = os.stat(output).st_size if os.path.isfile(output) else size
    echo(f"{output}: {written:,} bytes")


def check_ending(path: str) -> None:
    """
    Check that the ending of a path doesn't ask for a compression that a capture can't have.

    :raises MminspectError: if it does.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in _OTHER_ENDINGS:
        raise MminspectError(f"{path}: {ending} files can't be written; a capture is compressed as .gz, .xz or .zst")


@contextlib.contextmanager
def compressed(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """Compress by the ending of the path. The same data gives the same file."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as out:
            yield cast(IO[bytes], out)
    elif ending == ".xz":
        with lzma.LZMAFile(file, "wb", preset=6) as out:
            yield out
    elif ending == ".zst":
        with zstandard.ZstdCompressor(level=10).stream_writer(file, closefd=False) as out:
            yield cast(IO[bytes], out)
    else:
        yield file
