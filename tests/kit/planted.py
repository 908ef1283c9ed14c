# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults planted into copies of stored vmcores."""

from __future__ import annotations

from typing import Any

from drgn.helpers.linux.list import list_for_each_entry

from mminspect.findings import Finding, Report
from tests.kit.reference import MACHINES
from tests.kit.support import (
    AMD64_HEALTHY,
    AMD64_NUMA,
    ARM64,
    I386_HOLE,
    S390X,
    CoreEditor,
    scan_file,
    summary,
    without_consequences,
)

Row = tuple[str, str, int, int]


class Fault:
    """
    A copy of a dump, and what changes in its report.

    Pages and zones are addressed by means of the untouched dump.
    """

    def __init__(self, name: str, editor: CoreEditor, prog: Any, before: Report) -> None:
        self.name, self.editor, self.prog, self.before = name, editor, prog, before
        self.machine = MACHINES[name]
        self.size = before.target["struct_page_size"]

    def page(self, pfn: int) -> int:
        """Get the address of a struct page."""
        base = "mem_map" if self.machine.flatmem else "vmemmap"
        return int(self.prog[base].value_()) + pfn * self.size

    def flags_of(self, pfn: int) -> int:
        """Read ``page->flags``."""
        order = "little" if self.editor.order == "<" else "big"
        return int.from_bytes(self.editor.read(self.page(pfn), self.machine.word_bits // 8), order)  # type: ignore[arg-type]

    def fill(self, start: int, end: int, byte: int) -> None:
        """Fill struct pages with a byte."""
        for pfn in range(start, end):
            self.editor.write(self.page(pfn), bytes([byte]) * self.size)

    def link(self, start: int, end: int, node: int, zone: int, reserved: bool = False) -> None:
        """Let pages link to a zone."""
        machine = self.machine
        fields = ((machine.node, node), (machine.zone, zone), ((machine.pg_reserved, 1), int(reserved)))
        for pfn in range(start, end):
            flags = self.flags_of(pfn)
            for (shift, width), value in fields:
                mask = ((1 << width) - 1) << shift
                flags = flags & ~mask | value << shift
            self.editor.write_word(self.page(pfn), flags)

    def zone_member(self, node: int, zone: int, member: str) -> Any:
        """Get a member of a zone."""
        try:
            pgdat = self.prog["node_data"][node]
        except LookupError:
            pgdat = self.prog["contig_page_data"].address_of_()
        return getattr(pgdat.node_zones[zone], member)

    def scan(self) -> Report:
        """Scan the copy."""
        return scan_file(self.editor.path)

    def changes(self) -> tuple[list[Finding], set[Row]]:
        """Scan the copy; give the findings that are new, and what is no longer found."""
        old, after = summary(self.before.findings), self.scan()
        new = [without_consequences(f) for f in after.findings if summary([f])[0] not in old]
        return new, set(old) - set(summary(after.findings))

    def new_findings(self) -> list[Finding]:
        """Scan the copy; give the findings that are new. None must be gone."""
        new, gone = self.changes()
        assert gone == set()
        return new


# Vmcores in which a free block can be found.
PLACES = [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64, I386_HOLE]


def a_free_block(fault: Fault, order: int) -> int:
    """Find a free block of an order at least, by drgn."""
    node, index = {AMD64_NUMA: (1, 1), ARM64: (0, 0), S390X: (0, 0)}.get(fault.name, (0, 1))
    areas = fault.zone_member(node, index, "free_area")
    base = fault.page(0)
    for area in list(areas)[order:]:
        for head in area.free_list:
            for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                return int(page.value_() - base) // fault.size
    raise AssertionError("nothing is free")
