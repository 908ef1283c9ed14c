# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare reports of mminspect."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from contrib.kernels.errors import HarnessError
from contrib.live.rootfs import CHECKOUT

Report = Mapping[str, Any]
SCAN_SECONDS = 600


class Key(NamedTuple):
    """What makes two findings the same."""

    start_pfn: int
    end_pfn: int
    rule: str
    severity: str
    node: int
    zone: str

    def __str__(self) -> str:
        """Return the finding as a message shows it."""
        return f"{self.severity} {self.rule} [{self.start_pfn:#x}, {self.end_pfn:#x}) node {self.node} {self.zone}"


def keys(report: Report) -> set[Key]:
    """Return the findings of a report."""
    return {
        Key(
            finding["start_pfn"],
            finding["end_pfn"],
            finding["rule"],
            finding["severity"],
            -1 if finding["node"] is None else finding["node"],
            finding["zone"] or "",
        )
        for finding in report["findings"]
    }


def strangers(report: Report, *known: Report) -> list[Key]:
    """Return the findings of a report that none of the known reports has."""
    expected = {key for other in known for key in keys(other)}
    return sorted(keys(report) - expected)


def differences(live: Report, dump: Report) -> list[str]:
    """Return how the report of a running kernel differs from the report of its dump."""
    lines = []
    zones = [{(zone["node"], zone["index"]): zone for zone in report["zones"]} for report in (live, dump)]
    for place in sorted({*zones[0], *zones[1]}):
        one, other = zones[0].get(place), zones[1].get(place)
        if one != other:
            lines.append(f"zone {place}: live {one}, dump {other}")
    for name in ("release", "pageblock_order", "memory_model", "bits_per_pageblock", "page_flags_layout"):
        if live["target"][name] != dump["target"][name]:
            lines.append(f"{name}: live {live['target'][name]}, dump {dump['target'][name]}")
    lines += [f"live only: {key}" for key in strangers(live, dump)]
    lines += [f"dump only: {key}" for key in strangers(dump, live)]
    return lines


def scan_dump(dump: Path, arguments: Iterable[str] = ()) -> Report:
    """Return the report of a dump."""
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        out = Path(temporary, "report")
        command = [sys.executable, "-m", "mminspect", "-c", str(dump), "scan", "--format", "json"]
        command += ["--fail-on", "never", "-o", str(out), *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=SCAN_SECONDS)
        if done.returncode:
            raise HarnessError(f"mminspect ended with {done.returncode} on the dump: {done.stderr.strip()}")
        report: Report = json.loads(out.read_text())
        return report
