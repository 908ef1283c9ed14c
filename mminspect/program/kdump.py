# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The pages of a kdump-compressed dump, read in runs.

drgn reads such dumps with libkdumpfile, one page at a time, which takes half as long again as to decompress them. In a
flattened dump it looks for each page among all records. Here the pages of a range are found, read and decompressed
together. Other compressions than those that Python has are left to libkdumpfile. Pages that can't be decompressed, and
those whose descriptors make no sense, are damaged: libkdumpfile would follow a descriptor out of the file.

The format is makedumpfile's, see its ``diskdump_mod.h``: a header, a sub header, two bitmaps with a bit for each pfn,
of which the second says what the dump holds, a descriptor for each page that it holds, ascending, and the pages' data.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Callable, Protocol

import numpy as np
import numpy.typing as npt
import zstandard
from drgn import FaultError, Program

from mminspect.program.corefile import CoreFile
from mminspect.program.direct import Bytes, DirectMemory
from mminspect.program.flattened import FlattenedRecords
from mminspect.program.kdump_header import BITMAP_BLOCK, KdumpHeader, count_bits
from mminspect.program.overlay import DAMAGED, EXCLUDED, MISSING
from mminspect.program.pagetable import PageTables

try:
    # A third faster.
    from zlib_ng import zlib_ng as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]
# How a page is compressed, in its descriptor's flags, and how pages are, in the header's status.
COMPRESSED_ZLIB = 0x1
COMPRESSED_LZO = 0x2
COMPRESSED_SNAPPY = 0x4
COMPRESSED_ZSTD = 0x20
FOREIGN = COMPRESSED_LZO | COMPRESSED_SNAPPY
# The pfns that a block of the bitmap stands for, and how many blocks are kept.
BLOCK_PFNS = BITMAP_BLOCK * 8
CACHED_BLOCKS = 16
# Bytes of pages that are kept for small reads, such as those of page tables.
CACHED_BYTES = 4 << 20
# Bytes that are decompressed at once.
PIECE = 2 << 20
Fallback = Callable[[int], Program]


class _Unusual(Exception):
    """Something that is left to libkdumpfile."""


class _DamagedError(Exception):
    """A page that isn't what its descriptor says."""


class DumpPages:
    """
    The pages of a dump.

    :param fd: The dump's file. It is duplicated.
    :param core: Its headers.
    :param fallback: Opens the dump's file with libkdumpfile.
    """

    def __init__(self, fd: int, core: CoreFile, fallback: Fallback) -> None:
        assert core.kdump is not None
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd)
        self._header = header = core.kdump
        self._records: FlattenedRecords | None = core.records
        self._piece = core.piece
        # What the page descriptors of a dump that is not whole don't name was never written, or was cut off.
        self._nowhere = DAMAGED if core.incomplete is None else MISSING
        self._skipped: int | None = None
        self._file_size = os.fstat(fd).st_size
        self._fallback = lru_cache(1)(fallback)
        self._descriptor = header.descriptor
        self._size = header.block_size
        self._page = lru_cache(max(16, CACHED_BYTES // self._size))(self._read_page)
        self._block = lru_cache(CACHED_BLOCKS)(self._read_block)
        self._before: npt.NDArray[np.int64] | None = None
        # Where the dump ends. It may be cut short later.
        self._end = self._file_size if core.records is None else core.records.end

    @property
    def page_size(self) -> int:
        """The size of a page in bytes."""
        return self._size

    @property
    def end(self) -> int:
        """The physical address behind the last that the bitmap stands for."""
        return self._header.bitmap_size * 8 * self._size

    def is_whole(self) -> bool:
        """Tell whether the file is still as long as it was when it was opened."""
        return os.fstat(self._fd).st_size >= self._file_size

    def blocks(self, pages: int, more: int) -> Iterator[tuple[bytes, bytes]]:
        """
        Read all pages that the dump holds, as far as they are whole, in adjacent ones.

        :param pages: How many at most.
        :param more: How many of those that follow are read with them.
        :return: Iterator of (memory, what follows it).
        """
        for start, end in self._held():
            for low in range(start, end, pages):
                high = min(low + pages, end)
                with contextlib.suppress(_Unusual, OSError, FaultError):
                    data = b"".join(self._read_pages(low, min(high + more, end)))
                    cut = (high - low) * self._size
                    yield data[:cut], data[cut:]

    def _held(self) -> Iterator[tuple[int, int]]:
        """Find the runs of pages that the dump holds, within a block of the bitmap."""
        for block in range(-(-self._header.bitmap_size // BITMAP_BLOCK)):
            ranks = self._block(block)[1]
            held = np.diff(ranks)
            edges = np.flatnonzero(np.diff(np.concatenate(([0], held, [0]))))
            base = block * BLOCK_PFNS
            for start, end in zip(edges[::2].tolist(), edges[1::2].tolist()):
                yield base + start, base + end

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """
        Read physical memory, as ``drgn.Program.add_memory_segment()`` wants it.

        :raises drgn.FaultError: if the dump doesn't hold a page.
        """
        size = self._size
        start, end = address // size, -(-(address + count) // size)
        try:
            step = PIECE // size
            if end - start <= 2:
                pieces = [[self._page(pfn) for pfn in range(start, end)]]
            else:
                pieces = [self._read_pages(pfn, min(pfn + step, end)) for pfn in range(start, end, step)]
        except (_Unusual, OSError):
            whole: bytes = self._fallback(self._fd).read(address, count, physical=True)
            return whole
        data = b"".join(chain.from_iterable(pieces))
        inside = address - start * size
        return data if inside == 0 and len(data) == count else data[inside : inside + count]

    def gather(self, ranges: Iterable[tuple[int, int]]) -> bytes | None:
        """
        Read pages from several places.

        :param ranges: Half-open ranges of pfns, each of some MiB at most.
        :return: Their contents in one piece; ``None`` if something is out of the ordinary or not in the dump.
        """
        try:
            return b"".join(chain.from_iterable([self._read_pages(start, end) for start, end in ranges]))
        except (_Unusual, OSError, FaultError):
            return None

    def _pread(self, size: int, offset: int) -> bytes:
        if self._records is not None:
            data = self._records.pread(self._fd, size, offset)
        else:
            data = os.pread(self._fd, size, offset)
        if len(data) < size:
            if self._nowhere == MISSING:
                raise FaultError(MISSING, 0)
            raise _Unusual("the file ends early")
        return data

    def _read_block(self, block: int) -> tuple[int, npt.NDArray[np.intp]]:
        """
        Read a block of the bitmap.

        :return: The number of descriptors before its first, and of those before each of its pfns and its end.
        """
        header = self._header
        if self._before is None:
            step = 256 * BITMAP_BLOCK
            counts = [np.zeros(1, np.int64)]
            for offset in range(0, header.bitmap_size, step):
                data = self._pread(min(step, header.bitmap_size - offset), header.bitmap_start + offset)
                counts.append(count_bits(data))
            self._before = np.cumsum(np.concatenate(counts))
        offset = block * BITMAP_BLOCK
        data = self._pread(min(BITMAP_BLOCK, header.bitmap_size - offset), header.bitmap_start + offset)
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return int(self._before[block]), np.concatenate(([0], np.cumsum(bits, dtype=np.intp)))

    def _descriptors(self, start: int, end: int) -> npt.NDArray[np.void]:
        """Read the descriptors of the pages from ``start`` to ``end``."""
        tables = []
        while start < end:
            block, low = divmod(start, BLOCK_PFNS)
            before, ranks = self._block(block)
            high = min(end - start + low, len(ranks) - 1)
            count = int(ranks[high] - ranks[low])
            if count < high - low:
                missing = start + int(np.argmin(np.diff(ranks[low : high + 1])))
                raise FaultError(EXCLUDED, missing * self._size)
            first, last = self._piece or (0, start + count)
            if start < first or start + count > last:
                raise FaultError(MISSING, start * self._size)
            index = before + int(ranks[low]) - self._descriptors_before()
            at = self._header.data_start + index * self._descriptor.itemsize
            tables.append(np.frombuffer(self._pread(count * self._descriptor.itemsize, at), self._descriptor))
            start += count
        return tables[0] if len(tables) == 1 else np.concatenate(tables)

    def _descriptors_before(self) -> int:
        """Get how many descriptors other pieces of a split dump have before the first one here."""
        if self._skipped is None:
            block, low = divmod(self._piece[0] if self._piece is not None else 0, BLOCK_PFNS)
            before, ranks = self._block(block)
            self._skipped = before + int(ranks[low])
        return self._skipped

    def _read_page(self, pfn: int) -> bytes:
        return self._read_pages(pfn, pfn + 1)[0]

    def _read_pages(self, start: int, end: int) -> list[bytes]:
        """Read and decompress the pages from ``start`` to ``end``."""
        table = self._descriptors(start, end)
        offsets = table["offset"].astype(np.int64)
        # No dump stores a page in more bytes than the page has; compressed data ends where it says, whatever the size
        # field says.
        too_large = table["size"] > self._size
        sizes = np.minimum(table["size"], self._size).astype(np.int64)
        nowhere = sizes.min() <= 0 or offsets.min() < 0 or offsets.max() >= self._end
        if nowhere or (too_large & (table["flags"] == 0)).any():
            raise FaultError(self._nowhere, start * self._size)
        cut = self._nowhere if (offsets + sizes).max() > self._end else DAMAGED
        ends = np.minimum(offsets + sizes, self._end)
        flags = set(table["flags"].tolist())
        if not flags <= {0, COMPRESSED_ZLIB, COMPRESSED_ZSTD}:
            # Behind the file's end, libkdumpfile would be ended by a signal.
            if too_large.any() or (offsets + sizes).max() > self._end:
                raise FaultError(cut, start * self._size)
            raise _Unusual("a compression that is not known here")
        # The data of most pages lies behind that of the page before. Pages of zeros share theirs.
        first = np.flatnonzero(np.concatenate(([True], offsets[1:] != ends[:-1])))
        last = np.append(first[1:], len(table)) - 1
        runs = zip(first.tolist(), (last + 1).tolist(), offsets[first].tolist(), ends[last].tolist())
        pages: list[bytes] = []
        inflate = self._inflate
        for low, high, begin, stop in runs:
            data = self._pread(stop - begin, begin)
            parts = zip((offsets[low:high] - begin).tolist(), (ends[low:high] - begin).tolist())
            try:
                if flags == {COMPRESSED_ZLIB}:
                    pages.extend([inflate(data[a:b]) for a, b in parts])
                else:
                    kinds = table["flags"][low:high].tolist()
                    pages.extend(self._unpack(data[a:b], kind) for (a, b), kind in zip(parts, kinds))
            # Its type information says that the first is an object.
            except (_DamagedError, zlib.error, zstandard.ZstdError):  # type: ignore[misc]
                raise FaultError(cut, (start + low) * self._size) from None
        if set(map(len, pages)) != {self._size}:
            raise FaultError(cut, start * self._size)
        return pages

    def _inflate(self, data: bytes) -> bytes:
        page: bytes = zlib.decompress(data, zlib.MAX_WBITS, self._size)
        # What a page's data can become is a thousand times as much, and many pages are kept at once.
        if len(page) != self._size:
            raise _DamagedError
        return page

    def _unpack(self, data: bytes, flags: int) -> bytes:
        """Decompress one page."""
        if flags == 0:
            return data
        if flags == COMPRESSED_ZLIB:
            return self._inflate(data)
        # Else it would be decompressed, however large it is.
        if zstandard.frame_content_size(data) != self._size:
            raise zstandard.ZstdError("a frame of another size")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=self._size)


class Pages(Protocol):
    """Pages of a dump, in one file or in several."""

    @property
    def page_size(self) -> int:
        """The size of a page in bytes."""

    @property
    def end(self) -> int:
        """The physical address behind the last that there can be."""

    def is_whole(self) -> bool:
        """Tell whether the files are still as long as they were."""

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read physical memory."""

    def gather(self, ranges: Iterable[tuple[int, int]]) -> bytes | None:
        """Read pages from several places."""


class PackedMemory(DirectMemory):
    """
    The memory of a dump, put together out of its pages at once.

    :param prog: As for :class:`~mminspect.program.direct.DirectMemory`, and so is ``fd``.
    :param pages: The dump's pages.
    :param tables: The kernel's page tables.
    """

    # More of it brings little, and is in memory twice.
    at_once = 4 << 20

    def __init__(self, prog: Program, fd: int, pages: Pages, tables: PageTables) -> None:
        super().__init__(prog, fd)
        self._pages = pages
        self._tables = tables

    def is_whole(self) -> bool:
        """Tell whether the files are still as long as they were when they were opened."""
        return super().is_whole() and self._pages.is_whole()

    def holds(self, address: int) -> bool:
        """Tell whether a byte is mapped by a large page."""
        return self._tables.large_runs(address, 1) is not None

    def _data(self, address: int, size: int) -> Bytes | None:
        page = self._pages.page_size
        before = address % page
        runs = self._tables.large_runs(address - before, -(-(before + size) // page) * page)
        if runs is None:
            return None
        data = self._pages.gather((start // page, (start + count) // page) for start, count in runs)
        return None if data is None else np.frombuffer(data, np.uint8)[before : before + size]


def can_read(core: CoreFile) -> bool:
    """Tell whether a dump is of a kind whose pages can be read here."""
    header, records = core.kdump, core.records
    if header is None or (records is not None and records.overlap):
        return False
    # There are dumps with one bitmap only.
    return header.bitmap_size * 8 >= header.max_mapnr


def is_read_here(core: CoreFile) -> bool:
    """
    Tell whether the pages of a dump are read here.

    libkdumpfile is as fast where it must decompress, but it is ended by a signal behind the end of a file.
    """
    header = core.kdump
    return header is not None and can_read(core) and (core.incomplete is not None or not is_foreign(header))


def is_foreign(header: KdumpHeader) -> bool:
    """Tell whether only libkdumpfile can decompress the pages of a dump."""
    return bool(header.status & FOREIGN)
