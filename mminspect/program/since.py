# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every question that only the version answers.

Stable and vendor kernels carry later changes, so a member, an enumerator or a function is asked first wherever one
tells. What is here has none. Each function takes a release, as ``uname -r`` prints it.
"""

from __future__ import annotations

from mminspect.program.vmcoreinfo import release_version


def kallsyms_has_long_names(release: str) -> bool:
    """
    Return whether the length of a symbol's name in kallsyms can take two bytes.

    Since Linux kernel commit 73bbb94466fd ("kallsyms: support \"big\" kernel symbols") (in v6.1).
    """
    return release_version(release) >= (6, 1)


def pageblock_bits_from_top(release: str) -> bool:
    """
    Return whether the first block is at the top of a bitmap word.

    Until Linux kernel commit 535b81e20921 ("mm/page_alloc.c: remove unnecessary end_bitidx for
    [set|get]_pfnblock_flags_mask()") (in v5.9).
    """
    return release_version(release) < (5, 9)


def pageblock_order_is_bounded(release: str) -> bool:
    """
    Return whether a pageblock is no larger than the largest allocation.

    Since Linux kernel commit b3d40a2b6d10 ("mm: enforce pageblock_order < MAX_ORDER") (in v5.18).
    """
    return release_version(release) >= (5, 18)


def thp_decides_pageblock_order(release: str) -> bool:
    """
    Return whether transparent huge pages decide on the pageblock order where there is no hugetlb.

    Since Linux kernel commit 72801513b2bf ("mm: set pageblock_order to HPAGE_PMD_ORDER in case with
    !CONFIG_HUGETLB_PAGE but THP enabled") (in v6.10).
    """
    return release_version(release) >= (6, 10)


def config_decides_pageblock_order(release: str) -> bool:
    """
    Return whether the configuration can lower the pageblock order.

    Since Linux kernel commit e13e7922d034 ("mm: add CONFIG_PAGE_BLOCK_ORDER to select page block order") (in v6.16).
    """
    return release_version(release) >= (6, 16)


def arm_memmap_has_whole_blocks(release: str) -> bool:
    """
    Return whether ``pfn_valid()`` of 32-bit Arm accepts all of a pageblock that memory touches.

    Since Linux kernel commit a4d5613c4dc6 ("arm: extend pfn_valid to take into account freed memory map alignment")
    (in v5.14).
    """
    return release_version(release) >= (5, 14)


def kmemcg_is_a_page_type(release: str) -> bool:
    """
    Return whether pages charged to a memory cgroup have a type of their own.

    Until Linux kernel commit 18b2db3b0385 ("mm: Convert page kmemcg type to a page memcg flag") (in v5.11).
    """
    return release_version(release) < (5, 11)


def free_lists_follow_pageblocks(release: str) -> bool:
    """
    Return whether free pages move to another list when their pageblock's type changes, without exception.

    Since Linux kernel commit c0cd6f557b90 ("mm: page_alloc: fix freelist movement during block conversion") (in v6.10).
    """
    return release_version(release) >= (6, 10)


def move_freepages_block_takes_whole_blocks(release: str) -> bool:
    """
    Return whether ``move_freepages_block()`` refuses a block that isn't all in the zone.

    Since Linux kernel commit 2dd482ba627d ("mm: page_alloc: fix move_freepages_block() range error") (in v6.10).
    """
    return release_version(release) >= (6, 10)


def get_pageblock_flags_checks_span(release: str) -> bool:
    """
    Return whether reading a pageblock's bits has the ``VM_BUG_ON_PAGE()`` that setting them has.

    Since Linux kernel commit 42f46ed99ac6 ("mm/page_alloc: pageblock flags functions clean up") (in v6.17).
    """
    return release_version(release) >= (6, 17)


def compaction_searches_fast(release: str) -> bool:
    """
    Return whether compaction has ``fast_isolate_freepages()``.

    Since Linux kernel commit 5a811889de10 ("mm, compaction: use free lists to quickly locate a migration target")
    (in v5.1).
    """
    return release_version(release) >= (5, 1)


def fast_search_stays_in_zone(release: str) -> bool:
    """
    Return whether ``fast_isolate_freepages()`` certainly stays within the zone. Some releases of 5.10 do, too.

    Since Linux kernel commit 6e2b7044c199 ("mm, compaction: make fast_isolate_freepages() stay within zone")
    (in v5.12).
    """
    return release_version(release) >= (5, 12)


# The versions of the kernels in fixtures/MATRIX.md, by machine.
TRIED = {
    "aarch64": ((6, 12), (7, 3)),
    "armv7l": ((6, 12),),
    "i686": ((5, 10), (6, 1)),
    "ppc64le": ((6, 12),),
    "riscv64": ((6, 12),),
    "s390x": ((6, 12),),
    "x86_64": ((5, 10), (6, 1), (6, 12), (6, 16), (6, 17), (6, 18), (7, 2), (7, 3)),
}


def tried(release: str, machine: str) -> str:
    """
    Return whether mminspect was tried on kernels of a release.

    :return: ``yes`` if its version is in the matrix of guests for the machine, ``near`` if it lies between two that
        are, else ``no``.
    """
    version = release_version(release)
    versions = TRIED.get(machine, ())
    if version in versions:
        return "yes"
    return "near" if versions and min(versions) < version < max(versions) else "no"
