# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hash MMU of ppc64, on a memory image made by hand."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from mminspect.errors import TargetError
from mminspect.program.ppc64 import Backings, has_hash_mmu, lay_over
from mminspect.program.vmcoreinfo import Vmcoreinfo

BASE = 0xC000000000000000
VMEMMAP = 0xC00C000000000000
# As a kernel of Debian 6.12 prints it; the addresses are of the image below.
TEXT = f"""\
SYMBOL(vmemmap_list)={BASE + 0x100:x}
SYMBOL(mmu_vmemmap_psize)={BASE + 0x110:x}
SYMBOL(mmu_psize_defs)={BASE + 0x200:x}
SIZE(vmemmap_backing)=24
OFFSET(vmemmap_backing.list)=0
OFFSET(vmemmap_backing.phys)=8
OFFSET(vmemmap_backing.virt_addr)=16
SIZE(mmu_psize_def)=96
OFFSET(mmu_psize_def.shift)=0
SYMBOL(cur_cpu_spec)={BASE + 0x120:x}
OFFSET(cpu_spec.mmu_features)=32
"""
HASH = TEXT + "NUMBER(RADIX_MMU)=0\n"


def image(order: str, cycle: bool = False) -> bytes:
    """Make 1 MiB of memory: two pieces of vmemmap, 64 KiB each, in descending order, with a hole between them."""
    data = bytearray(1 << 20)
    word, number = order + "Q", order + "I"
    struct.pack_into(word, data, 0x100, BASE + 0x1000)
    struct.pack_into(number, data, 0x110, 2)
    struct.pack_into(number, data, 0x200 + 2 * 96, 16)
    struct.pack_into(word, data, 0x120, BASE + 0x3000)
    struct.pack_into(order + "3Q", data, 0x1000, BASE + 0x2000, 0x40000, VMEMMAP)
    struct.pack_into(order + "3Q", data, 0x2000, BASE + 0x1000 if cycle else 0, 0x20000, VMEMMAP + 0x20000)
    data[0x40000:0x50000] = b"A" * 0x10000
    data[0x20000:0x30000] = b"B" * 0x10000
    data[0x2FFFE:0x30000] = b"YZ"
    return bytes(data)


def program(order: str, data: bytes) -> Program:
    little = PlatformFlags.IS_LITTLE_ENDIAN if order == "<" else PlatformFlags(0)
    prog = Program(Platform(Architecture.PPC64, PlatformFlags.IS_64_BIT | little))
    prog.add_memory_segment(0, len(data), lambda at, count, offset, physical: data[offset : offset + count], True)
    return prog


def core(paddr: int = 0) -> Any:
    return SimpleNamespace(segments=[SimpleNamespace(paddr=paddr)])


@pytest.mark.parametrize("order", ["<", ">"])
def test_vmemmap_is_read_by_its_list(order: str) -> None:
    prog = program(order, image(order))
    lay_over(prog, Vmcoreinfo(HASH), core())
    assert prog.read(VMEMMAP, 4) == b"AAAA"
    assert prog.read(VMEMMAP + 0x2FFFD, 3) == b"BYZ"
    for hole in (VMEMMAP + 0x10000, VMEMMAP + 0xFFFE, VMEMMAP + 0x30000, VMEMMAP - 1):
        with pytest.raises(FaultError):
            prog.read(hole, 4)


def test_linear_map_is_physical_memory() -> None:
    prog = program("<", image("<"))
    lay_over(prog, Vmcoreinfo(HASH), core())
    assert prog.read(BASE + 0x2FFFE, 2) == b"YZ"
    with pytest.raises(FaultError):
        prog.read(BASE + (1 << 20), 1)


def test_memory_that_only_the_hash_table_maps_is_a_fault() -> None:
    """A NotImplementedError of drgn would end the program."""
    prog = program("<", image("<"))
    lay_over(prog, Vmcoreinfo(HASH), core())
    with pytest.raises(FaultError, match="hash MMU"):
        prog.read(0xC008000000000000, 8)


@pytest.mark.parametrize(("features", "expected"), [(0x40, False), (0x80, True)])
def test_older_kernels_tell_by_the_cpu_features(features: int, expected: bool) -> None:
    data = bytearray(image("<"))
    struct.pack_into("<I", data, 0x3000 + 32, features)
    assert has_hash_mmu(program("<", bytes(data)), Vmcoreinfo(TEXT)) is expected
    assert has_hash_mmu(program("<", bytes(data)), Vmcoreinfo("")) is None


@pytest.mark.parametrize(("text", "paddr"), [(TEXT + "NUMBER(RADIX_MMU)=1\n", 0), (HASH, 0xFFFFFFFFFFFFFFFF)])
def test_dumps_of_the_radix_mmu_and_captures_are_left_alone(text: str, paddr: int) -> None:
    prog = program("<", image("<"))
    lay_over(prog, Vmcoreinfo(text), core(paddr))
    with pytest.raises(FaultError):
        prog.read(VMEMMAP, 4)


def test_list_that_can_not_be_followed_is_one_line() -> None:
    with pytest.raises(TargetError, match=r"no OFFSET\(vmemmap_backing.phys\)"):
        lay_over(program("<", image("<")), Vmcoreinfo(HASH.replace("backing.phys", "backing.xxxx")), core())
    with pytest.raises(TargetError, match="damaged"):
        lay_over(program("<", image("<", cycle=True)), Vmcoreinfo(HASH), core())
    data = bytearray(image("<"))
    struct.pack_into("<Q", data, 0x100, BASE + (1 << 30))
    with pytest.raises(TargetError, match="doesn't hold it"):
        lay_over(program("<", bytes(data)), Vmcoreinfo(HASH), core())


def test_read_over_the_end_of_a_piece_of_memory() -> None:
    """Two pieces that touch in the vmemmap and not in memory, and what lies between them in memory."""
    data = b"A" * 0x100 + b"x" * 0x100 + b"B" * 0x100
    prog = program("<", data)
    backings = Backings(prog, [(VMEMMAP + 0x100, 0x200), (VMEMMAP, 0)], 0x100)
    assert backings.read(VMEMMAP + 0xF0, 0x20, 0, False) == b"A" * 0x10 + b"B" * 0x10
    assert backings.read(VMEMMAP + 0x40, 0x10, 0, False) == b"A" * 0x10
    with pytest.raises(FaultError):
        backings.read(VMEMMAP + 0x1F0, 0x20, 0, False)
