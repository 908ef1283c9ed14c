# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings that a report leaves out because its reader knows them: by a baseline, by ID, or as known and harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mminspect.commands.saved import load_findings
from mminspect.findings import SEVERITIES, Finding, Report
from mminspect.walk.spill import Findings


class LeftOut(NamedTuple):
    """
    What is left out.

    :ivar baseline: Findings of a baseline: each with ``id``, and optionally ``signature``, ``severity`` and ``reason``.
    :ivar ids: IDs.
    :ivar known: Whether what is known and harmless is.
    """

    baseline: tuple[Mapping[str, Any], ...] = ()
    ids: frozenset[str] = frozenset()
    known: bool = False


def read_baseline(path: str) -> tuple[Mapping[str, Any], ...]:
    """
    Read the findings of a report that count as known.

    :raises MminspectError: if the file is no such report.
    """
    return tuple(load_findings(path))


def leave_out(report: Report, left: LeftOut) -> Report:
    """
    Leave findings out of a report, and say in ``summary.left_out`` how many.

    A finding is in the baseline if one there has its ID and isn't less severe, or else, where pfns moved, its
    signature. Each finding of the baseline stands for one.
    """
    of_baseline = _in_baseline(report.findings, left.baseline) if left.baseline else set()
    reasons = {str(item["id"]): str(item["reason"]) for item in left.baseline if item.get("reason")}
    kept = Findings()
    counts: Counter[str] = Counter()
    said: dict[str, str] = {}
    for number, finding in enumerate(report.findings):
        if number in of_baseline:
            counts["baseline"] += 1
            if finding.id in reasons:
                said[finding.id] = reasons[finding.id]
        elif finding.id in left.ids:
            counts["ids"] += 1
        elif left.known and finding.known is not None and not finding.known["harmful"]:
            counts["known"] += 1
        else:
            kept.add(finding)
    by_rule = {rule: {"findings": 0, "pages": 0} for rule in report.summary["by_rule"]}
    by_rule.update({rule: {"findings": number, "pages": pages} for rule, (number, pages) in kept.by_rule.items()})
    summary = {**report.summary, "by_rule": by_rule, **kept.counts()}
    summary["left_out"] = {**{key: counts[key] for key in ("baseline", "ids", "known")}, "reasons": said}
    return report._replace(summary=summary, findings=kept)


def _in_baseline(findings: Iterable[Finding], baseline: Iterable[Mapping[str, Any]]) -> set[int]:
    """Get the places of the findings that a baseline has."""
    by_id = {item["id"]: item for item in baseline}
    by_signature: Counter[str] = Counter()
    found, used = set(), set()
    for number, finding in enumerate(findings):
        if finding.id in by_id and not _is_worse(finding, by_id[finding.id]):
            found.add(number)
            used.add(finding.id)
    for name, item in by_id.items():
        if name not in used and item.get("signature"):
            by_signature[item["signature"]] += 1
    for number, finding in enumerate(findings):
        if number not in found and by_signature[finding.signature] > 0:
            by_signature[finding.signature] -= 1
            found.add(number)
    return found


def _is_worse(finding: Finding, item: Mapping[str, Any]) -> bool:
    severity = item.get("severity")
    return severity in SEVERITIES and SEVERITIES.index(finding.severity) > SEVERITIES.index(severity)
