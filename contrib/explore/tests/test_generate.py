# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator and the features of what it makes."""

from __future__ import annotations

from contrib.explore.board import MIB, RAM, RESERVED
from contrib.explore.cpu import AMD64, ARM64, I386
from contrib.explore.draw import Seeded
from contrib.explore.features import features
from contrib.explore.generate import generate, mutate
from contrib.explore.layout import E820Entry, Layout, SratEntry, dumps, loads
from contrib.explore.tests.test_layout import LOW, PLAIN


def test_a_seed_gives_the_same_layout_and_another_another() -> None:
    assert dumps(generate(Seeded(7))) == dumps(generate(Seeded(7)))
    assert len({dumps(generate(Seeded(seed))) for seed in range(200)}) == 200


def test_every_layout_makes_sense_and_survives_json() -> None:
    for seed in range(500):
        layout = generate(Seeded(seed), (AMD64, AMD64, I386, ARM64, ARM64)[seed % 5])
        assert loads(dumps(layout)) == layout


def test_a_mutant_differs_in_little_and_makes_sense() -> None:
    # Seeds 280 and 417 take the only RAM away from a layout of arm64, before another change.
    for seed in range(420):
        cpu = ARM64 if seed in (280, 417) else (AMD64, ARM64, I386)[seed % 3]
        layout = generate(Seeded(seed), cpu)
        mutant = mutate(Seeded(seed), layout, cpu)
        assert mutant != layout
        assert loads(dumps(mutant)) == mutant


def test_the_generator_gets_around() -> None:
    seen = set().union(*(features(generate(Seeded(seed))) for seed in range(800)))
    for wanted in (
        "nodes interleave",
        "nodes descend",
        "RAM without node",
        "nodes without CPUs 1",
        "e820 unsorted",
        "edge ram|soft-reserved at a pageblock",
        "edge ram|hole inside a page",
        "edge ram|ram other node at a page",
        "word memmap",
        "word kernelcore",
        "initrd at the end of RAM",
    ):
        assert wanted in seen, wanted


def test_features_tell_what_differs_and_not_where() -> None:
    moved = Layout((*LOW, E820Entry(MIB, 528 * MIB, RAM)))
    assert features(PLAIN) == features(moved)
    holed = Layout((*PLAIN.e820[:2], E820Entry(MIB, 399 * MIB, RAM), E820Entry(399 * MIB, 400 * MIB, RESERVED)))
    assert features(PLAIN) != features(holed)


def test_nodes_that_meet_inside_a_block_are_a_feature() -> None:
    def split(at: int) -> Layout:
        parts = (SratEntry(0, at, 0), SratEntry(at, 512 * MIB, 1))
        return Layout(PLAIN.e820, parts, (0, 1), 0x9F100)

    assert "edge ram|ram other node at a pageblock" in features(split(130 * MIB))
    assert "edge ram|ram other node at a page" in features(split(131 * MIB))
