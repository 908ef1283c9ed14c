# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a dump tells of its kernel's death: the log, and marks in memory that don't depend on it.

kdump starts before the last lines are printed, and a log may be overwritten. So it counts too whether panic() ran,
whether the crash kernel was started, and whether kdump saved registers.

A capture has no log buffer. It has a note with the lines that reports and the boot's memory consist of, and with the
marks.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from drgn import FaultError, Program

from mminspect.commands.triage.about import is_machine_check
from mminspect.commands.triage.boot import memory_lines
from mminspect.commands.triage.lines import MAX_LINES, Line, Log, from_records
from mminspect.commands.triage.log import read_log
from mminspect.commands.triage.reports import split_lines
from mminspect.commands.triage.saved import numbered_by_cpu, pids_of
from mminspect.program.target import Target

# The name of the ELF note in which a capture keeps a dump log.
LOG_NOTE = "MMINSPECT_LOG"
# In place of a line that a capture leaves out.
LEFT_OUT = "..."


class DumpLog(NamedTuple):
    """
    What a dump tells of its kernel's death.

    :ivar log: Its lines.
    :ivar read: Whether there is a log to read at all.
    :ivar end: Time of its last line.
    :ivar died: Marks of a death, each in words; empty if there are none.
    :ivar cpu: The CPU that panicked.
    """

    log: Log
    read: bool
    end: float | None = None
    died: tuple[str, ...] = ()
    cpu: int | None = None


def read_dump_log(target: Target) -> DumpLog:
    """Read the log of a dump, and the marks of a death."""
    note = None if target.core is None else target.core.notes.get(LOG_NOTE)
    if note is not None:
        return parse_note(note)
    records = read_log(target.prog)
    log = from_records(records or ())
    cpu = _panic_cpu(target.prog)
    end = log.lines[-1].time if log.lines else None
    return DumpLog(log, bool(log.lines), end, tuple(_marks(target, cpu)), cpu)


def with_log(found: DumpLog, log: Log) -> DumpLog:
    """Return the marks of a dump with another log."""
    times = [line.time for line in log.lines if line.time is not None]
    return found._replace(log=log, read=bool(log.lines), end=times[-1] if times else None)


def _marks(target: Target, cpu: int | None) -> list[str]:
    marks = []
    if cpu is not None:
        marks.append(f"panic_cpu says that CPU {cpu} panicked")
    if target.vmcoreinfo.number("CRASHTIME"):
        marks.append("VMCOREINFO has the time of a crash (CRASHTIME)")
    pids = pids_of(target)
    if pids and any(pids) and not numbered_by_cpu(pids):
        marks.append("kdump saved the registers of its CPUs (NT_PRSTATUS)")
    return marks


def _panic_cpu(prog: Program) -> int | None:
    """Return the CPU that panicked; ``None`` if none did, or it can't be told."""
    try:
        value = int(prog["panic_cpu"].counter.value_())
    except (LookupError, FaultError, AttributeError, ValueError, TypeError):
        return None
    # PANIC_CPU_INVALID is -1.
    return value if 0 <= value < 1 << 16 else None


def kept_lines(log: Log) -> list[Line | int]:
    """
    Return the lines of a log that a triage uses: those of reports, of the boot's memory, and of failing hardware.

    Registers of user space are in no report, and nothing of what programs wrote to the log is. Of the lines between
    them, the number is kept, as that tells what belongs together and whether the kernel lived on: a positive one of
    lines of other business, a negative one of those that say nothing.
    """
    wanted, ordinary = split_lines(log.lines)
    others = set(memory_lines(log.lines))
    result: list[Line | int] = []
    for index, line in enumerate(log.lines):
        if index in wanted or index in others or is_machine_check(line.text):
            result.append(wanted.get(index, line))
            continue
        step = 1 if index in ordinary else -1
        last = result[-1] if result else None
        if isinstance(last, int) and last * step > 0:
            result[-1] = last + step
        else:
            result.append(step)
    return result


def format_note(found: DumpLog) -> bytes:
    """Make the text of a capture's note."""
    lines = [item if isinstance(item, int) else item[:5] for item in kept_lines(found.log)]
    return json.dumps(
        {"read": found.read, "end": found.end, "died": found.died, "cpu": found.cpu, "lines": lines}
    ).encode()


def parse_note(note: bytes) -> DumpLog:
    """Read a capture's note. One that is damaged tells nothing."""
    try:
        data: Any = json.loads(note.rstrip(b"\0"))
        lines: list[Line] = []
        for item in data["lines"]:
            if isinstance(item, int):
                left_out = min(abs(item), MAX_LINES - len(lines))
                lines += [Line(0, None, None, None, LEFT_OUT if item > 0 else "")] * left_out
            else:
                lines.append(Line(int(item[0]), item[1], item[2], item[3], str(item[4])))
        died = tuple(str(mark) for mark in data["died"])
        return DumpLog(Log(lines, None, True), bool(data["read"]), data["end"], died, data["cpu"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return DumpLog(Log([]), False)
