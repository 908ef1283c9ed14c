# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated backports: the BTF in a copy of a stored vmcore, changed in place."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mminspect.typeinfo.btf import HEADER_SIZE, btf_size
from mminspect.typeinfo.btf_index import KIND_ENUM, KIND_STRUCT, WORDS
from tests.kit.support import CoreEditor


class BtfEditor:
    """
    Changes types.

    :param editor: Of the vmcore.
    :param address: Where its BTF is.
    """

    def __init__(self, editor: CoreEditor, address: int) -> None:
        self._editor, self._at = editor, address
        header = editor.read(address, HEADER_SIZE)
        length, types, types_length, strings, strings_length = struct.unpack_from(editor.order + "5I", header, 4)
        self._data = bytearray(editor.read(address, btf_size(header)))
        self._types = length + types, length + types + types_length
        self._strings = length + strings, length + strings + strings_length

    def _word(self, at: int) -> int:
        (word,) = struct.unpack_from(self._editor.order + "I", self._data, at)
        return int(word)

    def _put(self, at: int, word: int) -> None:
        data = struct.pack(self._editor.order + "I", word)
        self._data[at : at + 4] = data
        self._editor.write(self._at + at, data)

    def _string(self, name: str) -> int:
        """Find a string's offset."""
        start, end = self._strings
        found = self._data.find(b"\0" + name.encode() + b"\0", start, end)
        assert found >= 0, name
        return found + 1 - start

    def _records(self, kind: int) -> Iterator[tuple[int, int]]:
        """Find records of a kind: where each is, and how many elements it has."""
        at, end = self._types
        while at < end:
            info = self._word(at + 4)
            count = info & 0xFFFF
            if info >> 24 & 0x1F == kind:
                yield at, count
            fixed, each = WORDS[info >> 24 & 0x1F]
            at += 4 * (3 + fixed + each * count)

    def rename(self, old: str, new: str) -> None:
        """Rename all that has a name; the new one is not longer."""
        assert len(new) <= len(old)
        at = self._strings[0] + self._string(old)
        data = new.encode().ljust(len(old), b"\0")
        self._data[at : at + len(data)] = data
        self._editor.write(self._at + at, data)

    def set_enumerator(self, name: str, value: int) -> None:
        """Give an enumerator another value."""
        wanted = self._string(name)
        places = [
            at + 12 + index * 8
            for at, count in self._records(KIND_ENUM)
            for index in range(count)
            if self._word(at + 12 + index * 8) == wanted
        ]
        assert places, name
        for place in places:
            self._put(place + 4, value)

    def rename_member(self, struct_name: str, member: str, new: str) -> None:
        """Rename a member of one struct to a name that is in use elsewhere."""
        wanted, old = self._string(struct_name), self._string(member)
        places = [
            at + 12 + index * 12
            for at, count in self._records(KIND_STRUCT)
            if self._word(at) == wanted
            for index in range(count)
            if self._word(at + 12 + index * 12) == old
        ]
        assert places, (struct_name, member)
        for place in places:
            self._put(place, self._string(new))
