# SPDX-License-Identifier: LGPL-2.1-or-later
"""The helpers on every stored vmcore, compared with what a scan reads there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from drgn import Object, Program

from mminspect import helpers
from mminspect.helpers import page_alloc
from mminspect.helpers.mmzone import page_to_nid
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.blocks import migratetype_runs
from mminspect.memorymap.mmzone import pfn_to_page
from tests.conftest import Kernels, Unpacked
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, I386_HOLE, NAMES


def opened(path: object) -> Program:
    """Open a vmcore as drgn alone does."""
    prog = Program()
    prog.set_core_dump(str(path))
    return prog


def sample(kernel: Kernel) -> list[int]:
    """Choose pfns: edges of zones and of online memory, and some between."""
    edges = {pfn for zone in kernel.memory.zones for pfn in (zone.start_pfn, zone.end_pfn - 1, zone.end_pfn)}
    for start, end in kernel.memory.online_ranges():
        edges |= {start, end - 1, end, *range(start, end, max(1, (end - start) // 37))}
    return sorted(pfn for pfn in edges if pfn >= 0)


def is_online(kernel: Kernel, pfn: int) -> bool:
    """
    Tell whether the kernel takes a pfn as online.

    These machines have no holes of a subsection but behind their memory, in its last section. Since Linux 5.12 that
    isn't online.
    """
    end = max(zone.end_pfn for zone in kernel.memory.zones)
    subsection_pages = (2 << 20) // kernel.memory.layout.page_size
    old = kernel.target.vmcoreinfo.release.startswith("5.10.") or kernel.memory.layout.flatmem
    return kernel.memory.section(pfn) is not None and (old or pfn < -(-end // subsection_pages) * subsection_pages)


@pytest.mark.parametrize("name", NAMES)
def test_zone_and_node_are_those_of_the_scan(name: str, kernels: Kernels, unpacked: Unpacked) -> None:
    kernel, prog = kernels(name), opened(unpacked(name))
    memory = kernel.memory
    online = 0
    for pfn in sample(kernel):
        page = helpers.pfn_to_online_page(prog, pfn)
        section = memory.section(pfn)
        assert bool(page) == is_online(kernel, pfn), hex(pfn)
        if section is None or not page:
            continue
        chunk = kernel.memmap.chunk(pfn, pfn + 1, section)
        if chunk.words is None or not int(chunk.state[0]) < 5:
            continue
        node, zone_id = memory.layout.node_zone(int(chunk.link[0]))
        assert (helpers.page_to_nid(page), helpers.page_zonenum(page)) == (node, zone_id)
        online += 1
        known = memory.zone(node, zone_id)
        if known is not None:
            zone = helpers.page_zone(page)
            assert (zone.value_(), zone.type_.type_name()) == (known.address, "struct zone *")
            spans = known.start_pfn <= pfn < known.start_pfn + known.spanned
            assert helpers.zone_spans_pfn(zone, pfn) == spans
    assert online > 20


@pytest.mark.parametrize("name", NAMES)
def test_pageblocks_have_the_types_of_the_map(name: str, kernels: Kernels, unpacked: Unpacked) -> None:
    kernel, prog = kernels(name), opened(unpacked(name))
    runs = migratetype_runs(kernel.memory)
    known = list(zip(runs.start.tolist(), runs.end.tolist(), runs.kind.tolist()))
    blocks = list(helpers.for_each_pageblock(prog))
    assert len(blocks) == len({block for block, _ in blocks})
    nr_pages = kernel.memory.layout.pageblock_nr_pages
    ends = {end for zone in kernel.memory.zones for end in (zone.start_pfn, zone.end_pfn)}
    starts = sorted({start & -nr_pages for start in ends} | {pfn & -nr_pages for pfn in sample(kernel)})
    assert {block for block, _ in blocks} >= {start for start in starts if is_online(kernel, start)}
    pages = sum(
        1 for start, end in kernel.memory.online_ranges() for pfn in range(start, end) if is_online(kernel, pfn)
    )
    assert pages // nr_pages <= len(blocks) <= pages // nr_pages + 2 * len(list(kernel.memory.online_ranges()))
    compared = 0
    for block, page in blocks[:: max(1, len(blocks) // 200)]:
        kind = next((kind for start, end, kind in known if start <= block < end), None)
        if kind is None:
            continue
        try:
            found = helpers.get_pfnblock_migratetype(page, block)
        except ValueError:
            continue
        assert found == kind, hex(block)
        compared += 1
    assert compared > 5


def test_index_outside_of_the_bitmap_is_refused(unpacked: Unpacked) -> None:
    prog = opened(unpacked(I386_HOLE))
    page = helpers.pfn_to_online_page(prog, 0xA17B)
    assert helpers.page_zone(page).name.string_() == b"DMA"
    with pytest.raises(ValueError, match="index 320 is outside of a bitmap of 32 bits"):
        helpers.get_pfnblock_migratetype(page, 0xA17B)


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA])
def test_lists_have_what_the_zone_counts(
    name: str, kernels: Kernels, unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, prog = kernels(name), opened(unpacked(name))
    # A capture has no cpumasks.
    cpus = sorted({pages.cpu for pages in kernel.memory_with_lists.per_cpu or ()})
    monkeypatch.setattr(page_alloc, "for_each_possible_cpu", lambda prog: cpus)
    # It finds the kernel's types.
    helpers.pfn_to_online_page(prog, 1)
    lists = 0
    for known in kernel.memory.populated_zones:
        zone = Object(prog, "struct zone *", known.address)
        for order in range(len(zone.free_area)):
            kinds = range(len(zone.free_area[order].free_list))
            found = sum(len(list(helpers.for_each_free_page(zone, order, kind))) for kind in kinds)
            assert found == int(zone.free_area[order].nr_free)
        pages = list(helpers.for_each_pcp_page(zone))
        lists += len(pages)
        for _, page in pages:
            assert helpers.page_zone(page).value_() == known.address
    assert lists > 0


def test_helpers_say_parameters_results_and_the_source_they_follow() -> None:
    for name in helpers.__all__:
        text = getattr(helpers, name).__doc__
        assert re.search(r":param \w+: \S", text), name
        assert "mm/" in text or "linux/" in text or ":return:" in text, name
    folder = Path(helpers.__file__).parent
    for path in folder.glob("*.py"):
        for title in re.findall(r"Since Linux kernel commit (.*?)\(in v", path.read_text().replace("\n    ", " ")):
            assert re.match(r'[0-9a-f]{12} \(".*"\) $', title), title


def test_node_is_that_of_the_section_where_the_flags_have_no_room(kernels: Kernels) -> None:
    """This kernel has its nodes in section_to_node_table; each page is of the node whose zone spans it."""
    kernel = kernels("i386-6.1-numa")
    layout = kernel.memory.layout
    assert layout.flags.node_not_in_page_flags
    nodes = set()
    for section in kernel.memory.sections:
        for pfn in (section.ranges[0][0] + 16, section.ranges[-1][1] - 1):
            spanning = {zone.node for zone in kernel.memory.zones_spanning(pfn, pfn + 1)}
            if len(spanning) == 1:
                page = Object(kernel.prog, "struct page *", pfn_to_page(layout, section, pfn))
                assert {page_to_nid(page)} == spanning
                nodes |= spanning
    assert nodes == {0, 1}
