# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the memory map of a kernel. What comes out holds no drgn object."""

from __future__ import annotations

from collections.abc import Sequence

from drgn import FaultError, Program

from mminspect.errors import LayoutError, message_of
from mminspect.layout import sections
from mminspect.layout.layout import read_layout
from mminspect.layout.zones import read_bitmaps, read_nodes, read_phantom_zones
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section, SectionEntry
from mminspect.program.target import Target


def read_memory_map(target: Target, pageblock_order: int | None = None, layout: Layout | None = None) -> MemoryMap:
    """
    Read the layout, nodes, zones and sections of a kernel.

    :param target: Its program must have types.
    :param pageblock_order: What the user says of it.
    :param layout: The layout, if it was read before.
    :raises LayoutError: if something can't be read or can't be true.
    """
    try:
        return _read_memory_map(target, pageblock_order, layout)
    except LayoutError as e:
        if pageblock_order is None:
            raise
        raise LayoutError(f"with --pageblock-order {pageblock_order}: {e}") from None


def _read_memory_map(target: Target, pageblock_order: int | None, layout: Layout | None) -> MemoryMap:
    prog = target.prog
    try:
        if layout is None:
            layout = read_layout(target, pageblock_order)
        entries: Sequence[SectionEntry] = ()
        found: Sequence[Section]
        if layout.flatmem:
            found = sections.flat_sections(prog, layout.release, layout.pageblock_nr_pages)
        else:
            size = bitmap.in_words(layout, bitmap.section_usemap_size(layout))
            # Since Linux kernel commit 1f90a3477df3 ("mm: teach pfn_to_online_page() about ZONE_DEVICE section
            # collisions") (in v5.12), it is a function where there is memory hotplug.
            checks_subsections = target.has_function("pfn_to_online_page")
            found, entries = sections.sparse_sections(prog, size, checks_subsections)
        limit = _pfn_limit(prog, layout, found[-1].ranges[-1][1] if found and found[-1].ranges else 0)
        nodes, zones = read_nodes(prog, layout, limit)
        if layout.flatmem:
            ends = [node.end_pfn for node in nodes if node.spanned] + [zone.end_pfn for zone in zones if zone.spanned]
            found = sections.clip_to_mem_map(found, layout, ends)
    except FaultError as e:
        raise LayoutError(f"the kernel's zones and sections can't be read: {e}; the dump doesn't hold them") from None
    except (LookupError, AttributeError, TypeError) as e:
        raise LayoutError(f"the type information lacks what describes memory: {message_of(e)}") from None
    except (ValueError, OverflowError, ZeroDivisionError) as e:
        raise LayoutError(
            f"the kernel's sizes can't be true ({message_of(e)}); the dump, its VMCOREINFO or the types are damaged"
        ) from None
    if not any(section.ranges for section in found):
        raise LayoutError("no section of memory is valid and online; the dump was taken too early or is damaged")
    if layout.flatmem:
        zones = read_bitmaps(prog, layout, zones)
    phantoms = read_phantom_zones(prog, layout, nodes) if layout.flatmem else {}
    # Without DWARF, the symbol makes all of kallsyms be read. It matters to pages that wait only.
    waiting = any(node.first_deferred_pfn is not None for node in nodes)
    booted = read_booted(prog) if waiting else None
    return MemoryMap(
        layout=layout,
        nodes=tuple(nodes),
        zones=tuple(zones),
        sections=found,
        phantom_zones=phantoms,
        mem_sections=entries,
        pfn_limit=limit,
        booted=booted,
        section_to_node_table=sections.section_to_node_table(prog, layout),
    )


def _pfn_limit(prog: Program, layout: Layout, memmap_end: int) -> int:
    """Get the pfn behind the last that the machine can have."""
    if layout.flatmem:
        return memmap_end
    return int(1 << (prog["MAX_PHYSMEM_BITS"].value_() - prog["PAGE_SHIFT"].value_()))


def read_booted(prog: Program) -> bool | None:
    """Tell whether the kernel has called ``page_alloc_init_late()``: it did before it left SYSTEM_SCHEDULING."""
    try:
        return bool(prog["system_state"].value_() > prog.constant("SYSTEM_SCHEDULING").value_())
    except (LookupError, FaultError):
        return None
