# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where struct page has its members, by types made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mminspect.errors import LayoutError
from mminspect.layout.layout import _struct_page
from tests.kit.made import MadeKernel

FLAGS = ("PG_locked", "PG_lru", "PG_uptodate", "PG_reserved", "__NR_PAGEFLAGS")


def target(page: tuple[str, ...], folio: tuple[str, ...], flags: tuple[str, ...] = FLAGS) -> Any:
    """Make a kernel whose struct page has eight words."""
    made = MadeKernel()
    members = ("flags", "compound_head", "lru", "mapping", "private", "_mapcount", "_refcount", *page)
    made.struct("page", dict.fromkeys(members, "unsigned long"), 64)
    made.struct("folio", dict.fromkeys(folio, "unsigned long"))
    made.struct("zone", {"free_area": "unsigned long"})
    made.enum("pageflags", {name: bit for bit, name in enumerate(flags)})
    return SimpleNamespace(prog=made.prog, vmcoreinfo=SimpleNamespace(buddy_mapcount=-129))


SECOND = tuple(f"word {i}" for i in range(8))


@pytest.mark.parametrize(
    ("page", "folio", "expected"),
    [
        # 5.10 to 6.2: page[1].compound_order.
        (("compound_order",), (), 56),
        # 6.3 to 6.5: the tenth word of struct folio, which is the second of the second page.
        ((), (*SECOND, "_flags_1", "_folio_order"), 8),
        # Since 6.6: the low byte of folio._flags_1.
        ((), (*SECOND, "_flags_1"), 0),
    ],
)
def test_order_of_a_compound_page(page: tuple[str, ...], folio: tuple[str, ...], expected: int) -> None:
    assert _struct_page(target(page, folio)).order_offset == expected


@pytest.mark.parametrize("name", ["PG_lru", "PG_uptodate", "PG_reserved", "__NR_PAGEFLAGS"])
def test_flag_that_decides_is_not_taken_for_one_that_is_never_set(name: str) -> None:
    with pytest.raises(LayoutError, match="no usable enum pageflags"):
        _struct_page(target((), (), tuple(flag for flag in FLAGS if flag != name)))
