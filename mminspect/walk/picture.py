# SPDX-License-Identifier: LGPL-2.1-or-later
"""The picture of a memory map, gathered in the walk that finds what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from mminspect.findings import Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memmap.counted import Counter
from mminspect.memmap.picture import (
    CMA,
    COMPOUND,
    CONTINUED,
    ISOLATED,
    Cells,
    Rules,
    cells_of,
    classify,
    concatenate,
    is_plain,
    join,
)
from mminspect.memorymap.blocks import migratetype_runs
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range
from mminspect.rules.collectors import Collector

# Cells that are kept before they are joined.
MANY_CELLS = 1 << 15


class Seen(NamedTuple):
    """
    What was seen in one chunk.

    :ivar before: As in :class:`mminspect.memmap.picture.Classes`; likewise ``head``.
    """

    cells: Cells
    before: int
    head: tuple[int, int] | None


def picture_rules(memory: MemoryMap, order: int, span: Range | None) -> Rules:
    """
    Get where the cells of a memory map are cut, and what its links and pageblocks mean.

    :param order: Cells have 1 << order pages.
    :param span: The pfns to show, ``None`` for all.
    """
    edges = {pfn for zone in memory.populated_zones for pfn in (zone.start_pfn, zone.end_pfn)}
    edges.update(span or ())
    names = memory.layout.migratetypes
    codes = {names.index(name): code for name, code in (("CMA", CMA), ("ISOLATE", ISOLATED)) if name in names}
    special = []
    if codes:
        runs = migratetype_runs(memory)
        wanted = np.flatnonzero(np.isin(runs.kind, list(codes)))
        special = [(int(runs.start[i]), int(runs.end[i]), codes[int(runs.kind[i])]) for i in wanted.tolist()]
    devices = [memory.layout.link(zone.node, zone.index) for zone in memory.zones if zone.name == "Device"]
    return Rules(order, np.array(sorted(edges), np.int64), special, devices, span)


class Picture(Collector):
    """
    Gathers the picture of a memory map.

    :param order: Cells have 1 << order pages.
    :param span: The pfns to show, ``None`` for all.
    :ivar memory: The memory map that was walked.
    """

    def __init__(self, memory: MemoryMap, order: int, span: Range | None = None) -> None:
        self.memory = memory
        self.rules = picture_rules(memory, order, span)
        self._counter = Counter(memory.layout, self.rules)
        self._parts: list[Cells] = []
        self._apart = 0
        self._head: tuple[int, int] | None = None

    def look(self, chunk: Chunk) -> Seen | None:
        """Count the pages of a chunk; ``None`` if none of them is asked for."""
        span = self.rules.span
        if span is not None and (chunk.end_pfn <= span[0] or span[1] <= chunk.start_pfn):
            # A huge page may reach from here into what is asked for.
            if chunk.end_pfn > span[0]:
                return None
            classes = classify(chunk, self.rules.devices)
            return Seen(concatenate([]), -1, classes.head)
        plain = is_plain(chunk, self.rules.devices)
        counted = None if plain else self._counter.look(chunk)
        if counted is not None:
            return Seen(*counted)
        classes = classify(chunk, self.rules.devices)
        return Seen(cells_of(chunk, classes, self.rules), classes.before, classes.head)

    def take(self, start: int, part: Any) -> Iterable[Finding]:
        """Keep what was seen in a chunk."""
        seen: Seen | None = part
        if seen is None:
            return ()
        cells = seen.cells
        # A damaged tail can lead to before all memory.
        going_on = cells.code == CONTINUED
        if going_on.any():
            known = self._head is not None and self._head[0] == seen.before
            code = self._head[1] if self._head is not None and known else COMPOUND
            cells = cells._replace(code=np.where(going_on, np.uint8(code), cells.code))
        if seen.head is not None:
            self._head = seen.head
        self._parts.append(cells)
        self._apart += len(cells.start)
        if self._apart > MANY_CELLS:
            self._parts = [self.cells]
            self._apart = 0
        return ()

    @property
    def cells(self) -> Cells:
        """What was seen, in the order of pfns."""
        return join(concatenate(self._parts), self.rules)
