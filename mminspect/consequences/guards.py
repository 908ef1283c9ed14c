# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a kernel decides the consequences of a wrong memory map."""

from __future__ import annotations

from typing import Callable, NamedTuple

from mminspect.program import since


class Guards(NamedTuple):
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
    :ivar lruvec_has_lock: Whether each list of LRU pages has a lock, which is found by the page; before, it was that
        of the node that is walked.
    """

    debug_vm: bool | None = None
    get_checks_span: bool = False
    moves_whole_blocks: bool = False
    checks_subsections: bool = False
    fast_search: bool = True
    around_checks_block: bool | None = None
    lruvec_has_lock: bool = False


def read_guards(release: str, has_function: Callable[[str], bool], has_member: Callable[[str, str], bool]) -> Guards:
    """
    Find out what decides.

    :param release: The kernel's release.
    :param has_function: Tells whether the kernel has a function.
    :param has_member: Tells whether a type of the kernel has a member.
    """
    return Guards(
        debug_vm=_debug_vm(has_function),
        # get_pfnblock_bit() came with the commit that since names.
        get_checks_span=has_function("get_pfnblock_bit") or since.get_pageblock_flags_checks_span(release),
        # The first name is of 6.10, the second of 6.17; both need CONFIG_MEMORY_ISOLATION.
        moves_whole_blocks=any(
            map(has_function, ("move_freepages_block_isolate", "pageblock_isolate_and_move_free_pages"))
        )
        or since.move_freepages_block_takes_whole_blocks(release),
        # Since Linux kernel commit 1f90a3477df3 ("mm: teach pfn_to_online_page() about ZONE_DEVICE section
        # collisions") (in v5.12), it is a function where there is memory hotplug.
        checks_subsections=has_function("pfn_to_online_page"),
        fast_search=since.compaction_searches_fast(release),
        around_checks_block=True if since.fast_search_stays_in_zone(release) else None,
        # Since Linux 5.11.
        lruvec_has_lock=has_member("struct lruvec", "lru_lock"),
    )


def _debug_vm(has_function: Callable[[str], bool]) -> bool | None:
    """Tell by dump_vma(), which mm/debug.c has with CONFIG_DEBUG_VM only; dump_page() beside it is always there."""
    if has_function("dump_vma"):
        return True
    return False if has_function("dump_page") else None
