# SPDX-License-Identifier: LGPL-2.1-or-later
"""An open kernel: its target, types, memory map and struct pages as one object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from drgn import Program

from mminspect.kernel.device import DEVICE, DeviceMemory, device_memory, device_pages
from mminspect.kernel.free_lists import FreeLists
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.proc import read_proc_files
from mminspect.kernel.resources import Resource, ram_ranges, resources
from mminspect.layout.read import read_memory_map
from mminspect.memmap.calibrate import calibrate
from mminspect.memmap.lru import with_lru_lists
from mminspect.memmap.percpu import with_per_cpu_pages
from mminspect.memmap.reader import Memmap
from mminspect.memmap.unaccepted import with_unaccepted
from mminspect.memorymap.device import DevicePages
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import PerCpuBlocks, per_cpu_blocks
from mminspect.memorymap.proc import ProcFiles
from mminspect.memorymap.sections import Section
from mminspect.program import open as targets
from mminspect.program.target import Target
from mminspect.typeinfo import load as typeinfo
from mminspect.typeinfo.load import TypeSource


class Kernel:
    """
    An open kernel. Everything but its types is read when it is first asked for, and kept.

    :param pageblock_order: Overrides what the kernel says.
    :ivar target: The vmcore or the running kernel.
    :ivar types: Where its types are from.
    """

    def __init__(self, target: Target, types: TypeSource, pageblock_order: int | None = None) -> None:
        self.target = target
        self.types = types
        self._pageblock_order = pageblock_order

    @property
    def prog(self) -> Program:
        """The drgn program."""
        return self.target.prog

    @property
    def is_live(self) -> bool:
        """Whether it runs while it is read."""
        return self.target.moves

    @cached_property
    def memory(self) -> MemoryMap:
        """The memory map, without the per-CPU lists."""
        return read_memory_map(self.target, self._pageblock_order)

    @cached_property
    def memory_with_lists(self) -> MemoryMap:
        """The memory map with the per-CPU lists, which take time to follow, and the lists of unaccepted memory."""
        return with_unaccepted(self.target, with_per_cpu_pages(self.target, self.memory))

    def memory_for(self, per_cpu: bool = False, device: bool = False, lru: bool = False) -> MemoryMap:
        """
        The memory map with what is asked for.

        :param per_cpu: With the per-CPU lists, and those of unaccepted memory.
        :param device: With the struct pages of device memory.
        :param lru: With the LRU lists, which are read anew each time.
        """
        memory = self.memory_with_lists if per_cpu else self.memory
        # To look for device memory takes time, and most machines have none.
        if device and any(zone.name == DEVICE for zone in memory.populated_zones):
            memory = replace(memory, device=self._device_pages)
        return with_lru_lists(self.target, memory) if lru else memory

    @cached_property
    def _device_pages(self) -> tuple[DevicePages, ...]:
        return tuple(device_pages(self.prog, self.memory, self.memmap, self.device_memory))

    @cached_property
    def memmap(self) -> Memmap:
        """The struct pages. They decode to the zones that they are in."""
        memmap = self._uncalibrated()
        calibrate(memmap, self.memory)
        return memmap

    def _uncalibrated(self) -> Memmap:
        return Memmap(self.prog, self.memory, live=self.target.is_here, direct=self.target.direct)

    @cached_property
    def per_cpu_blocks(self) -> PerCpuBlocks:
        """The free blocks on per-CPU lists."""
        return per_cpu_blocks(self.memory_with_lists.per_cpu)

    @cached_property
    def device_memory(self) -> list[DeviceMemory]:
        """The memory of devices (ZONE_DEVICE), which isn't online."""
        return device_memory(self.prog, self.memory)

    def section(self, pfn: int) -> Section | None:
        """Get the section of a pfn that is online or of a device, or ``None``."""
        online = self.memory.section(pfn)
        if online is not None or pfn < 0:
            return online
        return next((device.section(self.memory, pfn) for device in self.device_memory if device.has(pfn)), None)

    @cached_property
    def free_lists(self) -> FreeLists:
        """The heads of the buddy allocator's lists."""
        return FreeLists(self.prog, self.memory)

    @cached_property
    def resources(self) -> list[Resource]:
        """What ``/proc/iomem`` shows."""
        return resources(self.prog)

    @cached_property
    def ram(self) -> list[tuple[int, int]] | None:
        """The pfns that ``/proc/iomem`` calls System RAM, ``None`` if it can't be read."""
        return ram_ranges(self.resources, self.memory.layout.page_size)

    @cached_property
    def proc_files(self) -> ProcFiles:
        """What the running kernel says of its memory in ``/proc``, read after the memory map; nothing of a guest's."""
        if not self.target.is_here:
            return ProcFiles(None, (), ())
        return read_proc_files(self.memory.layout.page_size)

    def has_member(self, type_name: str, member: str) -> bool:
        """Tell whether a type of the kernel has a member; no if there is no such type."""
        try:
            return bool(self.prog.type(type_name).has_member(member))
        except LookupError:
            return False

    def identify(self, address: int) -> dict[str, object]:
        """Say what lives at an address; see :func:`mminspect.kernel.identify.identify`."""
        # Imported late: with it come all of drgn's helpers, which most scans don't need.
        from mminspect.kernel.identify import identify

        return identify(self.target, self.memory, address)

    def read_privileged(self) -> None:
        """Read what only root can read; it is kept for :meth:`reread` and for later scans."""
        _ = self.memory, self.proc_files

    def reread(self) -> Kernel:
        """
        Read the memory map of the running kernel again. Its layout is kept.

        :raises mminspect.errors.LayoutError: if it can't be read or can't be true.
        """
        again = Kernel(self.target, self.types)
        again.memory = read_memory_map(self.target, layout=self.memory.layout)
        # The layout was calibrated.
        again.memmap = again._uncalibrated()
        return again


@contextlib.contextmanager
def open_kernel(inputs: Inputs) -> Iterator[Kernel]:
    """
    Open a vmcore, the running kernel, or a guest, for as long as it is read.

    :raises mminspect.errors.MminspectError: if it can't be opened or has no types, or if the vmcore's file was cut
        short meanwhile.
    """
    with targets.opened(inputs.core, inputs.pieces, inputs.vmcoreinfo, inputs.qemu) as target:
        types = typeinfo.load(target, inputs.symbols, inputs.btf, inputs.system_map)
        yield Kernel(target, types, inputs.pageblock_order)


def from_program(prog: Program, pageblock_order: int | None = None) -> Kernel:
    """
    Make a kernel of a drgn program that somebody else opened.

    :param prog: A vmcore or the running kernel. If it has no types yet, BTF is looked for and added to it.
    :param pageblock_order: Overrides what the kernel says.
    :raises mminspect.errors.MminspectError: if it isn't the Linux kernel, or has no types.
    """
    target = targets.from_program(prog)
    return Kernel(target, typeinfo.load(target), pageblock_order)
