# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule zone-id on hand-made maps."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, POISONED, STALE
from tests.kit.handmade import PGDAT, SPARSE, Part, chunk, found, memory_map, scan, zone

RULE = "zone-id"
MEMORY = memory_map(zone(1, 0, 64))


def test_every_zone_of_the_array_exists_even_empty_ones() -> None:
    parts = [Part(1, zone=index) for index in range(5)]
    assert found(MEMORY, *parts, rule=RULE) == []


@pytest.mark.parametrize("index", [5, 6, 7])
def test_zone_id_behind_the_array_is_an_error(index: int) -> None:
    assert found(MEMORY, Part(2, zone=1), Part(3, zone=index), rule=RULE) == [("error", 2, 5)]


def test_node_without_pgdat_is_an_error() -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 4, Part(2, node=3, zone=1)), rule=RULE)
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", 4, 6)
    assert (finding.node, finding.zone) == (3, None)
    assert (finding.detail["zone_struct"], finding.detail["node"], finding.detail["zone_id"]) == (None, 3, 1)
    assert "node 3 has no pgdat" in finding.message


def test_detail_names_the_memory_taken_for_a_zone() -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 0, Part(1, zone=5, reserved=True)), rule=RULE)
    assert finding.detail["zone_struct"] == PGDAT + 5 * 0x100
    assert finding.detail["member"] == "node_zonelists"
    assert (finding.detail["zone_id"], finding.detail["max_nr_zones"]) == (5, 5)
    assert finding.detail["flags"] == 5 << 57 | 1 << 13


def test_zones_need_not_be_the_first_member_of_a_node() -> None:
    layout = dataclasses.replace(
        SPARSE, node_zones_offset=0x80, pgdat_members=(("node_id", 0), ("node_zones", 0x80), ("kswapd", 0x600))
    )
    memory = memory_map(zone(1, 0, 64), layout=layout)
    (five, six) = scan(memory, chunk(memory, 0, Part(1, zone=5), Part(1, zone=6)), rule=RULE)
    assert (five.detail["zone_struct"], five.detail["member"]) == (PGDAT + 0x580, "node_zones")
    assert (six.detail["zone_struct"], six.detail["member"]) == (PGDAT + 0x680, "kswapd")


def test_runs_of_different_zone_ids_are_different_findings() -> None:
    assert found(MEMORY, Part(2, zone=5), Part(2, zone=6), rule=RULE) == [("error", 0, 2), ("error", 2, 4)]


def test_stale_entries_with_many_links_are_one_finding() -> None:
    parts = [Part(1, node=n, zone=7, state=STALE) for n in (9, 3, 5)]
    (finding,) = scan(MEMORY, chunk(MEMORY, 0, *parts), rule=RULE)
    assert (finding.start_pfn, finding.end_pfn, finding.detail["stale"]) == (0, 3, True)
    assert finding.detail["node"] == 9


def test_stale_and_other_impossible_links_are_told_apart() -> None:
    parts = (Part(2, zone=7, state=STALE), Part(2, zone=7))
    assert found(MEMORY, *parts, rule=RULE) == [("error", 0, 2), ("error", 2, 4)]


def test_poisoned_entries_link_to_no_zone() -> None:
    assert found(MEMORY, Part(2, node=15, zone=7, state=POISONED), rule=RULE) == [("error", 0, 2)]


@pytest.mark.parametrize("state", [DEFERRED, EXCLUDED])
def test_entries_that_mean_nothing_are_not_judged(state: int) -> None:
    assert found(MEMORY, Part(2, zone=7, state=state), rule=RULE) == []


@pytest.mark.parametrize(
    ("index", "reserved", "around", "hardware"),
    [
        # DMA32 is 1, 0b001.
        (5, False, (1, 1), "one bit"),
        (6, False, (1, 1), None),
        # init_reserved_page() leaves 5 in reserved pages.
        (5, True, (1, 1), None),
        (5, False, (1, 2), None),
    ],
)
def test_one_bit_looks_like_hardware(index: int, reserved: bool, around: tuple[int, int], hardware: str | None) -> None:
    before, after = around
    parts = [Part(3, zone=before), Part(1, zone=index, reserved=reserved), Part(4, zone=after)]
    (finding,) = scan(MEMORY, chunk(MEMORY, 0, *parts), rule=RULE)
    assert finding.detail.get("hardware") == hardware
    assert ("looks like hardware" in finding.message) == (hardware is not None)


def test_two_pages_are_no_flipped_bit() -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 0, Part(3, zone=1), Part(2, zone=5), Part(3, zone=1)), rule=RULE)
    assert "hardware" not in finding.detail
