# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make layouts of QEMU's virt machine at random, for kernels of arm64."""

from __future__ import annotations

from dataclasses import replace

from contrib.explore.board import (
    ACPI,
    GIB,
    HIGH_MEMORY,
    MIB,
    MIRRORED,
    NO_MAP,
    NVS,
    PAGE,
    PCI_HOLE,
    RAM,
    RAM_TYPES,
    RESERVED,
    SOFT_RESERVED,
    UNUSABLE,
    VIRT,
    VIRT_EFI,
    VIRT_FIRST,
    VIRT_TREE,
)
from contrib.explore.draw import LOWEST, Draw, Table, a_size, fill, near, srat, zone_movable
from contrib.explore.layout import Initrd, Layout, SratEntry, ram_ranges

# Weighted: holes and what the kernel doesn't map matter most.
GAPS: dict[str, tuple[str | None, ...]] = {
    VIRT.name: (None, None, NO_MAP, NO_MAP, RESERVED),
    VIRT_EFI.name: (None, None, RESERVED, RESERVED, ACPI, NVS, UNUSABLE, SOFT_RESERVED, MIRRORED),
}
TOPS = (300 * MIB, 700 * MIB, 1200 * MIB, 2900 * MIB, 4000 * MIB)


def a_virt_type(draw: Draw, layout: Layout) -> str:
    """Return a type for a range of a layout."""
    return draw.choice(GAPS[layout.machine]) or RAM


def virt_nodes(draw: Draw, last: int) -> tuple[tuple[SratEntry, ...], tuple[int, ...]]:
    """Return which memory is in which node, and the nodes of the CPUs."""
    parts, cpus = srat(draw, last)
    return tuple(replace(part, hotplug=False) for part in parts), cpus[:1]


def virt_words(draw: Draw, last: int) -> tuple[str, ...]:
    """Return words of the command line that change memory."""
    chosen = zone_movable(draw, 0.16, ("64M", "100M", "129M", "200M", "50%", "mirror", "mirror"))
    if draw.p(0.1):
        chosen.append(f"mem={near(draw, LOWEST, max(last - VIRT_FIRST, LOWEST)) >> 10}K")
    if draw.p(0.06):
        chosen.append("hugepages=3")
    if draw.p(0.06):
        chosen.append(f"crashkernel={draw.choice(('16M', '64M'))}")
    if draw.p(0.06):
        chosen.append(f"cma={draw.choice(('4M', '16M', '34M'))}")
    if draw.p(0.05):
        chosen.append(draw.choice(("numa=off", "numa=fake=2", "numa=fake=3")))
    return tuple(chosen)


def _initrd(draw: Draw, layout: Layout) -> Initrd | None:
    size = draw.choice((PAGE, 0x3456, 0x10001))
    ends = [end for start, end in ram_ranges(layout.e820) if VIRT.floor + size < end <= PCI_HOLE and end - start > size]
    return Initrd((draw.choice(ends) - size) & -PAGE, size) if ends else None


def virt_layout(draw: Draw) -> Layout:
    """Return a layout, which may make no sense."""
    machine = draw.choice((VIRT.name, VIRT_EFI.name))
    table = Table()
    table.position = VIRT_FIRST if draw.p(0.5) else near(draw, VIRT_FIRST, VIRT_TREE)
    if draw.p(0.25):  # something before the kernel
        table.add(near(draw, table.position, VIRT_TREE - MIB), RAM)
        table.add(min(table.position + a_size(draw), VIRT_TREE), draw.choice(GAPS[machine]))
    top = near(draw, VIRT_FIRST + LOWEST, VIRT_FIRST + draw.choice(TOPS))
    fill(draw, table, VIRT.floor, top, VIRT.end, GAPS[machine])
    if draw.p(0.45):  # more, around or above 4 GiB
        low = draw.choice((HIGH_MEMORY - 200 * MIB, HIGH_MEMORY, 8 * GIB))
        table.position = max(table.position, near(draw, low, low + 400 * MIB))
        for _ in range(draw.int(1, 3)):
            table.add(table.position + a_size(draw) * draw.choice((1, 1, 8)), RAM)
            table.add(table.position + a_size(draw), draw.choice(GAPS[machine]))
    entries = table.entries
    if machine == VIRT_EFI.name:
        entries = [replace(one, start=one.start & -PAGE, end=-(-one.end // PAGE) * PAGE) for one in entries]
    last = max(entry.end for entry in entries if entry.type in RAM_TYPES)
    nodes, cpus = virt_nodes(draw, last) if draw.p(0.5) else ((), ())
    layout = Layout(tuple(entries), nodes, cpus, words=virt_words(draw, last), machine=machine)
    return replace(layout, initrd=_initrd(draw, layout)) if draw.p(0.15) else layout
