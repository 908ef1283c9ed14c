# SPDX-License-Identifier: LGPL-2.1-or-later
"""A physical memory layout: what firmware and boot loader tell the kernel about memory, and what comes later."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from contrib.explore.board import (
    BOARDS,
    BOOT_AREA,
    GIB,
    HIGH_MEMORY,
    KERNEL_AREA,
    LEGACY_AREA,
    MAX_ADDRESS,
    MIB,
    PCI_HOLE,
    RAM_TYPES,
    SOFT_RESERVED,
    Board,
)
from contrib.kernels.errors import HarnessError

SCHEMA = "mminspect.layout/1"
# E820_MAX_ENTRIES_ZEROPAGE: what boot_params has room for.
MAX_E820 = 128
MAX_SRAT = 72
MAX_CPUS = 8
MAX_WORDS = 1024
# SeaBIOS keeps its ACPI tables in the last 128 KiB of low memory.
FIRMWARE_ROOM = 2 * MIB
USUAL_ACPI = 0x9F100
# All that fits between there and video memory.
ACPI_SIZE = 0xF00


DIMM = "dimm"
VIRTIO_MEM = "virtio-mem"
DEVICE_KINDS = (DIMM, VIRTIO_MEM)
MAX_DEVICES = 8
# QEMU wants memory of devices in such pieces.
DEVICE_UNIT = 2 * MIB
MAX_DEVICE_NODE = 7
# Whether the driver of soft-reserved memory makes it device memory or plugs it in.
DAX_DRIVERS = ("device_dax", "kmem")
# What can be done with the memory block that has an address, and with the device there.
BLOCK_STEPS = ("online", "online_kernel", "online_movable", "offline")
EJECT = "eject"
MAX_STEPS = 16


class LayoutError(HarnessError):
    """A layout makes no sense. The text says why, on one line."""


@dataclass(frozen=True, order=True)
class E820Entry:
    """
    An entry of the e820 table, or of what takes its place.

    :ivar start: First byte.
    :ivar end: Byte behind the last.
    :ivar type: One of the board's types.
    """

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class SratEntry:
    """
    A memory affinity structure of the SRAT, or memory with a node in a device tree.

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


@dataclass(frozen=True, order=True)
class Device:
    """
    Memory that comes when the kernel already runs.

    :ivar kind: One of :data:`DEVICE_KINDS`.
    :ivar start: First byte.
    :ivar size: Size in bytes.
    :ivar node: Its node.
    :ivar plugged: How many bytes of a virtio-mem device the guest may use.
    """

    kind: str
    start: int
    size: int
    node: int = 0
    plugged: int = 0

    @property
    def end(self) -> int:
        """Return the byte behind the last."""
        return self.start + self.size


@dataclass(frozen=True, order=True)
class Step:
    """
    Something done after boot.

    :ivar verb: One of :data:`BLOCK_STEPS`, or :data:`EJECT`.
    :ivar address: An address in the memory block, or in the device.
    """

    verb: str
    address: int


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
    :ivar machine: The name of its board.
    :ivar devices: Memory that comes after boot.
    :ivar dax: The driver that soft-reserved memory gets, one of :data:`DAX_DRIVERS`, or nothing.
    :ivar steps: What is done after boot.
    """

    e820: tuple[E820Entry, ...]
    srat: tuple[SratEntry, ...] = ()
    cpu_nodes: tuple[int, ...] = ()
    acpi: int | None = None
    initrd: Initrd | None = None
    words: tuple[str, ...] = ()
    cpus: int = 1
    machine: str = "pc"
    devices: tuple[Device, ...] = ()
    dax: str = ""
    steps: tuple[Step, ...] = ()

    @property
    def after_boot(self) -> bool:
        """Return whether something is done after boot, so that the guest needs an init."""
        return bool(self.devices or self.dax or self.steps)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Return the proximity domains that have memory."""
        return tuple(sorted({entry.node for entry in self.srat}))

    @property
    def board(self) -> Board:
        """
        Return the machine.

        :raises LayoutError: if there is none of that name.
        """
        if self.machine not in BOARDS:
            raise LayoutError(f"machine {self.machine}: not one of {', '.join(BOARDS)}")
        return BOARDS[self.machine]

    def check(self) -> Layout:
        """
        Return the layout itself.

        :raises LayoutError: if it makes no sense or can't be booted here.
        """
        _check_e820(self.e820, self.board)
        _check_srat(self)
        _check_places(self)
        _check_after_boot(self)
        if not 1 <= self.cpus <= MAX_CPUS:
            raise LayoutError(f"{self.cpus} CPUs: need 1 to {MAX_CPUS}")
        text = " ".join(self.words)
        if len(text) > MAX_WORDS or not text.isascii() or not text.isprintable():
            raise LayoutError(f"the command line has more than {MAX_WORDS} characters, or some that are not ASCII")
        if any(not word or " " in word for word in self.words):
            raise LayoutError("a word of the command line is empty or has a space in it")
        return self


def _check_range(start: int, end: int, what: str, limit: int = MAX_ADDRESS) -> None:
    if not 0 <= start < end <= limit:
        raise LayoutError(f"{what} {start:#x}-{end:#x}: need 0 <= start < end <= {limit:#x}")


def _check_e820(e820: Sequence[E820Entry], board: Board) -> None:
    if not 1 <= len(e820) <= MAX_E820:
        raise LayoutError(f"e820 has {len(e820)} entries: need 1 to {MAX_E820}")
    for entry in e820:
        if entry.type not in board.types:
            raise LayoutError(f"e820 type {entry.type}: not one of {', '.join(board.types)}")
        _check_range(entry.start, entry.end, f"e820 {entry.type}", board.end)
        if entry.start % board.unit or entry.end % board.unit:
            raise LayoutError(f"e820 {entry.type} {entry.start:#x}-{entry.end:#x}: need multiples of {board.unit:#x}")
    there = ram_ranges(e820) if board.is_pc else [(entry.start, entry.end) for entry in e820]
    for low, high in board.without:
        for start, end in there:
            if start < high and low < end:
                raise LayoutError(f"RAM {start:#x}-{end:#x}: QEMU has none in {low:#x}-{high:#x}")
    for start, end in board.needed:
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
    if layout.srat and layout.acpi is None and layout.board.is_pc:
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
    initrd, low = layout.initrd, layout.board.needed[-1][1]
    if initrd and (initrd.size <= 0 or initrd.start < low or initrd.start + initrd.size > PCI_HOLE):
        raise LayoutError(f"initrd at {initrd.start:#x}: need a size and a place between kernel and 3 GiB")


def backed_ranges(layout: Layout) -> list[tuple[int, int]]:
    """Return where QEMU must have memory: the RAM, and what a driver plugs in or makes a device of."""
    driven = [(entry.start, entry.end) for entry in layout.e820 if layout.dax and entry.type == SOFT_RESERVED]
    return merge([*ram_ranges(layout.e820), *driven])


def memory(layout: Layout) -> int:
    """Return how much memory QEMU must have for a boot with its firmware, in bytes."""
    ends = [end for _, end in backed_ranges(layout)]
    if max(ends) > HIGH_MEMORY:
        return max(4 * GIB, -(-(max(ends) - HIGH_MEMORY + PCI_HOLE) // MIB) * MIB)
    return min(PCI_HOLE, -(-max(ends) // MIB) * MIB + FIRMWARE_ROOM)


def device_base(layout: Layout) -> int:
    """Return where QEMU's memory for devices begins: at the next GiB above RAM and 4 GiB."""
    above = max(0, memory(layout) - PCI_HOLE)
    return HIGH_MEMORY + -(-above // GIB) * GIB


def _check_after_boot(layout: Layout) -> None:
    if not layout.board.is_pc:
        if layout.acpi is not None or layout.after_boot:
            raise LayoutError(f"machine {layout.machine} has no ACPI tables, and nothing after boot")
        return
    base, end = device_base(layout), 0
    if len(layout.devices) > MAX_DEVICES:
        raise LayoutError(f"{len(layout.devices)} devices: at most {MAX_DEVICES}")
    for device in sorted(layout.devices, key=lambda device: device.start):
        what = f"{device.kind} {device.start:#x}"
        if device.kind not in DEVICE_KINDS:
            raise LayoutError(f"{what}: not one of {', '.join(DEVICE_KINDS)}")
        if device.size <= 0 or any(value % DEVICE_UNIT for value in (device.start, device.size, device.plugged)):
            raise LayoutError(f"{what}: need multiples of {DEVICE_UNIT:#x}")
        if not max(base, end) <= device.start < device.end <= MAX_ADDRESS:
            raise LayoutError(f"{what}: need a place in {max(base, end):#x}-{MAX_ADDRESS:#x}")
        if not 0 <= device.node <= MAX_DEVICE_NODE:
            raise LayoutError(f"{what}: node {device.node}: need 0 to {MAX_DEVICE_NODE}")
        if not 0 <= device.plugged <= (device.size if device.kind == VIRTIO_MEM else 0):
            raise LayoutError(f"{what}: {device.plugged:#x} bytes can't be plugged")
        end = device.end
    for start, stop in backed_ranges(layout):
        if start < HIGH_MEMORY and stop > PCI_HOLE:
            raise LayoutError(f"memory {start:#x}-{stop:#x}: QEMU has none in {PCI_HOLE:#x}-{HIGH_MEMORY:#x}")
    if layout.dax and layout.dax not in DAX_DRIVERS:
        raise LayoutError(f"driver {layout.dax}: not one of {', '.join(DAX_DRIVERS)}")
    if len(layout.steps) > MAX_STEPS:
        raise LayoutError(f"{len(layout.steps)} steps: at most {MAX_STEPS}")
    for step in layout.steps:
        if step.verb not in (*BLOCK_STEPS, EJECT):
            raise LayoutError(f"step {step.verb}: not one of {', '.join((*BLOCK_STEPS, EJECT))}")
        if not 0 <= step.address < MAX_ADDRESS:
            raise LayoutError(f"step {step.verb} {step.address:#x}: need an address below {MAX_ADDRESS:#x}")


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
    Return the RAM of an e820 table, or of what takes its place.

    Where entries overlap, the higher type wins, as in ``e820__update_table()``.
    """
    entries = list(e820)
    ram = [(entry.start, entry.end) for entry in entries if entry.type in RAM_TYPES]
    return subtract(ram, [(entry.start, entry.end) for entry in entries if entry.type not in RAM_TYPES])


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
    if layout.devices:
        data["devices"] = [
            [one.kind, hex(one.start), hex(one.size), one.node, *([hex(one.plugged)] if one.plugged else [])]
            for one in layout.devices
        ]
    if layout.dax:
        data["dax"] = layout.dax
    if layout.steps:
        data["steps"] = [[step.verb, hex(step.address)] for step in layout.steps]
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


def _device(value: object) -> Device:
    kind, *numbers = _row(value, 4, 5, "devices")
    return Device(str(kind), *(parse_number(number) for number in numbers))


def _step(value: object) -> Step:
    verb, address = _row(value, 2, 2, "steps")
    return Step(str(verb), parse_number(address))


LISTS = ("e820", "srat", "cpu_nodes", "words", "devices", "steps")
KEYS = ("schema", *LISTS, "acpi", "initrd", "cpus", "machine", "dax")


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
    for key in LISTS:
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
        devices=tuple(_device(value) for value in data.get("devices", [])),
        dax=str(data.get("dax", "")),
        steps=tuple(_step(value) for value in data.get("steps", [])),
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
