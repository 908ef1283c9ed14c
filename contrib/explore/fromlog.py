# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rebuild the layout of a real machine from its kernel log, or from its /proc/iomem."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from contrib.explore.board import (
    ACPI,
    BOOT_AREA,
    GIB,
    HIGH_MEMORY,
    KERNEL_AREA,
    MIB,
    NVS,
    PCI_HOLE,
    PMEM,
    PRAM,
    RAM,
    RESERVED,
    SOFT_RESERVED,
    UNUSABLE,
)
from contrib.explore.layout import E820Entry, Initrd, Layout, SratEntry, is_ram
from contrib.kernels.errors import HarnessError

USUAL_ACPI = 0x9F100
FIRST_MIB = (E820Entry(0, 0x9F000, RAM), E820Entry(0x9F000, MIB, RESERVED))
# The memmap of more takes more of the host's memory than a guest may have.
MOST_RAM = 48 * GIB
MOST_WORDS = 800

RANGE = r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]"
E820_LINE = re.compile(rf"BIOS-e820: {RANGE} ([a-zA-Z][a-zA-Z ]*(?:\(type \d+\))?|type \d+)")
SRAT_LINE = re.compile(rf"SRAT: Node \d+ PXM (\d+) {RANGE}( hotplug)?")
CPU_LINE = re.compile(r"SRAT: PXM (\d+) -> (?:X2)?APIC 0x[0-9a-f]+ -> Node \d+")
INITRD_LINE = re.compile(rf"RAMDISK: {RANGE}")
COMMAND_LINE = re.compile(r"Command line: (.*)")
IOMEM_LINE = re.compile(r"^([0-9a-f]{8,16})-([0-9a-f]{8,16}) : (.*)$", re.MULTILINE)
WORD = re.compile(
    r"(mem|memmap|movablecore|kernelcore|numa|crashkernel|cma|hugepages|hugepagesz|highmem|vmalloc|"
    r"default_hugepagesz|hugetlb_cma|movable_node|memory_hotplug\.\w+|page_poison|init_on_alloc)(=|$)"
)
# As e820_print_type() and e820_type_to_string() have them.
TYPES = {
    "usable": RAM,
    "reserved": RESERVED,
    "device reserved": RESERVED,
    "acpi data": ACPI,
    "acpi nvs": NVS,
    "unusable": UNUSABLE,
    "persistent (type 7)": PMEM,
    "persistent (type 12)": PRAM,
    "soft reserved": SOFT_RESERVED,
    "system ram": RAM,
    "acpi tables": ACPI,
    "acpi non-volatile storage": NVS,
    "unusable memory": UNUSABLE,
    "persistent memory": PMEM,
    "persistent memory (legacy)": PRAM,
}


@dataclass(frozen=True)
class Rebuilt:
    """
    A machine's layout.

    :ivar layout: The layout.
    :ivar remarks: In what it differs from the machine's.
    """

    layout: Layout
    remarks: tuple[str, ...]


def _entries(text: str) -> list[E820Entry]:
    found = [(int(a, 16), int(b, 16) + 1, kind) for a, b, kind in E820_LINE.findall(text)]
    if not found:
        found = [(int(a, 16), int(b, 16) + 1, kind) for a, b, kind in IOMEM_LINE.findall(text)]
        found = [item for item in found if item[2].strip().lower() in TYPES]
    return [
        E820Entry(start, end, TYPES.get(kind.strip().lower(), RESERVED)) for start, end, kind in found if start < end
    ]


def _cut(entries: Iterable[E820Entry], low: int, high: int) -> list[E820Entry]:
    """Take a range away from the RAM."""
    kept = []
    for entry in entries:
        if entry.type != RAM or entry.end <= low or entry.start >= high:
            kept.append(entry)
            continue
        for start, end in ((entry.start, min(entry.end, low)), (max(entry.start, high), entry.end)):
            if start < end:
                kept.append(E820Entry(start, end, RAM))
    return kept


def _bootable(entries: list[E820Entry], remarks: list[str]) -> list[E820Entry]:
    """Change what QEMU or the direct boot can't have."""
    if not is_ram(entries, *BOOT_AREA):
        entries = [*FIRST_MIB, *(entry for entry in entries if entry.start >= MIB)]
        remarks.append("the first MiB is not the machine's: the harness needs RAM there")
    if any(entry.type == RAM and entry.start < HIGH_MEMORY and entry.end > PCI_HOLE for entry in entries):
        entries = _cut(entries, PCI_HOLE, HIGH_MEMORY)
        remarks.append(f"RAM in {PCI_HOLE:#x}-{HIGH_MEMORY:#x} is left out: QEMU has none there")
    total = 0
    for entry in sorted(entries):
        total += entry.end - entry.start if entry.type == RAM else 0
        if total > MOST_RAM:
            limit = (entry.end - (total - MOST_RAM)) // GIB * GIB
            entries = [one for one in _cut(entries, limit, 1 << 64) if one.start < limit]
            remarks.append(f"nothing behind {limit:#x}: the harness has room for {MOST_RAM >> 30} GiB")
            break
    if not is_ram(entries, *KERNEL_AREA):
        raise HarnessError(
            f"{KERNEL_AREA[0]:#x}-{KERNEL_AREA[1]:#x} is not RAM on that machine; the kernel can't lie there"
        )
    return entries


def rebuild(text: str) -> Rebuilt:
    """
    Return the layout of the machine that a log, or its /proc/iomem, is from.

    :raises HarnessError: if the text says nothing of memory.
    """
    remarks: list[str] = []
    entries = _entries(text)
    if not entries:
        raise HarnessError("no BIOS-e820 lines and no ranges of /proc/iomem; need a log from the start of the boot")
    if all(entry.end <= 1 for entry in entries):
        raise HarnessError("/proc/iomem shows zeros only; read it as root")
    entries = _bootable(entries, remarks)
    last = max(entry.end for entry in entries)
    srat = tuple(
        SratEntry(int(start, 16), int(end, 16) + 1, int(node), bool(hotplug))
        for node, start, end, hotplug in SRAT_LINE.findall(text)
        if int(start, 16) < last
    )
    words = COMMAND_LINE.search(text)
    kept = [word for word in (words.group(1).split() if words else []) if WORD.match(word)]
    initrd = INITRD_LINE.search(text)
    place = None
    if initrd:
        start, end = (int(value, 16) for value in initrd.groups())
        if start >= KERNEL_AREA[1] and end + 1 <= PCI_HOLE:
            place = Initrd(start, end + 1 - start)
        else:
            remarks.append(f"the initrd at {start:#x} is left out")
    nodes = tuple(dict.fromkeys(int(node) for node in CPU_LINE.findall(text)))[:8]
    layout = Layout(
        tuple(entries),
        srat,
        nodes if srat else (),
        USUAL_ACPI if srat else None,
        place,
        tuple(kept) if len(" ".join(kept)) <= MOST_WORDS else (),
    )
    return Rebuilt(layout.check(), tuple(remarks))
