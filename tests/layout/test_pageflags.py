# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where ``page->flags`` has section, node and zone: include/linux/page-flags-layout.h."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mminspect.layout import pageflags


def types(has_generations: bool) -> Any:
    """Make a kernel's types, as far as the layout asks for them."""
    flags = SimpleNamespace(type=SimpleNamespace(type_name=lambda: "unsigned long"))
    found = {
        "struct lruvec": SimpleNamespace(has_member=lambda name: has_generations and name == "lrugen"),
        "struct page": SimpleNamespace(member=lambda name: flags),
    }
    return SimpleNamespace(type=found.__getitem__)


@pytest.mark.parametrize(
    ("bits", "flags", "zones", "sections", "nodes", "generations", "expected"),
    [
        # x86-64: 23 flags, 5 zones, NODES_SHIFT 10.
        (64, 23, 5, 0, 10, True, ((0, 0), (54, 10), (51, 3))),
        # 32 bits: 22 flags, 4 zones. Of the 10 bits that are left, zone, section and node take just 10, or 11.
        (32, 22, 4, 4, 4, False, ((28, 4), (24, 4), (22, 2))),
        (32, 22, 4, 5, 4, False, ((27, 5), (0, 0), (25, 2))),
        # Generations take three bits more, which the node then lacks.
        (32, 22, 4, 1, 4, True, ((31, 1), (27, 4), (25, 2))),
        (32, 22, 4, 2, 4, True, ((30, 2), (0, 0), (28, 2))),
    ],
)
def test_node_is_there_if_it_fits(
    bits: int,
    flags: int,
    zones: int,
    sections: int,
    nodes: int,
    generations: bool,
    expected: tuple[tuple[int, int], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pageflags, "enumerator", lambda prog, enum, name: flags)
    monkeypatch.setattr(pageflags, "nodes_shift", lambda prog: nodes)
    found = pageflags.page_flags_layout(types(generations), bits, zones, sections)
    assert (tuple(found.section), tuple(found.node), tuple(found.zone)) == expected
    assert found.nodes_shift == nodes
