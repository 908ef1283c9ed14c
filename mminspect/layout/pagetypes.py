# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page types: what a page without mappings is, in the place of ``_mapcount``."""

from __future__ import annotations

from collections.abc import Sequence

from drgn import PlatformFlags, Program, sizeof

from mminspect.program import since
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator


def page_type(types: Sequence[tuple[str, int, int]], mapcount: int) -> str | None:
    """
    Get the type of a page whose ``_mapcount`` is none: ``buddy``, ``table``, ``offline``...

    :param types: The page types of the kernel, from :func:`page_types`.
    :param mapcount: ``_mapcount``, signed.
    :return: ``None`` if the page has no type.
    """
    value = mapcount & 0xFFFFFFFF
    if not types and mapcount < -1:
        return f"unknown ({value:#010x})"
    return " ".join(name for name, mask, expected in types if value & mask == expected) or None


def page_types(target: Target) -> tuple[tuple[str, int, int], ...]:
    """
    Get the page types of a kernel.

    :return: (name, mask, value) of each: ``_mapcount``, as 32 bits, has the value under the mask. None if the kernel
        is newer than what is known here.
    """
    try:
        types = target.prog.type("enum pagetype").enumerators or ()
    except LookupError:
        types = ()
    values = {item.name: int(item.value) & 0xFFFFFFFF for item in types}
    # Since Linux kernel commit 4ffca5a96678 ("mm: support only one page_type per page") (in v6.12), the type is a
    # number in the top byte.
    numbers = {name[len("PGTY_") :]: number & 0xFF for name, number in values.items() if name.startswith("PGTY_")}
    if numbers:
        return tuple((name, 0xFF << 24, nr << 24) for name, nr in numbers.items() if name != "mapcount_underflow")
    # Before, it is bits that are cleared (include/linux/page-flags.h). Since Linux 6.10, they are in an enum, and
    # there is no PG_slab any more.
    if not values and enumerator(target.prog, "enum pageflags", "PG_slab") is None:
        return ()
    base = values.get("PAGE_TYPE_BASE", 0xF0000000)
    bits = {name[len("PG_") :]: bit for name, bit in values.items() if name.startswith("PG_")} or type_bits(target)
    return tuple((name, base | bit, base) for name, bit in bits.items())


def hugetlb_mark(prog: Program) -> tuple[int, int, int] | None:
    """
    Find out how the second entry of a compound page tells that it is a hugetlb page.

    :return: (offset of a word, mask, value), ``None`` if it doesn't tell: later kernels have a page type.
    """
    page = prog.type("struct page")
    destructor = enumerator(prog, "enum compound_dtor_id", "HUGETLB_PAGE_DTOR")
    if destructor is not None:
        offset = None
        if page.has_member("compound_dtor"):
            offset = page.member("compound_dtor").offset
        else:
            # In v6.3 to v6.5 it is in struct folio, which goes on in the second entry.
            folio = prog.type("struct folio")
            if folio.has_member("_folio_dtor"):
                offset = folio.member("_folio_dtor").offset - sizeof(page)
        if offset is None:
            return None
        size = sizeof(prog.type("unsigned long"))
        little = prog.platform is None or prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
        shift = 8 * (offset % size if little else size - 1 - offset % size)
        return offset - offset % size, 0xFF << shift, destructor << shift
    # From v6.6 on, until it became a page type, a flag of the second entry.
    bit = enumerator(prog, "enum pageflags", "PG_hugetlb")
    return None if bit is None else (page.member("flags").offset, 1 << bit, 1 << bit)


def type_bits(target: Target) -> dict[str, int]:
    """Get the bits that are cleared for each page type, of a kernel without ``enum pagetype``."""
    # Since Linux kernel commit 18b2db3b0385 ("mm: Convert page kmemcg type to a page memcg flag") (in v5.11), there is
    # no PG_kmemcg, and the types behind it moved. Just before, page->mem_cgroup became page->memcg_data.
    page = target.prog.type("struct page")
    if page.has_member("memcg_data"):
        kmemcg = False
    elif page.has_member("mem_cgroup"):
        kmemcg = True
    else:
        kmemcg = since.kmemcg_is_a_page_type(target.vmcoreinfo.release)
    bits = {"buddy": 0x80, "offline": 0x100}
    bits.update({"kmemcg": 0x200, "table": 0x400, "guard": 0x800} if kmemcg else {"table": 0x200, "guard": 0x400})
    hugetlb = target.vmcoreinfo.number("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)")
    if hugetlb is not None:
        # Since Linux 6.9.
        bits["hugetlb"] = ~hugetlb & 0xFFFFFFFF
    return bits
