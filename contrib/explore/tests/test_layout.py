# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts: their JSON, what is refused, and the RAM in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from contrib.explore.board import GIB, MIB, RAM, RESERVED, SOFT_RESERVED
from contrib.explore.describe import brief, describe, strips
from contrib.explore.layout import (
    E820Entry,
    Initrd,
    Layout,
    LayoutError,
    SratEntry,
    dumps,
    from_json,
    loads,
    ram_ranges,
    subtract,
    to_json,
)

LOW = (E820Entry(0, 0x9F000, RAM), E820Entry(0x9F000, MIB, RESERVED))
PLAIN = Layout((*LOW, E820Entry(MIB, 400 * MIB, RAM)))
RICH = Layout(
    (*LOW, E820Entry(MIB, 400 * MIB, RAM), E820Entry(400 * MIB + 0x123, 464 * MIB, SOFT_RESERVED)),
    srat=(SratEntry(0, 128 * MIB, 7), SratEntry(128 * MIB, 400 * MIB, 2, hotplug=True)),
    cpu_nodes=(2,),
    acpi=0x9F100,
    initrd=Initrd(100 * MIB, 0x3456),
    words=("movablecore=64M",),
    cpus=2,
)


@pytest.mark.parametrize("layout", [PLAIN, RICH])
def test_a_layout_survives_json(layout: Layout) -> None:
    assert loads(dumps(layout)) == layout.check()


def test_a_description_names_every_part() -> None:
    text = describe(RICH)
    for part in ("soft-reserved", "node 7", "hot pluggable", "nodes without CPUs: 7", "0x9f100", "movablecore=64M"):
        assert part in text
    assert "\n" not in brief(RICH)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"e820": ()}, "0 entries"),
        ({"e820": (*PLAIN.e820, E820Entry(GIB, GIB, RAM))}, "need 0 <= start < end"),
        ({"e820": (*PLAIN.e820, E820Entry(GIB, 2 * GIB, "rom"))}, "type rom"),
        ({"e820": (*PLAIN.e820, E820Entry(2 * GIB, 4 * GIB, RAM))}, "QEMU has none"),
        ({"e820": LOW}, "is not RAM"),
        ({"srat": (SratEntry(0, GIB, 0),)}, "no address for ACPI"),
        ({"acpi": 0x9F101}, "multiple of 16"),
        ({"acpi": 20 * MIB}, "overlap"),
        ({"acpi": 3 * GIB}, "no memory there"),
        ({"initrd": Initrd(MIB, 4096)}, "initrd"),
        ({"words": ("a b",)}, "space"),
        ({"cpus": 0}, "0 CPUs"),
        ({"machine": "virt"}, "QEMU has none in 0x0-0x48000000"),
        ({"machine": "q35"}, "machine q35: not one of pc, virt, virt-efi"),
    ],
)
def test_nonsense_is_refused_on_one_line(change: dict[str, object], text: str) -> None:
    with pytest.raises(LayoutError, match=text) as caught:
        replace(PLAIN, **change).check()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "mminspect.layout/2"},
        {"more": 1},
        {"e820": {}},
        {"e820": [[0, 1]]},
        {"e820": [["0x", 1, "ram"]]},
        {"e820": [[True, 4096, "ram"]]},
        {"srat": [[0, 4096, 0, "cold"]]},
        {"initrd": [0]},
    ],
)
def test_json_that_is_no_layout_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(LayoutError):
        from_json({**to_json(PLAIN), **change})


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"schema": "mminspect.layout/1"})])
def test_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(LayoutError):
        loads(text)


def test_where_entries_overlap_the_higher_type_wins() -> None:
    entries = (E820Entry(0, 0x5000, RAM), E820Entry(0x2000, 0x3000, RESERVED), E820Entry(0x4000, 0x8000, RAM))
    assert ram_ranges(entries) == [(0, 0x2000), (0x3000, 0x8000)]


def test_subtract_takes_away_at_both_ends_and_inside() -> None:
    assert subtract([(0, 10), (20, 30)], [(0, 2), (4, 5), (28, 40)]) == [(2, 4), (5, 10), (20, 28)]


def test_a_picture_shows_what_is_small() -> None:
    layout = loads(
        '{"schema": "mminspect.layout/1", "e820": [["0x0", "0x9f000", "ram"], ["0x100000", "0x6000000", "ram"], '
        '["0x6001000", "0x6002000", "reserved"], ["0x7000000", "0x8000000", "ram"]], '
        '"srat": [["0x0", "0x4000000", 0], ["0x4000000", "0x8000000", 1]], "acpi": "0x9e000"}'
    )
    lines = ("e820 ############r.##", "node 0000000011111111", "     a cell is 8 MiB; # ram, r reserved")
    assert strips(layout, 16) == "\n".join(lines)
