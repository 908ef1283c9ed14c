# SPDX-License-Identifier: LGPL-2.1-or-later
"""The build ID of a vmlinux file."""

from __future__ import annotations

import os

from mminspect.errors import TypeInfoError
from mminspect.program.elf import NT_GNU_BUILD_ID, SHT_NOTE, Elf
from mminspect.typeinfo.inputs import open_input

MAX_NOTES_SIZE = 1 << 20


def read_build_id(path: str) -> str | None:
    """
    Get the GNU build ID of an ELF file.

    :return: Hexadecimal digits, or ``None`` if it has none.
    :raises TypeInfoError: if the file can't be read or is no ELF file.
    """
    try:
        with open_input(path, "a vmlinux with DWARF") as file:
            start = file.read(64)
            elf = Elf.of(start)
            if elf is None or len(start) < elf.header_size:
                raise TypeInfoError(f"{path}: not an ELF file; -s takes a vmlinux with DWARF (not a vmlinuz)")
            header = elf.header(start)
            if header.shentsize != elf.section_size:
                return None
            file.seek(header.shoff)
            table = file.read(elf.section_size * header.shnum)
            for section in elf.sections(table[: len(table) - len(table) % elf.section_size]):
                if section.type == SHT_NOTE and section.size < MAX_NOTES_SIZE:
                    file.seek(section.offset)
                    for note in elf.notes(file.read(section.size)):
                        if note.type == NT_GNU_BUILD_ID and note.name == "GNU":
                            return note.desc.hex()
    except (OSError, ValueError, OverflowError) as e:
        reason = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else "damaged ELF file"
        raise TypeInfoError(f"{path}: {reason}") from None
    return None
