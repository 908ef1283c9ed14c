# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A memmap that isn't aligned to the struct pages of the compound pages that the kernel makes.

Since Linux 7.1, where hugetlb's vmemmap can be optimized and ``sizeof(struct page)`` is a power of two,
``compound_info`` of a tail holds a mask (``compound_info_has_mask()``), and ``compound_head()`` is the tail's address
under that mask. That is the head only if the struct pages of a compound page are aligned to their size, which follows
from the alignment of ``pfn_to_page(0)``. ``sparse_init()`` checks it with ``VM_WARN_ON_ONCE()``, which is nothing
without CONFIG_DEBUG_VM. Where it isn't so, ``compound_head()`` of the tails of larger compound pages lands in foreign
struct pages, and references are counted there.

Judged are the orders that the buddy allocator has, and that of a pageblock. Gigantic pages are not: which of them
hugetlb has isn't read.

``detail`` has the ``address`` of ``pfn_to_page(0)``, the largest ``order`` whose struct pages are aligned, and the
``needed`` order.

Always an error.

Example: a kernel of 7.1 whose vmemmap begins 32 KiB behind a boundary of 64 KiB: compound pages up to order 9 are
right, those of order 10 have tails that lead before their head.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, TARGET
from mminspect.memorymap.layout import SPARSEMEM_VMEMMAP, TAILS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.structpages import stretches
from mminspect.rules.base import MapCheck, Rule, Violation
from mminspect.rules.commits import commit


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Compare the alignment of the memmap with that of the largest compound page of the allocator."""
    layout = memory.layout
    if not layout.page.compound_mask or layout.memory_model != SPARSEMEM_VMEMMAP:
        return
    needed = max(layout.max_order, layout.pageblock_order)
    seen = set()
    for section in stretches(memory):
        base = section.mem_map & layout.address_mask
        if base in seen or not base % (layout.page.size << needed):
            continue
        seen.add(base)
        order = ((base & -base) // layout.page.size).bit_length() - 1
        fits = f"only compound pages up to order {order}" if order >= 0 else "no compound page"
        yield Violation(
            ERROR,
            f"pfn_to_page(0) is {base:#x}: the struct pages of {fits} are aligned, the allocator has pages of order "
            f"{needed}; compound_head() of a larger one's tail is a foreign struct page",
            {"address": base, "order": max(order, 0), "needed": needed},
            of=memory,
            pages=(section.ranges[0][0], section.ranges[-1][1]),
        )


RULE = Rule(
    summary="a memmap that isn't aligned to its compound pages",
    functions=("compound_head", "page_folio", "set_compound_head", "sparse_init"),
    commits=(
        commit("8c846c879e22", "tails hold a mask, which needs the alignment"),
        commit("9f94db4c7eaa", "the kernel's own check"),
    ),
    about=TARGET,
    needs=(TAILS,),
    explains=4,
    checks=(MapCheck(check),),
)
