# SPDX-License-Identifier: LGPL-2.1-or-later
"""What firmware and memblock say of physical memory: ``/proc/iomem``, memblock's lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from drgn import FaultError, Object, Program

from mminspect.memorymap.ranges import merge
from mminspect.program.text import kernel_name

# What drgn raises where memory is damaged or missing.
READ_ERRORS = (FaultError, LookupError, AttributeError, ValueError, TypeError)
MAX_NAME = 64
# Resources and memblock regions that are looked at.
MAX_RESOURCES = 1 << 16


class Resource(NamedTuple):
    """
    A line of ``/proc/iomem``.

    :ivar start: First byte.
    :ivar end: Byte after the last.
    :ivar depth: How many others it is in.
    """

    start: int
    end: int
    name: str
    depth: int


class _UnreadableError(Exception):
    """What was asked for can't be read."""


def resources(prog: Program) -> list[Resource]:
    """Return ``/proc/iomem``, ascending; nothing if it can't be read."""
    try:
        return list(_walk(prog["iomem_resource"].child, 0))
    except (*READ_ERRORS, _UnreadableError):
        return []


def _walk(resource: Object, depth: int) -> Iterator[Resource]:
    count = 0
    while resource:
        count += 1
        if count > MAX_RESOURCES or depth > 16:
            raise _UnreadableError
        item = resource[0].read_()
        name = kernel_name(item.name.string_()[:MAX_NAME], MAX_NAME) if item.name else ""
        yield Resource(int(item.start.value_()), int(item.end.value_()) + 1, name, depth)
        yield from _walk(item.child, depth + 1)
        resource = item.sibling


def ram_ranges(found: Sequence[Resource], page_size: int) -> list[tuple[int, int]] | None:
    """
    Return the pfns that are System RAM as a whole, ascending.

    The kernel takes no page that is RAM in part: e820__memblock_setup() of x86 throws them away
    (memblock_trim_memory()), other architectures align what firmware says.

    :return: ``None`` if no resource says so, and nothing is known.
    """
    # "System RAM (kmem)" and the like are memory that was plugged in.
    named = [item for item in found if item.name.startswith("System RAM")]
    ranges = merge((item.start, item.end) for item in named)
    whole = [(-(-start // page_size), end // page_size) for start, end in ranges]
    return [(start, end) for start, end in whole if start < end] if named else None


def resource_path(found: Sequence[Resource], address: int) -> list[str]:
    """Return the names of the resources that a physical address is in, outermost first."""
    return [item.name for item in found if item.start <= address < item.end]


def memblock_regions(prog: Program, address: int) -> list[str] | None:
    """
    Find the lists of memblock that have a physical address.

    :return: ``memory``, ``reserved``; ``None`` where the kernel gave memblock's memory back after boot.
    """
    try:
        # memblock is in the init section unless CONFIG_ARCH_KEEP_MEMBLOCK is set, and no variable shows whether it is.
        start, end = prog.symbol("__init_begin").address, prog.symbol("__init_end").address
        memblock = prog["memblock"]
        if memblock.address_ is None or start <= memblock.address_ < end:
            return None
        names = []
        for name in ("memory", "reserved"):
            kind = getattr(memblock, name)
            regions = kind.regions
            for index in range(min(kind.cnt.value_(), MAX_RESOURCES)):
                base = regions[index].base.value_()
                if base <= address < base + regions[index].size.value_():
                    names.append(name)
        return names
    except READ_ERRORS:
        return None
