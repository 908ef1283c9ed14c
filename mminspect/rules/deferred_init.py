# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Nodes whose deferred initialisation never finished.

With CONFIG_DEFERRED_STRUCT_PAGE_INIT, the struct pages from ``pgdat->first_deferred_pfn`` to the end of the node wait
for ``deferred_init_memmap()``, a thread per node that ``page_alloc_init_late()`` starts and waits for before the system
runs. It sets ``first_deferred_pfn`` to ULONG_MAX. If that never happened, the rest of the node's memory is lost, and
its struct pages are garbage that ``pfn_valid()`` and ``pfn_to_online_page()`` approve of.

- error: ``system_state`` is beyond SYSTEM_SCHEDULING, so the boot is over.
- note: ``system_state`` isn't known or says that the kernel is booting; then it is normal.

``detail`` has ``first_deferred_pfn`` and ``booted`` (true, false or null).

Kernel facts: bugs 20, 21 and 22; invariant I9.

Example: a dump of two NUMA nodes in which ``first_deferred_pfn`` of node 1 was set to the middle of the node.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE, Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Commit, Rule, never_described, no_matches


def check_map(memory: MemoryMap) -> Iterator[Finding]:
    """Look at every node."""
    for node in memory.nodes:
        first = node.first_deferred_pfn
        if first is None:
            continue
        end = node.start_pfn + node.spanned
        if memory.booted:
            why = "though the boot is over: this memory is lost and its struct pages are garbage"
        elif memory.booted is None:
            why = "which is normal during the boot only; whether that is over can't be told here"
        else:
            why = "as the kernel is booting"
        yield Finding(
            RULE.id,
            ERROR if memory.booted else NOTE,
            first,
            end,
            node.nid,
            None,
            f"node {node.nid} has first_deferred_pfn {first:#x}: {end - first} struct pages wait for deferred "
            f"initialisation, {why}",
            {"first_deferred_pfn": first, "booted": memory.booted},
        )


RULE = Rule(
    "deferred-init",
    "nodes whose deferred initialisation never finished",
    ("deferred_init_memmap", "deferred_grow_zone", "page_alloc_init_late", "pfn_to_online_page"),
    (
        Commit(
            "dc2da7b45ffe",
            "mm: memmap defer init doesn't work as expected",
            "what was deferred was computed wrongly since v5.8 (v5.11)",
        ),
        Commit(
            "a4b0bf6a40f3",
            "x86/efi: defer freeing of boot services memory",
            "memory was freed before its struct pages were initialised (v7.0)",
        ),
    ),
    no_matches,
    never_described,
    check_map=check_map,
    documentation=__doc__,
)
