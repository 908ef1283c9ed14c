# SPDX-License-Identifier: LGPL-2.1-or-later
"""What firmware and memblock say of physical memory: ``/proc/iomem``, memblock's lists."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Object, Program

from mminspect.commands.owner import _ERRORS, MAX_NAME

# Resources and memblock regions that are looked at.
MAX_RESOURCES = 1 << 16


class _Unreadable(Exception):
    """What was asked for can't be read."""


def resources(prog: Program) -> list[tuple[int, int, str, int]]:
    """
    List ``/proc/iomem``.

    :return: (first byte, byte behind the last, name, depth).
    """
    try:
        return list(_walk(prog["iomem_resource"].child, 0))
    except (*_ERRORS, _Unreadable):
        return []


def _walk(resource: Object, depth: int) -> Iterator[tuple[int, int, str, int]]:
    count = 0
    while resource:
        count += 1
        if count > MAX_RESOURCES or depth > 16:
            raise _Unreadable
        item = resource[0].read_()
        name = item.name.string_()[:MAX_NAME].decode("ascii", "replace") if item.name else ""
        yield int(item.start.value_()), int(item.end.value_()) + 1, name, depth
        yield from _walk(item.child, depth + 1)
        resource = item.sibling


def resource_path(found: list[tuple[int, int, str, int]], address: int) -> list[str]:
    """
    Get the names of the resources that a physical address is in, outermost first.

    :param found: What :func:`resources` returned.
    """
    return [name for start, end, name, _ in found if start <= address < end]


def memblock_regions(prog: Program, address: int) -> list[str] | None:
    """
    Tell which lists of memblock have a physical address.

    :return: ``memory``, ``reserved``; ``None`` where the kernel gave memblock's memory back after boot.
    """
    try:
        # memblock is in the init section unless CONFIG_ARCH_KEEP_MEMBLOCK is set; there is no variable that tells.
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
    except _ERRORS:
        return None
