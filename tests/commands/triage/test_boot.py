# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a boot's lines tell, and where a pfn lies by them."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.boot import Boot, Range, boot_of, read_boots
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.places import place_of

BOOT = """\
Linux version 6.1.0-13-amd64 (a@b) (gcc-12 12.2.0) #1 SMP PREEMPT_DYNAMIC
Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1
BIOS-provided physical RAM map:
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
BIOS-e820: [mem 0x0000000000100000-0x000000003a1fffff] usable
BIOS-e820: [mem 0x000000003a200000-0x000000003a3fffff] ACPI NVS
BIOS-e820: [mem 0x000000003a400000-0x000000003fffffff] usable
efi: mem07: [Boot Data          |   |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000100000-0x00000000001fffff] (1MB)
ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x1fffffff]
ACPI: SRAT: Node 1 PXM 1 [mem 0x20000000-0x3fffffff] hotplug
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x000000003fffffff]
  Normal   empty
  Device   empty
Movable zone start for each node
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x000000001fffffff]
  node   1: [mem 0x0000000020000000-0x000000003a1fffff]
  node   1: [mem 0x000000003a400000-0x000000003fffffff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000001fffffff]
Initmem setup node 1 [mem 0x0000000020000000-0x000000003fffffff]
On node 0, zone DMA: 1 pages in unavailable ranges
On node 1, zone DMA32: 512 pages in unavailable ranges
crashkernel reserved: 0x0000000030000000 - 0x0000000038000000 (128 MB)
cma: Reserved 64 MiB at 0x0000000028000000
PM: hibernation: Registered nosave memory: [mem 0x3a200000-0x3a3fffff]
"""

OLD = """\
Linux version 2.6.32-754.el6.x86_64 (a@b) (gcc version 4.4.7) #1 SMP
BIOS-provided physical RAM map:
 BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)
 BIOS-e820: 0000000000100000 - 000000003fff0000 (usable)
Zone PFN ranges:
  DMA      0x00000001 -> 0x00001000
  DMA32    0x00001000 -> 0x00100000
  Normal   0x00100000 -> 0x00100000
early_node_map[2] active PFN ranges
    0: 0x00000001 -> 0x0000009f
    0: 0x00000100 -> 0x0003fff0
"""

ARM64 = """\
Booting Linux on physical CPU 0x0000000000 [0x410fd034]
Linux version 6.6.0 (a@b) (gcc) #1 SMP
OF: reserved mem: 0x0000000047000000..0x00000000470fffff (1024 KiB) nomap non-reusable secmon@47000000
Zone ranges:
  DMA      [mem 0x0000000040000000-0x000000007fffffff]
"""


def boots(text: str) -> list[Boot]:
    """Read the boots of a log."""
    return read_boots(read_text(text.encode()).lines)


def test_boot_of_a_machine_with_two_nodes() -> None:
    (boot,) = boots(BOOT)
    assert (boot.release, boot.machine, boot.whole, boot.kdump) == ("6.1.0-13-amd64", "x86_64", True, False)
    assert [(zone.name, zone.start, zone.end) for zone in boot.zones] == [
        ("DMA", 0x1000, 0x1000000),
        ("DMA32", 0x1000000, 0x40000000),
    ]
    assert [(node.node, node.start, node.end) for node in boot.nodes] == [
        (0, 0x1000, 0x20000000),
        (1, 0x20000000, 0x40000000),
    ]
    assert [(hole.node, hole.zone, hole.pages) for hole in boot.unavailable] == [(0, "DMA", 1), (1, "DMA32", 512)]


@pytest.mark.parametrize(
    "wanted",
    [
        Range("firmware", 0, 0x9FC00, "usable"),
        Range("firmware", 0x3A200000, 0x3A400000, "ACPI NVS"),
        Range("efi", 0x100000, 0x200000, "Boot Data"),
        Range("srat", 0x20000000, 0x40000000, "hotplug", 1),
        Range("node", 0x1000, 0x9F000, "memory", 0),
        Range("reserved", 0x30000000, 0x38000000, "crash kernel"),
        Range("reserved", 0x28000000, 0x2C000000, "CMA"),
        Range("reserved", 0x3A200000, 0x3A400000, "nosave"),
    ],
)
def test_ranges_of_memory(wanted: Range) -> None:
    (boot,) = boots(BOOT)
    assert wanted in boot.ranges


def test_forms_of_old_kernels() -> None:
    (boot,) = boots(OLD)
    assert [(zone.name, zone.start, zone.end) for zone in boot.zones] == [
        ("DMA", 0x1000, 0x1000000),
        ("DMA32", 0x1000000, 0x100000000),
        ("Normal", 0x100000000, 0x100000000),
    ]
    assert Range("firmware", 0x100000, 0x3FFF0001, "usable") in boot.ranges
    assert Range("node", 0x100000, 0x3FFF0000, "memory", 0) in boot.ranges


def test_other_machines() -> None:
    first, second = boots(ARM64)
    assert (first.machine, second.release) == ("aarch64", "6.6.0")
    assert Range("reserved", 0x47000000, 0x47100000, "nomap non-reusable secmon@47000000") in second.ranges


def test_iomem_in_the_log() -> None:
    (boot,) = boots("00001000-0009fbff : System RAM\n  00100000-01ffffff : Kernel code\n")
    assert boot.ranges == (
        Range("iomem", 0x1000, 0x9FC00, "System RAM"),
        Range("iomem", 0x100000, 0x2000000, "Kernel code"),
    )


@pytest.mark.parametrize(
    ("pfn", "zone", "node", "ram"),
    [
        (0x100, "DMA", 0, True),
        (0x9F, "DMA", 0, False),
        (0x1FFFF, "DMA32", 0, True),
        (0x20000, "DMA32", 1, True),
        (0x3A300, "DMA32", 1, False),
        (0x40000, None, None, False),
    ],
)
def test_where_a_pfn_lies(pfn: int, zone: str | None, node: int | None, ram: bool) -> None:
    (boot,) = boots(BOOT)
    place = place_of(boot, pfn)
    assert (place.zone, place.node, place.ram) == (zone, node, ram)


def test_what_cuts_a_pageblock() -> None:
    (boot,) = boots(
        BOOT.replace("0x000000003a1fffff] usable", "0x000000003a2fffff] usable").replace(
            "node   1: [mem 0x0000000020000000-0x000000003a1fffff]",
            "node   1: [mem 0x0000000020000000-0x000000003a2fffff]",
        )
    )
    place = place_of(boot, 0x3A280)
    assert any("RAM of node 1 ends" in cut and "0x3a300" in cut for cut in place.cuts)
    assert place_of(boot, 0x10000).cuts == ()


def test_nothing_is_known_without_a_boot() -> None:
    place = place_of(Boot(), 0x1234)
    assert (place.zone, place.node, place.ram) == (None, None, None)
    assert "doesn't tell" in str(place)


def test_crash_kernels_boot_is_another() -> None:
    text = (
        BOOT
        + "usb 1-1: new device\n"
        + "Linux version 6.1.0-13-amd64 (a@b) (gcc) #1\nCommand line: elfcorehdr=0x2f000000\n"
    )
    first, second = boots(text)
    assert not first.kdump and second.kdump
    assert boot_of([first, second], len(BOOT.splitlines())) is first


def test_json_has_pfns() -> None:
    (boot,) = boots(BOOT)
    data = boot.as_dict()
    assert data["zones"][1] == {"name": "DMA32", "start_pfn": 0x1000, "end_pfn": 0x40000}
    assert data["nodes"][1] == {"node": 1, "start_pfn": 0x20000, "end_pfn": 0x40000}


def test_ranges_that_the_kernel_reserves() -> None:
    (boot,) = boots(
        "[    0.000000] Linux version 6.1.0 (a@b) (gcc) #1 SMP\n"
        "[    0.010000] RAMDISK: [mem 0x37a5a000-0x37ffffff]\n"
        "[    0.010001] ACPI: Reserving DSDT table memory at [mem 0x3ffe0040-0x3ffe198b]\n"
    )
    reserved = [item for item in boot.ranges if item.source == "reserved"]
    assert reserved == [
        Range("reserved", 0x37A5A000, 0x38000000, "initrd"),
        Range("reserved", 0x3FFE0040, 0x3FFE198C, "DSDT table memory"),
    ]
