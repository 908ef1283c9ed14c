# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Vmcore file formats, as far as they must be known before drgn opens a file.

drgn reads the formats itself. What it doesn't do is say clearly what is wrong with a file, tell
memory that was left out of a filtered ELF dump from memory that holds zeros, and open a QEMU kdump
file, whose utsname is empty. Those need the headers that are decoded here.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Callable

import numpy as np
import numpy.typing as npt

from mminspect.errors import TargetError

ET_CORE = 4
PT_LOAD = 1
PT_NOTE = 4
PN_XNUM = 0xFFFF
ELF_MAGIC = b"\x7fELF"
KDUMP_SIGNATURES = (b"KDUMP   ", b"DISKDUMP")
FLATTENED_SIGNATURE = b"makedumpfile\0\0\0\0"
# Size of the header of makedumpfile's flattened format (MAX_SIZE_MDF_HEADER).
FLATTENED_HEADER_SIZE = 4096
# As much of a flattened dump's inside as can hold its headers.
FLATTENED_HEADERS_SIZE = 1 << 20
# Bytes without any page's data that there can be between those of pages.
MAX_GAP = 1 << 20
# Bytes of a kdump file's bitmap that are counted together.
BITMAP_BLOCK = 4096
# The number of bits that are set in a byte.
_BITS = bytes(bin(byte).count("1") for byte in range(256))
# A program header table larger than this is not a core that anything writes.
MAX_PROGRAM_HEADERS = 1 << 20
MAX_NOTES_SIZE = 64 << 20
# Type of the note that has the registers of a CPU.
NT_PRSTATUS = 1
# e_machine of the architectures whose kernels are known to mminspect.
ELF_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}


@dataclass(frozen=True)
class Segment:
    """
    A ``PT_LOAD`` program header.

    :ivar offset: Offset in the file, in bytes.
    :ivar vaddr: Virtual address.
    :ivar paddr: Physical address.
    :ivar filesz: Bytes that the file holds.
    :ivar memsz: Bytes of memory that the segment stands for. What lies beyond ``filesz`` was left
        out of the dump.
    """

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True)
class CoreFile:
    """
    What the headers of a vmcore say.

    :ivar format: ``elf``, ``kdump`` or ``flattened``.
    :ivar machine: Name in :data:`ELF_MACHINES`, or ``None`` if the format doesn't tell.
    :ivar utsname_machine: The machine name of a kdump header. Empty in QEMU's.
    :ivar segments: ELF only: the loadable segments.
    :ivar notes: ELF notes by name, first one of each.
    :ivar prstatus: What the NT_PRSTATUS notes hold: a ``struct elf_prstatus`` for each CPU.
    :ivar kdump: The header of a kdump file that is not one of several.
    :ivar records: Flattened only: its records.
    """

    format: str
    machine: str | None = None
    is_64_bit: bool = True
    is_little_endian: bool = True
    utsname_machine: str = ""
    segments: tuple[Segment, ...] = ()
    notes: dict[str, bytes] = field(default_factory=dict)
    prstatus: tuple[bytes, ...] = ()
    kdump: KdumpHeader | None = None
    records: Records | None = None

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
        raise TargetError("an empty name is no vmcore")
    try:
        st = os.stat(path)
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
    if magic[:4] == ELF_MAGIC:
        return _parse_elf(fd, path)
    if magic[:8] in KDUMP_SIGNATURES:
        return _parse_kdump(fd, path)
    if magic == FLATTENED_SIGNATURE:
        return _parse_flattened(fd, path)
    raise TargetError(
        f"{path}: not a vmcore (neither an ELF core nor a kdump-compressed dump, plain or in .gz, .xz or .zst)"
    )


def _truncated(path: str, size: int, needed: int) -> TargetError:
    return TargetError(
        f"{path}: truncated: the file has {size} bytes, its headers speak of {needed}; copy the dump again"
    )


def _file_size(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_END)


def _parse_elf(fd: int, path: str) -> CoreFile:
    size = _file_size(fd)
    ident = os.pread(fd, 64, 0)
    if len(ident) < 52 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise TargetError(f"{path}: the ELF header is cut short or damaged; copy the dump again")
    is_64_bit = ident[4] == 2
    order = "<" if ident[5] == 1 else ">"
    if is_64_bit and len(ident) < 64:
        raise _truncated(path, size, 64)
    e_type, e_machine = struct.unpack_from(order + "HH", ident, 16)
    if e_type != ET_CORE:
        kind = {1: "a relocatable object", 2: "an executable", 3: "a shared object"}.get(e_type, f"of type {e_type}")
        raise TargetError(
            f"{path}: an ELF file, but {kind}, not a core; a vmlinux is given with -s, the vmcore with -c"
        )
    if is_64_bit:
        phoff, shoff = struct.unpack_from(order + "QQ", ident, 32)
        phentsize, phnum = struct.unpack_from(order + "HH", ident, 54)
    else:
        phoff, shoff = struct.unpack_from(order + "II", ident, 28)
        phentsize, phnum = struct.unpack_from(order + "HH", ident, 42)
    if phnum == PN_XNUM and shoff:
        # With that many program headers, their number is in sh_info of the first section header.
        section = os.pread(fd, 64 if is_64_bit else 40, shoff)
        if len(section) < (64 if is_64_bit else 40):
            raise _truncated(path, size, shoff + 64)
        (phnum,) = struct.unpack_from(order + "I", section, 44 if is_64_bit else 28)
    if phentsize != (56 if is_64_bit else 32) or phnum > MAX_PROGRAM_HEADERS:
        raise TargetError(f"{path}: the program header table of the ELF core makes no sense; copy the dump again")
    table = os.pread(fd, phentsize * phnum, phoff)
    if len(table) < phentsize * phnum:
        raise _truncated(path, size, phoff + phentsize * phnum)

    segments: list[Segment] = []
    notes: dict[str, bytes] = {}
    prstatus: list[bytes] = []
    for i in range(phnum):
        if is_64_bit:
            p_type, _, offset, vaddr, paddr, filesz, memsz, _ = struct.unpack_from(
                order + "IIQQQQQQ", table, i * phentsize
            )
        else:
            p_type, offset, vaddr, paddr, filesz, memsz, _, _ = struct.unpack_from(
                order + "IIIIIIII", table, i * phentsize
            )
        if p_type not in (PT_LOAD, PT_NOTE):
            continue
        if offset + filesz > size:
            raise _truncated(path, size, offset + filesz)
        if p_type == PT_LOAD:
            segments.append(Segment(offset, vaddr, paddr, filesz, memsz))
        elif filesz <= MAX_NOTES_SIZE:
            _take_notes(os.pread(fd, filesz, offset), order, notes, prstatus)
    if "VMCOREINFO" not in notes:
        if "QEMU" in notes:
            why = "for a QEMU guest, add '-device vmcoreinfo' and load the guest's qemu_fw_cfg module before the dump"
        else:
            why = "it is the core of a user process, or was not written by kdump, makedumpfile or QEMU"
        raise TargetError(f"{path}: no VMCOREINFO note: {why}")
    if not segments:
        raise TargetError(f"{path}: the ELF core holds no memory (no PT_LOAD); the dump was not finished")
    return CoreFile(
        "elf",
        ELF_MACHINES.get(e_machine, f"ELF machine {e_machine}"),
        is_64_bit,
        order == "<",
        segments=tuple(segments),
        notes=notes,
        prstatus=tuple(prstatus),
    )


def _take_notes(data: bytes, order: str, notes: dict[str, bytes], prstatus: list[bytes]) -> None:
    """Split ELF notes: the first by each name, and every NT_PRSTATUS."""
    pos = 0
    while pos + 12 <= len(data):
        namesz, descsz, kind = struct.unpack_from(order + "III", data, pos)
        pos += 12
        name = data[pos : pos + namesz].rstrip(b"\0").decode("ascii", "replace")
        pos += -(-namesz // 4) * 4
        if pos + descsz > len(data):
            return
        desc = data[pos : pos + descsz]
        notes.setdefault(name, desc)
        if name == "CORE" and kind == NT_PRSTATUS:
            prstatus.append(desc)
        pos += -(-descsz // 4) * 4


@dataclass(frozen=True)
class KdumpHeader:
    """
    The fields of ``struct disk_dump_header`` that are needed here.

    :ivar order: ``<`` for little-endian, ``>`` for big-endian.
    :ivar version: ``header_version``.
    :ivar machine: Machine name.
    :ivar is_64_bit: Whether the dumped machine is a 64-bit one.
    :ivar block_size: Size of a page, and of the blocks that the header counts in.
    :ivar sub_hdr_size: Blocks of the sub header, which follows the header's block.
    :ivar bitmap_blocks: Blocks of the two bitmaps, which follow that.
    :ivar status: Flags: how pages are compressed.
    :ivar max_mapnr: The pfn behind the last, cut to 32 bits.
    """

    order: str
    version: int
    machine: str
    is_64_bit: bool
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    status: int
    max_mapnr: int

    @property
    def bitmap_start(self) -> int:
        """Offset of the second bitmap, which says of which pages the dump has a descriptor."""
        return (1 + self.sub_hdr_size) * self.block_size + self.bitmap_size

    @property
    def bitmap_size(self) -> int:
        """Size of one bitmap in bytes."""
        return self.bitmap_blocks * self.block_size // 2

    @property
    def data_start(self) -> int:
        """Offset of the page descriptors."""
        return (1 + self.sub_hdr_size + self.bitmap_blocks) * self.block_size


def _kdump_header(header: bytes, path: str) -> KdumpHeader:
    # struct disk_dump_header of makedumpfile and QEMU: signature, header_version, utsname (6 times
    # 65 bytes), timestamp, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr.
    order = "<" if 0 < struct.unpack_from("<i", header, 8)[0] < 0x10000 else ">"
    (version,) = struct.unpack_from(order + "i", header, 8)
    machine = header[12 + 4 * 65 : 12 + 5 * 65].split(b"\0")[0].decode("ascii", "replace")
    # The timestamp is a struct timeval: the word size of the dumped machine decides where the rest
    # lies. Only one of the places holds a sensible block size.
    for words_at in (424, 412, 416):
        status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr = struct.unpack_from(
            order + "IiiiI", header, words_at
        )
        if block_size in (4096, 8192, 16384, 65536) and 0 < sub_hdr_size < 1024 and bitmap_blocks > 0:
            is_64_bit = words_at == 424
            return KdumpHeader(
                order, version, machine, is_64_bit, block_size, sub_hdr_size, bitmap_blocks, status, max_mapnr
            )
    raise TargetError(f"{path}: the kdump header makes no sense; copy the dump again")


def _kdump_core(format: str, header: KdumpHeader, sub_header: bytes, read: Callable[[int, int], bytes]) -> CoreFile:
    """
    Decode the sub header.

    :param read: Reads bytes of the dump by offset and size.
    """
    # VMCOREINFO lies in the sub header, as a note or as plain text.
    start = sub_header.find(b"OSRELEASE=")
    notes = {"VMCOREINFO": sub_header[start:].split(b"\0")[0]} if start >= 0 else {}
    prstatus: list[bytes] = []
    # struct kdump_sub_header of a 64-bit machine, since version 4: offset_note and size_note.
    if header.is_64_bit and header.version >= 4 and len(sub_header) >= 64:
        offset, size = struct.unpack_from(header.order + "QQ", sub_header, 48)
        data = read(offset, size) if size <= MAX_NOTES_SIZE and offset < 1 << 62 else b""
        _take_notes(data, header.order, notes, prstatus)
    # struct kdump_sub_header: phys_base, a long; dump_level; split, which says that other files hold the rest.
    (split,) = struct.unpack_from(header.order + "i", sub_header, 12 if header.is_64_bit else 8)
    return CoreFile(
        format,
        is_little_endian=header.order == "<",
        utsname_machine=header.machine,
        notes=notes,
        prstatus=tuple(prstatus),
        kdump=None if split else header,
    )


def count_bits(data: bytes) -> npt.NDArray[np.int64]:
    """
    Count the bits that are set in a bitmap.

    :return: Number of bits in each :data:`BITMAP_BLOCK` bytes.
    """
    counts = np.frombuffer(data.translate(_BITS), np.uint8)
    sums: npt.NDArray[np.int64] = np.add.reduceat(counts, np.arange(0, len(counts), BITMAP_BLOCK), dtype=np.int64)
    return sums


def page_descriptor(header: KdumpHeader) -> np.dtype[np.void]:
    """Get the type of ``struct page_desc``: offset and size of a page's data, how it is compressed, page flags."""
    fields = (("offset", "u8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8"))
    return np.dtype([(name, header.order + kind) for name, kind in fields])


def _end_of_data(table: npt.NDArray[np.void], block_size: int) -> int:
    """
    Get where the data of pages ends, by their descriptors.

    What a damaged descriptor names lies elsewhere: no page takes more than its own size, and there is no large gap in
    the data.
    """
    sizes, offsets = table["size"].astype(np.int64), table["offset"].astype(np.int64)
    good = (sizes > 0) & (sizes <= block_size) & (offsets >= 0) & (offsets <= np.iinfo(np.int64).max - block_size)
    # Pages of zeros share theirs, which may be far away.
    offsets, first = np.unique(offsets[good], return_index=True)
    if not len(offsets):
        return 0
    ends = np.maximum.accumulate(offsets + sizes[good][first])
    gaps = np.flatnonzero(offsets[1:] - ends[:-1] > MAX_GAP)
    # Most of them are right, so the one in the middle is.
    behind = gaps[gaps >= len(offsets) // 2]
    return int(ends[behind[0]] if len(behind) else ends[-1])


def _parse_kdump(fd: int, path: str) -> CoreFile:
    size = _file_size(fd)
    start = os.pread(fd, 512, 0)
    if len(start) < 512:
        raise _truncated(path, size, 4096)
    header = _kdump_header(start, path)
    block_size = header.block_size
    if size < header.data_start:
        raise _truncated(path, size, header.data_start)
    dumped = 0
    for offset in range(0, header.bitmap_size, 1 << 20):
        piece = os.pread(fd, min(1 << 20, header.bitmap_size - offset), header.bitmap_start + offset)
        dumped += int(count_bits(piece).sum())
    # struct page_desc: offset (8 bytes), size (4), flags (4), page_flags (8).
    descriptors_end = header.data_start + dumped * 24
    if size < descriptors_end:
        raise _truncated(path, size, descriptors_end)
    # Page data is written in the order of the descriptors, so the last ones name the file's end.
    last = min(dumped, 1 << 16)
    table = np.frombuffer(os.pread(fd, last * 24, descriptors_end - last * 24), page_descriptor(header))
    needed = _end_of_data(table, block_size)
    if needed > size:
        raise _truncated(path, size, needed)
    sub_header = os.pread(fd, header.sub_hdr_size * block_size, block_size)
    return _kdump_core("kdump", header, sub_header, lambda offset, size: os.pread(fd, size, offset))


def flattened_records(fd: int, path: str) -> Iterator[tuple[int, int, int]]:
    """
    Go through the records of a flattened dump. They come in any order and overwrite each other.

    :return: Iterator of (offset in the dump, offset in the file, length).
    :raises TargetError: if the file is cut short or damaged.
    """
    size = _file_size(fd)
    pos = FLATTENED_HEADER_SIZE
    while True:
        # Offset and length, both big-endian and signed; offset -1 ends the file.
        record = os.pread(fd, 16, pos)
        if len(record) < 16:
            raise TargetError(f"{path}: truncated: the flattened dump has no end mark; copy the dump again")
        offset, length = struct.unpack(">qq", record)
        if offset == -1:
            return
        if offset < 0 or length <= 0:
            raise TargetError(f"{path}: the flattened dump is damaged at byte {pos}; copy the dump again")
        if pos + 16 + length > size:
            raise _truncated(path, size, pos + 16 + length)
        yield offset, pos + 16, length
        pos += 16 + length


class Records:
    """
    The records of a flattened dump, in the order of what they hold.

    :param found: (offset in the dump, offset in the file, length) of each, in the order of the file.
    :ivar overlap: Whether some are written over others; then their order in the file matters.
    """

    def __init__(self, found: Iterable[tuple[int, int, int]]) -> None:
        self.offsets, self.positions, self.lengths = array("q"), array("q"), array("q")
        self.overlap = False
        end = 0
        for offset, pos, length in sorted(found):
            self.offsets.append(offset)
            self.positions.append(pos)
            self.lengths.append(length)
            self.overlap = self.overlap or offset < end
            end = max(end, offset + length)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Where the dump ends."""
        return self.offsets[-1] + self.lengths[-1] if self.offsets else 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """
        Read the dump as if it were in order. Its records must not overlap.

        :return: As much as there is without a gap.
        """
        pieces = []
        index = max(0, bisect_right(self.offsets, offset) - 1)
        while size > 0 and index < len(self.offsets):
            inside = offset - self.offsets[index]
            length = min(size, self.lengths[index] - inside)
            if inside < 0 or length <= 0:
                break
            pieces.append(os.pread(fd, length, self.positions[index] + inside))
            offset += length
            size -= length
            index += 1
        return b"".join(pieces)


def _parse_flattened(fd: int, path: str) -> CoreFile:
    inner = bytearray(FLATTENED_HEADERS_SIZE)
    found = []
    for offset, pos, length in flattened_records(fd, path):
        found.append((offset, pos, length))
        if offset < len(inner):
            data = os.pread(fd, min(length, len(inner) - offset), pos)
            inner[offset : offset + len(data)] = data
    records = Records(found)
    if inner[:8] not in KDUMP_SIGNATURES:
        return CoreFile("flattened", records=records)
    header = _kdump_header(bytes(inner[:512]), path)
    end = (1 + header.sub_hdr_size) * header.block_size
    sub_header = bytes(inner[header.block_size : end])
    core = _kdump_core("flattened", header, sub_header, lambda offset, size: bytes(inner[offset : offset + size]))
    return replace(core, records=records)
