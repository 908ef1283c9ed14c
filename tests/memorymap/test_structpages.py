# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections with one memmap, joined."""

from __future__ import annotations

import dataclasses

from mminspect.memorymap.sections import Section
from mminspect.memorymap.structpages import stretches
from tests.kit.handmade import memory_map, zone


def test_section_with_absent_subsections_stays_alone() -> None:
    """What is said of one section must not be said of those that it is joined with, or be lost."""
    sections = tuple(
        Section(nr, ((nr * 64, nr * 64 + 64),), 0x1000, 0x2000, (), b"", ((128, 136),) if nr == 2 else ())
        for nr in range(5)
    )
    memory = dataclasses.replace(memory_map(zone(1, 0, 320)), sections=sections)
    assert [(s.nr, s.ranges, s.absent) for s in stretches(memory)] == [
        (0, ((0, 128),), ()),
        (2, ((128, 192),), ((128, 136),)),
        (3, ((192, 320),), ()),
    ]
