# SPDX-License-Identifier: LGPL-2.1-or-later
"""FLATMEM's mem_map ends with its node, whatever pfn_valid() accepts."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.layout.sections import clip_to_mem_map
from mminspect.memorymap.sections import Section
from tests.kit.handmade import FLAT

# i386 5.10 whose last e820 entry is less than a page: max_mapnr is 0x1d001, the node ends at 0x18fe0, and blocks of the
# largest order have 0x400 pages.
LAYOUT = dataclasses.replace(FLAT, max_order=10)


@pytest.mark.parametrize(
    ("ranges", "ends", "expected"),
    [
        (((0, 0x1D001),), (0x1000, 0x18FE0), ((0, 0x19000),)),
        (((0, 0x19000),), (0x1000, 0x18FE0), ((0, 0x19000),)),
        (((0, 0x18FE0),), (0x18FE0,), ((0, 0x18FE0),)),
        # A multiple of the largest block needs nothing more.
        (((0, 0x1D001),), (0x18C00,), ((0, 0x18C00),)),
        (((0, 0x10000), (0x1C000, 0x1D000)), (0x18FE0,), ((0, 0x10000),)),
    ],
)
def test_entries_behind_mem_map_are_no_struct_pages(
    ranges: tuple[tuple[int, int], ...], ends: tuple[int, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    (section,) = clip_to_mem_map([Section(0, ranges, 0x1000, 0)], LAYOUT, ends)
    assert section.ranges == expected
    assert section.mem_map == 0x1000
