# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What firmware leaves in the memory of QEMU's virt machine, see Documentation/arch/arm64/booting.rst.

QEMU puts its own memory into a device tree that it is given, so the harness writes tree and kernel itself. For an EFI
memory map, it writes the system table of a firmware that is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from contrib.explore.board import (
    EFI_TYPES,
    MIB,
    MIRRORED,
    NO_MAP,
    PAGE,
    RESERVED,
    SOFT_RESERVED,
    VIRT_EFI,
    VIRT_FIRST,
    VIRT_RAM,
    VIRT_TREE,
)
from contrib.explore.devicetree import Node, cells, flatten
from contrib.explore.image import Image
from contrib.explore.layout import Layout, LayoutError, SratEntry, merge

# Of the RAM that the kernel isn't told of. Its first page is that of the ELF header.
STUB, SYSTEM_TABLE, EFI_MAP = VIRT_RAM + MIB, VIRT_RAM + 2 * MIB, VIRT_RAM + 3 * MIB
TREE_SIZE = MIB
WORDS = "nokaslr mitigations=off quiet panic=0"
# A vmcore is read without the firmware's functions.
EFI_WORDS = "efi=noruntime"
CONTROLLER = 1
# hw/arm/virt.c.
GICD, GICC, GIC_SIZE = 0x8000000, 0x8010000, 0x10000
# Secure, non-secure, virtual and hypervisor timer: PPI, number, level low on CPU 0.
TIMERS = [cell for number in (13, 14, 11, 10) for cell in (1, number, 0x104)]
EFI_SIGNATURE, EFI_REVISION = 0x5453595320494249, 2 << 16 | 100
EFI_WB = 1 << 3
# EFI_MEMORY_SP, EFI_MEMORY_MORE_RELIABLE.
EFI_ATTRIBUTES = {SOFT_RESERVED: 1 << 18, MIRRORED: 1 << 16}
DESCRIPTOR = struct.Struct("<IIQQQQ")


def virt_words(size: int) -> list[str]:
    """Return QEMU's options for the machine, whose first CPU begins at the stub."""
    machine = ["-machine", "virt,gic-version=2,memory-backend=ram", "-m", f"{size >> 20}M"]
    return [*machine, "-device", f"loader,addr={STUB:#x},cpu-num=0"]


def stub(entry: int) -> bytes:
    """Return code that jumps to the kernel with the device tree's address in x0."""
    instructions = (
        0x580000C0,  # ldr x0, .+24
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0
        0xD2800003,  # mov x3, #0
        0x58000084,  # ldr x4, .+16
        0xD61F0080,  # br x4
    )
    return struct.pack("<6IQQ", *instructions, VIRT_TREE, entry)


def _pieces(start: int, end: int, nodes: Sequence[SratEntry]) -> Iterator[tuple[int, int, int | None]]:
    """Return the parts of a range that are in one node each, or in none."""
    edges = sorted({start, end, *(edge for part in nodes for edge in (part.start, part.end) if start < edge < end)})
    for low, high in zip(edges, edges[1:]):
        yield low, high, next((part.node for part in nodes if part.start <= low < part.end), None)


def memory_nodes(layout: Layout) -> Node:
    """Return the nodes of memory, in the order of the layout's nodes."""
    ranges = merge((entry.start, entry.end) for entry in layout.e820)
    pieces = [piece for start, end in ranges for piece in _pieces(start, end, layout.srat)]
    first: dict[int | None, int] = {}
    for number, part in enumerate(layout.srat):
        first.setdefault(part.node, number)
    found: Node = {}
    for start, end, node in sorted(pieces, key=lambda piece: (first.get(piece[2], len(first)), piece[0])):
        name = f"memory@{start:x}"
        found[name] = {"device_type": "memory", "reg": cells(start, end - start)}
        if node is not None:
            found[name]["numa-node-id"] = node
    return found


def _reserved(layout: Layout) -> Node:
    found: Node = {}
    for number, entry in enumerate(entry for entry in layout.e820 if entry.type in (RESERVED, NO_MAP)):
        name = f"kept{number}@{entry.start:x}"
        found[name] = {"reg": cells(entry.start, entry.end - entry.start)}
        if entry.type == NO_MAP:
            found[name]["no-map"] = None
    return {"#address-cells": 2, "#size-cells": 2, "ranges": None, **found}


def _cpus(layout: Layout) -> Node:
    found: Node = {}
    for number in range(layout.cpus):
        name = f"cpu@{number}"
        found[name] = {"device_type": "cpu", "compatible": "arm,cortex-a57", "enable-method": "psci", "reg": number}
        if number < len(layout.cpu_nodes):
            found[name]["numa-node-id"] = layout.cpu_nodes[number]
    return {"#address-cells": 1, "#size-cells": 0, **found}


def device_tree(layout: Layout) -> Node:
    """Return the device tree of a layout."""
    efi = layout.machine == VIRT_EFI.name
    chosen: Node = {"bootargs": " ".join([WORDS, *([EFI_WORDS] if efi else []), *layout.words])}
    if layout.initrd is not None:
        start = layout.initrd.start
        chosen["linux,initrd-start"], chosen["linux,initrd-end"] = cells(start), cells(start + layout.initrd.size)
    if efi:
        chosen["linux,uefi-system-table"], chosen["linux,uefi-mmap-start"] = cells(SYSTEM_TABLE), cells(EFI_MAP)
        chosen["linux,uefi-mmap-size"] = DESCRIPTOR.size * len(layout.e820)
        chosen["linux,uefi-mmap-desc-size"], chosen["linux,uefi-mmap-desc-ver"] = DESCRIPTOR.size, 1
    kept: Node = {} if efi else {"reserved-memory": _reserved(layout)}
    return {
        "#address-cells": 2,
        "#size-cells": 2,
        "compatible": "linux,dummy-virt",
        "interrupt-parent": CONTROLLER,
        "chosen": chosen,
        **memory_nodes(layout),
        **kept,
        "cpus": _cpus(layout),
        "psci": {"compatible": "arm,psci-0.2", "method": "hvc"},
        "timer": {"compatible": "arm,armv8-timer", "always-on": None, "interrupts": TIMERS},
        f"intc@{GICD:x}": {
            "compatible": "arm,cortex-a15-gic",
            "#interrupt-cells": 3,
            "interrupt-controller": None,
            "phandle": CONTROLLER,
            "reg": cells(GICD, GIC_SIZE, GICC, GIC_SIZE),
        },
    }


def efi_tables(layout: Layout) -> list[tuple[int, bytes]]:
    """Return the EFI system table and the memory map, with their addresses."""
    vendor, table, checksum = SYSTEM_TABLE + 0x100, SYSTEM_TABLE + 0x200, 0
    # One configuration table, whose GUID nobody knows. The kernel looks at nothing behind it.
    fields = (EFI_SIGNATURE, EFI_REVISION, 120, checksum, 0, vendor, 1, *(0,) * 8, 1, table)
    system = struct.pack("<QIIIIQIxxxx6QQQQQ", *fields).ljust(0x100, b"\0")
    name = "mminspect".encode("utf-16-le").ljust(0x100, b"\0")
    descriptors = b"".join(
        DESCRIPTOR.pack(
            EFI_TYPES[entry.type],
            0,
            entry.start,
            0,
            (entry.end - entry.start) // PAGE,
            EFI_WB | EFI_ATTRIBUTES.get(entry.type, 0),
        )
        for entry in layout.e820
    )
    return [(SYSTEM_TABLE, system + name + bytes([0xEE] * 16 + [0] * 8)), (EFI_MAP, descriptors)]


def loaded_virt(image: Image, layout: Layout) -> list[tuple[int, bytes]]:
    """
    Return all that firmware writes, as physical addresses and bytes.

    :raises LayoutError: if the device tree is too large.
    """
    tree = flatten(device_tree(layout))
    if len(tree) > TREE_SIZE:
        raise LayoutError(f"the device tree has {len(tree)} bytes: at most {TREE_SIZE}")
    pieces = [(segment.physical, segment.data) for segment in image.segments]
    pieces += [(VIRT_TREE, tree), (STUB, stub(image.entry))]
    if layout.machine == VIRT_EFI.name:
        pieces += efi_tables(layout)
    assert all(VIRT_RAM < address < VIRT_FIRST or address >= VIRT_TREE for address, _ in pieces)
    return pieces
