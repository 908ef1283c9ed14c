# SPDX-License-Identifier: LGPL-2.1-or-later
"""What /proc/iomem says of memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mminspect.kernel.resources import Resource, memblock_regions, ram_ranges

PAGE = 4096


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # The kernel throws pages away that are RAM in part.
        ([(0x1000, 0x9FEDD, "System RAM")], [(1, 0x9F)]),
        ([(0x100400, 0x200000, "System RAM")], [(0x101, 0x200)]),
        # Parts that touch inside a page are one.
        ([(0x1000, 0x5800, "System RAM"), (0x5800, 0x9000, "System RAM (kmem)")], [(1, 9)]),
        ([(0x1000, 0x5800, "System RAM"), (0x5900, 0x9000, "System RAM")], [(1, 5), (6, 9)]),
        ([(0x1000, 0x1800, "System RAM")], []),
        ([(0x1000, 0x5000, "Reserved")], None),
        ([], None),
    ],
)
def test_pages_that_are_ram_are_so_as_a_whole(
    parts: list[tuple[int, int, str]], expected: list[tuple[int, int]] | None
) -> None:
    assert ram_ranges([Resource(start, end, name, 0) for start, end, name in parts], PAGE) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [(0xFFF, []), (0x1000, ["memory"]), (0x1FFF, ["memory"]), (0x2000, []), (0x3000, ["memory", "reserved"])],
)
def test_regions_of_memblock_end_before_their_last_address(address: int, expected: list[str]) -> None:
    def number(value: int) -> Any:
        return SimpleNamespace(value_=lambda: value)

    def regions(*parts: tuple[int, int]) -> Any:
        found = [SimpleNamespace(base=number(base), size=number(size)) for base, size in parts]
        return SimpleNamespace(cnt=number(len(found)), regions=found)

    class Prog:
        """A kernel that keeps memblock."""

        def symbol(self, name: str) -> Any:
            return SimpleNamespace(address=0x10)

        def __getitem__(self, name: str) -> Any:
            memory = regions((0x1000, 0x1000), (0x3000, 0x1000))
            return SimpleNamespace(address_=0x100, memory=memory, reserved=regions((0x3000, 0x10)))

    prog: Any = Prog()
    assert memblock_regions(prog, address) == expected
