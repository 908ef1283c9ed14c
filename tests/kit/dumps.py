# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of many formats, made of a stored vmcore: a machine with physical memory and page tables of its own."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import zstandard

from mminspect.program.elf import ET_CORE, PT_NOTE, Elf, Header, Note, Segment
from tests.kit.support import CoreEditor

BLOCK = 4096
LARGE = 1 << 21
VMCOREINFO = b"""OSRELEASE=6.12.0
PAGESIZE=4096
SYMBOL(init_top_pgt)=ffffffff82000000
SYMBOL(swapper_pg_dir)=ffffffff82000000
SYMBOL(_stext)=ffffffff81000000
NUMBER(phys_base)=0
"""
# How a page is compressed, by the flags in its descriptor.
RAW, ZLIB, LZO, ZSTD = 0x0, 0x1, 0x2, 0x20
PACK: dict[int, Callable[[bytes], bytes]] = {
    RAW: bytes,
    ZLIB: lambda data: zlib.compress(data, 1),
    ZSTD: lambda data: zstandard.ZstdCompressor().compress(data),
    LZO: lambda data: b"of no use here",
}
INCOMPLETE_KDUMP, INCOMPLETE_ELF = 0x8, 0x1
_PRESENT, _PSE = 0x63, 0x80


class Dump(NamedTuple):
    """
    A dump as it is written.

    :ivar data: The file.
    :ivar descriptors: Where the page descriptors are.
    """

    data: bytes
    descriptors: int


def make_kdump(
    pages: dict[int, tuple[bytes, int]],
    max_pfn: int,
    status: int = 0,
    split: int = 0,
    piece: tuple[int, int] = (0, 0),
    info: bytes = VMCOREINFO,
    unwritten: Collection[int] = (),
) -> Dump:
    """
    Write a kdump-compressed dump as makedumpfile does.

    :param pages: Contents by pfn, and how they are compressed. Pages of zeros share their data.
    :param piece: With ``split``: the pfns of this file.
    :param unwritten: Pfns that it had no more room for.
    """
    blocks = 2 * -(-max_pfn // (8 * BLOCK))
    header = struct.pack("<8si", b"KDUMP   ", 6) + bytes(6 * 65 + 22)
    header += struct.pack("<IiiiI", status, BLOCK, 1, blocks, max_pfn)
    # VMCOREINFO is in an ELF note.
    note = struct.pack("<3I12s", 11, len(info), 0, b"VMCOREINFO") + info if info else b""
    notes = (BLOCK + 512 + 24, len(info), BLOCK + 512, len(note)) if info else (0, 0, 0, 0)
    sub = struct.pack("<Qii13Q", 0, 0, split, *piece, *notes, 0, 0, *piece, max_pfn, 0, 0).ljust(512, b"\0") + note
    bitmap = bytearray(blocks * BLOCK // 2)
    for pfn in pages:
        bitmap[pfn // 8] |= 1 << pfn % 8
    mine = sorted(pfn for pfn in pages if not split or piece == (0, 0) or piece[0] <= pfn < piece[1])
    start = len(bitmap) * 2 + 2 * BLOCK
    at = start + 24 * len(mine)
    descriptors, data = bytearray(), bytearray()
    zeros: tuple[int, int, int] | None = None
    for pfn in mine:
        if pfn in unwritten:
            descriptors += bytes(24)
            continue
        content, kind = pages[pfn]
        packed = PACK[kind](content)
        if kind != LZO and len(packed) >= BLOCK:
            packed, kind = content, RAW
        where = (at + len(data), len(packed), kind)
        if content == bytes(BLOCK) and kind != LZO:
            where = zeros = zeros or where
        if where[0] == at + len(data):
            data += packed
        descriptors += struct.pack("<QIIQ", *where, 0)
    head = header.ljust(BLOCK, b"\0") + sub.ljust(BLOCK, b"\0") + bytes(bitmap) * 2
    return Dump(bytes(head + descriptors + data), start)


def flatten(data: bytes, cuts: Sequence[int] = (1 << 20, 3 << 20)) -> bytes:
    """Write a dump in makedumpfile's flattened format, in pieces that come last to first."""
    head = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    ends = sorted({*(cut % len(data) for cut in cuts), 0, len(data)})
    parts = [struct.pack(">qq", a, b - a) + data[a:b] for a, b in zip(ends, ends[1:])]
    return head.ljust(BLOCK, b"\0") + b"".join(reversed(parts)) + struct.pack(">qq", -1, -1)


class Machine:
    """
    Physical memory of an x86-64 kernel, with four-level page tables.

    The memmap has the highest pfns, and large pages map it.

    :param path: A capture. Its segments have virtual addresses.
    :param memmap: Virtual address of the memmap.
    :ivar info: VMCOREINFO.
    :ivar pages: Contents of pages by pfn.
    :ivar memmap: Virtual address of each page of the memmap, by the pfn where it lies.
    """

    def __init__(self, path: Path, memmap: int) -> None:
        core = CoreEditor(path)
        raw = path.read_bytes()
        segment = next(s for s in core.segments if s.type == PT_NOTE)
        notes = core.elf.notes(raw[segment.offset : segment.offset + segment.filesz])
        self.info = next(note.desc for note in notes if note.name == "VMCOREINFO").split(b"\0")[0]
        self.pages: dict[int, bytes] = {}
        self.memmap: dict[int, int] = {}
        virtual: dict[int, bytearray] = {}
        for load in core.loads:
            address, data = load.vaddr, raw[load.offset : load.offset + load.filesz]
            while data:
                count = min(len(data), BLOCK - address % BLOCK)
                page = virtual.setdefault(address // BLOCK, bytearray(BLOCK))
                page[address % BLOCK : address % BLOCK + count] = data[:count]
                address, data = address + count, data[count:]
        # libkdumpfile asks for the name of the system, which a capture doesn't hold.
        names = self._number(rb"SYMBOL\(init_uts_ns\)=(\w+)", 16) + self._number(rb"uts_namespace.name\)=(\d+)", 10)
        for index, name in enumerate((b"Linux", b"host", b"6.12.0", b"#1", b"x86_64", b"")):
            for at, byte in enumerate(name.ljust(65, b"\0"), names + 65 * index):
                virtual.setdefault(at // BLOCK, bytearray(BLOCK))[at % BLOCK] = byte
        root = self._number(rb"SYMBOL\(swapper_pg_dir\)=(\w+)", 16)
        self._root = (root - 0xFFFFFFFF80000000 + self._number(rb"NUMBER\(phys_base\)=(-?\d+)", 10)) // BLOCK
        self._tables: dict[int, list[int]] = {self._root: [0] * 512}
        self._next = 0x100
        end = memmap + (1 << 40)
        for number, content in virtual.items():
            if not memmap <= number * BLOCK < end and number * BLOCK != root:
                pfn = self._new()
                self.pages[pfn] = bytes(content)
                self._map(number * BLOCK, pfn, 12)
        frames: dict[int, int] = {}
        for number in sorted(number for number in virtual if memmap <= number * BLOCK < end):
            frame = number * BLOCK // LARGE
            if frame not in frames:
                base = max(self._next, self._root + 1)
                frames[frame] = -(-base // 512) * 512
                self._next = frames[frame] + 512
                self._map(frame * LARGE, frames[frame], 21)
            pfn = frames[frame] + number % 512
            self.pages[pfn] = bytes(virtual[number])
            self.memmap[pfn] = number * BLOCK
        # Tables come last of all, so that nothing else has moved; they lie below the memmap.
        self.pages.update({pfn: struct.pack("<512Q", *table) for pfn, table in self._tables.items()})
        self.end = max(self.pages) + 1

    def _number(self, pattern: bytes, base: int) -> int:
        match = re.search(pattern, self.info)
        assert match is not None
        return int(match[1], base)

    def _new(self) -> int:
        self._next += 1 + (self._next + 1 == self._root)
        return self._next

    def _map(self, address: int, pfn: int, shift: int) -> None:
        table = self._tables[self._root]
        for level in (39, 30, 21, 12):
            index = address >> level & 511
            if level == shift:
                table[index] = pfn * BLOCK | _PRESENT | (_PSE if shift > 12 else 0)
                return
            if not table[index]:
                new = self._new()
                self._tables[new] = [0] * 512
                table[index] = new * BLOCK | _PRESENT
            table = self._tables[table[index] // BLOCK]

    def translate(self, address: int) -> int:
        """Get the pfn of the page that a virtual address is in."""
        table = self._tables[self._root]
        for level in (39, 30, 21, 12):
            entry = table[address >> level & 511]
            if entry & _PSE and level == 21:
                return entry // BLOCK + address // BLOCK % 512
            if level == 12:
                return entry // BLOCK
            table = self._tables[entry // BLOCK]
        raise AssertionError

    def _runs(self, left_out: Collection[int]) -> list[tuple[int, int, int]]:
        """Find (first pfn, end of what is held, end) of segments: what is left out is the end of each."""
        runs: list[tuple[int, int, int]] = []
        for pfn in sorted(self.pages):
            out = pfn in left_out
            start = held = pfn
            if runs and runs[-1][2] == pfn and (out or runs[-1][1] == pfn):
                start, held, _ = runs.pop()
            runs.append((start, held if out else pfn + 1, pfn + 1))
        return runs

    def elf(self, left_out: Collection[int] = (), flags: int = 0, notes: Sequence[Note] | None = None) -> bytes:
        """Write an ELF core as ``makedumpfile -E`` does."""
        elf = Elf(True, "<")
        notes = [Note("VMCOREINFO", 0, self.info)] if notes is None else notes
        note_data = b"".join(map(elf.pack_note, notes))
        runs = list(self._runs(left_out))
        offset = elf.header_size + elf.segment_size * (1 + len(runs))
        segments = [Segment(offset, 0, 0, len(note_data), len(note_data), PT_NOTE)]
        body = [note_data]
        offset += len(note_data)
        for start, held, end in runs:
            # The file is mapped, so it shall be aligned as memory is.
            body.append(bytes(-offset % BLOCK))
            offset += -offset % BLOCK
            size = (held - start) * BLOCK
            segments.append(Segment(offset, 0, start * BLOCK, size, (end - start) * BLOCK))
            body.append(b"".join(self.pages[pfn] for pfn in range(start, held)))
            offset += size
        header = Header(ET_CORE, 62, phoff=elf.header_size, phnum=len(segments), flags=flags)
        return elf.pack_header(header) + b"".join(map(elf.pack_segment, segments)) + b"".join(body)

    def kdump(
        self,
        left_out: Collection[int] = (),
        unwritten: Collection[int] = (),
        status: int = ZLIB,
        piece: tuple[int, int] | None = None,
        info: bytes | None = None,
    ) -> bytes:
        """Write a kdump-compressed dump, or a piece of a split one."""
        pages = {pfn: (data, ZLIB) for pfn, data in self.pages.items() if pfn not in left_out}
        info = self.info if info is None else info
        split = int(piece is not None)
        return make_kdump(pages, self.end, status, split, piece or (0, 0), info, unwritten).data

    def lime(self, left_out: Collection[int] = ()) -> bytes:
        """Write a file as LiME does: nothing in it stands for what is left out."""
        parts = []
        for start, held, _ in self._runs(left_out):
            if held > start:
                parts.append(struct.pack("<IIQQ8x", 0x4C694D45, 1, start * BLOCK, held * BLOCK - 1))
                parts.append(b"".join(self.pages[pfn] for pfn in range(start, held)))
        return b"".join(parts)
