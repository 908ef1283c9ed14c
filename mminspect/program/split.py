# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump that makedumpfile --split wrote: several files, each with the pages of its own range of pfns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mminspect.errors import TargetError
from mminspect.program.corefile import PIECE_ADVICE, CoreFile, Incomplete
from mminspect.program.kdump import DumpPages

# Pieces that are given together, and ranges that are named.
MAX_PIECES = 1024
MAX_NAMED = 3


def join(cores: Sequence[tuple[str, CoreFile]]) -> CoreFile:
    """
    Describe a dump by its pieces.

    :param cores: Path and headers of each.
    :return: The headers of the first; they are incomplete where a piece is, or one is missing.
    :raises TargetError: if they aren't pieces of one dump.
    """
    if len(cores) > MAX_PIECES:
        raise TargetError(f"{len(cores)} files are too many for the pieces of a dump")
    path, first = cores[0]
    for other, core in cores:
        if core.kdump is None or core.piece is None:
            raise TargetError(
                f"{other}: not a piece of a split dump (makedumpfile --split); more than one -c is for these only"
            )
        # The compression is the writer's; all else is of the machine.
        if core.kdump != first.kdump or core.vmcoreinfo != first.vmcoreinfo:
            raise TargetError(f"{path}, {other}: pieces of different dumps; give those of one dump")
    assert first.kdump is not None
    marked = next((core.incomplete for _, core in cores if core.incomplete and not core.incomplete.is_split), None)
    missing = []
    end = 0
    for start, stop in sorted(core.piece for _, core in cores if core.piece is not None):
        if start < end:
            raise TargetError(f"{path}: its pieces overlap; give each piece once")
        if start > end:
            missing.append(f"{end:#x}-{start:#x}")
        end = stop
    if end < first.kdump.max_mapnr:
        missing.append(f"{end:#x}-{first.kdump.max_mapnr:#x}")
    if missing and marked is None:
        names = ", ".join(missing[:MAX_NAMED]) + (", ..." if len(missing) > MAX_NAMED else "")
        marked = Incomplete(f"a split dump whose pieces with pfns {names} are missing", PIECE_ADVICE)
    return replace(first, piece=None, incomplete=marked)


class SplitPages:
    """
    The pages of a split dump; see :class:`~mminspect.program.kdump.DumpPages`.

    :param pieces: The pfns of each piece that is there, and its pages.
    """

    def __init__(self, pieces: Iterable[tuple[tuple[int, int], DumpPages]]) -> None:
        self._pieces = sorted(pieces, key=lambda piece: piece[0])

    @property
    def page_size(self) -> int:
        """The size of a page in bytes."""
        return self._pieces[0][1].page_size

    @property
    def end(self) -> int:
        """The physical address behind the last that the bitmap stands for."""
        return self._pieces[0][1].end

    def is_whole(self) -> bool:
        """Tell whether each file is still as long as it was."""
        return all(pages.is_whole() for _, pages in self._pieces)

    def _parts(self, start: int, end: int) -> Iterable[tuple[DumpPages, int, int]]:
        """Cut a range of pfns by pieces. What none has is asked of the one before, which tells what is wrong."""
        owner = self._pieces[0][1]
        for (low, high), pages in self._pieces:
            if start < end and start < low:
                stop = min(end, low)
                yield owner, start, stop
                start = stop
            if start < end and start < high:
                stop = min(end, high)
                yield pages, start, stop
                start = stop
            owner = pages
        if start < end:
            yield owner, start, end

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """
        Read physical memory, as ``drgn.Program.add_memory_segment()`` wants it.

        :raises drgn.FaultError: if the dump doesn't hold a page.
        """
        size = self.page_size
        data = []
        for pages, low, high in self._parts(address // size, -(-(address + count) // size)):
            first, last = max(address, low * size), min(address + count, high * size)
            data.append(pages.read(first, last - first, first, physical))
        return b"".join(data)

    def gather(self, ranges: Iterable[tuple[int, int]]) -> bytes | None:
        """Read pages from several places; see :meth:`~mminspect.program.kdump.DumpPages.gather`."""
        data = []
        for start, end in ranges:
            for pages, low, high in self._parts(start, end):
                part = pages.gather([(low, high)])
                if part is None:
                    return None
                data.append(part)
        return b"".join(data)
