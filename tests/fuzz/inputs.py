# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole files that are damaged: every stored vmcore, and some of them in the other formats."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from mminspect.program.elf import PT_LOAD, PT_NOTE, Elf, Note
from tests.kit.support import VMCORES

PAGE = 4096
# The vmcores that are also made into kdump files. Both are of x86-64, whose page tables are easily made.
PACKED = ("amd64-6.1-healthy", "amd64-6.12-sysrq")
PRESENT, LARGE_MASK = 0x63, 0x1FF
START_KERNEL_MAP = 0xFFFFFFFF80000000
RECORD = struct.Struct(">qq")


def names() -> list[str]:
    """List the inputs, always in the same order. The ending says how a stored vmcore is packed."""
    stored = sorted(path.stem for path in VMCORES.glob("*.xz"))
    packed = [f"{name}{ending}" for name in PACKED for ending in (".kdump", ".zst-kdump", ".flat")]
    return [*stored, *packed, f"{PACKED[0]}.gz", f"{PACKED[0]}.zst", f"{PACKED[0]}.xz"]


def make(name: str) -> bytes:
    """Make an input."""
    stem = next((stem for stem in PACKED if name.startswith(stem + ".")), name)
    stored = (VMCORES / f"{stem}.xz").read_bytes()
    if name.endswith(".xz"):
        return stored
    core = lzma.decompress(stored)
    ending = name[len(stem) :]
    if ending == ".gz":
        return gzip.compress(core, 1, mtime=0)
    if ending == ".zst":
        return zstandard.ZstdCompressor(level=1).compress(core)
    if ending:
        dump = _kdump(core, zstd=ending == ".zst-kdump")
        return _flatten(dump) if ending == ".flat" else dump
    return core


def _flatten(dump: bytes) -> bytes:
    """Write makedumpfile's flattened format."""
    head = b"makedumpfile".ljust(16, b"\0") + RECORD.pack(1, 1)
    parts = [head.ljust(PAGE, b"\0")]
    for start in range(0, len(dump), 1 << 16):
        piece = dump[start : start + (1 << 16)]
        parts += [RECORD.pack(start, len(piece)), piece]
    return b"".join([*parts, RECORD.pack(-1, -1)])


def _notes_and_pages(core: bytes) -> tuple[list[Note], dict[int, bytearray]]:
    """Get the notes of a capture, and its memory by virtual page."""
    elf = Elf.of(core)
    assert elf is not None
    header = elf.header(core)
    notes: list[Note] = []
    pages: dict[int, bytearray] = {}
    for segment in elf.segments(core[header.phoff : header.phoff + elf.segment_size * header.phnum]):
        data = core[segment.offset : segment.offset + segment.filesz]
        if segment.type == PT_NOTE:
            notes += elf.notes(data)
        elif segment.type == PT_LOAD:
            at = 0
            while at < len(data):
                number, inside = divmod(segment.vaddr + at, PAGE)
                size = min(PAGE - inside, len(data) - at)
                page = pages.setdefault(number, bytearray(PAGE))
                page[inside : inside + size] = data[at : at + size]
                at += size
    return notes, pages


def _tables(pages: dict[int, bytearray], root: int) -> Iterator[tuple[int, bytes]]:
    """Give memory physical pages and page tables that map them at its virtual ones."""
    numbers = (pfn for pfn in range(1, 1 << 40) if pfn != root)
    tables: dict[tuple[int, ...], tuple[int, bytearray]] = {(): (root, bytearray(PAGE))}
    for number, data in sorted(pages.items()):
        pfn = next(numbers)
        yield pfn, bytes(data)
        path = tuple(number >> shift & LARGE_MASK for shift in (27, 18, 9, 0))
        for depth in range(1, 4):
            if path[:depth] not in tables:
                tables[path[:depth]] = (next(numbers), bytearray(PAGE))
                _enter(tables[path[: depth - 1]][1], path[depth - 1], tables[path[:depth]][0])
        _enter(tables[path[:3]][1], path[3], pfn)
    for pfn, table in tables.values():
        yield pfn, bytes(table)


def _enter(table: bytearray, index: int, pfn: int) -> None:
    struct.pack_into("<Q", table, index * 8, pfn * PAGE | PRESENT)


def _kdump(core: bytes, zstd: bool) -> bytes:
    """Write a capture of x86-64 as a kdump-compressed dump, with page tables made for it."""
    notes, virtual = _notes_and_pages(core)
    text = next(note.desc for note in notes if note.name == "VMCOREINFO")
    lines = dict(line.split("=", 1) for line in text.rstrip(b"\0").decode().splitlines() if "=" in line)
    lines["NUMBER(phys_base)"] = "0"
    root = (int(lines["SYMBOL(swapper_pg_dir)"], 16) - START_KERNEL_MAP) // PAGE
    pages = dict(_tables(virtual, root))
    text = "".join(f"{key}={value}\n" for key, value in lines.items()).encode()
    elf = Elf(True, "<")
    packed_notes = [elf.pack_note(Note(n.name, n.type, text if n.name == "VMCOREINFO" else n.desc)) for n in notes]
    # VMCOREINFO comes first.
    packed_notes.sort(key=lambda note: b"VMCOREINFO" not in note[:32])
    blob = b"".join(packed_notes)
    where = (PAGE + 512 + 12 + 12, len(text), PAGE + 512, len(blob))
    sub = struct.pack("<Qii6Q", 0, 31, 0, 0, 0, *where).ljust(512, b"\0") + blob
    sub += bytes(-len(sub) % PAGE)
    limit = max(pages) + 1
    blocks = 2 * -(-limit // (8 * PAGE))
    header = struct.pack("<8si", b"KDUMP   ", 6).ljust(12 + 6 * 65 + 22, b"\0")
    flags = 0x20 if zstd else 0x1
    header += struct.pack("<IiiiI", flags, PAGE, len(sub) // PAGE, blocks, limit)
    bitmap = bytearray(blocks * PAGE // 2)
    for pfn in pages:
        bitmap[pfn // 8] |= 1 << pfn % 8
    at = PAGE + len(sub) + 2 * len(bitmap) + 24 * len(pages)
    pack = zstandard.ZstdCompressor(level=1).compress if zstd else lambda data: zlib.compress(data, 1)
    descriptors, data = bytearray(), bytearray()
    for _, page in sorted(pages.items()):
        packed = pack(page)
        kind = flags
        if len(packed) >= PAGE:
            packed, kind = page, 0
        descriptors += struct.pack("<QIIQ", at + len(data), len(packed), kind, 0)
        data += packed
    return b"".join([header.ljust(PAGE, b"\0"), sub, bytes(bitmap) * 2, bytes(descriptors), bytes(data)])


class Inputs:
    """
    The inputs as files.

    :param folder: Where they are written, each when it is first asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Give the file of an input."""
        path = self._folder / name
        if not path.exists():
            path.write_bytes(make(name))
        return path
