# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Struct pages that the target doesn't hold.

Nothing is said about these pages: "unreadable" is never "uninitialized". ``detail.why`` names the reason:

- ``excluded from the dump``: makedumpfile left the memory out (``-e``, or a dump level that took it for
  free or user memory).
- ``not exported by kcore``: ``/proc/kcore`` has the memmap of System RAM only, and the page tables can't be
  walked on this architecture or don't map it.
- ``unmapped``: the dump has no page table entry, or no memory, for the address.
- ``damaged in the dump``: a compressed page of the dump can't be decompressed.
- ``missing from a dump that is not whole``: the dump is cut short, its writer could not finish it, or the page is in
  another piece of a split dump.

It is a note: it tells about the dump, not about the kernel. A memmap that is unmapped where the kernel
says that it is online can't be told from a dump that lacks the page tables.

Example: a dump written with ``makedumpfile -e`` has no vmemmap of holes.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import NOTE, TARGET
from mminspect.memmap.chunk import UNREADABLE_REASONS, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find runs of one reason."""
    for run in chunk.runs:
        if run.state in UNREADABLE_REASONS:
            yield Match(run.start, run.end, run.state)


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Name the reason."""
    why = UNREADABLE_REASONS[match.key]
    return Violation(NOTE, f"{counted(match.pages, 'struct page')} not examined: {why}", {"why": why})


RULE = Rule(
    summary="struct pages that the target doesn't hold",
    about=TARGET,
    checks=(PageCheck(check, describe),),
    explains=None,
)
