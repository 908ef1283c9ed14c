# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers that a dump saved of the CPU that crashed."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands.capture import capture
from mminspect.commands.triage.dump_log import read_dump_log
from mminspect.commands.triage.pages import useful_registers
from mminspect.commands.triage.report import crash_of as find_crash
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.saved import pids_of, saved_registers
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel
from mminspect.program import corefile
from tests.commands.triage.test_dumps import ARM64_FAULT, DAMAGED, SYSRQ, crash_of
from tests.conftest import Kernels, Opened
from tests.kit.support import I386_HOLE, elf_core


def prstatus(pid: int, cs: int = 0x10, rdi: int = 0) -> bytes:
    """Make a ``struct elf_prstatus`` of amd64."""
    words = [0] * 27
    words[14], words[17] = rdi, cs
    return bytes(32) + pid.to_bytes(4, "little") + bytes(76) + struct.pack("<27Q", *words) + bytes(8)


@pytest.mark.parametrize(
    ("notes", "rdi"),
    [
        # kdump: by the pid of the task.
        ([prstatus(0, rdi=5), prstatus(44, rdi=6), prstatus(7, rdi=7)], 6),
        # QEMU: by the number of the CPU.
        ([prstatus(1, rdi=5), prstatus(2, rdi=6)], 6),
        # Which is meant can't be told.
        ([prstatus(9, rdi=5)], None),
        ([prstatus(44, rdi=5), prstatus(44, rdi=6)], None),
        ([prstatus(1, rdi=5)], None),
        ([b""], None),
        ([], None),
        # In user space.
        ([prstatus(44, cs=0x33, rdi=5)], None),
    ],
)
def test_saved_registers_of_the_cpu_that_crashed(notes: list[bytes], rdi: Any, opened: Opened) -> None:
    target = opened(SYSRQ)[0]
    assert target.core is not None
    core = dataclasses.replace(target.core, prstatus=tuple(notes))
    found = saved_registers(dataclasses.replace(target, core=core), crash_of(ARM64_FAULT))
    assert found.get("rdi") == rdi


def test_saved_registers_of_32_bits(opened: Opened) -> None:
    """
    ``struct elf_prstatus`` of i386: siginfo and signals in 24 bytes, four pids, four times of 8 bytes, 17 registers.
    """
    target = opened(I386_HOLE)[0]
    assert target.core is not None

    def note(pid: int, first: int, cs: int = 0x60) -> bytes:
        registers = [*range(first, first + 13), cs, 0, 0, 0]
        return bytes(24) + struct.pack("<4i", pid, 1, 2, 3) + bytes(32) + struct.pack("<17I", *registers) + bytes(4)

    assert len(note(1, 0)) == 144
    core = dataclasses.replace(target.core, prstatus=(note(0, 100), note(44, 200), note(7, 300)))
    changed = dataclasses.replace(target, core=core)
    assert pids_of(changed) == [0, 44, 7]
    found = saved_registers(changed, crash_of(ARM64_FAULT))
    names = ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax")
    assert [found[name] for name in names] == list(range(200, 207))
    assert (found["eip"], found["cs"]) == (212, 0x60)
    core = dataclasses.replace(target.core, prstatus=(note(44, 200, cs=0x73),))
    assert saved_registers(dataclasses.replace(target, core=core), crash_of(ARM64_FAULT)) == {}


def test_notes_of_a_core(tmp_path: Path) -> None:
    path = tmp_path / "core"
    notes = [("CORE", prstatus(1)), ("CORE", prstatus(2)), ("VMCOREINFO", b"OSRELEASE=6.1.0\n")]
    path.write_bytes(elf_core(notes, [(0x1000, b"data")]))
    with path.open("rb") as file:
        core = corefile.parse(file.fileno(), str(path))
    assert core.prstatus == (prstatus(1), prstatus(2))
    assert core.vmcoreinfo == b"OSRELEASE=6.1.0\n"


def test_capture_keeps_the_registers_that_triage_uses(kernels: Kernels, tmp_path: Path) -> None:
    target = kernels(DAMAGED).target
    crash = find_crash(read_reports(read_dump_log(target).log.lines))
    assert target.core is not None
    assert crash is not None
    memory = kernels(DAMAGED).memory
    page = memory.sections[0].mem_map + 0x8000 * 64
    core = dataclasses.replace(target.core, prstatus=(prstatus(crash.pid or 0, rdi=page & ((1 << 64) - 1)),))
    changed = dataclasses.replace(target, core=core)
    before = saved_registers(changed, crash)
    assert len(before) == 18
    path = tmp_path / "core"
    with path.open("wb") as out:
        capture(Kernel(changed, kernels(DAMAGED).types), Inputs(), out)
    with path.open("rb") as file:
        kept = corefile.parse(file.fileno(), str(path))
    useful = {"rdi": page & ((1 << 64) - 1)}
    assert saved_registers(dataclasses.replace(target, core=kept), crash) == useful
    assert useful_registers(before, memory) == useful
