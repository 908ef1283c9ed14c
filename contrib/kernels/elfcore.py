# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put right what QEMU leaves wrong in the ELF header of a memory dump."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Callable

from contrib.kernels.errors import HarnessError
from mminspect.program.elf import IDENT_SIZE, PT_LOAD, PT_NOTE, Elf, Header, Segment, align_note

ADDRESS_LIMIT_32 = 1 << 32
VMCOREINFO = "VMCOREINFO"


@dataclass(frozen=True)
class Headers:
    """An ELF header and its program headers."""

    elf: Elf
    header: Header
    segments: tuple[Segment, ...]


def read_headers(core: BinaryIO) -> Headers:
    """Read the headers of an ELF core."""
    core.seek(0)
    elf = Elf.of(core.read(IDENT_SIZE))
    if elf is None:
        raise HarnessError("the dump is not an ELF file")
    core.seek(0)
    header = elf.header(core.read(elf.header_size))
    core.seek(header.phoff)
    return Headers(elf, header, tuple(elf.segments(core.read(elf.segment_size * header.phnum))))


def write_headers(core: BinaryIO, headers: Headers) -> None:
    """Write the headers at the start of a core, program headers right after the ELF header.

    QEMU puts a section header in between. makedumpfile then finds no PT_LOAD.
    """
    elf, segments = headers.elf, headers.segments
    end = elf.header_size + elf.segment_size * len(segments)
    if end > min((s.offset for s in segments if s.filesz), default=end):
        raise HarnessError("no room for the program headers at the start of the dump")
    new = {"phoff": elf.header_size, "phnum": len(segments), "shoff": 0, "shentsize": 0, "shnum": 0, "shstrndx": 0}
    core.seek(0)
    core.write(elf.pack_header(headers.header._replace(**new)))
    core.write(b"".join(map(elf.pack_segment, segments)))


def little_endian(headers: Headers) -> Headers:
    """Return the headers as little-endian ones.

    QEMU takes the byte order of a ppc64 guest from the hypervisor's register, which a pseries guest
    does not set. Memory is a plain copy and needs nothing.
    """
    return replace(headers, elf=headers.elf._replace(order="<"))


def linear_map(headers: Headers, physical: int, virtual: int) -> Headers:
    """Give the segments from a physical address on their virtual addresses in a linear map."""

    def mapped(segment: Segment) -> Segment:
        if segment.type != PT_LOAD or segment.paddr < physical:
            return segment
        start = virtual + segment.paddr - physical
        if start + segment.memsz > ADDRESS_LIMIT_32:
            raise HarnessError("the guest's memory does not fit its linear map; give it less")
        return segment._replace(vaddr=start)

    return replace(headers, segments=tuple(mapped(segment) for segment in headers.segments))


def read_physical(core: BinaryIO, headers: Headers, address: int, size: int) -> bytes:
    """Read guest memory at a physical address."""
    for segment in headers.segments:
        inside = address - segment.paddr
        if segment.type == PT_LOAD and inside >= 0 and inside + size <= segment.filesz:
            core.seek(segment.offset + inside)
            return core.read(size)
    raise HarnessError(f"the dump has no memory at physical address {address:#x}")


def vmcoreinfo_note(place: bytes, elf: Elf) -> bytes:
    """Return the VMCOREINFO note out of the larger place that the kernel keeps for it."""
    note = next(elf.notes(place), None)
    if note is None or note.name != VMCOREINFO:
        raise HarnessError("guest memory holds no VMCOREINFO note where the guest says it is")
    return elf.pack_note(note)


def note_segment(headers: Headers) -> Segment:
    """Return the segment with the notes."""
    for segment in headers.segments:
        if segment.type == PT_NOTE:
            return segment
    raise HarnessError("the dump has no notes")


def has_vmcoreinfo(core: BinaryIO) -> bool:
    """Return whether a core carries the VMCOREINFO note."""
    headers = read_headers(core)
    segment = note_segment(headers)
    core.seek(segment.offset)
    return any(note.name == VMCOREINFO for note in headers.elf.notes(core.read(segment.filesz)))


def put_notes(core: BinaryIO, headers: Headers, notes: bytes) -> Headers:
    """Write notes at the end of a core and let the segment of notes point there."""
    old = note_segment(headers)
    offset = align_note(core.seek(0, 2))
    core.seek(offset)
    core.write(notes)
    new = old._replace(offset=offset, filesz=len(notes), memsz=len(notes) if old.memsz else 0)
    segments = tuple(new if segment == old else segment for segment in headers.segments)
    return replace(headers, segments=segments)


def add_vmcoreinfo(core: BinaryIO, headers: Headers, place: tuple[int, int]) -> Headers:
    """Add the VMCOREINFO note that lies in guest memory at (physical address, size)."""
    note = vmcoreinfo_note(read_physical(core, headers, *place), headers.elf)
    old = note_segment(headers)
    core.seek(old.offset)
    notes = core.read(old.filesz)
    return put_notes(core, headers, notes.ljust(align_note(len(notes)), b"\0") + note)


def drop_notes(headers: Headers) -> Headers:
    """Forget all notes. Registers in the wrong byte order are worse than none."""
    old = note_segment(headers)
    new = old._replace(filesz=0, memsz=0)
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
