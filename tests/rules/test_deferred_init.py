# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule deferred-init on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mminspect.memorymap.zones import Node
from tests.conftest import Plant
from tests.kit.handmade import PGDAT, apply_to_map, memory_map, zone
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA


@pytest.mark.parametrize(("booted", "severity"), [(True, "error"), (False, "note"), (None, "note")])
def test_deferred_pages(booted: Any, severity: str) -> None:
    memory = memory_map(zone(0, 0, 64), nodes=[Node(0, PGDAT, 0, 64, 64, first_deferred_pfn=32)])
    (found,) = apply_to_map(dataclasses.replace(memory, booted=booted), "deferred-init")
    assert (found.severity, found.start_pfn, found.end_pfn) == (severity, 32, 64)


@pytest.mark.parametrize(("name", "node"), [(AMD64_NUMA, 1), (AMD64_HEALTHY, 0)])
def test_planted_deferred_pages(name: str, node: int, plant: Plant) -> None:
    fault = plant(name)
    pgdat = fault.prog["node_data"][node]
    first = pgdat.node_start_pfn.value_() + pgdat.node_spanned_pages.value_() // 2
    fault.editor.write_word(pgdat.first_deferred_pfn.address_, first)
    (found,) = fault.new_findings()
    assert (found.rule, found.start_pfn, found.detail["first_deferred_pfn"]) == ("deferred-init", first, first)
