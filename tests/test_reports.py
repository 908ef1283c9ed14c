# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports in every format, through the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mminspect.findings import Finding, Report
from mminspect.render.formats import report_writer
from mminspect.render.style import Style
from tests.conftest import Cli, Scanned, Unpacked
from tests.support import (
    AMD64_400M,
    AMD64_HEALTHY,
    AMD64_LOW_RAM,
    AMD64_NUMA,
    ARM64,
    I386_HOLE,
    NAMES,
    S390X,
    without_times,
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
    assert all(set(finding) == FINDING_KEYS for finding in report["findings"])
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


def test_option_overrides_the_pageblock_order(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(AMD64_LOW_RAM)
    report = cli("-c", path, "--pageblock-order", "10", "scan", "--format", "json").json()
    assert (report["target"]["pageblock_order"], report["target"]["pageblock_order_from"]) == (10, "option")
    (mixed,) = [f for f in report["findings"] if f["rule"] == "mixed-zone"]
    assert (mixed["start_pfn"], mixed["end_pfn"]) == (0x7C00, 0x8000)
    assert report["summary"]["pageblocks"] == 65536 // 1024


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
    assert rows == scan_json(cli, path)["findings"]


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
    assert lines[-1].startswith("2 errors, 0 warnings, 2 notes; 131,072 pages in 256 pageblocks examined in ")


def test_table_in_a_pipe_is_neither_wrapped_nor_coloured(cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    out = cli("-c", unpacked(I386_HOLE), "scan").out
    assert all(finding.message in out for finding in scanned(I386_HOLE).findings)
    assert "\x1b" not in out


def rendered(report: Report, style: Style) -> list[str]:
    """Render a table."""
    out = io.StringIO()
    report_writer("table")(report, out, style)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_table_fits_the_terminal(width: int, scanned: Scanned) -> None:
    lines = rendered(scanned(I386_HOLE), Style(width))
    assert max(map(len, lines)) <= width
    empty = [number for number, line in enumerate(lines) if not line]
    table = lines[empty[0] + 1 : empty[-1]]
    # All of the text is there, in pieces.
    column = table[0].index("message")
    text = "".join("".join(line[column:].split()) for line in table)
    for finding in scanned(I386_HOLE).findings:
        assert "".join(finding.message.split()) in text


@pytest.mark.parametrize("width", [1, 10, 40])
def test_table_on_a_tiny_terminal_does_not_break(width: int, scanned: Scanned) -> None:
    assert len(rendered(scanned(I386_HOLE), Style(width))) > len(scanned(I386_HOLE).findings)


def test_table_shows_all_findings_whatever_the_width(scanned: Scanned) -> None:
    for width in (None, 20, 80, 300):
        lines = rendered(scanned(I386_HOLE), Style(width))
        for finding in scanned(I386_HOLE).findings:
            pfns = f"{finding.start_pfn:#x}-{finding.end_pfn:#x}"
            assert any(finding.rule in line and pfns in line for line in lines)


def test_colour_marks_severities(scanned: Scanned) -> None:
    lines = rendered(scanned(I386_HOLE), Style(None, True))
    assert any("\x1b[31merror" in line for line in lines)
    assert any("\x1b[36mnote" in line for line in lines)


def test_numbers_in_messages_stay_as_they_are() -> None:
    """tabulate takes "1e5" and "0x10" for numbers if it may."""
    finding = Finding("zone-id", "error", 0, 1, None, None, "1e5", {})
    summary = {"by_severity": {}, "pages_examined": 1, "pageblocks": 1, "pages_unreadable": 0, "elapsed_seconds": 0.0}
    target = dict.fromkeys(TARGET_KEYS, "x")
    assert any(line.rstrip().endswith("  1e5") for line in rendered(Report(target, [], summary, [finding]), Style()))


def on_terminal(arguments: list[str], columns: int, **environment: str) -> str:
    """Run mminspect with stdout and stderr on a terminal."""
    main, terminal = pty.openpty()
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    variables.update(environment, COLUMNS=str(columns), TERM="xterm")
    command = [sys.executable, "-m", "mminspect", *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=variables) as process:
        os.close(terminal)
        data = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            data += piece
        process.wait(60)
    os.close(main)
    return data.decode()


def test_terminal_gets_colour_and_lines_of_its_width(unpacked: Unpacked) -> None:
    text = on_terminal(["-c", str(unpacked(I386_HOLE)), "scan"], 100)
    assert "\x1b[31merror" in text
    rows = [line for line in text.replace("\r", "").splitlines() if line.startswith("\x1b[31merror")]
    assert rows
    assert all(len(row) - len("\x1b[31m\x1b[0m") <= 100 for row in rows)


def test_no_color_turns_colour_off(unpacked: Unpacked) -> None:
    text = on_terminal(["-c", str(unpacked(I386_HOLE)), "scan"], 100, NO_COLOR="1")
    assert "error" in text
    assert "\x1b[3" not in text


def test_progress_goes_to_a_terminal_only(cli: Cli, unpacked: Unpacked) -> None:
    assert cli("-c", unpacked(AMD64_HEALTHY), "scan").err == ""
    assert "struct pages" in on_terminal(["-c", str(unpacked(AMD64_HEALTHY)), "scan"], 100)


# Choice of rules, exit status


@pytest.mark.parametrize(
    ("name", "worst"), [(AMD64_400M, "error"), (AMD64_LOW_RAM, "warning"), (AMD64_HEALTHY, "note")]
)
@pytest.mark.parametrize("fail_on", ["error", "warning", "note", "never"])
def test_exit_status_follows_fail_on(name: str, worst: str, fail_on: str, cli: Cli, unpacked: Unpacked) -> None:
    severities = ["note", "warning", "error"]
    fails = fail_on != "never" and severities.index(worst) >= severities.index(fail_on)
    assert cli("-c", unpacked(name), "scan", "--fail-on", fail_on).status == int(fails)


def test_default_is_to_fail_on_errors(cli: Cli, unpacked: Unpacked) -> None:
    assert cli("-c", unpacked(AMD64_400M), "scan").status == 1
    assert cli("-c", unpacked(AMD64_LOW_RAM), "scan").status == 0


def test_select_applies_only_these_rules(cli: Cli, unpacked: Unpacked) -> None:
    whole = scan_json(cli, unpacked(I386_HOLE))
    report = scan_json(cli, unpacked(I386_HOLE), "--select", "mixed-zone, zone-span")
    assert report["findings"] == [f for f in whole["findings"] if f["rule"] in ("mixed-zone", "zone-span")]
    assert set(report["summary"]["by_rule"]) == {"mixed-zone", "zone-span"}


def test_ignore_leaves_rules_out(cli: Cli, unpacked: Unpacked) -> None:
    whole = scan_json(cli, unpacked(I386_HOLE))
    report = scan_json(cli, unpacked(I386_HOLE), "--ignore", "mixed-zone,zone-span")
    assert report["findings"] == [f for f in whole["findings"] if f["rule"] not in ("mixed-zone", "zone-span")]
    assert set(report["summary"]["by_rule"]).isdisjoint({"mixed-zone", "zone-span"})


def test_ignore_wins_over_select(cli: Cli, unpacked: Unpacked) -> None:
    report = scan_json(cli, unpacked(I386_HOLE), "--select", "mixed-zone,zone-id", "--ignore", "mixed-zone")
    assert set(report["summary"]["by_rule"]) == {"zone-id"}


def test_select_can_be_given_again(cli: Cli, unpacked: Unpacked) -> None:
    report = scan_json(cli, unpacked(I386_HOLE), "--select", "mixed-zone", "--select", "zone-id")
    assert set(report["summary"]["by_rule"]) == {"mixed-zone", "zone-id"}


def test_status_counts_selected_rules_only(cli: Cli, unpacked: Unpacked) -> None:
    assert cli("-c", unpacked(AMD64_400M), "scan", "--select", "zone-span").status == 0


# Output files


def test_output_file_holds_what_stdout_would(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = unpacked(I386_HOLE)
    done = cli("-c", path, "scan", "--format", "json", "-o", tmp_path / "report")
    assert (done.status, done.out, done.err) == (1, "", "")
    report = json.loads((tmp_path / "report").read_text())
    assert without_times(report) == without_times(scan_json(cli, path))


def test_output_file_has_the_rights_of_the_umask(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "report")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o640


def test_output_file_is_replaced_at_once(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    """Who has the old file open keeps reading the old one."""
    report = tmp_path / "report"
    report.write_text("old")
    with report.open() as old:
        cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", report)
        assert old.read() == "old"
    assert report.read_text() != "old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_dash_is_stdout(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_HEALTHY), "scan", "--format", "csv", "-o", "-")
    assert done.out.startswith("rule,severity")


# Zones


def test_zones_as_json_has_nodes_zones_sections_and_holes(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_LOW_RAM), "zones", "--format", "json")
    assert done.status == 0
    data = done.json()
    assert [n["node"] for n in data["nodes"]] == [0]
    assert (data["nodes"][0]["start_pfn"], data["nodes"][0]["end_pfn"]) == (1, 1067776)
    assert data["zones"] == scan_json(cli, unpacked(AMD64_LOW_RAM))["zones"]
    assert [(s["first"], s["last"]) for s in data["sections"]] == [(0, 0), (32, 32)]
    holes = [(h["zone"], h["start_pfn"], h["end_pfn"]) for h in data["holes"]]
    assert holes == [("DMA32", 0x8000, 0x100000)]


def test_zones_leaves_out_sections_that_are_offline(cli: Cli, unpacked: Unpacked) -> None:
    data = cli("-c", unpacked("amd64-5.10-hotplug"), "zones", "--format", "json").json()
    assert [(s["first"], s["last"]) for s in data["sections"]] == [(0, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_zones_as_table_names_every_zone(name: str, cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    done = cli("-c", unpacked(name), "zones")
    assert (done.status, done.err) == (0, "")
    for zone in scanned(name).zones:
        assert f"{zone['start_pfn']:#x}-{zone['end_pfn']:#x}" in done.out
        assert zone["name"] in done.out
