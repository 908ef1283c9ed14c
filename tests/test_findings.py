# SPDX-License-Identifier: LGPL-2.1-or-later
"""What findings are about, and what of them is in the JSON contract."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from mminspect.findings import PAGES, TARGET, ZONE, Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Match, PageCheck, Rule, Violation
from mminspect.rules.collectors import COLLECTORS
from mminspect.rules.registry import all_rules
from tests.conftest import Scanned
from tests.kit.handmade import PGDAT, Part, chunk, memory_map, nothing_known, scan, zone
from tests.kit.support import AMD64_NUMA, I386_HOLE

FINDING = Finding("zone-span", "error", 10, 20, 0, "DMA", "m", {"key": 1})
MEMORY = memory_map(zone(1, 8, 8), zone(2, 16, 8), zone(1, 32, 8, node=1))
RULE = Rule(summary="s", checks=(), id="rule")


def test_json_has_what_it_always_had() -> None:
    finding = dataclasses.replace(FINDING, about=ZONE, named=((10, 12),), wrong=((11, 12),), judged_by=10)
    assert finding.as_dict() == {
        "id": "",
        "signature": "",
        "rule": "zone-span",
        "severity": "error",
        "start_pfn": 10,
        "end_pfn": 20,
        "node": 0,
        "zone": "DMA",
        "message": "m",
        "detail": {"key": 1},
    }


def covered(finding: Finding) -> list[int]:
    return [pfn for pfn in range(30) if finding.covers(pfn)]


def wrong(finding: Finding) -> list[int]:
    return [pfn for pfn in range(30) if finding.is_wrong_at(pfn)]


def test_finding_is_about_its_pages() -> None:
    assert covered(FINDING) == wrong(FINDING) == list(range(10, 20))
    assert [pfn for pfn in range(30) if FINDING.begins_at(pfn)] == [10]
    assert not FINDING.of_zone


def test_finding_about_some_of_its_pages() -> None:
    finding = dataclasses.replace(FINDING, about=ZONE, named=((10, 12), (25, 26)))
    assert covered(finding) == wrong(finding) == [10, 11, 25]
    assert [pfn for pfn in range(30) if finding.begins_at(pfn)] == [10, 25]
    assert not finding.of_zone


def test_finding_about_right_and_wrong_pages() -> None:
    finding = dataclasses.replace(FINDING, wrong=((12, 14),))
    assert (covered(finding), wrong(finding)) == (list(range(10, 20)), [12, 13])


def test_finding_about_a_zone_says_of_no_page_that_it_is_wrong() -> None:
    finding = dataclasses.replace(FINDING, about=ZONE)
    assert (finding.of_zone, covered(finding), wrong(finding)) == (True, list(range(10, 20)), [])
    assert not any(finding.begins_at(pfn) for pfn in range(30))


def test_what_rules_are_about() -> None:
    about = {kind: {rule.id for rule in all_rules().values() if rule.about == kind} for kind in (ZONE, TARGET)}
    assert about[ZONE] == {
        "compaction-cursor",
        "contiguous",
        "free-list",
        "lru-list",
        "node-link",
        "per-cpu-list",
        "unaccepted-list",
        "zone-pages",
    }
    assert about[TARGET] == {"memmap-alignment", "proc-disagrees", "unreadable"}


@pytest.mark.parametrize(
    ("link", "expected"),
    [((0, 1), (0, "DMA32")), ((0, 7), (0, None)), ((3, 1), (3, None)), (None, (0, "DMA32"))],
)
def test_node_and_zone_are_those_of_the_link_else_the_first_that_spans_the_pages(
    link: tuple[int, int] | None, expected: tuple[int, str | None]
) -> None:
    match = Match(14, 18, link=MEMORY.layout.link(*link) if link is not None else None)
    found = RULE.finding(Violation("note", "m", {}), MEMORY, match)
    assert (found.rule, found.start_pfn, found.end_pfn, found.about) == ("rule", 14, 18, PAGES)
    assert (found.node, found.zone) == expected


def test_pages_that_no_zone_spans_have_no_zone() -> None:
    found = RULE.finding(Violation("note", "m", {}), MEMORY, Match(100, 101))
    assert (found.node, found.zone) == (None, None)


def test_range_and_names_of_a_zone_a_node_and_the_machine() -> None:
    of_zone = RULE.finding(Violation("note", "m", {}, of=MEMORY.zones[1]), MEMORY)
    assert (of_zone.start_pfn, of_zone.end_pfn, of_zone.node, of_zone.zone) == (8, 16, 0, "DMA32")
    of_node = RULE.finding(Violation("note", "m", {}, of=MEMORY.nodes[1]), MEMORY)
    assert (MEMORY.nodes[0].address, of_node.node, of_node.zone) == (PGDAT, 1, None)
    assert (of_node.start_pfn, of_node.end_pfn) == (32, 40)
    of_all = RULE.finding(Violation("note", "m", {}, of=MEMORY, pages=(8, 40)), MEMORY)
    assert (of_all.start_pfn, of_all.end_pfn, of_all.node, of_all.zone) == (8, 40, None, None)


def test_matches_of_one_link_that_touch_are_joined_but_not_where_the_rule_does_not_want_it() -> None:
    def check(part: Chunk, memory: MemoryMap) -> list[Match]:
        return [Match(pfn, pfn + 1, link=int(part.link[0])) for pfn in range(part.start_pfn, part.end_pfn)]

    def describe(match: Match, memory: MemoryMap, identify: object) -> Violation:
        return Violation("note", "m", {})

    for join, expected in ((True, [(8, 12)]), (False, [(8, 9), (9, 10), (10, 11), (11, 12)])):
        collector = COLLECTORS[PageCheck](PageCheck(check, describe, join), RULE, MEMORY, nothing_known)
        found = []
        for start in (8, 10):
            found += collector.take(start, collector.look(chunk(MEMORY, start, Part(2, zone=1))))
        found += collector.close(True)
        assert [(f.start_pfn, f.end_pfn) for f in found] == expected


@pytest.mark.parametrize("name", [I386_HOLE, AMD64_NUMA])
def test_findings_survive_the_way_to_another_process(name: str, scanned: Scanned) -> None:
    found = list(scanned(name).findings)
    assert found
    assert pickle.loads(pickle.dumps(found)) == found


def test_what_is_seen_in_a_chunk_survives_the_way_to_another_process() -> None:
    part = chunk(MEMORY, 8, Part(4, zone=1), Part(4, zone=7), Part(4, zone=2))
    for rule in all_rules().values():
        for check in rule.checks:
            if type(check) not in COLLECTORS:
                continue
            one, other = (COLLECTORS[type(check)](check, rule, MEMORY, nothing_known) for _ in range(2))
            seen = one.look(part)
            found = [*one.take(8, seen), *one.close(True)]
            assert found == [*other.take(8, pickle.loads(pickle.dumps(seen))), *other.close(True)]
    assert len(scan(MEMORY, part)) > 3
