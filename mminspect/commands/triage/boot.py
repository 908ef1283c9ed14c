# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lines of a boot tell of a machine's memory: zones, nodes, what firmware gave, and what was taken of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mminspect.commands.triage.lines import Line

# Kinds of ranges, by who says so.
FIRMWARE = "firmware"
NODE = "node"
SRAT = "srat"
RESERVED = "reserved"
EFI = "efi"
IOMEM = "iomem"
# A machine has a few hundred; more is garbage.
MAX_RANGES = 20_000

_HEX = r"0x([0-9a-f]{1,16})"
_MEM = rf"\[mem {_HEX}-{_HEX}\]"
_VERSION = re.compile(r"Linux version (\S{1,200}) ")
_NOKASLR = re.compile(r"(?:Kernel c|C)ommand line: (?:.{0,4000} )?nokaslr(?: |$)")
_KDUMP = re.compile(r"(?:Kernel c|C)ommand line: .*elfcorehdr=")
_ZONES = re.compile(r"Zone (?:ranges|PFN ranges):")
_ZONE = re.compile(rf"(DMA|DMA32|Normal|HighMem|Movable|Device) {{1,8}}(?:{_MEM}|empty|{_HEX} -> {_HEX})$")
_MOVABLE = re.compile(r"Node (\d{1,4}): 0x([0-9a-f]{1,16})$")
_EARLY = re.compile(rf"(?:node {{0,3}})?(\d{{1,4}}): (?:{_MEM}|{_HEX} -> {_HEX})$")
_INITMEM = re.compile(rf"Initmem setup node (\d{{1,4}}) {_MEM}")
_UNAVAILABLE = re.compile(r"On node (\d{1,4}), zone (\w{1,16}): (\d{1,12}) pages in unavailable ranges")
_ZEROED = re.compile(r"Zeroed struct page in unavailable ranges: (\d{1,12}) pages")
_E820 = re.compile(rf"(BIOS-e820|Xen|user|extended|modified|BIOS-88|BIOS-e801): {_MEM} (.{{1,60}})$")
_E820_OLD = re.compile(r"(BIOS-e820|user): ([0-9a-f]{16}) - ([0-9a-f]{16}) \((.{1,40})\)$")
_SRAT = re.compile(rf"(?:ACPI: )?SRAT: Node (\d{{1,4}}) PXM \d{{1,10}} {_MEM}(.{{0,40}})$")
_EFI = re.compile(rf"efi: mem\d{{1,5}}: \[?([A-Za-z][\w /-]{{1,30}}?) *[\[|].{{0,80}}range=\[{_HEX}-{_HEX}[)\]]")
_NOSAVE = re.compile(rf"PM: (?:hibernation: )?Registered nosave memory: {_MEM}")
_MEMBLOCK = re.compile(rf"(memory|reserved)\[0x[0-9a-f]{{1,8}}\]\s{{1,4}}\[{_HEX}-{_HEX}\](.{{0,100}})$")
_OF = re.compile(rf"OF: reserved mem: {_HEX}\.\.{_HEX} \([^()]{{1,40}}\) (.{{1,100}})$")
_CRASH = re.compile(r"Reserving (\d{1,8})MB of memory at (\d{1,8})MB for crashkernel")
_CRASH_NEW = re.compile(rf"crashkernel (?:low memory )?reserved: {_HEX} - {_HEX}")
_CMA = re.compile(rf"cma: Reserved (\d{{1,8}}) MiB at {_HEX}")
_RESERVING = re.compile(rf"(?:(?:ACPI: )?Reserving (\S.{{0,80}}?) at|(RAMDISK):) {_MEM}")
_IOMEM = re.compile(r"( {0,16})([0-9a-f]{8,16})-([0-9a-f]{8,16}) : (.{1,100})$")
_PAGE_SIZE = re.compile(r"[LB]E PAGE_SIZE=(\d{1,4})K")

# What only one architecture prints when it boots or dies, and its machine name.
_MACHINES = tuple(
    (machine, re.compile(pattern))
    for machine, pattern in (
        ("x86_64", r"DMA32 +\[mem|RIP: [0-9a-f]{4}:|x86/|Booting paravirtualized kernel on .*"),
        (
            "aarch64",
            r"Booting Linux on physical CPU 0x0000|CPU features: detected|pstate: |CPU: All CPU\(s\) started at EL",
        ),
        ("arm", r"CPU: ARMv|Booting Linux on physical CPU 0x\d{1,3}$|PC is at "),
        ("ppc64le", r"LE PAGE_SIZE|(?:radix|hash)-mmu: |Hash SLB|pSeries|PowerNV"),
        ("s390x", r"setup: Linux is running|Krnl PSW|setup: The maximum memory size"),
        ("riscv64", r"SBI specification|riscv: |Machine model: .*riscv|epc : [0-9a-f]{16}"),
        ("i386", r"EIP: |\d+MB HIGHMEM available|\d+MB LOWMEM available"),
    )
)
_SUFFIXES = (
    *(("x86_64", s) for s in ("x86_64", "amd64")),
    *(("aarch64", s) for s in ("aarch64", "arm64")),
    *(("ppc64le", s) for s in ("ppc64le", "powerpc64le")),
    *(("i386", s) for s in ("i386", "i686", "686-pae", "-686")),
    *((s, s) for s in ("s390x", "riscv64", "ppc64", "armv7hl")),
)


class Range(NamedTuple):
    """
    A range of physical memory.

    :ivar source: Who says so.
    :ivar start: First byte. ``end`` is the first byte behind it.
    :ivar what: What it is.
    :ivar node: Of it, where the line says so.
    """

    source: str
    start: int
    end: int
    what: str
    node: int | None = None


class BootZone(NamedTuple):
    """A zone's limits, of all nodes together, in bytes. An empty zone has none."""

    name: str
    start: int
    end: int


class Unavailable(NamedTuple):
    """How many pages of a zone's span in a node have no memory behind them."""

    node: int
    zone: str
    pages: int


class Boot(NamedTuple):
    """
    What the lines of a boot tell.

    :ivar first: Number of its first line in the log.
    :ivar whole: Whether the log has the boot from its first line.
    :ivar kdump: Whether it is the boot of a crash kernel.
    :ivar nodes: Spans of nodes.
    :ivar ranges: In the order of the log.
    :ivar zone_names: All zones that the kernel lists, empty ones too, in the order of their ids.
    :ivar movable: Where zone Movable begins in a node, in bytes.
    :ivar nokaslr: Whether its command line forbids random addresses.
    :ivar zeroed: How many struct pages of holes were zeroed, where the kernel says so (4.20 to 5.11).
    """

    first: int = 0
    whole: bool = False
    kdump: bool = False
    release: str | None = None
    machine: str | None = None
    page_size: int | None = None
    zones: tuple[BootZone, ...] = ()
    nodes: tuple[Range, ...] = ()
    ranges: tuple[Range, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    zeroed: int | None = None
    zone_names: tuple[str, ...] = ()
    movable: tuple[tuple[int, int], ...] = ()
    nokaslr: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: in pfns, where the page size is known or usual."""
        size = self.page_size or usual_page_size(self.machine)
        return {
            "release": self.release,
            "machine": self.machine,
            "page_size": size,
            "zones": [
                {"name": zone.name, "start_pfn": zone.start // size, "end_pfn": -(-zone.end // size)}
                for zone in self.zones
            ],
            "nodes": [
                {"node": node.node, "start_pfn": node.start // size, "end_pfn": -(-node.end // size)}
                for node in self.nodes
            ],
            "ranges": [
                {
                    "source": found.source,
                    "start_pfn": found.start // size,
                    "end_pfn": -(-found.end // size),
                    "what": found.what,
                    "node": found.node,
                }
                for found in self.ranges
            ],
            "unavailable": [{"node": hole.node, "zone": hole.zone, "pages": hole.pages} for hole in self.unavailable],
        }


def machine_of(release: str | None, texts: Iterable[str] = ()) -> str | None:
    """
    Return the machine of a kernel, as in ``uname -m``.

    :param release: Those of distributions often end with it.
    :param texts: What the kernel printed.
    """
    named = next((name for name, suffix in _SUFFIXES if release and release.endswith(suffix)), None)
    return named or next(
        (machine for text in texts for machine, pattern in _MACHINES if pattern.match(text)),
        None,
    )


def usual_page_size(machine: str | None) -> int:
    """Return the page size that most kernels of a machine have."""
    return 0x10000 if machine in ("ppc64le", "ppc64") else 0x1000


def read_boots(lines: Sequence[Line]) -> list[Boot]:
    """
    Read every boot that a log has lines of, oldest first.

    A serial console's log has several: the crash kernel boots where the one that died ends. Lines before the first
    boot are of a boot whose beginning is lost.
    """
    starts = [index for index, line in enumerate(lines) if _VERSION.match(line.text.strip())]
    edges = sorted({0, *starts, len(lines)}) if lines else []
    return [_read(lines, first, end, first in starts) for first, end in zip(edges, edges[1:])]


def boot_of(boots: Sequence[Boot], index: int) -> Boot:
    """
    Return the boot that a line is of.

    :param index: Number of the line.
    """
    found = Boot()
    for boot in boots:
        if boot.first <= index:
            found = boot
    return found


def memory_lines(lines: Sequence[Line]) -> list[int]:
    """Return the numbers of the lines that tell anything of a machine's memory; the command line isn't one."""
    found, reader = [], _Reader()
    before = reader.state()
    for index, line in enumerate(lines):
        reader.take(line.text)
        after = reader.state()
        if after != before or _VERSION.match(line.text.strip()):
            found.append(index)
            before = after
    return found


def _read(lines: Sequence[Line], first: int, end: int, whole: bool) -> Boot:
    reader = _Reader()
    for line in lines[first:end]:
        reader.take(line.text)
    return reader.boot(first, whole)


class _Reader:
    def __init__(self) -> None:
        self.release: str | None = None
        self.machine: str | None = None
        self.page_size: int | None = None
        self.kdump = self.nokaslr = False
        self.zones: list[BootZone] = []
        self.nodes: list[Range] = []
        self.ranges: list[Range] = []
        self.unavailable: list[Unavailable] = []
        self.zeroed: int | None = None
        self.zone_names: list[str] = []
        self.movable: list[tuple[int, int]] = []
        self._in_zones = self._in_early = False

    def state(self) -> tuple[object, ...]:
        """Return what changes where a line tells something."""
        lengths = len(self.zones), len(self.nodes), len(self.ranges), len(self.unavailable), len(self.movable)
        headings = self._in_zones, self._in_early
        return (*lengths, *headings, self.release, self.page_size, self.zeroed)

    def boot(self, first: int, whole: bool) -> Boot:
        return Boot(
            first,
            whole,
            self.kdump,
            self.release,
            machine_of(self.release) or self.machine,
            self.page_size,
            tuple(self.zones),
            tuple(self.nodes),
            tuple(self.ranges[:MAX_RANGES]),
            tuple(self.unavailable),
            self.zeroed,
            tuple(self.zone_names),
            tuple(self.movable),
            self.nokaslr,
        )

    def take(self, whole: str) -> None:
        text = whole.strip()
        if self._in_zones or self._in_early:
            self._list(text)
        match = _VERSION.match(text)
        if match:
            self.release = self.release or match.group(1)
        elif _ZONES.match(text):
            self._in_zones, self.zones, self.zone_names = True, [], []
        elif text.startswith(("Early memory node ranges", "early_node_map", "Early memory PFN ranges")):
            self._in_zones, self._in_early = False, True
        elif self.machine is None or self.page_size is None:
            self._machine(text)
        if "ommand line" in text:
            self.kdump = self.kdump or _KDUMP.match(text) is not None
            self.nokaslr = self.nokaslr or _NOKASLR.match(text) is not None
        if ":" in text or "[mem" in text or "crashkernel" in text:
            self._range(text, whole)
            self._counts(text)

    def _machine(self, text: str) -> None:
        if self.machine is None:
            self.machine = machine_of(None, (text,))
        match = _PAGE_SIZE.match(text)
        if match:
            self.page_size = int(match.group(1)) << 10

    def _list(self, text: str) -> None:
        """Take a line of the lists that have headings."""
        match = _ZONE.match(text) if self._in_zones else None
        if match:
            self.zone_names.append(match.group(1))
            numbers = [int(value, 16) for value in match.groups()[1:] if value]
            if numbers:
                old = match.group(4) is not None
                start, end = (numbers[0] << 12, numbers[1] << 12) if old else (numbers[0], numbers[1] + 1)
                self.zones.append(BootZone(match.group(1), start, end))
            return
        # Its heading ends the list of zones.
        match = _MOVABLE.match(text)
        if match and len(self.movable) < MAX_RANGES:
            self.movable.append((int(match.group(1)), int(match.group(2), 16)))
            return
        match = _EARLY.match(text) if self._in_early else None
        if match:
            numbers = [int(value, 16) for value in match.groups()[1:] if value]
            old = match.group(4) is not None
            start, end = (numbers[0] << 12, numbers[1] << 12) if old else (numbers[0], numbers[1] + 1)
            self.ranges.append(Range(NODE, start, end, "memory", int(match.group(1))))
        elif text.startswith(("Initmem setup", "On node", "Zeroed")):
            self._in_early = False

    def _counts(self, text: str) -> None:
        match = _INITMEM.match(text)
        if match:
            node, start, end = int(match.group(1)), int(match.group(2), 16), int(match.group(3), 16)
            self.nodes.append(Range(NODE, start, end + 1, "node", node))
            return
        match = _UNAVAILABLE.match(text)
        if match:
            self.unavailable.append(Unavailable(int(match.group(1)), match.group(2), int(match.group(3))))
            return
        match = _ZEROED.match(text)
        if match:
            self.zeroed = int(match.group(1))

    def _range(self, text: str, whole: str) -> None:
        found = _parse_range(text) or _parse_reserved(text)
        if found is None:
            match = _IOMEM.match(whole)
            if match:
                found = Range(IOMEM, int(match.group(2), 16), int(match.group(3), 16) + 1, match.group(4))
        if found is not None and found.start < found.end and len(self.ranges) < MAX_RANGES:
            self.ranges.append(found)


def _parse_range(text: str) -> Range | None:
    """Parse a line that says what the firmware has."""
    match = _E820.match(text) or _E820_OLD.match(text)
    if match:
        name = match.group(1)
        source = FIRMWARE if name.startswith(("BIOS", "Xen")) else f"{name} map"
        return Range(source, int(match.group(2), 16), int(match.group(3), 16) + 1, match.group(4))
    match = _SRAT.match(text)
    if match:
        what = match.group(4).strip() or "memory"
        return Range(SRAT, int(match.group(2), 16), int(match.group(3), 16) + 1, what, int(match.group(1)))
    match = _EFI.match(text)
    if match:
        # Half-open up to Linux 3.x, then closed.
        closed = text.rstrip().find("]", match.end() - 1) == match.end() - 1
        return Range(EFI, int(match.group(2), 16), int(match.group(3), 16) + closed, match.group(1).strip())
    return None


def _parse_reserved(text: str) -> Range | None:
    """Parse a line that says what the kernel took, or may not use."""
    match = _NOSAVE.match(text)
    if match:
        return Range(RESERVED, int(match.group(1), 16), int(match.group(2), 16) + 1, "nosave")
    match = _MEMBLOCK.match(text)
    if match:
        return Range(
            f"memblock {match.group(1)}",
            int(match.group(2), 16),
            int(match.group(3), 16) + 1,
            match.group(4).strip(", "),
        )
    match = _OF.match(text)
    if match:
        return Range(RESERVED, int(match.group(1), 16), int(match.group(2), 16) + 1, match.group(3))
    match = _CRASH.match(text)
    if match:
        start = int(match.group(2)) << 20
        return Range(RESERVED, start, start + (int(match.group(1)) << 20), "crash kernel")
    match = _CRASH_NEW.match(text)
    if match:
        return Range(RESERVED, int(match.group(1), 16), int(match.group(2), 16), "crash kernel")
    match = _CMA.match(text)
    if match:
        start = int(match.group(2), 16)
        return Range(RESERVED, start, start + (int(match.group(1)) << 20), "CMA")
    match = _RESERVING.match(text)
    if match:
        what = match.group(1) or "initrd"
        return Range(RESERVED, int(match.group(3), 16), int(match.group(4), 16) + 1, what)
    return None
