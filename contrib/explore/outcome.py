# SPDX-License-Identifier: LGPL-2.1-or-later
"""What comes of one layout: how its boot ended, the kernel's log, mminspect's judgment, and the host's own count."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace

from contrib.explore.afterboot import STOP
from contrib.explore.board import GIB, KIB, MIB, NO_MAP, PAGE
from contrib.explore.corefile import make_vmcore
from contrib.explore.coverage import Block, log_filter, read_blocks
from contrib.explore.judge import Judgment, Scanner, Sighting, without_numbers
from contrib.explore.kernel import STOP as DRIVER_INIT
from contrib.explore.kernel import Kernel
from contrib.explore.layout import Layout, LayoutError, merge, ram_ranges, subtract
from contrib.explore.machine import HANG, PANIC, STOPPED, Boot, Ram, Stock, booted
from contrib.explore.qemu import stock as stock_boot
from contrib.explore.qemu import why_not

LOG_SIZE = 256 << 10
# What the kernel takes away from RAM by itself, see trim_bios_range().
BIOS_AREAS = ((0, PAGE), (640 * KIB, MIB))
# Words after which the kernel has less memory, or other, than the table says.
CHANGES_MEMORY = re.compile(r"(mem|memmap|highmem|vmalloc|e820|efi_fake_mem|crash_kexec|memtest)=")
# MAXMEM of i386 with CONFIG_X86_PAE and without.
PAE_MAX_MEMORY, I386_MAX_MEMORY = 64 * GIB, 4 * GIB
PAGE_BITS = 12

LINES = (
    (re.compile(rb"WARNING: (?:CPU: \d+ PID: \d+ )?at (\S+?):\d+ ([\w.]+)\+0x"), "WARNING at {} in {}"),
    (re.compile(rb"WARNING: (\S+?):\d+ at ([\w.]+)\+0x"), "WARNING at {} in {}"),
    (re.compile(rb"kernel BUG at (\S+?):\d+!"), "kernel BUG at {}"),
    (re.compile(rb"(BUG: (?!Bad page)[A-Za-z][A-Za-z ,-]{3,60})"), "{}"),
    (re.compile(rb"(BUG: Bad (?:page state|page map|rss-counter state))"), "{}"),
    # Memory that can't be taken offline is dumped, too.
    (re.compile(rb"page dumped because: (?!unmovable page|migration failure)([ -~]{3,60})"), "Bad page because: {}"),
    (re.compile(rb"(general protection fault|divide error|invalid opcode|stack segment)[:,]"), "{}"),
    (re.compile(rb"Kernel panic - not syncing: ([ -~]{3,100})"), "Kernel panic: {}"),
)
CULPRIT = re.compile(rb"(?:RIP|EIP): (?:[0-9a-f]{4}:)?([\w.]+)\+0x[0-9a-f]+/0x")
CAUSE = re.compile(
    rb"(BUG: unable to handle page fault|BUG: kernel NULL pointer dereference|kernel BUG at \S+?(?=:)|"
    rb"general protection fault|invalid opcode|divide error)"
)
DIED = re.compile(r"Fatal exception|Attempted to kill|Oops")
# What the signature of a panic says already.
FATAL = re.compile(r"log: (BUG: (unable|kernel NULL)|kernel BUG|general|invalid|Kernel panic)")
# ftrace_init() complains of a call to __fentry__() that was poked over.
POKED = re.compile(r"log: WARNING at \S+ in ftrace_(bug|verify_code)")
TEXT = re.compile(rb"[ -~]{6,}")


@dataclass(frozen=True)
class Outcome:
    """
    What came of a layout.

    :ivar boot: How the boot ended.
    :ivar where: The symbol that the CPU was in.
    :ivar sightings: All signatures.
    :ivar log: The last lines of the log of a boot that failed.
    :ivar boot_cpu: CPU seconds of the boot.
    :ivar scan_cpu: CPU seconds of the scan.
    :ivar seconds: Wall time.
    :ivar memory: Bytes of memory that the guest used.
    :ivar blocks: Code of memory initialization that ran.
    """

    boot: str
    where: str
    sightings: tuple[Sighting, ...]
    log: tuple[str, ...]
    boot_cpu: float
    scan_cpu: float
    seconds: float
    memory: int
    blocks: tuple[Block, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Return severity and signature of all sightings."""
        return {sighting.key for sighting in self.sightings}


def tidy(text: str) -> str:
    """
    Return a text of the log without what is behind its end.

    printk() strips the level off the start of a record and leaves the last bytes where they were.

    >>> tidy("nonzero _refcountnt")
    'nonzero _refcount'
    """
    return text[:-2] if len(text) > 6 and text[-2:] == text[-4:-2] else text


def log_sightings(log: bytes) -> list[Sighting]:
    """Return what the kernel's log complains of."""
    found: dict[str, Sighting] = {}
    for pattern, form in LINES:
        for match in pattern.finditer(log):
            text = form.format(*(tidy(part.decode("latin-1").strip()) for part in match.groups()))
            if text.startswith(("BUG: unable", "BUG: kernel NULL", "general", "invalid", "kernel BUG")):
                culprit = CULPRIT.search(log, match.end(), match.end() + 4096)
                text += f" in {culprit.group(1).decode()}" if culprit else ""
            signature = "log: " + without_numbers(text)
            count = found[signature].count if signature in found else 0
            found[signature] = Sighting("error", signature, count + 1, text)
    return list(found.values())


def boot_sighting(kernel: Kernel, boot: Boot, log: bytes) -> Sighting:
    """Return the signature of a boot that didn't get to the end of memory initialization."""
    if boot.outcome != PANIC:
        where = kernel.symbols.name(boot.address) if boot.address else "firmware"
        return Sighting("error", f"boot: {boot.outcome}", 1, f"{boot.outcome} in {where}")
    # panic() doesn't return: what follows its call can be another function.
    where = kernel.symbols.name(boot.caller - 1)
    text = boot.text.strip()
    cause = next(reversed(list(CAUSE.finditer(log))), None)
    culprit = CULPRIT.search(log, cause.end()) if cause else None
    if DIED.search(text) and cause and culprit:
        text, where = (match.group(1).decode("latin-1") for match in (cause, culprit))
    return Sighting("error", f"boot: panic in {where}: {without_numbers(text)}", 1, f"{text} in {where}")


def max_memory(kernel: Kernel) -> int:
    """Return the address behind the last that a kernel can have memory at."""
    if kernel.image.wide:
        return 1 << 64
    return PAE_MAX_MEMORY if kernel.symbols.get("initial_pg_pmd") else I386_MAX_MEMORY


def expected_pages(layout: Layout, limit: int) -> int | None:
    """
    Return how many pages of RAM the kernel must have, or ``None`` if the words of the layout change that.

    RAM outside of the SRAT has no node and may be left out if it is more than the kernel's slack. Memory that firmware
    keeps has struct pages on some machines.

    :param limit: Where the kernel's memory ends at the latest.
    """
    if any(CHANGES_MEMORY.match(word) for word in layout.words):
        return None
    board = layout.board
    if any(entry.type not in (*board.present, *board.absent) for entry in layout.e820):
        return None
    kept = [(entry.start, entry.end) for entry in layout.e820 if entry.type == NO_MAP]
    there = ram_ranges(layout.e820)
    if not board.is_pc:
        there = subtract([(one.start, one.end) for one in layout.e820 if one.type in board.present], kept)
    # A page that is mapped in part counts on neither side.
    ram = [
        *subtract(there, (*(BIOS_AREAS if board.is_pc else ()), (limit, 1 << 64))),
        *merge(kept),
    ]
    return sum(max(0, (end >> PAGE_BITS) - (-(-start >> PAGE_BITS))) for start, end in ram)


def host_sightings(layout: Layout, judgment: Judgment, limit: int) -> list[Sighting]:
    """Return whether pages of RAM were lost or gained: the host knows what it gave."""
    expected = expected_pages(layout, limit)
    if expected is None or not judgment.zones:
        return []
    present = sum(zone["present"] for zone in judgment.zones)
    if present == expected:
        return []
    if present > expected:
        text = f"{present - expected} pages are present that are not RAM"
        return [Sighting("error", "host: pages are present that are not RAM", 1, text)]
    text = f"{expected - present} pages of RAM are in no zone"
    return [Sighting("warning", "host: pages of RAM are in no zone", 1, text)]


def low_memory(kernel: Kernel, ram: Ram) -> int | None:
    """Return the end of what an i386 kernel maps directly."""
    if kernel.image.wide:
        return None
    place = kernel.image.physical(kernel.symbols.need("max_low_pfn"))
    return int.from_bytes(ram.read(place, 4), "little") << PAGE_BITS


class Explorer:
    """
    Tries layouts on a kernel.

    :param kernel: The kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scanner = Scanner()
        self.trace = log_filter(kernel.symbols)
        self.options: list[str] = []
        if kernel.btf and kernel.system_map:
            self.options = ["--btf", kernel.btf, "--system-map", kernel.system_map]

    def log(self, ram: Ram) -> bytes:
        """Return the kernel's log buffer."""
        address = self.kernel.symbols.get("__log_buf")
        return ram.read(self.kernel.image.physical(address), LOG_SIZE) if address else b""

    def after_boot(self, layout: Layout) -> Stock:
        """
        Return how to boot a layout with what is done after boot.

        :raises LayoutError: if that can't be.
        """
        if not (self.kernel.image.wide and self.kernel.image.cpu.is_x86):
            raise LayoutError("what is done after boot needs a kernel of amd64")
        if self.kernel.pokes:
            raise LayoutError("firmware boots the kernel's file, which has no bytes over it")
        how = stock_boot(layout, self.kernel.path, self.kernel.modules)
        if how is None:
            raise LayoutError(f"what is done after boot needs firmware: {why_not(layout)}")
        return how

    def run(self, layout: Layout, stock: Stock | None = None) -> Outcome:
        """
        Try a layout.

        :param stock: How to boot it with firmware; else it is booted directly, unless something is done after boot.
        :raises LayoutError: if it can't be booted with this kernel.
        :raises HarnessError: if the harness fails.
        """
        start = time.monotonic()
        kernel = self.kernel
        if layout.check().after_boot:
            stock = self.after_boot(layout)
        plan = replace(kernel.plan(STOP if layout.after_boot else DRIVER_INIT), trace=self.trace)
        with booted(plan, layout, stock) as (boot, ram):
            log = self.log(ram)
            sightings = log_sightings(log)
            if kernel.pokes:
                sightings = [sighting for sighting in sightings if not POKED.match(sighting.signature)]
            judgment = Judgment((), (), "", 0.0)
            if boot.outcome == STOPPED:
                make_vmcore(ram, kernel.vmcoreinfo_of(ram), kernel.image.cpu.machine, low_memory(kernel, ram))
                judgment = self.scanner.scan(ram.path, self.options)
                sightings += judgment.sightings
                sightings += host_sightings(layout, judgment, max_memory(kernel)) if stock is None else []
                if judgment.error:
                    signature = "scan: " + without_numbers(judgment.error)
                    sightings.append(Sighting("error", signature, 1, judgment.error))
            else:
                if boot.outcome == PANIC:
                    sightings = [sighting for sighting in sightings if not FATAL.match(sighting.signature)]
                sightings.append(boot_sighting(kernel, boot, log))
            lines = [match.group().decode("latin-1") for match in TEXT.finditer(log)]
            return Outcome(
                boot.outcome,
                kernel.symbols.name((boot.caller or boot.address) - 1) if boot.outcome in (PANIC, HANG) else "",
                tuple(sightings),
                tuple(lines[-12:]) if boot.outcome != STOPPED else (),
                round(boot.cpu_seconds, 3),
                round(judgment.cpu_seconds, 3),
                round(time.monotonic() - start, 3),
                ram.used,
                read_blocks(boot.trace),
            )

    def close(self) -> None:
        """End the scanner."""
        self.scanner.close()
