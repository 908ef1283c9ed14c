# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What kernel functions would do at one finding of each stored vmcore, written down from the kernel's C.

Each table has what isn't "safe"; every other function that is modeled must be safe there. A name with an ``@`` is the
walk of that node's zone.
"""

from __future__ import annotations

import pytest

from mminspect.consequences.attach import Outcomes
from tests.conftest import Kernels, Scanned
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_LOW_RAM, AMD64_NUMA, ARM64, I386_HOLE, S390X

ASKS = ("__pageblock_pfn_to_page", "pageblock_pfn_to_page")
WALKS = (
    *ASKS,
    "isolate_migratepages_block",
    "isolate_freepages_block",
    "fast_isolate_freepages",
    "fast_isolate_around",
    "set_pageblock_skip",
    "reset_isolation_suitable",
    "move_freepages_block",
)
PLAIN = {"pfn_to_online_page", "page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask", "__free_one_page"}
REFUSED = dict.fromkeys(ASKS, "refuses")
BUG = "BUG with CONFIG_DEBUG_VM"
# A reserved page that no zone spans: page_zone() is one whose walks don't come there, or no zone at all.
NOWHERE = {"page_zone": "reads wrong"}
# The same in a subsection that isn't there: pfn_to_online_page() of 5.12 and later asks pfn_section_valid().
ABSENT = {**NOWHERE, "pfn_to_online_page": "refuses"}

GOLDEN = {
    # The hole's first page begins a pageblock. 5.10 has no check in get_pfnblock_flags_mask(), and without 6e2b7044c199
    # fast_isolate_around() marks the block through that page.
    ("amd64-5.10-bug", "zone-span", 0x2800): {
        **NOWHERE,
        **REFUSED,
        **dict.fromkeys(("set_pfnblock_flags_mask", "fast_isolate_around", "set_pageblock_skip"), BUG),
    },
    ("amd64-5.10-hotplug", "zone-id", 0x18FE0): NOWHERE,
    (AMD64_HEALTHY, "zone-span", 0): NOWHERE,
    # First and last page are DMA32's, the inner one is poisoned: every flag is set, _mapcount is -1.
    ("amd64-6.1-poisoned", "mixed-zone", 0xA000): {
        **dict.fromkeys(("pfn_to_online_page", *ASKS, "isolate_migratepages_block"), "reads wrong"),
        "page_zone": "faults",
        **dict.fromkeys(("set_pfnblock_flags_mask", "reset_isolation_suitable"), BUG),
    },
    # Node 0 ends inside the block, at 0x20300.
    ("amd64-6.1-sparse", "mixed-zone", 0x20200): {"move_freepages_block": "refuses"},
    (AMD64_400M, "zone-id", 0x18FE0): NOWHERE,
    (AMD64_400M, "mixed-zone", 0x18E00): NOWHERE,
    ("amd64-6.12-sysrq", "zone-id", 0x18FE0): NOWHERE,
    # Reserved and no RAM, at the end of a block.
    (AMD64_LOW_RAM, "zone-span", 0x7FE0): {**NOWHERE, **REFUSED},
    # Zeroed, at the start of a block of a zone that is contiguous.
    ("amd64-6.12-damaged", "mixed-zone", 0x8000): {
        **NOWHERE,
        "pfn_to_online_page": "reads wrong",
        "__pageblock_pfn_to_page": "refuses",
        "pageblock_pfn_to_page": "reads wrong",
    },
    ("amd64-7.2-null", "zone-id", 0x18FE0): NOWHERE,
    (AMD64_NUMA, "mixed-zone", 0x20200): {"move_freepages_block": "refuses"},
    (AMD64_NUMA, "zone-id", 0x3FFE0): NOWHERE,
    (ARM64, "zone-span", 0x59000): ABSENT,
    ("riscv64-6.12", "zone-span", 0x99000): ABSENT,
    (S390X, "zone-span", 0x19000): ABSENT,
    # FLATMEM, all zero: zone DMA's bitmap has 32 bits, and the page's index in it is 320.
    (I386_HOLE, "bitmap-bounds", 0xA17B): {
        **REFUSED,
        **dict.fromkeys(("pfn_to_online_page", "page_zone", "get_pfnblock_flags_mask"), "reads wrong"),
        "set_pfnblock_flags_mask": "writes outside",
    },
    # The same, where it begins a pageblock; whether this 5.10 has 6e2b7044c199 only its source tells.
    (I386_HOLE, "mixed-zone", 0xA200): {
        **REFUSED,
        **dict.fromkeys(("pfn_to_online_page", "page_zone", "get_pfnblock_flags_mask"), "reads wrong"),
        **dict.fromkeys(("set_pfnblock_flags_mask", "fast_isolate_around", "set_pageblock_skip"), "writes outside"),
    },
    # Normal ends at 0x36ffe.
    (I386_HOLE, "mixed-zone", 0x36E00): {"move_freepages_block": "refuses"},
    ("i386-6.1-numa", "mixed-zone", 0x36E00): {"move_freepages_block": "refuses"},
    # Page 0x8000 is node 0's, 0x8001 and what follows node 1's; both zones span the block.
    ("amd64-6.1-interleaved-page", "mixed-zone", 0x8000): {
        **{f"{name}@1": "refuses" for name in ASKS},
        **{f"{name}@0": "refuses" for name in ASKS},
        "move_freepages_block@0": BUG,
        "set_migratetype_isolate@0": BUG,
    },
    # Node 1 has the first half of the block and ends there; node 0 spans it all and has the other half.
    ("amd64-7.3-interleaved-enough", "mixed-zone", 0x10000): {
        "move_freepages_block@1": "refuses",
        **{f"{name}@0": "refuses" for name in ASKS},
        "move_freepages_block@0": BUG,
    },
}


@pytest.mark.parametrize(
    ("name", "rule", "start"), GOLDEN, ids=lambda value: value if isinstance(value, str) else hex(value)
)
def test_outcomes_are_those_of_the_source(name: str, rule: str, start: int, scanned: Scanned) -> None:
    expected = GOLDEN[name, rule, start]
    finding = next(f for f in scanned(name).findings if (f.rule, f.start_pfn) == (rule, start))
    found = {}
    for item in finding.detail["consequences"]:
        walk = f"@{item['zone'].split()[1]}" if "zone" in item else ""
        assert item["function"] + walk not in found
        found[item["function"] + walk] = item["outcome"]
    assert {function: outcome for function, outcome in found.items() if outcome != "safe"} == expected
    assert PLAIN | set(WALKS) <= {function.split("@")[0] for function in found}


@pytest.mark.parametrize("name", ["amd64-6.1-interleaved-page", "amd64-7.3-interleaved-enough"])
def test_block_of_interleaved_nodes_is_an_error_before_and_after_it_is_taken(name: str, scanned: Scanned) -> None:
    report = scanned(name)
    finding = next(f for f in report.findings if (f.rule, f.start_pfn) == ("mixed-zone", 0x8000))
    assert (finding.severity, finding.detail["severity_by_rule"]) == ("error", "note")
    assert finding.known == {**finding.known, "id": "interleaved-nodes", "harmful": True}  # type: ignore[dict-item]
    lists = [f for f in report.findings if f.rule in ("free-list", "zone-pages")]
    if name == "amd64-7.3-interleaved-enough":
        assert lists == []
        return
    assert len(lists) == 19
    cause = {"rule": "mixed-zone", "start_pfn": 0x8000, "end_pfn": 0x8200}
    assert [f.detail["cause"] for f in lists] == [cause] * len(lists)


@pytest.mark.parametrize(
    ("pfn", "expected"),
    [
        # (first, last, start) of the pageblock, clipped to the zone but for the last.
        (0xA17B, [(0xA000, 0xA1FF, 0xA000)]),
        (0x1, [(0x1, 0x1FF, 0x0)]),
        (0x36FFD, [(0x36E00, 0x36FFD, 0x36E00)]),
        (0x36FFF, [(0x36FFE, 0x36FFF, 0x36E00)]),
        (0x0, [(0x0, 0x1FF, 0x0)]),
    ],
)
def test_place_has_the_ends_of_its_pageblock(pfn: int, expected: list[tuple[int, int, int]], kernels: Kernels) -> None:
    places = Outcomes(kernels(I386_HOLE)).places(pfn)
    assert [(place.first.pfn, place.last.pfn, place.start.pfn) for place in places] == expected
    assert {place.page.pfn for place in places} == {pfn}


@pytest.mark.parametrize(("name", "array"), [(I386_HOLE, "mem_map"), (AMD64_NUMA, "vmemmap")])
def test_place_has_the_flags_that_the_struct_page_has(name: str, array: str, kernels: Kernels) -> None:
    """Read by drgn, bit by enumerator, and not by what the program decodes with."""
    kernel = kernels(name)
    prog, model = kernel.prog, Outcomes(kernel)
    pages = prog[array]
    bits = {flag: prog.constant(f"PG_{flag}").value_() for flag in ("lru", "reserved")}
    seen = set()
    ends = [zone.end_pfn for zone in kernel.memory.populated_zones]
    for pfn in [pfn for end in ends for pfn in range(max(end - 3000, 1), end, 13)]:
        raw = pages[pfn].flags
        flags = int(raw.value_() if not hasattr(raw, "f") else raw.f.value_())
        page = model.places(pfn)[0].page
        assert (page.lru, page.reserved) == (bool(flags >> bits["lru"] & 1), bool(flags >> bits["reserved"] & 1))
        seen.add((page.lru, page.reserved))
    assert {(True, False), (False, False)} <= seen


def test_page_on_the_lru_and_one_beside_it_differ(kernels: Kernels) -> None:
    """__reset_isolation_pfn() clears the skip bit through an LRU page or a free one, and passes over others."""
    model = Outcomes(kernels(AMD64_NUMA))
    found = {}
    for pfn in range(0x1F600, 0x1F800):
        page = model.page(pfn)
        if page is not None and not page.buddy:
            found.setdefault(page.lru, pfn)
    why = {lru: {o.function: o.why for o in model.of(pfn)} for lru, pfn in found.items()}
    assert why[False]["reset_isolation_suitable"] == "passes over the page: it is neither PageLRU nor PageBuddy"
    assert why[False]["isolate_migratepages_block"].startswith("passes over the page: it isn't PageLRU")
    assert why[True]["isolate_migratepages_block"] == "the page is of node 0 zone DMA32"
    assert why[True]["reset_isolation_suitable"].startswith("index ")
