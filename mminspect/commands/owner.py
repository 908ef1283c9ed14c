# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who has a page: a free list, a CPU's list, a slab cache, a page table, a file.

All of it is read from memory that may be damaged. What can't be read or makes no sense is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from drgn import FaultError, Object, Program, cast

from mminspect.commands.struct_page import (
    PAGE_MAPPING_KSM,
    PAGE_MAPPING_MOVABLE,
    Entry,
    compound_page,
    flag_names,
    is_hugetlb,
    read_entry,
)
from mminspect.consequences.attach import Outcomes
from mminspect.kernel.device import DeviceMemory
from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import MAX_NAME, READ_ERRORS
from mminspect.memmap.chunk import INITIALIZED
from mminspect.memmap.page import flags_link
from mminspect.memorymap.layout import FREE_LISTS
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.sections import Section
from mminspect.program.text import kernel_name
from mminspect.typeinfo.lookup import enumerator
from mminspect.typeinfo.sections import IS_EARLY


def describe(kernel: Kernel, outcomes: Outcomes, pfn: int, section: Section, state: int) -> dict[str, Any]:
    """
    Decode a struct page and say who has the page.

    :param state: The state of the struct page, as :mod:`mminspect.memmap.chunk` has it.
    :raises drgn.FaultError: if the target doesn't hold it.
    """
    layout = kernel.memory.layout
    entry = read_entry(kernel, pfn, section)
    compound, head = compound_page(kernel, entry, section)
    tail = compound is not None and compound["part"] == "tail"
    whole = head if tail else entry
    mapcount = entry.page.mapcount + 1 if entry.kind is None and state == INITIALIZED else None
    anon = whole is not None and whole.anon
    result: dict[str, Any] = {
        "flags": "|".join(flag_names(kernel.prog, entry.page.flags, entry.kind, anon, tail)),
        "refcount": entry.page.refcount,
        "mapcount": mapcount,
        "page_type": entry.kind,
        "words": [f"{word:#0{layout.word_bits // 4 + 2}x}" for word in entry.page.words],
        "slab": whole.slab if whole is not None else None,
    }
    if compound is not None:
        result["compound"] = compound
    result["buddy"] = free_block(kernel, outcomes, pfn, section)
    result["per_cpu"] = per_cpu_block(kernel, pfn)
    result["owner"] = _owner(kernel, entry, head, state, result)
    return result


def describe_device(kernel: Kernel, pfn: int, section: Section, device: DeviceMemory) -> dict[str, Any]:
    """
    Decode a struct page of ZONE_DEVICE; as :func:`describe`, with its ``link``.

    :raises drgn.FaultError: if the target doesn't hold it.
    """
    layout = kernel.memory.layout
    entry = read_entry(kernel, pfn, section)
    compound, _ = compound_page(kernel, entry, section)
    tail = compound is not None and compound["part"] == "tail"
    kind = f", {device.kind}" if device.kind else ""
    result: dict[str, Any] = {
        "link": flags_link(layout, entry.page.flags),
        "flags": "|".join(flag_names(kernel.prog, entry.page.flags, entry.kind, False, tail)),
        "refcount": entry.page.refcount,
        "mapcount": entry.page.mapcount + 1 if entry.kind is None else None,
        "page_type": entry.kind,
        "words": [f"{word:#0{layout.word_bits // 4 + 2}x}" for word in entry.page.words],
        "buddy": None,
        "per_cpu": None,
        "owner": f"device memory{kind}: [{device.start:#x}, {device.end:#x}) of the dev_pagemap at {device.pagemap:#x}",
    }
    if compound is not None:
        result["compound"] = compound
    return result


def free_block(kernel: Kernel, outcomes: Outcomes, pfn: int, section: Section) -> dict[str, Any] | None:
    """Find the free block that a page is in, and the free list that it is really on. ``None`` if there is none."""
    for order in range(kernel.memory.layout.max_order + 1):
        head = pfn & -(1 << order)
        entry = outcomes.page(head) if kernel.memory.section(head) == section else None
        if entry is None or not entry.buddy:
            continue
        address = pfn_to_page(kernel.memory.layout, section, head)
        try:
            block_order = Object(kernel.prog, "struct page *", address).private.value_()
            if head + (1 << min(block_order, 63)) <= pfn:
                continue
            why = kernel.memory.layout.why_unknown(FREE_LISTS)
            on = {"broken": f"not followed: {why}"} if why else kernel.free_lists.find(address)
        except (FaultError, LookupError, AttributeError) as e:
            return {"head_pfn": head, "order": None, "list": {"broken": str(e)}}
        return {"head_pfn": head, "order": block_order, "list": on}
    return None


def per_cpu_block(kernel: Kernel, pfn: int) -> dict[str, Any] | None:
    """Find the block on a per-CPU list that a page is in. ``None`` if there is none."""
    blocks = kernel.per_cpu_blocks
    at = int(np.searchsorted(blocks.start, np.uint64(pfn), "right")) - 1
    if at < 0 or pfn >= int(blocks.end[at]):
        return None
    pages, item = blocks.lists[int(blocks.number[at])]
    return {
        "cpu": pages.cpu,
        "zone": str(kernel.memory.zone(pages.node, pages.zone)),
        "head_pfn": int(blocks.start[at]),
        "order": item.order,
        "migratetype": item.migratetype,
    }


def _owner(kernel: Kernel, entry: Entry, head: Entry | None, state: int, known: dict[str, Any]) -> str:
    """Say in words who has a page."""
    if known["buddy"] is not None:
        return f"the buddy allocator: a free block of order {known['buddy']['order']}"
    if known["per_cpu"] is not None:
        return f"the page allocator: free, on a list of CPU {known['per_cpu']['cpu']}"
    if not any(entry.page.words):
        return "nobody: the entry is empty"
    if state != INITIALIZED:
        return "unknown: the entry was not initialized"
    compound = known.get("compound", {})
    if compound.get("part") == "tail":
        have = holder(kernel, head) if head is not None else None
        return f"compound page at {compound['head_pfn']:#x}: {have or 'its owner is unknown'}"
    if compound.get("part") == "unknown":
        return "unknown: its compound page can't be determined"
    listed = "" if kernel.memory_with_lists.per_cpu else "on a per-CPU list, or "
    return (
        holder(kernel, entry)
        or f"unknown: no references; possibly {listed}the tail of an allocation that is not compound"
    )


def holder(kernel: Kernel, entry: Entry) -> str | None:
    """
    Say in words who has a page that is not free.

    :param entry: Its struct page; of a compound page, that of the head.
    :return: ``None`` if unknown.
    """
    if entry.slab:
        cache = slab_cache(kernel.prog, entry.pointer)
        return f"slab cache {cache}" if cache else "a slab cache"
    if is_hugetlb(kernel, entry):
        if entry.page.refcount <= 0:
            return "hugetlb: a free huge page"
        return f"hugetlb: a huge page in use{', anonymous memory' if entry.anon else ''}"
    if entry.kind == "kmemcg":
        return "in use by the kernel, charged to a memory cgroup"
    if entry.kind is not None:
        return "a page table" if "table" in entry.kind.split() else f"page type {entry.kind}"
    names = flag_names(kernel.prog, entry.page.flags, entry.kind, entry.anon, False)
    if "PG_reserved" in names:
        return "reserved: the kernel image, firmware or a hole"
    if "PG_hwpoison" in names and not entry.page.mapping and "PG_lru" not in names:
        return "nobody: memory failure took it from the allocator (PG_hwpoison)"
    if _hosts_memmap(kernel, entry):
        return "the memmap of its own memory block (memmap_on_memory)"
    if entry.page.refcount <= 0 and "PG_lru" not in names:
        return None
    if entry.anon:
        ksm = entry.page.mapping & PAGE_MAPPING_KSM == PAGE_MAPPING_KSM
        return "anonymous memory, merged by KSM" if ksm else "anonymous memory"
    if entry.page.mapping & PAGE_MAPPING_MOVABLE:
        # Since Linux kernel commit 3d388584d599 ("mm: convert "movable" flag in page->mapping to a page flag") (in
        # v6.17), the bit has no meaning of its own.
        if enumerator(kernel.prog, "enum pageflags", "PG_movable_ops") is None:
            return "in use by the kernel: a page of a driver that can move it"
    elif entry.page.mapping:
        kind = "shmem or tmpfs" if "PG_swapbacked" in names else "a file"
        operations = _mapping_operations(kernel.prog, entry.page.mapping)
        return f"the page cache: {kind}{f' ({operations})' if operations else ''}"
    if "PG_lru" in names:
        return "on the LRU lists, but of no mapping"
    return "in use by the kernel"


def _hosts_memmap(kernel: Kernel, entry: Entry) -> bool:
    """
    Tell whether a page holds struct pages of its own memory block (``PageVmemmapSelfHosted()``).

    The flag has other meanings in files' pages. Only memory that was plugged in can host its memmap.
    """
    bit = enumerator(kernel.prog, "enum pageflags", "PG_vmemmap_self_hosted")
    section = kernel.memory.section(entry.page.pfn)
    plugged = section is not None and bool(section.flags) and IS_EARLY not in section.flags
    return bit is not None and plugged and bool(entry.page.flags >> bit & 1) and not entry.page.mapping


def _mapping_operations(prog: Program, mapping: int) -> str | None:
    """Get the name of the ``a_ops`` of a ``struct address_space``: which kind of file it is."""
    try:
        operations = Object(prog, "struct address_space", address=mapping).a_ops.value_()
        symbol = prog.symbol(operations)
        return symbol.name if symbol.address == operations else None
    except READ_ERRORS:
        return None


def slab_cache(prog: Program, head: Object) -> str | None:
    """
    Get the name of the slab cache that has a page.

    :param head: ``struct page *``, the head if the page is compound.
    """
    try:
        try:
            # Since Linux kernel commit d122019bf061 ("mm: Split slab into its own type") (in v5.17), a slab has a type
            # of its own in the place of its struct page.
            slab = cast("struct slab *", head)
        except LookupError:
            slab = head
        name: bytes = slab.slab_cache.name.string_()
        return kernel_name(name[:MAX_NAME], MAX_NAME)
    except READ_ERRORS:
        return None
