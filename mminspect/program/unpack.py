# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed and flattened vmcores: unpacked to a temporary file that has no name."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import tempfile
import zlib
from typing import IO, Callable, cast

import zstandard

from mminspect.errors import TargetError
from mminspect.program import files
from mminspect.program.flattened import read_records

PIECE = 1 << 20


def _open_zstd(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))


def _open_gzip(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file))


def _open_xz(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], lzma.LZMAFile(file))


_FORMATS: dict[str, tuple[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    "gzip": (b"\x1f\x8b", _open_gzip),
    "xz": (b"\xfd7zXZ\0", _open_xz),
    "zstd": (b"\x28\xb5\x2f\xfd", _open_zstd),
}


def compression(magic: bytes) -> str | None:
    """
    Get the compression of a file.

    :param magic: The first bytes of the file.
    :return: ``gzip``, ``xz``, ``zstd``, or ``None``.
    """
    for name, (signature, _) in _FORMATS.items():
        if magic.startswith(signature):
            return name
    return None


def unpack(fd: int, path: str, name: str) -> int:
    """
    Unpack a compressed file.

    The temporary file is unlinked before anything is written to it, so it is gone on every way out.
    Blocks of zeros become holes.

    :param fd: The compressed file.
    :param path: Its name for messages.
    :param name: What :func:`compression` said.
    :return: File descriptor of the unpacked file; the caller closes it.
    :raises TargetError: if the data is damaged or the disk is full.
    """
    try:
        with files.scratch(is_kept=True) as target, os.fdopen(os.dup(fd), "rb") as packed:
            packed.seek(0)
            reader = _FORMATS[name][1](packed)
            zeros = bytes(PIECE)
            size = 0
            while True:
                piece = reader.read(PIECE)
                if not piece:
                    break
                if piece == zeros[: len(piece)]:
                    target.seek(len(piece), os.SEEK_CUR)
                else:
                    target.write(piece)
                size += len(piece)
            target.truncate(size)
            target.flush()
            if size == 0:
                raise TargetError(f"{path}: the {name} file holds nothing")
            return os.dup(target.fileno())
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as e:
        raise TargetError(f"{path}: the {name} data is damaged or cut short ({e}); copy the dump again") from None
    except OSError as e:
        raise TargetError(f"{path}: can't be unpacked to {tempfile.gettempdir()}: {e.strerror or e}") from None


def rearrange(fd: int, path: str) -> int:
    """
    Write a flattened dump as makedumpfile -R does: each record at its place.

    :param fd: The flattened dump.
    :param path: Its name for messages.
    :return: File descriptor of the result; the caller closes it.
    :raises OSError: if there is no room for it.
    """
    with files.scratch(is_kept=True) as target:
        for offset, pos, length in read_records(fd, path):
            for done in range(0, length, PIECE):
                piece = os.pread(fd, min(PIECE, length - done), pos + done)
                if os.pwrite(target.fileno(), piece, offset + done) < len(piece):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.dup(target.fileno())
