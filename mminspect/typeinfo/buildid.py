# SPDX-License-Identifier: LGPL-2.1-or-later
"""The build ID of a vmlinux file."""

from __future__ import annotations

import os
import struct

from mminspect.errors import TypeInfoError
from mminspect.typeinfo.inputs import open_input

NT_GNU_BUILD_ID = 3
SHT_NOTE = 7


def read_build_id(path: str) -> str | None:
    """
    Get the GNU build ID of an ELF file.

    :return: Hexadecimal digits, or ``None`` if it has none.
    :raises TypeInfoError: if the file can't be read or is no ELF file.
    """
    try:
        with open_input(path, "a vmlinux with DWARF") as file:
            ident = file.read(64)
            if len(ident) < 52 or ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
                raise TypeInfoError(f"{path}: not an ELF file; -s takes a vmlinux with DWARF (not a vmlinuz)")
            is_64_bit = ident[4] == 2
            order = "<" if ident[5] == 1 else ">"
            (shoff,) = struct.unpack_from(order + ("Q" if is_64_bit else "I"), ident, 40 if is_64_bit else 32)
            entsize, count = struct.unpack_from(order + "HH", ident, 58 if is_64_bit else 46)
            if entsize != (64 if is_64_bit else 40):
                return None
            file.seek(shoff)
            table = file.read(entsize * count)
            for pos in range(0, len(table) - entsize + 1, entsize):
                if is_64_bit:
                    _, kind, _, _, offset, size = struct.unpack_from(order + "IIQQQQ", table, pos)
                else:
                    _, kind, _, _, offset, size = struct.unpack_from(order + "IIIIII", table, pos)
                if kind == SHT_NOTE and size < 1 << 20:
                    file.seek(offset)
                    build_id = _find_build_id(file.read(size), order)
                    if build_id is not None:
                        return build_id
    except (OSError, struct.error, ValueError, OverflowError) as e:
        reason = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else "damaged ELF file"
        raise TypeInfoError(f"{path}: {reason}") from None
    return None


def _find_build_id(notes: bytes, order: str) -> str | None:
    pos = 0
    while pos + 12 <= len(notes):
        namesz, descsz, kind = struct.unpack_from(order + "III", notes, pos)
        name_at = pos + 12
        desc_at = name_at + -(-namesz // 4) * 4
        if kind == NT_GNU_BUILD_ID and notes[name_at : name_at + 4] == b"GNU\0":
            return notes[desc_at : desc_at + descsz].hex()
        pos = desc_at + -(-descsz // 4) * 4
    return None
