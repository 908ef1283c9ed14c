# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model of kernel functions: each guard, and what happens without it."""

from __future__ import annotations

import dataclasses
import io
import random
from typing import Any

import pytest

from mminspect.consequences import attach as attach_
from mminspect.consequences.attach import Outcomes, attach
from mminspect.consequences.guards import Guards, read_guards
from mminspect.consequences.model import consequences
from mminspect.consequences.place import Place, fatal, walked_zones
from mminspect.findings import TARGET, ZONE, Finding
from mminspect.memmap.chunk import DEFERRED, INITIALIZED, OFFLINE, POISONED, ZEROED
from mminspect.memmap.page import Page
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.render.table import write_consequences
from tests.conftest import Cli, Kernels, Opened, Scanned
from tests.kit.handmade import FLAT, SPARSE, memory_map, zone
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_LOW_RAM, AMD64_NUMA, ARM64, I386_HOLE, NAMES, S390X

# Of 8 pages each: blocks [0, 8), [8, 16), ...; Normal begins inside block 1.
SPARSE_MAP = memory_map(zone(1, 0, 12), zone(2, 12, 20))
FLAT_MAP = memory_map(zone(0, 0, 8, bitmap=0x1000), zone(1, 8, 300, bitmap=0x2000), layout=FLAT)
SECTION = Section(0, ((0, 64),), 0, 0x3000)

OLD = Guards(debug_vm=False)
NEW = Guards(debug_vm=False, moves_whole_blocks=True, checks_subsections=True, around_checks_block=True)
GOOD = Page(0, 0, INITIALIZED)


def judged(
    memory: MemoryMap,
    page: Page,
    kernel: Guards = NEW,
    first: Page | None = None,
    last: Page | None = None,
    section: Section | None = SECTION,
) -> dict[str, tuple[str, str]]:
    """Model a page in a pageblock that is otherwise right; get (outcome, why) by function."""
    spanning = next(iter(walked_zones(memory, page)), None)
    layout = memory.layout
    start = page.pfn & -layout.pageblock_nr_pages
    low, high = start, start + layout.pageblock_nr_pages - 1
    if spanning is not None:
        low, high = max(low, spanning.start_pfn), min(high, spanning.end_pfn - 1)
    link = layout.link(spanning.node, spanning.index) if spanning else page.link

    def other(pfn: int) -> Page:
        return page if pfn == page.pfn else Page(pfn, link, INITIALIZED)

    place = Place(
        memory, kernel, page, spanning, first or other(low), last or other(high), first or other(start), section
    )
    return {item.function: (item.outcome, item.why) for item in consequences(place)}


def outcome(result: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Reduce to the outcomes that aren't safe."""
    return {name: what for name, (what, _) in result.items() if what != "safe"}


def flat_link(index: int) -> int:
    """Get the link of a zone of node 0."""
    return FLAT.link(0, index)


@pytest.mark.parametrize("kernel", [OLD, NEW])
def test_right_page_is_safe_everywhere(kernel: Guards) -> None:
    kernel = kernel._replace(around_checks_block=True)
    for flags in ({}, {"lru": True}, {"buddy": True}, {"reserved": True}):
        page = Page(20, SPARSE.link(0, 2), INITIALIZED, **flags)
        assert outcome(judged(SPARSE_MAP, page, kernel)) == {}


def test_every_function_says_why() -> None:
    for page in (GOOD, Page(3, SPARSE.link(0, 2), INITIALIZED), Page(3, 0, ZEROED), Page(40, 0, INITIALIZED)):
        assert all(why for _, why in judged(SPARSE_MAP, page).values())


def test_reserved_hole_in_the_block_is_guarded_on_sparsemem() -> None:
    result = judged(SPARSE_MAP, Page(3, SPARSE.link(0, 2), INITIALIZED, reserved=True))
    assert outcome(result) == {
        "page_zone": "reads wrong",
        "__pageblock_pfn_to_page": "reads wrong",
        "pageblock_pfn_to_page": "reads wrong",
    }
    assert "PG_reserved" in result["isolate_freepages_block"][1]
    assert "PG_reserved" in result["__free_one_page"][1]
    assert "from the section" in result["set_pfnblock_flags_mask"][1]


def test_free_page_of_another_zone_is_taken_under_the_wrong_lock() -> None:
    result = outcome(judged(SPARSE_MAP, Page(3, SPARSE.link(0, 2), INITIALIZED, buddy=True), OLD))
    assert result["isolate_freepages_block"] == "reads wrong"
    assert result["move_freepages_block"] == "BUG with CONFIG_DEBUG_VM"
    assert result["fast_isolate_freepages"] == "reads wrong"
    assert result["__free_one_page"] == "reads wrong"


def test_lru_page_of_another_zone() -> None:
    result = outcome(judged(SPARSE_MAP, Page(3, SPARSE.link(0, 2), INITIALIZED, lru=True)))
    assert result["isolate_migratepages_block"] == "reads wrong"
    assert "isolate_freepages_block" not in result


def test_wrong_first_page_makes_the_block_refused() -> None:
    page = Page(0, SPARSE.link(0, 2), INITIALIZED, reserved=True)
    result = judged(SPARSE_MAP, page)
    assert result["__pageblock_pfn_to_page"][0] == result["pageblock_pfn_to_page"][0] == "refuses"
    for name in ("isolate_freepages_block", "isolate_migratepages_block", "fast_isolate_around", "set_pageblock_skip"):
        assert result[name][0] == "safe"
        assert "refuses the block" in result[name][1]


def test_without_the_fix_a_refused_block_is_scanned_around_a_free_page() -> None:
    page = Page(3, SPARSE.link(0, 2), INITIALIZED, buddy=True)
    wrong = Page(0, SPARSE.link(0, 2), INITIALIZED)
    why = judged(SPARSE_MAP, page, OLD, first=wrong)["fast_isolate_around"]
    assert why[0] == "reads wrong"
    assert why[1].startswith(
        "without 6e2b7044c199, takes a page of another zone under the lock of node 0 zone DMA32; with"
    )
    assert judged(SPARSE_MAP, page, NEW, first=wrong)["fast_isolate_around"][0] == "safe"
    assert judged(SPARSE_MAP, Page(3, page.link, INITIALIZED), OLD, first=wrong)["fast_isolate_around"][0] == "safe"


def test_wrong_last_page_makes_the_block_refused() -> None:
    page = Page(7, SPARSE.link(0, 2), INITIALIZED, reserved=True)
    result = judged(SPARSE_MAP, page)
    assert result["__pageblock_pfn_to_page"] == ("refuses", "the block's last page isn't of node 0 zone DMA32")


@pytest.mark.parametrize("which", ["first", "last"])
def test_block_whose_end_is_not_online_is_refused(which: str) -> None:
    """__pageblock_pfn_to_page(): pfn_to_online_page() of both ends, before their zones are compared."""
    page = Page(3, SPARSE.link(0, 1), INITIALIZED)
    pfn = 0 if which == "first" else 7
    hole = Page(pfn, SPARSE.link(0, 1), OFFLINE)
    result = judged(SPARSE_MAP, page, **{which: hole})
    assert result["__pageblock_pfn_to_page"] == ("refuses", "the first or last page of the block is not online")


def test_contiguous_skips_the_check() -> None:
    contiguous = memory_map(zone(1, 0, 12, contiguous=True), zone(2, 12, 20))
    result = judged(contiguous, Page(0, SPARSE.link(0, 2), INITIALIZED, lru=True))
    assert result["__pageblock_pfn_to_page"][0] == "refuses"
    assert result["pageblock_pfn_to_page"][0] == "reads wrong"
    assert result["isolate_migratepages_block"][0] == "reads wrong"


def test_contiguous_zone_over_a_hole_faults() -> None:
    contiguous = memory_map(zone(1, 0, 12, contiguous=True), zone(2, 12, 20))
    hole = Page(0, 0, OFFLINE)
    result = judged(contiguous, hole, first=hole, section=None)
    assert result["pfn_to_online_page"][0] == "refuses"
    assert result["pageblock_pfn_to_page"][0] == "faults"
    assert result["set_pageblock_skip"][0] == "faults"
    assert "get_pfnblock_flags_mask" not in result
    plain = judged(SPARSE_MAP, hole, first=hole, section=None)
    assert plain["pageblock_pfn_to_page"][0] == "refuses"
    assert plain["set_pageblock_skip"][0] == "safe"


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (NEW._replace(debug_vm=True), "BUG with CONFIG_DEBUG_VM"),
        (NEW._replace(debug_vm=None), "BUG with CONFIG_DEBUG_VM"),
        (NEW, "safe"),
    ],
)
def test_zone_check_of_setting_bits(kernel: Guards, expected: str) -> None:
    page = Page(3, SPARSE.link(0, 2), INITIALIZED, reserved=True)
    result = judged(SPARSE_MAP, page, kernel)
    assert result["set_pfnblock_flags_mask"][0] == expected
    assert result["get_pfnblock_flags_mask"][0] == "safe"
    # Since Linux 6.17 reading has the check too.
    result = judged(SPARSE_MAP, page, kernel._replace(get_checks_span=True))
    assert result["get_pfnblock_flags_mask"][0] == expected


def test_zeroed_hole_of_flatmem_writes_outside() -> None:
    """As on i386: the entry links to zone DMA, whose bitmap has 32 bits; block 10 has index 40."""
    result = judged(FLAT_MAP, Page(80, 0, ZEROED), OLD)
    assert result["set_pfnblock_flags_mask"] == ("writes outside", "index 40 of limit 32: changes the word at 0x1004")
    assert result["get_pfnblock_flags_mask"][0] == "reads wrong"
    assert result["__free_one_page"][0] == "safe"
    assert result["isolate_freepages_block"][0] == "safe"


@pytest.mark.parametrize(("pfn", "outcome"), [(63, "reads wrong"), (64, "writes outside")])
def test_first_index_behind_a_bitmap_is_outside_of_it(pfn: int, outcome: str) -> None:
    """32 bits are 8 blocks of 8 pages: pfn 64 has index 32."""
    result = judged(FLAT_MAP, Page(pfn, 0, ZEROED), OLD)["set_pfnblock_flags_mask"]
    assert result[0] == outcome
    assert result[1].startswith(f"index {pfn // 8 * 4} of limit 32")


def test_first_page_of_a_block_decides_for_the_whole_block_since_6_10() -> None:
    """Stealing any free page of the block sets the migratetype through the block's first page."""
    hole = Page(80, 0, ZEROED)
    for kernel, expected in ((OLD, "safe"), (NEW, "writes outside")):
        result = judged(FLAT_MAP, hole, kernel)
        assert result["move_freepages_block"][0] == expected
        result = judged(FLAT_MAP, Page(84, flat_link(1), INITIALIZED, buddy=True), kernel, first=hole)
        assert result["move_freepages_block"][0] == expected


def test_move_freepages_block_refuses_a_block_of_two_zones() -> None:
    """Up to 6.9 a block that begins outside of the zone was moved in part."""
    page = Page(13, SPARSE.link(0, 2), INITIALIZED, buddy=True)
    assert judged(SPARSE_MAP, page, NEW)["move_freepages_block"][0] == "refuses"
    assert judged(SPARSE_MAP, page, OLD)["move_freepages_block"][0] == "safe"
    page = Page(9, SPARSE.link(0, 1), INITIALIZED, buddy=True)
    for kernel in (OLD, NEW):
        assert judged(SPARSE_MAP, page, kernel)["move_freepages_block"][0] == "refuses"


def test_fast_isolate_around_depends_on_a_commit_that_only_the_source_shows() -> None:
    hole = Page(80, 0, ZEROED)
    place = Place(FLAT_MAP, OLD, hole, FLAT_MAP.zone(0, 1), hole, Page(87, flat_link(1), INITIALIZED), hole, SECTION)
    around = next(item for item in consequences(place) if item.function == "fast_isolate_around")
    assert (around.outcome, around.address) == ("writes outside", 0x1004)
    assert around.commit is not None
    assert around.commit["hash"] == "6e2b7044c199"
    before = place._replace(guards=OLD._replace(fast_search=False))
    assert {item.outcome for item in consequences(before) if "fast_isolate" in item.function} == {"safe"}
    # Before 5.1, there is no fast_isolate_around() that marks the block skipped through its first page.
    skip, skip_before = (
        next(item for item in consequences(at) if item.function == "set_pageblock_skip") for at in (place, before)
    )
    assert (skip.outcome, skip.commit) == ("writes outside", around.commit)
    assert (skip_before.outcome, skip_before.commit) == ("safe", None)
    place = place._replace(guards=NEW)
    around = next(item for item in consequences(place) if item.function == "fast_isolate_around")
    assert (around.outcome, around.commit) == ("safe", None)


def test_flatmem_page_linked_to_the_zone_above_its_own_block() -> None:
    """Below the zone, but in its first pageblock: the index is that of the block."""
    memory = memory_map(zone(0, 0, 12, bitmap=0x1000), zone(1, 12, 300, bitmap=0x2000), layout=FLAT)
    result = judged(memory, Page(9, flat_link(1), INITIALIZED, reserved=True))
    assert result["set_pfnblock_flags_mask"][0] == "safe"
    memory = memory_map(zone(0, 0, 8, bitmap=0x1000), zone(1, 16, 8, bitmap=0x2000), layout=FLAT)
    result = judged(memory, Page(24, flat_link(1), INITIALIZED, reserved=True))
    assert result["set_pfnblock_flags_mask"] == (
        "reads wrong",
        "index 4 of limit 32: changes the bits of another pageblock",
    )


def test_missing_bitmap_faults() -> None:
    page = Page(3, SPARSE.link(0, 1), INITIALIZED)
    result = judged(SPARSE_MAP, page, section=Section(0, ((0, 64),), 0, 0))
    assert result["get_pfnblock_flags_mask"][0] == result["set_pageblock_skip"][0] == "faults"


def test_poisoned_page_has_every_flag_and_is_not_free() -> None:
    """PageLRU() is a flag. PageBuddy() is a value of _mapcount, which all ones aren't: -1 is what most pages have."""
    result = outcome(judged(SPARSE_MAP, Page(3, SPARSE.link(15, 7), POISONED, lru=True)))
    assert result["page_zone"] == "faults"
    assert result["isolate_migratepages_block"] == "reads wrong"
    walks = {"isolate_freepages_block", "fast_isolate_around", "move_freepages_block", "__free_one_page"}
    assert not walks & set(result)


def test_page_outside_every_zone_is_met_by_no_walk() -> None:
    result = judged(SPARSE_MAP, Page(40, SPARSE.link(0, 2), INITIALIZED, reserved=True))
    assert outcome(result) == {"page_zone": "reads wrong"}
    assert "no zone spans the pfn" in result["isolate_freepages_block"][1]


def test_deferred_page_is_met_by_no_walk() -> None:
    assert list(judged(SPARSE_MAP, Page(3, 0, DEFERRED))) == ["pfn_to_online_page"]


# What dump_vma(), get_pfnblock_bit() and so on tell of the stored kernels.
KERNELS = {
    "amd64-5.10-bug": (True, False, False, None),
    I386_HOLE: (False, False, False, None),
    AMD64_HEALTHY: (False, False, False, True),
    AMD64_400M: (False, False, True, True),
    AMD64_NUMA: (False, True, True, True),
    ARM64: (False, False, True, True),
}


@pytest.mark.parametrize("name", KERNELS)
def test_facts_of_stored_kernels(name: str, opened: Opened) -> None:
    target = opened(name)[0]
    kernel = read_guards(target.vmcoreinfo.release, target.has_function, lambda name, member: False)
    facts = (kernel.debug_vm, kernel.get_checks_span, kernel.moves_whole_blocks, kernel.around_checks_block)
    assert facts == KERNELS[name]


@pytest.mark.parametrize("name", [*NAMES, "amd64-5.10-bug"])
def test_severity_agrees_with_the_consequences(name: str, scanned: Scanned) -> None:
    """What is no error doesn't kill the kernel; what is one is wrong by the consequences too."""
    debug_vm = KERNELS.get(name, (False,))[0]
    for finding in scanned(name).findings:
        items: list[dict[str, Any]] = finding.detail["consequences"]
        direct = ("page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask")
        walkers = {item["outcome"] for item in items if item["function"] not in direct}
        if finding.severity == "error":
            assert {item["outcome"] for item in items} - {"safe", "refuses"}
        else:
            assert not walkers & {"writes outside", "faults"}
            assert not (debug_vm and "BUG with CONFIG_DEBUG_VM" in walkers)


def test_bug_of_2021_dies_where_the_model_says(scanned: Scanned) -> None:
    """The kernel's last words: VM_BUG_ON_PAGE() in set_pfnblock_flags_mask(), called by compaction, for pfn 0x2a00."""
    finding = next(f for f in scanned("amd64-5.10-bug").findings if f.start_pfn == 0x2A00 and f.rule == "zone-span")
    items = {item["function"]: item for item in finding.detail["consequences"]}
    assert items["set_pfnblock_flags_mask"]["outcome"] == "BUG with CONFIG_DEBUG_VM"
    assert items["fast_isolate_around"]["outcome"] == "BUG with CONFIG_DEBUG_VM"
    assert items["fast_isolate_around"]["commit"]["hash"] == "6e2b7044c199"
    assert finding.detail["severity_by_rule"] == "warning"
    assert "fast_isolate_around" in finding.message


def test_writes_outside_name_address_and_object(scanned: Scanned) -> None:
    report = scanned(I386_HOLE)
    finding = next(f for f in report.findings if f.rule == "bitmap-bounds")
    items = {item["function"]: item for item in finding.detail["consequences"]}
    write = items["set_pfnblock_flags_mask"]
    assert (write["outcome"], write["address"]) == ("writes outside", finding.detail["address"])
    assert finding.detail["there"]["text"] in write["why"]


@pytest.mark.parametrize("name", [AMD64_400M, AMD64_LOW_RAM, AMD64_NUMA, ARM64, I386_HOLE, S390X, "amd64-5.10-bug"])
def test_abridged_consequences_are_those_of_the_page(name: str, kernels: Kernels, scanned: Scanned) -> None:
    """On pages around all findings' edges and everywhere else, in any order."""
    memory = kernels(name).memory
    model = Outcomes(kernels(name))
    choice = random.Random(1)
    edges = [edge for zone in memory.populated_zones for edge in (zone.start_pfn, zone.end_pfn)]
    edges += [edge for section in memory.sections for low, high in section.ranges for edge in (low, high)]
    wrong = [pfn for finding in scanned(name).findings for pfn in (finding.start_pfn, finding.end_pfn - 1)]
    pfns = wrong + [edge + choice.randint(-600, 600) for edge in edges for _ in range(20)]
    pfns += [choice.randrange(max(edges)) for _ in range(500)]
    choice.shuffle(pfns)
    harmful = 0
    for pfn in filter(lambda pfn: pfn >= 0, pfns):
        outcomes = model.of(pfn)
        brief = model.brief(pfn)
        if brief is None:
            assert outcomes == []
            continue
        harm = [(o.function, o.outcome, o.commit) for o in outcomes if o.outcome not in ("safe", "refuses")]
        assert [(h["function"], h["outcome"], h.get("commit")) for h in brief.harm] == harm
        deadly = fatal(outcomes, model.guards)
        assert (deadly and deadly.function) == (brief.deadly and brief.deadly.function)
        harmful += bool(harm)
    assert harmful or not scanned(name).count("error")


def test_findings_of_a_zone_have_none(kernels: Kernels) -> None:
    """The zone's first page may be one that the kernel would not survive; it has a finding of its own."""
    model = Outcomes(kernels(I386_HOLE))
    deadly = next(pfn for pfn in range(0xA100, 0xA300) if fatal(model.of(pfn), model.guards))
    finding = Finding("free-list", "warning", deadly, 0xA300, 0, "Normal", "m", {"pfns": []}, about=ZONE)
    (judged_finding,) = attach([finding], model)
    assert (judged_finding.severity, judged_finding.detail) == ("warning", {"pfns": [], "consequences": []})
    named = dataclasses.replace(finding, named=((deadly, deadly + 1),))
    assert [f.severity for f in attach([named], model)] == ["error"]


def test_findings_about_the_target_have_none(kernels: Kernels) -> None:
    model = Outcomes(kernels(I386_HOLE))
    finding = Finding("unreadable", "note", 0xA17B, 0xA217, 0, "Normal", "m", {"why": "unmapped"}, about=TARGET)
    (same,) = attach([finding], model)
    assert same.as_dict() == {**finding.as_dict(), "id": same.id, "signature": same.signature}


def test_findings_beyond_the_limit_have_the_same_severity(kernels: Kernels, monkeypatch: Any) -> None:
    model = Outcomes(kernels(I386_HOLE))
    many = [Finding("zone-span", "warning", pfn, pfn + 1, 0, "DMA", "m", {}) for pfn in range(0xA100, 0xA300)]
    whole = list(attach(many, model))
    monkeypatch.setattr(attach_, "MAX_PER_RULE", 10)
    abridged = list(attach(many, model))
    assert whole[:10] == abridged[:10]
    assert {"error", "warning"} == {finding.severity for finding in whole}
    assert [finding.severity for finding in whole] == [finding.severity for finding in abridged]
    for one, other in zip(whole[10:], abridged[10:]):
        assert other.detail["consequences_abridged"] is True
        assert "consequences_abridged" not in one.detail
        assert one.detail.get("severity_by_rule") == other.detail.get("severity_by_rule")
        assert one.message.startswith(other.message)
    out = io.StringIO()
    write_consequences(abridged[-1].detail["consequences"] + abridged[200].detail["consequences"], out, 80)
    assert "the reasons are left out" in out.getvalue()


def test_findings_that_are_alike_are_modeled_once(kernels: Kernels, monkeypatch: Any) -> None:
    model = Outcomes(kernels(AMD64_LOW_RAM))
    modeled = []
    monkeypatch.setattr(attach_, "consequences", lambda place: modeled.append(place) or consequences(place))
    finding = Finding("zone-span", "error", 0x2000, 0x2001, 0, "DMA", "m", {})
    many = [dataclasses.replace(finding, start_pfn=0x2000 + i % 0x4000) for i in range(20_000)]
    assert sum(1 for _ in attach(many, model)) == len(many)
    assert len(modeled) < attach_.MAX_PER_RULE + 100


def test_verbose_scan_shows_them(cli: Cli, unpacked: Any) -> None:
    done = cli("-c", unpacked(I386_HOLE), "scan", "-v")
    assert done.status == 1
    assert "bitmap-bounds 0xa17b-0xa217: what the kernel would do" in done.out
    assert "writes outside" in done.out
    assert "what the kernel would do" not in cli("-c", unpacked(I386_HOLE), "scan").out


def test_pfn_without_its_subsection_is_not_online(kernels: Kernels) -> None:
    model = Outcomes(kernels(AMD64_400M))
    # RAM ends at 0x18fe0. The section is early, so that pfn_valid() holds to its end.
    for pfn, expected in ((0x18000, "safe"), (0x18FF0, "safe"), (0x19000, "refuses"), (0x1FFFF, "refuses")):
        outcomes = {item.function: item.outcome for item in model.of(pfn)}
        assert outcomes["pfn_to_online_page"] == expected, hex(pfn)


def test_skip_is_set_where_fast_isolate_around_sets_it(kernels: Kernels) -> None:
    model = Outcomes(kernels("amd64-5.10-bug"))
    outcomes = {item.function: item for item in model.of(0x2A00)}
    assert (
        outcomes["set_pageblock_skip"].outcome == outcomes["fast_isolate_around"].outcome == "BUG with CONFIG_DEBUG_VM"
    )
    assert outcomes["set_pageblock_skip"].commit == outcomes["fast_isolate_around"].commit


@pytest.mark.parametrize(("absent", "expected"), [(((8, 16),), "refuses"), (((12, 16),), "safe"), ((), "safe")])
def test_block_whose_first_page_is_in_an_absent_subsection_is_refused(
    absent: tuple[tuple[int, int], ...], expected: str
) -> None:
    """__pageblock_pfn_to_page() asks pfn_to_online_page() for the first page, and pfn_valid() for the last."""
    section = Section(0, ((0, 64),), 0, 0x1000, ("SECTION_IS_EARLY",), b"", absent)
    memory = dataclasses.replace(memory_map(zone(1, 0, 64)), sections=(section,))
    page = Page(9, SPARSE.link(0, 1), INITIALIZED, lru=True)
    result = judged(memory, page, NEW, section=section)
    assert result["__pageblock_pfn_to_page"][0] == expected
    assert result["pageblock_pfn_to_page"][0] == expected
