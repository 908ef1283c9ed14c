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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Callable, NamedTuple

import numpy as np

from mminspect.errors import TargetError, TruncatedError, truncated
from mminspect.program import elf, files, flattened, kdump_header, lime, magic, vmcoreinfo
from mminspect.program.elf import Elf, Segment
from mminspect.program.flattened import FlattenedRecords
from mminspect.program.kdump_header import KdumpHeader
from mminspect.program.segments import Segments

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
# The note of a capture whose original was not whole: why.
INCOMPLETE_NOTE = "MMINSPECT_INCOMPLETE"
MAX_WHY = 300
# Bits by which makedumpfile says that it could not write all of a dump, in e_flags and in the kdump header's status.
DUMP_ELF_INCOMPLETE = 0x1
DUMP_DH_COMPRESSED_INCOMPLETE = 0x8
NEW_DUMP = "take a new dump with more room, or with a higher dump level (makedumpfile -d 31)"
COPY_AGAIN = "copy the dump again"
PIECE_ADVICE = "give all its pieces, each with -c, or join them with 'makedumpfile --reassemble'"
# Reads so many bytes of a dump at an offset.
Read = Callable[[int, int], bytes]
# Gets the first offset from another on that is in no hole: a small file can claim a large bitmap.
NextData = Callable[[int], "int | None"]


class UnknownFormatError(TargetError):
    """The file begins with nothing that is known."""


class Incomplete(NamedTuple):
    """
    Why a dump is not whole.

    :ivar why: What is wrong with it.
    :ivar advice: What to do about it.
    """

    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.why}; {self.advice}"

    @property
    def is_split(self) -> bool:
        """Whether only other files are missing."""
        return self.advice == PIECE_ADVICE


@dataclass(frozen=True)
class CoreFile:
    """
    What the headers of a vmcore say.

    :ivar format: ``elf``, ``kdump``, ``flattened``, ``lime`` or ``raw``.
    :ivar machine: ELF only, flattened or not: ``e_machine``.
    :ivar is_64_bit: ELF only: whether it is an ELF64 file.
    :ivar order: The byte order: ``<`` or ``>``.
    :ivar segments: Of an ELF core, flattened or not, the loadable segments; of raw memory, its ranges. What the end of
        a file that is cut short took away is no part of ``filesz``.
    :ivar notes: ELF notes by name, first one of each.
    :ivar prstatus: What the NT_PRSTATUS notes hold: a ``struct elf_prstatus`` for each CPU.
    :ivar kdump: The header of a kdump-compressed dump, flattened or not.
    :ivar piece: Of a split dump: the pfns whose pages this file has.
    :ivar records: Flattened only: its records.
    :ivar incomplete: Why the dump is not whole, ``None`` if nothing says so.
    """

    format: str
    machine: int = 0
    is_64_bit: bool = True
    order: str = "<"
    segments: Sequence[Segment] = ()
    notes: dict[str, bytes] = field(default_factory=dict)
    prstatus: tuple[bytes, ...] = ()
    kdump: KdumpHeader | None = None
    piece: tuple[int, int] | None = None
    records: FlattenedRecords | None = None
    incomplete: Incomplete | None = None

    @property
    def is_elf(self) -> bool:
        """Whether this is an ELF core, flattened or not."""
        return self.machine != 0

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
    :raises TargetError: if the file is not a kernel's core dump, or its headers are cut short.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    start = os.pread(fd, magic.SIZE, 0)
    if start[:16] == flattened.SIGNATURE:
        return _parse_flattened(fd, path)

    def read(size: int, offset: int) -> bytes:
        # The file names offsets that no file has.
        return os.pread(fd, size, offset) if offset < 1 << 63 else b""

    def next_data(offset: int) -> int | None:
        try:
            return os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as e:
            # A device and some file systems don't know their holes.
            return None if e.errno == errno.ENXIO else offset

    return _parse_plain(read, next_data, size, path)


def _parse_plain(read: Read, next_data: NextData, size: int, path: str) -> CoreFile:
    start = read(magic.SIZE, 0)
    if start[:4] == elf.MAGIC:
        return _parse_elf(read, size, path)
    if start[:8] in kdump_header.SIGNATURES:
        return _parse_kdump(read, next_data, size, path)
    if start[:4] in lime.MAGICS:
        segments, whole = lime.read_ranges(read, size)
        incomplete = (
            None if whole else Incomplete("truncated: the LiME file ends inside a range or its header", COPY_AGAIN)
        )
        return CoreFile("lime", segments=tuple(segments), incomplete=incomplete)
    kind = magic.explain(start, path)
    raise (TargetError if magic.known(start) else UnknownFormatError)(f"{path}: {kind}")


def raw_memory(size: int) -> CoreFile:
    """Describe a file that is nothing but memory, from physical address 0 on."""
    return CoreFile("raw", segments=(Segment(0, 0, 0, size, size),))


def _parse_elf(read: Read, size: int, path: str) -> CoreFile:
    start = read(64, 0)
    codec = Elf.of(start)
    if codec is None or len(start) < 52:
        raise TargetError(f"{path}: the ELF header is cut short or damaged; {COPY_AGAIN}")
    if len(start) < codec.header_size:
        raise TruncatedError(path, size, codec.header_size)
    header = codec.header(start)
    if header.type != elf.ET_CORE:
        kinds = {1: "a relocatable object", 2: "an executable", 3: "a shared object"}
        kind = kinds.get(header.type, f"of type {header.type}")
        raise TargetError(
            f"{path}: an ELF file, but {kind}, not a core; a vmlinux is given with -s, the vmcore with -c"
        )
    if not header.phnum and header.shnum and b".xen_pages" in _section_names(codec, header, read):
        raise TargetError(f"{path}: {magic.XEN_CORE}")
    marked = None
    if header.flags & DUMP_ELF_INCOMPLETE:
        marked = Incomplete("incomplete: makedumpfile ran out of space and marked the dump so", NEW_DUMP)
    phnum = header.phnum
    if phnum == elf.PN_XNUM and header.shoff:
        # With that many program headers, their number is in sh_info of the first section header.
        section = read(codec.section_size, header.shoff)
        if len(section) < codec.section_size:
            raise _cut(path, size, header.shoff + codec.section_size, marked)
        phnum = next(codec.sections(section)).info
    if header.phentsize != codec.segment_size or phnum > MAX_PROGRAM_HEADERS:
        raise TargetError(f"{path}: the program header table of the ELF core makes no sense; {COPY_AGAIN}")
    table = read(codec.segment_size * phnum, header.phoff)
    if len(table) < codec.segment_size * phnum:
        raise _cut(path, size, header.phoff + codec.segment_size * phnum, marked)

    segments = Segments.decode(codec, table)
    types = segments.column("type")
    loads = segments.chosen(types == elf.PT_LOAD)
    with_notes = segments.chosen(types == elf.PT_NOTE)
    if with_notes.end > size:
        raise _cut(path, size, with_notes.end, marked)
    notes = _read_notes(read, path, codec, with_notes)
    needed = max(loads.end, with_notes.end)
    loads = loads.cut_at(size)
    first = _first_of_each(notes)
    if "VMCOREINFO_XEN" in first:
        raise TargetError(f"{path}: {magic.XEN_HOST}")
    incomplete = marked
    if needed > size and marked is None:
        incomplete = Incomplete(truncated(size, needed), COPY_AGAIN)
    if INCOMPLETE_NOTE in first:
        why = magic.plain(first[INCOMPLETE_NOTE], MAX_WHY)
        incomplete = Incomplete(f"captured from a dump that is not whole: {why}", "capture the whole dump")
    if not loads or not loads.column("filesz").any():
        if incomplete is not None:
            raise TargetError(f"{path}: {incomplete}")
        raise TargetError(f"{path}: the ELF core holds no memory (no PT_LOAD); the dump was not finished")
    return CoreFile(
        "elf",
        header.machine,
        codec.is_64_bit,
        codec.order,
        loads,
        first,
        prstatus=_prstatus(notes),
        incomplete=incomplete,
    )


def _cut(path: str, size: int, needed: int, marked: Incomplete | None) -> TargetError:
    return TruncatedError(path, size, needed) if marked is None else TargetError(f"{path}: {marked}")


def _read_notes(read: Read, path: str, codec: Elf, segments: Segments) -> list[elf.Note]:
    """Read the notes of all program headers."""
    total = sum(segments.column("filesz").tolist())
    if len(segments) > MAX_NOTE_SEGMENTS or total > MAX_NOTES_SIZE:
        raise TargetError(
            f"{path}: {len(segments)} program headers have {total} bytes of notes, more than any dump; it is damaged"
        )
    pieces = (read(segment.filesz, segment.offset) for segment in segments)
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


def _section_names(codec: Elf, header: elf.Header, read: Read) -> bytes:
    """Read the names of an ELF file's sections, as far as they are there."""
    table = read(codec.section_size * min(header.shnum, 64), header.shoff)
    table = table[: len(table) // codec.section_size * codec.section_size]
    return b"".join(read(min(s.size, 4096), s.offset) for s in codec.sections(table) if s.type == elf.SHT_STRTAB)


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


def _parse_kdump(read: Read, next_data: NextData, size: int, path: str) -> CoreFile:
    start = read(kdump_header.HEADER_SIZE, 0)
    if len(start) < kdump_header.HEADER_SIZE:
        raise TruncatedError(path, size, 4096)
    header = kdump_header.decode(start, path)
    marked = None
    if header.status & DUMP_DH_COMPRESSED_INCOMPLETE:
        marked = Incomplete("incomplete: makedumpfile ran out of space and marked the dump so", NEW_DUMP)
    if header.bitmap_size > MAX_BITMAP_SIZE:
        raise TargetError(f"{path}: a bitmap of {header.bitmap_size} bytes, more than any memory needs; it is damaged")
    bitmaps_at = (1 + header.sub_hdr_size) * header.block_size
    if size < bitmaps_at:
        raise _cut(path, size, bitmaps_at, marked)
    sub_header = read(header.sub_hdr_size * header.block_size, header.block_size)
    piece = header.piece(sub_header)
    if piece is not None and not 0 <= piece[0] <= piece[1] <= header.bitmap_size * 8:
        raise TargetError(f"{path}: the pfns of a piece of a split dump make no sense; {COPY_AGAIN}")
    # makedumpfile leaves the end of a piece without pages unwritten.
    if size < header.data_start and (piece is None or piece[0] < piece[1]):
        raise _cut(path, size, header.data_start, marked)
    incomplete = marked or _cut_kdump(read, next_data, size, path, header, piece)
    if piece is not None and incomplete is None:
        first, end = piece
        incomplete = Incomplete(
            f"a piece of a split dump, with pfns {first:#x}-{end:#x} only",
            PIECE_ADVICE,
        )
    offset, length = header.notes(sub_header)
    data = read(length, offset) if length <= MAX_NOTES_SIZE and offset < 1 << 62 else b""
    notes = _bounded_notes(path, Elf(True, header.order).notes(data))
    found = _first_of_each(notes)
    if "VMCOREINFO_XEN" in found:
        raise TargetError(f"{path}: {magic.XEN_HOST}")
    # VMCOREINFO lies in the sub header, as a note or as plain text.
    at = sub_header.find(b"OSRELEASE=")
    if at >= 0:
        text = sub_header[at : at + vmcoreinfo.MAX_SIZE]
        whole = text[: header.vmcoreinfo_size(sub_header)].rstrip(b"\0")
        text = text.split(b"\0")[0]
        # What begins with a dot ends libkdumpfile by a signal.
        if len(text) < len(whole) or b"\n." in text:
            raise TargetError(f"{path}: its VMCOREINFO is damaged; {COPY_AGAIN}")
        found["VMCOREINFO"] = text
    return CoreFile(
        "kdump",
        order=header.order,
        notes=found,
        prstatus=_prstatus(notes),
        kdump=header,
        piece=piece,
        incomplete=incomplete,
    )


def _cut_kdump(
    read: Read, next_data: NextData, size: int, path: str, header: KdumpHeader, piece: tuple[int, int] | None
) -> Incomplete | None:
    """
    Check that the file is as long as its descriptors say.

    :raises TargetError: if not even the descriptors are there.
    """
    low, high = piece or (0, header.bitmap_size * 8)
    if low == high:
        return None
    dumped = 0
    start, end = low // 8, min(-(-high // 8), header.bitmap_size)
    while start < end:
        at = next_data(header.bitmap_start + start)
        if at is None:
            break
        offset = max(start, at - header.bitmap_start)
        bits = bytearray(read(max(0, min(PIECE, end - offset)), header.bitmap_start + offset))
        start = offset + PIECE
        # Bits of other pieces of the dump in the first byte and in the last.
        if bits and offset == low // 8:
            bits[0] &= 0xFF << low % 8 & 0xFF
        if bits and offset + len(bits) == -(-high // 8) and high % 8:
            bits[-1] &= (1 << high % 8) - 1
        dumped += int(kdump_header.count_bits(bytes(bits)).sum()) if bits else 0
    descriptor = header.descriptor
    descriptors_end = header.data_start + dumped * descriptor.itemsize
    if size < descriptors_end:
        raise TruncatedError(path, size, descriptors_end)
    # Page data is written in the order of the descriptors, so the last ones name the file's end.
    last = min(dumped, LAST_DESCRIPTORS) * descriptor.itemsize
    table = np.frombuffer(read(last, descriptors_end - last), descriptor)
    needed = kdump_header.end_of_data(table, header.block_size)
    return Incomplete(truncated(size, needed), COPY_AGAIN) if needed > size else None


def _parse_flattened(fd: int, path: str) -> CoreFile:
    found, cut = flattened.read_records_there_are(fd, path)
    records = FlattenedRecords(found)
    try:
        core = _parse_plain(lambda size, offset: records.pread(fd, size, offset), records.next_data, records.end, path)
    except TargetError:
        # Of an ELF core, the program headers are written last.
        if cut is not None:
            raise TargetError(f"{path}: {cut}; {COPY_AGAIN}") from None
        raise
    if cut is not None and (core.incomplete is None or core.incomplete.is_split):
        core = replace(core, incomplete=Incomplete(cut, COPY_AGAIN))
    if core.format not in ("elf", "kdump"):
        raise TargetError(f"{path}: a flattened file, but with no vmcore in it")
    return replace(core, format="flattened", records=records)
