# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Vmcore file formats, as far as they must be known before drgn opens a file.

drgn reads the formats itself. What it doesn't do is say clearly what is wrong with a file, tell
memory that was left out of a filtered ELF dump from memory that holds zeros, and open a QEMU kdump
file, whose utsname is empty. Those need the headers that are decoded here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Callable

import numpy as np

from mminspect.errors import TargetError, TruncatedError
from mminspect.program import elf, files, flattened, kdump_header, vmcoreinfo
from mminspect.program.elf import Elf, Segment
from mminspect.program.flattened import FlattenedRecords
from mminspect.program.kdump_header import KdumpHeader
from mminspect.program.segments import Segments

# As much of a flattened dump's inside as can hold its headers.
FLATTENED_HEADERS_SIZE = 1 << 20
# As much of it as is written before the dump is refused: headers are written twice at most.
FLATTENED_HEADERS_READ = 64 << 20
# More than anything writes: a filtered dump of 1 TiB has a hundred thousand program headers, and each of the 8192 CPUs
# that a kernel can have has a few notes.
MAX_PROGRAM_HEADERS = 1 << 18
MAX_NOTE_SEGMENTS = 1 << 14
MAX_NOTES_SIZE = 16 << 20
MAX_NOTES = 1 << 16
# The largest saved registers of a CPU.
MAX_PRSTATUS_SIZE = 1 << 14
# A bit for each page of 128 TiB.
MAX_BITMAP_SIZE = 1 << 32
# Descriptors at the end of a kdump file's table that are looked at for the end of the file.
LAST_DESCRIPTORS = 1 << 16
PIECE = 1 << 20


@dataclass(frozen=True)
class CoreFile:
    """
    What the headers of a vmcore say.

    :ivar format: ``elf``, ``kdump`` or ``flattened``.
    :ivar machine: ELF only: ``e_machine``.
    :ivar is_64_bit: ELF only: whether it is an ELF64 file.
    :ivar order: The byte order: ``<`` or ``>``.
    :ivar segments: ELF only: the loadable segments.
    :ivar notes: ELF notes by name, first one of each.
    :ivar prstatus: What the NT_PRSTATUS notes hold: a ``struct elf_prstatus`` for each CPU.
    :ivar kdump: The header, unless the dump is split over several files.
    :ivar records: Flattened only: its records.
    """

    format: str
    machine: int = 0
    is_64_bit: bool = True
    order: str = "<"
    segments: Sequence[Segment] = ()
    notes: dict[str, bytes] = field(default_factory=dict)
    prstatus: tuple[bytes, ...] = ()
    kdump: KdumpHeader | None = None
    records: FlattenedRecords | None = None

    @property
    def vmcoreinfo(self) -> bytes | None:
        """The VMCOREINFO note, if the headers hold one that can be found without drgn."""
        return self.notes.get("VMCOREINFO")


def check_readable(path: str) -> None:
    """
    Check that a path names a file with something in it.

    :raises TargetError: if it doesn't.
    """
    if not path:
        raise TargetError("the name of the vmcore is empty")
    try:
        st = files.stat(path)
    except OSError as e:
        raise TargetError(f"{path}: {e.strerror}") from None
    if stat.S_ISDIR(st.st_mode):
        raise TargetError(f"{path}: is a directory; give a vmcore file")
    if not stat.S_ISREG(st.st_mode) and not stat.S_ISBLK(st.st_mode):
        raise TargetError(f"{path}: not a regular file; give a vmcore file")
    if stat.S_ISREG(st.st_mode) and st.st_size == 0 and not path.startswith("/proc/"):
        raise TargetError(f"{path}: the file is empty; the dump was not written")


def parse(fd: int, path: str) -> CoreFile:
    """
    Decode the headers of a vmcore.

    :param fd: File descriptor, open for reading.
    :param path: Name for messages.
    :raises TargetError: if the file is not a kernel's core dump, or is cut short.
    """
    magic = os.pread(fd, 16, 0)
    if magic[:4] == elf.MAGIC:
        return _parse_elf(fd, path)
    if magic[:8] in kdump_header.SIGNATURES:
        return _parse_kdump(fd, path)
    if magic == flattened.SIGNATURE:
        return _parse_flattened(fd, path)
    raise TargetError(
        f"{path}: not a vmcore (neither an ELF core nor a kdump-compressed dump, plain or in .gz, .xz or .zst)"
    )


def _file_size(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_END)


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read at an offset that the file names, which can be one that no file has."""
    return os.pread(fd, size, offset) if offset < 1 << 63 else b""


def _parse_elf(fd: int, path: str) -> CoreFile:
    size = _file_size(fd)
    start = os.pread(fd, 64, 0)
    codec = Elf.of(start)
    if codec is None or len(start) < 52:
        raise TargetError(f"{path}: the ELF header is cut short or damaged; copy the dump again")
    if len(start) < codec.header_size:
        raise TruncatedError(path, size, codec.header_size)
    header = codec.header(start)
    if header.type != elf.ET_CORE:
        kinds = {1: "a relocatable object", 2: "an executable", 3: "a shared object"}
        kind = kinds.get(header.type, f"of type {header.type}")
        raise TargetError(
            f"{path}: an ELF file, but {kind}, not a core; a vmlinux is given with -s, the vmcore with -c"
        )
    phnum = header.phnum
    if phnum == elf.PN_XNUM and header.shoff:
        # With that many program headers, their number is in sh_info of the first section header.
        section = _pread(fd, codec.section_size, header.shoff)
        if len(section) < codec.section_size:
            raise TruncatedError(path, size, header.shoff + codec.section_size)
        phnum = next(codec.sections(section)).info
    if header.phentsize != codec.segment_size or phnum > MAX_PROGRAM_HEADERS:
        raise TargetError(f"{path}: the program header table of the ELF core makes no sense; copy the dump again")
    table = _pread(fd, codec.segment_size * phnum, header.phoff)
    if len(table) < codec.segment_size * phnum:
        raise TruncatedError(path, size, header.phoff + codec.segment_size * phnum)

    segments = Segments.decode(codec, table)
    types = segments.column("type")
    segments = segments.chosen((types == elf.PT_LOAD) | (types == elf.PT_NOTE))
    behind = segments.ends_behind(size)
    if behind.any():
        cut = segments[int(behind.argmax())]
        raise TruncatedError(path, size, cut.offset + cut.filesz)
    types = segments.column("type")
    loads = segments.chosen(types == elf.PT_LOAD)
    notes = _read_notes(fd, path, codec, segments.chosen(types == elf.PT_NOTE))
    first = _first_of_each(notes)
    if "VMCOREINFO" not in first:
        if "QEMU" in first:
            why = "for a QEMU guest, add '-device vmcoreinfo' and load the guest's qemu_fw_cfg module before the dump"
        else:
            why = "it is the core of a user process, or was not written by kdump, makedumpfile or QEMU"
        raise TargetError(f"{path}: no VMCOREINFO note: {why}")
    if not loads:
        raise TargetError(f"{path}: the ELF core holds no memory (no PT_LOAD); the dump was not finished")
    return CoreFile("elf", header.machine, codec.is_64_bit, codec.order, loads, first, prstatus=_prstatus(notes))


def _read_notes(fd: int, path: str, codec: Elf, segments: Segments) -> list[elf.Note]:
    """Read the notes of all program headers."""
    total = sum(segments.column("filesz").tolist())
    if len(segments) > MAX_NOTE_SEGMENTS or total > MAX_NOTES_SIZE:
        raise TargetError(
            f"{path}: {len(segments)} program headers have {total} bytes of notes, more than any dump; it is damaged"
        )
    pieces = (os.pread(fd, segment.filesz, segment.offset) for segment in segments)
    return _bounded_notes(path, chain.from_iterable(map(codec.notes, pieces)))


def _bounded_notes(path: str, notes: Iterable[elf.Note]) -> list[elf.Note]:
    """
    Get all notes.

    :raises TargetError: if there are more, or a larger VMCOREINFO, than any dump has.
    """
    found = list(islice(notes, MAX_NOTES + 1))
    if len(found) > MAX_NOTES:
        raise TargetError(f"{path}: more than {MAX_NOTES} notes, more than any dump has; it is damaged")
    if any(note.name == "VMCOREINFO" and len(note.desc) > vmcoreinfo.MAX_SIZE for note in found):
        raise TargetError(f"{path}: its VMCOREINFO is larger than a page, so no kernel wrote it; the dump is damaged")
    return found


def _first_of_each(notes: Iterable[elf.Note]) -> dict[str, bytes]:
    """Get the first note of each name."""
    first: dict[str, bytes] = {}
    for note in notes:
        first.setdefault(note.name, note.desc)
    return first


def _prstatus(notes: Iterable[elf.Note]) -> tuple[bytes, ...]:
    return tuple(
        note.desc
        for note in notes
        if note.name == "CORE" and note.type == elf.NT_PRSTATUS and len(note.desc) <= MAX_PRSTATUS_SIZE
    )


def _kdump_core(
    path: str, format: str, header: KdumpHeader, sub_header: bytes, read: Callable[[int, int], bytes]
) -> CoreFile:
    """
    Decode the sub header.

    :param read: Reads bytes of the dump by offset and size.
    """
    offset, size = header.notes(sub_header)
    data = read(offset, size) if size <= MAX_NOTES_SIZE and offset < 1 << 62 else b""
    notes = _bounded_notes(path, Elf(True, header.order).notes(data))
    first = _first_of_each(notes)
    # VMCOREINFO lies in the sub header, as a note or as plain text.
    start = sub_header.find(b"OSRELEASE=")
    if start >= 0:
        first["VMCOREINFO"] = sub_header[start : start + vmcoreinfo.MAX_SIZE].split(b"\0")[0]
    split = header.is_split(sub_header)
    return CoreFile(format, order=header.order, notes=first, prstatus=_prstatus(notes), kdump=None if split else header)


def _parse_kdump(fd: int, path: str) -> CoreFile:
    size = _file_size(fd)
    start = os.pread(fd, kdump_header.HEADER_SIZE, 0)
    if len(start) < kdump_header.HEADER_SIZE:
        raise TruncatedError(path, size, 4096)
    header = kdump_header.decode(start, path)
    if size < header.data_start:
        raise TruncatedError(path, size, header.data_start)
    if header.bitmap_size > MAX_BITMAP_SIZE:
        raise TargetError(f"{path}: a bitmap of {header.bitmap_size} bytes, more than any memory needs; it is damaged")
    dumped = sum(
        int(kdump_header.count_bits(piece).sum()) for piece in _data_of(fd, header.bitmap_start, header.bitmap_size)
    )
    descriptor = header.descriptor
    descriptors_end = header.data_start + dumped * descriptor.itemsize
    if size < descriptors_end:
        raise TruncatedError(path, size, descriptors_end)
    # Page data is written in the order of the descriptors, so the last ones name the file's end.
    last = min(dumped, LAST_DESCRIPTORS) * descriptor.itemsize
    table = np.frombuffer(os.pread(fd, last, descriptors_end - last), descriptor)
    needed = kdump_header.end_of_data(table, header.block_size)
    if needed > size:
        raise TruncatedError(path, size, needed)
    sub_header = os.pread(fd, header.sub_hdr_size * header.block_size, header.block_size)
    return _kdump_core(path, "kdump", header, sub_header, lambda offset, size: os.pread(fd, size, offset))


def _data_of(fd: int, start: int, size: int) -> Iterator[bytes]:
    """Read a part of a file in pieces, without its holes: a small file can claim a large bitmap."""
    pos, end = start, start + size
    while pos < end:
        try:
            pos = os.lseek(fd, pos, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return
        piece = os.pread(fd, max(0, min(PIECE, end - pos)), pos)
        if not piece:
            return
        yield piece
        pos += len(piece)


def _parse_flattened(fd: int, path: str) -> CoreFile:
    inner = bytearray(FLATTENED_HEADERS_SIZE)
    left = FLATTENED_HEADERS_READ

    def records_read() -> Iterator[tuple[int, int, int]]:
        nonlocal left
        for offset, pos, length in flattened.read_records(fd, path):
            if offset < len(inner):
                data = os.pread(fd, min(length, len(inner) - offset), pos)
                inner[offset : offset + len(data)] = data
                left -= len(data)
                if left < 0:
                    raise TargetError(f"{path}: the flattened dump writes its headers again and again; it is damaged")
            yield offset, pos, length

    records = FlattenedRecords(records_read())
    if inner[:8] not in kdump_header.SIGNATURES:
        return CoreFile("flattened", records=records)
    header = kdump_header.decode(bytes(inner[: kdump_header.HEADER_SIZE]), path)
    end = (1 + header.sub_hdr_size) * header.block_size
    sub_header = bytes(inner[header.block_size : end])
    core = _kdump_core(path, "flattened", header, sub_header, lambda offset, size: bytes(inner[offset : offset + size]))
    return replace(core, records=records)
