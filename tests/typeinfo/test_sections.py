# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section flags by their own names, on types made by hand: kernels before 6.0, up to 7.3, 7.4, and ones that lie."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mminspect.errors import LayoutError
from mminspect.layout.sections import sparse_sections
from mminspect.typeinfo.declarations import highest_present_section_nr, sections_share_mem_map
from mminspect.typeinfo.sections import section_flags, sections_per_root
from tests.kit.made import MadeKernel

# include/linux/mmzone.h of 7.3.4, with CONFIG_ZONE_DEVICE and CONFIG_SPARSEMEM_VMEMMAP_PREINIT.
LINUX_7_3 = {
    "SECTION_MARKED_PRESENT_BIT": 0,
    "SECTION_HAS_MEM_MAP_BIT": 1,
    "SECTION_IS_ONLINE_BIT": 2,
    "SECTION_IS_EARLY_BIT": 3,
    "SECTION_TAINT_ZONE_DEVICE_BIT": 4,
    "SECTION_IS_VMEMMAP_PREINIT_BIT": 5,
    "SECTION_MAP_LAST_BIT": 6,
}
# The same enum without the two that 7.4 removes.
LINUX_7_4 = {
    "SECTION_HAS_MEM_MAP_BIT": 0,
    "SECTION_IS_ONLINE_BIT": 1,
    "SECTION_IS_EARLY_BIT": 2,
    "SECTION_TAINT_ZONE_DEVICE_BIT": 3,
    "SECTION_MAP_LAST_BIT": 4,
}
VMEMMAP, ROOTS, ROOT, USAGE, SECTION_PAGES = 0xFFFFEA0000000000, 0xFFFF888000001000, 0xFFFF888000002000, 0x5000, 1 << 15


def without(flags: Mapping[str, int], name: str) -> dict[str, int]:
    return {key: bit for key, bit in flags.items() if key != name}


def old_kernel(lock: bool = False, mm_rb: bool = True) -> MadeKernel:
    made = MadeKernel()
    made.struct("per_cpu_pages", {"lock": "unsigned long", "count": "unsigned long"} if lock else {"count": "long"})
    made.struct("mm_struct", {"mm_rb" if mm_rb else "mm_mt": "unsigned long"})
    return made


def test_flags_are_macros_before_6_0() -> None:
    flags = section_flags(old_kernel().prog)
    assert flags.names(0x1234567000000000 | 0xF) == (
        "SECTION_MARKED_PRESENT",
        "SECTION_HAS_MEM_MAP",
        "SECTION_IS_ONLINE",
        "SECTION_IS_EARLY",
    )
    assert flags.map_mask == 0xFFFFFFFFFFFFFFE0
    assert [flags.names(1 << bit) for bit in range(5)] == [
        ("SECTION_MARKED_PRESENT",),
        ("SECTION_HAS_MEM_MAP",),
        ("SECTION_IS_ONLINE",),
        ("SECTION_IS_EARLY",),
        ("SECTION_TAINT_ZONE_DEVICE",),
    ]


@pytest.mark.parametrize(("lock", "mm_rb"), [(True, True), (False, False), (True, False)])
def test_macros_are_for_kernels_that_are_proved_to_be_old(lock: bool, mm_rb: bool) -> None:
    """6.0 itself, a newer one without the lock, and a newer one."""
    with pytest.raises(LayoutError, match="name no section flags"):
        section_flags(old_kernel(lock, mm_rb).prog)


def test_types_without_witnesses_prove_nothing() -> None:
    with pytest.raises(LayoutError, match="name no section flags"):
        section_flags(MadeKernel().prog)


@pytest.mark.parametrize(
    ("enumerators", "online", "mask"),
    [(LINUX_7_3, 0x6, 0x3F), (LINUX_7_4, 0x3, 0xF)],
)
def test_each_flag_has_the_value_of_its_own_enumerator(enumerators: dict[str, int], online: int, mask: int) -> None:
    made = old_kernel()
    made.enum(None, enumerators)
    flags = section_flags(made.prog)
    assert flags.online == online
    assert flags.map_mask == 0xFFFFFFFFFFFFFFFF ^ mask
    assert flags.names(online) == ("SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE")
    assert {f"{name}_BIT": value.bit_length() - 1 for name, value in flags.bits.items()} == without(
        enumerators, "SECTION_MAP_LAST_BIT"
    )


def test_flags_may_be_of_several_enums() -> None:
    made = MadeKernel()
    for name, bit in LINUX_7_4.items():
        made.enum(None, {name: bit})
    assert section_flags(made.prog).online == 3


@pytest.mark.parametrize(
    "name",
    ["SECTION_HAS_MEM_MAP_BIT", "SECTION_IS_ONLINE_BIT", "SECTION_IS_EARLY_BIT", "SECTION_MAP_LAST_BIT"],
)
def test_kernel_that_lacks_a_needed_flag_is_refused(name: str) -> None:
    # It looks as old as can be in all other respects.
    made = old_kernel()
    made.enum(None, without(LINUX_7_4, name))
    with pytest.raises(LayoutError, match=f"not {name}: the kernel is newer"):
        section_flags(made.prog)


def test_last_bit_alone_is_no_kernel_without_flags() -> None:
    made = old_kernel()
    made.enum(None, {"SECTION_MAP_LAST_BIT": 4})
    with pytest.raises(LayoutError, match="name section flags, but not SECTION_HAS_MEM_MAP_BIT"):
        section_flags(made.prog)


def test_taint_flag_is_needed_where_there_is_zone_device() -> None:
    enumerators = without(LINUX_7_4, "SECTION_TAINT_ZONE_DEVICE_BIT")
    made = MadeKernel()
    made.enum(None, enumerators)
    made.enum("zone_type", {"ZONE_NORMAL": 0, "__MAX_NR_ZONES": 1})
    assert section_flags(made.prog).online == 3
    made = MadeKernel()
    made.enum(None, enumerators)
    made.enum("zone_type", {"ZONE_NORMAL": 0, "ZONE_DEVICE": 1, "__MAX_NR_ZONES": 2})
    with pytest.raises(LayoutError, match="TAINT_ZONE_DEVICE_BIT"):
        section_flags(made.prog)


@pytest.mark.parametrize("changed", [{"SECTION_IS_EARLY_BIT": 1}, {"SECTION_IS_EARLY_BIT": 9}])
def test_flags_that_can_not_be_are_refused(changed: dict[str, int]) -> None:
    made = MadeKernel()
    made.enum(None, {**LINUX_7_4, **changed})
    with pytest.raises(LayoutError, match="can't be"):
        section_flags(made.prog)


def sparse_kernel(enumerators: Mapping[str, int], size: int, sections: Mapping[int, tuple[str, ...]]) -> MadeKernel:
    """Make a kernel with 1 << 12 possible sections of 128 MiB, and some of them in the first or the second root."""
    made = MadeKernel()
    made.enum(None, enumerators)
    names = ["section_mem_map", "usage", "order"][: size // 8]
    made.struct("mem_section", dict.fromkeys(names, "unsigned long"))
    word = made.prog.array_type(made.prog.type("unsigned long"), 1)
    made.struct("mem_section_usage", {"subsection_map": word, "pageblock_flags": word})
    for name, value in (("SECTION_SIZE_BITS", 27), ("MAX_PHYSMEM_BITS", 39), ("PAGE_SHIFT", 12)):
        made.value(name, value)
    per_root = 4096 // size
    roots = -(-(1 << 12) // per_root)
    made.value("NR_SECTION_ROOTS", roots)
    made.value("mem_section", ROOTS, "struct mem_section **")
    tables: dict[int, list[int]] = {}
    for nr, flags in sections.items():
        table = tables.setdefault(nr // per_root, [0] * 512)
        # What is there without a memmap is no address of one.
        value = VMEMMAP if MEM_MAP in flags else VMEMMAP + 0x1000
        value |= sum(1 << enumerators[f"{flag}_BIT"] for flag in flags)
        table[nr % per_root * (size // 8)] = value
        table[nr % per_root * (size // 8) + 1] = USAGE
    addresses = {root: ROOT + index * 4096 for index, root in enumerate(tables)}
    made.memory(ROOTS, [addresses.get(root, 0) for root in range(roots)])
    for root, table in tables.items():
        made.memory(addresses[root], table)
    # Of a section that isn't early, the first 2 MiB are there.
    made.memory(USAGE, [1, 0])
    made.function("vmemmap_populate")
    return made


MEM_MAP, ONLINE, EARLY = "SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", "SECTION_IS_EARLY"


@pytest.mark.parametrize(
    ("enumerators", "size", "nr"),
    [(LINUX_7_3, 16, 300), (LINUX_7_4, 16, 300), (LINUX_7_4, 24, 171), (LINUX_7_4, 24, 169), (LINUX_7_4, 24, 340)],
)
def test_hot_added_section_is_online_whatever_the_flags_and_the_size(
    enumerators: dict[str, int], size: int, nr: int
) -> None:
    """Its flags are those that 7.4's numbers turn into offline ones for readers with the old macros."""
    made = sparse_kernel(enumerators, size, {0: (MEM_MAP, ONLINE, EARLY), 5: (MEM_MAP,), nr: (MEM_MAP, ONLINE)})
    assert sections_per_root(made.prog) == 4096 // size
    online, entries = sparse_sections(made.prog, 8)
    assert [(section.nr, section.ranges, section.mem_map) for section in online] == [
        (0, ((0, SECTION_PAGES),), VMEMMAP),
        (nr, ((nr * SECTION_PAGES, nr * SECTION_PAGES + 512),), VMEMMAP),
    ]
    assert [(entry.nr, entry.flags) for entry in entries] == [
        (0, (MEM_MAP, ONLINE, EARLY)),
        (5, (MEM_MAP,)),
        (nr, (MEM_MAP, ONLINE)),
    ]


@pytest.mark.parametrize(("enumerators", "size"), [(LINUX_7_3, 16), (LINUX_7_4, 16), (LINUX_7_4, 24)])
def test_what_is_computed_of_sections_goes_by_the_flags(enumerators: dict[str, int], size: int) -> None:
    present = ("SECTION_MARKED_PRESENT",) if enumerators is LINUX_7_3 else ()
    sections = {0: (*present, MEM_MAP, ONLINE, EARLY), 200: (*present, MEM_MAP), 201: (*present, ONLINE)}
    made = sparse_kernel(enumerators, size, sections)
    assert sections_share_mem_map(made.prog)
    found = highest_present_section_nr(made.prog)
    assert found is not None
    assert found.value_() == 201


def test_vmemmap_without_subsection_map_is_refused() -> None:
    made = sparse_kernel(LINUX_7_4, 16, {0: (MEM_MAP, ONLINE)})
    made.struct("mem_section_usage", {"subsections": "unsigned long", "pageblock_flags": "unsigned long"})
    with pytest.raises(LayoutError, match="no subsection_map"):
        sparse_sections(made.prog, 8)


@pytest.mark.parametrize(("checks", "absent"), [(True, ((512, SECTION_PAGES),)), (False, ())])
def test_absent_subsections_of_an_early_section(checks: bool, absent: tuple[tuple[int, int], ...]) -> None:
    """The section is valid as a whole; pfn_section_valid() sees its first subsection only."""
    made = sparse_kernel(LINUX_7_3, 16, {0: (MEM_MAP, ONLINE, EARLY), 1: (MEM_MAP, ONLINE)})
    online, _ = sparse_sections(made.prog, 8, checks)
    assert [(section.ranges, section.absent) for section in online] == [
        (((0, SECTION_PAGES),), absent),
        (((SECTION_PAGES, SECTION_PAGES + 512),), ()),
    ]
