# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pages that a report names or holds, by the memory map of its kernel."""

from __future__ import annotations

from mminspect.commands.triage.report import Report
from mminspect.memorymap.layout import SPARSEMEM_VMEMMAP
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.structpages import StructPages, stretches

# Smaller numbers in registers are rarely pfns.
MIN_PFN = 0x1000
NAMED, HELD, SAVED = "named", "held", "may have held"


class Pages:
    """
    Turns addresses into pfns.

    :param memory: The kernel's memory map.
    """

    def __init__(self, memory: MemoryMap) -> None:
        layout = memory.layout
        self._vmemmap = layout.memory_model == SPARSEMEM_VMEMMAP
        shift = layout.pfn_section_shift
        self._section = None if shift is None else 1 << shift
        self._struct_pages = StructPages(memory)
        ranges = [
            (pfn_to_page(layout, section, start), pfn_to_page(layout, section, end))
            for section in (stretches(memory) if self._vmemmap else ())
            for start, end in section.ranges
        ]
        self._all = (min(start for start, _ in ranges), max(end for _, end in ranges)) if ranges else (0, 0)

    def pfn(self, address: int) -> int | None:
        """Get the pfn of the struct page that an address is in."""
        found = self._struct_pages.find(address)
        return None if found is None else found.pfn

    def is_struct_page(self, address: int) -> bool:
        """Tell whether an address is in a struct page, or where one of a hole would be."""
        return self._all[0] <= address < self._all[1] or self.pfn(address) is not None

    def is_start(self, address: int) -> bool:
        """
        Tell whether an address is where a memmap starts: code that turns pfns into struct pages holds it for any pfn.

        That is the first entry of a section, with SPARSEMEM_VMEMMAP of pfn 0, with FLATMEM of the only memmap.
        """
        found = self._struct_pages.find(address)
        if found is None or found.offset:
            return False
        if self._vmemmap:
            return found.pfn == 0
        return found.pfn == found.first if self._section is None else found.pfn % self._section == 0


def registers_of(report: Report) -> dict[str, int]:
    """Return the registers of the incident."""
    return report.registers[0].values if report.registers else {}


def named_pages(report: Report, saved: dict[str, int], memory: MemoryMap, pages: Pages) -> list[tuple[int, str, str]]:
    """List (pfn, where it is from, how sure) of the pages that a report names, each once."""
    found: dict[int, tuple[str, str]] = {}
    for pfn, text in report.pages.items():
        found.setdefault(pfn, (f"named: {text}", NAMED))
    for address, text in report.addresses.items():
        at = pages.pfn(address)
        if at is not None:
            found.setdefault(at, (f"{address:#x} in: {text}", NAMED))
    registers = registers_of(report)
    for name, value in registers.items():
        at = pages.pfn(value)
        if at is None and value in found and value >= MIN_PFN:
            text, how = found[value]
            found[value] = (f"{text}; register {name} = {value:#x}", how)
        elif at is not None and not pages.is_start(value):
            found.setdefault(at, (f"register {name} = {value:#x}", HELD))
    for name, value in registers.items():
        at = pages.pfn(value)
        if at is not None:
            # Those that are no start are there already.
            found.setdefault(at, (f"register {name} = {value:#x}, perhaps just the start of the memmap", SAVED))
    for name, value in saved.items():
        at = pages.pfn(value)
        if at is not None:
            found.setdefault(at, (f"saved register {name} = {value:#x}", SAVED))
    for kind, values in (("register", registers), ("saved register", saved)):
        for name, value in values.items():
            if value >= MIN_PFN and memory.section(value) is not None:
                found.setdefault(value, (f"{kind} {name} = {value:#x}, perhaps a pfn", SAVED))
    return [(pfn, text, how) for pfn, (text, how) in found.items()]


def useful_registers(saved: dict[str, int], memory: MemoryMap) -> dict[str, int]:
    """Choose the registers that a verdict can use: those that hold a struct page's address, or what can be a pfn."""
    pages = Pages(memory)
    return {
        name: value
        for name, value in saved.items()
        if pages.pfn(value) is not None or (value >= MIN_PFN and memory.section(value) is not None)
    }
