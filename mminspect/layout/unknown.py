# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What of a kernel isn't known here, though the kernel as a whole can be read.

Each part has a witness in the types. Rules that need the part say so and judge nothing; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Program

from mminspect.memorymap.layout import COMPOUND_PAGES, CONTIGUOUS, FREE_LISTS, PAGEBLOCK_BITS, PER_CPU_LISTS, TAILS
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK, PB_COMPACT_SKIP, PB_MIGRATE_ISOLATE
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator, has_type

# Members of struct mem_section in every kernel so far, and how vendors name room for later ones.
_MEM_SECTION = ("section_mem_map", "usage", "pageblock_flags", "page_ext", "pad")
_PADDING = ("pad", "rh_reserved", "suse_kabi", "android_kabi", "android_vendor", "kabi_")
# Bits of a pageblock by value, under all names that they had.
_PAGEBLOCK_BITS = {
    "PB_migrate": MIGRATETYPE_MASK,
    "PB_migrate_0": MIGRATETYPE_MASK,
    "PB_migrate_end": MIGRATETYPE_MASK,
    "PB_migrate_2": MIGRATETYPE_MASK,
    "PB_migrate_skip": PB_COMPACT_SKIP,
    "PB_compact_skip": PB_COMPACT_SKIP,
    "PB_migrate_isolate": PB_MIGRATE_ISOLATE,
}
# Linux 5.14 has a list of huge pages for each migratetype, 6.0 one in all, 6.10 one more for movable pages.
_HUGE_LISTS = (0, 1, 2)
PAGE_ALLOC_COSTLY_ORDER = 3


def unknown_parts(target: Target) -> tuple[tuple[str, str], ...]:
    """
    Find what of a kernel isn't known.

    :return: (part, why) of each. The parts are named in :mod:`mminspect.memorymap.layout`.
    """
    return tuple(_find(target))


def _find(target: Target) -> Iterator[tuple[str, str]]:
    prog = target.prog
    for part, reason in (
        (PAGEBLOCK_BITS, _pageblock_bits(prog)),
        (FREE_LISTS, _superpageblocks(prog)),
        (PER_CPU_LISTS, _superpageblocks(prog) or _per_cpu_lists(prog)),
        (TAILS, _mem_section(prog)),
        (COMPOUND_PAGES, _compound_pages(target)),
        (CONTIGUOUS, _contiguous(prog)),
    ):
        if reason is not None:
            yield part, reason


def _pageblock_bits(prog: Program) -> str | None:
    if has_type(prog, "struct pageblock_data"):
        return "it has struct pageblock_data instead of pageblock bitmaps"
    wrong = [
        name
        for name, mask in _PAGEBLOCK_BITS.items()
        for bit in [enumerator(prog, "enum pageblock_bits", name)]
        if bit is not None and not mask >> bit & 1
    ]
    if wrong:
        return f"its pageblock bits are in another order ({', '.join(wrong)})"
    count = enumerator(prog, "enum pageblock_bits", "__NR_PAGEBLOCK_BITS") or 0
    if count > 4 and enumerator(prog, "enum pageblock_bits", "PB_migrate_isolate") is None:
        return "it has a pageblock bit of unknown meaning instead of PB_migrate_isolate"
    return None


def _superpageblocks(prog: Program) -> str | None:
    zone = prog.type("struct zone")
    members = [member.name or "" for member in zone.members or ()]
    if has_type(prog, "struct superpageblock") or any("superpageblock" in name for name in members):
        return "it has superpageblocks, each with free lists of its own"
    return None if "free_area" in members else "struct zone has no free_area"


def _per_cpu_lists(prog: Program) -> str | None:
    kinds = enumerator(prog, "enum migratetype", "MIGRATE_PCPTYPES")
    if not kinds:
        return "enum migratetype has no MIGRATE_PCPTYPES"
    try:
        length = prog.type("struct per_cpu_pages").member("lists").type.length
    except (LookupError, AttributeError):
        return "struct per_cpu_pages has no array of lists"
    small = kinds * (PAGE_ALLOC_COSTLY_ORDER + 1)
    # Before Linux 5.14 all lists are of order 0.
    if length != kinds and length - small not in (*_HUGE_LISTS, kinds):
        return f"struct per_cpu_pages has {length} lists, which fit no known order of them"
    return None


def _mem_section(prog: Program) -> str | None:
    if not has_type(prog, "struct mem_section"):
        return None
    members = (member.name or "" for member in prog.type("struct mem_section").members or ())
    new = [name for name in members if name not in _MEM_SECTION and not name.startswith(_PADDING)]
    if not new:
        return None
    return f"struct mem_section has {', '.join(new)}: struct pages of tails may be shared, or never written"


def _compound_pages(target: Target) -> str | None:
    prog = target.prog
    page = prog.type("struct page")
    if enumerator(prog, "enum pageflags", "PG_head") is None:
        return "enum pageflags has no PG_head"
    if not page.has_member("compound_order") and not (
        has_type(prog, "struct folio")
        and any(prog.type("struct folio").has_member(name) for name in ("_folio_order", "_flags_1"))
    ):
        return "nothing in struct page and struct folio tells the order of a compound page"
    if (
        page.has_member("compound_info")
        and not prog.type("struct zone").has_member("vmemmap_tails")
        and target.has_function("hugetlb_vmemmap_optimize_folio")
    ):
        return "it optimizes the vmemmap of huge pages, but not by zone->vmemmap_tails"
    return None


def _contiguous(prog: Program) -> str | None:
    zone = prog.type("struct zone")
    # Both are there with CONFIG_COMPACTION.
    if zone.has_member("compact_cached_free_pfn") and not zone.has_member("contiguous"):
        return "struct zone has no contiguous, though the kernel has compaction"
    return None
