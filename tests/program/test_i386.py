# SPDX-License-Identifier: LGPL-2.1-or-later
"""The direct mapping of i386."""

from __future__ import annotations

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from mminspect.program import i386
from mminspect.program.corefile import CoreFile
from mminspect.program.elf import Segment
from mminspect.program.vmcoreinfo import Vmcoreinfo

VMCOREINFO = Vmcoreinfo("SYMBOL(_stext)=c1000000\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # VMSPLIT_3G, with and without KASLR, VMSPLIT_3G_OPT, 2G, 2G_OPT and 1G.
        ("SYMBOL(_stext)=c1000000", 0xC0000000),
        ("SYMBOL(_stext)=d2000000\nKERNELOFFSET=11000000", 0xC0000000),
        ("SYMBOL(_stext)=b1000000", 0xB0000000),
        ("SYMBOL(_stext)=81000000", 0x80000000),
        ("SYMBOL(_stext)=79000000", 0x78000000),
        ("SYMBOL(_stext)=41000000", 0x40000000),
        ("", 0xC0000000),
    ],
)
def test_page_offset_is_below_the_image(text: str, expected: int) -> None:
    assert i386.page_offset(Vmcoreinfo(text)) == expected


def program() -> Program:
    """Make a program with a page of physical memory at 4 KiB."""
    prog = Program(Platform(Architecture.I386, PlatformFlags.IS_LITTLE_ENDIAN))
    prog.add_memory_segment(0x1000, 4, lambda address, count, offset, physical: b"data"[offset:], physical=True)
    return prog


# QEMU writes no virtual address, or the physical one, of firmware too.
@pytest.mark.parametrize("segment", [Segment(0, 0, 0x1000, 4, 4), Segment(0, 0xFFFC0000, 0xFFFC0000, 4, 4)])
def test_lowmem_of_a_dump_with_physical_addresses_is_mapped(segment: Segment) -> None:
    prog = program()
    i386.lay_over(prog, VMCOREINFO, CoreFile("elf", 3, segments=(segment,)))
    assert prog.read(0xC0001000, 4) == b"data"


def test_dump_with_virtual_addresses_is_left_as_it_is() -> None:
    prog = program()
    i386.lay_over(prog, VMCOREINFO, CoreFile("elf", 3, segments=(Segment(0, 0xC0001000, 0x1000, 4, 4),)))
    with pytest.raises(FaultError):
        prog.read(0xC0001000, 4)
