# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large a dump is at most, as its headers say."""

from __future__ import annotations

from mminspect.errors import TargetError
from mminspect.program import elf, kdump_header
from mminspect.program.elf import Elf
from mminspect.program.segments import Segments

# Bytes of the start of a dump that hold what is needed. With more program headers than fit, the end isn't known.
START = 1 << 20
# What can follow the last byte that the headers name: a table of sections, notes of kdump files and gaps in them.
BEHIND = 64 << 20


def promised(start: bytes) -> int | None:
    """
    Get the largest size that a dump can have.

    :param start: Its first :data:`START` bytes, or all of it.
    :return: ``None`` if its headers don't tell.
    """
    codec = Elf.of(start)
    if codec is not None:
        return _of_elf(codec, start)
    if start.startswith(kdump_header.SIGNATURES) and len(start) >= kdump_header.HEADER_SIZE:
        return _of_kdump(start)
    return None


def _of_elf(codec: Elf, start: bytes) -> int | None:
    if len(start) < codec.header_size:
        return None
    header = codec.header(start)
    end = header.phoff + codec.segment_size * header.phnum
    if header.phnum == elf.PN_XNUM or header.phentsize != codec.segment_size or end > len(start):
        return None
    sections = header.shoff + codec.section_size * header.shnum
    return max(end, Segments.decode(codec, start[header.phoff : end]).end, sections) + BEHIND


def _of_kdump(start: bytes) -> int | None:
    try:
        header = kdump_header.decode(start[: kdump_header.HEADER_SIZE], "")
    except TargetError:
        return None
    # At most one descriptor and one block for each bit. Pages that don't become smaller are stored as they are.
    pages = header.bitmap_size * 8
    return header.data_start + pages * (header.descriptor.itemsize + header.block_size) + BEHIND
