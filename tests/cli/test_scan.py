# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect scan``: terminals, the choice of rules, the exit status."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Cli, Unpacked
from tests.kit.support import (
    AMD64_400M,
    AMD64_HEALTHY,
    AMD64_LOW_RAM,
    I386_HOLE,
)


def scan_json(cli: Cli, path: object, *more: str) -> dict[str, Any]:
    report: dict[str, Any] = cli("-c", path, "scan", "--format", "json", *more).json()
    return report


def test_option_overrides_the_pageblock_order(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(AMD64_LOW_RAM)
    report = cli("-c", path, "--pageblock-order", "10", "scan", "--format", "json").json()
    assert (report["target"]["pageblock_order"], report["target"]["pageblock_order_from"]) == (10, "option")
    (mixed,) = [f for f in report["findings"] if f["rule"] == "mixed-zone"]
    assert (mixed["start_pfn"], mixed["end_pfn"]) == (0x7C00, 0x8000)
    assert report["summary"]["pageblocks"] == 65536 // 1024


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


def test_terminal_gets_color_and_lines_of_its_width(unpacked: Unpacked) -> None:
    text = on_terminal(["-c", str(unpacked(I386_HOLE)), "scan"], 100)
    assert "\x1b[31merror" in text
    rows = [line for line in text.replace("\r", "").splitlines() if line.startswith("\x1b[31merror")]
    assert rows
    assert all(len(row) - len("\x1b[31m\x1b[0m") <= 100 for row in rows)


def test_no_color_turns_color_off(unpacked: Unpacked) -> None:
    text = on_terminal(["-c", str(unpacked(I386_HOLE)), "scan"], 100, NO_COLOR="1")
    assert "error" in text
    assert "\x1b[3" not in text


def test_progress_goes_to_a_terminal_only(cli: Cli, unpacked: Unpacked) -> None:
    assert cli("-c", unpacked(AMD64_HEALTHY), "scan").err == ""
    assert "struct pages" in on_terminal(["-c", str(unpacked(AMD64_HEALTHY)), "scan"], 100)


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
