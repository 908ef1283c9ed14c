# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect capture``."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

import zstandard

from mminspect.cli.output import echo
from mminspect.cli.session import Session
from mminspect.commands.capture import Capture
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs

# Endings of compressed files that a capture can't be.
_OTHER_ENDINGS = (".7z", ".bz2", ".lz4", ".lzma", ".lzo", ".rar", ".tgz", ".z", ".zip", ".zstd")
# The longest distance that xz's filter takes.
MAX_DISTANCE = 256


def run(inputs: Inputs, output: str, user: str) -> None:
    """Write a capture and say how large it is."""
    check_ending(output)
    with Session(inputs, output, user) as session:
        with session.output(binary=True) as file, session.kernel() as kernel, compressed(file, output) as out:
            made = Capture(kernel, inputs)
            hint = "; compressed as .xz it is much smaller" if out is file else " before compression"
            echo(f"{output}: writes {made.size:,} bytes{hint}")
            made.write(out, out.repeats if isinstance(out, XzStreams) else None)
        written = session.written
    if written is None:
        written = os.stat(output).st_size if os.path.isfile(output) else made.size
    echo(f"{output}: {written:,} bytes")


def check_ending(path: str) -> None:
    """
    Check that the ending of a path doesn't ask for a compression that a capture can't have.

    :raises MminspectError: if it does.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in _OTHER_ENDINGS:
        raise MminspectError(f"{path}: {ending} files can't be written; a capture is compressed as .gz, .xz or .zst")


class XzStreams(io.RawIOBase):
    """
    Compresses as .xz, whose filters know entries of one size that follow each other.

    Bytes that repeat at another distance go to a stream of their own; the streams are one file for all who unpack
    .xz.

    :param file: Where to write. It stays open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._distance = 0
        self._stream: lzma.LZMACompressor | None = None

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def repeats(self, distance: int) -> None:
        """
        Say at which distance what is written next repeats.

        :param distance: In bytes; 0 if it doesn't.
        """
        distance = distance if distance <= MAX_DISTANCE else 0
        if distance != self._distance:
            self._end()
            self._distance = distance

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Compress some bytes."""
        if self._stream is None:
            filters: Sequence[Mapping[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
            if self._distance:
                # What the filter leaves is mostly zeros: a higher preset takes 18 times as long and saves a twelfth.
                filters = [
                    {"id": lzma.FILTER_DELTA, "dist": self._distance},
                    {"id": lzma.FILTER_LZMA2, "preset": 3},
                ]
            self._stream = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
        self._file.write(self._stream.compress(data))
        return len(data)

    def close(self) -> None:
        """End the last stream."""
        if not self.closed:
            self._end()
        super().close()

    def _end(self) -> None:
        if self._stream is not None:
            self._file.write(self._stream.flush())
            self._stream = None


@contextlib.contextmanager
def compressed(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """Compress by the ending of the path. The same data gives the same file."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as out:
            yield cast(IO[bytes], out)
    elif ending == ".xz":
        streams = XzStreams(file)
        yield cast(IO[bytes], streams)
        streams.close()
    elif ending == ".zst":
        with zstandard.ZstdCompressor(level=10).stream_writer(file, closefd=False) as out:
            yield cast(IO[bytes], out)
    else:
        yield file
