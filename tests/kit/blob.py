# SPDX-License-Identifier: LGPL-2.1-or-later
"""An assembler of small BTF blobs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR = range(1, 15)
DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(15, 20)

SIGNED, CHAR, BOOL = 1, 2, 4


class Blob:
    """
    BTF that is being put together. Each method adds a type and returns its ID.

    :param order: ``<`` or ``>``.
    """

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.words: list[bytes] = []
        self.strings = b"\0"
        self.count = 0
        self._known: dict[str, int] = {"": 0}

    def name(self, text: str) -> int:
        """Get the offset of a string."""
        if text not in self._known:
            self._known[text] = len(self.strings)
            self.strings += text.encode() + b"\0"
        return self._known[text]

    def add(self, kind: int, name: str, value: int, *more: int, vlen: int = 0, flag: bool = False) -> int:
        """Add a record of any kind; ``value`` is its size or type."""
        info = flag << 31 | kind << 24 | vlen
        words = [self.name(name), info, value, *more]
        self.words.append(struct.pack(f"{self.order}{len(words)}I", *(w & 0xFFFFFFFF for w in words)))
        self.count += 1
        return self.count

    def int(self, name: str, size: int, encoding: int = 0) -> int:
        """Add an integer."""
        return self.add(INT, name, size, encoding << 24 | size * 8)

    def pointer(self, to: int) -> int:
        """Add a pointer."""
        return self.add(PTR, "", to)

    def array(self, of: int, index: int, length: int) -> int:
        """Add an array."""
        return self.add(ARRAY, "", 0, of, index, length)

    def compound(
        self, kind: int, name: str, size: int, members: Sequence[tuple[str, int, int, int | None]] = ()
    ) -> int:
        """Add a structure or union of (name, type, bit offset, bits or ``None``)."""
        flag = any(bits is not None for *_, bits in members)
        more: list[int] = []
        for member, type_id, offset, bits in members:
            more += [self.name(member), type_id, (bits or 0) << 24 | offset if flag else offset]
        return self.add(kind, name, size, *more, vlen=len(members), flag=flag)

    def enum(self, name: str, size: int, values: Sequence[tuple[str, int]], signed: bool = False) -> int:
        """Add an enumeration."""
        more = [word for item, value in values for word in (self.name(item), value)]
        return self.add(ENUM, name, size, *more, vlen=len(values), flag=signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], signed: bool = False) -> int:
        """Add an enumeration of 64 bits."""
        more = [word for item, value in values for word in (self.name(item), value, value >> 32)]
        return self.add(ENUM64, name, 8, *more, vlen=len(values), flag=signed)

    def prototype(self, result: int, parameters: Sequence[tuple[str, int]]) -> int:
        """Add a function prototype; a last parameter ("", 0) makes it variadic."""
        more = [word for name, type_id in parameters for word in (self.name(name), type_id)]
        return self.add(FUNC_PROTO, "", result, *more, vlen=len(parameters))

    def data(self) -> bytes:
        """Get the blob."""
        types = b"".join(self.words)
        header = struct.pack(self.order + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.strings))
        return header + types + self.strings
