# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a kernel decides the consequences of a wrong memory map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from mminspect.layout.orders import release_version
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator


@dataclass(frozen=True)
class Kernel:
    """
    Facts of a kernel, told by its functions where these tell, since stable kernels have much of what came later.

    :ivar debug_vm: Whether it has CONFIG_DEBUG_VM; ``None`` where the functions aren't known.
    :ivar get_checks_span: Whether reading a pageblock's bits has the VM_BUG_ON_PAGE(!zone_spans_pfn()) that setting
        them has.
    :ivar moves_whole_blocks: Whether move_freepages_block() refuses a block that isn't all in the zone, and sets
        the migratetype through the block's first page.
    :ivar checks_subsections: Whether pfn_to_online_page() looks at more than the section's online flag.
    :ivar fast_search: Whether compaction has fast_isolate_freepages() at all.
    :ivar around_checks_block: Whether fast_isolate_around() asks pageblock_pfn_to_page(); ``None`` where only the
        source tells.
    :ivar pg_lru: Bit number of PG_lru.
    :ivar buddy_mapcount: What is in the place of ``_mapcount`` of a page in the buddy allocator, ``None`` if the kernel
        doesn't say.
    """

    debug_vm: bool | None = None
    get_checks_span: bool = False
    moves_whole_blocks: bool = False
    checks_subsections: bool = False
    fast_search: bool = True
    around_checks_block: bool | None = None
    pg_lru: int | None = None
    buddy_mapcount: int | None = None


def read_kernel(target: Target) -> Kernel:
    """Read what decides from a target that has types."""
    version = release_version(target.vmcoreinfo.release)
    return Kernel(
        debug_vm=_debug_vm(target.has_function),
        # Since Linux 6.17 both go through get_pfnblock_bitmap_bitidx(); get_pfnblock_bit() came with it.
        get_checks_span=target.has_function("get_pfnblock_bit") or version >= (6, 17),
        # Since Linux 6.10. The first name is of 6.10, the second of 6.17; both need CONFIG_MEMORY_ISOLATION.
        moves_whole_blocks=any(
            map(target.has_function, ("move_freepages_block_isolate", "pageblock_isolate_and_move_free_pages"))
        )
        or version >= (6, 10),
        # Since Linux kernel commit 1f90a3477df3 ("mm: teach pfn_to_online_page() about ZONE_DEVICE section
        # collisions") (in v5.12), it is a function where there is memory hotplug.
        checks_subsections=target.has_function("pfn_to_online_page"),
        fast_search=version >= (5, 1),
        # Since Linux kernel commit 6e2b7044c199 ("mm, compaction: make fast_isolate_freepages() stay within zone")
        # (in v5.12). Stable kernels of 5.10 have it too, from some release on.
        around_checks_block=True if version >= (5, 12) else None,
        pg_lru=enumerator(target.prog, "enum pageflags", "PG_lru"),
        buddy_mapcount=target.vmcoreinfo.buddy_mapcount,
    )


def _debug_vm(has_function: Callable[[str], bool]) -> bool | None:
    """Tell by dump_vma(), which mm/debug.c has with CONFIG_DEBUG_VM only; dump_page() beside it is always there."""
    if has_function("dump_vma"):
        return True
    return False if has_function("dump_page") else None
