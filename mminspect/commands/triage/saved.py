# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Registers that a dump saved of the CPU that crashed (ELF notes NT_PRSTATUS).

kdump saves them when the kernel gives up, a hypervisor when the dump is taken: what is in them need not be of the
crash. So they count for less than anything that the log says.
"""

from __future__ import annotations

import struct

from mminspect.commands.triage.lastwords import Crash
from mminspect.program.arch import arch_of, elf_of
from mminspect.program.target import Target

# The name of the ELF note in which a capture keeps those that triage uses. Its text has lines of name and value.
REGISTERS_NOTE = "MMINSPECT_REGISTERS"


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
    arch, elf = arch_of(platform), elf_of(platform)
    names = arch.registers
    if not names:
        return {}
    # struct elf_prstatus: pr_pid and pr_reg, behind two and ten words and what has the same size everywhere.
    code = elf.word[1:]
    size = struct.calcsize(elf.word)
    pid_at, registers_at = 16 + 2 * size, 32 + 10 * size
    notes = [note for note in core.prstatus if len(note) >= registers_at + size * len(names)]
    pids: list[int] = [struct.unpack_from(elf.order + "i", note, pid_at)[0] for note in notes]
    number = _choose(pids, crash)
    if number is None:
        return {}
    values = dict(zip(names, struct.unpack_from(f"{elf.order}{len(names)}{code}", notes[number], registers_at)))
    return values if arch.in_kernel(values) else {}


def _choose(pids: list[int], crash: Crash) -> int | None:
    """Choose the note of the CPU that crashed, by the pids that notes have."""
    if not pids or crash.cpu is None:
        return None
    if pids == list(range(1, len(pids) + 1)):
        # QEMU numbers the CPUs.
        return crash.cpu if crash.cpu < len(pids) else None
    return pids.index(crash.pid) if crash.pid and pids.count(crash.pid) == 1 else None


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
