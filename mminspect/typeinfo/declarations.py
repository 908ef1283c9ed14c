# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Declarations of kernel variables.

BTF describes types, not variables (but for per-CPU ones). The variables that an analysis and drgn's
mm, mmzone and slab helpers read are declared here.
"""

from __future__ import annotations

from typing import Callable

from drgn import Object, Program, Type, TypeKind, sizeof

from mminspect.typeinfo.lookup import enumerator, max_numnodes
from mminspect.typeinfo.sections import HAS_MEM_MAP, MARKED_PRESENT, section_flags, sections_per_root

# Variables whose type is the same in every kernel since 4.19, in C.
DECLARATIONS = {
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__highest_present_section_nr": "unsigned long",
    "_totalram_pages": "atomic_long_t",
    "contig_page_data": "struct pglist_data",
    "high_memory": "void *",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_task": "struct task_struct",
    "init_uts_ns": "struct uts_namespace",
    "iomem_resource": "struct resource",
    "max_low_pfn": "unsigned long",
    "max_mapnr": "unsigned long",
    "max_pfn": "unsigned long",
    "mem_map": "struct page *",
    "memblock": "struct memblock",
    "min_low_pfn": "unsigned long",
    "nr_cpu_ids": "unsigned int",
    "nr_node_ids": "unsigned int",
    "page_offset_base": "unsigned long",
    "pageblock_order": "unsigned int",
    "panic_cpu": "atomic_t",
    "pgmap_array": "struct xarray",
    "prb": "struct printk_ringbuffer *",
    "root_mem_cgroup": "struct mem_cgroup *",
    "saved_command_line": "char *",
    "slab_caches": "struct list_head",
    "system_state": "enum system_states",
    "vmalloc_base": "unsigned long",
    "vmemmap_base": "unsigned long",
}


def _node_data(prog: Program) -> Type | None:
    nodes = max_numnodes(prog)
    # Without NUMA there is contig_page_data instead.
    if nodes is None or nodes == 1:
        return None
    return prog.array_type(prog.type("struct pglist_data *"), nodes)


def _node_states(prog: Program) -> Type | None:
    states = enumerator(prog, "enum node_states", "NR_NODE_STATES")
    return prog.array_type(prog.type("nodemask_t"), states) if states else None


def _zone_names(prog: Program) -> Type | None:
    zones = enumerator(prog, "enum zone_type", "__MAX_NR_ZONES")
    return prog.array_type(prog.type("char *"), zones) if zones else None


def section_is_static(prog: Program) -> bool:
    """
    Tell whether ``mem_section`` is an array (SPARSEMEM_STATIC) and not a pointer (SPARSEMEM_EXTREME).

    EXTREME has ``LENGTH(mem_section)`` roots of a page of sections each. STATIC has one section a root,
    and as many roots as there are sections, which fit the physical memory without a division.
    """
    roots = prog["NR_SECTION_ROOTS"].value_()
    sections = 1 << (prog["MAX_PHYSMEM_BITS"].value_() - prog["SECTION_SIZE_BITS"].value_())
    return bool(roots == sections)


def _mem_section(prog: Program) -> Type | None:
    if section_is_static(prog):
        row = prog.array_type(prog.type("struct mem_section"), 1)
        return prog.array_type(row, prog["NR_SECTION_ROOTS"].value_())
    return prog.type("struct mem_section **")


def _section_to_node_table(prog: Program) -> Type | None:
    # "static u8 section_to_node_table[NR_MEM_SECTIONS]", or u16 for more than 256 nodes.
    nodes = max_numnodes(prog)
    if not nodes:
        return None
    sections = 1 << (prog["MAX_PHYSMEM_BITS"].value_() - prog["SECTION_SIZE_BITS"].value_())
    return prog.array_type(prog.type("unsigned char" if nodes <= 256 else "unsigned short"), sections)


def _per_cpu_offset(prog: Program) -> Type | None:
    bits = prog.type("struct cpumask").member("bits").type
    length = bits.length
    if bits.kind != TypeKind.ARRAY or not length:
        return None
    word = prog.type("unsigned long")
    return prog.array_type(word, length * sizeof(word) * 8)


_COMPUTED: dict[str, Callable[[Program], Type | None]] = {
    "__per_cpu_offset": _per_cpu_offset,
    "mem_section": _mem_section,
    "node_data": _node_data,
    "node_states": _node_states,
    "section_to_node_table": _section_to_node_table,
    "zone_names": _zone_names,
}


def names() -> tuple[str, ...]:
    """Get the names of all variables declared here."""
    return (*DECLARATIONS, *_COMPUTED)


def variable_type(prog: Program, name: str) -> Type | None:
    """
    Get the type of a kernel variable.

    :return: Type, or ``None`` if the variable isn't declared here or its type can't be made.
    """
    try:
        if name in DECLARATIONS:
            return prog.type(DECLARATIONS[name])
        if name in _COMPUTED:
            return _COMPUTED[name](prog)
    except LookupError:
        return None
    return None


def sections_share_mem_map(prog: Program) -> bool:
    """
    Tell whether all sections have the same encoded ``section_mem_map``, as with SPARSEMEM_VMEMMAP.

    A single section can't tell. No 64-bit architecture of Linux uses SPARSEMEM without VMEMMAP by
    default, and no 32-bit one has it.
    """
    try:
        mem_section = prog["mem_section"]
        per_root = sections_per_root(prog)
        roots = prog["NR_SECTION_ROOTS"].value_()
    except LookupError:
        return False
    try:
        # Without SPARSEMEM_VMEMMAP there is no subsection_map (since Linux 5.7), and a node's sections share the value
        # too, since their memmap is allocated in one piece.
        if not prog.type("struct mem_section_usage").has_member("subsection_map"):
            return False
    except LookupError:
        pass
    flags = section_flags(prog)
    first: int | None = None
    for root_nr in range(roots):
        root = mem_section[root_nr]
        if root.type_.unaliased_kind() == TypeKind.POINTER and not root.read_():
            continue
        for nr in range(per_root):
            value = root[nr].section_mem_map.value_()
            if not value & flags.bits[HAS_MEM_MAP]:
                continue
            if first is None:
                first = value & flags.map_mask
            else:
                return bool(value & flags.map_mask == first)
    return first is not None and sizeof(prog.type("unsigned long")) == 8


def flat_max_mapnr(prog: Program) -> Object | None:
    """
    Compute ``max_mapnr`` of a FLATMEM kernel where no symbol names it: the memmap ends with the node.

    :return: ``unsigned long``, or ``None`` if there is no single node.
    """
    try:
        pgdat = prog["contig_page_data"]
        end = pgdat.node_start_pfn.value_() + pgdat.node_spanned_pages.value_()
        return Object(prog, "unsigned long", end - prog["ARCH_PFN_OFFSET"].value_())
    except LookupError:
        return None


def highest_present_section_nr(prog: Program) -> Object | None:
    """
    Compute ``__highest_present_section_nr`` where no symbol names it. Linux 7.4 calls it ``__highest_used_section_nr``.

    drgn's fallback is one too high and makes ``for_each_present_section()`` run past the array.

    :return: ``unsigned long``, or ``None`` without SPARSEMEM.
    """
    try:
        mem_section = prog["mem_section"]
        per_root = sections_per_root(prog)
        roots = prog["NR_SECTION_ROOTS"].value_()
    except LookupError:
        return None
    flags = section_flags(prog)
    # Linux 7.4 takes SECTION_MARKED_PRESENT away. Where it isn't, a section with anything in it is present.
    present = flags.bits.get(MARKED_PRESENT, -1)
    for root_nr in range(roots - 1, -1, -1):
        root = mem_section[root_nr]
        if root.type_.unaliased_kind() == TypeKind.POINTER and not root.read_():
            continue
        for nr in range(per_root - 1, -1, -1):
            if root[nr].section_mem_map.value_() & present:
                return Object(prog, "unsigned long", root_nr * per_root + nr)
    return Object(prog, "unsigned long", 0)
