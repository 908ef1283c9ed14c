# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage of one vmcore, from opening it to the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mminspect.commands.triage import in_memory
from mminspect.commands.triage.about import About, about_pages
from mminspect.commands.triage.alone import NO_CRASH, SCHEMA, UNKNOWN, is_bare, report_dict
from mminspect.commands.triage.boot import Boot, boot_of, read_boots
from mminspect.commands.triage.dump_log import DumpLog, read_dump_log, with_log
from mminspect.commands.triage.lines import Log
from mminspect.commands.triage.pages import Pages
from mminspect.commands.triage.places import place_in
from mminspect.commands.triage.report import DEADLY, Report, crash_of
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.saved import saved_registers
from mminspect.commands.triage.verdict import EXPLAINED, OTHER, POSSIBLE, UNEXPLAINED, Verdict, judge
from mminspect.findings import Finding
from mminspect.findings import Report as ScanReport
from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import Resource, resource_path
from mminspect.walk.scan import scan

# Seconds from a report to the log's end, from which on something else killed the kernel that lived through it.
LIVED_ON = 30


def triage(kernel: Kernel, log: Log | None = None) -> dict[str, Any]:
    """
    Find out whether the memory map explains why a kernel died.

    :param log: Its log, in place of that in the dump.
    :return: The result as plain data.
    :raises mminspect.errors.MminspectError: if the vmcore can't be analyzed.
    """
    return triage_scanned(kernel, scan(kernel), log)


def triage_scanned(kernel: Kernel, scanned: ScanReport, log: Log | None = None) -> dict[str, Any]:
    """
    Do the same with a report of all rules that is there.

    :param scanned: The report.
    """
    told = read_dump_log(kernel.target)
    if log is not None:
        told = with_log(told, log)
    lines = told.log.lines
    reports = read_reports(lines)
    crash = crash_of(reports)
    boot = boot_of(read_boots(lines), crash.first if crash is not None else len(lines))
    about: About | None = None
    if crash is None:
        verdict = _without_crash(told)
    else:
        about = about_pages(crash, Pages(kernel.memory).is_struct_page, lines[boot.first : crash.first])
        saved = saved_registers(kernel.target, crash, told.cpu)
        # Resources take their symbols, which take time; only a crash needs them.
        findings = with_resources(scanned, kernel.resources)
        verdict = _judge(crash, about, told, judge(crash, about, findings, kernel.memory, saved))
        verdict = _with_places(verdict, kernel)
    release = str(scanned.target["release"])
    if log is not None and boot.release not in (None, release):
        verdict = replace(verdict, why=f"{verdict.why}; the log is of another kernel: {boot.release}, not {release}")
    return _as_dict(scanned, crash, about, reports, _of_target(boot, scanned), verdict)


def _without_crash(told: DumpLog) -> Verdict:
    """Judge a dump whose log has no crash."""
    if told.died:
        what = "shows no crash" if told.read else "can't be read"
        proof = ["look at the CPUs' stacks: crash, or drgn's stack_trace()", *_NEXT]
        return Verdict(UNKNOWN, f"the kernel died: {'; '.join(told.died)}; but the log {what}", proof=proof)
    if not told.read:
        return Verdict(UNKNOWN, "it has no log that can be read, and nothing else tells of a crash", proof=_NEXT)
    return Verdict(NO_CRASH, "the log shows no crash, and no mark in memory does")


_NEXT = ["give the log of the console or of pstore: mminspect triage --log FILE VMCORE"]


def _judge(crash: Report, about: About, told: DumpLog, verdict: Verdict) -> Verdict:
    """Correct a verdict by what the dump as a whole tells."""
    hardware = [*about.hardware, *filter(None, map(_of_hardware, verdict.findings))]
    if hardware:
        evidence = [*verdict.evidence, *({"hardware": text} for text in hardware)]
        why = f"{verdict.why}; looks like hardware: {hardware[0]}"
        verdict = replace(verdict, why=why, evidence=evidence)
    if is_bare(crash) and verdict.verdict in (OTHER, UNEXPLAINED):
        why = f"the kernel died, and the log doesn't tell of what: {crash.reason}"
        return replace(verdict, verdict=UNKNOWN, why=why, proof=_NEXT)
    if told.died and _lived_on(crash, told):
        why = f"the kernel died ({told.died[0]}), but the log doesn't tell of what; its last report is older: "
        weaker = {EXPLAINED: POSSIBLE, POSSIBLE: POSSIBLE}.get(verdict.verdict, UNKNOWN)
        return replace(verdict, verdict=weaker, why=why + verdict.why)
    return verdict


def _with_places(verdict: Verdict, kernel: Kernel) -> Verdict:
    """Add where the pages lie that are evidence."""
    evidence = [
        {**item, "what": place_in(kernel.memory, kernel.resources, item["pfn"])} if "pfn" in item else item
        for item in verdict.evidence
    ]
    return replace(verdict, evidence=evidence)


def _of_hardware(finding: Finding) -> str | None:
    """Say why a finding looks like a fault of the machine's."""
    difference = finding.detail.get("hardware")
    return (
        f"at pfn {finding.start_pfn:#x}, a word differs in {difference} from what it should be" if difference else None
    )


def _lived_on(crash: Report, told: DumpLog) -> bool:
    """Return whether the kernel lived through a report: it isn't of a death, and others wrote long after it."""
    times = [line.time for line in crash.lines if line.time is not None]
    if crash.gravity >= DEADLY or not times or told.end is None:
        return False
    return crash.fatal is False or told.end - times[-1] > LIVED_ON


def _of_target(boot: Boot, scanned: ScanReport) -> Boot | None:
    """Give a boot the machine and page size of its dump."""
    if not (boot.release or boot.zones or boot.ranges):
        return None
    return boot._replace(machine=str(scanned.target["machine"]), page_size=int(scanned.target["page_size"]))


def with_resources(report: ScanReport, resources: Sequence[Resource]) -> Iterator[Finding]:
    """Add ``detail.in_ram`` to uninitialized pages: whether they are System RAM. Known bugs leave holes only."""
    size = report.target["page_size"]
    for finding in report.findings:
        if in_memory.depends_on_ram(finding) and resources:
            names = resource_path(resources, finding.start_pfn * size)
            finding = replace(finding, detail={**finding.detail, "in_ram": "System RAM" in names})
        yield finding


def _as_dict(
    scanned: ScanReport,
    crash: Report | None,
    about: About | None,
    reports: Sequence[Report],
    boot: Boot | None,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "path": scanned.target["path"],
        "source": "vmcore",
        "target": scanned.target,
        "summary": scanned.summary,
        "zones": scanned.zones,
        "crash": None if crash is None else report_dict(crash, about),
        "reports": [report_dict(report) for report in reports],
        "boot": None if boot is None else boot.as_dict(),
        "verdict": verdict.verdict,
        "why": verdict.why,
        "evidence": verdict.evidence,
        "findings": [finding.as_dict() for finding in verdict.findings],
        "known_bugs": verdict.known,
        "proof": verdict.proof,
    }
