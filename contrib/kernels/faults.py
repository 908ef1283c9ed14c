# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests whose memory makes a stock kernel go wrong; docs/stock-kernels.md says why."""

from __future__ import annotations

from contrib.kernels.layouts import MemoryRange, numa, srat
from contrib.kernels.row import Row
from contrib.kernels.sources import AMD64_6_1, AMD64_BETWEEN, I386_5_10_PAE

# A page of node 0 between node 1's: node 0 spans that page's whole block, and node 1's memory behind it.
INTERLEAVED_PAGE = srat(
    (0, 1),
    (
        MemoryRange(0, 128, 1),
        MemoryRange(128, 1 / 256, 0),
        MemoryRange(128 + 1 / 256, 129 - 1 / 256, 1),
        MemoryRange(257, 1, 0),
    ),
)
# The same with half a MiB. Linux 7.3 gives the single page away before the buddy allocator runs.
INTERLEAVED_HALF = srat(
    (0, 1),
    (MemoryRange(0, 128, 1), MemoryRange(128, 0.5, 0), MemoryRange(128.5, 128.5, 1), MemoryRange(257, 1, 0)),
)
# Node 0 has enough memory elsewhere, and doesn't need to take that block.
INTERLEAVED_ENOUGH = srat(
    (0, 1),
    (MemoryRange(0, 128, 1), MemoryRange(128, 0.5, 0), MemoryRange(128.5, 128.5, 1), MemoryRange(257, 65, 0)),
)
# Node 1 begins inside a pageblock whose first page is node 0's and initialized late. It has no CPU and less than 16
# MiB, so little is allocated there.
LATE_BLOCK = srat((0,), (MemoryRange(0, 257, 0), MemoryRange(257, 14, 1)))
# 64 MiB of RAM up to the end of it, and 16 MiB in the middle of node 1, become soft-reserved.
SOFT_RESERVED = "memmap=64M%400M-1+0xefffffff"
SOFT_RESERVED_INSIDE = "memmap=16M%448M-1+0xefffffff"

# Soft-reserved memory becomes a DAX device, which the driver of character devices then takes. Its alignment is the
# size of its compound pages.
DAX_MODULES = ("device_dax", "dax_hmem")
FIRST_DAX = "sleep 1; dax=$(ls /sys/bus/dax/devices | head -n 1)"
ALIGN_TO_1G = "echo 1073741824 >/sys/bus/dax/devices/$dax/align"
BIND_DAX = "for file in new_id bind; do echo $dax >/sys/bus/dax/drivers/device_dax/$file; done; sleep 1"

FAULTS: tuple[Row, ...] = (
    Row(
        "amd64-6.1-interleaved-page",
        AMD64_6_1,
        "one page of node 0 inside node 1: the allocator moved pages of node 1 to node 0's lists",
        memory="258M",
        qemu_args=("-smp", "2"),
        srat=INTERLEAVED_PAGE,
    ),
    Row(
        "amd64-7.3-interleaved-half",
        AMD64_BETWEEN["7.3"],
        "the same on a newer kernel, with 0.5 MiB of node 0",
        memory="258M",
        qemu_args=("-smp", "2"),
        srat=INTERLEAVED_HALF,
    ),
    Row(
        "amd64-7.3-interleaved-enough",
        AMD64_BETWEEN["7.3"],
        "the same block, not taken yet",
        memory="322M",
        qemu_args=("-smp", "2"),
        srat=INTERLEAVED_ENOUGH,
    ),
    *(
        Row(
            f"amd64-{version}-late-block",
            source,
            "free pages of node 1 are on UNMOVABLE's lists, and node 0 made their pageblock MOVABLE later",
            memory="271M",
            srat=LATE_BLOCK,
        )
        for version, source in (("6.1", AMD64_6_1), ("7.3", AMD64_BETWEEN["7.3"]))
    ),
    *(
        Row(
            f"amd64-{version}-soft-reserved",
            source,
            "soft-reserved memory behind the last zone has zone id 5",
            memory="464M",
            append=SOFT_RESERVED,
        )
        for version, source in (("6.1", AMD64_6_1), ("7.3", AMD64_BETWEEN["7.3"]))
    ),
    *(
        Row(
            f"amd64-{version}-soft-reserved-inside",
            source,
            "soft-reserved memory inside node 1",
            memory="512M",
            qemu_args=numa("300M", "212M"),
            append=SOFT_RESERVED_INSIDE,
        )
        for version, source in (("6.1", AMD64_6_1), ("7.3", AMD64_BETWEEN["7.3"]))
    ),
    Row(
        "amd64-6.18-devdax-early",
        AMD64_BETWEEN["6.18"],
        "device memory in a section of RAM: 128 of each 512 struct pages were initialized",
        memory="1G",
        append=SOFT_RESERVED,
        modules=DAX_MODULES,
        shell=(FIRST_DAX, BIND_DAX),
    ),
    Row(
        "amd64-6.18-devdax-1g",
        AMD64_BETWEEN["6.18"],
        "device memory in compound pages of 1 GiB: only the first pageblock got a type",
        memory="3G",
        append="memmap=1G%1G-1+0xefffffff",
        modules=DAX_MODULES,
        shell=(FIRST_DAX, ALIGN_TO_1G, BIND_DAX),
    ),
    Row(
        "i386-5.10-pae-behind-mem-map",
        I386_5_10_PAE,
        "an entry of RAM that is less than a page: pfn_valid() is true of pfns behind mem_map's end",
        paging=True,
        append="memmap=0x800@0x1d000400",
    ),
)
