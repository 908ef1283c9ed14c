# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect page``: what it knows of single pages, and how it looks in a narrow terminal."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, Callable

import pytest
from drgn import FaultError

from mminspect.commands import struct_page
from mminspect.commands.page import describe
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.blocks import migratetype_runs
from mminspect.render.page import write_pages
from tests.conftest import Cli, Kernels, Scanned, Unpacked
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X

Inspect = Callable[[str, int], dict[str, Any]]

# A page in the middle of a zone of each machine.
PAGES = {
    AMD64_HEALTHY: 0x2000,
    AMD64_400M: 0x18FE0,
    AMD64_NUMA: 0x20203,
    ARM64: 0x48000,
    S390X: 0x8000,
    I386_HOLE: 0xA17B,
}


@pytest.fixture
def inspect(kernels: Kernels) -> Inspect:
    """Give what is known of one page of a stored vmcore."""

    def get(name: str, pfn: int) -> dict[str, Any]:
        return describe(kernels(name), pfn, pfn + 1)[0]

    return get


def test_hole_of_i386(inspect: Inspect) -> None:
    page = inspect(I386_HOLE, 0xA17B)
    assert page["state"] == "zeroed"
    assert (page["refcount"], page["mapcount"], page["page_type"]) == (0, None, None)
    assert page["migratetype"] is None
    assert page["migratetype_why"] == "the index is outside of the bitmap"
    assert page["owner"] == "nobody: the entry is empty"
    assert {f["rule"] for f in page["findings"]} == {"uninitialized", "bitmap-bounds", "zone-span", "mixed-zone"}
    assert page["subsection"] is None
    assert int(page["words"][0], 16) == 0


def test_neighbors_on_both_sides_of_a_node_boundary(inspect: Inspect) -> None:
    page = inspect(AMD64_NUMA, 0x20300)
    sides = {item["boundary"]: item for item in page["neighbours"]}
    assert sides["run start"]["before"]["link"] != sides["run start"]["after"]["link"]
    assert sides["run start"]["after"]["link"] == f"node {page['link']['node']} zone {page['link']['zone']}"
    assert sides["page start"]["before"]["pfn"] == 0x202FF
    assert sides["pageblock end"]["pfn"] == 0x20400
    assert page["bitmap_value"] >> page["bitmap_index"] % 64 & 7 == 1
    first = inspect(AMD64_NUMA, 0)
    assert next(item for item in first["neighbours"] if item["boundary"] == "page start")["before"] is None


def test_free_page_says_which_list_it_is_on(kernels: Kernels, inspect: Inspect) -> None:
    kernel = kernels(AMD64_HEALTHY)
    found = 0
    for pfn in range(0x4000, 0x12000, 0x400):
        buddy = inspect(AMD64_HEALTHY, pfn)["buddy"]
        if buddy is None or "broken" in buddy["list"]:
            continue
        found += 1
        assert buddy["list"]["order"] == buddy["order"]
        assert buddy["head_pfn"] <= pfn < buddy["head_pfn"] + (1 << buddy["order"])
        inner = inspect(AMD64_HEALTHY, pfn + 1)["buddy"]
        assert inner is not None
        assert inner["head_pfn"] <= pfn + 1 < inner["head_pfn"] + (1 << inner["order"])
    assert found
    # A page whose links lead nowhere is on no list.
    empty = kernel.memory.sections[0].mem_map & ((1 << 64) - 1)
    assert "broken" in kernel.free_lists.find(empty)


@pytest.mark.parametrize("name", PAGES)
def test_text_stays_within_60_columns(name: str, inspect: Inspect) -> None:
    page = inspect(name, PAGES[name])
    out = io.StringIO()
    write_pages({"understood_as": "pfn", "pages": [page]}, out, 60)
    tables = ("Neighbors", "Rules that it breaks", "Of its zone")
    part = ""
    for line in out.getvalue().splitlines():
        part = line if not line or line.startswith((*tables, "What", "Words")) else part
        limit = 64 if part.startswith(tables) else 60
        assert len(line) <= limit, line
    assert "migratetype         None" not in out.getvalue()
    assert "None" not in out.getvalue()


def test_garbage_breaks_nothing(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose compound head and lists lead out of memory is shown as far as it can be."""
    kernel = Kernel(kernels(AMD64_HEALTHY).target, kernels(AMD64_HEALTHY).types)
    read = kernel.memmap.entry

    def torn(pfn: int, section: Any) -> bytes:
        return b"\x01" * len(read(pfn, section))

    monkeypatch.setattr(kernel.memmap, "entry", torn)
    assert describe(kernel, 0x2000, 0x2001)[0]["refcount"] == 0x01010101

    def no_head(page: Any) -> Any:
        raise FaultError("gone", 0)

    monkeypatch.setattr(struct_page, "compound_head", no_head)
    monkeypatch.setattr(struct_page, "PageCompound", lambda page: True)
    found = describe(kernel, 0x2000, 0x2001)[0]
    assert found["compound"] == {"part": "unknown"}
    assert found["owner"] == "unknown: its compound page can't be determined"

    def gone(pfn: int, section: Any) -> bytes:
        raise FaultError("gone", 0)

    monkeypatch.setattr(kernel.memmap, "entry", gone)
    with pytest.raises(FaultError):
        describe(kernel, 0x2000, 0x2001)


def test_findings_of_a_page_are_those_of_the_scan(cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    for name, pfn in ((I386_HOLE, 0xA17B), (I386_HOLE, 0xA216), (AMD64_400M, 0x18FE0), (AMD64_400M, 0x1A000)):
        (page,) = cli("-c", unpacked(name), "page", hex(pfn), "--format", "json").json()["pages"]
        expected = [f for f in scanned(name).findings if f.start_pfn <= pfn < f.end_pfn]
        for found, of_zone in ((page["findings"], False), (page["zone_findings"], True)):
            assert [(f["rule"], f["start_pfn"], f["end_pfn"], f["message"]) for f in found] == [
                (f.rule, f.start_pfn, f.end_pfn, f.message) for f in expected if f.of_zone == of_zone
            ]


@pytest.mark.parametrize("size", [0x10, 0x80, 0x200])
@pytest.mark.parametrize("pfn", [0xA17B, 0xA180, 0xA1FF, 0xA200, 0xA216])
def test_finding_that_reaches_over_the_edges_of_chunks_is_whole(
    pfn: int, size: int, kernels: Kernels, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hole [0xa17b, 0xa217) of the stored vmcore, with chunks as small as can be."""
    kernel = Kernel(kernels(I386_HOLE).target, kernels(I386_HOLE).types)
    whole = list(kernel.memmap.ranges())
    cut = [
        (at, min(at - at % size + size, high), section)
        for low, high, section in whole
        for at in (low, *range(low - low % size + size, high, size))
    ]
    monkeypatch.setattr(kernel.memmap, "ranges", lambda: iter(cut))
    (page,) = describe(kernel, pfn, pfn + 1)
    of_pages = {(f["rule"], f["start_pfn"], f["end_pfn"]) for f in page["findings"] if f["rule"] != "mixed-zone"}
    assert of_pages == {(rule, 0xA17B, 0xA217) for rule in ("bitmap-bounds", "uninitialized", "zone-span")}


def test_free_block_of_several_pageblocks_breaks_no_rule(cli: Cli, unpacked: Unpacked, kernels: Kernels) -> None:
    kernel = kernels(AMD64_HEALTHY)
    memory = kernel.memory
    for chunk in kernel.memmap.chunks():
        free = chunk.free_pages
        large = free.at[free.order == memory.layout.max_order] if free is not None else []
        if len(large):
            pfn = chunk.start_pfn + int(large[0])
            break
    (page,) = cli("-c", unpacked(AMD64_HEALTHY), "page", hex(pfn), "--format", "json").json()["pages"]
    assert page["findings"] == []


def test_all_pages_of_a_huge_block_on_a_per_cpu_list_have_its_owner(kernels: Kernels) -> None:
    """pindex_to_order() of 7.2: a list behind NR_LOWORDER_PCP_LISTS has HPAGE_PMD_ORDER, 9."""
    found = describe(kernels(AMD64_NUMA), 0x5600, 0x5800)
    assert len(found) == 512
    assert {page["owner"] for page in found} == {"the page allocator: free, on a list of CPU 0"}
    assert {(page["per_cpu"]["head_pfn"], page["per_cpu"]["order"]) for page in found} == {(0x5600, 9)}
    assert describe(kernels(AMD64_NUMA), 0x5800, 0x5801)[0]["per_cpu"] is None


def test_page_in_one_of_several_blocks_of_a_finding(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone that says that it is contiguous, and isn't, in two blocks far from each other."""
    kernel = Kernel(kernels(I386_HOLE).target, kernels(I386_HOLE).types)
    zones = [dataclasses.replace(zone, contiguous=True) for zone in kernel.memory.zones]
    monkeypatch.setattr(kernel, "memory", dataclasses.replace(kernel.memory, zones=tuple(zones)))
    monkeypatch.setattr(kernel, "memory_with_lists", kernel.memory)
    for pfn, expected in ((0xA000, True), (0xA200, True), (0xA400, False)):
        (page,) = describe(kernel, pfn, pfn + 1)
        assert ("contiguous" in {f["rule"] for f in page["findings"]}) == expected


@pytest.mark.parametrize("name", [AMD64_NUMA, AMD64_400M, I386_HOLE])
def test_migratetype_is_that_of_the_bitmap(name: str, kernels: Kernels) -> None:
    """Each kind of pageblock that there is, as the runs over whole bitmaps have it."""
    kernel = kernels(name)
    runs = migratetype_runs(kernel.memory)
    names = kernel.memory.layout.migratetypes
    checked = set()
    for start, kind in zip(runs.start.tolist(), runs.kind.tolist()):
        if kind not in checked and kernel.memory.section(start) is not None:
            (page,) = describe(kernel, start, start + 1)
            if page.get("migratetype_why") is None:
                assert page["migratetype"] == names[kind]
                checked.add(kind)
    assert len(checked) > 1
