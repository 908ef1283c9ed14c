# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Known bugs of the memory map, each recognized by what it leaves in memory, never by the kernel's version.

Only verified commits are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.commits import Commit, commit

HOLES_TO_ZONE_0 = commit("73a6e474cb37", "introduced it")
HOLES_OF_NEIGHBORS = commit("0740a50b9baa", "its fix", also="stable kernels of 5.10")
STAY_IN_ZONE = commit("6e2b7044c199", "compaction no longer trusts the first page of a pageblock")
STAY_IN_BOUNDARIES = commit("be21b32afe47", "the same where several zones share a pageblock")
COMPACTION = ("compaction", "compact_zone", "kcompactd", "isolate_freepages", "fast_isolate", "isolate_migratepages")


@dataclass(frozen=True)
class KnownBug:
    """
    A known bug.

    :ivar name: One line.
    :ivar evidence: What a finding must show for it.
    :ivar functions: Beginnings of functions of the trace that make it likelier; empty if any do.
    :ivar proof: What would prove it.
    :ivar commits: The fix first; none for what is no bug by itself.
    """

    name: str
    evidence: Callable[[Finding, MemoryMap], str]
    functions: tuple[str, ...]
    proof: str
    commits: tuple[Commit, ...]


def _hole_to_zone_0(finding: Finding, memory: MemoryMap) -> str:
    detail = finding.detail
    if finding.rule != "zone-span" or detail.get("linked") != [0, 0] or not detail.get("spanned_by"):
        return ""
    if not detail.get("reserved"):
        return ""
    return "reserved pages inside another zone link to zone 0 of node 0, as a hole that nobody gave a zone"


def _zeroed_hole(finding: Finding, memory: MemoryMap) -> str:
    if finding.rule != "uninitialized" or finding.detail.get("kind") != "zeroed" or finding.detail.get("in_ram"):
        return ""
    if not finding.detail.get("spanned_by") or finding.detail.get("in_ram") is None:
        return ""
    return "struct pages of a hole inside a zone are zero: no initializer wrote them"


def _tail_of_section(finding: Finding, memory: MemoryMap) -> str:
    shift = memory.layout.pfn_section_shift
    if finding.rule != "uninitialized" or finding.detail.get("spanned_by") or shift is None:
        return ""
    if finding.end_pfn & ((1 << shift) - 1):
        return ""
    return "struct pages behind the last zone, to the end of its section, were never initialized"


def _descending_nodes(finding: Finding, memory: MemoryMap) -> str:
    detail = finding.detail
    if finding.rule != "zone-span" or not detail.get("spanned_by"):
        return ""
    linked = detail["linked"][0]
    starts = {node.nid: node.start_pfn for node in memory.nodes if node.spanned}
    descending = any(
        starts.get(low, 0) > starts.get(high, 0) for low in starts for high in starts if low < high and starts
    )
    if not descending or all(node == linked for node, _ in detail["spanned_by"]):
        return ""
    return "nodes lie in descending order, and pages of one link to another"


def _no_such_node(finding: Finding, memory: MemoryMap) -> str:
    if finding.rule != "zone-id" or finding.detail.get("stale") or finding.detail.get("zone_struct") is not None:
        return ""
    return "reserved pages link to a node that has no pgdat"


def _no_usage(finding: Finding, memory: MemoryMap) -> str:
    if finding.rule != "bitmap-bounds" or not finding.detail.get("missing") or "section" not in finding.detail:
        return ""
    return "a section is valid and online and has no pageblock bitmap"


def _mixed_hidden(finding: Finding, memory: MemoryMap) -> str:
    if finding.rule != "mixed-zone" or finding.severity == "note":
        return ""
    return "a pageblock has pages of several zones"


def _behind_the_last_zone(finding: Finding, memory: MemoryMap) -> str:
    detail, layout = finding.detail, memory.layout
    if finding.rule != "zone-id" or detail.get("stale") or detail.get("zone_struct") is None:
        return ""
    if detail.get("zone_id") != layout.max_nr_zones or not detail.get("flags", 0) & layout.page.reserved:
        return ""
    if memory.zones_spanning(finding.start_pfn, finding.end_pfn):
        return ""
    return (
        "reserved pages outside of every zone have the zone ID one behind the last: init_reserved_page() found no zone "
        "that spans them"
    )


BUGS = (
    KnownBug(
        "the bug of 2021: holes link to zone 0 of node 0",
        _hole_to_zone_0,
        (),
        "/proc/iomem or the e820 map in the log shows no RAM at these pfns, and the kernel's source has no "
        "init_unavailable_range() that takes a zone and a node",
        (HOLES_OF_NEIGHBORS, HOLES_TO_ZONE_0),
    ),
    KnownBug(
        "holes whose struct pages nobody initialized",
        _zeroed_hole,
        (),
        "/proc/iomem shows no RAM at these pfns",
        (
            HOLES_OF_NEIGHBORS,
            commit("4b094b7851bf", "a real initialization instead of zeros"),
        ),
    ),
    KnownBug(
        "the tail of the last section was never initialized",
        _tail_of_section,
        (),
        "memory ends in the middle of the section",
        (commit("e822969cab48", "its fix"),),
    ),
    KnownBug(
        "nodes in descending order: pages of one taken for holes of another",
        _descending_nodes,
        (),
        "the log's 'Initmem setup node' lines show a node with a higher number at lower addresses",
        (commit("122e093c1734", "its fix"),),
    ),
    KnownBug(
        "reserved memory that is in no node",
        _no_such_node,
        (),
        "memblock=debug shows the range reserved and not in memory",
        (
            commit("6a9531c3a880", "its fix"),
            commit("61167ad5fecd", "introduced it"),
        ),
    ),
    KnownBug(
        "a section without usage",
        _no_usage,
        (),
        "memory was removed shortly before",
        (
            commit("b943f045a9af", "its fix"),
            commit("5ec8e8ea8b77", "the race"),
        ),
    ),
    KnownBug(
        "compaction takes a pageblock for one of its zone by a page that isn't",
        _mixed_hidden,
        COMPACTION,
        "the same crash doesn't happen with compaction off (vm.compaction_proactiveness=0, no huge pages)",
        (STAY_IN_BOUNDARIES, STAY_IN_ZONE),
    ),
    KnownBug(
        "stock kernels leave this too, and live with it (mminspect rules zone-id)",
        _behind_the_last_zone,
        (),
        "a healthy dump of the same machine has the same pages; then look for who freed, mapped or took one",
        (),
    ),
)


def depends_on_ram(finding: Finding) -> bool:
    """Tell whether a bug's evidence asks for ``detail.in_ram``: whether the pages are System RAM."""
    return finding.rule == "uninitialized"


def match(findings: Sequence[Finding], memory: MemoryMap, trace: Sequence[str]) -> list[dict[str, object]]:
    """
    Find the known bugs that findings look like.

    :param findings: Those that explain a crash.
    :param trace: Functions of the crash, innermost first.
    :return: Plain data, as the report has it.
    """
    result: list[dict[str, object]] = []
    for bug in BUGS:
        if bug.functions and not any(name.lstrip("_").startswith(bug.functions) for name in trace):
            continue
        shown = [text for text in (bug.evidence(finding, memory) for finding in findings) if text]
        if shown:
            commits = [commit._asdict() for commit in bug.commits]
            result.append({"name": bug.name, "evidence": shown[0], "proof": bug.proof, "commits": commits})
    return result
