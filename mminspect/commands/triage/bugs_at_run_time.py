# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs that show when the kernel walks, moves, adds or removes pages."""

from __future__ import annotations

from mminspect.commands.triage.bug import CAUSE, FIX, STEP, Bug, Commit

_COMPACTION = ("isolate_freepages", "isolate_migratepages", "fast_isolate", "compact_zone", "compaction_alloc")
_ZERO = Commit("907ec5fca3dc", "mm: zero remaining unavailable struct pages", FIX + " (v4.20)")
_STAY_IN_ZONE = Commit(
    "6e2b7044c199", "mm, compaction: make fast_isolate_freepages() stay within zone", FIX + " (v5.12)"
)
_STAY_IN_ZONE = Commit(
    "6e2b7044c199", "mm, compaction: make fast_isolate_freepages() stay within zone", FIX + " (v5.12)"
)

RUN_TIME: tuple[Bug, ...] = (
    Bug(
        id="zeroed-holes-checked",
        title="move_freepages() checks the zones of zeroed struct pages of holes",
        evidence="zeroed, reserved struct pages that read as zone DMA of node 0, inside another zone's pageblock",
        rules=("uninitialized", "zone-span"),
        proof="the page that the check named is reserved and no RAM",
        introduced="4.20",
        fixed="5.3",
        commits=(Commit(_ZERO.hash, _ZERO.title, CAUSE + " (v4.20)"),),
        functions=("move_freepages",),
        words=r"page_zone\(",
    ),
    Bug(
        id="sysfs-past-zone-end",
        title="memory hotplug's files in sysfs look at pages behind a zone's end",
        evidence="uninitialized struct pages behind a zone's end in its last section",
        rules=("uninitialized", "zone-span"),
        proof="cat /sys/devices/system/memory/memory*/removable kills the kernel",
        introduced="5.0-rc1",
        fixed="5.0",
        commits=(
            Commit(
                "efad4e475c31",
                "mm, memory_hotplug: is_mem_section_removable do not pass the end of a zone",
                FIX + " (v5.0)",
            ),
            Commit(
                "2830bf6f05fb",
                "mm, memory_hotplug: initialize struct pages for the full memory section",
                "an attempt at a fix, which broke nodes that share a section",
            ),
        ),
        functions=("is_mem_section_removable", "removable_show", "test_pages_in_a_zone", "valid_zones_show"),
    ),
    Bug(
        id="skip-hints-across-zones",
        title="compaction resets skip hints of a neighboring zone's pages",
        evidence="a pageblock with pages of two zones, or with uninitialized ones at a zone's edge",
        rules=("mixed-zone", "uninitialized"),
        proof="the zone doesn't begin at a multiple of the pageblock's size",
        introduced="5.1-rc1",
        fixed="5.4",
        commits=(
            Commit(
                "6b0868c820ff",
                "mm/compaction.c: correct zone boundary handling when resetting pageblock skip hints",
                FIX + " (v5.1), with a follow-up in v5.4",
            ),
        ),
        functions=("reset_isolation_suitable",),
    ),
    Bug(
        id="fast-isolate-leaves-zone",
        title="fast_isolate_freepages() leaves the zone where it begins inside a pageblock",
        evidence="free pages of one zone isolated under another's lock; a pageblock with pages of two zones",
        rules=("mixed-zone", "free-list"),
        proof="the crash doesn't come back with vm.compaction_proactiveness=0 and without huge pages",
        introduced="5.1",
        fixed="5.12",
        commits=(_STAY_IN_ZONE,),
        functions=_COMPACTION,
    ),
    Bug(
        id="fast-isolate-around-leaves-zone",
        title="fast_isolate_around() isolates pages of another zone in the same pageblock",
        evidence="a pageblock with pages of several zones",
        rules=("mixed-zone", "free-list"),
        proof="the crash doesn't come back with vm.compaction_proactiveness=0 and without huge pages",
        introduced="5.12",
        fixed="6.2",
        commits=(
            Commit(
                "be21b32afe47", "mm, compaction: fix fast_isolate_around() to stay within boundaries", FIX + " (v6.2)"
            ),
            Commit(_STAY_IN_ZONE.hash, _STAY_IN_ZONE.title, "left this case open (v5.12)"),
        ),
        functions=_COMPACTION,
        words=r"multiple zones",
    ),
    Bug(
        id="walkers-of-offline-pages",
        title="walkers read struct pages of offline and ZONE_DEVICE memory that nobody initialized",
        evidence="garbage node and zone ids in struct pages of offline sections and devices",
        rules=("uninitialized", "zone-id", "node-link"),
        proof="the section of the page is offline",
        fixed="5.4",
        commits=(
            Commit(
                "00d6c019b5bc", "mm/memory_hotplug: don't access uninitialized memmaps in shrink_pgdat_span()", STEP
            ),
            Commit("aad5f69bc161", "fs/proc/page.c: don't access uninitialized memmaps in fs/proc/page.c", STEP),
            Commit("77e080e7680e", "mm/memunmap: don't access uninitialized memmap in memunmap_pages()", STEP),
        ),
        functions=(
            *("stable_page_flags", "kpageflags_read", "shrink_pgdat_span", "shrink_zone_span", "memunmap_pages"),
            *("read_page_owner", "memory_failure", "pfn_range_valid"),
        ),
        words=r"PagePoisoned",
    ),
    Bug(
        id="node-span-after-removal",
        title="a node's span is wrong after memory was removed",
        evidence="a node spans less, or more, than its zones",
        rules=("node-span",),
        proof="memory was removed before",
        introduced="5.4-rc1",
        fixed="5.4",
        commits=(
            Commit(
                "00d6c019b5bc",
                "mm/memory_hotplug: don't access uninitialized memmaps in shrink_pgdat_span()",
                CAUSE,
            ),
        ),
        functions=("shrink_pgdat_span", "update_pgdat_span"),
    ),
    Bug(
        id="device-shares-section",
        title="ZONE_DEVICE shares a section with RAM, and pfn_to_online_page() takes its pages for online",
        evidence="a section with pages of ZONE_DEVICE and of RAM that isn't marked",
        rules=("section", "mixed-zone"),
        proof="persistent memory begins inside a section of RAM",
        fixed="5.14",
        commits=(
            Commit(
                "1f90a3477df3",
                "mm: teach pfn_to_online_page() about ZONE_DEVICE section collisions",
                STEP + " (v5.12); the section flags were mended in v5.14",
            ),
        ),
        functions=("pfn_to_online_page",),
    ),
    Bug(
        id="section-without-usage",
        title="a section without usage is dereferenced after a part of it was removed",
        evidence="a valid section whose usage is NULL",
        rules=("section", "bitmap-bounds"),
        proof="persistent memory was removed before",
        introduced="5.6",
        fixed="5.7",
        commits=(Commit("b943f045a9af", "mm/sparse: fix kernel crash with pfn_section_valid check", FIX + " (v5.7)"),),
        functions=("pfn_valid", "pfn_section_valid", "section_deactivate", "virt_addr_valid"),
    ),
    Bug(
        id="usage-freed-while-read",
        title="pfn_valid() reads a section's usage while it is freed (CVE-2023-52489, CVE-2024-41055)",
        evidence="a section that is going away, its usage NULL or freed",
        rules=("section",),
        proof="memory was removed at the same time",
        fixed="6.10",
        commits=(
            Commit(
                "5ec8e8ea8b77",
                "mm/sparsemem: fix race in accessing memory_section->usage",
                STEP + " (v6.8); NULL usage is checked since v6.10",
            ),
        ),
        functions=("pfn_valid", "pfn_section_valid", "pfn_to_online_page", "isolate_migratepages", "compact_zone"),
    ),
    Bug(
        id="hotplugged-memory-in-two-nodes",
        title="hotplugged memory is linked to two nodes, or to a wrong one (pseries)",
        evidence="pages whose node isn't that of the range",
        rules=("node-link",),
        proof="/sys/devices/system/memory/memoryN has two nodeM links",
        fixed="5.9",
        commits=(
            Commit("f85086f95fa3", "mm: don't rely on system state to detect hot-plug operations", FIX + " (v5.9)"),
        ),
        functions=("register_mem_block", "link_mem_sections", "get_nid_for_pfn", "remove_memory"),
        machines=("ppc64le", "ppc64"),
    ),
    Bug(
        id="arm64-hole-in-pageblock",
        title="a pageblock that is part hole, part RAM: code walks pages of the hole (arm64)",
        evidence="invalid pfns inside a pageblock that is used",
        rules=("unreadable", "uninitialized"),
        proof="the RAM ends inside of the pageblock",
        introduced="5.15-rc1",
        fixed="5.15",
        commits=(
            Commit("859a85ddf90e", "mm: remove pfn_valid_within() and CONFIG_HOLES_IN_ZONE", CAUSE),
            Commit("3de360c3fdb3", "arm64/mm: drop HAVE_ARCH_PFN_VALID", FIX),
        ),
        functions=("move_freepages",),
        machines=("aarch64",),
    ),
    Bug(
        id="buddy-below-memmap",
        title="the buddy of a page lies below the first page, and is dereferenced (riscv)",
        evidence="free pages whose buddy has no struct page",
        rules=("buddy-page", "free-list"),
        proof="memory doesn't begin at a multiple of the largest block",
        introduced="4.6",
        fixed="5.19",
        commits=(
            Commit(
                "787af64d05cd",
                "mm: page_alloc: validate buddy before check its migratetype.",
                FIX + " (v5.18), with a follow-up",
            ),
        ),
        functions=("free_one_page", "free_pcppages_bulk", "free_pages_ok", "unset_migratetype_isolate"),
    ),
    Bug(
        id="cma-on-wrong-list",
        title="free pages of CMA and HIGHATOMIC land on another type's list",
        evidence="free pages on a list of another type than their pageblock's",
        rules=("free-list", "migratetype", "per-cpu-list"),
        proof="the pageblock is of CMA or HIGHATOMIC",
        fixed="6.6",
        commits=(
            Commit(
                "7b086755fb8c",
                "mm: page_alloc: fix CMA and HIGHATOMIC landing on the wrong buddy list",
                FIX + " (v6.6)",
            ),
        ),
        functions=("free_pcppages_bulk", "rmqueue", "alloc_contig_range"),
    ),
    Bug(
        id="page-type-of-free-list",
        title='"page type is N, passed migratetype is M": a free page\'s list and its pageblock differ',
        evidence="free pages on a list of another type than their pageblock's",
        rules=("free-list", "migratetype"),
        proof="kernels before 6.10 had the same and didn't say so",
        introduced="6.10",
        words=r"page type is \d+, passed migratetype is \d+",
        functions=("add_to_free_list", "account_freepages", "del_page_from_free_list"),
    ),
    Bug(
        id="pageblock-above-max-order",
        title="pageblocks larger than the allocator's largest block",
        evidence="pageblock_order is above the largest order of the free lists",
        rules=("free-list", "mixed-zone"),
        proof="the machine has huge pages above MAX_ORDER (ppc64, ia64)",
        fixed="5.18",
        commits=(Commit("b3d40a2b6d10", "mm: enforce pageblock_order < MAX_ORDER", FIX + " (v5.18)"),),
        functions=("move_freepages", "free_one_page"),
        machines=("ppc64le", "ppc64", "ia64"),
    ),
    Bug(
        id="cma-before-pageblock-order",
        title="CMA is set up while pageblock_order is still 0 (ppc64 with fadump)",
        evidence="a CMA area that isn't aligned to pageblocks",
        rules=("migratetype",),
        proof="the command line has fadump=on",
        fixed="6.13",
        commits=(
            Commit(
                "2532e6c74a67",
                "cma: enforce non-zero pageblock_order during cma_init_reserved_mem()",
                FIX + " (v6.13)",
            ),
        ),
        functions=("cma_init_reserved", "init_cma_reserved_pageblock"),
        machines=("ppc64le", "ppc64"),
    ),
    Bug(
        id="interleaved-nodes",
        title="nodes interleave and one begins inside a pageblock: a zone takes another's free pages",
        evidence="free pages of one zone on another's list, nr_free below 0",
        rules=("mixed-zone", "free-list", "per-cpu-list"),
        proof='the "node N: [mem ...]" lines alternate between nodes, and an edge isn\'t a multiple of 2 MiB',
        functions=("move_freepages", "prep_move_freepages", "steal_suitable_fallback", "rmqueue", "try_to_claim_block"),
    ),
    Bug(
        id="node-edge-in-movable-block",
        title="free pages on UNMOVABLE's list in a MOVABLE pageblock, where a node begins inside it",
        evidence="free pages of the second node on a list of another type than their pageblock's",
        rules=("free-list", "migratetype"),
        proof='a "node N: [mem ...]" line begins inside the pageblock',
        introduced="7.2",
        harmful=False,
    ),
    Bug(
        id="device-tail-pages",
        title="tail struct pages of device memory that lands in an early section are never initialized",
        evidence="uninitialized struct pages of ZONE_DEVICE; device pageblocks without a type",
        rules=("uninitialized", "migratetype"),
        proof="a devdax namespace with a large alignment shares a section with RAM",
        functions=("memmap_init_zone_device", "free_zone_device"),
    ),
)
