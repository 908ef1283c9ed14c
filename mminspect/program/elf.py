# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF headers and notes, read and written, of both word sizes and byte orders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

MAGIC = b"\x7fELF"
IDENT_SIZE = 16
ET_CORE = 4
PT_LOAD = 1
PT_NOTE = 4
SHT_STRTAB = 3
SHT_NOTE = 7
# What e_phnum is where the number of program headers is in the first section header.
PN_XNUM = 0xFFFF
NT_PRSTATUS = 1
NT_GNU_BUILD_ID = 3
# The byte orders that EI_DATA counts from 1.
_ORDERS = "<>"
# Layouts for 32 and 64 bits: of the ELF header, a program header, a section header and the header of a note.
_EHDR = ("16sHHIIIIIHHHHHH", "16sHHIQQQIHHHHHH")
_PHDR = ("IIIIIIII", "IIQQQQQQ")
_SHDR = ("IIIIIIIIII", "IIQQQQIIQQ")
_NHDR = ("III", "III")
_format = lru_cache(None)(struct.Struct)


class Header(NamedTuple):
    """An ELF header behind its identification, by the names of ``elf.h`` without their prefix ``e_``."""

    type: int
    machine: int
    version: int = 1
    entry: int = 0
    phoff: int = 0
    shoff: int = 0
    flags: int = 0
    ehsize: int = 0
    phentsize: int = 0
    phnum: int = 0
    shentsize: int = 0
    shnum: int = 0
    shstrndx: int = 0


class Segment(NamedTuple):
    """
    A program header.

    :ivar offset: Offset in the file, in bytes.
    :ivar vaddr: Virtual address.
    :ivar paddr: Physical address.
    :ivar filesz: Bytes that the file holds.
    :ivar memsz: Bytes of memory that the segment stands for. What lies beyond ``filesz`` and ``lost`` was left
        out of the dump.
    :ivar lost: Bytes behind those that the file should hold and doesn't, as it is cut short. No part of the header.
    """

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    type: int = PT_LOAD
    flags: int = 0
    align: int = 0
    lost: int = 0


class Section(NamedTuple):
    """The part of a section header that says what is where."""

    type: int
    offset: int
    size: int
    info: int


class Note(NamedTuple):
    """A note. Its name has no null bytes at the end."""

    name: str
    type: int
    desc: bytes


class Elf(NamedTuple):
    """
    Decodes and encodes the structures of an ELF file.

    :ivar is_64_bit: Its class.
    :ivar order: Its byte order as :mod:`struct` and numpy spell it: ``<`` or ``>``.
    """

    is_64_bit: bool
    order: str

    @staticmethod
    def of(ident: bytes) -> Elf | None:
        """Get the codec that ``e_ident`` asks for, ``None`` if it is not of an ELF file or is damaged."""
        if len(ident) < IDENT_SIZE or ident[:4] != MAGIC or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            return None
        return Elf(ident[4] == 2, _ORDERS[ident[5] - 1])

    def _struct(self, layouts: tuple[str, str]) -> struct.Struct:
        return _format(self.order + layouts[self.is_64_bit])

    @property
    def word(self) -> str:
        """The format of an ``unsigned long`` for :mod:`struct`."""
        return self.order + ("Q" if self.is_64_bit else "I")

    @property
    def max_address(self) -> int:
        """The highest address, which is also what stands for no address."""
        return (1 << (64 if self.is_64_bit else 32)) - 1

    @property
    def header_size(self) -> int:
        """Size of the ELF header."""
        return self._struct(_EHDR).size

    @property
    def segment_size(self) -> int:
        """Size of a program header."""
        return self._struct(_PHDR).size

    @property
    def section_size(self) -> int:
        """Size of a section header."""
        return self._struct(_SHDR).size

    def header(self, data: bytes) -> Header:
        """
        Decode an ELF header.

        :raises struct.error: if it is cut short.
        """
        _, *fields = self._struct(_EHDR).unpack_from(data)
        return Header(*fields)

    def pack_header(self, header: Header) -> bytes:
        """Encode an ELF header. The sizes of that and of program headers are those of this codec."""
        ident = MAGIC + bytes((1 + self.is_64_bit, 1 + _ORDERS.index(self.order), 1))
        header = header._replace(ehsize=self.header_size, phentsize=self.segment_size)
        return self._struct(_EHDR).pack(ident, *header)

    def segments(self, table: bytes) -> Iterator[Segment]:
        """Decode a program header table, which must be of whole headers."""
        for fields in self._struct(_PHDR).iter_unpack(table):
            if self.is_64_bit:
                kind, flags, offset, vaddr, paddr, filesz, memsz, align = fields
            else:
                kind, offset, vaddr, paddr, filesz, memsz, flags, align = fields
            yield Segment(offset, vaddr, paddr, filesz, memsz, kind, flags, align)

    def pack_segment(self, segment: Segment) -> bytes:
        """Encode a program header."""
        s = segment
        where = (s.offset, s.vaddr, s.paddr, s.filesz, s.memsz)
        fields = (s.type, s.flags, *where, s.align) if self.is_64_bit else (s.type, *where, s.flags, s.align)
        return self._struct(_PHDR).pack(*fields)

    def sections(self, table: bytes) -> Iterator[Section]:
        """Decode a section header table, which must be of whole headers."""
        for _, kind, _, _, offset, size, _, info, _, _ in self._struct(_SHDR).iter_unpack(table):
            yield Section(kind, offset, size, info)

    def notes(self, data: bytes) -> Iterator[Note]:
        """Take notes apart, as far as they are whole."""
        header = self._struct(_NHDR)
        pos = 0
        while pos + header.size <= len(data):
            namesz, descsz, kind = header.unpack_from(data, pos)
            name_at = pos + header.size
            desc_at = name_at + align_note(namesz)
            if desc_at + descsz > len(data):
                return
            name = data[name_at : name_at + namesz].rstrip(b"\0").decode("ascii", "replace")
            yield Note(name, kind, data[desc_at : desc_at + descsz])
            pos = desc_at + align_note(descsz)

    def pack_note(self, note: Note) -> bytes:
        """Encode a note."""
        name = note.name.encode() + b"\0"
        parts = (self._struct(_NHDR).pack(len(name), len(note.desc), note.type), name, note.desc)
        return b"".join(part.ljust(align_note(len(part)), b"\0") for part in parts)


def align_note(size: int) -> int:
    """Round a size up to the alignment of notes."""
    return -(-size // 4) * 4
