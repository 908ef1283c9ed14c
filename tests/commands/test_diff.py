# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect diff``: reports, maps and vmcores compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands.diff import diff, is_new_at, match
from tests.commands.test_map import of, tiny, write
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_400M, AMD64_NUMA, I386_HOLE


def finding(start: int, end: int, severity: str = "error", rule: str = "zone-span", **more: Any) -> dict[str, Any]:
    """Make a finding."""
    plain = {"rule": rule, "severity": severity, "start_pfn": start, "end_pfn": end, "node": 0, "zone": "DMA"}
    return {**plain, "message": "wrong", **more}


def report(*findings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a report."""
    data = {"schema": "mminspect.report/1", "target": {"release": "6.1"}, "zones": [], "summary": {}}
    return {**data, "findings": list(findings), **more}


def pfns(findings: Any) -> list[tuple[int, int]]:
    """Get the pfns of findings."""
    return [(f["start_pfn"], f["end_pfn"]) for f in findings]


def test_the_same_finding_is_no_difference() -> None:
    data = diff(report(finding(0, 8)), report(finding(0, 8, message="other words")))
    assert (data["new"], data["gone"], data["changed"], data["unchanged"]) == ([], [], [], 1)


def test_what_is_new_and_what_is_gone() -> None:
    data = diff(report(finding(0, 8)), report(finding(16, 24), finding(64, 65, "note")))
    assert (pfns(data["new"]), pfns(data["gone"])) == ([(16, 24), (64, 65)], [(0, 8)])
    assert is_new_at(data, "error")


def test_a_finding_that_became_worse_counts_and_one_that_became_better_does_not() -> None:
    worse = diff(report(finding(0, 8, "note")), report(finding(0, 8, "warning")))
    assert worse["changed"][0]["what"] == {"severity": ["note", "warning"]}
    assert is_new_at(worse, "warning") and not is_new_at(worse, "error")
    assert not is_new_at(diff(report(finding(0, 8)), report(finding(0, 8, "warning"))), "note")


def test_a_finding_whose_pages_overlap_grew() -> None:
    data = diff(report(finding(0, 8)), report(finding(4, 16)))
    assert data["changed"][0]["what"] == {"start_pfn": [0, 4], "end_pfn": [8, 16]}
    assert data["new"] == data["gone"] == []
    apart = diff(report(finding(0, 8)), report(finding(4, 16, rule="zone-id")))
    assert len(apart["new"]) == len(apart["gone"]) == 1


def test_findings_with_equal_signatures_moved() -> None:
    one = [finding(0, 8, id="a", signature="s"), finding(32, 40, id="b", signature="s")]
    two = [finding(100, 108, id="c", signature="s"), finding(32, 40, id="b", signature="s")]
    pairs, gone, new = match(one, two)
    assert [(a["id"], b["id"]) for a, b in pairs] == [("b", "b"), ("a", "c")]
    assert gone == new == []


def test_the_id_counts_more_than_the_place() -> None:
    pairs, gone, new = match([finding(0, 8, id="a")], [finding(0, 8, rule="zone-id", id="a")])
    assert len(pairs) == 1 and gone == new == []


def test_what_one_side_lacks_is_not_gone() -> None:
    rules = {"by_rule": {"zone-span": {}, "zone-id": {}}}
    fewer = {"by_rule": {"zone-id": {}}}
    data = diff(report(finding(0, 8), summary=rules), report(summary=fewer))
    assert data["gone"] == [] and data["rules_not_compared"] == ["zone-span"]
    assert data["sections"] is None and data["holes"] is None
    assert diff(report(finding(0, 8)), report(summary={"partial": True}))["gone"] is None


def test_memory_that_came_is_a_section_and_no_hole_any_more() -> None:
    one, two = tiny(), tiny()
    two["memory"] = [
        {"start_pfn": 0, "end_pfn": 0x100, "state": "online"},
        {"start_pfn": 0x100, "end_pfn": 0x100040, "state": "offline"},
        {"start_pfn": 0x100040, "end_pfn": 0x100060, "state": "online"},
    ]
    data = diff(one, two)
    assert data["sections"] == [
        {"start_pfn": 64, "end_pfn": 0x100, "before": "absent", "after": "online"},
        {"start_pfn": 0x100, "end_pfn": 0x100040, "before": "absent", "after": "offline"},
    ]
    assert data["holes"]["new"] == []
    assert pfns(data["holes"]["gone"]) == [(64, 0x100)]


def test_zones_and_layout_are_compared() -> None:
    one, two = tiny(), tiny()
    two["zones"][0]["end_pfn"] = 40
    two["zones"].append({"node": 1, "index": 1, "name": "Normal", "start_pfn": 1, "end_pfn": 2})
    two["target"]["pageblock_order"] = 4
    data = diff(one, two)
    assert data["zones"]["changed"] == [{"node": 0, "name": "DMA", "what": {"end_pfn": [32, 40]}}]
    assert pfns(data["zones"]["new"]) == [(1, 2)]
    assert data["layout"] == {"pageblock_order": [3, 4]}


def test_a_kernel_does_not_differ_from_its_report_and_its_map(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core = unpacked(I386_HOLE)
    report_file, map_file = tmp_path / "report.json", tmp_path / "map.json"
    cli("-c", core, "scan", "--format", "json", "-o", report_file)
    cli("-c", core, "map", "--format", "json", "-o", map_file)
    for one, two in ((report_file, core), (core, map_file), (map_file, report_file), (core, core)):
        done = cli("diff", one, two)
        assert (done.status, done.err) == (0, "")
        assert "No difference; 7 findings on both sides." in done.out
    data = of(cli, "diff", map_file, core, "--format", "json")
    assert data["sections"] == [] and data["unchanged"] == 7


def test_two_kernels_differ_and_the_status_says_so(cli: Cli, unpacked: Unpacked) -> None:
    one, two = unpacked(AMD64_400M), unpacked(AMD64_NUMA)
    done = cli("diff", one, two)
    assert (done.status, done.err) == (1, "")
    assert "bits_per_pageblock  4" in done.out
    assert cli("diff", one, two, "--fail-on", "never").status == 0
    data = of(cli, "diff", one, two, "--format", "json")
    assert {(f["rule"], f["start_pfn"]) for f in data["new"]} >= {("mixed-zone", 0x3FE00)}
    assert data["zones"]["new"][0]["node"] == 1


def test_what_can_not_be_compared_is_refused(cli: Cli, tmp_path: Path) -> None:
    good = write(tmp_path / "good.json", report())
    assert "cut short" in complaint(cli("diff", good, _text(tmp_path / "cut.json", json.dumps(report())[:-9])))
    assert "schema" in complaint(cli("diff", good, _text(tmp_path / "other.json", '{"schema": "mminspect.report/2"}')))
    assert "neither" in complaint(cli("diff", _text(tmp_path / "list.json", "[1]"), good))
    short = write(tmp_path / "short.json", report(summary={"partial": True}))
    assert "nothing can be called new" in complaint(cli("diff", short, good))
    assert "nowhere" in complaint(cli("diff", good, tmp_path / "nowhere"))
    assert "diff takes two files" in complaint(cli("-c", good, "diff", good, good))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "item", [{"start_pfn": 0, "end_pfn": 1}, {"start_pfn": 0, "end_pfn": "1", "state": "free"}, 7, {"state": "free"}]
)
def test_map_whose_memory_is_damaged_is_refused(item: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    cli("-c", unpacked(AMD64_400M), "map", "--format", "json", "-o", path)
    data = json.loads(path.read_text())
    assert cli("map", "--from", path).status == 0
    data["memory"].append(item)
    path.write_text(json.dumps(data))
    assert "damaged" in complaint(cli("map", "--from", path))


def test_a_map_of_a_report_tells_no_more_than_the_report(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core = unpacked(I386_HOLE)
    report, of_report, whole = (tmp_path / name for name in ("report.json", "of-report.json", "map.json"))
    cli("-c", core, "scan", "--format", "json", "-o", report)
    cli("map", "--from", report, "--format", "json", "-o", of_report)
    cli("-c", core, "map", "--format", "json", "-o", whole)
    for sides in ((of_report, whole), (whole, of_report)):
        done = cli("diff", *sides)
        assert "Sections and holes were not compared" in done.out and "No difference" in done.out
        assert done.status == 0
        data = cli("diff", *sides, "--format", "json").json()
        assert (data["sections"], data["holes"], data["range"]) == (None, None, None)


def test_of_a_range_it_is_said_what_was_compared(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, part, whole = unpacked(I386_HOLE), tmp_path / "part.json", tmp_path / "map.json"
    cli("-c", core, "map", "0xa170-0xa230", "--format", "json", "-o", part)
    cli("-c", core, "map", "--format", "json", "-o", whole)
    assert "Compared: pfns 0xa170-0xa230" in cli("diff", part, whole).out
    data = cli("diff", part, whole, "--format", "json").json()
    assert data["range"] == [0xA170, 0xA230]
