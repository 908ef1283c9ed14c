# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of architectures: complete, and with the numbers of the kernel's and glibc's headers, written by hand."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from drgn import Architecture, Platform, PlatformFlags, Program

from mminspect.program import corefile
from mminspect.program.arch import ARCHITECTURES, Arch, arch_of, arch_of_core, elf_of, host
from mminspect.program.corefile import CoreFile
from mminspect.program.elf import Elf
from mminspect.program.open import open_vmcore
from tests.conftest import Unpacked

LITTLE, WIDE = PlatformFlags.IS_LITTLE_ENDIAN, PlatformFlags.IS_64_BIT
ROWS = {arch.name: arch for arch in ARCHITECTURES}


class Known(NamedTuple):
    """
    What the headers say of an architecture.

    :ivar machine: ``EM_*`` of elf.h.
    :ivar bits: ``BITS_PER_LONG``.
    :ivar ioprio_set: ``__NR_ioprio_set``; ``capset`` likewise.
    :ivar orders: ``HUGETLB_PAGE_ORDER`` by PAGE_SHIFT.
    :ivar ngreg: ``ELF_NGREG``, the length of ``pr_reg``.
    :ivar registers: Some registers by their place in it.
    """

    machine: int
    bits: int
    ioprio_set: int
    capset: int
    orders: dict[int, int]
    ngreg: int
    registers: dict[str, int]


KNOWN = {
    "i386": Known(3, 32, 289, 185, {}, 17, {"ebx": 0, "eax": 6, "orig_eax": 11, "eip": 12, "cs": 13}),
    "x86_64": Known(62, 64, 251, 126, {12: 9}, 27, {"r15": 0, "rbx": 5, "rax": 10, "rdi": 14, "rip": 16, "cs": 17}),
    "arm": Known(40, 32, 314, 185, {12: 9}, 18, {"r0": 0, "r15": 15, "cpsr": 16}),
    "aarch64": Known(183, 64, 30, 91, {12: 9, 14: 11, 16: 13}, 34, {"x0": 0, "x30": 30, "sp": 31, "pc": 32}),
    "ppc64": Known(21, 64, 273, 184, {}, 48, {"r0": 0, "r31": 31, "nip": 32}),
    "s390x": Known(22, 64, 282, 185, {12: 8}, 27, {"mask": 0, "addr": 1, "r0": 2, "r15": 17}),
    "riscv64": Known(
        243, 64, 30, 91, {12: 9}, 32, {"pc": 0, "ra": 1, "sp": 2, "t0": 5, "s0": 8, "a0": 10, "s2": 18, "t6": 31}
    ),
    "riscv32": Known(243, 32, 30, 91, {12: 10}, 32, {}),
}
# The same registers of a CPU in the kernel and in a program.
MODES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    # __KERNEL_CS and __USER_CS.
    "i386": ({"cs": 0x60}, {"cs": 0x73}),
    "x86_64": ({"cs": 0x10}, {"cs": 0x33}),
    # SVC_MODE and USR_MODE.
    "arm": ({"cpsr": 0x60000013}, {"cpsr": 0x60000010}),
    "aarch64": ({"pc": 0xFFFF800080010000}, {"pc": 0xAAAADEADB000}),
    "ppc64": ({"nip": 0xC000000000012340}, {"nip": 0x10000340}),
    "s390x": ({"mask": 0x0704C00180000000}, {"mask": 0x0705200180000000}),
    "riscv64": ({"pc": 0xFFFFFFFF80002000}, {"pc": 0x3FB7E5A000}),
}


def with_pte(size: int) -> Any:
    """Make what stands in for a program whose pte_t has a size."""
    pte = Program(Platform(Architecture.UNKNOWN, LITTLE)).int_type("pte_t", size, False)
    return SimpleNamespace(type={"pte_t": pte}.__getitem__)


def test_every_architecture_that_is_known_has_a_row() -> None:
    assert set(ROWS) == set(KNOWN)
    without = {Architecture.UNKNOWN, Architecture.S390} | {a for a in Architecture if a.name == "LOONGARCH64"}
    assert {arch.drgn for arch in ARCHITECTURES} == set(Architecture) - without


@pytest.mark.parametrize("name", KNOWN)
def test_row_has_the_numbers_of_the_headers(name: str) -> None:
    arch, known = ROWS[name], KNOWN[name]
    assert (arch.elf_machine, arch.is_64_bit) == (known.machine, known.bits == 64)
    assert (arch.ioprio_set, arch.capset) == (known.ioprio_set, known.capset)
    assert {shift: arch.huge_page_order(Program(), shift) for shift in known.orders} == known.orders
    assert len(arch.registers) <= known.ngreg
    assert {register: arch.registers.index(register) for register in known.registers} == known.registers


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda arch: arch.name)
def test_row_is_complete(arch: Arch) -> None:
    assert arch.elf_machine
    assert arch.uname
    # The pageblock order can be told, save where it is in a variable.
    assert (arch.huge_page_order(with_pte(8), 12) is None) == arch.variable_pageblock_order
    if arch.name == "riscv32":
        return
    assert arch.vmcoreinfo_marks
    # A dump's virtual memory can be read. (That of Arm needs a core with virtual addresses.)
    assert arch.is_walked or arch.page_offset is not None or arch.name == "arm"
    kernel, user = MODES[arch.name]
    assert set(kernel) <= set(arch.registers)
    assert (arch.in_kernel(kernel), arch.in_kernel(user)) == (True, False)


def test_size_of_huge_pages_of_i386_is_that_of_its_page_tables() -> None:
    assert [ROWS["i386"].huge_page_order(with_pte(size), 12) for size in (8, 4)] == [9, 10]


def test_no_mark_is_of_two_architectures() -> None:
    marks = [mark for arch in ARCHITECTURES for mark in arch.vmcoreinfo_marks]
    assert len(marks) == len(set(marks))


# Kernels of 32 bits have a mark with PAE or LPAE only, which Debian's armhf lacks.
@pytest.mark.parametrize(
    ("vmcore", "name", "marked"),
    [
        ("amd64-5.10-bug", "x86_64", True),
        ("amd64-7.2-numa", "x86_64", True),
        ("arm64-6.12-16k", "aarch64", True),
        ("armhf-6.12", "arm", False),
        ("i386-5.10-hole", "i386", True),
        ("i386-6.1-numa", "i386", True),
        ("ppc64el-6.12", "ppc64", True),
        ("riscv64-6.12", "riscv64", True),
        ("s390x-6.12", "s390x", True),
    ],
)
def test_vmcoreinfo_names_the_machine_that_the_elf_header_names(
    vmcore: str, name: str, marked: bool, unpacked: Unpacked
) -> None:
    with unpacked(vmcore).open("rb") as file:
        core = corefile.parse(file.fileno(), vmcore)
    row = ROWS[name]
    assert arch_of_core(core) is row
    assert arch_of_core(CoreFile("kdump", notes={"VMCOREINFO": core.vmcoreinfo or b""})) is (row if marked else None)
    assert row.platform(core.order) == open_vmcore(str(unpacked(vmcore))).prog.platform


def test_machine_of_two_word_sizes_is_told_apart_by_the_class() -> None:
    names = [
        (row and row.name) for row in (arch_of_core(CoreFile("elf", 243, is_64_bit)) for is_64_bit in (True, False))
    ]
    assert names == ["riscv64", "riscv32"]


def test_class_of_a_core_is_not_the_word_size() -> None:
    row = arch_of_core(CoreFile("elf", 3, is_64_bit=True))
    assert row is ROWS["i386"]
    platform = row.platform("<")
    assert (platform.arch, platform.flags) == (Architecture.I386, LITTLE)


def test_machine_that_is_not_known() -> None:
    assert arch_of_core(CoreFile("elf", 8)) is None
    assert arch_of_core(CoreFile("kdump")) is None
    row = arch_of(Platform(Architecture.UNKNOWN, WIDE))
    assert (row.name, row.uname, row.elf_machine, row.is_64_bit) == ("unknown", "unknown", 0, True)
    assert row.huge_page_order(Program(), 12) is None
    assert not row.is_walked


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_words_of_a_platform(wide: bool, little: bool) -> None:
    flags = (WIDE if wide else PlatformFlags(0)) | (LITTLE if little else PlatformFlags(0))
    assert elf_of(Platform(Architecture.UNKNOWN, flags)) == Elf(wide, "<" if little else ">")


def test_system_calls_of_this_machine_are_those_of_its_headers() -> None:
    headers = sorted(Path("/usr/include").glob(f"*/asm/unistd_{'64' if host().is_64_bit else '32'}.h"))
    if host().name not in ("x86_64", "i386") or not headers:
        pytest.skip("there is no header that lists them")
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", headers[0].read_text()))
    assert (str(host().ioprio_set), str(host().capset)) == (numbers["ioprio_set"], numbers["capset"])
