# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn programs made by hand: types, constants and memory, without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Type,
    TypeEnumerator,
    TypeKindSet,
    TypeMember,
)

X86_64 = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)
WORD = "unsigned long"


class MadeKernel:
    """
    A program with types made by hand.

    :ivar prog: The program.
    """

    def __init__(self) -> None:
        self.prog = Program(X86_64)
        self._types: dict[str, Type] = {}
        self._constants: dict[str, Object] = {}
        self._objects: dict[str, Object] = {}
        self.prog.register_type_finder("made", self._find_type, enable_index=0)
        self.prog.register_object_finder("made", self._find_object, enable_index=0)

    def _find_type(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        found = self._types.get(name)
        return found if found is not None and found.kind in kinds else None

    def _find_object(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        if flags & FindObjectFlags.CONSTANT and name in self._constants:
            return self._constants[name]
        return self._objects.get(name) if flags & (FindObjectFlags.VARIABLE | FindObjectFlags.FUNCTION) else None

    def struct(self, name: str, members: Mapping[str, Any], size: int | None = None) -> Type:
        """
        Add a struct.

        :param members: Type, or its name, by member; they follow each other word by word.
        """
        made = []
        for index, (member, kind) in enumerate(members.items()):
            type_ = self.prog.type(kind) if isinstance(kind, str) else kind
            made.append(TypeMember(type_, member or None, bit_offset=index * 64))
        whole = len(made) * 8 if size is None else size
        self._types[name] = self.prog.struct_type(name, whole, made)
        return self._types[name]

    def enum(self, name: str | None, values: Mapping[str, int]) -> None:
        """Add an enum."""
        kind = self.prog.int_type("unsigned int", 4, False)
        made = self.prog.enum_type(name, kind, [TypeEnumerator(item, value) for item, value in values.items()])
        if name is not None:
            self._types[name] = made
        for item, value in values.items():
            self._constants[item] = Object(self.prog, made, value)

    def value(self, name: str, value: int, kind: Any = WORD) -> None:
        """Add a variable that has a value and no address."""
        self._objects[name] = Object(self.prog, kind, value)

    def function(self, name: str) -> None:
        """Add a function."""
        self._objects[name] = Object(self.prog, self.prog.function_type(self.prog.void_type(), ()), address=0x1000)

    def memory(self, address: int, words: Sequence[int]) -> None:
        """Add memory."""
        data = b"".join(word.to_bytes(8, "little") for word in words)

        def read(at: int, count: int, offset: int, physical: bool) -> bytes:
            return data[offset : offset + count]

        self.prog.add_memory_segment(address, len(data), read)
