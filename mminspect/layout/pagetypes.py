# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page types: what a page without mappings is, in the place of ``_mapcount``."""

from __future__ import annotations

from mminspect.program import since
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator


def page_type(target: Target, mapcount: int) -> str | None:
    """
    Get the type of a page whose ``_mapcount`` is none: ``buddy``, ``table``, ``offline``...

    :param mapcount: ``_mapcount``, signed.
    :return: ``None`` if the page has no type.
    """
    value = mapcount & 0xFFFFFFFF
    try:
        types = target.prog.type("enum pagetype").enumerators or ()
    except LookupError:
        types = ()
    values = {item.name: int(item.value) & 0xFFFFFFFF for item in types}
    names = {number & 0xFF: name[len("PGTY_") :] for name, number in values.items() if name.startswith("PGTY_")}
    if names:
        # Since Linux kernel commit 4ffca5a96678 ("mm: support only one page_type per page") (in v6.12), the type is a
        # number in the top byte.
        name = names.get(value >> 24)
        return None if name == "mapcount_underflow" else name
    # Before, it is bits that are cleared (include/linux/page-flags.h). Since Linux 6.10, they are in an enum, and
    # there is no PG_slab any more.
    if not values and enumerator(target.prog, "enum pageflags", "PG_slab") is None:
        return None if mapcount >= -1 else f"unknown ({value:#010x})"
    base = values.get("PAGE_TYPE_BASE", 0xF0000000)
    if value & base != base:
        return None
    bits = {name[len("PG_") :]: bit for name, bit in values.items() if name.startswith("PG_")} or type_bits(target)
    return " ".join(name for name, bit in bits.items() if not value & bit) or None


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
