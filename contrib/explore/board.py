# SPDX-License-Identifier: LGPL-2.1-or-later
"""
QEMU's machines: where they can have memory, and what can be said of it. A new machine is one row.

An address is a physical address in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096

RAM = "ram"
RESERVED = "reserved"
ACPI = "acpi"
NVS = "nvs"
UNUSABLE = "unusable"
PMEM = "pmem"
PRAM = "pram"
SOFT_RESERVED = "soft-reserved"
NO_MAP = "no-map"
MIRRORED = "mirrored"
# Memory that the kernel can use.
RAM_TYPES = (RAM, MIRRORED)
# enum e820_type.
E820_TYPES: Mapping[str, int] = {
    RAM: 1,
    RESERVED: 2,
    ACPI: 3,
    NVS: 4,
    UNUSABLE: 5,
    PMEM: 7,
    PRAM: 12,
    SOFT_RESERVED: 0xEFFFFFFF,
}
# include/linux/efi.h: EFI_CONVENTIONAL_MEMORY and the like. An attribute says what is soft-reserved or mirrored.
EFI_TYPES: Mapping[str, int] = {RAM: 7, RESERVED: 0, ACPI: 9, NVS: 10, UNUSABLE: 8, SOFT_RESERVED: 7, MIRRORED: 7}
# What a device tree has: memory, /reserved-memory, and that with no-map.
TREE_TYPES = (RAM, RESERVED, NO_MAP)

# QEMU's pc machine has its PCI hole here once it has more than 3.5 GiB.
PCI_HOLE = 3 * GIB
HIGH_MEMORY = 4 * GIB
# TCG's physical addresses have 40 bits; a vmemmap that size would not fit the host.
MAX_ADDRESS = 512 * GIB
# Boot parameters, command line, page tables and the first stack.
BOOT_AREA = (0x7E000, 0x98000)
# Where nearly every kernel and its early page tables lie. The machine checks with the kernel at hand.
KERNEL_AREA = (16 * MIB, 72 * MIB)
# QEMU has no RAM here before firmware asks for it.
LEGACY_AREA = (0xA0000, MIB)

# QEMU's virt machine has its RAM here. The kernel is never told of the first 128 MiB: what the harness needs is there.
VIRT_RAM = GIB
VIRT_FIRST = GIB + 128 * MIB
# The device tree, and the kernel from two MiB later on.
VIRT_TREE = GIB + 190 * MIB
VIRT_KERNEL = VIRT_TREE + 2 * MIB
VIRT_KERNEL_AREA = (VIRT_TREE, VIRT_KERNEL + 64 * MIB)
# QEMU has no more RAM than that below its other devices.
VIRT_END = 256 * GIB


@dataclass(frozen=True)
class Board:
    """
    A machine, or what says where its memory is.

    :ivar name: What a layout calls it.
    :ivar machine: QEMU's name of it.
    :ivar types: What a range of memory can be.
    :ivar needed: Ranges that must be RAM: kernel and boot loader lie there.
    :ivar without: Ranges in which there can be no RAM.
    :ivar begin: Where a simple layout's memory begins, beside a PC's first MiB.
    :ivar floor: Behind what is needed.
    :ivar end: The address behind the last.
    :ivar unit: All edges are multiples of that.
    :ivar present: The types of which the kernel has struct pages.
    :ivar absent: The types of which it has none. Of others it depends on the kernel.
    """

    name: str
    machine: str
    types: tuple[str, ...]
    needed: tuple[tuple[int, int], ...]
    without: tuple[tuple[int, int], ...]
    begin: int
    floor: int
    end: int
    unit: int
    present: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def is_pc(self) -> bool:
        """Return whether it is a PC: with a BIOS area, and ACPI."""
        return self.machine == "pc"


PC = Board(
    name="pc",
    machine="pc",
    types=tuple(E820_TYPES),
    needed=(BOOT_AREA, KERNEL_AREA),
    without=((PCI_HOLE, HIGH_MEMORY),),
    begin=MIB,
    floor=80 * MIB,
    end=MAX_ADDRESS,
    unit=1,
    present=(RAM,),
    absent=tuple(kind for kind in E820_TYPES if kind != RAM),
)
# Memory is what the device tree says.
VIRT = Board(
    name="virt",
    machine="virt",
    types=TREE_TYPES,
    needed=(VIRT_KERNEL_AREA,),
    without=((0, VIRT_FIRST),),
    begin=VIRT_FIRST,
    floor=VIRT_KERNEL_AREA[1] + 8 * MIB,
    end=VIRT_END,
    unit=1,
    present=TREE_TYPES,
)
# Memory is what an EFI memory map says; the device tree has its nodes.
VIRT_EFI = replace(
    VIRT,
    name="virt-efi",
    types=tuple(EFI_TYPES),
    unit=PAGE,
    present=tuple(kind for kind in EFI_TYPES if kind != SOFT_RESERVED),
)
BOARDS: Mapping[str, Board] = {board.name: board for board in (PC, VIRT, VIRT_EFI)}
