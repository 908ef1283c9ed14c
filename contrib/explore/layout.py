# SPDX-License-Identifier: LGPL-2.1-or-later
"""A physical memory layout: what firmware and boot loader tell the kernel about memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrib.kernels.errors import HarnessError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
SCHEMA = "mminspect.layout/1"

RAM = "ram"
RESERVED = "reserved"
ACPI = "acpi"
NVS = "nvs"
UNUSABLE = "unusable"
PMEM = "pmem"
PRAM = "pram"
SOFT_RESERVED = "soft-reserved"
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
# E820_MAX_ENTRIES_ZEROPAGE: what boot_params has room for.
MAX_E820 = 128
MAX_SRAT = 72
MAX_CPUS = 8
MAX_WORDS = 1024
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
# All that fits between 0x9f100, the usual place, and video memory.
ACPI_SIZE = 0xF00


class LayoutError(HarnessError):
    """A layout makes no sense. The text says why, on one line."""


@dataclass(frozen=True, order=True)
class E820Entry:
    """
    An entry of the e820 table.

    :ivar start: First byte.
    :ivar end: Byte behind the last.
    :ivar type: A key of :data:`E820_TYPES`.
    """

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class SratEntry:
    """
    A memory affinity structure of the SRAT.

    :ivar start: First byte.
    :ivar end: Byte behind the last.
    :ivar node: Proximity domain.
    :ivar hotplug: Whether it is marked as hot pluggable.
    """

    start: int
    end: int
    node: int
    hotplug: bool = False


@dataclass(frozen=True)
class Initrd:
    """Where the boot loader put the initrd, in bytes."""

    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """
    A physical memory layout.

    :ivar e820: The table as the boot loader hands it over, in any order.
    :ivar srat: Which memory is in which proximity domain; without any there is no SRAT.
    :ivar cpu_nodes: Proximity domain of each CPU that the SRAT names. Others are in none.
    :ivar acpi: Address of the ACPI tables, or ``None`` if there are none.
    :ivar initrd: The initrd, if there is one. Memory initialization only reserves it, so it is zeros.
    :ivar words: Words of the kernel's command line.
    :ivar cpus: Number of CPUs.
    :ivar machine: QEMU's machine.
    """

    e820: tuple[E820Entry, ...]
    srat: tuple[SratEntry, ...] = ()
    cpu_nodes: tuple[int, ...] = ()
    acpi: int | None = None
    initrd: Initrd | None = None
    words: tuple[str, ...] = ()
    cpus: int = 1
    machine: str = "pc"

    @property
    def nodes(self) -> tuple[int, ...]:
        """Return the proximity domains that have memory."""
        return tuple(sorted({entry.node for entry in self.srat}))

    def check(self) -> Layout:
        """
        Return the layout itself.

        :raises LayoutError: if it makes no sense or can't be booted here.
        """
        _check_e820(self.e820)
        _check_srat(self)
        _check_places(self)
        if not 1 <= self.cpus <= MAX_CPUS:
            raise LayoutError(f"{self.cpus} CPUs: need 1 to {MAX_CPUS}")
        if self.machine != "pc":
            raise LayoutError(f"machine {self.machine}: only pc is known")
        text = " ".join(self.words)
        if len(text) > MAX_WORDS or not text.isascii() or not text.isprintable():
            raise LayoutError(f"the command line has more than {MAX_WORDS} characters, or some that are not ASCII")
        if any(not word or " " in word for word in self.words):
            raise LayoutError("a word of the command line is empty or has a space in it")
        return self


def _check_range(start: int, end: int, what: str) -> None:
    if not 0 <= start < end <= MAX_ADDRESS:
        raise LayoutError(f"{what} {start:#x}-{end:#x}: need 0 <= start < end <= {MAX_ADDRESS:#x}")


def _check_e820(e820: Sequence[E820Entry]) -> None:
    if not 1 <= len(e820) <= MAX_E820:
        raise LayoutError(f"e820 has {len(e820)} entries: need 1 to {MAX_E820}")
    for entry in e820:
        if entry.type not in E820_TYPES:
            raise LayoutError(f"e820 type {entry.type}: not one of {', '.join(E820_TYPES)}")
        _check_range(entry.start, entry.end, f"e820 {entry.type}")
    for start, end in ram_ranges(e820):
        if start < HIGH_MEMORY and end > PCI_HOLE:
            raise LayoutError(f"RAM {start:#x}-{end:#x}: QEMU has none in {PCI_HOLE:#x}-{HIGH_MEMORY:#x}")
    for start, end in (BOOT_AREA, KERNEL_AREA):
        if not is_ram(e820, start, end):
            raise LayoutError(f"{start:#x}-{end:#x} is not RAM: kernel or boot loader lie there")


def _check_srat(layout: Layout) -> None:
    if len(layout.srat) > MAX_SRAT:
        raise LayoutError(f"the SRAT has {len(layout.srat)} entries: at most {MAX_SRAT}")
    for entry in layout.srat:
        _check_range(entry.start, entry.end, "SRAT")
    for node in (*layout.nodes, *layout.cpu_nodes):
        if not 0 <= node < 1 << 32:
            raise LayoutError(f"node {node}: need 0 to 2^32-1")
    if len(layout.cpu_nodes) > MAX_CPUS:
        raise LayoutError(f"the SRAT has {len(layout.cpu_nodes)} CPUs: at most {MAX_CPUS}")
    if layout.srat and layout.acpi is None:
        raise LayoutError("there is a SRAT but no address for ACPI tables")


def _check_places(layout: Layout) -> None:
    if layout.acpi is not None:
        start, end = layout.acpi, layout.acpi + ACPI_SIZE
        if start <= 0 or start % 16:
            raise LayoutError(f"ACPI tables at {start:#x}: need a positive multiple of 16")
        if end > MAX_ADDRESS or (start < HIGH_MEMORY and end > PCI_HOLE):
            raise LayoutError(f"ACPI tables at {start:#x}: QEMU has no memory there")
        for low, high in (BOOT_AREA, LEGACY_AREA, KERNEL_AREA):
            if start < high and low < end:
                raise LayoutError(f"ACPI tables at {start:#x} overlap {low:#x}-{high:#x}, where they can't be")
    initrd = layout.initrd
    if initrd and (initrd.size <= 0 or initrd.start < KERNEL_AREA[1] or initrd.start + initrd.size > PCI_HOLE):
        raise LayoutError(f"initrd at {initrd.start:#x}: need a size and a place between kernel and 3 GiB")


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges sorted, with those that touch or overlap made one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif start < end:
            merged.append((start, end))
    return merged


def subtract(ranges: Iterable[tuple[int, int]], taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what ranges have and taken has not."""
    left = merge(ranges)
    for low, high in merge(taken):
        left = [
            piece
            for start, end in left
            for piece in ((start, min(end, low)), (max(start, high), end))
            if piece[0] < piece[1]
        ]
    return left


def ram_ranges(e820: Iterable[E820Entry]) -> list[tuple[int, int]]:
    """
    Return the RAM of an e820 table.

    Where entries overlap, the higher type wins, as in ``e820__update_table()``.
    """
    entries = list(e820)
    ram = [(entry.start, entry.end) for entry in entries if entry.type == RAM]
    return subtract(ram, [(entry.start, entry.end) for entry in entries if entry.type != RAM])


def is_ram(e820: Iterable[E820Entry], start: int, end: int) -> bool:
    """Return whether a range is RAM as a whole."""
    return any(low <= start and end <= high for low, high in ram_ranges(e820))


def parse_number(value: object) -> int:
    """
    Return a number out of JSON: an integer or a string such as "0x1000" or "4096".

    :raises LayoutError: if it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}", value):
        return int(value, 0) if value.startswith("0x") else int(value)
    raise LayoutError(f"{json.dumps(value)[:60]} is not a number")


def to_json(layout: Layout) -> dict[str, Any]:
    """Return a layout as JSON has it. Addresses are hexadecimal strings. What is as usual is left out."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "e820": [[hex(entry.start), hex(entry.end), entry.type] for entry in layout.e820],
    }
    if layout.srat:
        data["srat"] = [
            [hex(entry.start), hex(entry.end), entry.node, *(["hotplug"] if entry.hotplug else [])]
            for entry in layout.srat
        ]
    if layout.cpu_nodes:
        data["cpu_nodes"] = list(layout.cpu_nodes)
    if layout.acpi is not None:
        data["acpi"] = hex(layout.acpi)
    if layout.initrd is not None:
        data["initrd"] = [hex(layout.initrd.start), hex(layout.initrd.size)]
    if layout.words:
        data["words"] = list(layout.words)
    if layout.cpus != 1:
        data["cpus"] = layout.cpus
    if layout.machine != "pc":
        data["machine"] = layout.machine
    return data


def dumps(layout: Layout) -> str:
    """Return a layout as one line of JSON, the same for the same layout."""
    return json.dumps(to_json(layout), separators=(", ", ": "))


def _row(value: object, least: int, most: int, what: str) -> Sequence[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise LayoutError(f"{what}: {json.dumps(value)[:60]} is not a list of {least} to {most} values")
    return value


def _e820(value: object) -> E820Entry:
    start, end, kind = _row(value, 3, 3, "e820")
    return E820Entry(parse_number(start), parse_number(end), str(kind))


def _srat(value: object) -> SratEntry:
    start, end, node, *flags = _row(value, 3, 4, "srat")
    if flags not in ([], ["hotplug"]):
        raise LayoutError(f"srat: {json.dumps(flags[0])[:60]} is not hotplug")
    return SratEntry(parse_number(start), parse_number(end), parse_number(node), bool(flags))


KEYS = ("schema", "e820", "srat", "cpu_nodes", "acpi", "initrd", "words", "cpus", "machine")


def from_json(data: object) -> Layout:
    """
    Return the layout that :func:`to_json` wrote, checked.

    :raises LayoutError: if it isn't one.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise LayoutError(f"not a layout: its schema is not {SCHEMA}")
    unknown = set(data) - set(KEYS)
    if unknown:
        raise LayoutError(f"a layout has no {sorted(map(str, unknown))[0]!r}")
    for key in ("e820", "srat", "cpu_nodes", "words"):
        if not isinstance(data.get(key, []), list):
            raise LayoutError(f"{key} is not a list")
    initrd = data.get("initrd")
    place = None if initrd is None else Initrd(*(parse_number(value) for value in _row(initrd, 2, 2, "initrd")))
    return Layout(
        e820=tuple(_e820(value) for value in data.get("e820", [])),
        srat=tuple(_srat(value) for value in data.get("srat", [])),
        cpu_nodes=tuple(parse_number(value) for value in data.get("cpu_nodes", [])),
        acpi=None if data.get("acpi") is None else parse_number(data["acpi"]),
        initrd=place,
        words=tuple(str(word) for word in data.get("words", [])),
        cpus=parse_number(data.get("cpus", 1)),
        machine=str(data.get("machine", "pc")),
    ).check()


def loads(text: str) -> Layout:
    """
    Return the layout in a JSON text.

    :raises LayoutError: if it isn't one.
    """
    try:
        return from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"not JSON: {error}") from None
