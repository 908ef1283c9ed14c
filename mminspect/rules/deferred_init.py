# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Nodes whose deferred initialization never finished.

With CONFIG_DEFERRED_STRUCT_PAGE_INIT, the struct pages from ``pgdat->first_deferred_pfn`` to the end of the node wait
for ``deferred_init_memmap()``, a thread per node that ``page_alloc_init_late()`` starts and waits for before the system
runs. It sets ``first_deferred_pfn`` to ULONG_MAX. If that never happened, the rest of the node's memory is lost, and
its struct pages are garbage that ``pfn_valid()`` and ``pfn_to_online_page()`` approve of.

- error: ``system_state`` is beyond SYSTEM_SCHEDULING, so the boot is over.
- note: ``system_state`` isn't known or says that the kernel is booting; then it is normal. Only the thread comes there,
  and ``deferred_grow_zone()`` for an allocation that can't wait: nobody else, as the pages were never freed.

``detail`` has ``first_deferred_pfn`` and ``booted`` (true, false or null).

Example: a dump of two NUMA nodes in which ``first_deferred_pfn`` of node 1 was set to the middle of the node.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import MapCheck, Rule, Violation
from mminspect.rules.commits import commit


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Look at every node."""
    for node in memory.nodes:
        first = node.first_deferred_pfn
        if first is None:
            continue
        if memory.booted:
            why = "though the boot is over: this memory is lost and its struct pages are garbage"
        elif memory.booted is None:
            why = "which is normal during the boot only; whether that is over can't be told here"
        else:
            why = "as the kernel is booting"
        yield Violation(
            ERROR if memory.booted else NOTE,
            f"node {node.nid} has first_deferred_pfn {first:#x}: {node.end_pfn - first} struct pages wait for deferred "
            f"initialization, {why}",
            {"first_deferred_pfn": first, "booted": memory.booted},
            of=node,
            pages=(first, node.end_pfn),
        )


RULE = Rule(
    summary="nodes whose deferred initialization never finished",
    functions=("deferred_init_memmap", "deferred_grow_zone", "page_alloc_init_late", "pfn_to_online_page"),
    commits=(
        commit("dc2da7b45ffe", "what was deferred was computed wrongly since v5.8"),
        commit("a4b0bf6a40f3", "memory was freed before its struct pages were initialized"),
    ),
    checks=(MapCheck(check),),
)
