# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage of one vmcore, from opening it to the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mminspect.commands.triage import known as bugs
from mminspect.commands.triage.lastwords import Crash, parse
from mminspect.commands.triage.log import read_log
from mminspect.commands.triage.saved import saved_registers
from mminspect.commands.triage.verdict import Verdict, judge
from mminspect.findings import Finding, Report
from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import Resource, resource_path
from mminspect.walk.scan import scan

SCHEMA = "mminspect.triage/1"


def triage(kernel: Kernel) -> tuple[dict[str, Any], Report]:
    """
    Find out whether the memory map explains why a kernel died.

    :return: The result as plain data, and the report of the scan.
    :raises mminspect.errors.MminspectError: if the vmcore can't be analyzed.
    """
    report = scan(kernel)
    lines = read_log(kernel.prog)
    crash = parse(lines or [])
    # Resources take their symbols, which take time; only a crash needs them.
    known = kernel.resources if crash is not None else []
    saved = saved_registers(kernel.target, crash) if crash is not None else {}
    verdict = judge(crash, _with_resources(report, known), kernel.memory, bool(lines), saved)
    return _as_dict(report, crash, verdict), report


def _with_resources(report: Report, resources: Sequence[Resource]) -> Iterator[Finding]:
    """Add ``detail.in_ram`` to uninitialized pages: whether they are System RAM. Known bugs leave holes only."""
    size = report.target["page_size"]
    for finding in report.findings:
        if bugs.depends_on_ram(finding) and resources:
            names = resource_path(resources, finding.start_pfn * size)
            finding = replace(finding, detail={**finding.detail, "in_ram": "System RAM" in names})
        yield finding


def _as_dict(report: Report, crash: Crash | None, verdict: Verdict) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "target": report.target,
        "summary": report.summary,
        "crash": None
        if crash is None
        else {
            "kind": crash.kind,
            "reason": crash.reason,
            "function": crash.function,
            "trace": crash.trace,
            "pfns": list(crash.pfns),
            "addresses": list(crash.pointers),
            "registers": crash.registers,
            "lines": [line.text for line in crash.lines],
        },
        "verdict": verdict.verdict,
        "why": verdict.why,
        "evidence": verdict.evidence,
        "findings": [finding.as_dict() for finding in verdict.findings],
        "known_bugs": verdict.known,
        "proof": verdict.proof,
    }
