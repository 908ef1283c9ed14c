# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of a kernel that aren't known, by hand-made types. Whole kernels are in tests/test_backports.py."""

from __future__ import annotations

from typing import Any

import pytest

from mminspect.layout.unknown import unknown_parts
from tests.kit.made import MadeKernel


class FakeTarget:
    """A target that has some functions."""

    def __init__(self, made: MadeKernel, functions: tuple[str, ...] = ()) -> None:
        self.prog = made.prog
        self._functions = functions

    def has_function(self, name: str) -> bool:
        return name in self._functions


def kernel(lists: int = 14, **changed: tuple[str, ...]) -> MadeKernel:
    """Make a kernel of today; some structs may have other members."""
    made = MadeKernel()
    members = {
        "zone": ("free_area", "contiguous", "compact_cached_free_pfn"),
        "page": ("flags", "compound_head"),
        "folio": ("page", "_flags_1"),
        "mem_section": ("section_mem_map", "usage", "page_ext", "pad"),
        **changed,
    }
    for name, names in members.items():
        made.struct(name, dict.fromkeys(names, "unsigned long"))
    made.struct("per_cpu_pages", {"lists": made.prog.array_type(made.prog.type("unsigned long"), lists)})
    made.enum("pageblock_bits", {"PB_migrate_0": 0, "PB_migrate_2": 2, "PB_compact_skip": 3, "__NR_PAGEBLOCK_BITS": 4})
    made.enum("migratetype", {"MIGRATE_MOVABLE": 1, "MIGRATE_PCPTYPES": 3})
    made.enum("pageflags", {"PG_head": 6})
    return made


def unknown(made: MadeKernel, *functions: str) -> list[str]:
    target: Any = FakeTarget(made, functions)
    return [part for part, _ in unknown_parts(target)]


def test_all_of_a_kernel_of_today_is_known() -> None:
    assert unknown(kernel()) == []


@pytest.mark.parametrize(
    "members", [("section_mem_map", "pageblock_flags"), ("section_mem_map", "usage", "rh_reserved1")]
)
def test_old_sections_and_padding_of_vendors_are_known(members: tuple[str, ...]) -> None:
    assert unknown(kernel(mem_section=members)) == []


def test_new_member_of_a_section_makes_tails_unknown() -> None:
    """Linux 7.4 has an order there: struct pages of tails are shared by section, or never written."""
    assert unknown(kernel(mem_section=("section_mem_map", "usage", "order"))) == ["tails"]


@pytest.mark.parametrize(
    ("lists", "known"), [(3, True), (12, True), (13, True), (14, True), (15, True), (16, False), (4, False)]
)
def test_number_of_per_cpu_lists_tells_their_orders(lists: int, known: bool) -> None:
    assert unknown(kernel(lists)) == ([] if known else ["per-CPU lists"])


def test_masks_in_tails_without_a_witness_are_unknown() -> None:
    """zone->vmemmap_tails tells of the mask in compound_info; HVO without it is one that isn't known."""
    page = ("flags", "compound_info")
    assert unknown(kernel(page=page)) == []
    assert unknown(kernel(page=page), "hugetlb_vmemmap_optimize_folio") == ["compound pages"]
    zone = ("free_area", "contiguous", "compact_cached_free_pfn", "vmemmap_tails")
    assert unknown(kernel(page=page, zone=zone), "hugetlb_vmemmap_optimize_folio") == []


def test_fifth_bit_of_a_pageblock_must_be_isolation() -> None:
    made = kernel()
    bits = {"PB_migrate_0": 0, "PB_compact_skip": 3, "PB_other": 4, "__NR_PAGEBLOCK_BITS": 5}
    made.enum("pageblock_bits", bits)
    assert unknown(made) == ["pageblock bits"]
    made.enum("pageblock_bits", {**bits, "PB_migrate_isolate": 4})
    assert unknown(made) == []


def test_zone_without_contiguous_is_known_without_compaction_only() -> None:
    assert unknown(kernel(zone=("free_area",))) == []
    assert unknown(kernel(zone=("free_area", "compact_cached_free_pfn"))) == ["contiguous"]
