# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writing files for a process that gave up its privileges.

A child process that keeps them does nothing but copy bytes from a pipe to a file beside the named one and rename it.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any

from mminspect.cli.output import guarded, open_output
from mminspect.errors import MminspectError
from mminspect.signals import SIGNALS

_LENGTH = struct.Struct("<Q")
_END_OF_FILE = 0
_PIECE = 1 << 16


class _PipeWriter(io.RawIOBase):
    """Sends what is written to it in pieces with their length in front."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        piece = bytes(data)
        if piece:
            _write_all(self._fd, _LENGTH.pack(len(piece)) + piece)
            self.written += len(piece)
        return len(piece)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Publisher:
    """
    Writes one path, again and again, with the privileges that the process has when this is made.

    :param path: Path of the file.
    :raises MminspectError: if it can't be written.
    :ivar written: Bytes of the file that was written last.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.written = 0
        data_out, self._data = os.pipe()
        self._status, status_in = os.pipe()
        if sys.stdout is not None:
            sys.stdout.flush()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._data)
            os.close(self._status)
            # The worker decides when to end.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            with contextlib.suppress(BaseException):
                _publish(path, data_out, status_in)
            os._exit(0)
        os.close(data_out)
        os.close(status_in)
        self._wait()

    def _wait(self) -> None:
        """Wait for the child's word, an error message or nothing."""
        size = os.read(self._status, 4)
        if len(size) < 4:
            raise MminspectError(f"{self._path}: can't be written: the process that writes it ended")
        message = os.read(self._status, int.from_bytes(size, "little")) if any(size) else b""
        if message:
            raise MminspectError(message.decode())

    @contextlib.contextmanager
    def open(self, binary: bool = False) -> Iterator[IO[Any]]:
        """
        Write the file anew; it is replaced when the context is left without an exception.

        :param binary: Whether bytes are written.
        """
        pipe = _PipeWriter(self._data)
        # typeshed doesn't take a RawIOBase for what BufferedWriter asks for.
        buffer = io.BufferedWriter(pipe, _PIECE)  # type: ignore[type-var]
        out: Any = buffer if binary else io.TextIOWrapper(buffer, encoding="utf-8")
        yield out if binary else guarded(out)
        out.flush()
        if not binary:
            out.detach()
        self.written = pipe.written
        _write_all(self._data, _LENGTH.pack(_END_OF_FILE))
        self._wait()

    def close(self) -> None:
        """End the child."""
        os.close(self._data)
        os.close(self._status)
        os.waitpid(self._child, 0)


def _say(fd: int, message: str) -> None:
    data = message.encode()
    _write_all(fd, len(data).to_bytes(4, "little") + data)


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _publish(path: str, data: int, status: int) -> None:
    """Serve until the worker closes the pipe. An unfinished file vanishes with it."""
    while True:
        try:
            with open_output(path, binary=True) as out:
                _say(status, "")
                length = _LENGTH.unpack(_read_exactly(data, _LENGTH.size))[0]
                while length != _END_OF_FILE:
                    out.write(_read_exactly(data, length))
                    length = _LENGTH.unpack(_read_exactly(data, _LENGTH.size))[0]
        except MminspectError as e:
            _say(status, str(e))
            return
