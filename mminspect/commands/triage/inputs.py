# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file is: a vmcore, or a kernel's log, packed or not. Its content tells, never its name."""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, cast

from mminspect.commands.triage.lines import MAX_BYTES, Log, read_text
from mminspect.errors import TargetError
from mminspect.program import elf, files, flattened, kdump_header, lime, magic
from mminspect.program.packed import DAMAGED, OPENERS
from mminspect.program.wrapping import compression, is_tar

PIECE = 1 << 20
# A log that unpacks to more is not read: only its end would count, and that may be very far away.
MAX_UNPACKED = 1 << 30
# Bytes that are no text: some may always be there, and one in so many, or more if a kernel's time stamps are there.
ODD_ANYWAY = 16
ODD_SHARE = 32
ODD_SHARE_OF_LOGS = 3
_USUAL = dict.fromkeys(map(ord, "\0\t\n\r\x1b"))
_ZEROS = re.compile(rb"\0+")
_STAMP = re.compile(rb"\[ {0,11}\d{1,12}\.\d{6}\]")
# What is looked at to tell text from anything else.
SAMPLE = 1 << 16
MAGIC = 512


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
        if path not in streams:
            _check_kind(files.stat(path).st_mode, path)
        with os.fdopen(streams[path] if path in streams else files.open_file(path), "rb") as file:
            log = _read(file, path)
    except OSError as e:
        raise TargetError(f"{_shown(path)}: {e.strerror or e}") from None
    if log is None and path in streams:
        raise TargetError(f"{_shown(path)}: a vmcore can't be read from a pipe; save it to a file, and give that")
    return log


def _check_kind(mode: int, path: str) -> None:
    """
    Check that a path names something that can be read.

    :raises TargetError: if it doesn't.
    """
    if stat.S_ISDIR(mode):
        raise TargetError(f"{_shown(path)}: is a directory; give a vmcore or a log")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        what = "a socket" if stat.S_ISSOCK(mode) else "a device" if stat.S_ISCHR(mode) else "not a file"
        raise TargetError(f"{_shown(path)}: is {what}; give a vmcore or a log")


def _shown(path: str) -> str:
    return "the standard input" if path == "-" else path


def _read(file: IO[bytes], path: str) -> Log | None:
    start = cast(io.BufferedReader, file).peek(MAGIC)[:MAGIC]
    name = compression(start)
    if name is None:
        if _is_core(start):
            return None
        if file.seekable():
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                _check_text(file.read(SAMPLE), path)
                file.seek(size - MAX_BYTES - 1)
        return _parse(file, path)
    try:
        reader = io.BufferedReader(cast(io.RawIOBase, OPENERS[name](file)), PIECE)
        if _is_core(reader.peek(MAGIC)[:MAGIC]):
            return None
        return _parse(reader, path)
    except (*DAMAGED, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        # A window of zstd, or a dictionary of xz, that is too large. Who opens vmcores names it.
        if "emory" in str(e):
            return None
        raise TargetError(
            f"{_shown(path)}: the {name} data is damaged or cut short ({e}); copy the file again"
        ) from None


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
            raise TargetError(f"{_shown(path)}: longer than {MAX_UNPACKED >> 20} MiB; give the part with the crash")
        while kept - len(pieces[0]) > MAX_BYTES:
            kept -= len(pieces.popleft())
    if total == 0:
        empty = "is empty or closed" if path == "-" else "is empty"
        raise TargetError(f"{_shown(path)}: {empty}; there is no log to read")
    return read_text(b"".join(pieces))


def _check_text(sample: bytes, path: str) -> None:
    """
    Check that something may be a log.

    :raises TargetError: if it can't.
    """
    kind = magic.known(sample)
    odd = _odd_characters(sample)
    # "wake" begins hibernation files and sentences.
    if kind is not None and (odd or not sample.isascii() or kind.is_long(sample)):
        raise TargetError(f"{_shown(path)}: neither a vmcore nor a kernel's log, but {kind.advice(path)}")
    zeros = 0 if _is_utf16(sample) else sample.count(0)
    allowed = max(ODD_ANYWAY, len(sample) // (ODD_SHARE_OF_LOGS if _STAMP.search(sample) else ODD_SHARE))
    if odd > allowed or (zeros > 64 and 2 * zeros > len(sample)):
        raise TargetError(f"{_shown(path)}: neither a vmcore nor a kernel's log")


def _is_utf16(sample: bytes) -> bool:
    return sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _odd_characters(sample: bytes) -> int:
    """
    Count what text doesn't have.

    Consoles leave control characters and bytes that got lost. Flash memory leaves zeros, many together; between other
    bytes, zeros are of binary data.
    """
    if _is_utf16(sample):
        # Any two bytes are a character of it. Most of a log's are ASCII.
        text = sample.decode("utf-16", "replace").translate(_USUAL)
        return sum(not " " <= c < "\x7f" for c in text)
    text = sample.decode("utf-8", "surrogateescape").translate(_USUAL)
    odd = sum("\udc80" <= c <= "\udcff" or not c.isprintable() for c in text)
    return odd + sum(1 for _ in _ZEROS.finditer(sample))
