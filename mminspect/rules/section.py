# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sections whose flags, memmap and usage contradict each other.

With SPARSEMEM, ``pfn_valid()`` and ``pfn_to_online_page()`` are answered from ``struct mem_section``:

- SECTION_IS_ONLINE without SECTION_HAS_MEM_MAP or SECTION_MARKED_PRESENT: ``pfn_to_online_page()`` hands out struct
  pages of a section that ``valid_section()`` denies.
- SECTION_HAS_MEM_MAP without SECTION_MARKED_PRESENT: the walkers of present sections pass over it.
- SECTION_HAS_MEM_MAP without ``usage``: ``pfn_section_valid()`` follows a NULL pointer. If the section is online, rule
  bitmap-bounds says it already.
- With SPARSEMEM_VMEMMAP, every section's encoded memmap is ``vmemmap``. Another value leads ``sparse_decode_mem_map()``
  elsewhere.
- Without VMEMMAP, ``page_to_pfn()`` takes the section from ``page->flags``: a page that names another section has
  another pfn than its place in the memmap.
- A section that was plugged in later (not SECTION_IS_EARLY), has a memmap and no subsection in its
  ``subsection_map``: ``pfn_valid()`` denies all of it. A warning, as nothing is read.

Sections that are present and have no memmap are normal: the kernel failed to allocate one.

``detail`` has the ``section``, its ``flags``, and ``problem``, one of ``not present``, ``no memmap``, ``no usage``,
``memmap``, ``section link``, ``no subsection``; for wrong links the section that the pages ``linked`` to.

An error but for ``no subsection``.

Example: a dump of amd64 6.1 in which SECTION_HAS_MEM_MAP of an online section was cleared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from mminspect.findings import ERROR, WARNING
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.layout import SPARSEMEM_VMEMMAP
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import SectionEntry
from mminspect.rules.base import Identify, MapCheck, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit

PRESENT, HAS_MEM_MAP, ONLINE = "SECTION_MARKED_PRESENT", "SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE"
# Shared with device memory, which can be all that is left of it.
TAINTED = "SECTION_TAINT_ZONE_DEVICE"


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find pages that link to another section than the one that they are in."""
    section = memory.layout.flags.section
    if not section.width:
        return
    common, flags_offset = chunk.digest, memory.layout.page.flags_offset
    right = chunk.section.nr << section.shift
    wrong = (common.any_bits(flags_offset) ^ right) | (common.all_bits(flags_offset) ^ right)
    if not wrong & (section.mask << section.shift):
        return
    flags = chunk.flags
    kind = flags.dtype.type
    linked = (flags >> kind(section.shift)) & kind(section.mask)
    bad = np.flatnonzero((linked != kind(chunk.section.nr)) & (chunk.state == INITIALIZED))
    for index in bad.tolist():
        start = chunk.start_pfn + index
        yield Match(start, start + 1, (chunk.section.nr, int(linked[index])))


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Say what page_to_pfn() makes of the pages."""
    nr, linked = match.key
    return Violation(
        ERROR,
        f"{counted(match.pages, 'page')} of section {nr} linked to section {linked}: page_to_pfn() returns another pfn",
        {"section": nr, "problem": "section link", "linked": linked},
    )


def check_map(memory: MemoryMap) -> Iterator[Violation]:
    """Judge every section."""
    vmemmap = None
    if memory.layout.memory_model == SPARSEMEM_VMEMMAP:
        maps = Counter(entry.mem_map for entry in memory.mem_sections if HAS_MEM_MAP in entry.flags)
        # One section can't tell.
        vmemmap = maps.most_common(1)[0][0] if len(maps) > 1 else None
    empty = {section.nr for section in memory.sections if not section.ranges}
    for entry in memory.mem_sections:
        for problem, what in _problems(entry, vmemmap, empty):
            # Linux 7.4 takes the flag away.
            if problem == "not present" and not memory.layout.marks_present:
                continue
            shift = memory.layout.pfn_section_shift
            assert shift is not None
            yield Violation(
                WARNING if problem == "no subsection" else ERROR,
                f"section {entry.nr} {what}",
                {"section": entry.nr, "problem": problem, "flags": list(entry.flags)},
                pages=(entry.nr << shift, (entry.nr + 1) << shift),
            )


def _problems(entry: SectionEntry, vmemmap: int | None, empty: set[int]) -> Iterator[tuple[str, str]]:
    flags = entry.flags
    if HAS_MEM_MAP not in flags:
        if ONLINE in flags:
            yield "no memmap", "is online but has no memmap: pfn_to_online_page() and pfn_valid() contradict each other"
        return
    if PRESENT not in flags:
        yield "not present", "has a memmap but isn't marked present: walkers of present sections pass over it"
    if not entry.usage:
        if ONLINE not in flags:
            yield "no usage", "is valid but has no usage: pfn_valid() follows a NULL pointer"
    elif ONLINE in flags and TAINTED not in flags and entry.nr in empty:
        yield "no subsection", "is online but none of its subsections is valid"
    if vmemmap is not None and entry.mem_map != vmemmap:
        yield "memmap", f"has its memmap at {entry.mem_map:#x}, the others at {vmemmap:#x}"


RULE = Rule(
    summary="sections whose flags, memmap and usage contradict each other",
    functions=("pfn_valid", "pfn_section_valid", "pfn_to_online_page", "page_to_pfn", "sparse_decode_mem_map"),
    commits=(
        commit("b943f045a9af", "a section without usage after hot removal"),
        commit("1f90a3477df3", "sections that RAM shares with device memory"),
        commit("5ec8e8ea8b77", "usage freed while it was read"),
    ),
    checks=(MapCheck(check_map), PageCheck(check, describe)),
)
