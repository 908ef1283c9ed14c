# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Known bugs in memory: each is recognized by what it leaves there, never by the kernel's version.

Vendors fix bugs without changing the number, and put new ones into old kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from mminspect.commands.triage.bugs import as_dict, bug_of
from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.quirks import links_hole_to_zone_0, zone_id_behind

# What says that a kernel has a bug, where its memory does.
SHOWN = "memory shows it"
COMPACTION = ("compaction", "compact_zone", "kcompactd", "isolate_freepages", "fast_isolate", "isolate_migratepages")


def _hole_to_zone_0(finding: Finding, memory: MemoryMap) -> str:
    if not links_hole_to_zone_0(finding):
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
    if finding.rule != "zone-id" or zone_id_behind(finding, memory) != (True, False):
        return ""
    return (
        "reserved pages outside of every zone have the zone ID one behind the last: init_reserved_page() found no zone "
        "that spans them"
    )


def _device_tails(finding: Finding, memory: MemoryMap) -> str:
    if finding.rule != "device-memory" or finding.detail.get("problem") != "uninitialized":
        return ""
    if (finding.detail.get("compound") or 1) < 2:
        return ""
    return "struct pages at the end of compound pages of device memory were never initialized for it"


# What shows each bug, and where it kills: beginnings of functions, or nothing if anywhere.
_SIGNS: tuple[tuple[str, Callable[[Finding, MemoryMap], str], tuple[str, ...]], ...] = (
    ("holes-in-zone-0", _hole_to_zone_0, ()),
    ("unwritten-holes", _zeroed_hole, ()),
    ("partial-last-section", _tail_of_section, ()),
    ("descending-nodes", _descending_nodes, ()),
    ("reserved-memory-in-no-node", _no_such_node, ()),
    ("section-without-usage", _no_usage, ()),
    ("fast-isolate-around-leaves-zone", _mixed_hidden, COMPACTION),
    ("device-tail-pages", _device_tails, ()),
    ("reserved-page-in-no-zone", _behind_the_last_zone, ()),
)


def depends_on_ram(finding: Finding) -> bool:
    """Tell whether a bug's evidence asks for ``detail.in_ram``: whether the pages are System RAM."""
    return finding.rule == "uninitialized"


def match(findings: Sequence[Finding], memory: MemoryMap, trace: Sequence[str]) -> list[dict[str, Any]]:
    """
    Find the known bugs that findings look like.

    :param findings: Those that explain a crash.
    :param trace: Functions of the crash, innermost first.
    :return: Plain data, as the report has it.
    """
    result: list[dict[str, Any]] = []
    for name, evidence, functions in _SIGNS:
        if functions and not any(function.lstrip("_").startswith(functions) for function in trace):
            continue
        shown = next((text for text in (evidence(finding, memory) for finding in findings) if text), None)
        bug = bug_of(name)
        if shown is not None and bug is not None:
            result.append({"name": bug.title, **as_dict(bug), "evidence": shown, "status": SHOWN})
    return result
