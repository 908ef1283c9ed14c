# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show a layout to somebody who has nothing but QEMU and the kernel: one command, with QEMU's own firmware.

``memmap=exactmap`` replaces the firmware's e820 table, ``-acpitable`` adds a SRAT. What they can't say is told.
"""

from __future__ import annotations

import base64
import shlex
from dataclasses import replace
from pathlib import Path

from contrib.explore.acpi import srat
from contrib.explore.afterboot import SRAT_PATH, init_script, make_initrd, wanted_modules
from contrib.explore.board import E820_TYPES, RAM
from contrib.explore.cpu import AMD64
from contrib.explore.layout import USUAL_ACPI, Layout, device_base, memory
from contrib.explore.machine import Stock, device_words, memory_words

COMMAND_LINE_SIZE = 2047
# As in the direct boot, page tables have four levels: it is the boot loader that turns on five.
WORDS = "nokaslr no5lvl no_timer_check mitigations=off console=ttyS0 panic=-1"
SRAT_FILE = "srat.bin"
SHELL = "mount -t devtmpfs dev /dev\nexec setsid cttyhack sh"
PACK = "(cd {} && find . | cpio -o -H newc) >>initrd"


def memmap_words(layout: Layout) -> list[str]:
    """Return the words that make the kernel take the layout's e820 table for the firmware's."""
    words = ["memmap=exactmap"]
    for entry in layout.e820:
        size = entry.end - entry.start
        if entry.type == RAM:
            words.append(f"memmap={size:#x}@{entry.start:#x}")
        else:
            words.append(f"memmap={size:#x}%{entry.start:#x}+{E820_TYPES[entry.type]:#x}")
    return words


def append(layout: Layout) -> str:
    """Return the kernel's command line."""
    return " ".join([WORDS, *memmap_words(layout), *layout.words])


def why_not(layout: Layout) -> str:
    """Return why QEMU's firmware and boot loader can't give a kernel this layout, or an empty text."""
    if not layout.board.is_pc:
        return "QEMU puts its own memory into a device tree"
    if layout.initrd is not None:
        return "the boot loader chooses where the initrd lies"
    if layout.acpi not in (None, USUAL_ACPI):
        return "the firmware chooses where the ACPI tables lie"
    if any(word.startswith("mem=") for word in layout.words):
        return "mem= and memmap=exactmap don't go together"
    if len(append(layout)) > COMMAND_LINE_SIZE:
        return "the e820 table does not fit the kernel's command line"
    return ""


def stock(layout: Layout, kernel: Path, modules: Path | None = None) -> Stock | None:
    """
    Return how to boot a layout with QEMU's firmware, or ``None`` if that can't be.

    :param modules: The directory of the kernel's modules.
    :raises LayoutError: if the layout needs modules that aren't there.
    """
    if why_not(layout):
        return None
    plain = Stock(str(kernel), memory(layout), append(layout))
    if not layout.after_boot:
        return replace(plain, srat=srat(layout) if layout.srat else b"")
    # Where devices have nodes, QEMU has a SRAT of its own. That in the initrd takes its place.
    devices = tuple(sorted(layout.devices, key=lambda device: device.start))
    room = devices[-1].end - device_base(layout) if devices else 0
    return replace(plain, initrd=make_initrd(layout, modules), devices=devices, room=room)


def _file(data: bytes, name: str) -> str:
    return f"echo {base64.b64encode(data).decode()} | base64 -d >{name}"


def _initrd_lines(layout: Layout) -> list[str]:
    """Return shell commands that make the initrd for what is done after boot. Its init ends in a shell."""
    modules = wanted_modules(layout)
    lines = ["mkdir -p guest/bin guest/sys guest/dev guest/mod", 'cp "$(command -v busybox)" guest/bin/']
    if modules:
        lines.append(f"# guest/mod needs {', '.join(modules)}, uncompressed; init must load what they need before them")
    lines += [_file(init_script(layout, modules, SHELL).encode(), "guest/init"), "chmod +x guest/init", ": >initrd"]
    if layout.srat:
        table = Path("table", SRAT_PATH)
        lines += [f"mkdir -p {table.parent}", _file(srat(layout), str(table)), PACK.format("table")]
    return [*lines, PACK.format("guest")]


def command(layout: Layout, kernel: Path) -> str:
    """Return shell commands that show a layout, or why only the direct boot can."""
    if why_not(layout):
        again = shlex.join(["python", "-m", "contrib.explore", "replay", "LAYOUT.json", str(kernel)])
        return f"# direct boot only: {why_not(layout)}\n{again}"
    words = [AMD64.qemu, "-accel", "tcg", "-cpu", "max", "-smp", str(layout.cpus)]
    words += ["-display", "none", "-serial", "stdio", "-no-reboot", "-device", "vmcoreinfo"]
    words += ["-kernel", str(kernel), "-append", append(layout)]
    lines, devices = [], tuple(sorted(layout.devices, key=lambda device: device.start))
    if layout.after_boot:
        lines = _initrd_lines(layout)
        words += ["-initrd", "initrd"]
    elif layout.srat:
        lines.append(_file(srat(layout), SRAT_FILE))
        words += ["-acpitable", f"file={SRAT_FILE}"]
    if devices:
        words += memory_words(memory(layout), devices, devices[-1].end - device_base(layout))
        for name, size in (("ram", memory(layout)), *((f"memory{n}", one.size) for n, one in enumerate(devices))):
            words += ["-object", f"memory-backend-ram,id={name},size={size}"]
        words += device_words(devices)
    else:
        words += ["-m", f"{memory(layout) >> 20}M"]
    return "\n".join([*lines, shlex.join(words)])
