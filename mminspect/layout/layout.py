# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what is the same for all of a kernel."""

from __future__ import annotations

from drgn import FaultError, PlatformFlags, Program, sizeof

from mminspect.errors import LayoutError
from mminspect.layout import orders, pageflags, pagetypes
from mminspect.layout.unknown import unknown_parts
from mminspect.memorymap.layout import FLATMEM, PAGEBLOCK_BITS, SPARSEMEM, SPARSEMEM_VMEMMAP, Layout, StructPage
from mminspect.program import since
from mminspect.program.arch import arch_of
from mminspect.program.target import Target
from mminspect.program.text import MAX_UTS_NAME, kernel_name
from mminspect.typeinfo.lookup import enumerator, has_type, max_numnodes
from mminspect.typeinfo.sections import MARKED_PRESENT, has_vmemmap, section_flags


def read_layout(target: Target, pageblock_order: int | None = None) -> Layout:
    """
    Read what is the same for all of a kernel.

    :raises LayoutError: if it can't be told.
    """
    prog = target.prog
    zone = prog.type("struct zone")
    pgdat = prog.type("struct pglist_data")
    _check_sizes(target)
    page_shift = prog["PAGE_SHIFT"].value_()
    word_bits = 8 * sizeof(prog.type("unsigned long"))
    max_nr_zones = enumerator(prog, "enum zone_type", "__MAX_NR_ZONES")
    if max_nr_zones is None:
        raise LayoutError("the type information has no enum zone_type; give the kernel's own vmlinux or BTF")
    unknown = unknown_parts(target)
    # struct mem_section is there "#ifdef CONFIG_SPARSEMEM".
    memory_model = SPARSEMEM if has_type(prog, "struct mem_section") else FLATMEM
    marks_present = True
    pfn_section_shift = None
    sections_shift = 0
    if memory_model == SPARSEMEM:
        section_bits = prog["SECTION_SIZE_BITS"].value_()
        pfn_section_shift = section_bits - page_shift
        # First of all, since a kernel whose flags aren't known can't be read.
        marks_present = MARKED_PRESENT in section_flags(prog).bits
        if has_vmemmap(prog):
            memory_model = SPARSEMEM_VMEMMAP
        else:
            sections_shift = prog["MAX_PHYSMEM_BITS"].value_() - section_bits
    elif (max_numnodes(prog) or 1) > 1:
        raise LayoutError("the kernel has DISCONTIGMEM, which mminspect doesn't know")
    order, order_from = orders.pageblock_order(target, page_shift, pageblock_order)
    if pfn_section_shift is not None and order > pfn_section_shift:
        raise LayoutError(f"a pageblock of order {order} is larger than a section; give the right --pageblock-order")
    assert prog.platform is not None
    machine = _machine(prog)
    little = bool(prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
    return Layout(
        release=target.vmcoreinfo.release,
        machine=machine,
        page_size=1 << page_shift,
        word_bits=word_bits,
        byteorder="little" if little else "big",
        memory_model=memory_model,
        page=_struct_page(target),
        flags=pageflags.page_flags_layout(prog, word_bits, max_nr_zones, sections_shift),
        max_nr_zones=max_nr_zones,
        max_order=orders.max_order(prog),
        pageblock_order=order,
        pageblock_order_from=order_from,
        bits_per_pageblock=0 if PAGEBLOCK_BITS in dict(unknown) else _bits_per_pageblock(prog),
        bits_from_top=since.pageblock_bits_from_top(target.vmcoreinfo.release),
        pfn_section_shift=pfn_section_shift,
        zone_struct_size=sizeof(zone),
        node_zones_offset=pgdat.member("node_zones").offset,
        pgdat_members=tuple(sorted(((m.name or "", m.offset) for m in pgdat.members or ()), key=lambda m: m[1])),
        migratetypes=_migratetypes(prog),
        free_lists_follow_pageblocks=since.free_lists_follow_pageblocks(target.vmcoreinfo.release),
        isolate_bit=enumerator(prog, "enum pageblock_bits", "PB_migrate_isolate") is not None,
        marks_present=marks_present,
        unknown=unknown,
        tried=since.tried(target.vmcoreinfo.release, machine),
    )


def _struct_page(target: Target) -> StructPage:
    """
    Find the members of ``struct page``, under the name and in the place that this kernel has them.

    :raises LayoutError: if the types don't tell.
    """
    prog = target.prog
    page = prog.type("struct page")
    nr_pageflags = enumerator(prog, "enum pageflags", "__NR_PAGEFLAGS")
    if nr_pageflags is None or any(
        enumerator(prog, "enum pageflags", name) is None for name in ("PG_reserved", "PG_lru", "PG_uptodate")
    ):
        raise LayoutError("the type information has no usable enum pageflags; give the kernel's own vmlinux or BTF")
    names = {item.value: item.name for item in reversed(prog.type("enum pageflags").enumerators or ())}
    if page.has_member("compound_order"):
        order_offset = page.member("compound_order").offset
    elif has_type(prog, "struct folio") and prog.type("struct folio").has_member("_folio_order"):
        # Linux 6.3 to 6.5: struct folio covers the second page, too.
        order_offset = prog.type("struct folio").member("_folio_order").offset - sizeof(page)
    else:
        # Since Linux kernel commit ebc1baf5c9b4 ("mm: free up a word in the first tail page") (in v6.6), the order of a
        # compound page is in the low byte of its second page's flags.
        low = prog.platform is None or prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
        order_offset = page.member("flags").offset + (0 if low else sizeof(prog.type("unsigned long")) - 1)
    # Since Linux 7.1, it is compound_info, and a mask where hugetlb's vmemmap is optimized
    # (compound_info_has_mask()); zone->vmemmap_tails exists under that option only.
    head = "compound_info" if page.has_member("compound_info") else "compound_head"
    size = sizeof(page)
    has_mask = (
        head == "compound_info" and prog.type("struct zone").has_member("vmemmap_tails") and not size & (size - 1)
    )
    buddy = target.vmcoreinfo.buddy_mapcount
    return StructPage(
        size=size,
        flags_offset=page.member("flags").offset,
        refcount_offset=page.member("_refcount").offset,
        mapcount_offset=page.member("_mapcount").offset,
        flag_names=tuple(names.get(bit, f"bit {bit}")[len("PG_") :] for bit in range(nr_pageflags)),
        mapping_offset=page.member("mapping").offset,
        lru_offset=page.member("lru").offset,
        private_offset=page.member("private").offset,
        compound_head_offset=page.member(head).offset,
        compound_mask=has_mask,
        order_offset=order_offset,
        buddy=None if buddy is None else buddy & 0xFFFFFFFF,
        types=pagetypes.page_types(target),
        hugetlb=pagetypes.hugetlb_mark(prog),
    )


def _check_sizes(target: Target) -> None:
    """Refuse sizes that can't be, where VMCOREINFO has nothing to compare with."""
    size = sizeof(target.prog.type("struct page"))
    if size <= 0 or size % sizeof(target.prog.type("unsigned long")) or size > 512:
        raise LayoutError(f"a struct page of {size} bytes can't be; the type information is damaged")


def _machine(prog: Program) -> str:
    try:
        name = kernel_name(prog["init_uts_ns"].name.machine.string_(), MAX_UTS_NAME)
    except (LookupError, AttributeError, FaultError):
        name = ""
    return name or arch_of(prog.platform).uname


def _bits_per_pageblock(prog: Program) -> int:
    # Since Linux kernel commit e904bce2d9d4 (in v6.17), isolation has a bit of its own, and the number of
    # bits is rounded up to a power of two: NR_PAGEBLOCK_BITS is a macro over __NR_PAGEBLOCK_BITS.
    exact = enumerator(prog, "enum pageblock_bits", "NR_PAGEBLOCK_BITS")
    if exact is None:
        rounded = enumerator(prog, "enum pageblock_bits", "__NR_PAGEBLOCK_BITS")
        exact = 1 << (rounded - 1).bit_length() if rounded else None
    # Where nothing in the types names it, the enum wasn't used by any type; it was 4 until 6.16.
    if exact not in (4, 8):
        raise LayoutError(
            "the type information has no usable enum pageblock_bits; give the kernel's own vmlinux or BTF"
        )
    return exact


def _migratetypes(prog: Program) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for item in prog.type("enum migratetype").enumerators or ():
        if item.name.startswith("MIGRATE_") and item.name not in ("MIGRATE_PCPTYPES", "MIGRATE_TYPES"):
            names.setdefault(int(item.value), item.name[len("MIGRATE_") :])
    return tuple(names[value] for value in sorted(names))
