# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Registers that a dump saved of the CPU that crashed (ELF notes NT_PRSTATUS).

kdump saves them when the kernel gives up, a hypervisor when the dump is taken: what is in them need not be of the
crash. So they count for less than anything that the log says.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from mminspect.commands.triage.report import Report
from mminspect.program.arch import arch_of, elf_of
from mminspect.program.target import Target

# The name of the ELF note in which a capture keeps those that triage uses. Its text has lines of name and value.
REGISTERS_NOTE = "MMINSPECT_REGISTERS"


def pids_of(target: Target) -> list[int]:
    """Return the pid that each note has."""
    platform = target.prog.platform
    if target.core is None or platform is None:
        return []
    elf = elf_of(platform)
    pid_at = 16 + 2 * struct.calcsize(elf.word)
    notes = [note for note in target.core.prstatus if len(note) >= pid_at + 4]
    return [struct.unpack_from(elf.order + "i", note, pid_at)[0] for note in notes]


def numbered_by_cpu(pids: list[int]) -> bool:
    """Tell whether the pids are those that QEMU gives its CPUs: 1, 2, 3."""
    return pids == list(range(1, len(pids) + 1))


def saved_registers(target: Target, crash: Report, panic_cpu: int | None = None) -> dict[str, int]:
    """
    Get the registers of the CPU that crashed, if it was in the kernel.

    :param panic_cpu: The CPU that panicked, where the log doesn't name one.
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
    registers_at = 32 + 10 * size
    notes = [note for note in core.prstatus if len(note) >= registers_at + size * len(names)]
    pids = pids_of(replace(target, core=replace(core, prstatus=tuple(notes))))
    number = _choose(pids, panic_cpu if crash.cpu is None else crash.cpu, crash.pid)
    if number is None:
        return {}
    values = dict(zip(names, struct.unpack_from(f"{elf.order}{len(names)}{code}", notes[number], registers_at)))
    return values if arch.in_kernel(values) else {}


def _choose(pids: list[int], cpu: int | None, pid: int | None) -> int | None:
    """Choose the note of the CPU that crashed, by the pids that notes have."""
    if not pids or cpu is None:
        return None
    if numbered_by_cpu(pids):
        return cpu if cpu < len(pids) else None
    return pids.index(pid) if pid and pids.count(pid) == 1 else None


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
