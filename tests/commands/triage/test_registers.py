# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines that show registers tell whether a CPU was in the kernel."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.registers import RegisterReader, RegisterSet


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        # arm64: EL1h, EL0t.
        ("pstate: 604000c5 (nZCv daIF +PAN -UAO -TCO -DIT -SSBS BTYPE=--)", "kernel"),
        ("pstate: 60000000 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)", "user"),
        ("pc : [<ffff0000081d2c60>] lr : [<ffff0000081d3b60>] pstate: 60000145", "kernel"),
        # 32-bit Arm.
        ("Flags: nzCv  IRQs off  FIQs on  Mode SVC_32  ISA ARM  Segment none", "kernel"),
        ("Flags: nZCv  IRQs on  FIQs on  Mode USER_32  ISA ARM  Segment user", "user"),
        # RISC-V: SPP is bit 8 of sstatus.
        ("status: 0000000000000120 badaddr: ffffffcf02900008 cause: 000000000000000d", "kernel"),
        ("status: 0000000200004020 badaddr: 0000000000000000 cause: 0000000000000008", "user"),
        ("status: 0000000200000120 badaddr: 0000000000000000", None),
        ("badaddr: ffffffcf02900008 cause: 000000000000000d", None),
        # PowerPC: PR, problem state.
        ("MSR:  8000000000009033 <SF,EE,ME,IR,DR,RI,LE>  CR: 28002822  XER: 00000000", "kernel"),
        ("MSR:  800000000280f033 <SF,VEC,VSX,EE,PR,FP,ME,IR,DR,RI,LE>  CR: 24002422  XER: 00000000", "user"),
        # x86: the privilege level of a segment.
        ("CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033", "kernel"),
        ("CS:  0033 DS: 0000 ES: 0000 CR0: 0000000080050033", "user"),
        ("DS: 007b ES: 007b FS: 00d8 GS: 0000 SS: 0068 EFLAGS: 00010246", "kernel"),
        ("DS: 007b ES: 007b FS: 00d8 GS: 0000 SS: 007b EFLAGS: 00010246", "user"),
        ("RAX: 0000000000000000 RBX: ffffea0000a40000 RCX: 0000000000000001", None),
    ],
)
def test_mode(text: str, mode: str | None) -> None:
    current = RegisterSet()
    RegisterReader._mode(current, text)
    assert current.mode == mode


def test_mode_is_that_of_the_set_that_lines_go_to() -> None:
    reader = RegisterReader()
    for text in ("pstate: 60000000 (nZCv daif -PAN -UAO -TCO -DIT -SSBS BTYPE=--)", "pc : frob+0x10/0x40"):
        reader.take(text, "")
    assert [item.mode for item in reader.sets] == ["user"]
