# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts out of kernel logs and /proc/iomem."""

from __future__ import annotations

import pytest

from contrib.explore.board import GIB, MIB, NVS, RAM, RESERVED, SOFT_RESERVED
from contrib.explore.fromlog import rebuild
from contrib.explore.layout import E820Entry, Initrd, SratEntry
from contrib.kernels.errors import HarnessError

LOG = """
[    0.000000] Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1 quiet movablecore=2G crashkernel=256M
[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009efff] usable
[    0.000000] BIOS-e820: [mem 0x000000000009f000-0x00000000000fffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000069f0efff] usable
[    0.000000] BIOS-e820: [mem 0x0000000069f0f000-0x000000006c10efff] ACPI NVS
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x00000001ffffffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000200000000-0x000000027fffffff] soft reserved
[    0.000000] RAMDISK: [mem 0x31000000-0x34ffffff]
[    0.010000] ACPI: SRAT: PXM 0 -> APIC 0x00 -> Node 0
[    0.010000] ACPI: SRAT: PXM 0 -> APIC 0x02 -> Node 0
[    0.010000] ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x7fffffff]
[    0.010000] ACPI: SRAT: Node 0 PXM 0 [mem 0x100000000-0x1ffffffff]
[    0.010000] ACPI: SRAT: Node 1 PXM 1 [mem 0x200000000-0x27fffffff] hotplug
"""
IOMEM = """00000000-00000fff : Reserved
00001000-0009efff : System RAM
0009f000-0009ffff : Reserved
000a0000-000bffff : PCI Bus 0000:00
00100000-7ffeffff : System RAM
  01000000-01e00fff : Kernel code
7fff0000-7fffffff : Reserved
"""


def test_a_log_gives_the_whole_layout() -> None:
    rebuilt = rebuild(LOG)
    layout = rebuilt.layout
    assert rebuilt.remarks == ()
    assert layout.e820 == (
        E820Entry(0, 0x9F000, RAM),
        E820Entry(0x9F000, MIB, RESERVED),
        E820Entry(MIB, 0x69F0F000, RAM),
        E820Entry(0x69F0F000, 0x6C10F000, NVS),
        E820Entry(4 * GIB, 8 * GIB, RAM),
        E820Entry(8 * GIB, 10 * GIB, SOFT_RESERVED),
    )
    assert layout.srat == (
        SratEntry(0, 2 * GIB, 0),
        SratEntry(4 * GIB, 8 * GIB, 0),
        SratEntry(8 * GIB, 10 * GIB, 1, True),
    )
    assert layout.cpu_nodes == (0,)
    assert layout.initrd == Initrd(0x31000000, 64 * MIB)
    assert layout.words == ("movablecore=2G", "crashkernel=256M")


def test_iomem_gives_its_top_level_ranges() -> None:
    layout = rebuild(IOMEM).layout
    assert [entry.type for entry in layout.e820] == [RESERVED, RAM, RESERVED, RAM, RESERVED]
    assert layout.e820[3] == E820Entry(MIB, 0x7FFF0000, RAM)


@pytest.mark.parametrize(
    ("old", "new", "remark"),
    [
        ("000009f000-0x", "0000085000-0x", "first MiB"),
        ("69f0efff] usable", "df0fffff] usable", "QEMU has none"),
        ("1ffffffff] usable", "ffffffffff] usable", "48 GiB"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(old: str, new: str, remark: str) -> None:
    assert old in LOG
    (said,) = rebuild(LOG.replace(old, new).replace("0x0000000069f0f000-0x000000006c10efff] ACPI NVS", "")).remarks
    assert remark in said


@pytest.mark.parametrize("text", ["", "Linux version 6.1", IOMEM.replace("7ffeffff", "00ffffff")])
def test_a_text_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(HarnessError):
        rebuild(text)
