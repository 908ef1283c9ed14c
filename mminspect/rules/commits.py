# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel commits that rules and known bugs name, each once. Hash, title and version were verified in mainline."""

from __future__ import annotations

from typing import NamedTuple


class Commit(NamedTuple):
    """
    A kernel commit, as somebody names it.

    :ivar what: What it has to do with that, and the first release that has it.
    """

    hash: str
    title: str
    what: str


# Title and first release by hash.
COMMITS = {
    "00d6c019b5bc": ("mm/memory_hotplug: don't access uninitialized memmaps in shrink_pgdat_span()", "v5.4"),
    "0740a50b9baa": ("mm/page_alloc.c: refactor initialization of struct page for holes in memory layout", "v5.12"),
    "122e093c1734": ("mm/page_alloc: fix memory map initialization for descending nodes", "v5.14"),
    "1f90a3477df3": ("mm: teach pfn_to_online_page() about ZONE_DEVICE section collisions", "v5.12"),
    "2532e6c74a67": ("cma: enforce non-zero pageblock_order during cma_init_reserved_mem()", "v6.13"),
    "2830bf6f05fb": ("mm, memory_hotplug: initialize struct pages for the full memory section", "v5.0"),
    "2ebc3b68ac40": ("mm/mm_init: init holes in the end of the memory map for FLATMEM", "v6.15"),
    "377bf660d07a": ('Revert "mm: fix initialization of struct page for holes in memory layout"', "v5.11"),
    "3de360c3fdb3": ("arm64/mm: drop HAVE_ARCH_PFN_VALID", "v5.15"),
    "3e04040df6d4": ('Revert "mm/page_alloc: fix memmap_init_zone pageblock alignment"', "v4.16"),
    "4b23a68f9536": ("mm/page_alloc: protect PCP lists with a spinlock", "v6.0"),
    "4b094b7851bf": ("mm/page_alloc.c: initialize memmap of unavailable memory directly", "v5.6"),
    "5ec8e8ea8b77": ("mm/sparsemem: fix race in accessing memory_section->usage", "v6.8"),
    "61167ad5fecd": ("mm: pass nid to reserve_bootmem_region()", "v6.5"),
    "6a9531c3a880": ("memblock: fix crash when reserved memory is not added to memory", "v6.8"),
    "6b0868c820ff": ("mm/compaction.c: correct zone boundary handling when resetting pageblock skip hints", "v5.1"),
    "6e2b7044c199": ("mm, compaction: make fast_isolate_freepages() stay within zone", "v5.12"),
    "6fd3620b3428": ("mm/page_alloc: reuse tail struct pages for compound devmaps", "v5.19"),
    "73a6e474cb37": ("mm: memmap_init: iterate over memblock regions rather that check each PFN", "v5.8"),
    "77e080e7680e": ("mm/memunmap: don't access uninitialized memmap in memunmap_pages()", "v5.4"),
    "787af64d05cd": ("mm: page_alloc: validate buddy before check its migratetype.", "v5.18"),
    "7b086755fb8c": ("mm: page_alloc: fix CMA and HIGHATOMIC landing on the wrong buddy list", "v6.6"),
    "859a85ddf90e": ("mm: remove pfn_valid_within() and CONFIG_HOLES_IN_ZONE", "v5.15"),
    "864b75f9d6b0": ("mm/page_alloc: fix memmap_init_zone pageblock alignment", "v4.16"),
    "907ec5fca3dc": ("mm: zero remaining unavailable struct pages", "v4.20"),
    "8c846c879e22": ("mm: rework compound_head() for power-of-2 sizeof(struct page)", "v7.1"),
    "9f94db4c7eaa": ("mm/sparse: check memmap alignment for compound_info_has_mask()", "v7.1"),
    "a4b0bf6a40f3": ("x86/efi: defer freeing of boot services memory", "v7.0"),
    "a4d5613c4dc6": ("arm: extend pfn_valid to take into account freed memory map alignment", "v5.14"),
    "aad5f69bc161": ("fs/proc/page.c: don't access uninitialized memmaps in fs/proc/page.c", "v5.4"),
    "b3d40a2b6d10": ("mm: enforce pageblock_order < MAX_ORDER", "v5.18"),
    "b943f045a9af": ("mm/sparse: fix kernel crash with pfn_section_valid check", "v5.7"),
    "bde9cfa3afe4": ("x86/setup: don't remove E820_TYPE_RAM for pfn 0", "v5.11"),
    "be21b32afe47": ("mm, compaction: fix fast_isolate_around() to stay within boundaries", "v6.2"),
    "c4386bd8ee3a": ("mm/memremap: add ZONE_DEVICE support for compound pages", "v5.17"),
    "d3921cb8be29": ("mm: fix initialization of struct page for holes in memory layout", "v5.11"),
    "dc2da7b45ffe": ("mm: memmap defer init doesn't work as expected", "v5.11"),
    "dcdfdd40fa82": ("mm: Add support for unaccepted memory", "v6.5"),
    "e822969cab48": ("mm/page_alloc.c: fix uninitialized memmaps on a partially populated last section", "v5.6"),
    "efad4e475c31": ("mm, memory_hotplug: is_mem_section_removable do not pass the end of a zone", "v5.0"),
    "f85086f95fa3": ("mm: don't rely on system state to detect hot-plug operations", "v5.9"),
}


def commit(hash: str, what: str, also: str = "") -> Commit:
    """
    Name a commit.

    :param hash: One of :data:`COMMITS`.
    :param what: What it has to do with the rule or bug.
    :param also: Other releases that have it.
    """
    title, version = COMMITS[hash]
    return Commit(hash, title, f"{what} ({version}{', ' + also if also else ''})")
