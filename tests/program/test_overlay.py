# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that was left out of a dump is unreadable, never uninitialized."""

from __future__ import annotations

from typing import Any

import pytest
from drgn import Architecture, FaultError, Platform, Program

from mminspect.program import overlay
from mminspect.program.elf import Segment
from tests.conftest import Edited, Opened, Scanned
from tests.kit.support import AMD64_HEALTHY, I386_HOLE, S390X, scan_file, summary

# (vmcore, name of the memmap, first pfn left out, bytes, the pfns that can't be read). Reads go by pages of memory, so
# entries that share one with what is left out aren't read either.
CASES = [
    (AMD64_HEALTHY, "vmemmap", 0x2000, 2 * 4096, (0x2000, 0x2080)),
    (AMD64_HEALTHY, "vmemmap", 0x2000, 0x200 * 64, (0x2000, 0x2200)),
    (S390X, "vmemmap", 0x8000, 4096, (0x8000, 0x8040)),
]


@pytest.mark.parametrize(("name", "base", "pfn", "size", "expected"), CASES)
def test_left_out_struct_pages_are_unreadable(
    name: str, base: str, pfn: int, size: int, expected: Any, edited: Edited, opened: Opened, scanned: Scanned
) -> None:
    core = edited(name)
    start = opened(name)[0].prog[base].value_() + pfn * scanned(name).target["struct_page_size"]
    core.exclude(start, start + size)
    report = scan_file(core.path)
    new = [f for f in report.findings if summary([f])[0] not in summary(scanned(name).findings)]
    assert summary(new) == [("unreadable", "note", *expected)]
    assert new[0].detail == {"why": "excluded from the dump"}
    assert len(report.findings) == len(scanned(name).findings) + 1
    assert report.summary["pages_unreadable"] == expected[1] - expected[0]
    total = report.summary["pages_examined"] + report.summary["pages_unreadable"]
    assert total == scanned(name).summary["pages_examined"]


def test_struct_page_that_is_held_in_part_is_unreadable(edited: Edited, opened: Opened, scanned: Scanned) -> None:
    """Entries of 40 bytes cross the ends of memory pages."""
    core = edited(I386_HOLE)
    mem_map = opened(I386_HOLE)[0].prog["mem_map"].value_()
    start = mem_map + 0x2000 * 40 & -4096
    core.exclude(start, start + 4096)
    report = scan_file(core.path)
    (unreadable,) = [f for f in report.findings if f.rule == "unreadable"]
    first, last = (start - mem_map) // 40, -(-(start + 4096 - mem_map) // 40)
    assert (unreadable.start_pfn, unreadable.end_pfn) == (first, last)
    assert [f for f in summary(report.findings) if f[0] != "unreadable"] == summary(scanned(I386_HOLE).findings)


@pytest.mark.parametrize("size", [1, 64, 100, 5000, 70000])
def test_nothing_that_is_left_out_is_called_uninitialized(
    size: int, edited: Edited, opened: Opened, scanned: Scanned
) -> None:
    core = edited(AMD64_HEALTHY)
    start = opened(AMD64_HEALTHY)[0].prog["vmemmap"].value_() + 0x3000 * 64 + 72
    core.exclude(start, start + size)
    report = scan_file(core.path)
    rules = [f.rule for f in report.findings if summary([f])[0] not in summary(scanned(AMD64_HEALTHY).findings)]
    assert rules == ["unreadable"]
    # 72 bytes into the block, the second entry is cut, and what follows it.
    (finding,) = [f for f in report.findings if f.rule == "unreadable"]
    assert finding.start_pfn <= 0x3001
    assert finding.end_pfn >= 0x3000 - (-(72 + size) // 64)


def test_left_out_pages_at_a_mixed_boundary_hide_nothing_else(edited: Edited, opened: Opened, scanned: Scanned) -> None:
    core = edited(I386_HOLE)
    mem_map = opened(I386_HOLE)[0].prog["mem_map"].value_()
    # All of the zeroed hole and more.
    core.exclude(mem_map + 0xA100 * 40, mem_map + 0xA300 * 40)
    report = scan_file(core.path)
    assert [f.rule for f in report.findings if 0xA000 <= f.start_pfn < 0xA400] == ["unreadable"]
    assert [f for f in summary(report.findings) if f[2] >= 0xA400] == [
        f for f in summary(scanned(I386_HOLE).findings) if f[2] >= 0xA400
    ]


def test_segment_that_ends_behind_the_last_address() -> None:
    prog = Program(Platform(Architecture.X86_64))
    top = (1 << 64) - 1
    overlay.fault_on_excluded(
        prog, [Segment(0, top - 10, 1 << 63, 5, top), Segment(0, top, top - 1, 9, top), Segment(0, 1, 1, 0, top)]
    )
    for address, physical in ((top - 4, False), (top - 20, True), (3, True)):
        with pytest.raises(FaultError, match="excluded from the dump"):
            prog.read(address, 1, physical=physical)
