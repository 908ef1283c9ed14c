# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show a layout to somebody who has nothing but QEMU and the kernel: one command, with QEMU's own firmware.

``memmap=exactmap`` replaces the firmware's e820 table, ``-acpitable`` adds a SRAT. What they can't say is told.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from contrib.explore.acpi import srat
from contrib.explore.generate import USUAL_ACPI
from contrib.explore.layout import E820_TYPES, GIB, HIGH_MEMORY, MIB, PCI_HOLE, RAM, Layout, ram_ranges
from contrib.explore.machine import QEMU, Stock

COMMAND_LINE_SIZE = 2047
# SeaBIOS keeps its ACPI tables in the last 128 KiB of low memory.
FIRMWARE_ROOM = 2 * MIB
# As in the direct boot, page tables have four levels: it is the boot loader that turns on five.
WORDS = "nokaslr no5lvl no_timer_check mitigations=off console=ttyS0 panic=-1"
SRAT_FILE = "srat.bin"


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


def why_not(layout: Layout) -> str:
    """Return why QEMU's firmware and boot loader can't give a kernel this layout, or an empty text."""
    if layout.initrd is not None:
        return "the boot loader chooses where the initrd lies"
    if layout.acpi not in (None, USUAL_ACPI):
        return "the firmware chooses where the ACPI tables lie"
    if any(word.startswith("mem=") for word in layout.words):
        return "mem= and memmap=exactmap don't go together"
    if len(" ".join([WORDS, *memmap_words(layout), *layout.words])) > COMMAND_LINE_SIZE:
        return "the e820 table does not fit the kernel's command line"
    return ""


def memory(layout: Layout) -> int:
    """Return how much memory QEMU must have, in bytes."""
    ends = [end for _, end in ram_ranges(layout.e820)]
    if max(ends) > HIGH_MEMORY:
        return max(4 * GIB, -(-(max(ends) - HIGH_MEMORY + PCI_HOLE) // MIB) * MIB)
    return min(PCI_HOLE, -(-max(ends) // MIB) * MIB + FIRMWARE_ROOM)


def stock(layout: Layout, kernel: Path) -> Stock | None:
    """Return how to boot a layout with QEMU's firmware, or ``None`` if that can't be."""
    if why_not(layout):
        return None
    append = " ".join([WORDS, *memmap_words(layout), *layout.words])
    return Stock(str(kernel), memory(layout), append, srat(layout) if layout.srat else b"")


def command(layout: Layout, kernel: Path) -> str:
    """Return shell commands that show a layout, or why only the direct boot can."""
    how = stock(layout, kernel)
    if how is None:
        again = shlex.join(["python", "-m", "contrib.explore", "replay", "LAYOUT.json", str(kernel)])
        return f"# direct boot only: {why_not(layout)}\n{again}"
    lines = []
    words = [QEMU, "-accel", "tcg", "-cpu", "max", "-m", f"{how.memory >> 20}M", "-smp", str(layout.cpus)]
    words += ["-display", "none", "-serial", "stdio", "-no-reboot", "-device", "vmcoreinfo"]
    words += ["-kernel", how.kernel, "-append", how.append]
    if how.srat:
        lines.append(f"echo {base64.b64encode(how.srat).decode()} | base64 -d >{SRAT_FILE}")
        words += ["-acpitable", f"file={SRAT_FILE}"]
    lines.append(shlex.join(words))
    return "\n".join(lines)
