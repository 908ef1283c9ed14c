# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule memmap-alignment on maps made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memorymap.layout import SPARSEMEM
from mminspect.memorymap.sections import Section
from tests.conftest import Scanned
from tests.kit.handmade import apply_to_map, memory_map, zone
from tests.kit.structpages import LAYOUT, MASKED
from tests.kit.support import AMD64_NUMA

# Struct pages of 64 bytes; the allocator of MASKED has orders up to 4: 1 KiB of them.
NEEDED = 64 << 4


def found(layout: object, *bases: int) -> list[tuple[str, int, int]]:
    """Apply the rule to sections with such memmaps; give (severity, order, needed)."""
    made = memory_map(zone(1, 0, 64 * len(bases)), layout=layout)  # type: ignore[arg-type]
    sections = [Section(nr, ((nr * 64, nr * 64 + 64),), base, 0x1000) for nr, base in enumerate(bases)]
    findings = apply_to_map(dataclasses.replace(made, sections=tuple(sections)), "memmap-alignment")
    return [(f.severity, f.detail["order"], f.detail["needed"]) for f in findings]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, []),
        (NEEDED, []),
        (NEEDED // 2, [("error", 3, 4)]),
        (NEEDED + 64, [("error", 0, 4)]),
        (-64, [("error", 0, 4)]),
    ],
)
def test_memmap_must_be_aligned_to_the_largest_compound_page(offset: int, expected: list[object]) -> None:
    assert found(MASKED, 0xFFFFEA0000000000 + offset) == expected


def test_a_mask_leads_elsewhere_just_where_the_rule_says() -> None:
    """compound_head(): the tail's address under the mask of its order."""
    base = 0xFFFFEA0000000000 + NEEDED // 2
    ((_, aligned, needed),) = found(MASKED, base)
    for order in range(1, needed + 1):
        head = base + (1 << order) * 3 * 64
        mask = ~((64 << order) - 1)
        right = all((head + tail * 64) & mask == head for tail in range(1 << order))
        assert right == (order <= aligned)


def test_pageblocks_larger_than_the_allocators_pages_count() -> None:
    layout = dataclasses.replace(MASKED, pageblock_order=5)
    assert found(layout, 0xFFFFEA0000000000 + NEEDED) == [("error", 4, 5)]


def test_addresses_and_other_memmaps_need_no_alignment() -> None:
    assert found(LAYOUT, 0xFFFFEA0000000040) == []
    assert found(dataclasses.replace(MASKED, memory_model=SPARSEMEM), 0xFFFFEA0000000040) == []


def test_sections_of_one_memmap_are_one_finding() -> None:
    base = 0xFFFFEA0000000000 + NEEDED // 2
    assert found(MASKED, base, base, base) == [("error", 3, 4)]


def test_kernel_with_masks_is_aligned(scanned: Scanned) -> None:
    assert [f for f in scanned(AMD64_NUMA).findings if f.rule == "memmap-alignment"] == []
