# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compressed, archived and flattened vmcores: unpacked to a temporary file that has no name.

A file can grow a thousandfold when it is unpacked. What is written is bounded by the room that there is and by what
the dump's headers promise, what an unpacker takes in memory by limits of its own.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
from typing import IO, NoReturn, cast

import zstandard

from mminspect.errors import TargetError
from mminspect.program import elf, files, flattened, kdump_header, lime
from mminspect.program.corefile import COPY_AGAIN
from mminspect.program.elf import Elf
from mminspect.program.flattened import read_records_there_are
from mminspect.program.magic import plain
from mminspect.program.packed import DAMAGED, OPENERS, XZ_MEMORY, ZSTD_WINDOW
from mminspect.program.promise import promised
from mminspect.program.wrapping import START, compression, is_tar

PIECE = 1 << 20
# Room that is left free where temporary files are, though not more than a part of it, and after how much is looked.
RESERVE = 64 << 20
RESERVED_PART = 16
LOOK_AFTER = 16 << 20
# The size that no dump has.
MAX_SIZE = 1 << 46
# What can follow the end mark of an archive: it is padded to a whole record.
MAX_PADDING = 64 << 20
# Members of an archive that are looked at, and how many vmcores in it are named.
MAX_MEMBERS = 100_000
MAX_NAMED = 5
MAX_NAME = 100
_DAMAGED = (*DAMAGED, tarfile.TarError)


def unpack(fd: int, path: str) -> int:
    """
    Unpack a file that is compressed, a tar archive, or both.

    The temporary file is unlinked before anything is written to it, so it is gone on every way out.
    Blocks of zeros become holes.

    :param fd: The file.
    :param path: Its name for messages.
    :return: File descriptor of the vmcore; the caller closes it.
    :raises TargetError: if the data is damaged, there is no room for it, or an archive has no vmcore or several.
    """
    start = os.pread(fd, START, 0)
    name = compression(start)
    try:
        with os.fdopen(os.dup(fd), "rb") as packed:
            packed.seek(0)
            reader: IO[bytes] = packed
            if name is not None:
                reader = cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, OPENERS[name](packed)), PIECE))
            if is_tar(cast(io.BufferedReader, reader).peek(START)[:START]):
                return _from_tar(reader, path)
            with _store(reader, path, os.fstat(fd).st_size) as target:
                if os.fstat(target.fileno()).st_size == 0:
                    raise TargetError(f"{path}: the {name} file holds nothing")
                return os.dup(target.fileno())
    except _DAMAGED as e:
        _explain(e, path, name or "tar", start)
    except OSError as e:
        # The module bz2 has no error of its own for damaged data.
        if e.errno is None:
            _explain(e, path, name or "tar", start)
        raise TargetError(f"{path}: can't be unpacked to {tempfile.gettempdir()}: {e.strerror or e}") from None


def _explain(error: Exception, path: str, name: str, start: bytes) -> NoReturn:
    """Say why data can't be unpacked."""
    window = _window(start) if name == "zstd" and "too much memory" in str(error) else 0
    if window > ZSTD_WINDOW:
        raise TargetError(
            f"{path}: needs a zstd window of {window >> 20} MiB, mminspect takes {ZSTD_WINDOW >> 20}; "
            f"unpack it with 'zstd -d --long={(window - 1).bit_length()}'"
        ) from None
    if name == "xz" and "emory" in str(error):
        raise TargetError(
            f"{path}: needs more than {XZ_MEMORY >> 20} MiB of memory to be unpacked; unpack it with 'xz -d'"
        ) from None
    raise TargetError(f"{path}: the {name} data is damaged or cut short ({error}); {COPY_AGAIN}") from None


def _window(start: bytes) -> int:
    """Get the window of the first zstd frame, 0 if its header is cut."""
    try:
        return zstandard.get_frame_parameters(start).window_size
    except zstandard.ZstdError:
        return 0


def _store(reader: IO[bytes], path: str, packed: int = 0) -> IO[bytes]:
    """
    Write what is read to a temporary file, as far as the headers in it say that the dump goes.

    :param packed: Bytes of the packed file, if it holds nothing else: what they become is hardly ever less.
    :raises TargetError: if there is no room for it, or it is larger than any dump.
    """
    target = files.scratch(is_kept=True)
    try:
        _check_room(target.fileno(), path, packed)
        zeros = bytes(PIECE)
        size = written = 0
        limit: int | None = None
        while limit is None or size < limit:
            piece = _read_piece(reader)
            if size == 0:
                limit = promised(piece)
                if limit is not None and limit > MAX_SIZE:
                    raise TargetError(f"{path}: its headers say that it is larger than any dump; it is damaged")
            if not piece:
                break
            if piece == zeros[: len(piece)]:
                target.seek(len(piece), os.SEEK_CUR)
            else:
                target.write(piece)
                written += len(piece)
                if written >= LOOK_AFTER:
                    _check_room(target.fileno(), path)
                    written = 0
            size += len(piece)
            if size > MAX_SIZE:
                raise TargetError(f"{path}: unpacked it is larger than any dump; it is damaged or no dump")
        target.truncate(size)
        target.flush()
        return target
    except BaseException:
        target.close()
        raise


def _read_piece(reader: IO[bytes]) -> bytes:
    """Read a whole piece, unless the data ends."""
    pieces = []
    missing = PIECE
    while missing:
        data = reader.read(missing)
        if not data:
            break
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


def _check_room(fd: int, path: str, needed: int = 0) -> None:
    """
    Check that some room is left.

    :param needed: Bytes that will be written for sure.
    :raises TargetError: if not.
    """
    room = os.fstatvfs(fd)
    free, reserve = room.f_bavail * room.f_frsize, min(RESERVE, room.f_blocks * room.f_frsize // RESERVED_PART)
    # A device such as /dev/full has none.
    if room.f_blocks and free < needed + reserve:
        raise TargetError(
            f"{path}: there is too little room in {tempfile.gettempdir()} to unpack it; unpack it elsewhere, or set "
            "TMPDIR to a directory with more"
        )


class _Member(tarfile.TarInfo):
    """A member of an archive. tarfile alone takes a header that is cut or damaged for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        """Read the next header."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as e:
            raise tarfile.ReadError(f"{e} where a file or the end of the archive should be") from None


def _is_vmcore(start: bytes) -> bool:
    """Tell whether a file in an archive is a vmcore, by its first bytes."""
    codec = Elf.of(start)
    if codec is not None:
        return len(start) >= codec.header_size and codec.header(start).type == elf.ET_CORE
    return start.startswith((*kdump_header.SIGNATURES, flattened.SIGNATURE, *lime.MAGICS))


def _from_tar(reader: IO[bytes], path: str) -> int:
    """
    Unpack the one vmcore of an archive, which is read once from its start to its end.

    A compressed file in it is taken if there is no other, as logs can be compressed, too.
    """
    # What was found: vmcores, and compressed files.
    names: dict[bool, list[str]] = {True: [], False: []}
    result: IO[bytes] | None = None
    try:
        with tarfile.open(fileobj=reader, mode="r|", bufsize=PIECE, tarinfo=_Member) as archive:
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise TargetError(f"{path}: a tar archive of too many files; unpack it and give the vmcore in it")
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    continue
                start = file.read(64)
                is_vmcore = _is_vmcore(start)
                if not is_vmcore and compression(start) is None:
                    continue
                names[is_vmcore].append(plain(member.name, MAX_NAME))
                if len(names[is_vmcore]) == 1 and (is_vmcore or not names[True]):
                    if result is not None:
                        result.close()
                    result = _store(_Prefixed(start, file), path)  # type: ignore[arg-type]
        _read_padding(reader)
        found = names[True] or names[False]
        if len(found) > 1:
            listed = ", ".join(found[:MAX_NAMED]) + (", ..." if len(found) > MAX_NAMED else "")
            raise TargetError(
                f"{path}: a tar archive with {len(found)} files that can be the vmcore ({listed}); unpack it and give "
                "the right one"
            )
        if result is None:
            raise TargetError(f"{path}: a tar archive with no vmcore in it; give the vmcore")
        return os.dup(result.fileno())
    finally:
        if result is not None:
            result.close()


def _read_padding(reader: IO[bytes]) -> None:
    """Read what follows the end mark of an archive, so that the checksum of a compressed one is looked at."""
    for _ in range(MAX_PADDING // PIECE):
        if not reader.read(PIECE):
            break


class _Prefixed:
    """A file whose first bytes were read already."""

    def __init__(self, start: bytes, file: IO[bytes]) -> None:
        self._start = start
        self._file = file

    def read(self, size: int) -> bytes:
        """Read the bytes that were read before, then the rest."""
        start, self._start = self._start, b""
        return start or self._file.read(size)


def rearrange(fd: int, path: str) -> int:
    """
    Write a flattened dump as makedumpfile -R does: each record at its place, as far as they are there.

    :param fd: The flattened dump.
    :param path: Its name for messages.
    :return: File descriptor of the result; the caller closes it.
    :raises OSError: if there is no room for it.
    """
    with files.scratch(is_kept=True) as target:
        for offset, pos, length in read_records_there_are(fd, path)[0]:
            for done in range(0, length, PIECE):
                piece = os.pread(fd, min(PIECE, length - done), pos + done)
                if os.pwrite(target.fileno(), piece, offset + done) < len(piece):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.dup(target.fileno())
