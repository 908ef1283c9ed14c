# SPDX-License-Identifier: LGPL-2.1-or-later
"""A report: what the kernel says of one incident."""

from __future__ import annotations

from dataclasses import dataclass, field

from mminspect.commands.triage import kinds
from mminspect.commands.triage.lines import Line
from mminspect.commands.triage.registers import RegisterSet
from mminspect.commands.triage.stacks import Stack

# How sure it is that a report is of a kernel's death.
ROUTINE, SURVIVABLE, DEADLY, FATAL = range(4)


@dataclass(frozen=True)
class Report:
    """
    What the kernel says of one incident. Nothing of another incident, and nothing of user space, is in it.

    :ivar kind: One of those in :mod:`mminspect.commands.triage.kinds`, or a sanitizer's name in lower case.
    :ivar reason: The line that says best what happened, as it stands in the log.
    :ivar what: The part of it that does.
    :ivar function: The function that a maintainer would name.
    :ivar trace: How the kernel got there: functions, innermost first, without those that it isn't sure of.
    :ivar stacks: All other stacks: of allocations, of other tasks, of the panic that followed.
    :ivar registers: Sets of kernel registers. The first one is of the incident.
    :ivar pages: Pfns that the kernel named, each with the line.
    :ivar addresses: Addresses that it named in words, each with the line.
    :ivar fault_address: The address whose access failed.
    :ivar lines: Its lines.
    :ivar first: Number of its first line in the log, from 0. ``last`` likewise.
    :ivar time: Of its first line, in seconds since boot.
    :ivar caller: Who printed it.
    :ivar cpu: That it is about. ``pid`` and ``task`` likewise.
    :ivar deadly: Whether it is of a kind that no task survives.
    :ivar fatal: Whether it killed the kernel; ``None`` if the log doesn't say.
    :ivar panic: What panic() said of it.
    :ivar marked: Whether it has marks that ordinary dumps of a stack don't have: registers, "cut here", an end.
    :ivar boot: Number of the boot that it is of: a log may have several.
    """

    kind: str
    reason: str
    what: str
    function: str | None = None
    trace: tuple[str, ...] = ()
    stacks: tuple[Stack, ...] = ()
    registers: tuple[RegisterSet, ...] = ()
    pages: dict[int, str] = field(default_factory=dict)
    addresses: dict[int, str] = field(default_factory=dict)
    fault_address: int | None = None
    lines: tuple[Line, ...] = ()
    first: int = 0
    last: int = 0
    time: float | None = None
    caller: str | None = None
    cpu: int | None = None
    pid: int | None = None
    task: str | None = None
    deadly: bool = False
    fatal: bool | None = None
    panic: str | None = None
    boot: int = 0
    marked: bool = False

    @property
    def gravity(self) -> int:
        """How sure it is that this is a kernel's death: ``FATAL``, ``DEADLY``, ``SURVIVABLE`` or ``ROUTINE``."""
        if self.fatal:
            return FATAL
        if self.kind in (kinds.WARNING, kinds.LOCKING, kinds.PAGE_DUMPED):
            return ROUTINE
        if self.kind == kinds.FAULT and self.fatal is False and not self.deadly:
            # A program's own.
            return ROUTINE
        if self.kind == kinds.UNKNOWN and not self.marked:
            return ROUTINE
        if self.deadly and self.fatal is None:
            return DEADLY
        return SURVIVABLE


def crash_of(reports: list[Report]) -> Report | None:
    """
    Return the report of what killed the kernel: of the last boot that died, the gravest that it ended with.

    :param reports: Of one log.
    """
    grave = [report for report in reports if report.gravity > ROUTINE]
    if not grave:
        return None
    last = max((report.boot for report in grave if report.gravity >= DEADLY), default=grave[-1].boot)
    grave = [report for report in grave if report.boot == last]
    worst = max(report.gravity for report in grave)
    return max((report for report in grave if report.gravity == worst), key=lambda report: report.last)
