# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory maps of any size whose memmap is generated when it is read.

``python -m tests.benchmarks.synthetic SPAN HOLES FINDINGS JOBS`` scans one and prints what that took.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import struct
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

from drgn import Architecture, Platform, PlatformFlags, Program

from mminspect.consequences.attach import Outcomes
from mminspect.findings import Report
from mminspect.kernel.kernel import Kernel
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.render.formats import report_writer
from mminspect.render.style import Style
from mminspect.rules.registry import select_rules
from mminspect.typeinfo.load import TypeSource
from mminspect.walk.engine import Scan
from mminspect.walk.report import summarize
from tests.kit import handmade

GIB_PAGES = 1 << 18
SECTION_PAGES = 1 << 15
STRUCT_PAGE = 64
VMEMMAP = 0xFFFFEA0000000000
# A wrong page among right ones, so that each is a finding of its own.
WRONG_EVERY = 4

LAYOUT = dataclasses.replace(handmade.SPARSE, pageblock_order=9, pfn_section_shift=15)


class Size(NamedTuple):
    """
    A memory map to make.

    :ivar span: GiB from the first pfn to the last.
    :ivar holes: One section of so many is there.
    :ivar findings: Pages that link to a zone that doesn't span them.
    """

    span: int
    holes: int
    findings: int


def entry(zone: int) -> bytes:
    """Make a struct page in use that links to a zone of node 0."""
    data = bytearray(STRUCT_PAGE)
    struct.pack_into("<Q", data, 0, handmade.page_flags(LAYOUT, 0, zone))
    struct.pack_into("<ii", data, LAYOUT.page.mapcount_offset, -1, 1)
    return bytes(data)


def make(size: Size) -> tuple[Program, MemoryMap]:
    """Make a program that serves the memmap, and its memory map."""
    pages = size.span * GIB_PAGES
    numbers = range(0, pages // SECTION_PAGES, size.holes)
    sections = tuple(
        Section(nr, ((nr * SECTION_PAGES, (nr + 1) * SECTION_PAGES),), VMEMMAP, 0xFFFF888000001000) for nr in numbers
    )
    zones = (handmade.zone(1, 0, 0), handmade.zone(2, 0, pages))
    memory = dataclasses.replace(handmade.memory_map(*zones, layout=LAYOUT), sections=sections)
    good, wrong = entry(2), entry(1)
    clean = good * SECTION_PAGES
    faulty = (good * (WRONG_EVERY - 1) + wrong) * (SECTION_PAGES // WRONG_EVERY)
    # Sections are read whole; which of them have wrong pages, and how many.
    per_section = SECTION_PAGES // WRONG_EVERY
    full, rest = divmod(size.findings, per_section)
    partly = faulty[: rest * WRONG_EVERY * STRUCT_PAGE] + clean[rest * WRONG_EVERY * STRUCT_PAGE :]

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        first = offset // STRUCT_PAGE
        index = first // SECTION_PAGES // size.holes
        data = faulty if index < full else partly if index == full else clean
        start = first % SECTION_PAGES * STRUCT_PAGE
        return data if count == len(data) else data[start : start + count]

    prog = Program(Platform(Architecture.UNKNOWN, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))
    prog.add_memory_segment(VMEMMAP, pages * STRUCT_PAGE, read)
    return prog, memory


def seconds() -> float:
    """Get the CPU time of this process and its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main(arguments: Sequence[str]) -> None:
    """Scan a memory map, write the report to nowhere, and print what that took."""
    span, holes, findings, jobs = map(int, arguments)
    prog, memory = make(Size(span, holes, findings))
    cpu, wall = seconds(), time.monotonic()
    rules: list[object] = list(select_rules())
    memmap = Memmap(prog, memory)
    scan = Scan(memory, memmap, rules, handmade.nothing_known)  # type: ignore[arg-type]
    target = SimpleNamespace(
        prog=prog,
        vmcoreinfo=SimpleNamespace(release=LAYOUT.release, buddy_mapcount=None),
        has_function=lambda name: name == "dump_page",
    )
    kernel = Kernel(target, TypeSource("btf", ()))  # type: ignore[arg-type]
    kernel.memory, kernel.memmap = memory, memmap
    found = scan.findings(jobs=jobs, outcomes=Outcomes(kernel))
    scanned = seconds()
    with open(os.devnull, "w") as out:
        report_writer("json")(Report({}, [], summarize(scan, rules, found, 0), found), out, Style())  # type: ignore[arg-type]
    result = {
        "pages": scan.pages_examined,
        "findings": len(found),
        "cpu": scanned - cpu,
        "report": seconds() - scanned,
        "wall": time.monotonic() - wall,
        "rss": max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) >> 10,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
