# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Stored vmcores of other machines and configurations: memory models, page sizes, byte orders, flag layouts.

The expected numbers are what the guests printed (``/proc/pagetypeinfo``, ``/proc/zoneinfo``) and what the headers of
their kernels say of their configuration.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Scanned

# memory model, page size, pageblock order and its source, size of struct page, (shift, width) of section, node, zone.
Expected = tuple[str, int, int, str, int, tuple[int, int], tuple[int, int], tuple[int, int]]

MACHINES: dict[str, Expected] = {
    "amd64-6.1-poisoned": ("sparsemem", 4096, 9, "formula", 64, (45, 19), (39, 6), (37, 2)),
    "amd64-6.1-sparse": ("sparsemem", 4096, 9, "formula", 64, (45, 19), (39, 6), (37, 2)),
    "arm64-6.12": ("sparsemem_vmemmap", 4096, 9, "formula", 64, (0, 0), (60, 4), (57, 3)),
    "arm64-6.12-16k": ("sparsemem_vmemmap", 16384, 11, "formula", 64, (0, 0), (60, 4), (57, 3)),
    "armhf-6.12": ("flatmem", 4096, 11, "formula", 36, (0, 0), (0, 0), (30, 2)),
    "i386-5.10-hole": ("flatmem", 4096, 9, "formula", 40, (0, 0), (0, 0), (30, 2)),
    "i386-6.1-numa": ("sparsemem", 4096, 9, "formula", 32, (25, 7), (0, 0), (23, 2)),
    "ppc64el-6.12": ("sparsemem_vmemmap", 4096, 9, "variable", 64, (0, 0), (56, 8), (54, 2)),
    "ppc64el-6.12-64k": ("sparsemem_vmemmap", 65536, 5, "variable", 64, (0, 0), (56, 8), (54, 2)),
    "riscv64-6.12": ("sparsemem_vmemmap", 4096, 9, "formula", 64, (0, 0), (62, 2), (60, 2)),
    "s390x-6.12": ("sparsemem_vmemmap", 4096, 8, "formula", 64, (0, 0), (0, 0), (62, 2)),
}


@pytest.mark.parametrize("name", MACHINES)
def test_layout_is_that_of_the_machine(scanned: Scanned, name: str) -> None:
    target = scanned(name).target

    def field(which: str) -> tuple[int, int]:
        value: dict[str, Any] = target["page_flags_layout"][which]
        return value["shift"], value["width"]

    assert MACHINES[name] == (
        target["memory_model"],
        target["page_size"],
        target["pageblock_order"],
        target["pageblock_order_from"],
        target["struct_page_size"],
        field("section"),
        field("node"),
        field("zone"),
    )


def test_section_is_in_page_flags_without_vmemmap(scanned: Scanned) -> None:
    report = scanned("amd64-6.1-sparse")
    layout = report.target["page_flags_layout"]
    assert report.target["memory_model"] == "sparsemem"
    # MAX_PHYSMEM_BITS - SECTION_SIZE_BITS, 46 - 27 bits at the top; node and zone follow.
    section = layout["section"]
    assert section["shift"] + section["width"] == 64
    assert layout["node"]["shift"] + layout["node"]["width"] == section["shift"]
    assert layout["zone"]["shift"] + layout["zone"]["width"] == layout["node"]["shift"]
    boundary = [f for f in report.findings if f.rule == "mixed-zone"]
    assert [(f.severity, f.start_pfn) for f in boundary] == [("note", 0x20200)]


def test_node_is_in_a_table_where_page_flags_have_no_room(scanned: Scanned) -> None:
    """Each section of 512 MiB is a node; page->flags hold the section, and section_to_node_table the node."""
    report = scanned("i386-6.1-numa")
    assert report.target["page_flags_layout"]["node_not_in_page_flags"] is True
    populated = [(z["node"], z["name"], z["start_pfn"], z["end_pfn"]) for z in report.zones if z["present"]]
    assert populated == [
        (0, "DMA", 0x1, 0x1000),
        (0, "Normal", 0x1000, 0x20000),
        (1, "Normal", 0x20000, 0x36FFE),
        (1, "HighMem", 0x36FFE, 0x3FFE0),
    ]
    boundary = [f for f in report.findings if f.rule == "mixed-zone"]
    assert [(f.severity, f.start_pfn) for f in boundary] == [("note", 0x36E00)]
    assert report.summary["by_severity"]["error"] == 0


def test_poison_is_uninitialized(scanned: Scanned) -> None:
    """memmap=0x40000$0xa17b000, and what is behind the last zone: their struct pages are as memblock left them."""
    findings = [f for f in scanned("amd64-6.1-poisoned").findings if f.rule == "uninitialized"]
    assert [(f.severity, f.start_pfn, f.end_pfn, f.detail["kind"]) for f in findings] == [
        ("error", 0xA17B, 0xA1BB, "poisoned"),
        ("warning", 0x18FE2, 0x20000, "poisoned"),
    ]


def test_bug_of_2021_is_found_where_the_kernel_died(scanned: Scanned) -> None:
    """Reserved holes inside DMA32 link to zone DMA; compaction stops at them with VM_BUG_ON_PAGE()."""
    findings = [f for f in scanned("amd64-5.10-bug").findings if f.rule == "zone-span" and f.severity != "note"]
    assert findings[0].start_pfn == 0x2800
    # With SPARSEMEM the rule says warning; that this kernel, with CONFIG_DEBUG_VM, stops there makes it an error.
    assert {f.severity for f in findings} == {"error"}
    assert all(f.detail["linked"] == [0, 0] and f.detail["spanned_by"] == [[0, 1]] for f in findings)


@pytest.mark.parametrize("name", ["arm64-6.12-16k", "armhf-6.12", "ppc64el-6.12", "ppc64el-6.12-64k", "riscv64-6.12"])
def test_healthy_machine_has_no_finding_above_note(scanned: Scanned, name: str) -> None:
    summary = scanned(name).summary
    assert (summary["by_severity"]["error"], summary["by_severity"]["warning"]) == (0, 0)
    assert summary["pages_unreadable"] == 0
