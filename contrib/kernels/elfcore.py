# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put right what QEMU leaves wrong in the ELF header of a memory dump."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Callable

from contrib.kernels.errors import HarnessError

PT_LOAD = 1
PT_NOTE = 4
ELFCLASS32 = 1
ELFCLASS64 = 2
ELFDATA2LSB = 1
ELFDATA2MSB = 2
EI_CLASS = 4
EI_DATA = 5
IDENT_SIZE = 16
NOTE_HEAD = 12
NOTE_ALIGN = 4
ADDRESS_LIMIT_32 = 1 << 32
VMCOREINFO = b"VMCOREINFO\0"


@dataclass(frozen=True)
class Segment:
    """A program header."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True)
class Headers:
    """An ELF header and its program headers."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    flags: int
    segments: tuple[Segment, ...]

    @property
    def order(self) -> str:
        """Return the byte order as struct spells it."""
        return "<" if self.ident[EI_DATA] == ELFDATA2LSB else ">"

    @property
    def wide(self) -> bool:
        """Return whether this is a 64-bit ELF file."""
        return self.ident[EI_CLASS] == ELFCLASS64


def file_format(wide: bool) -> str:
    """Return the layout of the ELF header after its identification."""
    return "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"


def segment_format(wide: bool) -> str:
    """Return the layout of a program header."""
    return "IIQQQQQQ" if wide else "IIIIIIII"


def read_headers(core: BinaryIO) -> Headers:
    """Read the headers of an ELF core."""
    core.seek(0)
    ident = core.read(IDENT_SIZE)
    if len(ident) < IDENT_SIZE or ident[:4] != b"\x7fELF":
        raise HarnessError("the dump is not an ELF file")
    empty = Headers(ident, 0, 0, 0, 0, 0, ())
    order, wide = empty.order, empty.wide
    layout = order + file_format(wide)
    values = struct.unpack(layout, core.read(struct.calcsize(layout)))
    kind, machine, version, entry, phoff, _, flags, _, phentsize, phnum = values[:10]
    segments = []
    for index in range(phnum):
        core.seek(phoff + index * phentsize)
        layout = order + segment_format(wide)
        fields = struct.unpack(layout, core.read(struct.calcsize(layout)))
        if not wide:  # the flags come late in the 32-bit layout
            fields = (fields[0], fields[6], *fields[1:6], fields[7])
        segments.append(Segment(*fields))
    return Headers(ident, kind, machine, version, entry, flags, tuple(segments))


def write_headers(core: BinaryIO, headers: Headers) -> None:
    """Write the headers at the start of a core, program headers right after the ELF header.

    QEMU puts a section header in between. makedumpfile then finds no PT_LOAD.
    """
    order, wide = headers.order, headers.wide
    size = IDENT_SIZE + struct.calcsize(order + file_format(wide))
    entry_size = struct.calcsize(order + segment_format(wide))
    end = size + entry_size * len(headers.segments)
    if end > min((s.offset for s in headers.segments if s.filesz), default=end):
        raise HarnessError("no room for the program headers at the start of the dump")
    data = headers.ident + struct.pack(
        order + file_format(wide),
        *(headers.type, headers.machine, headers.version, headers.entry, size, 0),
        *(headers.flags, size, entry_size, len(headers.segments), 0, 0, 0),
    )
    for s in headers.segments:
        fields = (s.type, s.flags, s.offset, s.vaddr, s.paddr, s.filesz, s.memsz, s.align)
        if not wide:
            fields = (*fields[:1], *fields[2:7], s.flags, s.align)
        data += struct.pack(order + segment_format(wide), *fields)
    core.seek(0)
    core.write(data)


def little_endian(headers: Headers) -> Headers:
    """Return the headers as little-endian ones.

    QEMU takes the byte order of a ppc64 guest from the hypervisor's register, which a pseries guest
    does not set. Memory is a plain copy and needs nothing.
    """
    ident = bytearray(headers.ident)
    ident[EI_DATA] = ELFDATA2LSB
    return replace(headers, ident=bytes(ident))


def linear_map(headers: Headers, physical: int, virtual: int) -> Headers:
    """Give the segments from a physical address on their virtual addresses in a linear map."""

    def mapped(segment: Segment) -> Segment:
        if segment.type != PT_LOAD or segment.paddr < physical:
            return segment
        start = virtual + segment.paddr - physical
        if start + segment.memsz > ADDRESS_LIMIT_32:
            raise HarnessError("the guest's memory does not fit its linear map; give it less")
        return replace(segment, vaddr=start)

    return replace(headers, segments=tuple(mapped(segment) for segment in headers.segments))


def read_physical(core: BinaryIO, headers: Headers, address: int, size: int) -> bytes:
    """Read guest memory at a physical address."""
    for segment in headers.segments:
        inside = address - segment.paddr
        if segment.type == PT_LOAD and inside >= 0 and inside + size <= segment.filesz:
            core.seek(segment.offset + inside)
            return core.read(size)
    raise HarnessError(f"the dump has no memory at physical address {address:#x}")


def padded_size(size: int) -> int:
    """Return a size rounded up to the alignment of notes."""
    return -(-size // NOTE_ALIGN) * NOTE_ALIGN


def vmcoreinfo_note(place: bytes, order: str) -> bytes:
    """Return the VMCOREINFO note out of the larger place that the kernel keeps for it."""
    namesz, descsz, _ = struct.unpack_from(order + "III", place)
    name = place[NOTE_HEAD : NOTE_HEAD + namesz]
    size = NOTE_HEAD + padded_size(namesz) + padded_size(descsz)
    if name != VMCOREINFO or size > len(place):
        raise HarnessError("guest memory holds no VMCOREINFO note where the guest says it is")
    return place[:size]


def note_segment(headers: Headers) -> Segment:
    """Return the segment with the notes."""
    for segment in headers.segments:
        if segment.type == PT_NOTE:
            return segment
    raise HarnessError("the dump has no notes")


def has_vmcoreinfo(core: BinaryIO) -> bool:
    """Return whether a core carries the VMCOREINFO note."""
    segment = note_segment(read_headers(core))
    core.seek(segment.offset)
    return VMCOREINFO in core.read(segment.filesz)


def put_notes(core: BinaryIO, headers: Headers, notes: bytes) -> Headers:
    """Write notes at the end of a core and let the segment of notes point there."""
    old = note_segment(headers)
    offset = padded_size(core.seek(0, 2))
    core.seek(offset)
    core.write(notes)
    new = replace(old, offset=offset, filesz=len(notes), memsz=len(notes) if old.memsz else 0)
    segments = tuple(new if segment == old else segment for segment in headers.segments)
    return replace(headers, segments=segments)


def add_vmcoreinfo(core: BinaryIO, headers: Headers, place: tuple[int, int]) -> Headers:
    """Add the VMCOREINFO note that lies in guest memory at (physical address, size)."""
    note = vmcoreinfo_note(read_physical(core, headers, *place), headers.order)
    old = note_segment(headers)
    core.seek(old.offset)
    notes = core.read(old.filesz)
    return put_notes(core, headers, notes + bytes(-len(notes) % NOTE_ALIGN) + note)


def drop_notes(headers: Headers) -> Headers:
    """Forget all notes. Registers in the wrong byte order are worse than none."""
    old = note_segment(headers)
    new = replace(old, filesz=0, memsz=0)
    return replace(headers, segments=tuple(new if s == old else s for s in headers.segments))


Repair = Callable[[Headers], Headers]


def repair(path: Path, place: tuple[int, int] | None = None, repairs: tuple[Repair, ...] = ()) -> None:
    """Rewrite the headers of a dump; with a place, add the VMCOREINFO note that lies there."""
    with open(path, "r+b") as core:
        headers = read_headers(core)
        for change in repairs:
            headers = change(headers)
        if place is not None:
            headers = add_vmcoreinfo(core, headers, place)
        write_headers(core, headers)
