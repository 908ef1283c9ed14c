# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architectures: all that is not read from a kernel's types, one row for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

from drgn import Architecture, Platform, PlatformFlags, Program, host_platform, sizeof

from mminspect.program import i386, ppc64, riscv, syscalls, x86_64
from mminspect.program.corefile import CoreFile
from mminspect.program.elf import Elf
from mminspect.program.pagetable import PageTables
from mminspect.program.vmcoreinfo import Vmcoreinfo

Registers = Mapping[str, int]


def _numbered(prefix: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(first, last + 1))


def _not_known(prog: Program, page_shift: int) -> None:
    return None


def _huge_page(shift: int) -> Callable[[Program, int], int]:
    """Make the ``huge_page_order`` of an architecture whose PMDs map the same number of bytes in every kernel."""
    return lambda prog, page_shift: shift - page_shift


def _leave_alone(prog: Program, vmcoreinfo: Vmcoreinfo, core: CoreFile) -> None:
    pass


def _drgn_knows(prog: Program, vmcoreinfo: Vmcoreinfo) -> None:
    return None


def _x86_in_kernel(registers: Registers) -> bool:
    return registers["cs"] & 3 == 0


def _upper_half(name: str) -> Callable[[Registers], bool]:
    """Make the ``in_kernel`` of an architecture that has the kernel in the upper half of the address space."""
    return lambda registers: bool(registers[name] >> 63)


@dataclass(frozen=True)
class Arch:
    """
    An architecture.

    To support a new one:

    1. Add a row to :data:`ARCHITECTURES`. Of the fields with a default, give those whose default is wrong for it.
    2. If ``pageblock_order`` is a constant, as nearly everywhere, give ``huge_page_order``: HUGETLB_PAGE_ORDER, as
       asm/page.h or asm/hugetlb.h define it.
    3. If drgn can't read its virtual memory out of a dump (``linux_kernel_pgtable_iterator_*`` in libdrgn's
       ``arch_NAME.c``), write ``program/NAME.py`` with a walk of its page tables, as ``riscv.py`` has it, and name it
       in ``page_tables`` and ``lay_over``.
    4. For ``mminspect triage``, give ``registers`` and ``in_kernel``; how its kernels print a crash is known to
       ``kinds``, ``registers`` and ``stacks`` of :mod:`mminspect.commands.triage`.
    5. Add its numbers to ``tests/program/test_arch.py`` (``KNOWN``, ``MODES``, and the test that lists those without a
       row), a machine to ``contrib/kernels/boot.py``, its kernel to ``contrib/kernels/sources.py``, a row to
       ``contrib/kernels/matrix.py``, and a stored vmcore of it to ``tests/test_machines.py``.

    :ivar drgn: What drgn calls it.
    :ivar elf_machine: ``e_machine`` of its ELF files, 0 if it isn't known.
    :ivar is_64_bit: Its word size, whatever class its cores have: kdump and QEMU write ELF64 for i386 with PAE.
    :ivar uname: What ``uname -m`` prints, for kernels whose utsname can't be read.
    :ivar ioprio_set: Number of the system call.
    :ivar capset: Number of the system call.
    :ivar audit_arch: Its AUDIT_ARCH_* (linux/audit.h), if its system calls are known.
    :ivar syscalls: Numbers of system calls that a sandbox looks at.
    :ivar vmcoreinfo_marks: Keys that only its ``arch_crash_save_vmcoreinfo()`` appends to VMCOREINFO. QEMU's kdump
        files are told apart by them, as their header doesn't name the architecture.
    :ivar pae_option: The option that gives page table entries 8 bytes instead of 4, where VMCOREINFO names it if it
        is set.
    :ivar huge_page_order: Gets ``HUGETLB_PAGE_ORDER``, which is ``HPAGE_PMD_ORDER`` too where both exist, by the page
        shift; ``None`` if it isn't known.
    :ivar variable_pageblock_order: Whether ``pageblock_order`` is a variable
        (``CONFIG_HUGETLB_PAGE_SIZE_VARIABLE``).
    :ivar pfn_valid_by_memblock: Whether FLATMEM's ``pfn_valid()`` asks memblock, as the memmap of holes is freed.
    :ivar search_btf: Whether the kernel image is searched for BTF. Behind that of i386 is the rest of lowmem.
    :ivar drgn_walks: Whether drgn walks its page tables.
    :ivar page_tables: Gets the kernel's page tables, where :class:`~mminspect.program.pagetable.PageTables` knows them.
    :ivar page_offset: Gets PAGE_OFFSET, where drgn doesn't translate addresses of the direct mapping.
    :ivar lay_over: Lays over a dump what drgn alone would read wrongly or not at all.
    :ivar registers: The general registers, in the order of ``pr_reg``, at least up to those that tell the mode.
    :ivar in_kernel: Tells by the registers whether a CPU was in the kernel.
    """

    drgn: Architecture
    elf_machine: int
    is_64_bit: bool
    uname: str
    ioprio_set: int | None = None
    capset: int | None = None
    audit_arch: int | None = None
    syscalls: Mapping[str, int] = field(default_factory=dict)
    vmcoreinfo_marks: tuple[str, ...] = ()
    pae_option: str | None = None
    huge_page_order: Callable[[Program, int], int | None] = _not_known
    variable_pageblock_order: bool = False
    pfn_valid_by_memblock: bool = False
    search_btf: bool = True
    drgn_walks: bool = False
    page_tables: Callable[[Program, Vmcoreinfo], PageTables | None] = _drgn_knows
    page_offset: Callable[[Vmcoreinfo], int] | None = None
    lay_over: Callable[[Program, Vmcoreinfo, CoreFile], None] = _leave_alone
    registers: tuple[str, ...] = ()
    in_kernel: Callable[[Registers], bool] = _upper_half("pc")

    @property
    def name(self) -> str:
        """drgn's name for it in lower case."""
        return str(self.drgn.name.lower())

    @property
    def is_walked(self) -> bool:
        """Whether page tables are walked, by drgn or here, so that physical memory is all that must be read."""
        return self.drgn_walks or self.page_tables is not _drgn_knows

    def platform(self, order: str) -> Platform:
        """
        Get drgn's platform.

        :param order: Byte order, ``<`` or ``>``.
        """
        flags = PlatformFlags.IS_LITTLE_ENDIAN if order == "<" else PlatformFlags(0)
        return Platform(self.drgn, flags | PlatformFlags.IS_64_BIT if self.is_64_bit else flags)


ARCHITECTURES = (
    Arch(
        Architecture.I386,
        elf_machine=3,
        is_64_bit=False,
        uname="i686",
        ioprio_set=289,
        capset=185,
        vmcoreinfo_marks=("CONFIG_X86_PAE",),
        pae_option="CONFIG_X86_PAE",
        # PMD_SHIFT is 21 with PAE, else PGDIR_SHIFT, 22.
        huge_page_order=lambda prog, page_shift: (21 if sizeof(prog.type("pte_t")) == 8 else 22) - page_shift,
        search_btf=False,
        page_offset=i386.page_offset,
        lay_over=i386.lay_over,
        registers=("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs"),
        in_kernel=_x86_in_kernel,
    ),
    Arch(
        Architecture.X86_64,
        elf_machine=62,
        is_64_bit=True,
        uname="x86_64",
        ioprio_set=251,
        capset=126,
        audit_arch=0xC000003E,
        syscalls=syscalls.X86_64,
        vmcoreinfo_marks=("SYMBOL(init_top_pgt)", "SYMBOL(init_level4_pgt)"),
        huge_page_order=_huge_page(21),
        drgn_walks=True,
        page_tables=x86_64.kernel_page_tables,
        registers=(
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
            *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs"),
        ),
        in_kernel=_x86_in_kernel,
    ),
    Arch(
        Architecture.ARM,
        elf_machine=40,
        is_64_bit=False,
        uname="armv7l",
        ioprio_set=314,
        capset=185,
        vmcoreinfo_marks=("CONFIG_ARM_LPAE",),
        pae_option="CONFIG_ARM_LPAE",
        huge_page_order=_huge_page(21),
        pfn_valid_by_memblock=True,
        registers=(*_numbered("r", 0, 15), "cpsr"),
        # USR_MODE.
        in_kernel=lambda registers: registers["cpsr"] & 0x1F != 0x10,
    ),
    Arch(
        Architecture.AARCH64,
        elf_machine=183,
        is_64_bit=True,
        uname="aarch64",
        ioprio_set=30,
        capset=91,
        audit_arch=0xC00000B7,
        syscalls=syscalls.AARCH64,
        vmcoreinfo_marks=("NUMBER(kimage_voffset)",),
        # One level of page tables: a page of 8-byte entries.
        huge_page_order=lambda prog, page_shift: page_shift - 3,
        drgn_walks=True,
        registers=(*_numbered("x", 0, 30), "sp", "pc"),
    ),
    Arch(
        Architecture.PPC64,
        elf_machine=21,
        is_64_bit=True,
        uname="ppc64le",
        ioprio_set=273,
        capset=184,
        vmcoreinfo_marks=("SIZE(vmemmap_backing)",),
        variable_pageblock_order=True,
        # Those of the radix MMU.
        drgn_walks=True,
        page_offset=lambda vmcoreinfo: ppc64.PAGE_OFFSET,
        lay_over=ppc64.lay_over,
        registers=(*_numbered("r", 0, 31), "nip"),
        in_kernel=_upper_half("nip"),
    ),
    Arch(
        Architecture.S390X,
        elf_machine=22,
        is_64_bit=True,
        uname="s390x",
        ioprio_set=282,
        capset=185,
        vmcoreinfo_marks=("SYMBOL(lowcore_ptr)",),
        huge_page_order=_huge_page(20),
        drgn_walks=True,
        registers=("mask", "addr", *_numbered("r", 0, 15)),
        # PSW_MASK_PSTATE.
        in_kernel=lambda registers: not registers["mask"] >> 48 & 1,
    ),
    Arch(
        Architecture.RISCV64,
        elf_machine=243,
        is_64_bit=True,
        uname="riscv64",
        ioprio_set=30,
        capset=91,
        vmcoreinfo_marks=("NUMBER(va_kernel_pa_offset)",),
        huge_page_order=_huge_page(21),
        page_tables=riscv.kernel_page_tables,
        lay_over=riscv.lay_over,
        registers=(
            *("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
            *_numbered("a", 0, 7),
            *_numbered("s", 2, 11),
            *_numbered("t", 3, 6),
        ),
    ),
    # Its page tables (Sv32) are not known, so only captures of it can be read.
    Arch(
        Architecture.RISCV32,
        elf_machine=243,
        is_64_bit=False,
        uname="riscv32",
        ioprio_set=30,
        capset=91,
        huge_page_order=_huge_page(22),
        lay_over=riscv.lay_over,
    ),
)
_BY_DRGN = {arch.drgn: arch for arch in ARCHITECTURES}


def arch_of(platform: Platform | None) -> Arch:
    """Get the row of a platform. Of one that has none, drgn's name is known and little else."""
    assert platform is not None
    is_64_bit = bool(platform.flags & PlatformFlags.IS_64_BIT)
    unknown = Arch(platform.arch, 0, is_64_bit, uname=platform.arch.name.lower())
    return _BY_DRGN.get(platform.arch, unknown)


def arch_of_core(core: CoreFile) -> Arch | None:
    """Get the architecture that a vmcore's headers name: its ELF header, else its VMCOREINFO."""
    if core.is_elf:
        rows = [arch for arch in ARCHITECTURES if arch.elf_machine == core.machine]
        # Of RISC-V there are two.
        return next((arch for arch in rows if arch.is_64_bit == core.is_64_bit), rows[0] if rows else None)
    lines = Vmcoreinfo((core.vmcoreinfo or b"").decode("ascii", "replace")).lines
    return next((arch for arch in ARCHITECTURES if any(key in lines for key in arch.vmcoreinfo_marks)), None)


def host() -> Arch:
    """Get the architecture that this process is built for."""
    return arch_of(host_platform)


def elf_of(platform: Platform | None) -> Elf:
    """Get the word size and the byte order of a platform."""
    assert platform is not None
    little = platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    return Elf(bool(platform.flags & PlatformFlags.IS_64_BIT), "<" if little else ">")
