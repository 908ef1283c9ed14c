# SPDX-License-Identifier: LGPL-2.1-or-later
"""The BTF parser, on small blobs: every kind of type, and every kind of damage."""

from __future__ import annotations

import contextlib
import struct
from typing import Any, Callable

import pytest
from drgn import Architecture, Object, Platform, PlatformFlags, Program, Qualifiers, TypeKind, TypeKindSet
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.errors import TypeInfoError
from mminspect.typeinfo.btf import Btf, btf_size
from tests.kit import blob
from tests.kit.blob import Blob

KINDS = (blob.STRUCT, blob.UNION, blob.ENUM, blob.ENUM64, blob.TYPEDEF, blob.FUNC, blob.VAR)
TYPE_KINDS = TypeKindSet((TypeKind.STRUCT, TypeKind.UNION, TypeKind.ENUM, TypeKind.TYPEDEF))


def program(order: str = "<") -> Program:
    """Make a program without anything in it."""
    flags = PlatformFlags.IS_64_BIT
    if order == "<":
        flags |= PlatformFlags.IS_LITTLE_ENDIAN
    return Program(Platform(Architecture.UNKNOWN, flags))


def sample(order: str = "<") -> Blob:
    """Make a blob of every kind of type."""
    made = Blob(order)
    int_ = made.int("int", 4, blob.SIGNED)
    long_ = made.int("unsigned long", 8)
    char = made.int("char", 1)
    bool_ = made.int("_Bool", 1, blob.BOOL)
    array = made.array(long_, int_, 3)
    self_pointer = made.count + 2
    made.compound(
        blob.STRUCT,
        "page",
        48,
        [("flags", long_, 0, None), ("next", self_pointer, 64, None), ("words", array, 128, None)],
    )
    assert made.pointer(made.count) == self_pointer
    made.compound(
        blob.STRUCT,
        "bits",
        8,
        [("low", int_, 0, 3), ("high", int_, 3, 5), ("whole", char, 32, None), ("yes", bool_, 40, None)],
    )
    made.compound(blob.UNION, "either", 8, [("as_int", int_, 0, None), ("as_long", long_, 0, None)])
    inner = made.compound(blob.STRUCT, "", 8, [("hidden", int_, 32, None)])
    made.compound(blob.STRUCT, "outer", 16, [("", inner, 64, None)])
    made.enum("zone_type", 4, [("ZONE_DMA", 0), ("ZONE_NORMAL", 1), ("__MAX_NR_ZONES", 2)])
    made.enum("signed_enum", 4, [("MINUS", -1), ("PLUS", 1)], signed=True)
    made.enum64("wide", [("HUGE", 1 << 40), ("TINY", 1)])
    made.enum64("wide_signed", [("LOWEST", -(1 << 40))], signed=True)
    typedef = made.add(blob.TYPEDEF, "gfp_t", int_)
    const = made.add(blob.CONST, "", typedef)
    volatile = made.add(blob.VOLATILE, "", const)
    tagged = made.add(blob.TYPE_TAG, "user", volatile)
    made.add(blob.TYPEDEF, "qualified_t", tagged)
    restrict = made.add(blob.RESTRICT, "", self_pointer)
    prototype = made.prototype(int_, [("first", restrict), ("second", long_)])
    made.add(blob.FUNC, "vmemmap_populate", prototype, vlen=1)
    variadic = made.prototype(0, [("format", made.pointer(char)), ("", 0)])
    made.add(blob.FUNC, "printk", variadic)
    made.add(blob.FWD, "elsewhere", 0)
    made.add(blob.TYPEDEF, "elsewhere_t", made.count)
    variable = made.add(blob.VAR, "runqueues", int_, 1)
    made.add(blob.DATASEC, ".data..percpu", 8, variable, 0, 4, vlen=1)
    made.add(blob.FLOAT, "double", 8)
    made.add(blob.TYPEDEF, "double_t", made.count)
    made.add(blob.DECL_TAG, "note", int_, 0xFFFFFFFF)
    flexible = made.array(long_, int_, 0)
    made.compound(blob.STRUCT, "flexible", 8, [("count", long_, 0, None), ("rest", flexible, 64, None)])
    return made


@pytest.fixture(params=["<", ">"], ids=["little", "big"])
def find(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Give a function that finds a type by name in the sample, in both byte orders."""
    prog = program(request.param)
    types = Btf(prog, sample(request.param).data())
    prog.register_type_finder("test", types.find_type, enable_index=0)

    def get(name: str) -> Any:
        if name == "btf":
            return types
        return prog if name == "prog" else prog.type(name)

    return get


def members(type_: Any) -> Any:
    """Get (name, bit offset, type name, bits) of a type's members."""
    return [(m.name, m.bit_offset, m.type.type_name(), m.bit_field_size) for m in type_.members]


def test_structure_has_size_members_and_a_pointer_to_itself(find: Any) -> None:
    page = find("struct page")
    assert page.size == 48
    assert members(page) == [
        ("flags", 0, "unsigned long", None),
        ("next", 64, "struct page *", None),
        ("words", 128, "unsigned long [3]", None),
    ]
    assert page.member("next").type.type.member("flags").offset == 0


def test_bit_fields_have_offset_and_size_and_other_members_none(find: Any) -> None:
    assert members(find("struct bits")) == [
        ("low", 0, "int", 3),
        ("high", 3, "int", 5),
        ("whole", 32, "char", None),
        ("yes", 40, "_Bool", None),
    ]


def test_bit_fields_decode(find: Any) -> None:
    prog = find("prog")
    value = Object.from_bytes_(prog, "struct bits", bytes([0b11111_010, 0, 0, 0, 65, 1, 0, 0]))
    if prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN:
        assert (value.low.value_(), value.high.value_()) == (2, -1)
    assert value.whole.value_() == 65
    assert value.yes.value_() is True


def test_union_members_share_their_place(find: Any) -> None:
    either = find("union either")
    assert either.kind == TypeKind.UNION
    assert members(either) == [("as_int", 0, "int", None), ("as_long", 0, "unsigned long", None)]


def test_members_of_an_anonymous_structure_are_members(find: Any) -> None:
    assert find("struct outer").member("hidden").offset == 12


def test_enumerators_have_their_values(find: Any) -> None:
    assert [(e.name, e.value) for e in find("enum zone_type").enumerators] == [
        ("ZONE_DMA", 0),
        ("ZONE_NORMAL", 1),
        ("__MAX_NR_ZONES", 2),
    ]
    assert [(e.name, e.value) for e in find("enum signed_enum").enumerators] == [("MINUS", -1), ("PLUS", 1)]


def test_enumerators_of_64_bits_have_their_values(find: Any) -> None:
    assert [(e.name, e.value) for e in find("enum wide").enumerators] == [("HUGE", 1 << 40), ("TINY", 1)]
    assert [(e.name, e.value) for e in find("enum wide_signed").enumerators] == [("LOWEST", -(1 << 40))]
    assert find("enum wide").type.size == 8


@pytest.mark.parametrize(
    ("name", "enum", "value"),
    [("ZONE_NORMAL", "enum zone_type", 1), ("MINUS", "enum signed_enum", -1), ("HUGE", "enum wide", 1 << 40)],
)
def test_enumerator_is_found_by_its_own_name(find: Any, name: str, enum: str, value: int) -> None:
    constant = find("btf").enumerator(name)
    assert (constant.type_.type_name(), constant.value_()) == (enum, value)


@pytest.mark.parametrize("name", ["NOTHING", "ZONE", "flags", "page", ""])
def test_enumerator_that_is_none_is_not_found(find: Any, name: str) -> None:
    assert find("btf").enumerator(name) is None


def test_typedefs_and_qualifiers(find: Any) -> None:
    assert find("gfp_t").type.type_name() == "int"
    qualified = find("qualified_t").type
    assert qualified.qualifiers == Qualifiers.CONST | Qualifiers.VOLATILE
    assert qualified.name == "gfp_t"


def test_function_has_parameters_and_a_result(find: Any) -> None:
    function = find("btf").function_type("vmemmap_populate")
    assert function.type.type_name() == "int"
    assert [(p.name, p.type.type_name()) for p in function.parameters] == [
        ("first", "struct page * restrict"),
        ("second", "unsigned long"),
    ]
    assert not function.is_variadic


def test_variadic_function(find: Any) -> None:
    function = find("btf").function_type("printk")
    assert function.is_variadic
    assert [p.name for p in function.parameters] == ["format"]
    assert function.type.kind == TypeKind.VOID


def test_integers_have_size_and_sign(find: Any) -> None:
    page = find("struct page").member("flags").type
    assert (page.size, page.is_signed) == (8, False)
    low = find("struct bits").member("low").type
    assert (low.size, low.is_signed) == (4, True)
    assert find("struct bits").member("yes").type.kind == TypeKind.BOOL


def test_char_is_signed_though_old_pahole_does_not_say_so(find: Any) -> None:
    assert find("struct bits").member("whole").type.is_signed


def test_floating_point_type(find: Any) -> None:
    assert (find("double_t").type.kind, find("double_t").type.size) == (TypeKind.FLOAT, 8)


def test_forward_declaration_is_an_incomplete_structure(find: Any) -> None:
    assert not find("elsewhere_t").type.is_complete()


def test_flexible_array_member_has_no_length(find: Any) -> None:
    assert find("struct flexible").member("rest").type.length is None


def test_per_cpu_variable_has_a_type(find: Any) -> None:
    assert find("btf").variable_type("runqueues").type_name() == "int"
    assert find("btf").variable_type("page") is None


def test_name_must_match_as_a_whole(find: Any) -> None:
    for name in ("pag", "page2", "age", "ge"):
        assert find("btf").find(name, KINDS) is None


def test_struct_and_union_of_a_name_are_told_apart(find: Any) -> None:
    with pytest.raises(LookupError):
        find("union page")


# Damage


def use(data: bytes) -> None:
    """Look at everything that is in a blob."""
    prog = program()
    types = Btf(prog, data)
    names = [item.decode("ascii", "replace") for item in data[24:].split(b"\0") if item]
    for name in names[:200]:
        types.find_type(prog, TYPE_KINDS, name, None)
        types.enumerator(name)
        types.variable_type(name)
        types.function_type(name)
    for type_id in range(1, 80):
        look(types.type(type_id))


def look(type_: Any) -> None:
    """Look at a type's members, parameters and enumerators."""
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
        for member in type_.members or ():
            assert member.type
    elif type_.kind == TypeKind.FUNCTION:
        for parameter in type_.parameters:
            assert parameter.type
    elif type_.kind == TypeKind.ENUM:
        assert type_.enumerators is None or list(type_.enumerators)


def survives(data: bytes) -> None:
    """Check that nothing but TypeInfoError comes of a blob."""
    try:
        use(data)
    except TypeInfoError as e:
        assert str(e)
        assert "\n" not in str(e)


SAMPLE = sample().data()


def test_blob_cut_anywhere_is_corrupt() -> None:
    for end in range(len(SAMPLE)):
        with pytest.raises(TypeInfoError):
            use(SAMPLE[:end])


@pytest.mark.parametrize(
    "header",
    [
        b"\x9f\xea\1\0",
        b"\0\0\1\0",
        b"\x9f\xeb\2\0",
        b"\x9f\xeb\0\0",
        b"\x7fELF",
    ],
)
def test_bad_magic_or_version_is_no_btf(header: bytes) -> None:
    with pytest.raises(TypeInfoError, match="not BTF"):
        use(header + SAMPLE[4:])


def header(hdr_len: int, type_off: int, type_len: int, str_off: int, str_len: int) -> bytes:
    """Make a header."""
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, hdr_len, type_off, type_len, str_off, str_len)


@pytest.mark.parametrize(
    "fields",
    [
        (0, 0, 8, 8, 8),
        (23, 0, 8, 8, 8),
        (1 << 31, 0, 8, 8, 8),
        (24, 0, 0xFFFFFFFC, 0, 1),
        (24, 0xFFFFFFFC, 4, 0, 1),
        (24, 0, 8, 0xFFFFFFFF, 0xFFFFFFFF),
        (24, 2, 8, 8, 8),
        (24, 0, 7, 8, 8),
        (24, 0, 0, 0, 1),
    ],
)
def test_offsets_that_make_no_sense_are_corrupt(fields: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(TypeInfoError, match="corrupt BTF"):
        use(header(*fields) + SAMPLE[24:])


def one(kind: int, name: str, value: int, *more: int, vlen: int = 0, flag: bool = False) -> bytes:
    """Make a blob of one record and an integer before it."""
    made = Blob()
    made.int("int", 4)
    made.add(kind, name, value, *more, vlen=vlen, flag=flag)
    return made.data()


@pytest.mark.parametrize("type_id", [3, 99, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize(
    "make",
    [
        lambda t: one(blob.PTR, "", t),
        lambda t: one(blob.TYPEDEF, "a", t),
        lambda t: one(blob.CONST, "", t),
        lambda t: one(blob.ARRAY, "", 0, t, 1, 4),
        lambda t: one(blob.STRUCT, "a", 4, 0, t, 0, vlen=1),
        lambda t: one(blob.FUNC, "a", t),
        lambda t: one(blob.FUNC_PROTO, "", t),
        lambda t: one(blob.FUNC_PROTO, "", 0, 0, t, vlen=1),
        lambda t: one(blob.VAR, "a", t, 0),
    ],
)
def test_type_id_out_of_range_is_corrupt(make: Callable[[int], bytes], type_id: int) -> None:
    with pytest.raises(TypeInfoError, match="there is no type"):
        use(make(type_id))


@pytest.mark.parametrize("kind", [blob.PTR, blob.TYPEDEF, blob.CONST, blob.VOLATILE, blob.TYPE_TAG, blob.FUNC])
def test_type_that_refers_to_itself_is_corrupt(kind: int) -> None:
    with pytest.raises(TypeInfoError, match="loop"):
        use(one(kind, "a", 2))


def test_longer_loop_is_corrupt() -> None:
    made = Blob()
    made.int("int", 4)
    made.add(blob.CONST, "", 3)
    made.add(blob.TYPEDEF, "a", 4)
    made.add(blob.ARRAY, "", 0, 2, 1, 7)
    with pytest.raises(TypeInfoError, match="loop"):
        use(made.data())


def test_function_that_returns_itself_is_corrupt() -> None:
    with pytest.raises(TypeInfoError, match="loop"):
        use(one(blob.FUNC_PROTO, "", 2))


def test_structure_that_holds_itself_does_not_hang() -> None:
    survives(one(blob.STRUCT, "a", 4, 0, 2, 0, vlen=1))


@pytest.mark.parametrize("offset", [1000, 1 << 31, 0xFFFFFFFF])
def test_name_outside_the_strings_is_corrupt(offset: int) -> None:
    made = Blob()
    made.int("int", 4)
    made.words[0] = struct.pack("<I", offset) + made.words[0][4:]
    with pytest.raises(TypeInfoError, match="outside the strings"):
        use(made.data())


def test_strings_without_an_end_are_corrupt() -> None:
    data = one(blob.TYPEDEF, "a", 1)
    with pytest.raises(TypeInfoError):
        use(data[:-1] + b"x")


@pytest.mark.parametrize("kind", [20, 25, 31])
def test_kind_that_is_unknown_is_named(kind: int) -> None:
    with pytest.raises(TypeInfoError, match=f"{kind}"):
        use(one(kind, "a", 1))


@pytest.mark.parametrize("kind", [blob.STRUCT, blob.ENUM, blob.ENUM64, blob.FUNC_PROTO, blob.DATASEC])
def test_more_elements_than_there_is_room_for_are_corrupt(kind: int) -> None:
    with pytest.raises(TypeInfoError, match="corrupt BTF"):
        use(one(kind, "a", 4, vlen=0xFFFF))


@pytest.mark.parametrize("size", [0, 3, 5, 32, 0xFFFFFFFF])
def test_integer_of_an_impossible_size_is_corrupt(size: int) -> None:
    with pytest.raises(TypeInfoError, match="integer of"):
        use(one(blob.INT, "odd", size, size * 8 & 0xFF))


@pytest.mark.parametrize("size", [0, 3, 16])
def test_enum_of_an_impossible_size_is_corrupt(size: int) -> None:
    with pytest.raises(TypeInfoError, match="enum of"):
        use(one(blob.ENUM, "odd", size, 0, 0, vlen=1))


@pytest.mark.parametrize("size", [0, 1, 3, 7, 64, 0xFFFFFFFF])
def test_floating_point_type_of_any_size_does_not_escape(size: int) -> None:
    survives(one(blob.FLOAT, "odd", size))


@pytest.mark.parametrize("bits", [0, 33, 64, 255])
def test_bit_field_of_any_width_does_not_escape(bits: int) -> None:
    survives(one(blob.STRUCT, "a", 4, 0, 1, bits << 24, vlen=1, flag=True))


def test_bit_field_of_no_type_does_not_escape() -> None:
    survives(one(blob.STRUCT, "a", 4, 0, 0, 3 << 24, vlen=1, flag=True))


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_types_or_an_error_and_nothing_else(changes: Any) -> None:
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at] = value
    survives(bytes(data))


@given(st.binary(max_size=200))
def test_noise_behind_a_header_gives_types_or_an_error_and_nothing_else(noise: bytes) -> None:
    half = len(noise) // 8 * 4
    survives(header(24, 0, half, half, len(noise) - half) + noise)


@given(st.binary(max_size=64))
def test_any_bytes_give_a_size_or_an_error(data: bytes) -> None:
    with contextlib.suppress(TypeInfoError):
        assert btf_size(data) >= 24
