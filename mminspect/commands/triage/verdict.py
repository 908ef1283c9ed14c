# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The verdict on a dump: does the memory map explain a crash?

Pure functions of a report and of findings. A crash is blamed on the memory map only where the kernel died on struct
pages, and named or held a page of a finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mminspect.commands.triage import in_memory
from mminspect.commands.triage.about import About
from mminspect.commands.triage.functions import is_of_struct_pages
from mminspect.commands.triage.pages import HELD, NAMED, SAVED, Pages, named_pages, registers_of
from mminspect.commands.triage.report import Report
from mminspect.consequences.place import REFUSES, SAFE
from mminspect.findings import ERROR, NOTE, TARGET, Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.registry import all_rules

EXPLAINED = "explained"
POSSIBLE = "possible"
UNEXPLAINED = "unexplained"
OTHER = "other"


@dataclass(frozen=True)
class Verdict:
    """
    What is to be said of a crash.

    :ivar verdict: ``explained``: the memory map explains it. ``possible``: wrong pages were at hand, but the kernel
        named none. ``unexplained``: it died on struct pages, and the scan finds nothing wrong with those it named, or
        just what does no harm to the function that died. ``other``: not about the memory map.
    :ivar why: In one sentence.
    :ivar evidence: Pages and addresses, each with where it is from and the rules of the findings it is in. ``notes``
        are the notes that begin at the page or name it; they make no verdict.
    :ivar findings: Those that explain the crash.
    :ivar known: Known bugs that it looks like.
    :ivar proof: What would prove it.
    """

    verdict: str
    why: str
    evidence: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    """
    What the findings say of the pages at hand.

    :ivar around: The findings that each page is in.
    :ivar notes: Texts of notes about each page.
    :ivar hits: Accesses outside of a bitmap, at an address of the crash.
    :ivar errors: How many others there are that may do harm where the kernel died.
    :ivar harmless: How many that do none there.
    """

    around: dict[int, list[Finding]]
    notes: dict[int, list[str]] = field(default_factory=dict)
    hits: list[Finding] = field(default_factory=list)
    errors: int = 0
    harmless: int = 0


def judge(
    crash: Report,
    about: About,
    findings: Iterable[Finding],
    memory: MemoryMap,
    saved: dict[str, int] | None = None,
) -> Verdict:
    """
    Compare a crash with the findings of a scan.

    :param about: Whether the crash is about struct pages.
    :param findings: Gone through once; there may be very many.
    :param saved: Registers that the dump saved of the CPU that crashed. They make no verdict better than possible.
    """
    named = named_pages(crash, saved or {}, memory, Pages(memory))
    values = {value: f"register {name}" for name, value in registers_of(crash).items()}
    values.update(crash.addresses)
    if crash.fault_address is not None:
        values.setdefault(crash.fault_address, "the address of the fault")
    seen = _look(crash, findings, [pfn for pfn, _, _ in named], values)
    evidence: list[dict[str, Any]] = []
    explaining: list[Finding] = []
    sure = bool(seen.hits)
    weak: list[tuple[dict[str, Any], list[Finding]]] = []
    for pfn, source, how in named:
        inside = seen.around[pfn]
        # A block that is mixed says nothing of the pages in it that are right.
        wrong = [f for f in inside if f.is_wrong_at(pfn)] if about.about else []
        if how == SAVED:
            wrong = [f for f in wrong if f.severity == ERROR and not is_harmless(f, crash.function)]
            if wrong:
                rules = sorted({f.rule for f in wrong})
                weak.append(({"pfn": pfn, "from": source, "how": how, "rules": rules}, wrong))
            continue
        evidence.append({"pfn": pfn, "from": source, "how": how, "rules": sorted({f.rule for f in inside})})
        if pfn in seen.notes:
            evidence[-1]["notes"] = seen.notes[pfn]
        # A register may hold a page that has nothing to do with it, where another function works on pages.
        by_this = how == NAMED or is_of_struct_pages(crash.function or "")
        wrong = [f for f in wrong if by_this or not is_harmless(f, crash.function)]
        explaining += [f for f in wrong if f not in explaining]
        sure |= bool(wrong) and by_this
    for finding in seen.hits:
        address = int(finding.detail["address"])
        evidence.append({"address": address, "from": values[address], "how": HELD, "rules": [finding.rule]})
        explaining += [] if finding in explaining else [finding]
    if not explaining:
        for item, wrong in weak:
            evidence.append(item)
            explaining += [f for f in wrong if f not in explaining]
    if explaining:
        reason = about.why if about.about else "it used memory outside of a bitmap"
        verdict = _explained(crash, explaining, evidence, memory, reason)
        return verdict if sure else replace(verdict, verdict=POSSIBLE)
    return _unexplained(crash, about, evidence, seen)


def _look(crash: Report, findings: Iterable[Finding], pfns: list[int], values: dict[int, str]) -> _Seen:
    """Go through the findings."""
    seen = _Seen({pfn: [] for pfn in pfns})
    for finding in findings:
        if finding.severity == NOTE:
            for pfn in seen.around:
                if finding.about != TARGET and finding.begins_at(pfn):
                    seen.notes.setdefault(pfn, []).append(f"{finding.rule} {finding.message}")
        if finding.severity == NOTE or all_rules()[finding.rule].explains is None:
            continue
        if finding.severity == ERROR and is_harmless(finding, crash.function):
            seen.harmless += 1
        else:
            seen.errors += finding.severity == ERROR
        for pfn, inside in seen.around.items():
            if not finding.of_zone and finding.covers(pfn):
                inside.append(finding)
        # An access outside of a bitmap, by the address of a fault or of a register.
        if finding.detail.get("address") in values:
            seen.hits.append(finding)
    return seen


def _unexplained(crash: Report, about: About, evidence: list[dict[str, Any]], seen: _Seen) -> Verdict:
    """Say that no finding explains a crash."""
    if not about.about:
        where = f" in {crash.function}()" if crash.function else ""
        at_hand = sorted({rule for item in evidence for rule in item["rules"]})
        pages = f"; pages of findings were at hand ({', '.join(at_hand)})" if at_hand else "; no page of a finding was"
        what = f"{crash.what or crash.reason}{where}: {about.why}{pages}{'' if at_hand else ' at hand'}"
        return Verdict(OTHER, what, evidence)
    if evidence:
        what = "no more than notes of" if any("notes" in item for item in evidence) else "nothing wrong with"
        why = f"{about.why}, but the scan finds {what} the pages that it named or held"
        return Verdict(UNEXPLAINED, why, evidence, proof=["look at these pages: mminspect page PFN"])
    if seen.errors:
        why = f"{about.why}, and there are {seen.errors} errors in the memory map, but the kernel named no page of them"
        return Verdict(POSSIBLE, why, evidence, proof=["find the page in the registers or the stack with drgn"])
    if seen.harmless:
        why = (
            f"{about.why}, but the scan finds nothing wrong that does harm there: by their consequences, the function "
            f"that died is safe from the {seen.harmless} errors in the memory map"
        )
        return Verdict(UNEXPLAINED, why, evidence)
    return Verdict(UNEXPLAINED, f"{about.why}, but the scan finds nothing wrong", evidence)


def is_harmless(finding: Finding, function: str | None) -> bool:
    """
    Tell whether a finding's consequences rule out that it did harm in a function.

    Where they don't speak of the function, all functions that walk must be safe: ``page_zone()`` counts only where
    somebody hands it the page. Abridged consequences name just what does harm.
    """
    outcomes = {item["function"]: item["outcome"] for item in finding.detail.get("consequences", ())}
    if not outcomes:
        return False
    if function in outcomes:
        return outcomes[function] in (SAFE, REFUSES)
    return all(outcome in (SAFE, REFUSES) for name, outcome in outcomes.items() if name != "page_zone")


def _function(crash: Report, finding: Finding) -> str:
    """Say which function of the crash the finding's consequences speak of."""
    names = [name for name in (crash.function, *crash.trace) if name]
    outcomes = {item["function"]: item for item in finding.detail.get("consequences", ())}
    for name in names:
        item = outcomes.get(name)
        if item is not None and item["outcome"] not in (SAFE, REFUSES):
            # Of very many findings, the reasons are left out.
            why = f": {item['why']}" if "why" in item else ""
            return f"; {name}() there: {item['outcome']}{why}"
    return ""


def _explained(
    crash: Report, findings: list[Finding], evidence: list[dict[str, Any]], memory: MemoryMap, reason: str
) -> Verdict:
    rules = all_rules()
    findings = sorted(findings, key=lambda f: (rules[f.rule].explains or 0, f.start_pfn))
    worst = findings[0]
    item = next(item for item in evidence if worst.rule in item["rules"])
    what = f"pfn {item['pfn']:#x}" if "pfn" in item else f"address {item['address']:#x}"
    place = f"{worst.rule} [{worst.start_pfn:#x}, {worst.end_pfn:#x})"
    why = f"{reason}; {what}, which it {item['how']}, is in a finding: {place}"
    trace = [name for name in (crash.function, *crash.trace) if name]
    bugs = in_memory.match(findings, memory, trace)
    proof = [str(bug["proof"]) for bug in bugs]
    if any(finding.detail.get("in_ram") for finding in findings):
        proof.append(
            "boot initializes the struct pages of System RAM, and these pfns are: something wrote over them later; "
            "KASAN or a watchpoint shows what"
        )
    elif not bugs:
        proof.append("no known bug leaves this; compare with a dump of the same machine when it was healthy")
    return Verdict(EXPLAINED, why + _function(crash, worst), evidence, findings, bugs, proof)
