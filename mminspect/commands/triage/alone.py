# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The verdict on a log without a dump.

A log can't prove that the memory map is at fault. It can say whether the kernel died on struct pages, where these lie,
which known bugs fit, and what to collect to prove one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import About, about_pages
from mminspect.commands.triage.boot import Boot, boot_of, machine_of, read_boots
from mminspect.commands.triage.bugs import Fit, bugs_of_report
from mminspect.commands.triage.lines import Line, Log
from mminspect.commands.triage.places import Place, link_of, pages_at, place_of
from mminspect.commands.triage.report import ROUTINE, SURVIVABLE, Report, crash_of
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.ruled_out import is_ruled_out

SCHEMA = "mminspect.triage/1"

STRUCT_PAGES = "struct pages"
OTHER = "other"
NO_CRASH = "no crash"
UNKNOWN = "unknown"

# A log that ends with one of these ends because somebody wanted it.
_ORDERLY = re.compile(
    r"reboot: (?:Restarting system|Power down|System halted|machine restart|Starting new kernel)|Restarting system\.|"
    r"kexec_core: Starting new kernel|Power down\.|System halted\.|"
    r"ACPI: (?:PM: )?Preparing to enter system sleep state S5|sd .{1,40}Synchronizing SCSI cache$|systemd-shutdown\["
)
# How near to the end of the log it stands.
_LAST = 40
# Panics that say nothing of their cause.
_BARE = re.compile(
    r"Fatal exception|panic_on_oops|.{0,60}: Fatal exception$|Attempted to kill|Aiee|(?:kernel: )?panic_on_warn set"
)


class LogVerdict(NamedTuple):
    """
    What a log alone tells.

    :ivar verdict: ``struct pages``, ``other``, ``no crash`` or ``unknown``.
    :ivar why: In one sentence.
    :ivar crash: The report of what killed the kernel.
    :ivar about: Whether that is about struct pages, and why.
    :ivar reports: All of the log, oldest first.
    :ivar boot: Of the kernel that died.
    :ivar places: Of the pfns that it named.
    :ivar known_bugs: That fit.
    :ivar proof: What would prove it, and what to collect.
    """

    verdict: str
    why: str
    crash: Report | None = None
    about: About | None = None
    reports: tuple[Report, ...] = ()
    boot: Boot | None = None
    places: tuple[Place, ...] = ()
    known_bugs: tuple[Fit, ...] = ()
    proof: tuple[str, ...] = ()


def judge_log(log: Log, is_struct_page: Callable[[int], bool] | None = None) -> LogVerdict:
    """
    Judge a log alone.

    :param is_struct_page: Whether an address is in a struct page, if a memory map is at hand.
    """
    reports = tuple(read_reports(log.lines))
    boots = read_boots(log.lines)
    crash = crash_of(list(reports))
    # The crash kernel's boot comes behind the crash.
    boot = boot_of(boots, crash.first if crash else len(log.lines))
    told = boot if boot.release or boot.zones or boot.ranges else None
    if crash is None:
        verdict, why = _without_crash(log, reports, boot)
        return LogVerdict(verdict, why, reports=reports, boot=told, proof=_to_collect(None, boot))
    if crash.fatal is None and _orderly_end(log.lines[crash.last + 1 :]):
        crash = replace(crash, fatal=False)
    about = about_pages(crash, is_struct_page, _before(log.lines, boot, crash))
    lived = " (the kernel lived on)" if crash.fatal is False else ""
    if about.hardware:
        lived += f"; looks like hardware: {about.hardware[0]}"
    release = boot.release or _release(crash)
    machine = boot.machine or machine_of(release, (line.text for line in crash.lines))
    fits = bugs_of_report(crash, release, machine, about.about)
    known = tuple(fit for fit in fits if not is_ruled_out(fit.bug.id, boot))
    proofs = tuple(f"{fit.bug.id}: {fit.bug.proof}" for fit in known)
    if about.about:
        known_at = pages_at(boot, machine, crash.addresses)
        evidence = (f"{address:#x} is in the struct page of pfn {pfn:#x}" for pfn, address in known_at.items())
        about = about._replace(evidence=(*about.evidence, *evidence))
        pfns = list(dict.fromkeys((*crash.pages, *known_at)))
        places = tuple(place_of(boot, pfn) for pfn in pfns[:8])
        where = f"; {places[0]}" if places and told else ""
        link = link_of(boot, (line.text for line in crash.lines)) if where else None
        if link and link != (places[0].zone, places[0].node):
            where += f"; its flags link it to {link}"
        why, proof = f"{about.why}{where}{lived}", (*proofs, *_to_collect(crash, boot))
        return LogVerdict(STRUCT_PAGES, why, crash, about, reports, told, places, known, proof)
    if is_bare(crash):
        why = f"the kernel died, and the log doesn't tell of what: {crash.reason}"
        return LogVerdict(UNKNOWN, why, crash, about, reports, told, proof=_to_collect(crash, boot))
    why = f"{crash.reason}: {about.why}{lived}"
    return LogVerdict(OTHER, why, crash, about, reports, told, known_bugs=known, proof=proofs)


def _orderly_end(lines: Sequence[Line]) -> str | None:
    """Return the last line that says that the end was wanted."""
    texts = (line.text.strip() for line in reversed(lines[-_LAST:]))
    return next(filter(_ORDERLY.match, texts), None)


def _before(lines: list[Line], boot: Boot, crash: Report) -> list[Line]:
    return lines[boot.first : crash.first]


def is_bare(crash: Report) -> bool:
    """Return whether a report has nothing but the fact of a death."""
    if crash.kind == kinds.UNKNOWN:
        return True
    return crash.kind == kinds.PANIC and not crash.trace and _BARE.match(crash.what) is not None


def _without_crash(log: Log, reports: tuple[Report, ...], boot: Boot) -> tuple[str, str]:
    orderly = _orderly_end(log.lines)
    grave = [report for report in reports if report.gravity >= SURVIVABLE]
    if boot.whole and log.cut is None and orderly and not grave:
        return NO_CRASH, f"the log is whole, from the boot to its end: {orderly}"
    if not log.lines:
        return UNKNOWN, "the log is empty"
    routine = sum(report.gravity == ROUTINE for report in reports)
    warned = f"; it has {routine} warning{'s' * (routine != 1)} that killed nothing" if routine else ""
    missing = "begins in the middle" if not boot.whole or log.cut else "ends without a shutdown"
    return UNKNOWN, f"no crash is in the log, but it {missing}: the kernel may have died unheard{warned}"


def _release(crash: Report) -> str | None:
    """Return the release that the report's own lines name."""
    for line in crash.lines:
        match = _CPU_RELEASE.search(line.text)
        if match:
            return match.group(1)
    return None


_CPU_RELEASE = re.compile(r"(?:Not tainted|Tainted: [A-Z ]{1,40}?) {0,9}(\d{1,2}\.\d{1,3}\S{0,80})")


def _to_collect(crash: Report | None, boot: Boot) -> tuple[str, ...]:
    """Say exactly what to collect next."""
    wanted = []
    if crash is None:
        wanted.append(
            "the last lines before it died: a serial console, netconsole, or /sys/fs/pstore after the next boot"
        )
    wanted.append("a vmcore (set up kdump), then: mminspect triage VMCORE")
    if crash is not None and crash.pages:
        pfns = ", ".join(hex(pfn) for pfn in list(crash.pages)[:4])
        wanted.append(f"the struct pages of {pfns}: mminspect -c VMCORE page PFN")
    if not boot.zones or not boot.ranges:
        wanted.append("the boot's lines (dmesg or journalctl -k -b from its first line), for zones, nodes and holes")
    if not any(found.source == "iomem" for found in boot.ranges):
        wanted.append("/proc/iomem, read as root, and /proc/zoneinfo of the same machine")
    return tuple(wanted)


def as_dict(path: str, found: LogVerdict) -> dict[str, Any]:
    """Return a verdict as JSON has it."""
    return {
        "schema": SCHEMA,
        "path": path,
        "source": "log",
        "target": None,
        "summary": None,
        "crash": None if found.crash is None else report_dict(found.crash, found.about),
        "reports": [report_dict(report) for report in found.reports],
        "boot": None if found.boot is None else found.boot.as_dict(),
        "verdict": found.verdict,
        "why": found.why,
        "evidence": [
            *({"what": text} for text in (found.about.evidence if found.about else ())),
            *({"hardware": text} for text in (found.about.hardware if found.about else ())),
            *({"pfn": place.pfn, "what": str(place)} for place in found.places),
        ],
        "findings": [],
        "known_bugs": [fit.as_dict() for fit in found.known_bugs],
        "proof": list(found.proof),
    }


def report_dict(report: Report, about: About | None = None) -> dict[str, Any]:
    """Return a report as JSON has it; with ``about``, as the crash."""
    registers = report.registers[0].values if report.registers else {}
    data: dict[str, Any] = {
        "kind": report.kind,
        "reason": report.reason,
        "function": report.function,
        "trace": list(report.trace),
        "stacks": [{"name": stack.name, "functions": list(stack.functions)} for stack in report.stacks],
        "pfns": list(report.pages),
        "addresses": list(report.addresses),
        "registers": registers,
        "lines": [line.text for line in report.lines],
        "cpu": report.cpu,
        "caller": report.caller,
        "time": report.time,
        "fatal": report.fatal,
    }
    if about is not None:
        data["about_struct_pages"] = about.about
    return data
