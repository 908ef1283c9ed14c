# SPDX-License-Identifier: LGPL-2.1-or-later
"""A report for people: what matters first, then the findings, then what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from mminspect.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding, Report
from mminspect.program.text import one_line
from mminspect.render.json_ import dumps
from mminspect.render.style import Style
from mminspect.render.table import (
    hex_range,
    plural,
    severity_of,
    write_consequences,
    write_line,
    write_pairs,
    write_table,
)

# Nobody reads more findings than this in a table.
MAX_FINDINGS = 1000
HARMLESS = "known and harmless on stock kernels"
HARMFUL = "known to do harm on stock kernels"


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write target, verdict, findings, and what to do next."""
    width, target, summary = style.width, report.target, report.summary
    order = target["pageblock_order"]
    write_line(
        f"{target['release']} {target['machine']}, {target['memory_model']}, pages of {target['page_size']}, "
        f"pageblocks of order {order} ({target['pageblock_order_from']}), types from {target['types_from']}",
        out,
        width,
    )
    if "incomplete" in target:
        write_line(f"not whole: {target['incomplete']}", out, width)
    write_line(verdict(summary), out, width)
    out.write("\n")
    shown: list[Finding] = []
    if style.statistics:
        _write_statistics(report.findings, out, width)
    else:
        severities = SEVERITIES if style.notes else (WARNING, ERROR)
        shown = in_order(some(report.findings, summary["by_severity"], severities))
        _write_findings(shown, out, style)
        more = sum(summary["by_severity"].get(severity, 0) for severity in severities) - len(shown)
        if more > 0:
            out.write(f"{plural(more, 'more finding')} not shown; --format json, ndjson or csv has all of them\n\n")
        if style.verbose:
            _write_consequences(shown, out, style)
        if not style.notes:
            _write_note_counts(report.findings, summary["by_severity"].get(NOTE, 0), out, width)
    for line in remarks(summary):
        write_line(line, out, width)
    if style.next_steps and shown:
        out.write("What to do next:\n")
        write_pairs(next_steps(shown, report, style.next_steps), out, width)
        out.write("\n")
    unread = summary["pages_unreadable"]
    write_line(
        f"{plural(summary['pages_examined'], 'page')} in {plural(summary['pageblocks'], 'pageblock')} examined"
        f"{f', {unread:,} unreadable' if unread else ''} in {summary['elapsed_seconds']:.2f} s",
        out,
        width,
    )


def verdict(summary: dict[str, Any]) -> str:
    """Say how many findings there are, and how many of these are known."""
    known = summary.get("known_by_severity", {})
    parts = []
    for severity, number in summary["by_severity"].items():
        counts = known.get(severity, {}) if severity != NOTE else {}
        said = [
            f"{_share(count, number)}{words}"
            for words, count in ((HARMLESS, counts.get("harmless", 0)), (HARMFUL, counts.get("harmful", 0)))
            if count
        ]
        parts.append(", ".join([plural(number, severity), *said]))
    return "; ".join(parts)


def _share(count: int, number: int) -> str:
    """Say how many of some: "" of one, "both " of two, "all " of more, "3 "."""
    return f"{count:,} " if count < number else {1: "", 2: "both "}.get(number, "all ")


def some(findings: Iterable[Finding], counts: dict[str, int], severities: Sequence[str]) -> list[Finding]:
    """Get as many findings as are shown, the worst ones if these aren't all."""
    left = MAX_FINDINGS
    wanted: dict[str, int] = {}
    for severity in reversed(severities):
        wanted[severity] = min(left, counts.get(severity, 0))
        left -= wanted[severity]
    missing = sum(wanted.values())
    found = []
    for finding in findings if missing else ():
        if wanted.get(finding.severity):
            wanted[finding.severity] -= 1
            missing -= 1
            found.append(finding)
            if not missing:
                break
    return found


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings: the worst first, and those of the same cause under each other."""
    causes: dict[tuple[str, str], int] = {}

    def place(finding: Finding) -> tuple[int, int]:
        cause = finding.known["id"] if finding.known is not None else finding.detail.get("cause")
        alone = finding.start_pfn
        first = alone if cause is None else causes.setdefault((finding.severity, dumps(cause)), alone)
        return -SEVERITIES.index(finding.severity), first

    return sorted(findings, key=place)


def _write_findings(findings: Sequence[Finding], out: IO[str], style: Style) -> None:
    if not findings:
        return
    rows = [
        (
            severity_of(finding, style.color),
            finding.rule,
            hex_range(finding.start_pfn, finding.end_pfn),
            one_line(finding.message),
        )
        for finding in findings
    ]
    write_table(rows, ("severity", "rule", "pfns", "message"), out, style.width)
    out.write("\n")


def _write_statistics(findings: Iterable[Finding], out: IO[str], width: int | None) -> None:
    """Write how many findings each rule has of each severity."""
    numbers: Counter[tuple[str, str]] = Counter()
    pages: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        numbers[finding.severity, finding.rule] += 1
        pages[finding.severity, finding.rule] += finding.pages
    keys = sorted(numbers, key=lambda key: (-SEVERITIES.index(key[0]), key[1]))
    if keys:
        rows = [(*key, numbers[key], pages[key]) for key in keys]
        write_table(rows, ("severity", "rule", "findings", "pages"), out, width)
        out.write("\n")


def _write_note_counts(findings: Iterable[Finding], number: int, out: IO[str], width: int | None) -> None:
    """Write how many notes each rule has."""
    if not number:
        return
    rules = Counter(finding.rule for finding in findings if finding.severity == NOTE)
    counts = ", ".join(f"{rule} {count:,}" for rule, count in sorted(rules.items()))
    write_line(f"{plural(number, 'note')}, legal and normal: {counts} (-n shows them)", out, width)
    out.write("\n")


def _write_consequences(findings: Iterable[Finding], out: IO[str], style: Style) -> None:
    """Write what the kernel would do with findings; those with which it does the same together."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.detail.get("consequences"):
            groups.setdefault(dumps(finding.detail["consequences"]), []).append(finding)
    for group in groups.values():
        for finding in group:
            pfns = hex_range(finding.start_pfn, finding.end_pfn)
            out.write(f"{severity_of(finding, style.color)} {finding.rule} {pfns}: what the kernel would do\n")
        write_consequences(group[0].detail["consequences"], out, style.width)
        out.write("\n")


def remarks(summary: dict[str, Any]) -> Iterator[str]:
    """Say what else is to be known of the numbers."""
    if summary.get("transient"):
        yield f"{plural(summary['transient'], 'finding')} omitted: a second read did not confirm them"
    left = summary.get("left_out", {})
    for key, words in (("baseline", "in the baseline"), ("ids", "ignored by ID"), ("known", HARMLESS)):
        if left.get(key):
            yield f"{plural(left[key], 'finding')} left out: {words}"
    for name, reason in left.get("reasons", {}).items():
        yield one_line(f"left out: {name}: {reason}")
    if summary.get("partial"):
        yield "stopped early: not all of memory was examined"


def next_steps(shown: Sequence[Finding], report: Report, command: Sequence[str]) -> dict[str, str]:
    """
    Get commands that tell more, and what they tell.

    :param shown: The findings that are shown, the worst first.
    :param command: How to call mminspect, and the arguments that open the kernel; quoted.
    """
    program, opening = command[0], " ".join(command[1:])
    steps = {}
    # Not all findings are about pages.
    page = next((finding.start_pfn for finding in shown if finding.start_pfn < finding.end_pfn), None)
    if page is not None:
        steps[f"{program} page {page:#x} {opening}".rstrip()] = "all about a page, and what the kernel does there"
    steps[f"{program} rules {shown[0].rule}"] = "what the rule means"
    steps[f"{program} map {opening}".rstrip()] = "where it is in memory"
    if report.target.get("kind") == "vmcore":
        steps[f"{program} triage {opening.replace('-c ', '', 1)}"] = "whether it explains why the kernel died"
    if any(finding.known is not None for finding in shown):
        steps["docs/stock-kernels.md"] = "what stock kernels are known to do"
    return {f"  {name}": words for name, words in steps.items()}
