# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to a file: what is written where, chosen by a seeded generator."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Callable

from mminspect.program.elf import PN_XNUM, PT_LOAD, PT_NOTE, Elf, Note, Segment
from mminspect.typeinfo.btf import BTF_MAGIC, HEADER_SIZE

# Types that an analysis decodes; their records in BTF are damaged more often than others.
TYPES = (
    *(
        "page",
        "zone",
        "pglist_data",
        "mem_section",
        "mem_section_usage",
        "free_area",
        "list_head",
        "zonelist",
        "zoneref",
    ),
    *("per_cpu_pages", "per_cpu_pageset", "cpumask", "nodemask_t", "zone_type", "migratetype", "pageflags", "pagetype"),
    *(
        "pageblock_bits",
        "spinlock",
        "raw_spinlock",
        "qspinlock",
        "atomic_t",
        "uts_namespace",
        "new_utsname",
        "resource",
    ),
    *("printk_ringbuffer", "prb_desc_ring", "prb_desc", "prb_data_ring", "printk_info", "printk_log", "memblock"),
    *("atomic_long_t", "arch_spinlock_t", "node_states", "lruvec", "unsigned long", "char", "kmem_cache", "slab"),
)
KDUMP_BLOCK = 4096


@dataclass
class Damage:
    """
    What is done to a file.

    :ivar writes: (offset, bytes) in the order in which they are written.
    :ivar size: Where the file is cut off, ``None`` if it isn't.
    :ivar tail: What is appended.
    """

    writes: list[tuple[int, bytes]] = field(default_factory=list)
    size: int | None = None
    tail: bytes = b""

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes somewhere."""
        self.writes.append((offset, data))


@dataclass(frozen=True)
class Anatomy:
    """
    Where things are in a file.

    :ivar size: Of the file.
    :ivar order: Byte order, ``<`` or ``>``.
    :ivar word: Bytes of an ``unsigned long``.
    :ivar parts: (what, offset, size).
    :ivar elf: Of an ELF file.
    :ivar segments: Of an ELF file.
    :ivar phoff: Of an ELF file: where its program headers are.
    :ivar records: Offsets of the records of :data:`TYPES` in BTF.
    """

    size: int
    order: str
    word: int
    parts: tuple[tuple[str, int, int], ...]
    elf: Elf | None = None
    segments: tuple[Segment, ...] = ()
    phoff: int = 0
    records: tuple[int, ...] = ()

    def sizes(self, what: str) -> list[tuple[int, int]]:
        """Get the (offset, size) of the parts of a name."""
        return [(offset, size) for name, offset, size in self.parts if name == what]


def examine(path: Path) -> Anatomy:
    """Find the parts of a whole file."""
    data = path.read_bytes()
    elf = Elf.of(data[:16])
    if elf is not None:
        return _examine_elf(data, elf)
    if data.startswith(b"KDUMP   "):
        return _examine_kdump(data, 0)
    if data.startswith(b"makedumpfile"):
        records = [("record", at, 16) for at in range(KDUMP_BLOCK, len(data) - 16, (1 << 16) + 16)]
        inner = _examine_kdump(data, KDUMP_BLOCK + 16)
        return Anatomy(len(data), "<", 8, (*records, *inner.parts))
    return Anatomy(
        len(data), "<", 4, (("packed header", 0, 32), ("packed", 0, len(data)), ("packed end", len(data) - 32, 32))
    )


def _examine_kdump(data: bytes, base: int) -> Anatomy:
    sub_size, blocks = struct.unpack_from("<ii", data, base + 432)
    sub, bitmap = base + KDUMP_BLOCK, base + (1 + sub_size) * KDUMP_BLOCK
    table = bitmap + blocks * KDUMP_BLOCK
    end = min(table + 24 * 4000, len(data))
    parts = (
        ("kdump header", base, 452),
        ("kdump sub header", sub, 128),
        ("notes", sub + 512, sub_size * KDUMP_BLOCK - 512),
        ("bitmap", bitmap, blocks * KDUMP_BLOCK),
        ("descriptors", table, end - table),
        ("pages", end, len(data) - end),
    )
    return Anatomy(len(data), "<", 8, parts)


def _examine_elf(data: bytes, elf: Elf) -> Anatomy:
    header = elf.header(data)
    end = header.phoff + elf.segment_size * header.phnum
    segments = tuple(elf.segments(data[header.phoff : end]))
    parts = [("header", 0, elf.header_size), ("program headers", header.phoff, end - header.phoff)]
    records: list[int] = []
    for segment in segments:
        offset, size = segment.offset, segment.filesz
        if segment.type == PT_NOTE:
            parts.append(("notes", offset, size))
        elif segment.type == PT_LOAD and size:
            content = data[offset : offset + size]
            at = content.find(struct.pack(elf.order + "HBBII", BTF_MAGIC, 1, 0, HEADER_SIZE, 0))
            if at >= 0 and size > 1 << 20:
                parts += _btf_parts(content, at, offset, elf.order)
                records += _btf_records(content, at, offset, elf.order)
            else:
                parts.append(("large" if size > 1 << 18 else "memory", offset, size))
    word = 8 if elf.is_64_bit else 4
    return Anatomy(len(data), elf.order, word, tuple(parts), elf, segments, header.phoff, tuple(records))


def _btf_parts(content: bytes, at: int, offset: int, order: str) -> list[tuple[str, int, int]]:
    hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(order + "5I", content, at + 4)
    types, strings = offset + at + hdr_len + type_off, offset + at + hdr_len + str_off
    return [("btf header", offset + at, HEADER_SIZE), ("btf", types, type_len), ("btf strings", strings, str_len)]


def _btf_records(content: bytes, at: int, offset: int, order: str) -> list[int]:
    """Find the records of :data:`TYPES`, by what looks like one."""
    hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(order + "5I", content, at + 4)
    start = at + hdr_len + str_off
    strings = content[start : start + str_len]
    wanted = {strings.find(b"\0" + name.encode() + b"\0") + 1 for name in TYPES} - {0}
    begin = at + hdr_len + type_off
    words = struct.unpack_from(f"{order}{type_len // 4}I", content, begin)
    return [
        offset + begin + index * 4
        for index in range(len(words) - 2)
        if words[index] in wanted and 1 <= words[index + 1] >> 24 & 0x1F <= 19 and not words[index + 1] & 0x60FF0000
    ]


class Damager:
    """
    Damages files.

    :param path: The whole file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.anatomy = examine(path)

    def make(self, random: Random) -> Damage:
        """Make some damage."""
        damage = Damage()
        kinds: Sequence[tuple[int, Callable[[Damage, Random], None]]]
        if self.anatomy.elf is not None:
            kinds = (
                *((3, self._bits), (2, self._headers), (3, self._vmcoreinfo), (1, self._notes), (4, self._btf)),
                *((8, self._memory), (6, self._struct_pages), (2, self._many), (1, self._cut)),
            )
        else:
            kinds = ((3, self._bits), (6, self._any_part), (1, self._cut))
        weights = [weight for weight, _ in kinds]
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            random.choices([kind for _, kind in kinds], weights)[0](damage, random)
        return damage

    def _read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _value(self, random: Random, size: int) -> bytes:
        """Make a number of some bytes: an unlikely one, a small one, a random one, or one that is somewhere else."""
        a = self.anatomy
        order = "little" if a.order == "<" else "big"
        bits = 8 * size
        kind = random.randrange(5)
        if kind == 0:
            number = random.choice((0, 1, -1, 1 << bits - 1, (1 << bits - 1) - 1, -2, 1 << bits // 2, -4096))
        elif kind == 1:
            number = random.randrange(0, 300)
        elif kind == 2:
            number = random.getrandbits(bits)
        elif kind == 3:
            number = 1 << random.randrange(bits)
        else:
            _, offset, length = random.choice(a.parts)
            at = offset + random.randrange(max(1, length - size + 1)) // size * size
            data = self._read(at, size)
            return data if len(data) == size else bytes(size)
        return (number % (1 << bits)).to_bytes(size, order)  # type: ignore[arg-type]

    def _spoil(self, damage: Damage, random: Random, offset: int, size: int) -> None:
        """Damage a part of the file."""
        a = self.anatomy
        for _ in range(random.choice((1, 1, 2, 5, 20))):
            width = random.choice((1, 2, 4, a.word, a.word, a.word))
            if width > size:
                width = 1
            at = offset + random.randrange(size // width) * width
            kind = random.randrange(6)
            if kind == 0:
                old = self._read(at, 1)
                damage.put(at, bytes((old[0] ^ 1 << random.randrange(8),)))
            elif kind == 1:
                length = min(random.choice((8, 64, 512, 4096, 1 << 16)), offset + size - at)
                damage.put(at, bytes((random.choice((0, 0xFF, 0x6B, random.randrange(256))),)) * length)
            elif kind == 2:
                length = min(random.choice((a.word, 64, 512)), size)
                source = offset + random.randrange(size - length + 1)
                data = self._read(source, length)[: offset + size - at]
                damage.put(at, data)
            else:
                damage.put(at, self._value(random, width))

    def _bits(self, damage: Damage, random: Random) -> None:
        for _ in range(random.choice((1, 2, 8, 64))):
            at = random.randrange(self.anatomy.size)
            damage.put(at, bytes((self._read(at, 1)[0] ^ 1 << random.randrange(8),)))

    def _part(self, damage: Damage, random: Random, *names: str) -> None:
        found = [place for name in names for place in self.anatomy.sizes(name)]
        if found:
            self._spoil(damage, random, *random.choice(found))

    def _any_part(self, damage: Damage, random: Random) -> None:
        names = sorted({name for name, _, _ in self.anatomy.parts})
        self._part(damage, random, random.choice(names))

    def _headers(self, damage: Damage, random: Random) -> None:
        self._part(damage, random, "header", "program headers")

    def _notes(self, damage: Damage, random: Random) -> None:
        self._part(damage, random, "notes")

    def _memory(self, damage: Damage, random: Random) -> None:
        self._part(damage, random, "memory")

    def _struct_pages(self, damage: Damage, random: Random) -> None:
        self._part(damage, random, "large")

    def _btf(self, damage: Damage, random: Random) -> None:
        records = self.anatomy.records
        if records and random.random() < 0.7:
            # What follows a record's three words are its members or enumerators.
            self._spoil(damage, random, random.choice(records), random.choice((12, 12, 48, 256)))
        else:
            self._part(damage, random, "btf header", "btf", "btf strings")

    def _vmcoreinfo(self, damage: Damage, random: Random) -> None:
        """Change lines of VMCOREINFO. The notes move to the end of the file, so that lines can be longer."""
        a = self.anatomy
        index = next(i for i, s in enumerate(a.segments) if s.type == PT_NOTE)
        assert a.elf is not None
        segment = a.segments[index]
        notes = list(a.elf.notes(self._read(segment.offset, segment.filesz)))
        changed = []
        for note in notes:
            if note.name == "VMCOREINFO":
                lines = note.desc.rstrip(b"\0").decode().splitlines()
                for _ in range(random.choice((1, 1, 2, 6))):
                    self._change_line(lines, random)
                note = type(note)(note.name, note.type, "\n".join(lines).encode("latin-1", "replace") + b"\n")
            changed.append(a.elf.pack_note(note))
        self._append(damage, index, b"".join(changed))

    @staticmethod
    def _change_line(lines: list[str], random: Random) -> None:
        at = random.randrange(len(lines))
        key, _, value = lines[at].partition("=")
        kind = random.randrange(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            number = random.choice(
                (0, 1, -1, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, 63, 64)
            )
            lines[at] = f"{key}={number}" if not key.startswith("SYMBOL") else f"{key}={number:x}"
        elif kind == 2:
            lines[at] = f"{key}={random.getrandbits(random.choice((4, 8, 16, 64))):x}"
        elif kind == 3 and value:
            position = random.randrange(len(value))
            lines[at] = f"{key}={value[:position]}{random.choice('0123456789abcdef-x .')}{value[position + 1 :]}"
        elif kind == 4:
            other = lines[random.randrange(len(lines))].partition("=")
            lines[at] = f"{key}={other[2]}"
        else:
            lines[at] = f"{key}={value * random.choice((2, 50, 2000))}"
        if not lines:
            lines.append("X=0")

    def _append(self, damage: Damage, index: int, data: bytes) -> None:
        """Give a program header other contents, at the end of the file."""
        a = self.anatomy
        assert a.elf is not None
        old = a.segments[index]
        new = Segment(
            a.size + len(damage.tail), old.vaddr, old.paddr, len(data), len(data), old.type, old.flags, old.align
        )
        damage.tail += data
        damage.put(a.phoff + index * a.elf.segment_size, a.elf.pack_segment(new))

    def _many(self, damage: Damage, random: Random) -> None:
        """Have very many of something."""
        a = self.anatomy
        count = random.choice((5000, 50000, 400000))
        note = next(s for s in a.segments if s.type == PT_NOTE)
        kind = random.randrange(4)
        if kind == 0:
            self._many_notes(damage, note, random.choice((("CORE", 336), ("X", 0), ("CORE", 0))), count)
        elif kind == 1:
            self._long_vmcoreinfo(damage, note, count)
        elif kind == 2:
            first, spread = a.segments[-1], 1 << (47 if a.word == 8 else 24)
            size = random.choice((8, 4096))
            loads = [Segment(first.offset, spread + i * 0x2000, i * 0x2000, 8, size) for i in range(500)]
            self._many_headers(damage, loads, count)
        else:
            self._many_headers(damage, [note], count)

    def _many_notes(self, damage: Damage, note: Segment, what: tuple[str, int], count: int) -> None:
        a = self.anatomy
        assert a.elf is not None
        packed = a.elf.pack_note(Note(what[0], 1, bytes(what[1])))
        body = packed * min(count, (40 << 20) // len(packed))
        self._append(damage, a.segments.index(note), self._read(note.offset, note.filesz) + body)

    def _long_vmcoreinfo(self, damage: Damage, note: Segment, count: int) -> None:
        a = self.anatomy
        assert a.elf is not None
        more = "".join(f"SYMBOL(s{i})={i:x}\n" for i in range(count)).encode()
        notes = a.elf.notes(self._read(note.offset, note.filesz))
        body = b"".join(a.elf.pack_note(n._replace(desc=n.desc + more)) for n in notes)
        self._append(damage, a.segments.index(note), body)

    def _many_headers(self, damage: Damage, more: Sequence[Segment], count: int) -> None:
        """Move the program headers to the end of the file and add to them."""
        a = self.anatomy
        elf = a.elf
        assert elf is not None
        head = elf.header(self._read(0, elf.header_size))
        table = b"".join(map(elf.pack_segment, a.segments))
        table += b"".join(map(elf.pack_segment, more)) * (count // len(more))
        phnum = len(table) // elf.segment_size
        at = a.size + len(damage.tail)
        # With that many, their number is in sh_info of the first section header.
        section = struct.pack(a.order + ("IIQQQQIIQQ" if elf.is_64_bit else "10I"), *[0] * 7, phnum, 0, 0)
        damage.tail += section + table
        many = phnum >= PN_XNUM
        head = head._replace(phoff=at + len(section), phnum=min(phnum, PN_XNUM), shoff=at if many else 0)
        damage.put(0, elf.pack_header(head._replace(shentsize=elf.section_size, shnum=1)))

    def _cut(self, damage: Damage, random: Random) -> None:
        damage.size = random.randrange(self.anatomy.size)
