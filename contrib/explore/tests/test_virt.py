# SPDX-License-Identifier: LGPL-2.1-or-later
"""What firmware leaves in a guest of QEMU's virt machine, against other programs and the specifications."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from contrib.explore import virt
from contrib.explore.board import (
    ACPI,
    GIB,
    MIB,
    MIRRORED,
    NO_MAP,
    RAM,
    RESERVED,
    SOFT_RESERVED,
    VIRT_EFI,
    VIRT_FIRST,
    VIRT_KERNEL,
    VIRT_RAM,
    VIRT_TREE,
)
from contrib.explore.cpu import ARM64
from contrib.explore.devicetree import Node, cells, flatten
from contrib.explore.image import Image, Segment, read_image
from contrib.explore.kernel import PLAIN_VIRT
from contrib.explore.layout import E820Entry, Initrd, Layout, LayoutError, SratEntry, dumps, loads
from contrib.explore.outcome import expected_pages
from contrib.explore.qemu import command
from contrib.explore.shrink import shrink

KEPT = Layout(
    (
        E820Entry(VIRT_FIRST, 2 * GIB, RAM),
        E820Entry(2 * GIB, 2 * GIB + 0x1400, NO_MAP),
        E820Entry(2 * GIB + 0x1400, 3 * GIB, RAM),
        E820Entry(3 * GIB - MIB, 3 * GIB, RESERVED),
    ),
    (SratEntry(5 * GIB // 2, 3 * GIB, 1), SratEntry(0, 5 * GIB // 2, 0)),
    (1,),
    initrd=Initrd(2 * GIB + 2 * MIB, 4096),
    words=("movablecore=64M",),
    machine="virt",
)
EFI = Layout(
    (
        E820Entry(VIRT_FIRST, GIB + 512 * MIB, RAM),
        E820Entry(GIB + 512 * MIB, GIB + 513 * MIB, RESERVED),
        E820Entry(2 * GIB, 3 * GIB, SOFT_RESERVED),
        E820Entry(3 * GIB, 4 * GIB, MIRRORED),
    ),
    machine=VIRT_EFI.name,
)


def source_of(tree: Node, tmp_path: Path) -> str:
    """Return a tree as the device tree compiler writes it."""
    path = tmp_path / "tree"
    path.write_bytes(flatten(tree))
    done = subprocess.run(["dtc", "-f", "-I", "dtb", "-O", "dts", path], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.skipif(not shutil.which("dtc"), reason="the device tree compiler is not installed")
def test_the_tree_is_what_the_compiler_reads(tmp_path: Path) -> None:
    tree: Node = {"empty": None, "one": 1, "name": "text", "list": cells(1 << 32, 4096), "node@1": {"reg": [2, 3]}}
    text = " ".join(source_of(tree, tmp_path).split())
    expected = '/dts-v1/; / { empty; one = <0x01>; name = "text"; list = <0x01 0x00 0x00 0x1000>; '
    assert text == expected + "node@1 { reg = <0x02 0x03>; }; };"


@pytest.mark.skipif(not shutil.which("dtc"), reason="the device tree compiler is not installed")
def test_a_layout_is_all_in_the_tree(tmp_path: Path) -> None:
    text = " ".join(source_of(virt.device_tree(KEPT), tmp_path).split())
    # Nodes come in the order of the layout, and a range is cut where the node changes.
    parts = (
        'memory@a0000000 { device_type = "memory"; reg = <0x00 0xa0000000 0x00 0x20000000>; numa-node-id = <0x01>; };',
        'memory@48000000 { device_type = "memory"; reg = <0x00 0x48000000 0x00 0x58000000>; numa-node-id = <0x00>; };',
        "kept0@80000000 { reg = <0x00 0x80000000 0x00 0x1400>; no-map; };",
        "kept1@bff00000 { reg = <0x00 0xbff00000 0x00 0x100000>; };",
        'enable-method = "psci"; reg = <0x00>; numa-node-id = <0x01>; };',
        "linux,initrd-start = <0x00 0x80200000>; linux,initrd-end = <0x00 0x80201000>;",
        "movablecore=64M",
    )
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places[0] < places[1]


def test_the_efi_memory_map_has_types_and_attributes() -> None:
    (_, table), (_, data) = virt.efi_tables(EFI)
    assert table[:8] == b"IBI SYST"
    # UEFI 2.10, 7.2: type, padding, address, virtual address, pages, attribute.
    rows = list(struct.iter_unpack("<IIQQQQ", data))
    assert [(row[0], row[2], row[4], row[5]) for row in rows] == [
        (7, VIRT_FIRST, (GIB + 512 * MIB - VIRT_FIRST) >> 12, 0x8),
        (0, GIB + 512 * MIB, 256, 0x8),
        (7, 2 * GIB, 1 << 18, 0x40008),
        (7, 3 * GIB, 1 << 18, 0x10008),
    ]
    chosen = virt.device_tree(EFI)["chosen"]
    assert chosen["linux,uefi-mmap-size"] == len(data)
    assert "reserved-memory" not in virt.device_tree(EFI)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-objdump"), reason="binutils for arm64 are not installed")
def test_the_stub_jumps_to_the_kernel_with_the_tree_in_x0(tmp_path: Path) -> None:
    path = tmp_path / "stub"
    path.write_bytes(virt.stub(VIRT_KERNEL))
    words = ["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64", path]
    text = " ".join(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    for part in ("ldr x0, 0x18", "ldr x4, 0x20", "br x4", "mov x1, #0x0"):
        assert part in text
    assert struct.unpack_from("<QQ", virt.stub(VIRT_KERNEL), 0x18) == (VIRT_TREE, VIRT_KERNEL)


def test_what_the_harness_writes_is_not_in_the_kernels_memory() -> None:
    image = Image(ARM64, VIRT_KERNEL, (Segment(0xFFFF800080000000, VIRT_KERNEL, b"k" * 64, 64 * MIB),), b"", {})
    needed = range(*EFI.board.needed[0])
    for address, data in virt.loaded_virt(image, EFI):
        assert address > VIRT_RAM and (address + len(data) <= VIRT_FIRST or address in needed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"acpi": 0x9F100}, "no ACPI tables"),
        ({"steps": ()}, ""),
        ({"e820": (E820Entry(VIRT_FIRST - MIB, 2 * GIB, RAM),)}, "QEMU has none"),
        ({"e820": (E820Entry(VIRT_FIRST, 2 * GIB, ACPI),)}, "type acpi: not one of ram, reserved, no-map"),
        ({"e820": (E820Entry(VIRT_FIRST, VIRT_KERNEL, RAM),)}, "kernel or boot loader"),
        ({"machine": VIRT_EFI.name, "e820": (E820Entry(VIRT_FIRST, 2 * GIB + 1, RAM),)}, "multiples of 0x1000"),
    ],
)
def test_a_layout_is_checked(change: dict[str, object], text: str) -> None:
    layout = replace(PLAIN_VIRT, **change)  # type: ignore[arg-type]
    if not text:
        assert loads(dumps(layout)) == layout
        return
    with pytest.raises(LayoutError, match=text):
        layout.check()


def test_pages_that_firmware_keeps_are_counted_where_the_kernel_has_them() -> None:
    # The page that no-map ends in counts nowhere.
    assert expected_pages(KEPT, 1 << 64) == ((3 * GIB - VIRT_FIRST) >> 12) - 1
    assert expected_pages(EFI, 1 << 64) is None  # soft-reserved memory depends on the kernel
    certain = replace(EFI, e820=tuple(entry for entry in EFI.e820 if entry.type != SOFT_RESERVED))
    assert expected_pages(certain, 1 << 64) == (GIB + 385 * MIB) >> 12


def test_strangers_are_told_that_only_the_direct_boot_shows_it() -> None:
    assert command(KEPT, Path("Image")).startswith("# direct boot only: QEMU puts its own memory into a device tree\n")


def test_a_layout_shrinks_to_one_range() -> None:
    result = shrink(KEPT, lambda layout: any(entry.type == NO_MAP for entry in layout.e820))
    kinds = [entry.type for entry in result.layout.e820]
    assert kinds == [RAM, NO_MAP]
    assert result.layout.e820[0].start == VIRT_FIRST
    assert not result.layout.srat and not result.layout.words and not result.layout.initrd


def test_an_image_is_read_with_the_address_that_its_relocations_have() -> None:
    base = 0xFFFF800080000000
    head = b"MZ\0\0" + bytes(4) + struct.pack("<QQ", 0, 0x200000) + bytes(32) + b"ARMd"
    rela = struct.pack("<QQQ", base + 0x1234560, 0x403, base + 0x10) + struct.pack("<QQQ", base + 0x8, 0x403, base)
    image = read_image(head.ljust(0x100, b"\0") + rela)
    assert (image.cpu, image.entry, image.segments[0].virtual) == (ARM64, VIRT_KERNEL, base)
    assert image.end == VIRT_KERNEL + 0x200000
