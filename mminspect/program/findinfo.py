# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO that a dump's headers don't have: from a file, or out of the dump's own memory.

The kernel keeps the note ready in pages of its own (``vmcoreinfo_note``), as kexec hands over their address.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from mminspect.errors import TargetError
from mminspect.program import files
from mminspect.program.corefile import Read
from mminspect.program.elf import Elf, Segment

_START = b"OSRELEASE="
# Text of VMCOREINFO is a page at most, of up to 64 KiB.
MAX_SIZE = 1 << 16
# The least page size, by which the note is aligned.
PAGE = 4096
PIECE = 4 << 20
# The start of the note: sizes of name and text, type, name.
_NAME = b"VMCOREINFO\0"


def read_file(path: str) -> bytes:
    """
    Read a file with VMCOREINFO: its text, or a note.

    :raises TargetError: if there is none in it.
    """
    try:
        # Opening a FIFO would wait for its writer.
        if not stat.S_ISREG(files.stat(path).st_mode):
            raise TargetError(f"{path}: not a regular file; give the text of a VMCOREINFO")
        with os.fdopen(files.open_file(path), "rb") as file:
            data = file.read(MAX_SIZE)
    except OSError as e:
        raise TargetError(f"{path}: {e.strerror}") from None
    start = data.find(_START)
    if start < 0:
        raise TargetError(
            f"{path}: not a VMCOREINFO: it has no line OSRELEASE=...; another dump of the same boot has the right "
            "one, as a note"
        )
    return data[start:].split(b"\0")[0]


def search(blocks: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """
    Find the notes of kernels in memory.

    :param blocks: Memory in pieces that begin at the start of a page, each with what follows it.
    :return: The text of each, without repetition. One kernel can leave its own in the memory of the next.
    """
    found: dict[bytes, bytes] = {}
    for data, rest in blocks:
        pages = np.frombuffer(data, np.uint8, len(data) // PAGE * PAGE).reshape(-1, PAGE)
        match = (pages[:, 12 : 12 + len(_NAME)] == np.frombuffer(_NAME, np.uint8)).all(axis=1)
        for index in np.flatnonzero(match).tolist():
            note = data[index * PAGE :] + rest
            for order in "<>":
                namesz, descsz, _ = struct.unpack_from(order + "III", note)
                if namesz != len(_NAME) or descsz > MAX_SIZE:
                    continue
                text = next((n.desc for n in Elf(True, order).notes(note[: 64 + MAX_SIZE])), b"").split(b"\0")[0]
                if text.startswith(_START):
                    lines = [line for line in text.split(b"\n") if not line.startswith(b"CRASHTIME=")]
                    found[b"\n".join(lines)] = text
    return list(found.values())


def blocks_of_segments(read: Read, segments: Iterable[Segment]) -> Iterator[tuple[bytes, bytes]]:
    """Read the memory of segments in pieces for :func:`search`."""
    for segment in segments:
        address = segment.paddr if segment.paddr % PAGE or not segment.vaddr else segment.vaddr
        at = -address % PAGE
        while at < segment.filesz:
            size = min(PIECE, segment.filesz - at)
            data = read(min(size + MAX_SIZE + PAGE, segment.filesz - at), segment.offset + at)
            if not data:
                break
            yield data[:size], data[size:]
            at += size


def choose(found: list[bytes], path: str) -> bytes | None:
    """
    Take the one that was found.

    :return: ``None`` if there is none.
    :raises TargetError: if there are several.
    """
    if len(found) > 1:
        raise TargetError(
            f"{path}: no VMCOREINFO note, and {len(found)} in its memory, of different kernels; give the right one "
            "with --vmcoreinfo"
        )
    return found[0] if found else None
