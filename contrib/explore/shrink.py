# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Shrink a layout to a minimal one that still gives a signature.

It is done by structure: parts go first, the boldest cut before the small ones, then numbers become rounder and smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Callable

from contrib.explore.board import HIGH_MEMORY, MIB, PAGE, RAM, RESERVED
from contrib.explore.draw import SECTION
from contrib.explore.generate import EBDA, move
from contrib.explore.layout import (
    DEVICE_UNIT,
    USUAL_ACPI,
    E820Entry,
    Layout,
    LayoutError,
    SratEntry,
    device_base,
    dumps,
    ram_ranges,
)

MAX_BOOTS = 60
FIRST_MIB = (E820Entry(0, EBDA, RAM), E820Entry(EBDA, MIB, RESERVED))
ROUND = (8 * SECTION, SECTION, 16 * MIB, 2 * MIB, MIB, 0x10000, PAGE)


@dataclass(frozen=True)
class Shrunk:
    """
    The result of shrinking.

    :ivar layout: The smallest layout found.
    :ivar boots: How many layouts were tried.
    :ivar done: Whether nothing smaller is left to try.
    """

    layout: Layout
    boots: int
    done: bool


def _first(layout: Layout) -> tuple[E820Entry, ...]:
    """Return what the simplest layout has below its memory."""
    return FIRST_MIB if layout.board.is_pc else ()


def _high(layout: Layout) -> tuple[E820Entry, ...]:
    return tuple(sorted(entry for entry in layout.e820 if entry.end > layout.board.begin))


def _without_parts(layout: Layout) -> Iterator[Layout]:
    """Leave out whole parts."""
    if layout.words:
        yield replace(layout, words=())
    yield from _less_after_boot(layout)
    if layout.srat:
        yield replace(layout, srat=(), cpu_nodes=(), acpi=None)
        yield replace(layout, srat=(), cpu_nodes=())
    if layout.initrd:
        yield replace(layout, initrd=None)
    if layout.acpi is not None and not layout.srat:
        yield replace(layout, acpi=None)
    if layout.acpi not in (None, USUAL_ACPI):
        yield replace(layout, acpi=USUAL_ACPI)
    if layout.cpus > 1:
        yield replace(layout, cpus=1)
    ends = [end for _, end in ram_ranges(layout.e820) if end <= HIGH_MEMORY]
    for end in sorted({max(ends), -(-max(ends) // SECTION) * SECTION}):
        yield replace(layout, e820=(*_first(layout), E820Entry(layout.board.begin, end, RAM)))
    for index in range(len(layout.words)):
        yield replace(layout, words=layout.words[:index] + layout.words[index + 1 :])
    if _complicated(layout):
        yield replace(layout, e820=_first(layout) + _high(layout))


def _complicated(layout: Layout) -> bool:
    """Return whether a layout doesn't begin as the simplest one does."""
    first = _first(layout)
    return layout.e820[: len(first)] != first


def _less_after_boot(layout: Layout) -> Iterator[Layout]:
    """Leave out what is done after boot."""
    if layout.after_boot:
        yield replace(layout, devices=(), dax="", steps=())
    if layout.steps:
        yield replace(layout, steps=())
    if layout.devices:
        yield replace(layout, devices=())
    if layout.dax:
        yield replace(layout, dax="")
    for i in range(len(layout.devices)):
        yield replace(layout, devices=layout.devices[:i] + layout.devices[i + 1 :])
    for i in range(len(layout.steps)):
        yield replace(layout, steps=layout.steps[:i] + layout.steps[i + 1 :])
    for i, one in enumerate(layout.devices):
        for simpler in (replace(one, node=0), replace(one, size=SECTION), replace(one, start=device_base(layout))):
            if simpler != one:
                changed = replace(simpler, plugged=min(simpler.plugged, simpler.size))
                yield replace(layout, devices=(*layout.devices[:i], changed, *layout.devices[i + 1 :]))


def _fewer_entries(layout: Layout) -> Iterator[Layout]:
    """Leave out e820 entries, the upper half first, and fill what lies between RAM with RAM."""
    entries = layout.e820
    begin = layout.board.begin
    first = sum(entry.end <= begin for entry in entries)
    if first < len(entries) and entries[first].type == RAM and entries[first].start > begin:
        yield replace(layout, e820=(*entries[:first], replace(entries[first], start=begin), *entries[first + 1 :]))
    step = max(1, (len(entries) - first) // 2)
    while step:
        for start in range(len(entries) - step, first - 1, -step):
            yield replace(layout, e820=entries[:start] + entries[start + step :])
        step //= 2
    for i in range(len(entries) - 1):
        for j in (i + 1, i + 2):
            if j < len(entries) and entries[i].type == entries[j].type == RAM and entries[i].start >= begin:
                joined = E820Entry(entries[i].start, entries[j].end, RAM)
                yield replace(layout, e820=(*entries[:i], joined, *entries[j + 1 :]))
    for i, entry in enumerate(entries):
        if entry.type not in (RAM, RESERVED):
            yield replace(layout, e820=(*entries[:i], replace(entry, type=RESERVED), *entries[i + 1 :]))


def _fewer_nodes(layout: Layout) -> Iterator[Layout]:
    """Join neighbors of the SRAT, give CPUs to all nodes, number them from 0."""
    parts = tuple(sorted(layout.srat, key=lambda part: part.start))
    if parts != layout.srat:
        yield replace(layout, srat=parts)
    for i in range(len(parts) - 1):
        for node in (parts[i].node, parts[i + 1].node):
            joined = SratEntry(parts[i].start, parts[i + 1].end, node)
            yield replace(layout, srat=(*parts[:i], joined, *parts[i + 2 :]))
    for i in range(len(parts)):
        yield replace(layout, srat=parts[:i] + parts[i + 1 :])
    if any(part.hotplug for part in parts):
        yield replace(layout, srat=tuple(replace(part, hotplug=False) for part in parts))
    if parts and layout.cpu_nodes != layout.nodes:
        yield replace(layout, cpu_nodes=layout.nodes)
    numbers = {node: index for index, node in enumerate(layout.nodes)}
    if any(node != index for node, index in numbers.items()):
        renamed = tuple(replace(part, node=numbers[part.node]) for part in parts)
        cpus = tuple(numbers[node] for node in layout.cpu_nodes if node in numbers)
        yield replace(layout, srat=renamed, cpu_nodes=cpus)


def edges(layout: Layout) -> list[int]:
    """Return the addresses that can move."""
    found = {value for entry in layout.e820 for value in (entry.start, entry.end)}
    found |= {value for part in layout.srat for value in (part.start, part.end)}
    return sorted(value for value in found if value > MIB)


def _rounder(layout: Layout) -> Iterator[Layout]:
    """Move edges to rounder addresses, then everything from an edge on to lower ones."""
    for edge in edges(layout):
        for unit in ROUND:
            if edge % unit:
                for rounded in (edge // unit * unit, (edge // unit + 1) * unit):
                    if rounded >= layout.board.begin:
                        yield move(layout, edge, rounded)
    for edge in reversed(edges(layout)):
        limit = HIGH_MEMORY if edge >= HIGH_MEMORY else layout.board.floor
        for lower in (limit, 2 * SECTION, SECTION, edge - SECTION, edge // (2 * SECTION) * SECTION):
            if limit <= lower < edge:
                yield shift(layout, edge, lower - edge)


def shift(layout: Layout, first: int, distance: int) -> Layout:
    """Return a layout with all from an edge on moved, on this side of 4 GiB."""
    high = first >= HIGH_MEMORY

    def moved(value: int) -> int:
        return value + distance if value >= first and (value > HIGH_MEMORY) == high else value

    return replace(
        layout,
        e820=tuple(replace(entry, start=moved(entry.start), end=moved(entry.end)) for entry in layout.e820),
        srat=tuple(replace(part, start=moved(part.start), end=moved(part.end)) for part in layout.srat),
    )


def candidates(layout: Layout) -> Iterator[Layout]:
    """Return simpler layouts, the boldest first."""
    yield from _without_parts(layout)
    yield from _fewer_entries(layout)
    yield from _fewer_nodes(layout)
    yield from _rounder(layout)


def cost(layout: Layout) -> tuple[int, ...]:
    """Return how complicated a layout is; less is simpler."""
    entries = layout.e820
    digits = sum(len(f"{edge:x}".rstrip("0")) for edge in edges(layout))
    parts = len(entries) + len(layout.srat) + bool(layout.initrd) + (layout.acpi is not None) + layout.cpus
    later = len(layout.devices) + len(layout.steps) + bool(layout.dax)
    return (
        later,
        sum(one.node for one in layout.devices),
        sum(one.size + one.start for one in layout.devices) // DEVICE_UNIT,
        len(layout.words) + (layout.acpi not in (None, USUAL_ACPI)) + any(part.hotplug for part in layout.srat),
        parts,
        sum(entry.type != RAM for entry in entries) + len(layout.nodes),
        sum(entry.type not in (RAM, RESERVED) for entry in entries)
        + all(entry.start != layout.board.begin for entry in entries),
        sum(layout.nodes) + len(set(layout.nodes) ^ set(layout.cpu_nodes)),
        10 * _complicated(layout) + digits,
        sum(edges(layout)) // (64 * MIB),
        int(list(layout.srat) != sorted(layout.srat, key=lambda part: part.start)),
    )


def shrink(layout: Layout, still: Callable[[Layout], bool], most: int = MAX_BOOTS) -> Shrunk:
    """
    Return a minimal layout.

    :param still: Tells whether a layout still shows what is looked for.
    :param most: How many layouts to try at most.
    """
    seen = {dumps(layout)}
    boots, best = 0, layout
    while True:
        for candidate in candidates(best):
            try:
                candidate.check()
            except LayoutError:
                continue
            text = dumps(candidate)
            if text in seen or cost(candidate) >= cost(best):
                continue
            if boots >= most:
                return Shrunk(best, boots, False)
            seen.add(text)
            boots += 1
            if still(candidate):
                best = candidate
                break
        else:
            return Shrunk(best, boots, True)
