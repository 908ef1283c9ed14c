# SPDX-License-Identifier: LGPL-2.1-or-later
"""One file of a fleet, in a process of its own that gave up its rights: what is kept of it, as plain data."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from mminspect.commands.triage import in_memory
from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.inputs import read_log_file
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.run import triage_scanned, with_resources
from mminspect.commands.zones import zones
from mminspect.errors import MminspectError
from mminspect.findings import NOTE, SEVERITIES
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, open_kernel
from mminspect.program import files, privileges, sandbox
from mminspect.program.text import one_line
from mminspect.rules.registry import all_rules
from mminspect.walk.scan import scan

SCHEMA = "mminspect.fleet/1"
# Findings of a file that are kept, the worst first; the others are counted.
MAX_FINDINGS = 200
FOUR_GIB = 1 << 32
# Comes behind all that explains something.
LEAST = 100
# What is said of files that are neither a vmcore nor a log.
NEITHER = re.compile(r"(not a vmcore|neither a vmcore|is no log|not a log)")


def confine(path: str, size: int, user: str) -> None:
    """
    Give up all that reading a file doesn't need.

    :raises MminspectError: if there is no such user.
    """
    account = privileges.find_user(user) if os.geteuid() == 0 else None
    files.hold(path)
    files.prepare(1)
    sandbox.enter(account if account and account.pw_uid else None, (path,), sandbox.limits_for((size,), False))


def examine(path: str) -> list[dict[str, Any]]:
    """
    Read a file.

    :return: A row for each finding, and at last one for the file.
    """
    try:
        log = read_log_file(path, {})
        if log is not None:
            if not any(line.time is not None for line in log.lines) and not read_reports(log.lines):
                return [{"row": "file", "status": "skipped", "error": "text, but no kernel log"}]
            return _rows(as_dict(path, judge_log(log)), None, [])
        with open_kernel(Inputs(path)) as kernel:
            return _of_kernel(kernel)
    except MminspectError as e:
        # The row has the path.
        error = one_line(str(e).removeprefix(f"{path}: "))
        return [{"row": "file", "status": "skipped" if NEITHER.search(error) else "failed", "error": error}]


def _of_kernel(kernel: Kernel) -> list[dict[str, Any]]:
    report = scan(kernel)
    result = triage_scanned(kernel, report)
    data = zones(kernel)
    found: list[dict[str, Any]] = []
    for severity in reversed(SEVERITIES):
        for finding in report.findings if report.summary["by_severity"][severity] else ():
            if len(found) < MAX_FINDINGS and finding.severity == severity:
                found.append(finding.as_dict())
    layout = layout_in_words(data, int(report.target["page_size"]), kernel.memory.layout.flatmem)
    rows = _rows(result, layout, found)
    if result["crash"] is None:
        # Nothing died of it yet; what memory looks like is known all the same.
        found_here = with_resources(report, kernel.resources)
        wrong = (f for f in found_here if f.severity != NOTE and (f.known is None or f.known["harmful"]))
        bugs = in_memory.match(list(islice(wrong, MAX_FINDINGS)), kernel.memory, ())
        rows[-1]["known"] = list(dict.fromkeys([*rows[-1]["known"], *(bug["id"] for bug in bugs)]))
    rows[-1]["findings_omitted"] = len(report.findings) - len(found)
    rows[-1]["crash_time"] = kernel.target.vmcoreinfo.number("CRASHTIME") or None
    return rows


def _rows(result: Mapping[str, Any], layout: str | None, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    crash, target = result["crash"] or {}, result["target"] or {}
    boot = result["boot"] or {}
    judged = _judged_by(result, found)
    known = [bug["id"] for bug in result["known_bugs"]]
    known += [finding["known"]["id"] for finding in judged if "known" in finding]
    signature = judged[0]["signature"] if judged else None
    rows: list[dict[str, Any]] = [
        {
            "row": "finding",
            **{key: f[key] for key in ("rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "id")},
            "signature": f["signature"],
            "known": f["known"]["id"] if "known" in f else None,
        }
        for f in found
    ]
    rows.append(
        {
            "row": "file",
            "status": "read",
            "source": result["source"],
            "release": target.get("release") or boot.get("release"),
            "machine": target.get("machine") or boot.get("machine"),
            "verdict": result["verdict"],
            "why": result["why"],
            "kind": crash.get("kind"),
            "function": crash.get("function"),
            "signature": signature,
            "known": list(dict.fromkeys(known)),
            "rules": dict(Counter(f["rule"] for f in found if f["severity"] != NOTE)),
            "layout": layout,
            "findings": len(found),
            "incomplete": target.get("incomplete"),
        }
    )
    return rows


def _judged_by(result: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Get the findings that a file is known by: those that explain the crash, or the worst that isn't harmless."""
    if result["findings"]:
        judged: Sequence[Mapping[str, Any]] = result["findings"]
        return judged
    if result["crash"] is not None:
        # It died of something else.
        return []
    wrong = [f for f in found if f["severity"] != NOTE and f.get("known", {}).get("harmful", True)]
    # The worst come first. Of these, what explains most: that a zone isn't contiguous is said of many faults.
    return [min(wrong, key=lambda f: (-SEVERITIES.index(f["severity"]), _rank(f["rule"])))] if wrong else []


def _rank(rule: str) -> int:
    explains = all_rules()[rule].explains
    return LEAST if explains is None else explains


def layout_in_words(data: Mapping[str, Any], page_size: int, flatmem: bool) -> str:
    """
    Say what a machine's memory looks like: nodes, zones, holes, without a size.

    :param flatmem: Whether it is FLATMEM, which has no sections that tell where holes are.
    """
    nodes = len({zone["node"] for zone in data["zones"]})
    names = list(dict.fromkeys(zone["name"] for zone in data["zones"]))
    limit = FOUR_GIB // page_size
    holes = [hole for hole in data["holes"] if hole["end_pfn"] > 1]
    low = any(hole["start_pfn"] < limit for hole in holes)
    high = any(hole["end_pfn"] > limit for hole in holes)
    where = {(True, True): "holes below and above 4 GiB", (True, False): "a hole below 4 GiB"}
    where |= {(False, True): "a hole above 4 GiB", (False, False): "no holes"}
    spans = sorted((zone["start_pfn"], zone["end_pfn"]) for zone in data["zones"])
    overlap = any(before[1] > after[0] for before, after in zip(spans, spans[1:]))
    parts = [f"{nodes} node{'s' * (nodes != 1)}", f"zones {', '.join(names)}"]
    parts += ["FLATMEM"] if flatmem else [where[low, high]]
    return ", ".join([*parts, *(["zones that overlap"] if overlap else [])])
