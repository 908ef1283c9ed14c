# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump tells of a death beside its log, and what a capture keeps of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mminspect.commands.capture import capture
from mminspect.commands.triage import run
from mminspect.commands.triage.about import about_pages
from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.dump_log import LOG_NOTE, DumpLog, format_note, kept_lines, parse_note, read_dump_log
from mminspect.commands.triage.lines import Line, Log, read_text
from mminspect.kernel.inputs import Inputs
from mminspect.program import corefile
from mminspect.program.vmcoreinfo import Vmcoreinfo
from tests.commands.triage import faults
from tests.commands.triage.test_dumps import BUG, DAMAGED, MEMORY, NULL, SYSRQ, crash_of, judge, log
from tests.commands.triage.test_saved import prstatus
from tests.conftest import Cli, Kernels, Opened, Unpacked

# Marks of a death


def died(text: str, *marks: str, end: float | None = None) -> DumpLog:
    """Make what a dump tells."""
    lines = log(text)
    return DumpLog(Log(lines, None, True), bool(lines), lines[-1].time if end is None else end, marks)


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (DumpLog(Log([]), False), "unknown"),
        (DumpLog(Log([]), False, None, ("panic_cpu says that CPU 1 panicked",)), "unknown"),
        (died("usb 1-1: new device", "VMCOREINFO has the time of a crash (CRASHTIME)"), "unknown"),
        (died("usb 1-1: new device"), "no crash"),
    ],
)
def test_a_dump_of_a_kernel_that_died_of_something_unknown_is_never_without_a_crash(
    told: DumpLog, verdict: str
) -> None:
    found = run._without_crash(told)
    assert found.verdict == verdict
    assert all(mark in found.why for mark in told.died)


LOCKUP = """
watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kcompactd0:66]
CPU: 1 PID: 66 Comm: kcompactd0 Not tainted 6.1.0 #1
RIP: 0010:isolate_freepages_block+0x1/0x2
Call Trace:
 <TASK>
 compaction_alloc+0x1/0x2
 </TASK>
"""


@pytest.mark.parametrize(("end", "verdict"), [(1.0, "unexplained"), (7200.0, "unknown")])
def test_what_a_kernel_lived_through_did_not_kill_it(end: float, verdict: str) -> None:
    crash = crash_of(LOCKUP)
    about = about_pages(crash)
    told = died(LOCKUP, "panic_cpu says that CPU 0 panicked", end=end)
    assert run._judge(crash, about, told, judge(crash, [], MEMORY)).verdict == verdict


def test_panic_cpu_of_a_dump(opened: Opened) -> None:
    target = opened(SYSRQ)[0]
    # Stored captures were made without it.
    assert read_dump_log(target).cpu is None
    core = target.core
    assert core is not None
    for pids, marks in (((0, 44, 7), 1), ((1, 2), 0), ((0, 0), 0), ((), 0)):
        changed = dataclasses.replace(core, prstatus=tuple(map(prstatus, pids)))
        found = read_dump_log(dataclasses.replace(target, core=changed)).died
        assert len(found) == marks, pids
    crashed = Vmcoreinfo("OSRELEASE=6.1.0\nCRASHTIME=1700000000\n")
    assert "CRASHTIME" in read_dump_log(dataclasses.replace(target, vmcoreinfo=crashed)).died[0]


# Captures

BOOT = """
Linux version 6.1.0-9-amd64 (me@example) (gcc 12.2.0) #1 SMP
Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda1 password=secret
BIOS-provided physical RAM map:
BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x000000001fffffff]
Movable zone start for each node
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000001ffdffff]
systemd[1]: Started a secret unit
mce: [Hardware Error]: CPU 1: Machine Check Exception: 5 Bank 4: be00000000800400
login: secret of a user
"""


@pytest.mark.parametrize("name", sorted(name for name in vars(faults) if name.isupper()))
@pytest.mark.parametrize("lived_on", [False, True])
def test_a_capture_keeps_what_a_triage_uses_and_nothing_else(name: str, lived_on: bool) -> None:
    text = BOOT + getattr(faults, name) + f"{'login: another secret' * lived_on}\n" * 9
    whole = read_text(text.encode())
    told = DumpLog(whole, True, 5.0, ("mark",), 1)
    kept = parse_note(format_note(told) + b"\0")
    assert kept == told._replace(log=kept.log)
    assert "secret" not in "".join(line.text for line in kept.log.lines)
    first, second = as_dict("", judge_log(whole)), as_dict("", judge_log(kept.log))
    assert first == second
    assert first["crash"] is None or first["boot"]["zones"]


@pytest.mark.parametrize("name", [faults.ARM64_USER, faults.RISCV_USER, faults.XEN_USER])
def test_a_capture_keeps_no_registers_of_user_space(name: str) -> None:
    log = read_text((faults.X86_GPF_6_12 + name).encode())
    kept = [line.text for line in kept_lines(log) if isinstance(line, Line)]
    assert any("RIP: 0010" in text for text in kept)
    # "passwd&!" in a register.
    assert "7061737377726421" in name
    assert not any("7061737377726421" in text for text in kept)


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"\xff", b'{"lines": [1]}', b'{"lines": [[1]], "died": []}'])
def test_a_damaged_note_tells_nothing(note: bytes) -> None:
    assert parse_note(note) == DumpLog(Log([]), False)


@pytest.mark.parametrize("name", [BUG, DAMAGED, SYSRQ, NULL])
def test_triage_of_a_capture_is_that_of_its_original(
    name: str, kernels: Kernels, unpacked: Unpacked, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "core"
    with path.open("wb") as out:
        capture(kernels(name), Inputs(), out)
    (first,), (second,) = (cli("triage", "--format", "json", file).json() for file in (unpacked(name), path))
    for result in (first, second):
        del result["path"], result["target"]["path"], result["summary"]["elapsed_seconds"]
    assert first == second
    with path.open("rb") as file:
        note = corefile.parse(file.fileno(), str(path)).notes[LOG_NOTE]
    assert b"RIP: 0033" not in note
    assert b"end Kernel panic" in note
