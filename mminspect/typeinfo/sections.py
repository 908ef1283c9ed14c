# SPDX-License-Identifier: LGPL-2.1-or-later
"""What types tell of sections: their flags, and how many of them a root has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Callable

from drgn import Program, TypeKind, sizeof

from mminspect.errors import LayoutError
from mminspect.typeinfo.lookup import enumerator

MARKED_PRESENT = "SECTION_MARKED_PRESENT"
HAS_MEM_MAP = "SECTION_HAS_MEM_MAP"
IS_ONLINE = "SECTION_IS_ONLINE"
IS_EARLY = "SECTION_IS_EARLY"
TAINT_ZONE_DEVICE = "SECTION_TAINT_ZONE_DEVICE"
MAP_LAST_BIT = "SECTION_MAP_LAST_BIT"
# Every kernel that enumerates its flags has these.
_NEEDED = (HAS_MEM_MAP, IS_ONLINE, IS_EARLY)
_OPTIONAL = (MARKED_PRESENT, TAINT_ZONE_DEVICE, "SECTION_IS_VMEMMAP_PREINIT")
# Before Linux kernel commit ed7802dd48f7 ("mm: memory_hotplug: enumerate all supported section flags") (in
# v6.0), the flags were macros with these values, as far as the kernel had them.
_FLAG_MACROS = {
    MARKED_PRESENT: 0x1,
    HAS_MEM_MAP: 0x2,
    IS_ONLINE: 0x4,
    IS_EARLY: 0x8,
    TAINT_ZONE_DEVICE: 0x10,
}


@dataclass(frozen=True)
class SectionFlags:
    """
    The flags in ``section_mem_map``.

    :ivar bits: Values by name.
    :ivar map_mask: ``SECTION_MAP_MASK``.
    """

    bits: dict[str, int]
    map_mask: int

    @property
    def online(self) -> int:
        """What the ``section_mem_map`` of a valid and online section has."""
        return self.bits[HAS_MEM_MAP] | self.bits[IS_ONLINE]

    def names(self, value: int) -> tuple[str, ...]:
        """Get the names of the flags that are set in a ``section_mem_map``."""
        return self._names(value & ~self.map_mask)

    @cached_property
    def _names(self) -> Callable[[int], tuple[str, ...]]:
        # All sections have one of a few sets of flags.
        return lru_cache(64)(lambda flags: tuple(name for name, bit in self.bits.items() if flags & bit))


def section_flags(prog: Program) -> SectionFlags:
    """
    Get the section flags of the kernel at hand, each by its own enumerator.

    Linux 7.4 takes SECTION_MARKED_PRESENT_BIT away, and the others move. So no flag tells where another one is, and the
    macros of old kernels are for kernels that are proved to be old.

    :raises LayoutError: if the types don't tell.
    """
    word = (1 << 8 * sizeof(prog.type("unsigned long"))) - 1
    bits: dict[str, int] = {}
    for name in (*_NEEDED, *_OPTIONAL):
        bit = _constant(prog, f"{name}_BIT")
        if bit is not None:
            bits[name] = bit
    last = _constant(prog, MAP_LAST_BIT)
    if not bits and last is None:
        if not _flags_are_macros(prog):
            raise LayoutError(
                "the types name no section flags, and they are not those of a kernel before Linux 6.0, which had "
                "macros; give the kernel's own vmlinux or BTF"
            )
        # SECTION_MAP_LAST_BIT was 1 << 3 in 4.19, 1 << 4 from 5.3, 1 << 5 from 5.12. The address itself is
        # aligned to more than that.
        return SectionFlags(dict(_FLAG_MACROS), word & ~0x1F)
    missing = [f"{name}_BIT" for name in _NEEDED if name not in bits]
    # Both are under CONFIG_ZONE_DEVICE.
    if TAINT_ZONE_DEVICE not in bits and enumerator(prog, "enum zone_type", "ZONE_DEVICE") is not None:
        missing.append(f"{TAINT_ZONE_DEVICE}_BIT")
    if last is None:
        raise LayoutError(_not_known([*missing, MAP_LAST_BIT]))
    if missing:
        raise LayoutError(_not_known(missing))
    if len(set(bits.values())) < len(bits) or not all(0 <= bit < last <= 12 for bit in bits.values()):
        raise LayoutError("the section flags of the types can't be: two are one, or behind the last; they are damaged")
    ordered = sorted(bits.items(), key=lambda item: item[1])
    return SectionFlags({name: 1 << bit for name, bit in ordered}, word & ~((1 << last) - 1))


def _constant(prog: Program, name: str) -> int | None:
    try:
        return int(prog.constant(name).value_())
    except LookupError:
        return None


def _not_known(missing: list[str]) -> str:
    return (
        f"the types name section flags, but not {', '.join(missing)}: "
        "the kernel is newer than what mminspect knows, or the types are damaged"
    )


def _flags_are_macros(prog: Program) -> bool:
    """
    Tell by types whether a kernel is older than Linux 6.0.

    ``mm_struct.mm_rb`` was in every kernel until Linux kernel commit 524e00b36e8c ("mm: remove rb tree.") (in v6.1),
    so no newer kernel is taken for an old one. Since Linux kernel commit 4b23a68f9536 ("mm/page_alloc: protect PCP
    lists with a spinlock") (in v6.0), ``struct per_cpu_pages`` has a lock. A kernel that has both has backports, and
    nothing tells of which.
    """
    try:
        return prog.type("struct mm_struct").has_member("mm_rb") and not prog.type("struct per_cpu_pages").has_member(
            "lock"
        )
    except (LookupError, TypeError):
        return False


def sections_per_root(prog: Program) -> int:
    """
    Get ``SECTIONS_PER_ROOT``.

    drgn refuses a ``struct mem_section`` whose size is not a power of two, as it can be since Linux 7.4.

    :raises LookupError: without SPARSEMEM.
    :raises LayoutError: if the types can't be true.
    """
    outer = prog["mem_section"].type_.unaliased()
    inner = outer.type.unaliased() if outer.kind in (TypeKind.ARRAY, TypeKind.POINTER) else outer
    if inner.kind == TypeKind.ARRAY:
        # SPARSEMEM_STATIC
        return 1
    size = sizeof(prog.type("struct mem_section"))
    page_size = 1 << prog["PAGE_SHIFT"].value_()
    if inner.kind != TypeKind.POINTER or not 0 < size <= page_size:
        raise LayoutError(f"mem_section of type {outer}, {size} bytes a section, can't be; the types are damaged")
    return int(page_size // size)


def has_vmemmap(prog: Program) -> bool:
    """
    Tell whether the kernel has SPARSEMEM_VMEMMAP.

    drgn's ``vmemmap`` asks for the same function, but then for a section with the flags of kernels up to Linux 7.3.
    """
    try:
        prog.function("vmemmap_populate")
    except LookupError:
        return False
    return True
