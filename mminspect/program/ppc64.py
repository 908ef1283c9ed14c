# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel memory of ppc64 with the hash MMU: POWER8 and older, ``disable_radix``, and some partitions.

drgn walks the page tables of the radix MMU only, and has none for the hash MMU. The linear map needs no table. The
kernel keeps the list of what backs the vmemmap (``vmemmap_list``) for just this purpose, and VMCOREINFO describes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from drgn import FaultError, Program

from mminspect.errors import TargetError
from mminspect.program.corefile import CoreFile
from mminspect.program.overlay import NO_PADDR
from mminspect.program.vmcoreinfo import Vmcoreinfo

PAGE_OFFSET = 0xC000000000000000
# Where vmalloc begins, since Linux 5.2; before, the linear map could be larger.
LINEAR_END = 0xC008000000000000
PHYSICAL = 0x0FFFFFFFFFFFFFFF
MMU_FTR_TYPE_RADIX = 0x40
# Four times what 64 TiB in pages of 4 KiB need with a vmemmap of 16 MiB pages.
MAX_BACKINGS = 1 << 18


class Backings:
    """
    The memory behind the vmemmap.

    :param prog: Reads physical memory.
    :param pages: (virtual address, physical address) of each piece.
    :param size: Bytes of each.
    """

    def __init__(self, prog: Program, pages: Sequence[tuple[int, int]], size: int) -> None:
        self._prog = prog
        self._pages = sorted(pages)
        self._size = size
        self.start = self._pages[0][0]
        self.end = self._pages[-1][0] + size

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """
        Read the vmemmap; for ``Program.add_memory_segment()``.

        :raises drgn.FaultError: where nothing backs it, or the target doesn't hold that.
        """
        data = bytearray()
        while len(data) < count:
            here = address + len(data)
            at = bisect_right(self._pages, (here, PHYSICAL)) - 1
            virtual, backing = self._pages[at] if at >= 0 else (0, 0)
            inside = here - virtual
            if at < 0 or inside >= self._size:
                raise FaultError("nothing backs this part of the vmemmap", here)
            size = min(self._size - inside, count - len(data))
            data += self._prog.read(backing + inside, size, physical=True)
        return bytes(data)


def _number(vmcoreinfo: Vmcoreinfo, key: str) -> int:
    value = vmcoreinfo.number(key)
    if value is None:
        raise KeyError(key)
    return value


def has_hash_mmu(prog: Program, vmcoreinfo: Vmcoreinfo) -> bool | None:
    """Tell whether the kernel ran with the hash MMU; ``None`` if nothing tells."""
    radix = vmcoreinfo.number("NUMBER(RADIX_MMU)")
    if radix is not None:
        return not radix
    try:
        spec = prog.read_word(vmcoreinfo.symbols["cur_cpu_spec"] & PHYSICAL, physical=True)
        offset = _number(vmcoreinfo, "OFFSET(cpu_spec.mmu_features)")
        return not prog.read_u32((spec & PHYSICAL) + offset, physical=True) & MMU_FTR_TYPE_RADIX
    except (KeyError, FaultError):
        return None


def vmemmap_backings(prog: Program, vmcoreinfo: Vmcoreinfo) -> Backings:
    """
    Follow ``vmemmap_list``.

    :raises TargetError: if VMCOREINFO doesn't describe it, or it can't be true.
    :raises drgn.FaultError: if the target doesn't hold it.
    """
    symbols = vmcoreinfo.symbols
    try:
        psize = prog.read_u32(symbols["mmu_vmemmap_psize"] & PHYSICAL, physical=True)
        definition = symbols["mmu_psize_defs"] + psize * _number(vmcoreinfo, "SIZE(mmu_psize_def)")
        where = definition + _number(vmcoreinfo, "OFFSET(mmu_psize_def.shift)")
        shift = prog.read_u32(where & PHYSICAL, physical=True)
        offsets = [_number(vmcoreinfo, f"OFFSET(vmemmap_backing.{name})") for name in ("list", "phys", "virt_addr")]
        entry = prog.read_word(symbols["vmemmap_list"] & PHYSICAL, physical=True)
    except KeyError as e:
        raise TargetError(
            f"this kernel ran with the hash MMU, and its VMCOREINFO has no {e.args[0]}, so its vmemmap can't be read"
        ) from None
    pages: list[tuple[int, int]] = []
    while entry:
        following, backing, virtual = (prog.read_word((entry & PHYSICAL) + offset, physical=True) for offset in offsets)
        pages.append((virtual, backing))
        entry = following
        if len(pages) > MAX_BACKINGS:
            raise TargetError(f"vmemmap_list has more than {MAX_BACKINGS} entries; the dump is damaged")
    if not pages or not 12 <= shift <= 34:
        raise TargetError(f"vmemmap_list has {len(pages)} entries of 1 << {shift} bytes; the dump is damaged")
    return Backings(prog, pages, 1 << shift)


def lay_over(prog: Program, vmcoreinfo: Vmcoreinfo, core: CoreFile) -> None:
    """
    Map the linear map and the vmemmap of a dump of the hash MMU.

    A dump that has virtual addresses only, such as a capture, is left as it is, and so is one of the radix MMU.

    :raises TargetError: if the vmemmap can't be found.
    """
    if any(segment.paddr in NO_PADDR for segment in core.segments) or not has_hash_mmu(prog, vmcoreinfo):
        return
    try:
        vmemmap = vmemmap_backings(prog, vmcoreinfo)
    except FaultError as e:
        raise TargetError(f"vmemmap_list can't be read: {e}; the dump doesn't hold it") from None

    def linear(address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = prog.read(offset, count, physical=True)
        return data

    def hashed(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("mapped by the hash MMU's table, which isn't read", address)

    # The last segment that has an address counts.
    prog.add_memory_segment(PAGE_OFFSET, (1 << 64) - PAGE_OFFSET, hashed)
    prog.add_memory_segment(PAGE_OFFSET, LINEAR_END - PAGE_OFFSET, linear)
    prog.add_memory_segment(vmemmap.start, vmemmap.end - vmemmap.start, vmemmap.read)
