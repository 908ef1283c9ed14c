# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Is a report about struct pages?

Evidence comes before names: a struct page that the kernel dumped, the address or the list head of one in its words,
then one in the registers of a function that died of it. Only where there is none, the names of functions decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mminspect.commands.triage import kinds
from mminspect.commands.triage.functions import is_helper, is_of_memory_map, is_of_struct_pages, is_reporter
from mminspect.commands.triage.lines import Line
from mminspect.commands.triage.report import Report
from mminspect.memorymap.bits import one_place

# An access this far from a register's value may have been made through it.
NEAR_REGISTER = 0x1000
# Bytes of a struct page's neighborhood that two good pointers have in common.
NEIGHBORHOOD = 1 << 16
# No struct page is smaller, or aligned to less.
LEAST_STRUCT_PAGE = 32
# Bits above it that two pointers have in common by chance once in 65536 times.
_MIDDLE = 0xFFFF0000

# Files whose BUG() and WARN() are about struct pages.
_FILES = re.compile(
    r"(?:mm/(?:page_alloc|compaction|page_isolation|memory_hotplug|sparse|sparse-vmemmap|mm_init|mmzone|internal|migrate|"
    r"page_owner|page_ext|memremap|hugetlb_vmemmap|vmscan|vmstat|swap|swap_state|debug|rmap|cma|debug_page_ref|"
    r"memory-failure|huge_memory|page_reporting|page_idle|shuffle|debug_page_alloc|folio-compat)\.[ch]|"
    r"include/linux/(?:mm|mmzone|page-flags|page_ref|mm_inline|memory_hotplug|pageblock-flags|huge_mm|pgalloc_tag)\.h|"
    r"drivers/base/memory\.c|fs/proc/page\.c)[:!]"
)
_BUG_OF_PAGES = re.compile(r"VM_(?:BUG|WARN)_ON(?:_ONCE)?_?(?:PAGE|FOLIO|PGFLAGS)")
# Where kernels without KASLR have their array of struct pages.
_MEMMAPS: tuple[tuple[int, int, str], ...] = (
    (0xFFFFEA0000000000, 0xFFFFEB0000000000, "x86-64"),
    (0xFFD4000000000000, 0xFFD6000000000000, "x86-64"),
    (0xFFFF7E0000000000, 0xFFFF800000000000, "arm64"),
    (0xFFFFFBFFFE000000, 0xFFFFFEFFFFE00000, "arm64"),
    (0xC00C000000000000, 0xC00D000000000000, "ppc64"),
    (0xF000000000000000, 0xF001000000000000, "ppc64"),
    (0xFF1C000000000000, 0xFF20000000000000, "riscv64"),
    (0xFFFF8D8000000000, 0xFFFF8F8000000000, "riscv64"),
    (0xFFFFFFC500000000, 0xFFFFFFC800000000, "riscv64"),
)
# compound_head() of PAGE_POISON_PATTERN, on machines of 64 and 32 bits.
_POISONED_HEADS = (0xFFFFFFFFFFFFFFFE, 0xFFFFFFFE)
# Registers that only one of them has.
_TELLING = (
    *((name, "x86-64") for name in ("RSP", "RAX")),
    *((name, "arm64") for name in ("x29", "x0")),
    *((name, "riscv64") for name in ("badaddr", "gp")),
    ("CTR", "ppc64"),
)
# Machines that fail print these.
_MACHINE_CHECK = re.compile(
    r".{0,200}?\[Hardware Error\]|EDAC .{0,80}(?:[CU]E |error)|mce: |Machine [Cc]heck|"
    r".{0,80}Uncorrected (?:error|memory)|Memory failure: 0x|MCE \d|SError Interrupt|"
    r".{0,60}synchronous external abort|.{0,60}ECC "
)
# Corrected errors that a log can tell of without any meaning for this.
_QUIET = re.compile(
    r"mce: (?:CPU|\[Hardware Error\]: Machine check events logged|Using \d|CPU\d+: Thermal)|"
    r"EDAC MC: Ver|EDAC .{0,40}Giving out"
)
_LIST_WORDS = re.compile(
    r"should (?:be|have been) (?:(?:next|prev) )?\(?([0-9a-f]{8,16})\)?,? but was \(?([0-9a-f]{8,16})\)?"
)
_NON_CANONICAL = re.compile(r"non-canonical address 0x([0-9a-f]{16})")

# What UBSAN says of pgdat->node_zones and zone->free_area.
_BAD_INDEX = re.compile(r"index -?\d+ is out of range for type '(?:struct )?(?:zone|free_area|per_cpu_pages) ?\[")
_WARNED = re.compile(r"\bat (?:\S{1,200}:\d{1,6} )?(?:at )?([A-Za-z_][\w.]{0,200})\+0x")
# Functions that every caller of the page allocator goes through.
_ASKED = ("__alloc_pages", "alloc_pages", "__alloc_frozen_pages", "alloc_frozen_pages", "__folio_alloc", "folio_alloc")

_BY_NAME = (kinds.FAULT, kinds.OOPS, kinds.BUG_AT, kinds.LIST, kinds.WARNING, kinds.UNKNOWN, kinds.VM_BUG_ON)


# With KASLR, x86-64 has the direct map, vmalloc's 32 TiB and the struct pages in this order, and other things above.
_VMALLOC = 31 << 40
_ABOVE_MEMMAP = 0xFFFFFE0000000000
# Without it, kernels before 4.9 have stacks in the direct map, and vmalloc's memory at a fixed place.
_FIXED_STACKS = range(0xFFFF880000000000, 0xFFFFC90000000000)
_FIXED_VMALLOC = range(0xFFFFC90000000000, 0xFFFFEA0000000000)


class About(NamedTuple):
    """
    Whether a report is about struct pages.

    :ivar about: Whether it is.
    :ivar why: Why it is, or why not.
    :ivar evidence: Everything that speaks for it, the strongest first.
    :ivar hardware: What looks like a fault of the machine's, not of the kernel's.
    """

    about: bool
    why: str
    evidence: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()


def in_usual_memmap(report: Report, address: int) -> bool:
    """Return whether an address is where the report's kernel has its struct pages, if it is one without KASLR."""
    values = report.registers[0].values if report.registers else {}
    machine = next((machine for name, machine in _TELLING if name in values), None)
    return any(first <= address < end and machine in (None, other) for first, end, other in _MEMMAPS)


def _above_vmalloc(report: Report, address: int) -> bool:
    """Return whether an address is above the region of the stack, where x86-64 has nothing but struct pages."""
    stack = report.registers[0].values.get("RSP") if report.registers else None
    if stack is None or stack >> 47 != 0x1FFFF or (stack in _FIXED_STACKS and address in _FIXED_VMALLOC):
        return False
    return stack + _VMALLOC <= address < _ABOVE_MEMMAP


def about_pages(
    report: Report,
    is_struct_page: Callable[[int], bool] | None = None,
    earlier: Sequence[Line] = (),
) -> About:
    """
    Return whether a report is about struct pages.

    :param report: The report of the crash.
    :param is_struct_page: Whether an address is inside a struct page, where the memory map is known. Else the usual
        places count.
    :param earlier: The log's lines before the report, for the machine checks among them.
    """
    inside = is_struct_page or (lambda address: in_usual_memmap(report, address) or _above_vmalloc(report, address))
    hardware = tuple(_hardware(report, earlier, inside))
    evidence = [*_dumped(report), *_addresses(report, inside)]
    if report.kind in kinds.SANITIZERS:
        # Their page dumps show where an object lies, and their page_owner stacks are the page allocator's.
        fault = report.fault_address
        if fault is not None and inside(fault):
            evidence = [f"the bad access was to {fault:#x}, in a struct page"]
            return About(True, evidence[0], tuple(evidence), hardware)
        indexes = tuple(line.text.strip() for line in report.lines if _BAD_INDEX.search(line.text))
        if indexes:
            words = f"what a struct page says of its zone or order can't be: {indexes[0]}"
            return About(True, words, indexes, hardware)
        if report.function and is_of_memory_map(report.function):
            words = f"{report.function}() works on struct pages"
            return About(True, words, (words,), hardware)
        where = f"{report.function}()" if report.function else "the kernel"
        return About(False, f"{report.kind.upper()} found a bug of {where}, in memory of its own", (), hardware)
    if _is_waiting(report):
        return About(False, "a task waits for something; that isn't a fault of a struct page", (), hardware)
    if evidence:
        return About(True, evidence[0], tuple(evidence), hardware)
    named = _name(report)
    if named:
        held = tuple(_held(report, inside))
        return About(True, named, (named, *held), hardware)
    if report.function and is_of_struct_pages(report.function):
        return About(False, f"it came while {report.function}() ran, and not of what that did", (), hardware)
    if report.function:
        return About(False, f"{report.function}() doesn't work on struct pages, and none is named", (), hardware)
    return About(False, "no struct page is named, and no function that works on them", (), hardware)


def _is_waiting(report: Report) -> bool:
    return report.kind == kinds.HANG and report.what.startswith("task ")


def _dumped(report: Report) -> list[str]:
    if report.kind in (kinds.BAD_PAGE, kinds.OUTSIDE_ZONE):
        return [f"the kernel found a bad page: {report.what}"]
    if report.kind == kinds.VM_BUG_ON and (_BUG_OF_PAGES.search(report.what) or report.pages):
        return [f"a check of a page failed: {report.what}"]
    if report.kind == kinds.WARNING and _BUG_OF_PAGES.search(report.what):
        return [f"a check of a page failed: {report.what}"]
    if report.kind in (kinds.BUG_AT, kinds.WARNING, kinds.LIST) and report.pages:
        return ["the kernel dumped a page before it died"]
    return []


def _addresses(report: Report, inside: Callable[[int], bool]) -> list[str]:
    """List the struct pages that the kernel's words name."""
    found = [
        f"{address:#x} is in a struct page: {text}" for address, text in report.addresses.items() if inside(address)
    ]
    fault = report.fault_address
    if fault is None or (fault in report.addresses and inside(fault)):
        return found
    if fault in _POISONED_HEADS:
        found.append(f"{fault:#x} is the head of a struct page that is all ones: poison that no initializer wrote over")
    for name, value in _main_registers(report):
        if inside(value) and abs(fault - value) < NEAR_REGISTER:
            found.append(f"the access to {fault:#x} was made through {name}, a struct page at {value:#x}")
    return found


def _main_registers(report: Report) -> list[tuple[str, int]]:
    return list(report.registers[0].values.items()) if report.registers else []


def _held(report: Report, inside: Callable[[int], bool]) -> list[str]:
    return [f"{name} held the struct page at {value:#x}" for name, value in _main_registers(report) if inside(value)]


def _name(report: Report) -> str | None:
    """Return the name of a function or a file that is about struct pages."""
    if report.kind not in (*_BY_NAME, kinds.HANG) or (report.kind == kinds.UNKNOWN and not report.registers):
        return None
    names = [report.function] if report.function else []
    if report.kind == kinds.WARNING:
        # A caller that asks the allocator for nonsense is warned too.
        where = _WARNED.search(report.what)
        names = [where.group(1)] if where else []
        if not names or names[0].startswith(_ASKED):
            return None
    if report.kind in (kinds.BUG_AT, kinds.WARNING) and _FILES.search(report.what):
        return f"the code of struct pages says so: {report.what}"
    if (not names or is_helper(names[0]) or report.kind == kinds.LIST) and report.kind != kinds.WARNING:
        # Whoever called a helper gave it what it died of.
        below = [name for name in report.trace if not is_helper(name) and not is_reporter(name) and name not in names]
        names += below[:1]
    for name in names:
        if is_of_struct_pages(name):
            return f"{name}() works on struct pages"
    return _called(report, names)


def _called(report: Report, names: list[str]) -> str | None:
    """Return the caller of a function, if all that it calls works on struct pages."""
    if report.kind == kinds.WARNING or not names:
        return None
    callers = [name for name in report.trace if not is_reporter(name) and name not in names]
    if callers and is_of_memory_map(callers[0]):
        return f"{callers[0]}(), which called {names[0]}(), works on struct pages"
    return None


def is_machine_check(text: str) -> bool:
    """Return whether a line tells of failing hardware."""
    return _MACHINE_CHECK.match(text.strip()) is not None and _QUIET.match(text.strip()) is None


def _hardware(report: Report, earlier: Sequence[Line], inside: Callable[[int], bool]) -> list[str]:
    """List what looks like a fault of the machine's."""
    found = [
        f"the machine reported an error before: {line.text.strip()[:200]}"
        for line in earlier
        if is_machine_check(line.text)
    ][:3]
    if report.kind == kinds.MACHINE_CHECK:
        found.insert(0, f"the machine reported an error: {report.what[:200]}")
    match = _LIST_WORDS.search(report.reason)
    if match:
        one, other = int(match.group(1), 16), int(match.group(2), 16)
        difference = one_place(one, other)
        # Neighbors and buddies among struct pages differ in one bit, too.
        apart = one ^ other
        neighbors = inside(one) and inside(other) and apart % LEAST_STRUCT_PAGE == 0 and apart < 2 * NEIGHBORHOOD
        if difference and not neighbors:
            found.append(f"the list's pointer differs in {difference} from what it should be")
    match = _NON_CANONICAL.search(report.reason)
    address = int(match.group(1), 16) if match else report.fault_address
    if address is not None:
        found += _wrong_address(report, address)
    return found


def _wrong_address(report: Report, address: int) -> list[str]:
    """Compare the address of a fault with the kernel's pointers at hand."""
    if address < 1 << 32:
        return []
    for name, value in _main_registers(report):
        if value >> 63 == 0 or value == address:
            continue
        # Where both point near the same place but for one byte or bit, that one was overwritten. Good pointers into
        # the same array differ in low bits, and round ones in any.
        same = (address ^ value) & _MIDDLE == 0 and address & _MIDDLE != 0
        difference = one_place(address // NEIGHBORHOOD, value // NEIGHBORHOOD) if same else None
        if difference:
            return [f"the address {address:#x} differs in {difference} from what {name} points near to"]
    return []
