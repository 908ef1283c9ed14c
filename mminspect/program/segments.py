# SPDX-License-Identifier: LGPL-2.1-or-later
"""Program headers as columns: a filtered dump of a large machine has a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from mminspect.program.elf import Elf, Segment

Column = npt.NDArray[np.uint64]
NAMES = Segment._fields
_ORDER_32 = ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")
_ORDER_64 = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")


class Segments(Sequence[Segment]):
    """
    Program headers.

    :param columns: A row for each header, by the names of :data:`NAMES`.
    """

    def __init__(self, columns: npt.NDArray[np.uint64]) -> None:
        self._columns = columns

    @staticmethod
    def of(segments: Iterable[Segment]) -> Segments:
        """Make columns of segments, unless they are."""
        if isinstance(segments, Segments):
            return segments
        rows = list(segments)
        return Segments(np.array(rows, np.uint64).reshape(len(rows), len(NAMES)))

    @staticmethod
    def decode(codec: Elf, table: bytes) -> Segments:
        """Decode a program header table, which must be of whole headers."""
        names = _ORDER_64 if codec.is_64_bit else _ORDER_32
        word = f"{codec.order}u{8 if codec.is_64_bit else 4}"
        kinds = [f"{codec.order}u4" if name in ("type", "flags") else word for name in names]
        rows = np.frombuffer(table, np.dtype(list(zip(names, kinds))))
        columns = np.zeros((len(rows), len(NAMES)), np.uint64)
        for name in names:
            columns[:, NAMES.index(name)] = rows[name]
        return Segments(columns)

    def column(self, name: str) -> Column:
        """Get a member of all of them."""
        return self._columns[:, NAMES.index(name)]

    def chosen(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Segments:
        """Choose some, by a mask or by their numbers."""
        return Segments(self._columns[which])

    @property
    def end(self) -> int:
        """Where in the file the data of all of them ends."""
        # The sum can have more than 64 bits.
        sizes = zip(self.column("offset").tolist(), self.column("filesz").tolist())
        return max((offset + filesz for offset, filesz in sizes), default=0)

    def cut_at(self, size: int) -> Segments:
        """Count what lies behind the end of a file of some size as lost."""
        columns, limit = self._columns.copy(), np.uint64(size)
        filesz = self.column("filesz")
        held = np.minimum(filesz, limit - np.minimum(self.column("offset"), limit))
        columns[:, NAMES.index("filesz")] = held
        columns[:, NAMES.index("lost")] = filesz - held
        return Segments(columns)

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Segments: ...

    def __getitem__(self, index: int | slice) -> Segment | Segments:
        if isinstance(index, slice):
            return Segments(self._columns[index])
        return Segment(*self._columns[index].tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segments) and np.array_equal(self._columns, other._columns)

    __hash__ = None  # type: ignore[assignment]
