# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Draw addresses and sizes at random, near the boundaries that the kernel cares about.

All randomness comes through :class:`Draw`, so another driver can take the place of the seeded one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from contrib.explore.board import GIB, HIGH_MEMORY, MIB, PAGE, RAM
from contrib.explore.layout import E820Entry, SratEntry

T = TypeVar("T")

PAGEBLOCK = 2 * MIB
I386_PAGEBLOCK = 4 * MIB
SECTION = 128 * MIB
UNITS = (PAGE, PAGEBLOCK, PAGEBLOCK, I386_PAGEBLOCK, SECTION, SECTION, SECTION, SECTION // 2)
# The least RAM, and the most entries of a table before those of high memory.
LOWEST = 100 * MIB
MAX_ENTRIES = 24


class Draw(Protocol):
    """Where choices come from."""

    def int(self, low: int, high: int) -> int:
        """Return a number in [low, high]."""

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""

    def p(self, probability: float) -> bool:
        """Return true with a probability."""


class Seeded:
    """
    Choices by a seed.

    :param seed: The same seed gives the same layout.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def int(self, low: int, high: int) -> int:
        """Return a number in [low, high]."""
        return self._random.randint(low, high)

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self._random.randrange(len(items))]

    def p(self, probability: float) -> bool:
        """Return true with a probability."""
        return self._random.random() < probability


def near(draw: Draw, low: int, high: int) -> int:
    """Return an address in [low, high] on or close to a boundary of pages, blocks or sections."""
    for _ in range(20):
        unit = draw.choice(UNITS)
        first, last = -(-low // unit), high // unit
        if first > last:
            continue
        address = unit * draw.int(first, last) + _off(draw)
        if low <= address <= high:
            return address
    return low


def _off(draw: Draw) -> int:
    kind = draw.int(0, 9)
    if kind <= 3:
        return 0
    if kind <= 5:
        return draw.choice((PAGE, -PAGE))
    if kind <= 7:
        return draw.choice((1, -1)) * PAGE * draw.int(2, 511)
    if kind == 8:
        return draw.choice((0x400, 0x123, 0xC00, -0x400, -0x123, MIB, -MIB))
    return draw.choice((-1, 1)) * PAGE * draw.choice((1, 2, 3, 4, 8, 32, 128, 256))


def a_size(draw: Draw) -> int:
    """Return a size, from less than a page to sections."""
    kind = draw.int(0, 9)
    if kind <= 3:
        return PAGE * draw.choice((1, 1, 2, 3, 32, 156, 511, 512, 513))
    if kind <= 5:
        return PAGE * draw.int(1, 1023)
    if kind == 6:
        return draw.choice((0x400, 0x1400, 0x800, 0x2FFF))
    if kind == 7:
        return PAGEBLOCK * draw.int(1, 8)
    return MIB * draw.int(1, 100) if kind == 8 else SECTION * draw.int(1, 3)


class Table:
    """An e820 table under construction, from low to high addresses."""

    def __init__(self) -> None:
        self.entries: list[E820Entry] = []
        self.position = 0

    def add(self, end: int, kind: str | None) -> None:
        """Add an entry up to an address, or a hole."""
        if end > self.position:
            if kind is not None:
                self.entries.append(E820Entry(self.position, end, kind))
            self.position = end


def fill(draw: Draw, table: Table, floor: int, top: int, limit: int, gaps: Sequence[str | None]) -> None:
    """
    Fill a table with RAM and gaps.

    :param floor: The first RAM reaches beyond it.
    :param top: Where the last RAM ends, at most.
    :param limit: No gap reaches beyond it.
    :param gaps: What a gap can be.
    """
    lowest = floor
    while table.position < top and len(table.entries) < MAX_ENTRIES:
        lowest = max(lowest, table.position)
        if draw.p(0.85):
            end = near(draw, min(lowest, top), top)
        else:
            end = min(top, max(lowest, table.position + a_size(draw)))
        table.add(end, RAM)
        size = a_size(draw)
        if table.position + size > limit:
            break
        table.add(table.position + size, draw.choice(gaps))


def zone_movable(draw: Draw, probability: float, kernelcore: Sequence[str]) -> list[str]:
    """
    Return a word of the command line that makes zone Movable, or none.

    :param probability: Of ``kernelcore``, if it isn't ``movablecore``.
    :param kernelcore: Its values.
    """
    if draw.p(0.12):
        return [f"movablecore={draw.choice((16, 33, 64, 100, 200))}M"]
    return [f"kernelcore={draw.choice(kernelcore)}"] if draw.p(probability) else []


def _merged(parts: Sequence[SratEntry]) -> list[SratEntry]:
    merged: list[SratEntry] = []
    for part in parts:
        if merged and merged[-1].node == part.node and merged[-1].end == part.start:
            merged[-1] = replace(merged[-1], end=part.end)
        else:
            merged.append(part)
    return merged


def srat(draw: Draw, last: int) -> tuple[tuple[SratEntry, ...], tuple[int, ...]]:
    """Return which memory is in which node, and the nodes of the CPUs."""
    count = draw.int(1, 4)
    ids = draw.choice(((0, 1, 2, 3), (0, 1, 2, 3), (0, 2, 5, 7), (1, 0, 2, 3), (3, 2, 1, 0)))
    cuts = sorted({near(draw, 64 * MIB, last) & -PAGE for _ in range(draw.int(count - 1, count + 2))})
    edges = [0, *(cut for cut in cuts if cut), max(-(-last // GIB) * GIB, HIGH_MEMORY)]
    parts = [
        SratEntry(start, end, ids[draw.int(0, count - 1)], hotplug=draw.p(0.05)) for start, end in zip(edges, edges[1:])
    ]
    if draw.p(0.15):  # the table leaves out a little
        gap = PAGE * draw.int(1, 255)
        parts = [replace(part, end=part.end - gap) if part.end - gap > part.start else part for part in parts]
    if draw.p(0.1):  # ends where RAM does, or before
        end = last - PAGE * draw.choice((0, 1, 16, 255, 256))
        parts = [replace(part, end=min(part.end, end)) for part in parts if part.start < end]
    merged = _merged(parts)
    if draw.p(0.2):
        merged.reverse()
    nodes = sorted({part.node for part in merged})
    cpus = nodes if draw.p(0.7) else nodes[: draw.int(0, len(nodes))]
    return tuple(merged), tuple(cpus)
