# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done after boot: its JSON, what is refused, the init, QEMU's options, the generator and shrinking."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from contrib.explore import afterboot
from contrib.explore.afterboot import find_busybox, init_script, make_initrd
from contrib.explore.board import GIB, HIGH_MEMORY, MIB, RAM, SOFT_RESERVED
from contrib.explore.corefile import make_vmcore
from contrib.explore.describe import brief, describe
from contrib.explore.draw import Seeded
from contrib.explore.features import features
from contrib.explore.generate import generate_after_boot
from contrib.explore.layout import (
    DIMM,
    VIRTIO_MEM,
    Device,
    E820Entry,
    Layout,
    LayoutError,
    SratEntry,
    Step,
    device_base,
    dumps,
    loads,
    memory,
)
from contrib.explore.machine import Ram, memory_words
from contrib.explore.outcome import log_sightings
from contrib.explore.qemu import command, stock, why_not
from contrib.explore.shrink import shrink
from contrib.explore.tests.test_layout import PLAIN
from contrib.kernels.errors import HarnessError

KERNEL = Path("bzImage")
DEVICES = replace(
    PLAIN,
    e820=(*PLAIN.e820, E820Entry(512 * MIB, 768 * MIB, SOFT_RESERVED)),
    devices=(
        Device(VIRTIO_MEM, HIGH_MEMORY + 512 * MIB, 256 * MIB, 0, 146 * MIB),
        Device(DIMM, HIGH_MEMORY, 128 * MIB, 1),
        Device(DIMM, HIGH_MEMORY + 256 * MIB, 128 * MIB),
    ),
    dax="device_dax",
    steps=(Step("online_movable", HIGH_MEMORY), Step("eject", HIGH_MEMORY + 300 * MIB)),
)


def test_it_survives_json_and_is_described() -> None:
    assert loads(dumps(DEVICES)) == DEVICES.check()
    text = describe(DEVICES)
    for part in ("dimm, node 1", "146 MiB of it plugged", "device_dax", "online_movable 0x100000000"):
        assert part in text
    assert "\n" not in brief(DEVICES) and "eject 0x112c00000" in brief(DEVICES)
    assert not PLAIN.after_boot and DEVICES.after_boot


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"devices": (Device("nvdimm", HIGH_MEMORY, 128 * MIB),)}, "not one of"),
        ({"devices": (Device(DIMM, HIGH_MEMORY + MIB, 128 * MIB),)}, "multiples"),
        ({"devices": (Device(DIMM, HIGH_MEMORY, 0),)}, "multiples"),
        ({"devices": (Device(DIMM, GIB, 128 * MIB),)}, "need a place in 0x100000000-"),
        ({"devices": (Device(DIMM, HIGH_MEMORY, GIB), Device(DIMM, HIGH_MEMORY + MIB * 512, GIB))}, "need a place"),
        ({"devices": (Device(DIMM, HIGH_MEMORY, 128 * MIB, 8),)}, "node 8"),
        ({"devices": (Device(DIMM, HIGH_MEMORY, 128 * MIB, 0, 2 * MIB),)}, "plugged"),
        ({"devices": (Device(VIRTIO_MEM, HIGH_MEMORY, 128 * MIB, 0, 256 * MIB),)}, "plugged"),
        ({"devices": tuple(Device(DIMM, HIGH_MEMORY + n * GIB, GIB) for n in range(9))}, "at most 8"),
        ({"dax": "cxl"}, "driver cxl"),
        ({"steps": (Step("burn", 0),)}, "step burn"),
        ({"steps": (Step("online", 1 << 60),)}, "need an address"),
        ({"steps": (Step("online", 0),) * 17}, "at most 16"),
    ],
)
def test_nonsense_is_refused_on_one_line(change: dict[str, object], text: str) -> None:
    with pytest.raises(LayoutError, match=text) as caught:
        replace(PLAIN, **change).check()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_memory_of_devices_begins_at_a_gib_behind_ram() -> None:
    assert device_base(PLAIN) == HIGH_MEMORY
    high = Layout((*PLAIN.e820, E820Entry(HIGH_MEMORY, HIGH_MEMORY + 100 * MIB, RAM)))
    # QEMU has 4 GiB then: 3 below the hole, 1 above.
    assert device_base(high) == HIGH_MEMORY + GIB


def test_memory_that_a_driver_uses_is_there() -> None:
    # A kernel that plugs in memory which isn't there dies of it, and the layout looks guilty.
    soft = E820Entry(2 * GIB, 2 * GIB + 256 * MIB, SOFT_RESERVED)
    plain = Layout((*PLAIN.e820, soft))
    assert memory(plain) == 402 * MIB
    assert memory(replace(plain, dax="kmem")) == 2 * GIB + 258 * MIB
    hole = Layout((*PLAIN.e820, E820Entry(3 * GIB - MIB, 3 * GIB + MIB, SOFT_RESERVED)))
    assert hole.check() == hole
    with pytest.raises(LayoutError, match="QEMU has none"):
        replace(hole, dax="device_dax").check()


def test_memory_that_cannot_go_offline_is_no_bad_page() -> None:
    assert log_sightings(b"page dumped because: unmovable page\npage dumped because: migration failure\n") == []
    assert len(log_sightings(b"page dumped because: nonzero mapcount\n")) == 1


def test_init_does_the_steps_in_order(tmp_path: Path) -> None:
    """Run it in a shell, with the kernel's files in a directory."""
    memory, acpi = tmp_path / "memory", tmp_path / "acpi"
    for block in range(32, 36):
        (memory / f"memory{block}").mkdir(parents=True)
    memory.joinpath("block_size_bytes").write_text("8000000\n")
    for slot in range(2):
        (acpi / f"PNP0C80:0{slot}").mkdir(parents=True)
    layout = replace(DEVICES, steps=(*DEVICES.steps, Step("offline", HIGH_MEMORY + 511 * MIB), Step("eject", GIB)))
    text = init_script(layout, [], "")
    text = text.replace("/bin/busybox", ": ").replace("mount -t", ": ").replace("export PATH", "OTHER")
    text = text.replace("/sys/devices/system/memory", str(memory)).replace("/sys/bus/acpi/devices", str(acpi))
    text = text.replace("/sys/bus/dax", str(tmp_path / "dax")).replace("sleep 1", ":")
    subprocess.run(["sh", "-c", text], check=True, cwd=tmp_path)
    said = {str(path.relative_to(tmp_path)): path.read_text().strip() for path in tmp_path.rglob("*") if path.is_file()}
    assert said == {
        "memory/block_size_bytes": "8000000",
        "memory/memory32/state": "online_movable",
        "memory/memory35/state": "offline",
        # The second module by its address; nothing is at 1 GiB.
        "acpi/PNP0C80:01/eject": "1",
    }


def test_a_layout_that_needs_modules_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LayoutError, match="virtio_pci, virtio_mem, dax_hmem, device_dax; give"):
        make_initrd(DEVICES, None)
    monkeypatch.setattr(afterboot.shutil, "which", lambda name: None)
    with pytest.raises(HarnessError, match="install busybox-static"):
        make_initrd(replace(DEVICES, dax="", devices=DEVICES.devices[1:]), None)


def test_a_busybox_with_libraries_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"\x7fELF" + bytes(100) + b"/lib64/ld-linux-x86-64.so.2\0")
    monkeypatch.setattr(afterboot.shutil, "which", lambda name: str(program))
    with pytest.raises(HarnessError, match="static"):
        find_busybox()
    program.write_bytes(b"\x7fELF" + bytes(100))
    assert find_busybox() == program


def test_the_table_of_nodes_comes_before_all_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"program")
    monkeypatch.setattr(afterboot.shutil, "which", lambda name: str(program))
    nodes = replace(PLAIN, srat=(SratEntry(0, GIB, 0),), cpu_nodes=(0,), acpi=0x9F100, steps=(Step("online", 0),))
    data = make_initrd(nodes, None)
    # A header of newc has 110 bytes.
    assert data[110:].startswith(b"kernel/firmware/acpi/srat.aml\0") and b"SRAT" in data[:300]
    assert data.count(b"TRAILER!!!") == 2
    assert make_initrd(replace(PLAIN, steps=nodes.steps), None).count(b"TRAILER!!!") == 1


def test_qemu_gets_devices_by_address_and_room_for_them() -> None:
    dimms = replace(DEVICES, dax="", devices=(Device(DIMM, 5 * GIB, 128 * MIB, 1), Device(DIMM, HIGH_MEMORY, GIB)))
    assert memory_words(402 * MIB, dimms.devices, 5 * GIB) == ["-machine", "pc", "-m", "402M,slots=2,maxmem=5522M"]
    text = command(dimms, KERNEL)
    first, second = text.index("addr=0x100000000"), text.index("addr=0x140000000")
    assert first < second and "nodeid=1" in text and "-initrd initrd" in text and "cpio" in text
    assert "base64 -d >guest/init" in text and "guest/mod needs" not in text
    assert "# guest/mod needs virtio_pci, virtio_mem, dax_hmem, device_dax" in command(DEVICES, KERNEL)


def test_firmware_gives_the_plain_layout_no_initrd() -> None:
    how = stock(PLAIN, KERNEL)
    assert how is not None and not how.initrd and not how.devices


def test_memory_of_devices_is_in_the_vmcore() -> None:
    ram, place = Ram(4 * GIB), HIGH_MEMORY + 2 * GIB
    ram.devices = {place: Ram(128 * MIB), place + GIB: Ram(2 * MIB)}
    try:
        ram.devices[place].write(100 * MIB, b"first")
        ram.devices[place + GIB].write(0, b"second")
        make_vmcore(ram, b"OSRELEASE=6.1\n", True)
        (phoff,) = struct.unpack("<Q", os.pread(ram.fd, 8, 32))
        size, count = struct.unpack("<HH", os.pread(ram.fd, 4, 54))
        rows = [struct.unpack("<IIQQQQQQ", os.pread(ram.fd, size, phoff + size * index)) for index in range(count)]
        found = {row[4]: (row[2], row[5]) for row in rows if row[0] == 1}
        assert found[place][1] == 128 * MIB and found[place + GIB][1] == 2 * MIB
        assert os.pread(ram.fd, 5, found[place][0] + 100 * MIB) == b"first"
        assert os.pread(ram.fd, 6, found[place + GIB][0]) == b"second"
        assert ram.used < MIB
    finally:
        for one in (ram, *ram.devices.values()):
            one.close()


def test_the_generator_gets_around() -> None:
    layouts = [generate_after_boot(Seeded(seed), True) for seed in range(300)]
    assert dumps(layouts[7]) == dumps(generate_after_boot(Seeded(7), True))
    for layout in layouts:
        assert layout.after_boot and loads(dumps(layout)) == layout and why_not(layout) == ""
    seen = set().union(*map(features, layouts))
    for wanted in ("dimm from a section to a section", "virtio-mem in part", "device on node 2", "step eject"):
        assert wanted in seen, wanted
    for wanted in ("offline of RAM", "steps offline, online", "word memhp_default_state", "nodes interleave"):
        assert wanted in seen, wanted
    assert any(feature.startswith("kmem at") for feature in seen)


def test_without_modules_there_are_dimms_and_steps_only() -> None:
    for seed in range(100):
        layout = generate_after_boot(Seeded(seed), False)
        assert not layout.dax and all(device.kind == DIMM for device in layout.devices)


def test_nothing_but_what_matters_is_left() -> None:
    def has_two_on_another_node(layout: Layout) -> bool:
        return any(device.node == 1 for device in layout.devices) and "offline" in {s.verb for s in layout.steps}

    layouts = [generate_after_boot(Seeded(seed), True) for seed in range(400)]
    wanted = [layout for layout in layouts if has_two_on_another_node(layout)]
    assert len(wanted) > 5
    for layout in wanted[:5]:
        least = shrink(layout, has_two_on_another_node, 10_000).layout
        assert has_two_on_another_node(least) and not least.dax and not least.words
        assert len(least.devices) == len(least.steps) == 1
        assert least.devices[0].size <= 128 * MIB and least.devices[0].start == device_base(least)
    plain = shrink(layouts[0], lambda layout: True, 10_000).layout
    assert not plain.after_boot
