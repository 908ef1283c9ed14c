# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What kernel functions would do at each finding of each stored vmcore, written down from the kernel's C.

``tests/data/outcomes.json`` has cases, each with what isn't "safe" and why; every other function that is modeled must
be safe there. A name with an ``@`` is the walk of that node's zone. Findings are named by rule and first page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mminspect.consequences.attach import Outcomes
from tests.conftest import Kernels, Scanned
from tests.kit.support import AMD64_NUMA, I386_HOLE, VMCORES

DATA: Any = json.loads((Path(__file__).parents[1] / "data" / "outcomes.json").read_text(encoding="utf-8"))
FUNCTIONS = {
    *("pfn_to_online_page", "page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask", "__free_one_page"),
    *("__pageblock_pfn_to_page", "pageblock_pfn_to_page", "isolate_migratepages_block", "isolate_freepages_block"),
    *("fast_isolate_freepages", "fast_isolate_around", "set_pageblock_skip", "reset_isolation_suitable"),
    "move_freepages_block",
}
# What isn't said of pages that aren't online: no walk asks such a page for its zone.
ASK_THE_PAGE = {
    *("page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask", "__pageblock_pfn_to_page", "__free_one_page"),
}
STORED = sorted(path.stem for path in VMCORES.glob("*.xz"))
Case = dict[str, str]


def pfns(text: str) -> list[int]:
    """Read a pfn, or a range of them with a step: FIRST..LAST/STEP."""
    match = re.fullmatch(r"(\w+)\.\.(\w+)/(\w+)", text)
    if match is None:
        return [int(text, 16)]
    first, last, step = (int(number, 16) for number in match.groups())
    return list(range(first, last + 1, step))


def expected_of(name: str) -> dict[tuple[str, int], Case]:
    """Get the outcomes of each finding of a stored vmcore, by rule and first page."""
    result = {}
    for row in DATA["findings"].get(name, ()):
        for rule in row["rules"]:
            for pfn in (pfn for text in row["pfns"] for pfn in pfns(text)):
                assert (rule, pfn) not in result
                result[rule, pfn] = DATA["cases"][row["case"]]["outcomes"]
    return result


def not_safe(outcomes: Sequence[dict[str, Any]]) -> Case:
    """Get the outcomes that aren't "safe", after checking that each function that is modeled has one."""
    found = {}
    for item in outcomes:
        name = item["function"] + (f"@{item['zone'].split()[1]}" if "zone" in item else "")
        assert name not in found
        found[name] = item["outcome"]
    missing = FUNCTIONS - {name.split("@")[0] for name in found}
    assert not missing or (found["pfn_to_online_page"] == "refuses" and missing == ASK_THE_PAGE)
    return {name: outcome for name, outcome in found.items() if outcome != "safe"}


@pytest.mark.parametrize("name", STORED)
def test_outcomes_of_each_finding_are_those_of_the_source(name: str, scanned: Scanned) -> None:
    expected = expected_of(name)
    seen = set()
    for finding in scanned(name).findings:
        assert finding.detail["consequences"] or finding.of_zone
        if finding.of_zone:
            continue
        place = (finding.rule, finding.start_pfn)
        seen.add(place)
        outcomes = finding.detail["consequences"]
        if finding.detail.get("consequences_abridged"):
            # Only harm is told, and of no function twice.
            harm = {name: outcome for name, outcome in expected[place].items() if outcome != "refuses"}
            assert {item["function"]: item["outcome"] for item in outcomes} == harm, place
        else:
            assert not_safe(outcomes) == expected[place], place
    assert seen == set(expected)


@pytest.mark.parametrize("name", DATA["pages"])
def test_pages_in_order_are_safe(name: str, kernels: Kernels) -> None:
    model = Outcomes(kernels(name))
    for text in DATA["pages"][name]:
        assert not_safe([item.as_dict() for item in model.of(int(text, 16))]) == {}


def test_each_stored_vmcore_has_outcomes_and_each_case_is_met() -> None:
    assert set(STORED) == {*DATA["findings"], *DATA["pages"]}
    assert {row["case"] for rows in DATA["findings"].values() for row in rows} | {"plain"} == set(DATA["cases"])


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
