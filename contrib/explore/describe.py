# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show a layout in words."""

from __future__ import annotations

from collections.abc import Sequence

from contrib.explore.board import (
    ACPI,
    GIB,
    KIB,
    MIB,
    MIRRORED,
    NO_MAP,
    NVS,
    PAGE,
    PC,
    PMEM,
    PRAM,
    RAM,
    RESERVED,
    SOFT_RESERVED,
    UNUSABLE,
    VIRT,
    VIRT_EFI,
)
from contrib.explore.layout import VIRTIO_MEM, Layout

PAGEBLOCK = 2 * MIB
SECTION = 128 * MIB
LETTERS = {
    RAM: "#",
    RESERVED: "r",
    ACPI: "a",
    NVS: "n",
    UNUSABLE: "u",
    PMEM: "p",
    PRAM: "P",
    SOFT_RESERVED: "s",
    NO_MAP: "x",
    MIRRORED: "m",
}
PLAIN = (LETTERS[RAM], ".")
CELL = 64 * KIB
_TITLES = {PC.name: "e820", VIRT.name: "device tree (arm64)", VIRT_EFI.name: "EFI memory map (arm64)"}
SIZES = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))


def size(value: int) -> str:
    """
    Return a size in the largest unit that gives a whole number.

    >>> size(0x200000)
    '2 MiB'
    >>> size(0x1400)
    '5 KiB'
    >>> size(0x123)
    '291 bytes'
    """
    for unit, name in SIZES:
        if value and value % unit == 0:
            return f"{value // unit} {name}"
    return f"{value} bytes"


def alignment(address: int) -> str:
    """
    Return the largest unit of the kernel that an address is aligned to.

    >>> alignment(0x8000000), alignment(0x200000), alignment(0x1000), alignment(0x400)
    ('section', 'pageblock', 'page', 'nothing')
    """
    for unit, name in ((SECTION, "section"), (PAGEBLOCK, "pageblock"), (PAGE, "page")):
        if address % unit == 0:
            return name
    return "nothing"


def _span(start: int, end: int) -> str:
    ends = f"{alignment(start)}/{alignment(end)}"
    return f"{start:#014x}-{end:#014x}  {size(end - start):>12}  {ends:<20}"


def title(layout: Layout) -> str:
    """Return what says where memory is."""
    return _TITLES[layout.machine]


def describe(layout: Layout) -> str:
    """Return a layout in words, a line for each part."""
    lines = [title(layout)]
    lines += [f"  {_span(entry.start, entry.end)} {entry.type}" for entry in layout.e820]
    if layout.srat:
        lines.append("SRAT" if layout.board.is_pc else "nodes")
        lines += [
            f"  {_span(entry.start, entry.end)} node {entry.node}{', hot pluggable' if entry.hotplug else ''}"
            for entry in layout.srat
        ]
        alone = sorted(set(layout.nodes) - set(layout.cpu_nodes))
        lines.append(f"  CPUs in nodes {_list(layout.cpu_nodes)}; nodes without CPUs: {_list(alone)}")
    if layout.acpi is not None:
        lines.append(f"ACPI tables at {layout.acpi:#x}")
    if layout.initrd is not None:
        start, end = layout.initrd.start, layout.initrd.start + layout.initrd.size
        lines.append(f"initrd at {start:#x}-{end:#x}")
    if layout.words:
        lines.append("command line: " + " ".join(layout.words))
    if layout.cpus > 1:
        lines.append(f"{layout.cpus} CPUs")
    if layout.after_boot:
        lines += ["after boot", *(f"  {line}" for line in _after_boot(layout))]
    return "\n".join(lines)


def strips(layout: Layout, width: int = 72) -> str:
    """
    Return a layout as a picture: a line for the e820 table and one for the nodes, all to one scale.

    Whatever isn't RAM is seen, however small; later entries of the table hide earlier ones.

    :param width: Columns of the picture.
    """
    ends = [entry.end for entry in (*layout.e820, *layout.srat, *layout.devices)]
    cell = -(-max(ends, default=PAGE) // (width * CELL)) * CELL
    rows = [
        (
            "e820" if layout.board.is_pc else " map",
            [(entry.start, entry.end, LETTERS[entry.type]) for entry in layout.e820],
        )
    ]
    if layout.srat:
        rows.append(("node", [(entry.start, entry.end, str(entry.node % 10)) for entry in layout.srat]))
    if layout.devices:
        rows.append(("plug", [(one.start, one.end, str(one.node % 10)) for one in layout.devices]))
    starts = range(0, cell * width, cell)
    lines = [f"{name} {''.join(_cell(parts, start, start + cell) for start in starts)}" for name, parts in rows]
    used = [f"{LETTERS[name]} {name}" for name in LETTERS if any(entry.type == name for entry in layout.e820)]
    return "\n".join([*lines, f"     a cell is {size(cell)}; {', '.join(used)}"])


def _cell(parts: Sequence[tuple[int, int, str]], start: int, end: int) -> str:
    """Return the letter of what most of a cell is, or of what is in it beside RAM."""
    bytes_of: dict[str, int] = {}
    edges = sorted({start, end, *(edge for part in parts for edge in part[:2] if start < edge < end)})
    for low, high in zip(edges, edges[1:]):
        letter = next((part[2] for part in reversed(parts) if part[0] <= low and high <= part[1]), ".")
        bytes_of[letter] = bytes_of.get(letter, 0) + high - low
    return max(bytes_of, key=lambda letter: (letter not in PLAIN, bytes_of[letter]))


def _after_boot(layout: Layout) -> list[str]:
    lines = []
    for one in layout.devices:
        plugged = f", {size(one.plugged)} of it plugged" if one.kind == VIRTIO_MEM else ""
        lines.append(f"{_span(one.start, one.end)} {one.kind}, node {one.node}{plugged}")
    if layout.dax:
        lines.append(f"soft-reserved memory gets the driver {layout.dax}")
    return lines + [f"{step.verb} {step.address:#x}" for step in layout.steps]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"


def brief(layout: Layout) -> str:
    """Return a layout on one line."""
    parts = [" ".join(f"{entry.start:#x}-{entry.end:#x}:{entry.type}" for entry in layout.e820)]
    if layout.srat:
        ranges = " ".join(f"[{entry.start:#x},{entry.end:#x}):{entry.node}" for entry in layout.srat)
        parts.append(f"SRAT {ranges} CPUs {_list(layout.cpu_nodes)}")
    if layout.acpi is not None:
        parts.append(f"ACPI {layout.acpi:#x}")
    if layout.initrd is not None:
        parts.append(f"initrd {layout.initrd.start:#x}+{layout.initrd.size:#x}")
    parts += [" ".join(layout.words)] if layout.words else []
    parts += [f"{layout.cpus} CPUs"] if layout.cpus > 1 else []
    parts += [f"{one.start:#x}-{one.end:#x}:{one.kind}+{one.plugged:#x}:{one.node}" for one in layout.devices]
    parts += [f"dax {layout.dax}"] if layout.dax else []
    parts += [", ".join(f"{step.verb} {step.address:#x}" for step in layout.steps)] if layout.steps else []
    return " | ".join(parts)
