# SPDX-License-Identifier: LGPL-2.1-or-later
"""Healthy machines break no rule."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Scanned
from tests.kit.structpages import LAYOUT, MASKED, PAGES, Machine, machine
from tests.kit.support import NAMES

RULES_OF_PAGES = ("buddy-page", "compound-page", "free-list", "free-page-state")
RULES = (
    *RULES_OF_PAGES,
    "compaction-cursor",
    "deferred-init",
    "migratetype",
    "node-link",
    "node-span",
    "section",
    "zone-overlap",
    "zone-pages",
)


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
@pytest.mark.parametrize("rule", RULES_OF_PAGES)
def test_healthy_machine(rule: str, layout: Any) -> None:
    assert machine(layout).scan(rule) == []
    assert machine(layout).scan(rule, size=16) == []


@given(st.integers(0, 1 << 32), st.sampled_from([LAYOUT, MASKED]))
@settings(max_examples=60)
def test_any_machine_that_the_allocator_can_make_is_healthy(seed: int, layout: Any) -> None:
    choice = random.Random(seed)
    made, pfn = Machine(layout), 0
    while pfn < PAGES:
        order = choice.randint(0, min(4, (pfn & -pfn).bit_length() - 1 if pfn else 4))
        kind = choice.choice(("free", "compound", "used"))
        if kind == "free":
            made.free(pfn, order)
        elif kind == "compound" and order:
            made.compound(pfn, order)
        pfn += 1 << order
    for rule in RULES_OF_PAGES:
        assert made.scan(rule) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_stock_kernels_keep_the_rule(rule: str, name: str, scanned: Scanned) -> None:
    assert [f for f in scanned(name).findings if f.rule == rule] == []
