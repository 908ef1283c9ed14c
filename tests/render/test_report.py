# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a report says first, in which order, and what it says to do next; KTAP."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import jsonschema
import pytest

from mminspect.findings import Finding, Report
from mminspect.render.formats import report_writer
from mminspect.render.report import in_order, verdict
from mminspect.render.style import Style
from mminspect.render.table import write_pairs
from mminspect.rules.registry import all_rules
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_400M, I386_HOLE, NAMES, ROOT

SCHEMA = json.loads((ROOT / "mminspect" / "schemas" / "report-1.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_json_is_as_the_schema_says(name: str, cli: Cli, unpacked: Unpacked) -> None:
    for more in ((), ("--ignore-known", "--partial")):
        jsonschema.validate(cli("scan", unpacked(name), "--format", "json", *more).json(), SCHEMA)


def counts(error: tuple[int, int, int], warning: tuple[int, int, int] = (0, 0, 0), notes: int = 0) -> dict[str, Any]:
    """Make a summary: of each severity how many there are, are harmless, are harmful."""
    numbers = {"error": error, "warning": warning, "note": (notes, notes, 0)}
    return {
        "by_severity": {severity: number[0] for severity, number in numbers.items()},
        "known_by_severity": {s: {"harmless": n[1], "harmful": n[2]} for s, n in numbers.items()},
    }


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (counts((0, 0, 0)), "0 errors; 0 warnings; 0 notes"),
        (counts((1, 1, 0)), "1 error, known and harmless on stock kernels; 0 warnings; 0 notes"),
        (counts((2, 2, 0), notes=2), "2 errors, both known and harmless on stock kernels; 0 warnings; 2 notes"),
        (counts((0, 0, 0), (3, 3, 0)), "0 errors; 3 warnings, all known and harmless on stock kernels; 0 notes"),
        (counts((3, 1, 0)), "3 errors, 1 known and harmless on stock kernels; 0 warnings; 0 notes"),
        (
            counts((4, 1, 2)),
            "4 errors, 1 known and harmless on stock kernels, 2 known to do harm on stock kernels; 0 warnings; 0 notes",
        ),
        (counts((1200, 0, 1200)), "1,200 errors, all known to do harm on stock kernels; 0 warnings; 0 notes"),
    ],
)
def test_verdict(summary: dict[str, Any], text: str) -> None:
    assert verdict(summary) == text


def made(severity: str, start: int, cause: str | None = None, known: str | None = None) -> Finding:
    """Make a finding."""
    detail = {} if cause is None else {"cause": cause}
    quirk = None if known is None else {"id": known, "harmful": True, "why": ""}
    return Finding("zone-id", severity, start, start + 1, 0, "DMA", "wrong", detail, known=quirk)


def test_worst_first_and_same_causes_together() -> None:
    findings = [
        made("note", 1),
        made("error", 2, cause="block"),
        made("error", 3),
        made("warning", 4),
        made("error", 5, cause="block"),
        made("error", 6, known="bug"),
        made("error", 7),
        made("error", 8, known="bug"),
    ]
    assert [finding.start_pfn for finding in in_order(findings)] == [2, 5, 3, 6, 8, 7, 4, 1]


def test_next_steps_are_commands_that_work(cli: Cli, unpacked: Unpacked) -> None:
    out = cli("scan", unpacked(I386_HOLE), "--width", "500").out
    steps = re.findall(r"^  (mminspect .*?)  +\w", out, re.MULTILINE)
    assert [step.split()[1] for step in steps] == ["page", "rules", "map", "triage"]
    for step in steps:
        assert cli(*step.split()[1:]).err == ""


def test_healthy_report_says_no_next_steps(cli: Cli, unpacked: Unpacked) -> None:
    assert "What to do next" not in cli("scan", unpacked(AMD64_400M), "--select", "section").out


def test_equal_consequences_are_shown_once(cli: Cli, unpacked: Unpacked) -> None:
    out = cli("scan", unpacked(I386_HOLE), "-v").out
    titles = [n for n, line in enumerate(out.splitlines()) if line.endswith(": what the kernel would do")]
    assert len(titles) >= 4
    assert any(after == before + 1 for before, after in zip(titles, titles[1:]))


def test_statistics_count_what_the_json_has(cli: Cli, unpacked: Unpacked) -> None:
    lines = cli("scan", unpacked(I386_HOLE), "--statistics").out.splitlines()
    shown = {
        tuple(line.split()[:2]): tuple(map(int, line.split()[2:])) for line in lines if re.match("error|note", line)
    }
    expected: dict[tuple[str, ...], tuple[int, int]] = {}
    for finding in cli("scan", unpacked(I386_HOLE), "--format", "json").json()["findings"]:
        number, pages = expected.get((finding["severity"], finding["rule"]), (0, 0))
        pages += finding["end_pfn"] - finding["start_pfn"]
        expected[finding["severity"], finding["rule"]] = number + 1, pages
    assert shown == expected
    assert "--format table" in complaint(cli("scan", unpacked(I386_HOLE), "--statistics", "--format", "csv"))


def parse_ktap(text: str) -> dict[str, str]:
    """Parse KTAP of one level as the kernel's documentation has it: the results by name, skipped ones as ``skip``."""
    version, *rest = text.splitlines()
    assert version == "KTAP version 1"
    lines = [line for line in rest if not line.startswith("# ")]
    plan = re.fullmatch(r"1\.\.(\d+)", lines[0])
    assert plan is not None and int(plan[1]) == len(lines) - 1
    results = {}
    for number, line in enumerate(lines[1:], 1):
        match = re.fullmatch(r"(ok|not ok) (\d+) ([^#]*?)(?: # (SKIP|TODO|XFAIL|TIMEOUT|ERROR)(?: (.+))?)?", line)
        assert match is not None and int(match[2]) == number, line
        assert match[4] in (None, "SKIP")
        assert match[4] is None or match[5], "a skipped test says why"
        results[match[3]] = "skip" if match[4] else match[1]
    return results


@pytest.mark.parametrize("fail_on", ["error", "note", "never"])
def test_ktap_has_a_test_a_rule(fail_on: str, cli: Cli, unpacked: Unpacked) -> None:
    done = cli("scan", unpacked(I386_HOLE), "--format", "ktap", "--fail-on", fail_on)
    results = parse_ktap(done.out)
    assert list(results) == sorted(rule.id for rule in all_rules().values() if not rule.on_request)
    findings = cli("scan", unpacked(I386_HOLE), "--format", "json").json()["findings"]
    counted = {"error": ("error",), "note": ("error", "warning", "note"), "never": ()}[fail_on]
    failing = {finding["rule"] for finding in findings if finding["severity"] in counted}
    assert {rule for rule, result in results.items() if result == "not ok"} == failing
    assert results["proc-disagrees"] == "skip"
    assert done.status == bool(failing)


def test_ktap_of_hostile_text_stays_ktap() -> None:
    finding = Finding("zone-id", "error", 0, 1, 0, "DMA", "ok 7 # SKIP\nnot ok 9 zone", {})
    summary = {"by_rule": {"zone-id": {}, "section": {}}, "pages_examined": 1, "skipped": {"section": "a # b\nok 3"}}
    out = io.StringIO()
    target = {"release": "6.1\n1..9", "machine": "x86_64"}
    report_writer("ktap")(Report(target, [], summary, [finding] * 30), out, Style())
    assert parse_ktap(out.getvalue().replace("\\#", "")) == {"zone-id": "not ok", "section": "skip"}
    assert "# 10 more findings\n" in out.getvalue()


def test_values_stand_below_names_that_leave_no_room() -> None:
    out = io.StringIO()
    write_pairs({"  mminspect page 0x1 -c /a/long/path": "all about a page", "  short": "it"}, out, 40)
    assert out.getvalue().splitlines() == [
        "  mminspect page 0x1 -c /a/long/path",
        "      all about a page",
        "  short",
        "      it",
    ]
    out = io.StringIO()
    write_pairs({"a": "text"}, out, 40)
    assert out.getvalue() == "a  text\n"
