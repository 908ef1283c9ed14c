# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF: the kernel's own compact type information, as a drgn type finder.

The format is described in the kernel's ``Documentation/bpf/btf.rst``. Types are made when they are
asked for; what is done at once is one pass that finds where each type record starts.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import Callable, Literal

import numpy as np
import numpy.typing as npt
from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from mminspect.errors import TypeInfoError
from mminspect.program.arch import elf_of
from mminspect.program.text import one_line
from mminspect.typeinfo.btf_index import (
    KIND_ARRAY,
    KIND_CONST,
    KIND_ENUM,
    KIND_ENUM64,
    KIND_FLOAT,
    KIND_FUNC,
    KIND_FUNC_PROTO,
    KIND_FWD,
    KIND_INT,
    KIND_PTR,
    KIND_RESTRICT,
    KIND_STRUCT,
    KIND_TYPE_TAG,
    KIND_TYPEDEF,
    KIND_UNION,
    KIND_VAR,
    KIND_VOLATILE,
    MAX_SIZE,
    starts_of,
)

BTF_MAGIC = 0xEB9F
HEADER_SIZE = 24
# No structure is larger; struct pglist_data, with a zonelist of 1024 nodes, has 170 KB.
MAX_STRUCT_SIZE = 16 << 20
# Elements of an array that takes no room, such as lock_class_key without lockdep.
MAX_EMPTY_ELEMENTS = 1 << 16

_QUALIFIERS = {
    KIND_VOLATILE: Qualifiers.VOLATILE,
    KIND_CONST: Qualifiers.CONST,
    KIND_RESTRICT: Qualifiers.RESTRICT,
}

_TYPE_KINDS = {
    KIND_STRUCT: TypeKind.STRUCT,
    KIND_UNION: TypeKind.UNION,
    KIND_ENUM: TypeKind.ENUM,
    KIND_ENUM64: TypeKind.ENUM,
    KIND_TYPEDEF: TypeKind.TYPEDEF,
}

_Words = npt.NDArray[np.uint32]

# Deeper chains of qualifiers and typedefs are a loop.
_MAX_DEPTH = 64


def btf_size(header: bytes) -> int:
    """
    Get the size of BTF data from its header.

    :param header: The first :data:`HEADER_SIZE` bytes.
    :return: Size in bytes, header and all.
    :raises TypeInfoError: if it is no BTF header.
    """
    order = _byte_order(header)
    hdr_len, type_off, type_len, str_off, str_len = (
        int.from_bytes(header[i : i + 4], order) for i in range(4, HEADER_SIZE, 4)
    )
    size = hdr_len + max(type_off + type_len, str_off + str_len)
    if hdr_len < HEADER_SIZE or hdr_len > 4096 or size > MAX_SIZE:
        raise TypeInfoError("corrupt BTF: the header's offsets make no sense")
    return size


def _byte_order(header: bytes) -> Literal["little", "big"]:
    if len(header) < HEADER_SIZE:
        raise TypeInfoError("corrupt BTF: shorter than its header")
    if header[2] == 1 and int.from_bytes(header[:2], "little") == BTF_MAGIC:
        return "little"
    if header[2] == 1 and int.from_bytes(header[:2], "big") == BTF_MAGIC:
        return "big"
    raise TypeInfoError("not BTF: the magic number or the version is wrong")


class Btf:
    """
    The types of one kernel.

    :param prog: Program to make types for.
    :param data: BTF data, with its header.
    :raises TypeInfoError: if the data is corrupt. So do all methods that make types.
    """

    def __init__(self, prog: Program, data: bytes) -> None:
        order = _byte_order(data[:HEADER_SIZE])
        if btf_size(data[:HEADER_SIZE]) > len(data):
            raise TypeInfoError("corrupt BTF: cut short")
        hdr_len, type_off, type_len, str_off, str_len = (
            int.from_bytes(data[i : i + 4], order) for i in range(4, HEADER_SIZE, 4)
        )
        if type_off % 4 or type_len % 4:
            raise TypeInfoError("corrupt BTF: types are not aligned")
        self._prog = prog
        words = array("I")
        words.frombytes(data[hdr_len + type_off : hdr_len + type_off + type_len])
        if order != sys.byteorder:
            words.byteswap()
        self._words = words
        self._strings = data[hdr_len + str_off : hdr_len + str_off + str_len]
        self._starts = starts_of(data[:HEADER_SIZE], words)
        starts = np.frombuffer(self._starts, np.uint32)
        all_words = np.frombuffer(words, np.uint32)
        self._name_offs = all_words[starts]
        self._kinds = (all_words[starts + 1] >> 24) & 0x1F
        # Type ID 0 is void, which has no record.
        self._kinds[0] = 0
        self._types: dict[int, Type] = {}
        # Names that were looked for: some dozens, each a few times, and many times by "page" of many pages.
        self._found: dict[tuple[str, tuple[int, ...]], int | None] = {}
        self._word_size = elf_of(prog.platform).max_address.bit_length() // 8
        # Structures whose members were compared with their size, with how deep they are nested.
        self._checked: dict[int, int] = {}
        self._enumerators: tuple[_Words, _Words, _Words] | None = None
        self._found_enumerators: dict[str, Object | None] = {}

    def _string(self, offset: int) -> str:
        end = self._strings.find(b"\0", offset)
        if offset >= len(self._strings) or end < 0:
            raise TypeInfoError("corrupt BTF: a name lies outside the strings")
        return self._strings[offset:end].decode("ascii", "replace")

    def _record(self, type_id: int) -> tuple[int, str, int, int, int, bool]:
        """Get (kind, name, size or type, position of what follows, vlen, kind flag) of a type."""
        if not 0 < type_id < len(self._starts):
            raise TypeInfoError(f"corrupt BTF: there is no type {type_id}")
        pos = self._starts[type_id]
        words = self._words
        info = words[pos + 1]
        name = self._string(words[pos]) if words[pos] else ""
        return (info >> 24) & 0x1F, name, words[pos + 2], pos + 3, info & 0xFFFF, bool(info >> 31)

    def find(self, name: str, kinds: tuple[int, ...]) -> int | None:
        """
        Find a type by name.

        :param name: Name, without ``struct`` and the like.
        :param kinds: BTF kinds to look for.
        :return: Type ID of the first one, or ``None``.
        """
        key = name, kinds
        if key not in self._found:
            self._found[key] = self._find(name, kinds)
        return self._found[key]

    def _find(self, name: str, kinds: tuple[int, ...]) -> int | None:
        # Strings are unique in BTF, so a name has one offset. The search is over bytes, far cheaper
        # than a dictionary of all names.
        needle = b"\0" + name.encode() + b"\0"
        at = self._strings.find(needle)
        if at < 0:
            return None
        matches = np.flatnonzero(self._name_offs == at + 1)
        return next((int(type_id) for type_id in matches if self._kinds[type_id] in kinds), None)

    def type(self, type_id: int, depth: int = 0) -> Type:
        """
        Make a type.

        :param type_id: BTF type ID.
        :return: drgn type. Members and parameters are made when they are looked at.
        """
        try:
            return self._types[type_id]
        except KeyError:
            pass
        if depth > _MAX_DEPTH:
            raise TypeInfoError("corrupt BTF: types refer to each other in a loop")
        try:
            result = self._make_type(type_id, depth + 1)
        except (TypeError, ValueError, IndexError, OverflowError) as e:
            raise TypeInfoError(f"corrupt BTF: type {type_id} can't be: {e}") from None
        self._types[type_id] = result
        return result

    def _make_type(self, type_id: int, depth: int) -> Type:
        prog = self._prog
        if type_id == 0:
            return prog.void_type()
        kind, name, value, pos, vlen, flag = self._record(type_id)
        if kind in _QUALIFIERS:
            inner = self.type(value, depth)
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind == KIND_TYPE_TAG:
            return self.type(value, depth)
        if kind == KIND_TYPEDEF:
            return prog.typedef_type(name, self.type(value, depth))
        if kind == KIND_PTR:
            return prog.pointer_type(self.type(value, depth))
        if kind == KIND_INT:
            return self._int_type(name, value, self._words[pos])
        if kind == KIND_FLOAT:
            return prog.float_type(name, value)
        if kind == KIND_ARRAY:
            element, _, count = self._words[pos : pos + 3]
            # A flexible array member has no length, here and in BTF's "[0]".
            return prog.array_type(self.type(element, depth), count if count else None)
        if kind in (KIND_STRUCT, KIND_UNION):
            self._check_members(type_id, frozenset())
            make = prog.struct_type if kind == KIND_STRUCT else prog.union_type
            return make(name or None, value, list(self._members(pos, vlen, flag)))
        if kind == KIND_FWD:
            return prog.union_type(name) if flag else prog.struct_type(name)
        if kind in (KIND_ENUM, KIND_ENUM64):
            return self._enum_type(kind, name, value, pos, vlen, flag)
        if kind == KIND_FUNC_PROTO:
            return self._function_type(value, pos, vlen, depth)
        if kind in (KIND_FUNC, KIND_VAR):
            return self.type(value, depth)
        raise TypeInfoError(f"corrupt BTF: type {type_id} of kind {kind} is used as a type")

    def _int_type(self, name: str, size: int, encoding: int) -> Type:
        if size not in (1, 2, 4, 8, 16):
            raise TypeInfoError(f"corrupt BTF: integer of {size} bytes")
        bits = encoding >> 24
        if bits & 4 or name == "_Bool":
            return self._prog.bool_type(name, size)
        # Old pahole doesn't mark char as signed.
        return self._prog.int_type(name, size, bool(bits & 1) or name == "char")

    def _raw_members(self, pos: int, vlen: int, flag: bool) -> Iterator[tuple[int, int, int, int | None]]:
        """Get the name, the type ID, the offset in bits and the bits of a bit field of each member."""
        words = self._words
        for at in range(pos, pos + 3 * vlen, 3):
            name_off, type_id, offset = words[at : at + 3]
            if flag:
                yield name_off, type_id, offset & 0xFFFFFF, offset >> 24 or None
            else:
                yield name_off, type_id, offset, None

    def _members(self, pos: int, vlen: int, flag: bool) -> Iterator[TypeMember]:
        for name_off, type_id, offset, bits in self._raw_members(pos, vlen, flag):
            yield TypeMember(self._lazy_object(type_id, bits), self._string(name_off) if name_off else None, offset)

    def _check_members(self, struct_id: int, outer: frozenset[int]) -> int:
        """
        Check that the members of a structure, and of those in it, lie inside it.

        :param outer: The structures that it is in.
        :return: How many are nested in it.
        :raises TypeInfoError: if they don't; drgn would follow a structure in itself without end.
        """
        if struct_id in self._checked:
            return self._checked[struct_id]
        _, name, size, pos, vlen, flag = self._record(struct_id)
        if size > MAX_STRUCT_SIZE:
            raise TypeInfoError(one_line(f"corrupt BTF: struct {name} has {size} bytes"))
        outer |= {struct_id}
        depth = 0
        for name_off, type_id, offset, bits in self._raw_members(pos, vlen, flag):
            base, count, member_size = self._value_type(type_id)
            if self._kinds[base] in (KIND_STRUCT, KIND_UNION) and count:
                if base in outer:
                    raise TypeInfoError(one_line(f"corrupt BTF: struct {name} is a member of itself"))
                depth = max(depth, self._check_members(base, outer) + 1)
            # Old pahole wrote bit fields as integers of odd widths.
            odd = self._kinds[base] == KIND_INT and self._words[self._starts[base] + 3] & 0xFF != 8 * member_size
            width = 8 * member_size if bits is None and not odd else bits or 0
            if depth > _MAX_DEPTH or offset + width > 8 * size or (bits is None and not odd and offset % 8):
                member = self._string(name_off) if name_off else "(anonymous)"
                raise TypeInfoError(one_line(f"corrupt BTF: the member {member} of struct {name} can't be where it is"))
        self._checked[struct_id] = depth
        return depth

    def _value_type(self, type_id: int) -> tuple[int, int, int]:
        """
        Look through typedefs, qualifiers and arrays.

        :return: ID of the type behind them, how many there are, and the bytes that all of them take.
        :raises TypeInfoError: if no variable can have the type.
        """
        count = 1
        for _ in range(_MAX_DEPTH):
            kind, name, value, pos, _, _ = self._record(type_id)
            if kind == KIND_ARRAY:
                type_id, _, elements = self._words[pos : pos + 3]
                count *= elements
            elif kind in (KIND_TYPEDEF, KIND_TYPE_TAG, *_QUALIFIERS):
                type_id = value
            elif kind in (KIND_INT, KIND_FLOAT, KIND_ENUM, KIND_ENUM64, KIND_STRUCT, KIND_UNION, KIND_PTR):
                size = self._word_size if kind == KIND_PTR else value
                if not size and count > MAX_EMPTY_ELEMENTS:
                    raise TypeInfoError(f"corrupt BTF: an array of {count} elements")
                return type_id, count, count * size
            else:
                raise TypeInfoError(one_line(f"corrupt BTF: type {type_id} ({name or kind}) has no values"))
        raise TypeInfoError("corrupt BTF: types refer to each other in a loop")

    def _lazy_object(self, type_id: int, bit_size: int | None) -> Callable[[], Object]:
        def make() -> Object:
            type_ = self.type(type_id)
            try:
                if bit_size is None:
                    return Object(self._prog, type_)
                return Object(self._prog, type_, bit_field_size=bit_size)
            except (TypeError, ValueError) as e:
                raise TypeInfoError(f"corrupt BTF: a member can't have its type: {e}") from None

        return make

    def _enum_type(self, kind: int, name: str, size: int, pos: int, vlen: int, signed: bool) -> Type:
        if vlen == 0:
            return self._prog.enum_type(name or None)
        if size not in (1, 2, 4, 8):
            raise TypeInfoError(f"corrupt BTF: enum of {size} bytes")
        enumerators = [TypeEnumerator(*item) for item in self._enum_values(kind, pos, vlen, signed)]
        compatible = self._prog.int_type("int" if signed else "unsigned int", size, signed)
        return self._prog.enum_type(name or None, compatible, enumerators)

    def _enum_values(self, kind: int, pos: int, vlen: int, signed: bool) -> Iterator[tuple[str, int]]:
        words = self._words
        step = 3 if kind == KIND_ENUM64 else 2
        for at in range(pos, pos + step * vlen, step):
            value = words[at + 1] | (words[at + 2] << 32 if kind == KIND_ENUM64 else 0)
            bits = 64 if kind == KIND_ENUM64 else 32
            if signed and value >> (bits - 1):
                value -= 1 << bits
            yield self._string(words[at]), value

    def _function_type(self, return_id: int, pos: int, vlen: int, depth: int) -> Type:
        words = self._words
        parameters: list[TypeParameter] = []
        variadic = False
        for at in range(pos, pos + 2 * vlen, 2):
            name_off, type_id = words[at : at + 2]
            if type_id == 0 and at == pos + 2 * (vlen - 1):
                variadic = True
                break
            parameters.append(TypeParameter(self._lazy_type(type_id), self._string(name_off) if name_off else None))
        return self._prog.function_type(self.type(return_id, depth), parameters, variadic)

    def _lazy_type(self, type_id: int) -> Callable[[], Type]:
        return lambda: self.type(type_id)

    def enumerator(self, name: str) -> Object | None:
        """
        Find an enumerator of any enum.

        :return: Its value as an object of the enum's type, or ``None``.
        """
        # Helpers ask for the same few again and again.
        if name not in self._found_enumerators:
            self._found_enumerators[name] = self._find_enumerator(name)
        return self._found_enumerators[name]

    def _find_enumerator(self, name: str) -> Object | None:
        if self._enumerators is None:
            self._enumerators = self._index_enumerators()
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        name_offs, type_ids, indexes = self._enumerators
        found = np.flatnonzero(name_offs == at + 1) if at >= 0 else ()
        if len(found) == 0:
            return None
        # An anonymous enum can be there more than once, with the same values.
        first = found[np.argmin(type_ids[found])]
        enum_type = self.type(int(type_ids[first]))
        enumerators = enum_type.enumerators
        assert enumerators is not None
        return Object(self._prog, enum_type, value=enumerators[int(indexes[first])].value)

    def _index_enumerators(self) -> tuple[_Words, _Words, _Words]:
        """Get the offset of each enumerator's name, its enum's type ID and its number in that."""
        words = np.frombuffer(self._words, np.uint32)
        starts = np.frombuffer(self._starts, np.uint32)
        parts: list[tuple[_Words, _Words, _Words]] = []
        for kind, step in ((KIND_ENUM, 2), (KIND_ENUM64, 3)):
            type_ids = np.flatnonzero(self._kinds == kind).astype(np.uint32)
            counts = words[starts[type_ids] + 1] & 0xFFFF
            indexes = np.arange(counts.sum(), dtype=np.uint32) - np.repeat(np.cumsum(counts) - counts, counts)
            at = np.repeat(starts[type_ids] + 3, counts) + indexes * step
            parts.append((words[at], np.repeat(type_ids, counts), indexes))
        name_offs, ids, numbers = (np.concatenate(columns) for columns in zip(*parts))
        return name_offs, ids, numbers

    def variable_type(self, name: str) -> Type | None:
        """
        Find the type of a per-CPU variable. BTF describes no other variables.

        :return: Type, or ``None``.
        """
        type_id = self.find(name, (KIND_VAR,))
        return None if type_id is None else self.type(type_id)

    def function_type(self, name: str) -> Type | None:
        """
        Find the type of a function.

        :return: Type, or ``None``.
        """
        type_id = self.find(name, (KIND_FUNC,))
        return None if type_id is None else self.type(type_id)

    def has_function(self, name: str) -> bool:
        """Tell whether a function is described."""
        return self.find(name, (KIND_FUNC,)) is not None

    def find_type(self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        """Find a type for drgn; see ``drgn.Program.register_type_finder()``."""
        if filename:
            return None
        wanted = tuple(kind for kind, type_kind in _TYPE_KINDS.items() if type_kind in kinds)
        # A forward declaration has the same name as the structure that another file defines.
        type_id = self.find(name, wanted) if wanted else None
        return None if type_id is None else self.type(type_id)
