# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the zones that span a pageblock do with each other's pages, on machines made by hand.

Expected values are from the kernel's C: ``move_freepages_block()`` of 6.1 begins at the page that it was called for
where the zone doesn't span the block's first, and refuses only by its last; ``prep_move_freepages_block()`` of 6.10
and later asks for both. ``move_freepages()`` checks the zone of a page with VM_BUG_ON_PAGE() only.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from mminspect.consequences import attach as attach_
from mminspect.consequences.attach import Outcomes, attach
from mminspect.findings import Finding
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Zone
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from tests.kit.handmade import memory_map, nothing_known, zone
from tests.kit.structpages import LAYOUT

BUDDY = 0xF0000000
LRU = LAYOUT.page.lru
OLD, NEW = "6.1.0", "6.12.0"


class Pages(NamedTuple):
    """So many adjacent pages that are alike."""

    count: int
    node: int
    reserved: bool = False
    free: bool = False
    lru: bool = False
    zone: int = 1


class Made:
    """A kernel with the pages from pfn 0 on, as far as consequences ask for one."""

    def __init__(
        self, zones: Sequence[Zone], pages: Sequence[Pages], release: str, ram: Any = (), layout: Any = LAYOUT
    ) -> None:
        every = [part for part in pages for _ in range(part.count)]
        count = len(every)
        section = Section(0, ((0, count),), 0, 0x1000)
        self.memory: MemoryMap = dataclasses.replace(memory_map(*zones, layout=layout), sections=(section,))
        words = np.zeros((count, 8), "<u8")
        flags = self.memory.layout.flags
        for pfn, page in enumerate(every):
            words[pfn, 0] = page.node << flags.node.shift | page.zone << flags.zone.shift
            words[pfn, 0] |= np.uint64(layout.page.reserved * page.reserved | LRU * page.lru)
        words.view("<u4")[:, layout.page.mapcount_offset // 4] = [BUDDY if p.free else 0xFFFFFFFF for p in every]
        link = np.array([layout.link(page.node, page.zone) for page in every], np.uint32)
        state = np.full(count, INITIALIZED, np.uint8)
        self.pages = Chunk(0, words[:, 0].copy(), link, state, section, layout, words)
        self.ram = [(0, count)] if ram == () else ram
        self.memmap = self
        self.prog = None
        self.target = SimpleNamespace(
            vmcoreinfo=SimpleNamespace(release=release), has_function=lambda name: name == "dump_page"
        )

    def chunk(self, start: int, end: int, section: Section) -> Chunk:
        return self.pages.part(start, end)

    def chunks(self) -> list[Chunk]:
        return [self.pages]

    def identify(self, address: int) -> dict[str, object]:
        return nothing_known(address)

    def has_member(self, type_name: str, member: str) -> bool:
        return True

    def findings(self, rule: str = "mixed-zone") -> list[Finding]:
        """Apply a rule, and add what the kernel would do."""
        made: Any = self
        walk = Scan(self.memory, made, [all_rules()[rule]], nothing_known)
        return list(attach(walk.findings(), Outcomes(made)))


def graded(made: Made) -> list[tuple[str, int]]:
    """Get severity and first pfn of the pageblocks with pages of two zones."""
    return [(finding.severity, finding.start_pfn) for finding in made.findings()]


def two(end_of_1: int, start_of_0: int = 8, end_of_0: int = 32) -> list[Zone]:
    """Make DMA32 of two nodes: node 1 from 0, node 0 where it is said."""
    return [zone(1, 0, end_of_1, node=1), zone(1, start_of_0, end_of_0 - start_of_0, node=0)]


# One page of node 0 at the start of a pageblock, and the rest of node 0 far behind, as in a guest of 258 MiB whose
# nodes are [0, 0x8000):1, [0x8000, 0x8001):0, [0x8001, 0x10100):1, [0x10100, 0x10200):0. Pageblocks have 8 pages here.
ONE_PAGE = [Pages(8, 1), Pages(1, 0), Pages(19, 1), Pages(4, 0)]


@pytest.mark.parametrize("release", [OLD, NEW])
def test_one_page_of_another_node_in_a_block_that_both_zones_span_is_an_error(release: str) -> None:
    made = Made(two(28), ONE_PAGE, release)
    assert graded(made) == [("error", 8), ("error", 24)]
    block = made.findings()[0]
    assert block.detail["severity_by_rule"] == "note"
    moved = {c["zone"]: c for c in block.detail["consequences"] if c["function"] == "move_freepages_block"}
    # Node 0's zone gets to node 1's pages.
    assert moved["node 0 zone DMA32"]["outcome"] == "BUG with CONFIG_DEBUG_VM"
    assert moved["node 0 zone DMA32"]["guard"] == "VM_BUG_ON_PAGE"
    assert (moved["node 1 zone DMA32"]["outcome"], "guard" in moved["node 1 zone DMA32"]) == ("safe", False)
    assert "but move_freepages_block() BUG with CONFIG_DEBUG_VM at pfn 0x9: once the page is free" in block.message


@pytest.mark.parametrize("release", [OLD, NEW])
def test_boundary_that_no_zone_spans_across_is_a_note(release: str) -> None:
    made = Made(two(12, 12, 24), [Pages(12, 1), Pages(12, 0)], release)
    assert graded(made) == [("note", 8)]
    assert "severity_by_rule" not in made.findings()[0].detail


def test_zone_that_ends_inside_the_block_moves_nothing_of_it() -> None:
    """Node 0 spans node 1's pages in block 8, and not the block's last: refused by both versions."""
    pages = [Pages(8, 1), Pages(2, 0), Pages(4, 1), Pages(2, 2), Pages(8, 2)]
    zones = [zone(1, 0, 14, node=1), zone(1, 4, 10, node=0), zone(1, 14, 10, node=2)]
    for release in (OLD, NEW):
        (finding,) = Made(zones, pages, release).findings()
        assert finding.severity == "warning"
        assert "__pageblock_pfn_to_page() and move_freepages_block() keep its walkers off" in finding.message
        assert "doesn't span the block's last pfn, 0xf" in finding.message


@pytest.mark.parametrize(("release", "severity"), [(OLD, "error"), (NEW, "warning")])
def test_zone_that_begins_inside_the_block_moves_from_its_page_on_up_to_6_9(release: str, severity: str) -> None:
    """Block 8: node 1 to 10, node 0 has [10, 12), node 2 has the rest, inside node 0's span."""
    zones = [zone(1, 0, 10, node=1), zone(1, 10, 22, node=0), zone(1, 12, 12, node=2)]
    pages = [Pages(10, 1), Pages(2, 0), Pages(12, 2), Pages(8, 0)]
    assert graded(Made(zones, pages, release)) == [(severity, 8)]


@pytest.mark.parametrize("release", [OLD, NEW])
def test_zone_that_begins_inside_the_block_behind_the_others_pages_gets_to_none(release: str) -> None:
    """Node 0's span begins at 10, but its first page is 14, behind node 2's."""
    zones = [zone(1, 0, 10, node=1), zone(1, 10, 22, node=0), zone(1, 10, 4, node=2)]
    assert graded(Made(zones, [Pages(10, 1), Pages(4, 2), Pages(18, 0)], release)) == [("warning", 8)]


def test_block_is_hidden_from_a_zone_that_begins_inside_it() -> None:
    """Clipped to node 0, the block's first and last page agree; fast_isolate_around() clips like this."""
    zones = [zone(1, 0, 10, node=1), zone(1, 10, 22, node=0), zone(1, 12, 2, node=2)]
    pages = [Pages(10, 1), Pages(2, 0), Pages(2, 2), Pages(18, 0)]
    (finding,) = Made(zones, pages, NEW).findings()
    assert finding.severity == "error"
    assert "but isolate_freepages_block() reads wrong at pfn 0xc" in finding.message


def test_reserved_pages_that_are_no_ram_are_never_taken() -> None:
    pages = [Pages(8, 1), Pages(1, 0, reserved=True), Pages(19, 1), Pages(4, 0)]
    no_ram = Made(two(28, end_of_0=28), pages[:3], OLD, ram=[(0, 8), (9, 28)])
    # Node 0 has nothing to begin from, and node 1 nothing to take: what is left are walkers that are kept off.
    assert graded(no_ram) == [("warning", 8)]
    (finding,) = no_ram.findings()
    assert "__pageblock_pfn_to_page() keep" in finding.message
    only_holes = Made(two(28), [Pages(8, 1, reserved=True), Pages(1, 0), Pages(7, 1, reserved=True)], OLD, ram=[(8, 9)])
    # Node 1's are holes, so it has nothing to begin from either.
    assert [f.severity for f in only_holes.findings()] == ["warning"]


def test_reserved_pages_that_are_ram_can_be_freed_later() -> None:
    pages = [Pages(8, 1), Pages(1, 0), Pages(19, 1, reserved=True), Pages(4, 0)]
    (first, _) = Made(two(28), pages, OLD).findings()
    assert first.severity == "error"
    assert "once the page is free (it is PG_reserved, but System RAM)" in first.message
    (first, _) = Made(two(28), pages, OLD, ram=None).findings()
    assert first.severity == "error"
    assert "whether it is System RAM can't be told here" in first.message
    assert [f.severity for f in Made(two(28), pages, OLD, ram=[(0, 9), (28, 32)]).findings()] == ["warning", "note"]


def test_hidden_block_is_an_error_where_its_inner_pages_can_be_free() -> None:
    """__pageblock_pfn_to_page() sees the first and last page only; then isolate_freepages_block() asks nothing."""
    zones = [zone(1, 0, 24, node=1), zone(1, 10, 2, node=0)]
    (finding,) = Made(zones, [Pages(10, 1), Pages(2, 0), Pages(12, 1)], NEW).findings()
    assert (finding.severity, finding.detail["hidden"]) == ("error", True)
    taken = [c for c in finding.detail["consequences"] if c["function"] == "isolate_freepages_block"]
    by_zone = {c["zone"]: (c["outcome"], c.get("guard")) for c in taken}
    assert by_zone == {
        "node 0 zone DMA32": ("safe", None),
        "node 1 zone DMA32": ("reads wrong", "none"),
    }
    hole = Made(zones, [Pages(10, 1), Pages(2, 0, reserved=True), Pages(12, 1)], NEW, ram=[(0, 10), (12, 24)])
    assert [f.severity for f in hole.findings()] == ["note"]


def test_lru_page_of_a_hidden_block_is_isolated_under_its_own_lock() -> None:
    zones = [zone(1, 0, 24, node=1), zone(1, 10, 2, node=0)]
    (finding,) = Made(zones, [Pages(10, 1), Pages(2, 0, lru=True), Pages(12, 1)], NEW).findings()
    found = {
        c["zone"]: (c["outcome"], c.get("guard"))
        for c in finding.detail["consequences"]
        if c["function"] == "isolate_migratepages_block"
    }
    assert found["node 1 zone DMA32"] == ("reads wrong", "run-time")


def test_entry_page_must_be_able_to_be_free() -> None:
    """A single page of node 0 that is no RAM: node 0 steals nothing in that block."""
    pages = [Pages(8, 1), Pages(1, 0, reserved=True), Pages(19, 1), Pages(4, 0)]
    made = Made(two(28), pages, NEW, ram=[(0, 8), (9, 32)])
    assert graded(made) == [("warning", 8), ("error", 24)]


def test_findings_of_lists_name_the_block_as_their_cause() -> None:
    made = Made(two(28), ONE_PAGE, OLD)
    blocks = made.findings()
    on_page = Finding("free-list", "error", 9, 10, 1, "DMA32", "m", {"problem": "migratetype", "pfns": [9]})
    of_zone = Finding("free-list", "error", 0, 28, 1, "DMA32", "m", {"problem": "count", "pfns": []}, about="zone")
    elsewhere = Finding("free-list", "error", 2, 3, 1, "DMA32", "m", {"problem": "migratetype", "pfns": [2]})
    other_zone = dataclasses.replace(of_zone, zone="DMA")
    stripped = [
        dataclasses.replace(f, severity="note", detail={k: f.detail[k] for k in ("runs", "hidden", "reserved")})
        for f in blocks
    ]
    found: Any = list(attach([on_page, of_zone, elsewhere, other_zone, *stripped], Outcomes(made)))  # type: ignore[arg-type]
    causes = [f.detail.get("cause") for f in found if f.rule == "free-list"]
    assert causes == [
        {"rule": "mixed-zone", "start_pfn": 8, "end_pfn": 16},
        {"rule": "mixed-zone", "start_pfn": 8, "end_pfn": 16},
        None,
        None,
    ]
    assert [f.known and f.known["id"] for f in found if f.rule == "free-list"] == ["interleaved-nodes"] * 2 + [None] * 2
    assert (
        found[-4].message
        == "m; likely cause: pageblock 0x8-0x10, from which one zone takes another's pages (mixed-zone)"
    )


def test_a_page_is_not_blamed_for_its_pageblock() -> None:
    """Its own zone spans it: a warning about something else stays one. A page outside its zone is to blame."""
    made = Made(two(28), ONE_PAGE, OLD)
    warning = Finding("free-list", "warning", 9, 10, 1, "DMA32", "m", {"problem": "migratetype"})
    made_of_note = dataclasses.replace(warning, severity="note")
    found = list(attach([warning, made_of_note], Outcomes(made)))  # type: ignore[arg-type]
    assert [finding.severity for finding in found] == ["warning", "note"]
    assert any(item.get("guard") == "VM_BUG_ON_PAGE" for item in found[0].detail["consequences"])
    wrong = Made([zone(1, 0, 32, node=1), zone(1, 32, 8, node=0)], [Pages(9, 1), Pages(1, 0), Pages(22, 1)], OLD)
    (outside,) = attach([dataclasses.replace(warning, rule="zone-span")], Outcomes(wrong))  # type: ignore[arg-type]
    assert outside.severity == "error"


@pytest.mark.parametrize("release", [OLD, NEW])
def test_device_memory_has_no_walkers(release: str) -> None:
    """Its zone spans the boundary of the nodes; nobody compacts it or allocates from it."""
    zones = [*two(12, 12, 24), zone(4, 0, 24, node=0)]
    assert graded(Made(zones, [Pages(12, 1), Pages(12, 0)], release)) == [("note", 8)]


def test_abridged_findings_have_the_same_severities(monkeypatch: pytest.MonkeyPatch) -> None:
    for pages, expected in ((ONE_PAGE, ["error", "error"]), ([Pages(12, 1), Pages(12, 0)], ["note"])):
        zones = two(28) if pages is ONE_PAGE else two(12, 12, 24)
        whole = Made(zones, pages, OLD).findings()
        monkeypatch.setattr(attach_, "MAX_PER_RULE", 0)
        abridged = Made(zones, pages, OLD).findings()
        monkeypatch.undo()
        assert [finding.severity for finding in abridged] == [finding.severity for finding in whole] == expected
        assert [finding.signature for finding in abridged] == [finding.signature for finding in whole]
        assert all(one.message.startswith(other.message) for one, other in zip(whole, abridged))


def simulated(zones: Sequence[Zone], pages: Sequence[Pages], release: str) -> list[tuple[str, int]]:
    """Do what the kernel's loops do, page by page, with every page free that can be. Reserved pages are no RAM."""
    count, size = len(pages), 8
    node = [page.node for page in pages]
    free = [not page.reserved for page in pages]
    result = []
    for start in range(0, count, size):
        block = range(start, start + size)
        if len({node[pfn] for pfn in block}) == 1:
            continue
        severity = "note"
        for walked in zones:
            own = [pfn for pfn in block if walked.spans(pfn) and node[pfn] == walked.node]
            others = [pfn for pfn in block if walked.spans(pfn) and node[pfn] != walked.node and free[pfn]]
            if others and severity == "note":
                severity = "warning"
            # move_freepages_block() for each free page of the zone.
            for pivot in (pfn for pfn in own if free[pfn]):
                first = start
                if not walked.spans(start):
                    if release == NEW:
                        continue
                    first = pivot
                if walked.spans(start + size - 1) and any(pfn >= first for pfn in others):
                    severity = "error"
            # __pageblock_pfn_to_page() of what is in the zone, then isolate_freepages_block() of all of it.
            spanned = [pfn for pfn in block if walked.spans(pfn)]
            if others and node[spanned[0]] == node[spanned[-1]] == walked.node:
                severity = "error"
        result.append((severity, start))
    return result


@pytest.mark.parametrize("seed", range(150))
def test_grades_are_those_of_the_kernels_loops(seed: int) -> None:
    choice = random.Random(seed)
    pages: list[Pages] = []
    while len(pages) < 48:
        part = Pages(1, choice.randrange(3), reserved=choice.random() < 0.3)
        pages += [part] * choice.choice((1, 2, 3, 5, 9))
    pages = pages[:48]
    nodes = sorted({page.node for page in pages})
    zones = []
    for nid in nodes:
        own = [pfn for pfn, page in enumerate(pages) if page.node == nid]
        zones.append(zone(1, own[0], own[-1] + 1 - own[0], node=nid))
    ram = [(pfn, pfn + 1) for pfn, page in enumerate(pages) if not page.reserved]
    for release in (OLD, NEW):
        assert graded(Made(zones, pages, release, ram=ram)) == simulated(zones, pages, release)
