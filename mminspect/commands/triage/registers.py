# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Registers that a dump saved of the CPU that crashed (ELF notes NT_PRSTATUS).

kdump saves them when the kernel gives up, a hypervisor when the dump is taken: what is in them need not be of the
crash. So they count for less than anything that the log says.
"""

from __future__ import annotations

import struct

from drgn import Architecture, Platform, PlatformFlags

from mminspect.commands.triage.lastwords import Crash
from mminspect.program.target import Target

# The name of the ELF note in which a capture keeps those that triage uses. Its text has lines of name and value.
REGISTERS_NOTE = "MMINSPECT_REGISTERS"


def _numbered(prefix: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(first, last + 1))


# The general registers by architecture, in the order of pr_reg.
_NAMES: dict[Architecture, tuple[str, ...]] = {
    Architecture.X86_64: (
        *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
        *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs"),
    ),
    Architecture.I386: (
        *("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs"),
    ),
    Architecture.AARCH64: (*_numbered("x", 0, 30), "sp", "pc"),
    Architecture.ARM: (*_numbered("r", 0, 15), "cpsr"),
    Architecture.PPC64: (*_numbered("r", 0, 31), "nip"),
    Architecture.S390X: ("mask", "addr", *_numbered("r", 0, 15)),
    Architecture.RISCV64: (
        *("pc", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
        *_numbered("a", 0, 7),
        *_numbered("s", 2, 11),
        *_numbered("t", 3, 6),
    ),
}


def saved_registers(target: Target, crash: Crash) -> dict[str, int]:
    """
    Get the registers of the CPU that crashed, if it was in the kernel.

    :return: Values by name; none if the dump doesn't hold them, or doesn't tell which CPU's they are.
    """
    core, platform = target.core, target.prog.platform
    if core is None or platform is None:
        return {}
    if REGISTERS_NOTE in core.notes:
        return _parse_note(core.notes[REGISTERS_NOTE])
    names = _NAMES.get(platform.arch)
    if names is None:
        return {}
    # struct elf_prstatus: pr_pid and pr_reg, behind two and four words and 16 bytes.
    code, size = ("Q", 8) if target.prog.platform.flags & PlatformFlags.IS_64_BIT else ("I", 4)
    order = "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"
    pid_at, registers_at = 16 + 2 * size, 32 + 10 * size
    if platform.arch in (Architecture.I386, Architecture.ARM):
        pid_at, registers_at = 24, 72
    notes = [note for note in core.prstatus if len(note) >= registers_at + size * len(names)]
    pids: list[int] = [struct.unpack_from(order + "i", note, pid_at)[0] for note in notes]
    number = _choose(pids, crash)
    if number is None:
        return {}
    values = dict(zip(names, struct.unpack_from(f"{order}{len(names)}{code}", notes[number], registers_at)))
    return values if _in_kernel(platform, values) else {}


def _choose(pids: list[int], crash: Crash) -> int | None:
    """Choose the note of the CPU that crashed, by the pids that notes have."""
    if not pids or crash.cpu is None:
        return None
    if pids == list(range(1, len(pids) + 1)):
        # QEMU numbers the CPUs.
        return crash.cpu if crash.cpu < len(pids) else None
    return pids.index(crash.pid) if crash.pid and pids.count(crash.pid) == 1 else None


def _in_kernel(platform: Platform, values: dict[str, int]) -> bool:
    if platform.arch in (Architecture.X86_64, Architecture.I386):
        return values["cs"] & 3 == 0
    if platform.arch == Architecture.S390X:
        # PSW_MASK_PSTATE.
        return not values["mask"] >> 48 & 1
    if platform.arch == Architecture.ARM:
        return values["cpsr"] & 0x1F != 0x10
    return bool(values.get("pc", values.get("nip", 0)) >> 63)


def format_note(registers: dict[str, int]) -> bytes:
    """Make the text of a capture's note."""
    return "\n".join(f"{name} {value:x}" for name, value in registers.items()).encode()


def _parse_note(note: bytes) -> dict[str, int]:
    result = {}
    for line in note.rstrip(b"\0").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        try:
            result[name] = int(value, 16)
        except ValueError:
            return {}
    return result
