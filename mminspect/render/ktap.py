# SPDX-License-Identifier: LGPL-2.1-or-later
"""KTAP, version 1: a test a rule, as kselftest and the CI of kernels read it."""

from __future__ import annotations

from typing import IO

from mminspect.findings import SEVERITIES, Finding, Report
from mminspect.program.text import one_line
from mminspect.render.style import Style
from mminspect.render.table import hex_range, plural

# Lines of findings for one rule.
MAX_LINES = 20


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write whether each rule found something at or above the severity that fails."""
    skipped = report.summary.get("skipped", {})
    rules = list(report.summary["by_rule"])
    failing = SEVERITIES[SEVERITIES.index(style.fail_on) :] if style.fail_on in SEVERITIES else ()
    shown: dict[str, list[Finding]] = {rule: [] for rule in rules}
    counts = dict.fromkeys(rules, 0)
    for finding in report.findings:
        if finding.severity in failing:
            counts[finding.rule] += 1
            if counts[finding.rule] <= MAX_LINES:
                shown[finding.rule].append(finding)
    out.write(f"KTAP version 1\n# {_text(_about(report))}\n")
    if "incomplete" in report.target:
        out.write(f"# not whole: {_text(report.target['incomplete'])}\n")
    out.write(f"1..{len(rules)}\n")
    for number, rule in enumerate(rules, 1):
        for finding in shown[rule]:
            pfns = hex_range(finding.start_pfn, finding.end_pfn)
            out.write(f"# {finding.severity} {pfns}: {_text(finding.message)}\n")
        if counts[rule] > MAX_LINES:
            out.write(f"# {plural(counts[rule] - MAX_LINES, 'more finding')}\n")
        result = "not ok" if counts[rule] else "ok"
        why = f" # SKIP {_text(skipped[rule])}" if rule in skipped and not counts[rule] else ""
        out.write(f"{result} {number} {rule}{why}\n")


def _about(report: Report) -> str:
    target = report.target
    return f"mminspect: {target['release']} {target['machine']}, {report.summary['pages_examined']:,} pages"


def _text(text: str) -> str:
    """Show text that must not look like a directive."""
    return one_line(text).replace("#", "\\#")
