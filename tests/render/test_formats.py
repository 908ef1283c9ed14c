# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mminspect.findings import Finding, Report
from mminspect.render.formats import report_writer
from mminspect.render.style import Style
from tests.conftest import Cli, Scanned, Unpacked
from tests.kit.support import (
    AMD64_400M,
    AMD64_HEALTHY,
    AMD64_NUMA,
    ARM64,
    I386_HOLE,
    NAMES,
    S390X,
)

RULES = ("bitmap-bounds", "contiguous", "mixed-zone", "uninitialized", "unreadable", "zone-id", "zone-span")

TARGET_KEYS = {
    "kind",
    "path",
    "release",
    "machine",
    "page_size",
    "memory_model",
    "pageblock_order",
    "pageblock_order_from",
    "bits_per_pageblock",
    "types_from",
    "page_flags_layout",
}
ZONE_KEYS = {"node", "index", "name", "start_pfn", "end_pfn", "spanned", "present", "managed", "contiguous"}
SUMMARY_KEYS = {"pages_examined", "pages_unreadable", "pageblocks", "by_rule", "by_severity", "elapsed_seconds"}
FINDING_KEYS = {"rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "detail"}
MORE_KEYS = {"id", "signature"}


def scan_json(cli: Cli, path: object, *more: str) -> dict[str, Any]:
    report: dict[str, Any] = cli("-c", path, "scan", "--format", "json", *more).json()
    return report


# JSON


@pytest.mark.parametrize("name", NAMES)
def test_json_has_the_keys_of_the_contract(name: str, cli: Cli, unpacked: Unpacked) -> None:
    report = scan_json(cli, unpacked(name))
    assert set(report) == {"schema", "target", "zones", "summary", "findings"}
    assert report["schema"] == "mminspect.report/1"
    assert set(report["target"]) >= TARGET_KEYS
    assert all(set(zone) == ZONE_KEYS for zone in report["zones"])
    assert set(report["summary"]) >= SUMMARY_KEYS
    assert all(set(finding) - {"known"} == FINDING_KEYS | MORE_KEYS for finding in report["findings"])
    assert report["target"]["kind"] == "vmcore"
    assert report["target"]["path"] == str(unpacked(name))
    assert set(report["summary"]["by_rule"]) >= set(RULES)
    assert set(report["summary"]["by_severity"]) == {"error", "warning", "note"}


@pytest.mark.parametrize("name", NAMES)
def test_summary_counts_the_findings(name: str, cli: Cli, unpacked: Unpacked) -> None:
    report = scan_json(cli, unpacked(name))
    for rule, counts in report["summary"]["by_rule"].items():
        mine = [f for f in report["findings"] if f["rule"] == rule]
        assert counts == {"findings": len(mine), "pages": sum(f["end_pfn"] - f["start_pfn"] for f in mine)}
    for severity, count in report["summary"]["by_severity"].items():
        assert count == sum(f["severity"] == severity for f in report["findings"])


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_sorted_half_open_ranges_of_integers(name: str, scanned: Scanned) -> None:
    findings = scanned(name).findings
    assert findings == sorted(findings, key=lambda f: (f.start_pfn, f.end_pfn, f.rule))
    for finding in findings:
        assert isinstance(finding.start_pfn, int)
        assert finding.start_pfn < finding.end_pfn
        assert finding.message
        assert "\n" not in finding.message


def test_json_has_plain_values_only(cli: Cli, unpacked: Unpacked) -> None:
    """numpy's integers would not even be written; infinities would not be JSON."""
    text = cli("-c", unpacked(I386_HOLE), "scan", "--format", "json").out
    json.loads(text, parse_constant=pytest.fail)
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (I386_HOLE, ("i686", "flatmem", 9, 4, "unsigned long")),
        (AMD64_HEALTHY, ("x86_64", "sparsemem_vmemmap", 9, 4, "unsigned long")),
        (AMD64_NUMA, ("x86_64", "sparsemem_vmemmap", 9, 8, "memdesc_flags_t")),
        (ARM64, ("aarch64", "sparsemem_vmemmap", 9, 4, "unsigned long")),
        (S390X, ("s390x", "sparsemem_vmemmap", 8, 4, "unsigned long")),
    ],
)
def test_target_describes_the_kernel(name: str, expected: Any, scanned: Scanned) -> None:
    target = scanned(name).target
    layout = target["page_flags_layout"]
    assert (
        target["machine"],
        target["memory_model"],
        target["pageblock_order"],
        target["bits_per_pageblock"],
        layout["flags_type"],
    ) == expected
    assert target["page_size"] == 4096
    assert target["types_from"] == "btf"


@pytest.mark.parametrize("name", [I386_HOLE, AMD64_NUMA])
def test_two_runs_are_equal_but_for_the_time(name: str, cli: Cli, unpacked: Unpacked) -> None:
    one, other = (cli("-c", unpacked(name), "scan", "--format", "json").json() for _ in range(2))
    del one["summary"]["elapsed_seconds"], other["summary"]["elapsed_seconds"]
    assert json.dumps(one) == json.dumps(other)


# Other formats


def test_ndjson_has_the_findings_of_json_a_line_each(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(I386_HOLE)
    done = cli("-c", path, "scan", "--format", "ndjson")
    assert done.status == 1
    assert [json.loads(line) for line in done.out.splitlines()] == scan_json(cli, path)["findings"]


def test_csv_parses_back_to_the_findings_of_json(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(I386_HOLE)
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(cli("-c", path, "scan", "--format", "csv").out)))
    for row in rows:
        row.update(start_pfn=int(row["start_pfn"]), end_pfn=int(row["end_pfn"]), detail=json.loads(row["detail"]))
        row["node"] = int(row["node"]) if row["node"] else None
        row["zone"] = row["zone"] or None
    findings = scan_json(cli, path)["findings"]
    assert rows == [{key: finding[key] for key in FINDING_KEYS} for finding in findings]


def test_csv_of_nothing_is_a_header(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_HEALTHY), "scan", "--select", "zone-id", "--format", "csv")
    assert done.out == "rule,severity,start_pfn,end_pfn,node,zone,message,detail\n"


def test_ndjson_of_nothing_is_nothing(cli: Cli, unpacked: Unpacked) -> None:
    assert cli("-c", unpacked(AMD64_HEALTHY), "scan", "--select", "zone-id", "--format", "ndjson").out == ""


def test_table_names_kernel_findings_and_counts(cli: Cli, unpacked: Unpacked) -> None:
    lines = cli("-c", unpacked(AMD64_400M), "scan").out.splitlines()
    assert lines[0].startswith("6.12.117+deb13-cloud-amd64 x86_64, sparsemem_vmemmap")
    assert sum(line.startswith("error") for line in lines) == 2
    assert any("0x18fe0-0x18fe2" in line for line in lines)
    assert lines[2] == "2 errors, both known and harmless on stock kernels; 0 warnings; 2 notes"
    assert "2 notes, legal and normal: zone-span 2 (-n shows them)" in lines
    assert lines[-1].startswith("131,072 pages in 256 pageblocks examined in ")


@pytest.mark.parametrize(
    ("columns", "arguments", "width"), [("", (), 100), ("140", (), 140), ("140", ("--width", "90"), 90)]
)
def test_table_in_a_pipe_has_a_width_and_no_color(
    columns: str,
    arguments: tuple[str, ...],
    width: int,
    cli: Cli,
    unpacked: Unpacked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    core = tmp_path / "core"
    core.symlink_to(unpacked(I386_HOLE))
    monkeypatch.chdir(tmp_path)
    out = cli("-c", "core", "scan", *arguments).out
    assert width - 12 < max(map(len, out.splitlines())) <= width
    assert "\x1b" not in out


def rendered(report: Report, style: Style) -> list[str]:
    """Render a table."""
    out = io.StringIO()
    report_writer("table")(report, out, style)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_table_fits_the_terminal(width: int, scanned: Scanned) -> None:
    lines = rendered(scanned(I386_HOLE), Style(width, notes=True))
    assert max(map(len, lines)) <= width
    empty = [number for number, line in enumerate(lines) if not line]
    table = lines[empty[0] + 1 : empty[1]]
    # All of the text is there, in pieces.
    column = table[0].index("message")
    text = "".join("".join(line[column:].split()) for line in table)
    for finding in scanned(I386_HOLE).findings:
        assert "".join(finding.message.split()) in text


@pytest.mark.parametrize("width", [1, 10, 40])
def test_table_on_a_tiny_terminal_does_not_break(width: int, scanned: Scanned) -> None:
    assert len(rendered(scanned(I386_HOLE), Style(width, notes=True))) > len(scanned(I386_HOLE).findings)


def test_table_shows_all_findings_whatever_the_width(scanned: Scanned) -> None:
    for width in (None, 20, 80, 300):
        lines = rendered(scanned(I386_HOLE), Style(width, notes=True))
        for finding in scanned(I386_HOLE).findings:
            pfns = f"{finding.start_pfn:#x}-{finding.end_pfn:#x}"
            assert any(finding.rule in line and pfns in line for line in lines)


def test_color_marks_severities(scanned: Scanned) -> None:
    lines = rendered(scanned(I386_HOLE), Style(None, True, notes=True))
    assert any("\x1b[31merror" in line for line in lines)
    assert any("\x1b[36mnote" in line for line in lines)


def test_numbers_in_messages_stay_as_they_are() -> None:
    """tabulate takes "1e5" and "0x10" for numbers if it may."""
    finding = Finding("zone-id", "error", 0, 1, None, None, "1e5", {})
    summary = {
        "by_severity": {"error": 1},
        "pages_examined": 1,
        "pageblocks": 1,
        "pages_unreadable": 0,
        "elapsed_seconds": 0.0,
    }
    target = dict.fromkeys(TARGET_KEYS, "x")
    assert any(line.rstrip().endswith("  1e5") for line in rendered(Report(target, [], summary, [finding]), Style()))
