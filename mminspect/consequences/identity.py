# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tells a finding from others: in one kernel's memory map, and as a fault on different machines.

- ``id`` is the same for the same pages of the same zone, whatever is said of them.
- ``signature`` is the same for the same fault, and has nothing that differs between machines: no pfn, no address, no
  number of a node.
"""

from __future__ import annotations

from typing import Any

from mminspect.consequences.place import Outcome
from mminspect.findings import Finding
from mminspect.memmap.chunk import INITIALIZED, OFFLINE, UNINITIALIZED_KINDS
from mminspect.memmap.page import Page
from mminspect.memorymap.map import MemoryMap

# What tells findings of one rule about the same pages apart, as far as the rule has it in ``detail``.
TELLS_APART = ("problem", "kind", "why", "cpu", "order", "list", "member", "section", "zones")
# Of these, what is the same on every machine; the first that a finding has.
KINDS = ("problem", "kind", "why")
NOTHING = "-"


def finding_id(finding: Finding) -> str:
    """Make a finding's ID: its rule, and a hash of rule, node, zone and pfns."""
    apart = {key: finding.detail[key] for key in TELLS_APART if key in finding.detail}
    parts = [finding.rule, finding.node, finding.zone, finding.start_pfn, finding.end_pfn, apart]
    # It loads OpenSSL, which whoever finds nothing doesn't need.
    import hashlib

    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"{finding.rule}-{digest[:12]}"


def signature(finding: Finding, severity: str, memory: MemoryMap, state: str, deciding: Outcome | None) -> str:
    """
    Make a finding's signature: rule, severity, kind, zones, alignment of start and end, state, deciding outcome.

    :param severity: After the consequences.
    :param state: What :func:`state_of` returns of the page by which it is judged.
    :param deciding: The outcome that decides on its severity, if one does.
    """
    edges = f"{_alignment(memory, finding.start_pfn)}..{_alignment(memory, finding.end_pfn)}"
    decided = f"{deciding.function}={deciding.outcome}" if deciding is not None else NOTHING
    parts = (finding.rule, severity, _kind(finding, memory), _zones(finding, memory), edges, state, decided)
    return "/".join(parts).replace(" ", "-")


def _kind(finding: Finding, memory: MemoryMap) -> str:
    detail = finding.detail
    for key in KINDS:
        if key in detail:
            return str(detail[key])
    # Rules that have no such key say it in others.
    if "hidden" in detail:
        return "hidden" if detail["hidden"] else "open"
    if "zone_id" in detail:
        return "stale" if detail["stale"] else f"id-{detail['zone_id']}-of-{memory.layout.max_nr_zones}"
    if "missing" in detail:
        return "missing" if detail["missing"] else "outside"
    if "spanned_by" in detail:
        return "inside" if detail["spanned_by"] else "nowhere"
    return str(detail.get("member", NOTHING))


def _zones(finding: Finding, memory: MemoryMap) -> str:
    """Name the zones that a finding is about, in the order of their pfns; each name once."""
    links = [tuple(run[2:]) for run in finding.detail.get("runs", ())]
    if not links:
        pairs: list[Any] = [finding.detail.get("linked"), *finding.detail.get("spanned_by", ())]
        links = [tuple(pair) for pair in pairs if isinstance(pair, list)]
    if not links:
        return finding.zone or NOTHING
    names = []
    # Most findings are about one or two zones.
    for link in dict.fromkeys(links):
        zone = memory.zone(*link)
        name = zone.name if zone is not None else "none"
        if name not in names:
            names.append(name)
    return "+".join(names)


def _alignment(memory: MemoryMap, pfn: int) -> str:
    shift = memory.layout.pfn_section_shift
    if shift is not None and not pfn & (1 << shift) - 1:
        return "section"
    return "page" if pfn & memory.layout.pageblock_nr_pages - 1 else "pageblock"


def state_of(page: Page | None) -> str:
    """Name what of a page lasts: whether it is free at the moment, is different from dump to dump."""
    if page is None:
        return NOTHING
    if page.state == INITIALIZED:
        return "reserved" if page.reserved else "unreserved"
    return "offline" if page.state == OFFLINE else UNINITIALIZED_KINDS[page.state]
