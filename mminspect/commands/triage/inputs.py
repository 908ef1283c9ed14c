# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file is: a vmcore, or a kernel's log, packed or not. Its content tells, never its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Callable, cast

import zstandard

from mminspect.commands.triage.lines import MAX_BYTES, Log, read_text
from mminspect.errors import TargetError
from mminspect.program import elf, files, flattened, kdump_header, lime, magic
from mminspect.program.wrapping import is_tar

PIECE = 1 << 20
# A log that unpacks to more is not read: only its end would count, and that may be very far away.
MAX_UNPACKED = 1 << 30
# Memory that unpacking may take.
MAX_MEMORY = 128 << 20
# What is looked at to tell text from anything else.
SAMPLE = 1 << 16
MAGIC = 512


class _Xz(io.RawIOBase):
    """Unpacks xz in bounded memory, which lzma.LZMAFile can't."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker: lzma.LZMADecompressor | None = None
        self._rest = b""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def read(self, size: int = PIECE) -> bytes:
        """Return the next bytes; none at the end."""
        while True:
            data = self._rest or self._file.read(PIECE)
            self._rest = b""
            if self._unpacker is None:
                # Streams may follow each other, padded with zeros.
                data = data.lstrip(b"\0")
                if not data:
                    return b""
                self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
            elif not data and self._unpacker.needs_input:
                raise EOFError("it ends early")
            if not self._unpacker.needs_input:
                self._rest, data = data, b""
            out = self._unpacker.decompress(data, size)
            if self._unpacker.eof:
                self._rest = self._unpacker.unused_data + self._rest
                self._unpacker = None
            if out:
                return out


class _Zstd(io.RawIOBase):
    """Unpacks zstd, and notices when it ends early, which the reader of zstandard doesn't."""

    # So little of it that even the tightest packed makes no more than MAX_MEMORY.
    PIECE = 1 << 11

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""
        self._out = b""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def read(self, size: int = PIECE) -> bytes:
        """Return the next bytes; none at the end."""
        while not self._out:
            data = self._rest or self._file.read(self.PIECE)
            self._rest = b""
            if self._unpacker is None:
                if not data:
                    return b""
                self._unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY).decompressobj()
            elif not data:
                raise EOFError("it ends early")
            self._out = self._unpacker.decompress(data)
            if self._unpacker.eof:
                self._rest = self._unpacker.unused_data
                self._unpacker = None
        out, self._out = self._out[:size], self._out[size:]
        return out


_PACKED: tuple[tuple[bytes, str, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", "gzip", lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file))),
    (b"\xfd7zXZ\0", "xz", lambda file: cast(IO[bytes], _Xz(file))),
    (b"BZh", "bzip2", lambda file: cast(IO[bytes], bz2.BZ2File(file))),
    (b"\x28\xb5\x2f\xfd", "zstd", lambda file: cast(IO[bytes], _Zstd(file))),
)
_DAMAGED = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


def open_streams(paths: Sequence[str]) -> dict[str, int]:
    """
    Open what can be read once, or has no name: the standard input, pipes. A process without rights couldn't.

    :return: Descriptors by path. A file on the standard input is held as ``-``.
    :raises TargetError: if one can't be opened.
    """
    streams = {}
    for path in paths:
        try:
            if path == "-":
                if stat.S_ISREG(os.fstat(0).st_mode):
                    files.hold_descriptor(path, os.dup(0))
                else:
                    streams[path] = os.dup(0)
            elif os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
                streams[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise TargetError(f"{_shown(path)}: {e.strerror or e}") from None
    return streams


def read_log_file(path: str, streams: Mapping[str, int]) -> Log | None:
    """
    Read a kernel's log.

    :param path: ``-`` for the standard input.
    :param streams: As :func:`open_streams` returned them.
    :return: ``None`` if it is a vmcore.
    :raises TargetError: if it is neither, or can't be read.
    """
    try:
        with os.fdopen(streams[path] if path in streams else files.open_file(path), "rb") as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise TargetError(f"{path}: is a directory; give a vmcore or a log")
            log = _read(file, path)
    except OSError as e:
        raise TargetError(f"{_shown(path)}: {e.strerror or e}") from None
    if log is None and path in streams:
        raise TargetError(f"{_shown(path)}: a vmcore can't be read from a pipe; save it to a file, and give that")
    return log


def _shown(path: str) -> str:
    return "the standard input" if path == "-" else path


def _read(file: IO[bytes], path: str) -> Log | None:
    start = cast(io.BufferedReader, file).peek(MAGIC)[:MAGIC]
    name, unpacker = next(((name, new) for begin, name, new in _PACKED if start.startswith(begin)), (None, None))
    if unpacker is None:
        if _is_core(start):
            return None
        if file.seekable():
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                _check_text(file.read(SAMPLE), path)
                file.seek(size - MAX_BYTES - 1)
        return _parse(file, path)
    try:
        reader = io.BufferedReader(cast(io.RawIOBase, _Stream(unpacker(file))), PIECE)
        if _is_core(reader.peek(MAGIC)[:MAGIC]):
            return None
        return _parse(reader, path)
    except _DAMAGED as e:
        # A window of zstd, or a dictionary of xz, that is too large here. Who opens vmcores takes more, or names it.
        if "emory" in str(e):
            return None
        raise TargetError(f"{path}: the {name} data is damaged or cut short ({e}); copy the file again") from None


class _Stream(io.RawIOBase):
    """A stream that can be read by a BufferedReader."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read into a buffer."""
        view = cast(memoryview, buffer)
        data = self._inner.read(len(view))
        view[: len(data)] = data
        return len(data)


def _is_core(start: bytes) -> bool:
    return start.startswith((elf.MAGIC, *kdump_header.SIGNATURES, flattened.SIGNATURE, *lime.MAGICS)) or is_tar(start)


def _parse(file: IO[bytes], path: str) -> Log:
    """Read the end of a log."""
    pieces: deque[bytes] = deque()
    total = kept = 0
    while True:
        piece = file.read(PIECE)
        if not piece:
            break
        if total == 0:
            _check_text(piece[:SAMPLE], path)
        total += len(piece)
        kept += len(piece)
        pieces.append(piece)
        if total > MAX_UNPACKED:
            raise TargetError(f"{path}: longer than {MAX_UNPACKED >> 20} MiB; give the part with the crash")
        while kept - len(pieces[0]) > MAX_BYTES:
            kept -= len(pieces.popleft())
    if total == 0:
        raise TargetError(f"{_shown(path)}: is empty; there is no log to read")
    return read_text(b"".join(pieces))


def _check_text(sample: bytes, path: str) -> None:
    """
    Check that something may be a log.

    :raises TargetError: if it can't.
    """
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    # Consoles leave some control characters, flash memory leaves zeros.
    odd = len(sample.translate(None, bytes(range(0x20, 0x7F)) + b"\0\t\n\r\x1b"))
    zeros = sample.count(0)
    if 3 * odd > len(sample) or (zeros > 64 and 2 * zeros > len(sample)):
        named = magic.explain(sample, path) if magic.known(sample) else "neither a vmcore nor a kernel's log"
        raise TargetError(f"{path}: {named}")
