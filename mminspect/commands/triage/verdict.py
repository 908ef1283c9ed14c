# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The verdict: does the memory map explain a crash?

Pure functions of a crash and of findings. A crash is blamed on the memory map only where the kernel died in code that
works on struct pages, and named or held a page of a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mminspect.commands.triage import known
from mminspect.commands.triage.lastwords import Crash
from mminspect.consequences.place import REFUSES, SAFE
from mminspect.findings import ERROR, NOTE, TARGET, Finding
from mminspect.memorymap.layout import SPARSEMEM_VMEMMAP
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.structpages import StructPages
from mminspect.rules.registry import all_rules

EXPLAINED = "explained"
POSSIBLE = "possible"
UNEXPLAINED = "unexplained"
OTHER = "other"
NO_CRASH = "no crash"
NO_LOG = "no log"
# Files whose BUG() is about struct pages.
_FILES = re.compile(
    r"mm/(?:page_alloc|compaction|page_isolation|memory_hotplug|sparse|sparse-vmemmap|mm_init|mmzone|internal|migrate|"
    r"page_owner|memremap|hugetlb_vmemmap|vmscan|vmstat|swap|debug)\.[ch]:|include/linux/(?:mm|mmzone|page-flags)\.h:"
)
# Beginnings of functions that walk pfns, or take pages from free lists and give them back; leading underscores apart.
WALKERS = (
    "alloc_pages_bulk",
    "buffered_rmqueue",
    "compact",
    "deferred_init",
    "fast_isolate",
    "free_one_page",
    "free_pages_ok",
    "free_pcppages_bulk",
    "free_unref",
    "get_page_from_freelist",
    "get_pfnblock",
    "has_unmovable_pages",
    "init_single_page",
    "isolate_free",
    "isolate_migratepages",
    "kcompactd",
    "kpage",
    "memmap_init",
    "move_freepages",
    "offline_pages",
    "page_isolation",
    "page_owner",
    "pageblock_pfn_to_page",
    "pagetypeinfo",
    "prep_move_freepages",
    "read_page_owner",
    "reserve_bootmem_region",
    "reset_isolation",
    "rmqueue",
    "scan_movable_pages",
    "set_migratetype_isolate",
    "set_pageblock",
    "set_pfnblock",
    "shrink_zone_span",
    "split_free_page",
    "stable_page_flags",
    "start_isolate_page_range",
    "steal_suitable_fallback",
    "test_pages_isolated",
    "try_to_claim_block",
    "undo_isolate_page_range",
    "unreserve_highatomic_pageblock",
    "unset_migratetype_isolate",
    "update_pageblock_skip",
)
# Frames of a trace, from the innermost, among which a walker must be.
NEAR = 4
# Smaller numbers in registers are rarely pfns.
MIN_PFN = 0x1000
NAMED, HELD, SAVED = "named", "held", "may have held"
# Kinds of crash that are about struct pages by themselves.
ABOUT_PAGES = ("vm-bug-on", "bad-page", "page-dumped", "outside-zone")


@dataclass
class Verdict:
    """
    What is to be said of a crash.

    :ivar verdict: ``explained``: the memory map explains it. ``possible``: wrong pages were at hand, but the kernel
        named none. ``unexplained``: it died on struct pages, and the scan finds nothing wrong with those it named, or
        just what does no harm to the function that died.
        ``other``: not about the memory map. ``no crash``. ``no log``: nobody can tell whether it crashed.
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


def is_walker(function: str) -> bool:
    """Tell whether a function walks pfns or free lists."""
    return function.lstrip("_").startswith(WALKERS)


def about_pages(crash: Crash) -> str | None:
    """Say why a crash is about struct pages; ``None`` if it isn't."""
    if crash.kind in ABOUT_PAGES:
        return "the kernel dumped a page"
    if crash.kind == "bug-at" and _FILES.search(crash.what):
        return f"BUG in {crash.what}"
    near = [name for name in (crash.function, *crash.trace[:NEAR]) if name]
    walker = next((name for name in near if is_walker(name)), None)
    if walker is not None and crash.kind in ("fault", "oops", "bug-at", "list", "hang"):
        return f"it died in {walker}(), which works on struct pages"
    return None


class Pages:
    """
    Turns addresses into pfns.

    :param memory: The kernel's memory map.
    """

    def __init__(self, memory: MemoryMap) -> None:
        layout = memory.layout
        self._vmemmap = layout.memory_model == SPARSEMEM_VMEMMAP
        shift = layout.pfn_section_shift
        self._section = None if shift is None else 1 << shift
        self._struct_pages = StructPages(memory)

    def pfn(self, address: int) -> int | None:
        """Get the pfn of the struct page that an address is in."""
        found = self._struct_pages.find(address)
        return None if found is None else found.pfn

    def is_start(self, address: int) -> bool:
        """
        Tell whether an address is where a memmap starts: code that turns pfns into struct pages holds it for any pfn.

        That is the first entry of a section, with SPARSEMEM_VMEMMAP of pfn 0, with FLATMEM of the only memmap.
        """
        found = self._struct_pages.find(address)
        if found is None or found.offset:
            return False
        if self._vmemmap:
            return found.pfn == 0
        return found.pfn == found.first if self._section is None else found.pfn % self._section == 0


def _named(crash: Crash, saved: dict[str, int], memory: MemoryMap) -> list[tuple[int, str, str]]:
    """List (pfn, where it is from, how sure) of the pages that a crash names, each once."""
    pages = Pages(memory)
    found: dict[int, tuple[str, str]] = {}
    for pfn, text in crash.pfns.items():
        found.setdefault(pfn, (f"named: {text}", NAMED))
    for address, text in crash.pointers.items():
        at = pages.pfn(address)
        if at is not None:
            found.setdefault(at, (f"{address:#x} in: {text}", NAMED))
    for name, value in crash.registers.items():
        at = pages.pfn(value)
        if at is None and value in found and value >= MIN_PFN:
            text, how = found[value]
            found[value] = (f"{text}; register {name} = {value:#x}", how)
        elif at is not None and not pages.is_start(value):
            found.setdefault(at, (f"register {name} = {value:#x}", HELD))
    for name, value in crash.registers.items():
        at = pages.pfn(value)
        if at is not None:
            # Those that are no start are there already.
            found.setdefault(at, (f"register {name} = {value:#x}, perhaps just the start of the memmap", SAVED))
    for name, value in saved.items():
        at = pages.pfn(value)
        if at is not None:
            found.setdefault(at, (f"saved register {name} = {value:#x}", SAVED))
    for kind, registers in (("register", crash.registers), ("saved register", saved)):
        for name, value in registers.items():
            if value >= MIN_PFN and memory.section(value) is not None:
                found.setdefault(value, (f"{kind} {name} = {value:#x}, perhaps a pfn", SAVED))
    return [(pfn, text, how) for pfn, (text, how) in found.items()]


def useful_registers(saved: dict[str, int], memory: MemoryMap) -> dict[str, int]:
    """Choose the registers that a verdict can use: those that hold a struct page's address, or what can be a pfn."""
    pages = Pages(memory)
    return {
        name: value
        for name, value in saved.items()
        if pages.pfn(value) is not None or (value >= MIN_PFN and memory.section(value) is not None)
    }


def _explains(finding: Finding) -> bool:
    return finding.severity != NOTE and all_rules()[finding.rule].explains is not None


def judge(
    crash: Crash | None,
    findings: Iterable[Finding],
    memory: MemoryMap,
    log: bool = True,
    saved: dict[str, int] | None = None,
) -> Verdict:
    """
    Compare a crash with the findings of a scan.

    :param crash: ``None`` if the log shows none.
    :param findings: Gone through once; there may be very many.
    :param log: Whether there is a log at all.
    :param saved: Registers that the dump saved of the CPU that crashed. They make no verdict better than possible.
    """
    if not log:
        return Verdict(NO_LOG, "it has no log that can be read; a capture keeps only the report of a crash")
    if crash is None:
        return Verdict(NO_CRASH, "the log shows no crash")
    reason = about_pages(crash)
    named = _named(crash, saved or {}, memory)
    values = {value: f"register {name}" for name, value in crash.registers.items()}
    values.update(crash.pointers)
    around: dict[int, list[Finding]] = {pfn: [] for pfn, _, _ in named}
    hits: list[Finding] = []
    errors = harmless = 0
    notes: dict[int, list[str]] = {}
    for finding in findings:
        if finding.severity == NOTE:
            for pfn in around:
                if finding.about != TARGET and finding.begins_at(pfn):
                    notes.setdefault(pfn, []).append(f"{finding.rule} {finding.message}")
        if not _explains(finding):
            continue
        if finding.severity == ERROR and is_harmless(finding, crash.function):
            harmless += 1
        else:
            errors += finding.severity == ERROR
        for pfn, inside in around.items():
            if not finding.of_zone and finding.covers(pfn):
                inside.append(finding)
        # An access outside of a bitmap, by the address of a fault or of a register.
        if finding.detail.get("address") in values:
            hits.append(finding)
    evidence: list[dict[str, Any]] = []
    explaining: list[Finding] = []
    sure = bool(hits)
    weak: list[tuple[dict[str, Any], list[Finding]]] = []
    for pfn, source, how in named:
        inside = around[pfn]
        if how == SAVED:
            wrong = [f for f in inside if f.severity == ERROR and f.is_wrong_at(pfn)] if reason is not None else []
            wrong = [f for f in wrong if not is_harmless(f, crash.function)]
            if wrong:
                rules = sorted({f.rule for f in wrong})
                weak.append(({"pfn": pfn, "from": source, "how": how, "rules": rules}, wrong))
            continue
        evidence.append({"pfn": pfn, "from": source, "how": how, "rules": sorted({f.rule for f in inside})})
        if pfn in notes:
            evidence[-1]["notes"] = notes[pfn]
        # A block that is mixed says nothing of the pages in it that are right.
        wrong = [f for f in inside if f.is_wrong_at(pfn)] if reason is not None else []
        # A register may hold a page that has nothing to do with it, where another function works on pages.
        by_this = how == NAMED or is_walker(crash.function or "")
        wrong = [f for f in wrong if by_this or not is_harmless(f, crash.function)]
        explaining += [f for f in wrong if f not in explaining]
        sure |= bool(wrong) and by_this
    for finding in hits:
        address = int(finding.detail["address"])
        evidence.append({"address": address, "from": values[address], "how": HELD, "rules": [finding.rule]})
        explaining += [] if finding in explaining else [finding]
    if not explaining:
        for item, wrong in weak:
            evidence.append(item)
            explaining += [f for f in wrong if f not in explaining]
    if explaining:
        verdict = _explained(crash, explaining, evidence, memory, reason or "it used memory outside of a bitmap")
        return verdict if sure else replace(verdict, verdict=POSSIBLE)
    if reason is None:
        return Verdict(OTHER, f"{_other(crash)}; no page of a finding was at hand", evidence)
    if evidence:
        what = "no more than notes of" if any("notes" in item for item in evidence) else "nothing wrong with"
        why = f"{reason}, but the scan finds {what} the pages that it named or held"
        return Verdict(UNEXPLAINED, why, evidence, proof=["look at these pages: mminspect page PFN"])
    if errors:
        why = f"{reason}, and there are {errors} errors in the memory map, but the kernel named no page of them"
        return Verdict(POSSIBLE, why, evidence, proof=["find the page in the registers or the stack with drgn"])
    if harmless:
        why = (
            f"{reason}, but the scan finds nothing wrong that does harm there: by their consequences, the function "
            f"that died is safe from the {harmless} errors in the memory map"
        )
        return Verdict(UNEXPLAINED, why, evidence)
    return Verdict(UNEXPLAINED, f"{reason}, but the scan finds nothing wrong", evidence)


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


def _other(crash: Crash) -> str:
    where = f" in {crash.function}()" if crash.function else ""
    return f"{crash.what}{where}: not about struct pages"


def _function(crash: Crash, finding: Finding) -> str:
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
    crash: Crash, findings: list[Finding], evidence: list[dict[str, Any]], memory: MemoryMap, reason: str
) -> Verdict:
    rules = all_rules()
    findings = sorted(findings, key=lambda f: (rules[f.rule].explains or 0, f.start_pfn))
    worst = findings[0]
    item = next(item for item in evidence if worst.rule in item["rules"])
    what = f"pfn {item['pfn']:#x}" if "pfn" in item else f"address {item['address']:#x}"
    place = f"{worst.rule} [{worst.start_pfn:#x}, {worst.end_pfn:#x})"
    why = f"{reason}; {what}, which it {item['how']}, is in a finding: {place}"
    trace = [name for name in (crash.function, *crash.trace) if name]
    bugs = known.match(findings, memory, trace)
    proof = [str(bug["proof"]) for bug in bugs]
    if any(finding.detail.get("in_ram") for finding in findings):
        proof.append(
            "boot initializes the struct pages of System RAM, and these pfns are: something wrote over them later; "
            "KASAN or a watchpoint shows what"
        )
    elif not bugs:
        proof.append("no known bug leaves this; compare with a dump of the same machine when it was healthy")
    return Verdict(EXPLAINED, why + _function(crash, worst), evidence, findings, bugs, proof)
