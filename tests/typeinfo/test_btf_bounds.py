# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF that contradicts itself is refused with one sentence; drgn would follow it out of memory or without end."""

from __future__ import annotations

import struct

import pytest
from drgn import Architecture, Platform, PlatformFlags, Program
from hypothesis import given
from hypothesis import strategies as st

from mminspect.errors import TypeInfoError
from mminspect.typeinfo.btf import Btf, btf_size
from mminspect.typeinfo.btf_index import KIND_STRUCT, KIND_TYPEDEF, KIND_UNION, MAX_SIZE
from tests.kit.blob import Blob

LITTLE = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)


def refusal(blob: Blob, type_id: int) -> str:
    with pytest.raises(TypeInfoError) as caught:
        Btf(Program(LITTLE), blob.data()).type(type_id)
    return str(caught.value)


def test_structure_in_itself() -> None:
    blob = Blob()
    assert "struct a is a member of itself" in refusal(blob, blob.compound(KIND_STRUCT, "a", 8, [("m", 1, 0, None)]))


def test_structures_in_each_other_through_arrays_and_typedefs() -> None:
    blob = Blob()
    blob.compound(KIND_STRUCT, "a", 8, [("m", 3, 0, None)])
    blob.compound(KIND_UNION, "b", 8, [("", 1, 0, None)])
    blob.array(4, 4, 1)
    blob.add(KIND_TYPEDEF, "t", 2)
    assert "is a member of itself" in refusal(blob, 1)


def test_structure_that_points_to_itself_is_usual() -> None:
    blob = Blob()
    blob.compound(KIND_STRUCT, "list_head", 16, [("next", 2, 0, None), ("prev", 2, 64, None)])
    blob.pointer(1)
    type_ = Btf(Program(LITTLE), blob.data()).type(1)
    assert type_.has_member("prev")
    assert type_.member("prev").offset == 8


@pytest.mark.parametrize("offset", [1, 4, 33, 64, 1 << 31])
def test_member_that_does_not_lie_in_its_structure_on_a_byte(offset: int) -> None:
    blob = Blob()
    number = blob.int("int", 4)
    struct_id = blob.compound(KIND_STRUCT, "a", 8, [("m", number, offset, None)])
    assert "the member m of struct a can't be where it is" in refusal(blob, struct_id)


@pytest.mark.parametrize(("offset", "bits", "good"), [(0, 1, True), (31, 33, True), (32, 33, False), (63, 1, True)])
def test_bit_fields_lie_in_their_structure(offset: int, bits: int, good: bool) -> None:
    blob = Blob()
    number = blob.int("long", 8)
    struct_id = blob.compound(KIND_STRUCT, "a", 8, [("m", number, offset, bits)])
    if good:
        assert Btf(Program(LITTLE), blob.data()).type(struct_id).has_member("m")
    else:
        assert "the member m of struct a can't be where it is" in refusal(blob, struct_id)


def test_flexible_arrays_and_arrays_of_nothing_take_no_room() -> None:
    blob = Blob()
    number = blob.int("int", 4)
    empty = blob.compound(KIND_STRUCT, "key", 0)
    some, none = blob.array(empty, number, 4), blob.array(number, number, 0)
    good = blob.compound(KIND_STRUCT, "a", 4, [("n", number, 0, None), ("k", some, 32, None), ("d", none, 32, None)])
    assert Btf(Program(LITTLE), blob.data()).type(good).has_member("d")
    huge = blob.array(empty, number, (1 << 32) - 1)
    assert "an array of 4294967295 elements" in refusal(
        blob, blob.compound(KIND_STRUCT, "b", 4, [("k", huge, 0, None)])
    )


def test_structure_larger_than_any() -> None:
    blob = Blob()
    assert "struct a has 2147483648 bytes" in refusal(blob, blob.compound(KIND_STRUCT, "a", 1 << 31))


def test_member_that_is_a_function() -> None:
    blob = Blob()
    blob.prototype(0, [])
    assert "has no values" in refusal(blob, blob.compound(KIND_STRUCT, "a", 8, [("m", 1, 0, None)]))


def test_size_of_btf_is_bounded() -> None:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, MAX_SIZE, MAX_SIZE, 100)
    with pytest.raises(TypeInfoError, match="offsets make no sense"):
        btf_size(header)


def sample() -> bytes:
    blob = Blob()
    number, word = blob.int("int", 4, 1), blob.int("unsigned long", 8)
    blob.enum("e", 4, [("A", 0), ("B", 1)])
    blob.compound(KIND_UNION, "u", 8, [("x", number, 0, None), ("y", word, 0, None)])
    blob.array(number, number, 3)
    blob.add(KIND_TYPEDEF, "t", 4)
    blob.compound(
        KIND_STRUCT, "s", 48, [("u", 6, 0, None), ("a", 5, 64, None), ("b", number, 160, 3), ("p", 8, 192, 0)]
    )
    blob.pointer(7)
    blob.prototype(number, [("x", 8), ("", 0)])
    return blob.data()


@given(st.lists(st.tuples(st.integers(0, len(sample()) - 1), st.binary(min_size=1, max_size=4)), max_size=5))
def test_damaged_btf_is_refused_or_read(writes: list[tuple[int, bytes]]) -> None:
    data = bytearray(sample())
    for offset, patch in writes:
        data[offset : offset + len(patch)] = patch[: len(data) - offset]
    try:
        types = Btf(Program(LITTLE), bytes(data))
    except TypeInfoError:
        return
    for type_id in range(1, len(types._starts)):
        try:
            type_ = types.type(type_id)
            str(type_)
            for member in getattr(type_, "members", None) or ():
                str(member.type)
                type_.has_member("nothing")
        except (TypeInfoError, AttributeError):
            continue
    for name in ("A", "s", "t", "nothing"):
        try:
            types.enumerator(name)
            types.find(name, (KIND_STRUCT, KIND_TYPEDEF))
        except TypeInfoError:
            continue
