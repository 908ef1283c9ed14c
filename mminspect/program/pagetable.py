# SPDX-License-Identifier: LGPL-2.1-or-later
"""A walk through page tables of 64-bit architectures, in physical memory. What an entry says is the architecture's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Callable, Optional

from drgn import FaultError, Program

PAGE_SHIFT = 12
# Each level translates 9 bits: a table is one page of 8-byte entries.
LEVEL_BITS = 9
ENTRIES = 1 << LEVEL_BITS
# Tables that are kept. One of the last level is good for 2 MiB, one of the level above for 1 GiB.
CACHED_TABLES = 256
# The vmemmap is mapped by pages of this size, or larger ones.
LARGE_PAGE = 1 << 21
# Decodes an entry, given what an entry of its level would map, as a shift: (physical address, shift of the leaf, or 0
# where it is the address of the next table). ``None`` if nothing is there.
Entry = Callable[[int, int], Optional[tuple[int, int]]]


class PageTables:
    """
    The kernel's page tables.

    :param prog: Reads physical memory.
    :param root: Physical address of ``swapper_pg_dir``.
    :param levels: Number of levels.
    :param entry: Decodes an entry.
    """

    def __init__(self, prog: Program, root: int, levels: int, entry: Entry) -> None:
        self._prog = prog
        self._root = root
        self._levels = levels
        self._entry = entry
        self._table = lru_cache(CACHED_TABLES)(self._read_table)

    def again(self) -> PageTables:
        """Get the same page tables without what was read of them."""
        return PageTables(self._prog, self._root, self._levels, self._entry)

    def _read_table(self, address: int) -> tuple[int, ...]:
        return struct.unpack(f"<{ENTRIES}Q", self._prog.read(address, ENTRIES * 8, physical=True))

    def translate(self, address: int) -> tuple[int, int]:
        """
        Translate a virtual address.

        :return: Physical address, and the number of bytes from there to the end of the leaf.
        :raises drgn.FaultError: if nothing is mapped there, or a table can't be read.
        """
        table = self._root
        for level in range(self._levels - 1, -1, -1):
            shift = PAGE_SHIFT + level * LEVEL_BITS
            found = self._entry(self._table(table)[(address >> shift) % ENTRIES], shift)
            if found is None:
                break
            table, leaf = found
            if leaf:
                inside = address & ((1 << leaf) - 1)
                return table + inside, (1 << leaf) - inside
        raise FaultError("address is not mapped", address)

    def leaves(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """
        Find what is mapped in a range of virtual addresses that starts and ends at a table of the last level.

        :return: Iterator of (physical address, bytes) of each leaf, in the order of virtual addresses.
        """
        whole = (1 << PAGE_SHIFT + self._levels * LEVEL_BITS) - 1
        yield from self._leaves(self._root, self._levels - 1, start & whole, (end - 1 & whole) + 1)

    def _leaves(self, table: int, level: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Find leaves of a table; the range is relative to what it maps."""
        shift = PAGE_SHIFT + level * LEVEL_BITS
        try:
            entries = self._table(table)
        except FaultError:
            return
        for index in range(start >> shift, (end - 1 >> shift) + 1):
            found = self._entry(entries[index], shift)
            if found is None:
                continue
            at, leaf = found
            base = index << shift
            if leaf:
                yield at, 1 << leaf
            elif level:
                yield from self._leaves(at, level - 1, max(start - base, 0), min(end - base, 1 << shift))

    def large_runs(self, address: int, size: int) -> list[tuple[int, int]] | None:
        """
        Translate a range that is mapped by large pages.

        :return: Runs of physical memory, as (address, bytes), in the order of the range. ``None`` if some of it is
            mapped by small pages, which drgn reads as well, or not at all.
        """
        runs: list[tuple[int, int]] = []
        try:
            while size > 0:
                start, more = self.translate(address)
                # Few small pages end where a large one would.
                if (start + more) % LARGE_PAGE:
                    return None
                count = min(size, more)
                if runs and sum(runs[-1]) == start:
                    runs[-1] = (runs[-1][0], runs[-1][1] + count)
                else:
                    runs.append((start, count))
                address, size = address + count, size - count
        except FaultError:
            return None
        return runs

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read virtual memory, as ``drgn.Program.add_memory_segment()`` wants it: one read a leaf."""
        pieces = []
        while count:
            where, size = self.translate(address)
            size = min(size, count)
            pieces.append(self._prog.read(where, size, physical=True))
            address += size
            count -= size
        return b"".join(pieces)
