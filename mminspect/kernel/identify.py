# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lives at a kernel address: a symbol, a slab object, a page and its owner, free memory."""

from __future__ import annotations

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import PageSlab, decode_page_flags, follow_pfn, virt_to_pfn
from drgn.helpers.linux.slab import slab_object_info

from mminspect.kernel.resources import MAX_NAME
from mminspect.memmap.page import decode_page
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.program.arch import arch_of
from mminspect.program.pagetable import PAGE_SHIFT
from mminspect.program.target import Target
from mminspect.program.text import kernel_name
from mminspect.typeinfo.symbols import best_symbol


def identify(target: Target, memory: MemoryMap, address: int) -> dict[str, object]:
    """
    Say what lives at an address.

    :return: ``kind`` (``symbol``, ``slab``, ``free``, ``reserved``, ``page``, ``unmapped``, ``unknown``), ``text`` for
        people, and what is known: ``symbol`` and ``offset``, ``cache`` and ``object``, ``pfn`` and ``flags``.
    """
    prog = target.prog
    symbol = best_symbol(s for s in prog.symbols(address) if s.address <= address < s.address + s.size)
    if symbol is not None:
        offset = address - symbol.address
        return {
            "kind": "symbol",
            "text": f"symbol {symbol.name}+{offset:#x}",
            "symbol": symbol.name,
            "offset": offset,
        }
    # The struct page shows whose memory it is, even where the target doesn't hold the memory itself.
    pfn = virtual_to_pfn(target, memory, address)
    if pfn is not None:
        return _identify_page(target, memory, pfn, address)
    try:
        prog.read(address, memory.layout.word_bits // 8)
    except FaultError:
        return {"kind": "unmapped", "text": "no memory there that the target holds; on a live kernel, a fault"}
    return {"kind": "unknown", "text": "unknown memory"}


def virtual_to_pfn(target: Target, memory: MemoryMap, address: int) -> int | None:
    """
    Translate a kernel virtual address: of the direct mapping, else of any other, through the page tables.

    :return: A pfn that has a struct page, or ``None``. A capture has no page tables.
    """
    for translate in (_direct_mapping_to_pfn, _follow_pfn):
        try:
            pfn = translate(target, memory, address)
        except (LookupError, FaultError, NotImplementedError, ValueError, OverflowError):
            continue
        except Exception as e:
            # drgn raises a plain Exception for a kernel that doesn't say where its direct mapping is, as 5.10.
            if type(e) is not Exception:
                raise
            continue
        if pfn is not None and memory.section(pfn) is not None:
            return pfn
    return None


def _direct_mapping_to_pfn(target: Target, memory: MemoryMap, address: int) -> int | None:
    prog = target.prog
    page_offset = arch_of(prog.platform).page_offset
    if page_offset is not None:
        pfn = (address - page_offset(target.vmcoreinfo)) // memory.layout.page_size
    else:
        pfn = int(virt_to_pfn(prog, address).value_())
    # The direct mapping ends where high memory begins; other mappings follow.
    highmem = min((zone.start_pfn for zone in memory.populated_zones if zone.name == "HighMem"), default=None)
    return pfn if pfn >= 0 and (highmem is None or pfn < highmem) else None


def _follow_pfn(target: Target, memory: MemoryMap, address: int) -> int | None:
    """Walk the kernel's page tables."""
    prog = target.prog
    tables = arch_of(prog.platform).page_tables(prog, target.vmcoreinfo)
    if tables is not None:
        return tables.translate(address)[0] >> PAGE_SHIFT
    root = target.vmcoreinfo.symbols.get("swapper_pg_dir")
    if root is None:
        return None
    mm = Object(prog, "struct mm_struct", value={"pgd": root})
    return int(follow_pfn(mm, address).value_())


def _identify_page(target: Target, memory: MemoryMap, pfn: int, address: int) -> dict[str, object]:
    prog = target.prog
    section = memory.section(pfn)
    if section is None:
        return {"kind": "unknown", "text": f"physical page {pfn:#x}, which has no struct page", "pfn": pfn}
    layout = memory.layout
    page = Object(prog, "struct page *", pfn_to_page(layout, section, pfn))
    try:
        entry = decode_page(layout, pfn, prog.read(page.value_(), layout.page.size), 0)
        if entry.reserved:
            return {"kind": "reserved", "text": f"page {pfn:#x}, reserved (boot-time memory)", "pfn": pfn}
        if entry.buddy:
            return {"kind": "free", "text": f"page {pfn:#x}, free", "pfn": pfn}
        if PageSlab(page):
            return _identify_slab(prog, pfn, address)
        flags = decode_page_flags(page)
        return {"kind": "page", "text": f"page {pfn:#x}, in use ({flags or 'no flags'})", "pfn": pfn, "flags": flags}
    except (FaultError, LookupError, AttributeError, ValueError):
        return {"kind": "unknown", "text": f"page {pfn:#x}, of unknown use", "pfn": pfn}


def _identify_slab(prog: Program, pfn: int, address: int) -> dict[str, object]:
    info = slab_object_info(prog, address)
    if info is None:
        return {"kind": "slab", "text": f"page {pfn:#x}, slab memory", "pfn": pfn}
    cache = kernel_name(info.slab_cache.name.string_()[:MAX_NAME], MAX_NAME)
    state = {True: "allocated", False: "free", None: "state unknown"}[info.allocated]
    return {
        "kind": "slab",
        "text": f"slab object {info.address:#x} of {cache}, {state}",
        "pfn": pfn,
        "cache": cache,
        "object": info.address,
    }
