# SPDX-License-Identifier: LGPL-2.1-or-later
"""Readers of compressed files: in bounded memory, and none takes the end of a cut file for the end of the data."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Callable, cast

import zstandard

PIECE = 1 << 20
# What xz may take: its presets need 65 MiB at most. The window of zstd: "zstd --long" alone needs half of it.
XZ_MEMORY = 256 << 20
ZSTD_WINDOW = 256 << 20
# Ends what was unpacked from .zst. A frame has one of these bytes, so the end of one that is cut isn't taken for it.
LAST = b"\xa5" * 64
# What the readers raise of damaged data. bz2 raises an OSError without an errno, too.
DAMAGED = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


class Xz(io.RawIOBase):
    """Unpacks .xz, of one stream or several, in bounded memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Unpack at most as much as the buffer holds."""
        target = memoryview(buffer)  # type: ignore[arg-type]
        while True:
            if self._stream.eof:
                # Streams can be padded with null bytes.
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest:
                    piece = self._file.read(PIECE)
                    if not piece:
                        return 0
                    rest = piece.lstrip(b"\0")
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            elif self._stream.needs_input:
                rest = self._file.read(PIECE)
                if not rest:
                    raise EOFError("the end of the stream is missing")
            else:
                rest = b""
            data = self._stream.decompress(rest, len(target))
            if data:
                target[: len(data)] = data
                return len(data)


class _WithLastFrame:
    """A .zst file with one more frame behind it, which is :data:`LAST` when it is unpacked."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = zstandard.ZstdCompressor().compress(LAST)

    def read(self, size: int) -> bytes:
        """Read from the file, then the frame."""
        data = self._file.read(size)
        if not data:
            data, self._last = self._last[:size], self._last[size:]
        return data


class Zstd(io.RawIOBase):
    """
    Unpacks .zst, of one frame or several.

    The module takes a cut frame for the end of the data. Only what ends with a whole frame gives one that follows it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._stream = decompressor.stream_reader(_WithLastFrame(file), read_across_frames=True)  # type: ignore[arg-type]
        self._held = b""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Unpack at most as much as the buffer holds. The end is held back, as it can be that of the last frame."""
        target = memoryview(buffer)  # type: ignore[arg-type]
        data = b""
        while not data:
            piece = self._stream.read(len(target))
            if not piece:
                if self._held != LAST:
                    raise EOFError("the end of the frame is missing")
                return 0
            data = self._held + piece
            data, self._held = data[: -len(LAST)], data[-len(LAST) :]
        target[: len(data)] = data
        return len(data)


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(Zstd(file), PIECE))


def _open_gzip(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file))


def _open_xz(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(Xz(file), PIECE))


def _open_bzip2(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(file))


OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": _open_gzip,
    "xz": _open_xz,
    "zstd": _open_zstd,
    "bzip2": _open_bzip2,
}
