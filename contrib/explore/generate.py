# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make layouts at random: edges near the boundaries that the kernel cares about, and everything that can lie there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contrib.explore.board import (
    ACPI,
    GIB,
    HIGH_MEMORY,
    KERNEL_AREA,
    MIB,
    NVS,
    PAGE,
    PC,
    PCI_HOLE,
    PMEM,
    PRAM,
    RAM,
    RAM_TYPES,
    RESERVED,
    SOFT_RESERVED,
    UNUSABLE,
)
from contrib.explore.cpu import AMD64, Cpu
from contrib.explore.draw import LOWEST, PAGEBLOCK, SECTION, Draw, Table, a_size, fill, near, srat, zone_movable
from contrib.explore.generatevirt import a_virt_type, virt_layout, virt_nodes, virt_words
from contrib.explore.layout import (
    BLOCK_STEPS,
    DAX_DRIVERS,
    DEVICE_UNIT,
    DIMM,
    EJECT,
    USUAL_ACPI,
    VIRTIO_MEM,
    Device,
    E820Entry,
    Initrd,
    Layout,
    LayoutError,
    SratEntry,
    Step,
    device_base,
    is_ram,
    ram_ranges,
)
from contrib.explore.qemu import why_not

# Weighted: most of what firmware keeps is reserved, and holes matter most.
GAPS: tuple[str | None, ...] = (
    RESERVED,
    RESERVED,
    RESERVED,
    None,
    None,
    ACPI,
    NVS,
    UNUSABLE,
    PMEM,
    PRAM,
    SOFT_RESERVED,
)
HIGH_GAPS: tuple[str | None, ...] = (None, None, RESERVED, PMEM, SOFT_RESERVED, ACPI)
LOW_TOPS = (300 * MIB, 700 * MIB, 1200 * MIB, 1200 * MIB, 2900 * MIB)
# The first RAM reaches beyond the kernel.
FIRST_END = PC.floor
HIGHEST = 9 * GIB
EBDA, VIDEO = 0x9F000, 0xA0000
TRIES = 100


def _first_mib(draw: Draw, table: Table) -> None:
    kind = draw.int(0, 5)
    if kind == 0:
        table.position = PAGE
    if kind == 1:
        table.add(0x58000, RAM)
        table.add(0x59000, RESERVED)
    table.add(0x9FC00 if kind == 2 else EBDA, RAM)
    if kind == 3:
        table.add(VIDEO, RESERVED)
        table.position = 0xF0000
    table.add(MIB, RESERVED)


def _low_memory(draw: Draw, table: Table) -> None:
    if draw.p(0.25):  # something in zone DMA
        table.add(near(draw, MIB, 14 * MIB), RAM)
        table.add(min(table.position + a_size(draw), KERNEL_AREA[0] - MIB), draw.choice((RESERVED, NVS, None, ACPI)))
    top = near(draw, LOWEST, draw.choice(LOW_TOPS))
    fill(draw, table, FIRST_END, top, PCI_HOLE - PAGEBLOCK, GAPS)


def _high_memory(draw: Draw, table: Table) -> None:
    table.position = near(draw, HIGH_MEMORY, HIGH_MEMORY + 300 * MIB) if draw.p(0.5) else HIGH_MEMORY
    for _ in range(draw.int(1, 4)):
        table.add(table.position + (a_size(draw) if draw.p(0.6) else near(draw, PAGEBLOCK, 300 * MIB)), RAM)
        table.add(table.position + a_size(draw), draw.choice(HIGH_GAPS))
        if draw.p(0.2):
            table.position = near(draw, min(table.position, 8 * GIB), 8 * GIB + 512 * MIB)
        if table.position > HIGHEST:
            break


def e820(draw: Draw) -> tuple[E820Entry, ...]:
    """Return a table."""
    table = Table()
    _first_mib(draw, table)
    _low_memory(draw, table)
    if draw.p(0.45):
        _high_memory(draw, table)
    return tuple(table.entries)


def _acpi(draw: Draw, entries: Sequence[E820Entry]) -> int:
    """Return where the ACPI tables lie: the usual place, behind RAM, in a reserved range, or in RAM."""
    if draw.p(0.5):
        return USUAL_ACPI
    places = [entry.end for entry in entries if entry.type == RAM and entry.end > FIRST_END]
    places += [entry.start for entry in entries if entry.type in (RESERVED, ACPI) and entry.start > FIRST_END]
    places += [FIRST_END + 16 * draw.int(0, 100)]
    return -(-draw.choice(places) // 16) * 16


def _initrd(draw: Draw, entries: Sequence[E820Entry]) -> Initrd | None:
    size = draw.choice((PAGE, 0x3456, 0x10001))
    places = []
    for start, end in ram_ranges(entries):
        first = -(-max(start, FIRST_END) // PAGE) * PAGE
        if end <= PCI_HOLE and first + size <= end:
            places += [first, (end - size) & -PAGE]
    return Initrd(draw.choice(places), size) if places else None


def _memmap(draw: Draw, entries: Sequence[E820Entry], last: int) -> str:
    start = near(draw, FIRST_END, last) & -PAGE
    size = max(a_size(draw) & -PAGE, PAGE)
    kind = draw.choice("$$$!#@")
    # RAM where QEMU has none is no fault of the kernel.
    if kind == "@" and not is_ram(entries, start, start + size):
        kind = "$"
    return f"memmap={size:#x}{kind}{start:#x}"


def words(draw: Draw, entries: Sequence[E820Entry], last: int, nodes: bool, wide: bool) -> tuple[str, ...]:
    """Return words of the command line that change memory."""
    chosen = zone_movable(draw, 0.12, ("64M", "100M", "129M", "200M", "50%", "30%"))
    if draw.p(0.1):
        chosen.append(f"mem={near(draw, LOWEST, max(last, LOWEST)) >> 10}K")
    for _ in range(draw.choice((0, 0, 0, 0, 1, 1, 2))):
        chosen.append(_memmap(draw, entries, last))
    if draw.p(0.06):
        chosen.append("hugepages=3")
    if draw.p(0.06):
        chosen.append(f"crashkernel={draw.choice(('16M', '32M@96M', '64M'))}")
    if draw.p(0.04):
        chosen.append(f"cma={draw.choice(('4M', '16M', '34M', '16M@96M'))}")
    if wide and draw.p(0.08):
        chosen.append(
            draw.choice(("numa=off", "numa=nohmat") if nodes else ("numa=fake=2", "numa=fake=3", "numa=fake=64M"))
        )
    if not wide and draw.p(0.15):
        chosen.append(f"highmem={draw.choice((0, 64, 100, 333))}M")
    if not wide and draw.p(0.15):
        chosen.append(f"vmalloc={draw.choice((64, 128, 200, 300, 333))}M")
    return tuple(chosen)


def _device(draw: Draw, low: int, nodes: int) -> Device:
    start = low + draw.choice((0, 0, 0, DEVICE_UNIT, SECTION // 2, SECTION, 3 * SECTION, 5 * GIB))
    size = draw.choice((SECTION, SECTION, 2 * SECTION, 3 * SECTION, SECTION // 2, SECTION + 16 * DEVICE_UNIT))
    node = draw.int(0, nodes)
    if draw.p(0.6):
        return Device(DIMM, -(-start // SECTION) * SECTION if draw.p(0.8) else start, size, node)
    return Device(VIRTIO_MEM, start, size, node, DEVICE_UNIT * draw.int(0, size // DEVICE_UNIT))


def _steps(draw: Draw, layout: Layout) -> tuple[Step, ...]:
    places = [one.start + SECTION * draw.int(0, one.size // SECTION) for one in layout.devices]
    places += [entry.start for entry in layout.e820 if layout.dax and entry.type == SOFT_RESERVED]
    places += [end - 1 for _, end in ram_ranges(layout.e820) if end > FIRST_END]
    verbs = (*BLOCK_STEPS, "offline", EJECT) if layout.devices else BLOCK_STEPS
    return tuple(Step(draw.choice(verbs), draw.choice(places)) for _ in range(draw.choice((0, 1, 1, 2, 3, 4, 6))))


def after_boot(draw: Draw, layout: Layout, modules: bool) -> Layout:
    """
    Return a layout with something that is done after boot.

    :param modules: Whether drivers can be loaded.
    """
    devices: list[Device] = []
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        low = devices[-1].end if devices else device_base(layout)
        one = _device(draw, low, draw.choice((0, 0, 1, 3)))
        devices += [one] if modules or one.kind == DIMM else []
    soft = any(entry.type == SOFT_RESERVED for entry in layout.e820)
    dax = draw.choice(DAX_DRIVERS) if modules and soft else ""
    chosen = list(layout.words)
    if draw.p(0.3):
        chosen.append(f"memhp_default_state={draw.choice(('offline', 'online', 'online_kernel', 'online_movable'))}")
    if draw.p(0.15):
        chosen.append("memory_hotplug.memmap_on_memory=1")
    if draw.p(0.1):
        chosen.append("movable_node")
    changed = replace(layout, devices=tuple(devices), dax=dax, words=tuple(chosen))
    return replace(changed, steps=_steps(draw, changed))


def generate_after_boot(draw: Draw, modules: bool) -> Layout:
    """
    Return a layout for a 64-bit kernel with something that is done after boot, which QEMU's firmware can give.

    :param modules: See :func:`after_boot`.
    """
    for _ in range(TRIES):
        layout = generate(draw)
        if layout.acpi is not None:
            layout = replace(layout, acpi=USUAL_ACPI)
        words = tuple(word for word in layout.words if not word.startswith("mem="))
        layout = replace(layout, initrd=None, words=words)
        if draw.p(0.5):  # memory that is a device of its own
            last = max(entry.end for entry in layout.e820)
            start = near(draw, last, last + 3 * SECTION) & -PAGE
            soft = E820Entry(start, start + draw.choice((SECTION, 2 * SECTION, 3 * SECTION + PAGEBLOCK)), SOFT_RESERVED)
            layout = replace(layout, e820=(*layout.e820, soft))
        try:
            layout = after_boot(draw, layout, modules).check()
        except LayoutError:
            continue
        if layout.after_boot and not why_not(layout):
            return layout
    raise LayoutError(f"none of {TRIES} layouts makes sense")


def _layout(draw: Draw, wide: bool) -> Layout:
    entries = e820(draw)
    last = max(entry.end for entry in entries if entry.type == RAM)
    nodes: tuple[tuple[SratEntry, ...], tuple[int, ...]] = ((), ())
    if wide and draw.p(0.5):
        nodes = srat(draw, last)
    acpi = _acpi(draw, entries) if nodes[0] or draw.p(0.3) else None
    initrd = _initrd(draw, entries) if draw.p(0.15) else None
    chosen = words(draw, entries, last, bool(nodes[0]), wide)
    if draw.p(0.04):
        entries = tuple(sorted(entries, key=lambda entry: draw.int(0, 1 << 30)))
    return Layout(entries, nodes[0], nodes[1], acpi, initrd, chosen)


def mutate(draw: Draw, layout: Layout, cpu: Cpu = AMD64) -> Layout:
    """
    Return a layout that differs from another in one to three places.

    :param cpu: Which kernel it is for.
    """
    for _ in range(TRIES):
        changed = layout
        try:
            for _ in range(draw.int(1, 3)):
                changed = _mutate(draw, changed, cpu)
            if changed != layout:
                return changed.check()
        except LayoutError:
            continue
    return generate(draw, cpu)


def _mutate(draw: Draw, layout: Layout, cpu: Cpu) -> Layout:
    kind = draw.int(0, 6)
    if kind <= 2:
        old = draw.choice([value for entry in layout.e820 for value in (entry.start, entry.end)])
        return move(layout, old, max(0, near(draw, old - 2 * SECTION, old + 2 * SECTION)))
    if kind == 3:
        index = draw.int(0, len(layout.e820) - 1)
        chosen = draw.choice(GAPS) or RAM if cpu.is_x86 else a_virt_type(draw, layout)
        entry = replace(layout.e820[index], type=chosen)
        return replace(layout, e820=(*layout.e820[:index], entry, *layout.e820[index + 1 :]))
    if kind == 4 and layout.srat:
        old = draw.choice([value for part in layout.srat for value in (part.start, part.end)])
        return move(layout, old, max(0, near(draw, old - SECTION, old + SECTION) & -PAGE))
    last = max((entry.end for entry in layout.e820 if entry.type in RAM_TYPES), default=0)
    if not last:
        raise LayoutError("no RAM is left")
    if kind == 5 and not cpu.is_x86:
        parts, cpus = virt_nodes(draw, last)
        return replace(layout, srat=parts, cpu_nodes=cpus)
    if kind == 5 and cpu.wide:
        parts, cpus = srat(draw, last)
        return replace(layout, srat=parts, cpu_nodes=cpus, acpi=layout.acpi or USUAL_ACPI)
    if not cpu.is_x86:
        return replace(layout, words=virt_words(draw, last))
    return replace(layout, words=words(draw, layout.e820, last, bool(layout.srat), cpu.wide))


def move(layout: Layout, old: int, new: int) -> Layout:
    """Return a layout with one address changed wherever it is an edge."""

    def moved(value: int) -> int:
        return new if value == old else value

    return replace(
        layout,
        e820=tuple(replace(entry, start=moved(entry.start), end=moved(entry.end)) for entry in layout.e820),
        srat=tuple(replace(part, start=moved(part.start), end=moved(part.end)) for part in layout.srat),
        acpi=None if layout.acpi is None else moved(layout.acpi),
    )


def generate(draw: Draw, cpu: Cpu = AMD64) -> Layout:
    """
    Return a layout that makes sense.

    :param cpu: Which kernel it is for.
    """
    for _ in range(TRIES):
        try:
            return (_layout(draw, cpu.wide) if cpu.is_x86 else virt_layout(draw)).check()
        except LayoutError:
            continue
    raise LayoutError(f"none of {TRIES} layouts makes sense")
