# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The examples that ``mminspect rules RULE`` shows: findings of stored vmcores, as they are or with a fault planted.

``python -m tests.kit.examples`` writes them to the catalog of rules, mminspect/rules/catalog.json. A test compares that
with the rules and the vmcores.
"""

from __future__ import annotations

import json
import lzma
import tempfile
from pathlib import Path
from typing import Any, Callable, NamedTuple

from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry

from mminspect.findings import SEVERITIES, Finding
from mminspect.rules.base import Rule
from mminspect.rules.registry import all_rules, select_rules
from mminspect.walk.scan import scan
from tests.kit.planted import Fault, a_free_block
from tests.kit.support import (
    AMD64_400M,
    AMD64_DEVDAX,
    AMD64_HEALTHY,
    AMD64_LOW_RAM,
    AMD64_LRU,
    AMD64_NUMA,
    I386_HOLE,
    ROOT,
    VMCORES,
    CoreEditor,
    open_core,
    scan_file,
)

FILE = ROOT / "mminspect" / "rules" / "catalog.json"


class Example(NamedTuple):
    """
    Where an example is from.

    :ivar planted: What was changed, in words; ``None`` if nothing was.
    :ivar plant: Changes it.
    """

    fixture: str
    planted: str | None = None
    plant: Callable[[Fault], None] | None = None


def _contiguous(fault: Fault) -> None:
    fault.editor.write(fault.zone_member(0, 1, "contiguous").address_, b"\1")


def _unreadable(fault: Fault) -> None:
    fault.editor.exclude(fault.page(0x2000), fault.page(0x2040))


def _migratetype(fault: Fault) -> None:
    fault.editor.write_word(fault.prog["mem_section"][0][1].usage.pageblock_flags.address_, (1 << 64) - 1)


def _node_span(fault: Fault) -> None:
    member = fault.prog["node_data"][1].node_spanned_pages
    fault.editor.write_word(member.address_, member.value_() - 512)


def _node_link(fault: Fault) -> None:
    fault.editor.write(fault.zone_member(1, 1, "node").address_, bytes(4))


def _section(fault: Fault) -> None:
    section = fault.prog["mem_section"][0][1].section_mem_map
    fault.editor.write_word(section.address_, section.value_() & ~2)


def _zone_overlap(fault: Fault) -> None:
    member = fault.zone_member(0, 1, "spanned_pages")
    fault.editor.write_word(member.address_, member.value_() + 0x200)


def _cursor(fault: Fault) -> None:
    fault.editor.write_word(fault.zone_member(0, 1, "compact_cached_free_pfn").address_, 0xFFFF888000000000)


def _deferred(fault: Fault) -> None:
    pgdat = fault.prog["node_data"][1]
    middle = pgdat.node_start_pfn.value_() + pgdat.node_spanned_pages.value_() // 2
    fault.editor.write_word(pgdat.first_deferred_pfn.address_, middle)


def _zone_pages(fault: Fault) -> None:
    member = fault.zone_member(0, 1, "present_pages")
    fault.editor.write_word(member.address_, member.value_() + 0x1000000)


def _buddy_page(fault: Fault) -> None:
    offset = fault.prog.type("struct page").member("private").offset
    fault.editor.write_word(fault.page(a_free_block(fault, 3)) + offset, 99)


def _free_page_state(fault: Fault) -> None:
    pfn = a_free_block(fault, 3) + 1
    fault.editor.write_word(fault.page(pfn), fault.flags_of(pfn) | 1)


def _free_list(fault: Fault) -> None:
    area = fault.zone_member(0, 1, "free_area")[10]
    fault.editor.write_word(area.nr_free.address_, area.nr_free.value_() + 1)


def _per_cpu_list(fault: Fault) -> None:
    """Let a page on a list of CPU 0 link to zone DMA."""
    pageset = fault.zone_member(0, 1, "per_cpu_pageset").value_() + fault.prog["__per_cpu_offset"][0].value_()
    lists = Object(fault.prog, "struct per_cpu_pages", address=pageset % (1 << 64)).lists
    page = next(page for head in lists for page in list_for_each_entry("struct page", head.address_of_(), "lru"))
    pfn = int(page.value_() - fault.page(0)) // fault.size
    fault.link(pfn, pfn + 1, 0, 0)


def _compound_page(fault: Fault) -> None:
    """Damage the third page of the first compound page that has four or more."""
    head = 1 << int(fault.prog["PG_head"].value_())
    offset = fault.prog.type("struct page").member("compound_head").offset
    pfn = next(
        pfn
        for pfn in range(0x1000, 0x10000)
        if fault.flags_of(pfn) & head and fault.editor.read(fault.page(pfn + 2) + offset, 1)[0] & 1
    )
    fault.editor.write_word(fault.page(pfn + 2) + offset, 0x1000)


def _unaccepted_list(fault: Fault) -> None:
    """Put a free block of order 10 on the list, and leave it on its free list."""
    zone = fault.zone_member(0, 1, "unaccepted_pages")
    page = fault.page(a_free_block(fault, 10))
    lru = page + fault.prog.type("struct page").member("lru").offset
    for address in (zone.address_, zone.address_ + 8):
        fault.editor.write_word(address, lru)


def _lru_list(fault: Fault) -> None:
    """Set the ``lru.next`` of the third page of inactive file pages to zero."""
    head = fault.prog["root_mem_cgroup"].nodeinfo[0].lruvec.lists[2]
    pages = [page.value_() for page in list_for_each_entry("struct page", head.address_of_(), "lru")]
    fault.editor.write_word(pages[2] + fault.prog.type("struct page").member("lru").offset, 0)


EXAMPLES: dict[str, Example] = {
    "bitmap-bounds": Example(I386_HOLE),
    "buddy-page": Example(AMD64_HEALTHY, "page->private of a free page was set to 99", _buddy_page),
    "compaction-cursor": Example(AMD64_HEALTHY, "compact_cached_free_pfn was overwritten with an address", _cursor),
    "compound-page": Example(AMD64_HEALTHY, "compound_head of a tail was overwritten", _compound_page),
    "contiguous": Example(I386_HOLE, "zone->contiguous of Normal was set", _contiguous),
    "deferred-init": Example(AMD64_NUMA, "first_deferred_pfn of node 1 was set to its middle", _deferred),
    "device-memory": Example(AMD64_DEVDAX),
    "free-list": Example(AMD64_HEALTHY, "nr_free of order 10 was raised by one", _free_list),
    "free-page-state": Example(AMD64_HEALTHY, "PG_locked was set on the second page of a free block", _free_page_state),
    "lru-list": Example(AMD64_LRU, "lru.next of a page of the page cache was set to zero", _lru_list),
    "migratetype": Example(AMD64_HEALTHY, "a word of a section's bitmap was overwritten with ones", _migratetype),
    "mixed-zone": Example(I386_HOLE),
    "node-link": Example(AMD64_NUMA, "zone->node of node 1's DMA32 was set to 0", _node_link),
    "node-span": Example(AMD64_NUMA, "node_spanned_pages of node 1 was made smaller by 512", _node_span),
    "per-cpu-list": Example(AMD64_HEALTHY, "a page on a list of CPU 0 was made to link to another zone", _per_cpu_list),
    "section": Example(AMD64_HEALTHY, "SECTION_HAS_MEM_MAP of an online section was cleared", _section),
    "unaccepted-list": Example(AMD64_400M, "a free block was put on the list of unaccepted memory", _unaccepted_list),
    "uninitialized": Example(I386_HOLE),
    "unreadable": Example(AMD64_HEALTHY, "64 struct pages were taken out of the dump", _unreadable),
    "zone-id": Example(AMD64_400M),
    "zone-overlap": Example(AMD64_NUMA, "spanned_pages of node 0's DMA32 was raised by 512", _zone_overlap),
    "zone-pages": Example(AMD64_HEALTHY, "present_pages of DMA32 was raised above spanned_pages", _zone_pages),
    "zone-span": Example(AMD64_LOW_RAM),
}


def make(rule: str, path: Path) -> dict[str, Any]:
    """
    Make an example.

    :param path: A copy of the rule's vmcore, which is changed.
    """
    example = EXAMPLES[rule]
    if example.plant is not None:
        kernel = open_core(path)
        fault = Fault(example.fixture, CoreEditor(path), kernel.prog, scan(kernel, []))
        example.plant(fault)
    report = scan(open_core(path), select_rules([rule])) if all_rules()[rule].on_request else scan_file(path)
    found: list[Finding] = [f for f in report.findings if f.rule == rule]
    worst = max(found, key=lambda finding: SEVERITIES.index(finding.severity))
    made = {"fixture": f"{example.fixture}.xz", "planted": example.planted, "finding": worst.as_dict()}
    result: dict[str, Any] = json.loads(json.dumps(made))
    # What follows from it depends on more than the rule.
    result["finding"]["detail"].pop("consequences", None)
    return result


def entry(rule: Rule, example: dict[str, Any] | None) -> dict[str, Any]:
    """Make a rule's entry in the catalog."""
    return {
        "id": rule.id,
        "summary": rule.summary,
        "documentation": rule.documentation.strip(),
        "functions": list(rule.functions),
        "commits": [commit._asdict() for commit in rule.commits],
        "example": example,
    }


def main() -> None:
    """Write the file."""
    made = {}
    for rule, example in EXAMPLES.items():
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "core"
            path.write_bytes(lzma.decompress((VMCORES / f"{example.fixture}.xz").read_bytes()))
            made[rule] = make(rule, path)
            print(rule, made[rule]["finding"]["message"])
    entries = [entry(rule, made.get(rule.id)) for rule in all_rules().values()]
    FILE.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
