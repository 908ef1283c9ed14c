# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lives at a kernel address: a symbol, a slab object, a page and its owner, free memory."""

from typing import Callable, Dict, Optional

from drgn import Architecture, FaultError, Object, Program
from drgn.helpers.linux.mm import PageSlab, decode_page_flags, virt_to_pfn
from drgn.helpers.linux.slab import slab_object_info

from mminspect.layout.records import MemoryMap, Section
from mminspect.target import Target
from mminspect.target.overlay import i386_page_offset
from mminspect.typeinfo.symbols import best_symbol

_UNKNOWN: Dict[str, object] = {"kind": "unknown", "text": "unknown memory"}


def what_is(target: Target, memory: MemoryMap) -> Callable[[int], Dict[str, object]]:
    """
    Make a function that says what lives at an address.

    Its result has ``kind`` (``symbol``, ``slab``, ``free``, ``reserved``, ``page``, ``unmapped``, ``unknown``),
    ``text`` for people, and what is known: ``symbol`` and ``offset``, ``cache`` and ``object``, ``pfn`` and ``flags``.
    """
    prog = target.prog

    def look(address: int) -> Dict[str, object]:
        symbol = best_symbol(s for s in prog.symbols(address) if s.address <= address < s.address + s.size)
        if symbol is not None:
            offset = address - symbol.address
            return {
                "kind": "symbol",
                "text": f"symbol {symbol.name}+{offset:#x}",
                "symbol": symbol.name,
                "offset": offset,
            }
        try:
            prog.read(address, memory.layout.word_bits // 8)
        except FaultError:
            return {"kind": "unmapped", "text": "no memory there that the target holds; on a live kernel, a fault"}
        pfn = virtual_to_pfn(target, address)
        if pfn is None:
            return dict(_UNKNOWN)
        return _what_page(prog, memory, pfn, address)

    return look


def virtual_to_pfn(target: Target, address: int) -> Optional[int]:
    """Translate a kernel virtual address, or return ``None``."""
    prog = target.prog
    assert prog.platform is not None
    try:
        if prog.platform.arch == Architecture.I386:
            # drgn can't translate i386 addresses; the direct mapping is linear.
            offset: int = address - i386_page_offset(target.vmcoreinfo)
            return offset >> 12 if offset >= 0 else None
        return int(virt_to_pfn(prog, address).value_())
    except (LookupError, FaultError, NotImplementedError, ValueError):
        return None


def _section_of(memory: MemoryMap, pfn: int) -> Optional[Section]:
    for section in memory.sections:
        if any(start <= pfn < end for start, end in section.ranges):
            return section
    return None


def _what_page(prog: Program, memory: MemoryMap, pfn: int, address: int) -> Dict[str, object]:
    section = _section_of(memory, pfn)
    if section is None:
        return {"kind": "unknown", "text": f"physical page {pfn:#x}, which has no struct page", "pfn": pfn}
    layout = memory.layout
    page = Object(prog, "struct page *", section.mem_map + pfn * layout.page_struct_size)
    try:
        word = prog.read_word(page.value_() + layout.flags_offset)
        mapcount = page._mapcount.counter.value_()
        buddy = _buddy_mapcount(prog)
        if word >> layout.pg_reserved & 1:
            return {"kind": "reserved", "text": f"page {pfn:#x}, reserved (boot-time memory)", "pfn": pfn}
        if buddy is not None and mapcount == buddy:
            return {"kind": "free", "text": f"page {pfn:#x}, free", "pfn": pfn}
        if PageSlab(page):
            return _what_slab(prog, pfn, address)
        flags = decode_page_flags(page)
        return {"kind": "page", "text": f"page {pfn:#x}, in use ({flags or 'no flags'})", "pfn": pfn, "flags": flags}
    except (FaultError, LookupError, AttributeError, ValueError):
        return {"kind": "unknown", "text": f"page {pfn:#x}, of unknown use", "pfn": pfn}


def _buddy_mapcount(prog: Program) -> Optional[int]:
    # VMCOREINFO has it since long before 4.19, for makedumpfile.
    for line in prog["VMCOREINFO"].string_().decode("ascii", "replace").splitlines():
        if line.startswith("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)="):
            return int(line.partition("=")[2])
    return None


def _what_slab(prog: Program, pfn: int, address: int) -> Dict[str, object]:
    info = slab_object_info(prog, address)
    if info is None:
        return {"kind": "slab", "text": f"page {pfn:#x}, slab memory", "pfn": pfn}
    cache = info.slab_cache.name.string_().decode("ascii", "replace")
    state = {True: "allocated", False: "free", None: "state unknown"}[info.allocated]
    return {
        "kind": "slab",
        "text": f"slab object {info.address:#x} of {cache}, {state}",
        "pfn": pfn,
        "cache": cache,
        "object": info.address,
    }
