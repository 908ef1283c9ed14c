# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tells a finding from others, and what is the same of a fault on different machines."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from mminspect.consequences.identity import finding_id, signature, state_of
from mminspect.consequences.place import Outcome
from mminspect.findings import Finding
from mminspect.memmap.chunk import INITIALIZED, ZEROED
from mminspect.memmap.page import Page
from mminspect.rules.quirks import known_quirk
from tests.conftest import Cli, Scanned, Unpacked
from tests.kit.handmade import FLAT, memory_map, zone
from tests.kit.planted import Fault
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, I386_HOLE, NAMES

MEMORY = memory_map(zone(1, 0, 128), zone(2, 128, 64), zone(1, 192, 64, node=1))
FINDING = Finding(
    "mixed-zone", "error", 8, 16, 0, "DMA32", "m", {"runs": [[8, 12, 0, 1], [12, 16, 0, 2]], "hidden": False}
)
PAGE = Page(12, 0, INITIALIZED)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "zone-span"},
        {"node": 1},
        {"node": None},
        {"zone": "Normal"},
        {"zone": None},
        {"start_pfn": 9},
        {"end_pfn": 17},
        {"detail": {"problem": "count"}},
    ],
)
def test_id_changes_with_what_the_finding_is_about(change: dict[str, Any]) -> None:
    assert finding_id(dataclasses.replace(FINDING, **change)) != finding_id(FINDING)


@pytest.mark.parametrize("change", [{"severity": "note"}, {"message": "other"}, {"detail": {"reserved": True}}])
def test_id_stays_whatever_is_said_of_it(change: dict[str, Any]) -> None:
    assert finding_id(dataclasses.replace(FINDING, **change)) == finding_id(FINDING)


def test_signature_has_its_parts_in_order() -> None:
    deciding = Outcome("move_freepages_block", "BUG with CONFIG_DEBUG_VM", "why")
    assert signature(FINDING, "error", MEMORY, "unreserved", deciding) == (
        "mixed-zone/error/open/DMA32+Normal/pageblock..pageblock/unreserved/"
        "move_freepages_block=BUG-with-CONFIG_DEBUG_VM"
    )


@pytest.mark.parametrize(
    ("start", "end", "edges"), [(0, 64, "section..section"), (8, 65, "pageblock..page"), (9, 128, "page..section")]
)
def test_signature_has_the_alignment_of_both_ends(start: int, end: int, edges: str) -> None:
    finding = dataclasses.replace(FINDING, start_pfn=start, end_pfn=end)
    assert signature(finding, "error", MEMORY, "unreserved", None).split("/")[4] == edges


@pytest.mark.parametrize(
    ("page", "state"),
    [
        (PAGE, "unreserved"),
        (PAGE._replace(reserved=True), "reserved"),
        (PAGE._replace(buddy=True), "unreserved"),
        (PAGE._replace(state=ZEROED), "zeroed"),
        (None, "-"),
    ],
)
def test_signature_has_the_lasting_state_of_the_page(page: Page | None, state: str) -> None:
    assert state_of(page) == state
    assert signature(FINDING, "error", MEMORY, state, None).split("/")[5:] == [state, "-"]


def test_signature_of_two_machines_with_the_same_fault_is_the_same() -> None:
    moved = [[200, 204, 1, 1], [204, 208, 0, 2]]
    other = dataclasses.replace(FINDING, start_pfn=200, end_pfn=208, node=1, detail={"runs": moved, "hidden": False})
    assert signature(other, "error", MEMORY, "unreserved", None) == signature(
        FINDING, "error", MEMORY, "unreserved", None
    )


@pytest.mark.parametrize("name", [*NAMES, "amd64-5.10-bug", "amd64-6.1-interleaved-page"])
def test_ids_of_a_report_are_unique_and_signatures_have_no_pfn(name: str, scanned: Scanned) -> None:
    findings = list(scanned(name).findings)
    assert len({finding.id for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.id.startswith(f"{finding.rule}-")
        assert "," not in finding.id
        assert finding.signature.startswith(f"{finding.rule}/{finding.severity}/")
        numbers = {int(number) for number in re.findall(r"\d+", finding.signature)}
        assert not numbers & ({finding.start_pfn, finding.end_pfn} - {0})
        assert "0x" not in finding.signature


def test_acpi_tables_behind_memory_have_one_signature_on_three_kernels(scanned: Scanned) -> None:
    """ACPI tables right above the last zone: 5.10 and 6.12 of 400 MiB, and 7.2."""
    reports = [scanned(name) for name in (AMD64_400M, "amd64-5.10-hotplug", "amd64-7.2-null")]
    for rule in ("zone-id", "mixed-zone"):
        signatures = {f.signature for report in reports for f in report.findings if f.rule == rule}
        assert len(signatures) == 1, rule


def test_id_of_a_finding_stays_where_another_is_planted(plant: Any) -> None:
    fault: Fault = plant(AMD64_HEALTHY)
    before = {finding.id for finding in fault.before.findings}
    fault.link(0x2010, 0x2014, 0, 2)
    new, _ = fault.changes()
    assert new
    assert before <= {finding.id for finding in fault.scan().findings}


def test_known_quirks_are_counted(cli: Cli, unpacked: Unpacked) -> None:
    report = cli("-c", unpacked(AMD64_400M), "scan", "--format", "json").json()
    known = {f["rule"]: f["known"] for f in report["findings"]}
    assert report["summary"]["known"] == 4
    assert {rule: (item["id"], item["harmful"]) for rule, item in known.items()} == {
        "zone-span": ("tail-of-the-last-section", False),
        "mixed-zone": ("reserved-page-in-no-zone", False),
        "zone-id": ("reserved-page-in-no-zone", False),
    }
    assert all(item["why"] for item in known.values())


def test_page_has_them_as_the_scan_does(cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    path = unpacked(AMD64_NUMA)
    page = cli("-c", path, "page", "0x20300", "--format", "json").json()["pages"][0]
    of_scan = {f.id: f.signature for f in scanned(AMD64_NUMA).findings}
    assert page["findings"]
    assert all(of_scan[f["id"]] == f["signature"] for f in page["findings"])


# By stored vmcore, rule and first pfn: the quirk, and whether it is harmful.
QUIRKS = {
    (AMD64_HEALTHY, "zone-span", 0): ("pfn-0", False),
    (AMD64_HEALTHY, "zone-span", 0x12681): ("tail-of-the-last-section", False),
    (AMD64_NUMA, "mixed-zone", 0x20200): ("zone-boundary", False),
    (AMD64_NUMA, "mixed-zone", 0x3FE00): ("reserved-page-in-no-zone", False),
    ("amd64-6.12-low-ram", "mixed-zone", 0x7E00): ("hole-of-the-zone-above", False),
    ("amd64-6.12-low-ram", "zone-span", 0x7FE0): ("hole-of-the-zone-above", False),
    ("amd64-5.10-bug", "mixed-zone", 0x2800): ("holes-in-zone-0", True),
    ("amd64-5.10-bug", "zone-span", 0x2800): ("holes-in-zone-0", True),
    (I386_HOLE, "uninitialized", 0xA17B): ("unwritten-holes", True),
    ("amd64-6.1-interleaved-page", "mixed-zone", 0x10000): ("interleaved-nodes", False),
    ("amd64-6.1-interleaved-page", "zone-overlap", 0x8000): ("zones-overlap", False),
    ("amd64-6.1-interleaved-page", "zone-pages", 0x8000): ("interleaved-nodes", True),
    # Nothing that stock kernels do.
    ("amd64-6.12-damaged", "uninitialized", 0x8000): None,
    ("amd64-6.12-damaged", "mixed-zone", 0x8000): None,
    ("amd64-6.1-poisoned", "mixed-zone", 0xA000): None,
}


@pytest.mark.parametrize(
    ("name", "rule", "start"), QUIRKS, ids=lambda part: part if isinstance(part, str) else hex(part)
)
def test_quirks_explain_what_stock_kernels_do(name: str, rule: str, start: int, scanned: Scanned) -> None:
    finding = next(f for f in scanned(name).findings if (f.rule, f.start_pfn) == (rule, start))
    known = finding.known and (finding.known["id"], finding.known["harmful"])
    assert known == QUIRKS[name, rule, start]


def test_reserved_pages_that_can_be_freed_are_no_harmless_hole(plant: Any) -> None:
    """The same links as at the end of low memory, in the middle of System RAM."""
    fault: Fault = plant(AMD64_HEALTHY)
    fault.link(0x2010, 0x2014, 0, 2, reserved=True)
    found = [f for f in fault.scan().findings if f.start_pfn in (0x2000, 0x2010)]
    assert [(f.rule, f.severity, f.known) for f in found] == [
        ("mixed-zone", "error", None),
        ("zone-span", "error", None),
    ]


@pytest.mark.parametrize(
    ("kind", "spanned_by", "expected"),
    [
        ("zeroed", [], ("zeroed-tail-of-mem-map", False)),
        ("zeroed", [[0, 1]], ("unwritten-holes", True)),
        ("poisoned", [], None),
        ("poisoned", [[0, 1]], None),
    ],
)
def test_zeroed_entries_of_flatmem_are_known(
    kind: str, spanned_by: list[list[int]], expected: tuple[str, bool] | None
) -> None:
    finding = Finding("uninitialized", "error", 60, 64, 0, "DMA", "m", {"kind": kind, "spanned_by": spanned_by})
    known = known_quirk(finding, memory_map(zone(0, 0, 60), layout=FLAT))
    assert (None if known is None else (known["id"], known["harmful"])) == expected
    assert known_quirk(finding, memory_map(zone(0, 0, 60))) is None
