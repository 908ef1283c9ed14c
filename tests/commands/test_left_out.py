# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings that a report leaves out: by a baseline, by ID, as known and harmless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands.left_out import LeftOut, leave_out
from mminspect.findings import Finding, Report
from mminspect.walk.spill import Findings
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_400M, I386_HOLE

HARMLESS = {"id": "some-quirk", "harmful": False, "why": "so"}
HARMFUL = {"id": "some-bug", "harmful": True, "why": "so"}


def make(*findings: Finding) -> Report:
    """Make a report of findings."""
    found = Findings()
    for finding in findings:
        found.add(finding)
    by_rule = {"zone-id": {"findings": 9, "pages": 9}, "free-list": {"findings": 9, "pages": 9}}
    return Report({}, [], {"by_rule": by_rule, **found.counts(), "pages_examined": 7}, found)


def one(id_: str, severity: str = "error", signature: str = "", known: Any = None, start: int = 0) -> Finding:
    """Make a finding of two pages."""
    return Finding(
        "zone-id", severity, start, start + 2, 0, "DMA", "wrong", {}, id=id_, signature=signature, known=known
    )


def kept(report: Report, left: LeftOut) -> list[str]:
    """Get the IDs that are left."""
    return [finding.id for finding in leave_out(report, left).findings]


def test_id_wins_over_signature_and_each_entry_stands_for_one_finding() -> None:
    report = make(*(one(f"f{n}", signature="same", start=n) for n in range(4)))
    assert kept(report, LeftOut(({"id": "f2", "signature": "same"},))) == ["f0", "f1", "f3"]
    # One pfn moved: f9 is f0 now.
    baseline = ({"id": "f2", "signature": "same"}, {"id": "f9", "signature": "same"})
    assert kept(report, LeftOut(baseline)) == ["f1", "f3"]
    assert kept(report, LeftOut(({"id": "f9"}, {"id": "f8", "signature": "other"}))) == ["f0", "f1", "f2", "f3"]


def test_what_became_worse_is_not_left_out() -> None:
    report = make(one("a", "error", "zone-id/error"))
    assert kept(report, LeftOut(({"id": "a", "severity": "warning", "signature": "zone-id/warning"},))) == ["a"]
    assert kept(report, LeftOut(({"id": "a", "severity": "error"},))) == []
    assert kept(make(one("a", "note")), LeftOut(({"id": "a", "severity": "error"},))) == []


def test_only_what_is_known_and_harmless_is_ignored() -> None:
    report = make(one("a", known=HARMLESS), one("b", known=HARMFUL, start=1), one("c", start=2))
    assert kept(report, LeftOut(known=True)) == ["b", "c"]


def test_counts_are_of_what_is_left() -> None:
    report = make(
        one("a", known=HARMLESS), one("b", "warning", known=HARMFUL, start=1), one("c", start=2), one("d", start=3)
    )
    left = LeftOut(({"id": "c", "reason": "an old machine"}, {"id": "x", "reason": "gone"}), frozenset({"d"}), True)
    summary = leave_out(report, left).summary
    assert summary["by_rule"] == {"zone-id": {"findings": 1, "pages": 2}, "free-list": {"findings": 0, "pages": 0}}
    assert summary["by_severity"] == {"error": 0, "warning": 1, "note": 0}
    assert (summary["known"], summary["known_by_severity"]["warning"]) == (1, {"harmless": 0, "harmful": 1})
    assert summary["left_out"] == {"baseline": 1, "ids": 1, "known": 1, "reasons": {"c": "an old machine"}}
    assert summary["pages_examined"] == 7
    # The report itself is as it was.
    assert report.summary["by_severity"] == {"error": 3, "warning": 1, "note": 0}


def test_own_report_as_a_baseline_leaves_nothing(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, baseline = unpacked(I386_HOLE), tmp_path / "baseline.json"
    assert cli("scan", core, "--format", "json", "-o", baseline).status == 1
    data = json.loads(baseline.read_text())
    done = cli("scan", core, "--baseline", baseline, "--fail-on", "note")
    assert (done.status, done.err) == (0, "")
    assert f"{len(data['findings'])} findings left out: in the baseline" in done.out
    # Without one of its errors, that is new.
    gone = data["findings"].pop(next(n for n, f in enumerate(data["findings"]) if f["rule"] == "bitmap-bounds"))
    baseline.write_text(json.dumps(data))
    again = cli("scan", core, "--baseline", baseline, "--format", "json")
    assert again.status == 1
    assert [finding["id"] for finding in again.json()["findings"]] == [gone["id"]]


def test_known_and_harmless_errors_of_a_stock_kernel_can_be_ignored(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("scan", unpacked(AMD64_400M), "--ignore-known")
    assert done.status == 0
    assert "\n0 errors; 0 warnings; 0 notes\n" in done.out
    assert "4 findings left out: known and harmless on stock kernels" in done.out


def test_ids_are_left_out_and_mistyped_ones_are_told(cli: Cli, unpacked: Unpacked) -> None:
    findings = cli("scan", unpacked(AMD64_400M), "--format", "json").json()["findings"]
    errors = [finding["id"] for finding in findings if finding["severity"] == "error"]
    done = cli("scan", unpacked(AMD64_400M), "--ignore-id", ",".join([*errors, "zone-id-typo"]))
    assert done.status == 0
    assert done.err == "mminspect: 1 of the IDs of --ignore-id are no finding's\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no report in JSON"),
        ("\x00\x01", "no report in JSON"),
        ("{", "cut short or damaged"),
        ("[" * 100_000, "no report in JSON"),
        ("[]", "no report of mminspect"),
        ('{"schema": "mminspect.map/1", "findings": []}', "has schema 'mminspect.map/1'"),
        ('{"schema": "mminspect.report/2", "findings": []}', "has schema 'mminspect.report/2'"),
        ('{"schema": "mminspect.report/1"}', "has no 'findings'"),
        ('{"schema": "mminspect.report/1", "findings": [1]}', "a finding is no object"),
        ('{"schema": "mminspect.report/1", "findings": [{}]}', "has no 'id'"),
        ('{"schema": "mminspect.report/1", "findings": [{"id": "a", "reason": 1}]}', "no 'reason'"),
        ('{"schema": "mminspect.report/1", "findings": [{"id": "a", "severity": []}]}', "no 'severity'"),
    ],
)
def test_bad_baseline_is_refused_in_a_line(text: str, says: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = tmp_path / "baseline"
    path.write_text(text)
    assert says in complaint(cli("scan", unpacked(AMD64_400M), "--baseline", path))


def test_reason_is_shown_without_what_moves_the_cursor(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    findings = cli("scan", unpacked(AMD64_400M), "--format", "json").json()["findings"]
    path = tmp_path / "baseline"
    entries = [{"id": findings[0]["id"], "reason": "ticket\x1b[2J 7\nerror"}]
    path.write_text(json.dumps({"schema": "mminspect.report/1", "findings": entries}))
    out = cli("scan", unpacked(AMD64_400M), "--baseline", path, "--width", "200").out
    assert rf"left out: {findings[0]['id']}: ticket\x1b[2J 7\nerror" in out
