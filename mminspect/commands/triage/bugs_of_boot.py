# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs that boot leaves in the memory map."""

from __future__ import annotations

from mminspect.commands.triage.bug import CAUSE, FIX, REVERT, STEP, Bug, Commit

_X86 = ("x86_64", "i386")
_COMPACTION = ("isolate_freepages", "isolate_migratepages", "fast_isolate", "compact_zone", "compaction_alloc")
_ITERATE = Commit(
    "73a6e474cb37", "mm: memmap_init: iterate over memblock regions rather that check each PFN", CAUSE + " (v5.8)"
)
_REFACTOR = Commit(
    "0740a50b9baa",
    "mm/page_alloc.c: refactor initialization of struct page for holes in memory layout",
    FIX + " (v5.12)",
)
_ZERO = Commit("907ec5fca3dc", "mm: zero remaining unavailable struct pages", FIX + " (v4.20)")
_STAY_IN_ZONE = Commit(
    "6e2b7044c199", "mm, compaction: make fast_isolate_freepages() stay within zone", FIX + " (v5.12)"
)

BOOT: tuple[Bug, ...] = (
    Bug(
        id="holes-in-zone-0",
        title="struct pages of holes link to zone 0 of node 0",
        evidence="reserved pages of a hole inside DMA32 or Normal link to zone 0 of node 0",
        rules=("zone-span", "mixed-zone", "bitmap-bounds"),
        proof='the pages lie in no "node N: [mem ...]" range of the boot, and their flags say zone 0 of node 0',
        introduced="5.8",
        fixed="5.12",
        stable=("5.11.7", "5.10.y"),
        commits=(_REFACTOR, _ITERATE),
        functions=("set_pfnblock_flags", "get_pfnblock_flags", *_COMPACTION),
        words=r"zone_spans_pfn",
    ),
    Bug(
        id="holes-extend-zones",
        title="the first fix of holes-in-zone-0 extended zones and nodes wrongly; machines didn't boot",
        evidence="a zone or node spans pages of another",
        rules=("zone-span", "zone-overlap", "node-span"),
        proof="the machine boots without these commits",
        introduced="5.11-rc5",
        fixed="5.11",
        commits=(
            Commit("377bf660d07a", 'Revert "mm: fix initialization of struct page for holes in memory layout"', FIX),
            Commit("d3921cb8be29", "mm: fix initialization of struct page for holes in memory layout", CAUSE),
            Commit("bde9cfa3afe4", "x86/setup: don't remove E820_TYPE_RAM for pfn 0", CAUSE),
        ),
    ),
    Bug(
        id="descending-nodes",
        title="nodes in descending order: pages of one are initialized as holes of another",
        evidence="pages of the lower node link to the node with the lower number",
        rules=("zone-span", "node-link"),
        proof='the "Initmem setup node" lines show a node with a higher number at lower addresses',
        introduced="5.12",
        fixed="5.14",
        commits=(
            Commit(
                "122e093c1734", "mm/page_alloc: fix memory map initialization for descending nodes", FIX + " (v5.14)"
            ),
            Commit(_REFACTOR.hash, _REFACTOR.title, CAUSE + " (v5.12)"),
        ),
        functions=("set_pfnblock_flags", "free_pcppages", "memmap_init", "reserve_bootmem_region"),
    ),
    Bug(
        id="reserved-page-in-no-zone",
        title="reserved pages that no zone spans get a zone id one behind the last",
        evidence="reserved pages, pfn 0 for one, with zone id MAX_NR_ZONES or poison, outside every zone's span",
        rules=("zone-id", "uninitialized"),
        proof='the boot reserves the range, and no "node N: [mem ...]" range has it',
        commits=(),
        functions=("reserve_bootmem_region", "init_reserved_page", "init_page_from_nid"),
        words=r"PagePoisoned",
        harmful=False,
    ),
    Bug(
        id="skipped-invalid-ranges",
        title="boot skips ranges of invalid pfns and leaves struct pages of a pageblock zero",
        evidence="zero struct pages at a pageblock's start, in zone DMA, while its end is in DMA32",
        rules=("uninitialized", "mixed-zone"),
        proof="the pages are all zero, and valid and online",
        introduced="4.11",
        fixed="4.17",
        commits=(
            Commit("864b75f9d6b0", "mm/page_alloc: fix memmap_init_zone pageblock alignment", "an attempt at a fix"),
            Commit("3e04040df6d4", 'Revert "mm/page_alloc: fix memmap_init_zone pageblock alignment"', REVERT),
        ),
        functions=("move_freepages",),
        words=r"kernel BUG at mm/page_alloc\.c:1\d{3}!",
    ),
    Bug(
        id="unzeroed-holes",
        title="struct pages of holes and memmap= ranges are never written",
        evidence="poison or stale data in struct pages of ranges that aren't RAM",
        rules=("uninitialized",),
        proof="reading /proc/kpageflags of a hole kills the kernel",
        introduced="4.15",
        fixed="4.20",
        commits=(_ZERO,),
        functions=("stable_page_flags", "kpageflags_read", "kpagecount_read", "page_idle"),
        words=r"PagePoisoned",
    ),
    Bug(
        id="partial-last-section",
        title="the rest of a partly filled last section is never initialized",
        evidence="garbage struct pages behind the end of memory, up to the section's end",
        rules=("uninitialized",),
        proof="memory doesn't end at a multiple of the section's size",
        fixed="5.6",
        commits=(
            Commit(
                "e822969cab48",
                "mm/page_alloc.c: fix uninitialized memmaps on a partially populated last section",
                FIX + " (v5.6)",
            ),
            Commit(
                "4b094b7851bf",
                "mm/page_alloc.c: initialize memmap of unavailable memory directly",
                STEP + " (v5.6)",
            ),
        ),
        functions=("stable_page_flags", "kpageflags_read", "memory_failure"),
        words=r"PagePoisoned",
    ),
    Bug(
        id="reserved-memory-in-no-node",
        title="reserved memory that isn't in memblock.memory gets node id MAX_NUMNODES",
        evidence="reserved pages with the id of a node that has no pgdat",
        rules=("zone-id", "node-link"),
        proof="memblock=debug shows the range as reserved and not as memory",
        introduced="6.5",
        fixed="6.8",
        commits=(
            Commit("6a9531c3a880", "memblock: fix crash when reserved memory is not added to memory", FIX + " (v6.8)"),
            Commit("61167ad5fecd", "mm: pass nid to reserve_bootmem_region()", CAUSE + " (v6.5)"),
        ),
        functions=("reserve_bootmem_region", "init_reserved_page", "memmap_init_reserved"),
    ),
    Bug(
        id="deferred-init-not-deferred",
        title="deferred initialization isn't deferred zone by zone: slow boot",
        evidence="first_deferred_pfn is wrong; nothing else",
        rules=("deferred-init",),
        proof="boot takes long on a big machine",
        introduced="5.8",
        fixed="5.11",
        commits=(
            Commit("dc2da7b45ffe", "mm: memmap defer init doesn't work as expected", FIX + " (v5.11)"),
            _ITERATE,
        ),
        harmful=False,
    ),
    Bug(
        id="efi-boot-services-lost",
        title="memory of EFI boot services is freed before its struct pages exist, and is lost",
        evidence="pages of EFI boot services that are managed by no zone",
        rules=("deferred-init", "zone-pages"),
        proof="the EFI memory map has boot services data at these pfns",
        commits=(
            Commit(
                "a4b0bf6a40f3", "x86/efi: defer freeing of boot services memory", FIX + " (2026, stable kernels too)"
            ),
        ),
        functions=("efi_free_boot_services",),
        machines=_X86,
        harmful=False,
    ),
    Bug(
        id="kho-preserved-pages",
        title="kexec handover: preserved and scratch pages against deferred initialization",
        evidence="preserved pages that were initialized twice, or not; pageblocks without a type",
        rules=("uninitialized", "deferred-init", "migratetype"),
        proof="the command line has kho=on",
        functions=("kho_",),
    ),
    Bug(
        id="flatmem-tail",
        title="the end of mem_map is never initialized (FLATMEM)",
        evidence="uninitialized entries behind the end of memory, up to MAX_ORDER's alignment",
        rules=("uninitialized",),
        proof="the kernel has CONFIG_FLATMEM",
        introduced="6.15-rc1",
        fixed="6.15",
        commits=(
            Commit("2ebc3b68ac40", "mm/mm_init: init holes in the end of the memory map for FLATMEM", FIX + " (v6.15)"),
        ),
        functions=("free_one_page", "page_is_buddy", "find_buddy_page"),
    ),
    Bug(
        id="arm-freed-memmap",
        title="32-bit Arm frees the memmap of holes, and pfn_valid() is true there",
        evidence="struct pages of holes that are ordinary data",
        rules=("uninitialized", "zone-id"),
        proof="the pages lie in a hole of less than a section",
        fixed="5.14",
        commits=(
            Commit(
                "a4d5613c4dc6",
                "arm: extend pfn_valid to take into account freed memory map alignment",
                FIX + " (v5.14, stable kernels too)",
            ),
        ),
        functions=("move_freepages", "isolate_freepages", "isolate_migratepages", "pfn_valid"),
        machines=("arm",),
    ),
    Bug(
        id="srat-leaves-out-ram",
        title="boot dies where the SRAT leaves out up to 1 MiB of RAM",
        evidence="none: NODE_DATA() of a node that doesn't exist is dereferenced at boot",
        rules=(),
        proof='the "SRAT: Node" lines cover less than the usable ranges of e820',
        functions=("memmap_init",),
        machines=_X86,
    ),
    Bug(
        id="soft-reserved-zone-id",
        title="soft-reserved memory (CXL, HBM) behind the end of RAM has a zone id one behind the last",
        evidence="reserved pages with zone id MAX_NR_ZONES behind the last zone",
        rules=("zone-id",),
        proof="e820 has the range as soft reserved",
        machines=("x86_64",),
        harmful=False,
    ),
    Bug(
        id="i386-movable-freed-twice",
        title="i386 with movablecore= and without highmem frees Movable's pages twice",
        evidence="managed pages are twice the present ones",
        rules=("zone-pages",),
        proof="the command line has movablecore=",
        fixed="5.14",
        functions=("free_highmem_page", "add_highpages_with_active_regions", "free_low_memory_core"),
        words=r"Bad page state in process swapper",
        machines=("i386",),
    ),
    Bug(
        id="i386-memmap-shorter-than-max-pfn",
        title="i386 with FLATMEM: mem_map ends before pfn_valid() does",
        evidence="entries behind mem_map's end that aren't struct pages",
        rules=("uninitialized", "zone-id"),
        proof="the last usable e820 range is shorter than a page",
        functions=("reserve_bootmem_region",),
        machines=("i386",),
    ),
)
