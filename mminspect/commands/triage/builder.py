# SPDX-License-Identifier: LGPL-2.1-or-later
"""One report while its lines come in."""

from __future__ import annotations

import re

from mminspect.commands.triage import kinds, stacks
from mminspect.commands.triage.functions import is_allocator, is_freer, is_helper, is_interrupt, is_reporter, is_sleeper
from mminspect.commands.triage.kinds import Sign
from mminspect.commands.triage.lines import Line
from mminspect.commands.triage.registers import USER, RegisterReader, RegisterSet
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.stacks import Frame, Stack, plain_name

# Longer stacks are of a stack that overflowed: its frames repeat.
MAX_FRAMES = 256
MAX_LINES = 2000
RCU_KTHREAD = "rcu kthread"

# A function, and no address.
_NAME = r"(?![0-9a-f]{8,16}\b)[A-Za-z_$.][\w.$]{0,255}"
_PFN = re.compile(r"\bpfn: {0,3}(?:0x)?([0-9a-f]{1,12})\b")
_OUTSIDE = re.compile(r"page 0x([0-9a-f]{1,12}) outside")
_POINTER = re.compile(r"(?<![\w.])(?:0x)?([0-9a-f]{16}|[0-9a-f]{8})(?!\w|\.\w)")
_PREFIXED = re.compile(r"(?<![\w.])0x([0-9a-f]{4,16})(?!\w|\.\w)")
# Behind these words an address says where the access failed.
_FAILED_AT = re.compile(
    r"(?:address:?|access(?: on (?:read|write))? at|dereference(?: on (?:read|write))? at|request at|access at|"
    r"memory at|\) at|Failing address:|badaddr:|canonical address|addr) {0,3}(?:virtual address )?"
    r"(?:0x)?([0-9a-f]{1,16})\b"
)
# "... in func+0x1/0x2" and the like, in the first line of a report.
_IN = re.compile(rf"\b(?:in:?|at) (?:\S{{1,200}}:\d{{1,6}} )?(?:at )?({_NAME})(?:\+0x|$| at addr|/0x| / )")
_AT_LINE = re.compile(rf"\bat \S{{1,200}}:\d{{1,6}} ({_NAME})\+0x")
_AT_SYMBOL = re.compile(rf"\bat (?:\S{{1,200}}:\d{{1,6}}/)?({_NAME})(?:\+0x|\(\)!)")
_CPU = re.compile(r"CPU: (\d{1,6}) (?:UID: \d{1,10} )?PID: (\d{1,10}) Comm: (.{1,15}?) (?:Kdump|Not|Tainted|$)")
_OLD_TASK = re.compile(r"(?:Pid: (\d{1,10}), comm: (\S{1,15})|Process (\S{1,15}) \(pid: (\d{1,10}))")
_WARNED_ON = re.compile(
    r"WARNING: CPU: (\d{1,6}) PID: (\d{1,10}) |WARNING: .{1,500}?, CPU#(\d{1,6}): (.{1,15})/(\d{1,10})$"
)
_ON_CPU = re.compile(r"CPU#(\d{1,6})|(?:on cpu|CPU) (\d{1,6})\b")
_STUCK = re.compile(r"\[([^\[\]]{1,15}):(\d{1,10})\]$")
_TASK = re.compile(r"task (.{1,15}?):(\d{1,10}) ")
# Names of users' files, which dump_page() and print_bad_pte() print.
_FILE_NAME = re.compile(r"((?:dentry name(?:\(\?\))?:|file:))(?:\"[^\"]{0,300}\"|\S{1,300})")

# A line of a stall's head: "0-...!: (1 GPs behind) ...".
_STALLED = re.compile(r"(?:rcu: )?\s{0,8}(\d{1,6})-[.!?O]")
# Before Linux 4.20, x86 named the program counter before it said "Oops".
_IP = re.compile(rf"IP: (?:\[<[0-9a-f]{{8,16}}>\] )?({_NAME})\+0x")
# Lockdep: where a lock was taken; the workqueues: whose fault it is.
_LOCK_AT = re.compile(
    rf".{{0,300}}?, at: {{0,8}}(?:\[<[0-9a-f]{{8,16}}>\] {{0,8}})?({_NAME})(?:\+0x|$)|last function: ({_NAME})$"
)


def _serves(function: str) -> bool:
    """Return whether a function reports, or helps another one."""
    return is_helper(function) or is_reporter(function)


# The scheduler finds it, whoever did it.
_IN_SCHEDULER = re.compile(
    r"(?:BUG: )?scheduling while atomic|corrupted stack end|stack-end corrupted|scheduling while"
)


class Builder:
    """
    One report while its lines come in.

    :ivar has_body: Whether its registers or its stack have begun.
    :ivar ended: Whether its end mark was seen.
    :ivar stage: The latest stage of its signs.
    """

    def __init__(self, index: int, line: Line, boot: int, kind: str = kinds.UNKNOWN) -> None:
        self.boot = boot
        self.kind, self.reason, self.what = kind, line.text.strip(), line.text.strip()
        self.first = self.last = index
        self.line = line
        self.rank = self.stage = -1
        self.deadly = self.has_body = self.ended = self.in_panic = self.marked = False
        self.fatal: bool | None = None
        self.panic: str | None = None
        self.cpu: int | None = None
        self.pid: int | None = None
        self.task: str | None = None
        self.pages: dict[int, str] = {}
        self.addresses: dict[int, str] = {}
        self.fault_address: int | None = None
        self.registers = RegisterReader()
        self.kept: list[tuple[Line, RegisterSet | None]] = []
        self._stacks: list[tuple[str, list[str]]] = []
        self._where: str | None = None
        self._next: str | None = None
        self._interrupted: str | None = None
        self._unsure: str | None = None
        self._link: str | None = None
        self._behind: set[str] = set()
        self._after_irq = self._kthread_cpu = False
        self._stalled: set[int] = set()
        self._hint: str | None = None

    # What the walk over the log tells it.

    def sign(self, sign: Sign, what: str, line: Line) -> None:
        """Take a line that says what happened."""
        text = line.text.strip()
        if sign.rank > self.rank:
            self.kind, self.reason, self.what, self.rank = sign.kind, text, what, sign.rank
            if sign.kind == kinds.SANITIZER:
                name = what.split(":", 1)[0].lower()
                self.kind = name if name in kinds.SANITIZERS else "slub"
        self.stage = max(self.stage, sign.stage)
        self.deadly |= sign.deadly
        self._words(text, sign.kind)

    def heading(self, name: str) -> None:
        """Take the heading of a stack."""
        self.has_body |= name == stacks.CALL_TRACE
        self.registers.close()
        if self.in_panic:
            name = stacks.PANIC
        elif name == stacks.CALL_TRACE:
            name = self._next or (stacks.CALL_TRACE if not self._frames(stacks.CALL_TRACE) else stacks.OTHER)
        elif name == RCU_KTHREAD:
            self._next, self._where, self._kthread_cpu = name, None, True
            return
        self._stacks.append((name, []))
        self._where = name

    def backtrace_of_cpu(self, cpu: int | None) -> None:
        """Take the heading of a CPU's backtrace. The call trace is that of the CPU that hangs."""
        if self._kthread_cpu and cpu is not None and self._next == RCU_KTHREAD and not self._frames(RCU_KTHREAD):
            self._kthread_cpu = False
        elif cpu is not None:
            self._next = None if cpu in self._stalled or not self._stalled else stacks.OTHER
        else:
            self._next = None
        self._where = None
        self.registers.close()

    def hint(self, text: str) -> bool:
        """Take a line that names a function or a CPU, and nothing else of interest."""
        match = _STALLED.match(text) if self.kind == kinds.HANG else None
        if match:
            self._stalled.add(int(match.group(1)))
            return True
        match = _IP.match(text) or (_LOCK_AT.match(text) if self.kind in (kinds.LOCKING, kinds.WARNING) else None)
        if match and self._hint is None:
            self._hint = plain_name(match.group(match.lastindex or 1))
        return match is not None

    def frame(self, frame: Frame) -> None:
        """Take a frame of a stack."""
        self.registers.close()
        if self._where is None:
            name = self._next or (stacks.PANIC if self.in_panic else None)
            name = name or (stacks.CALL_TRACE if not self._frames(stacks.CALL_TRACE) else stacks.OTHER)
            self._stacks.append((name, []))
            self._where = name
        frames = self._stacks[-1][1]
        if not frame.sure:
            self._unsure = self._unsure or frame.functions[0]
            if frame.by_link and len(frames) < 2 and self._where == stacks.CALL_TRACE:
                self._link = self._link or frame.functions[0]
            return
        if frame.at_start:
            self._behind.add(frame.functions[-1])
        for function in frame.functions:
            # Arm's frames name their caller, which the next frame names again.
            if len(frames) < MAX_FRAMES and not (len(frame.functions) == 2 and frames and frames[-1] == function):
                frames.append(function)
                if self._after_irq and self._interrupted is None and self._where == stacks.CALL_TRACE:
                    self._interrupted = function
        self._after_irq = False

    def mark(self, text: str) -> None:
        """Take the mark of a stack's part: an interrupt's stack ended, and what it interrupted follows."""
        if text.startswith(("</IRQ>", "<EOI>", "</NMI>", "<<EOE>>")):
            self._after_irq = True

    def register_line(self, text: str) -> RegisterSet | None:
        """Take a line of registers."""
        where = self._where or self._next or (stacks.PANIC if self.in_panic else "")
        nested = self._where == stacks.CALL_TRACE
        before = len(self.registers.sets)
        found = self.registers.take(text, where)
        if found is None:
            return None
        self.marked |= found.function is not None
        self.has_body |= self.stage >= 0
        if len(self.registers.sets) > before and nested and found.mode != USER and found.function:
            # An interrupt's or a fault's frame: what was interrupted goes on below.
            frames = self._stacks[-1][1]
            if frames and len(frames) < MAX_FRAMES:
                frames.append(found.function)
                self._interrupted = self._interrupted or found.function
        return found

    def interrupt(self) -> None:
        """Take a line that says that the registers and frames that follow are of what was interrupted."""
        self.registers.close()

    def about_task(self, text: str) -> bool:
        """Take a line that names the CPU and the task."""
        match = _CPU.match(text)
        if match and not self.in_panic and self.cpu in (None, int(match.group(1))) and self.task is None:
            self.cpu = int(match.group(1))
            if self.pid in (None, int(match.group(2))):
                self.pid, self.task = int(match.group(2)), match.group(3)
        if match is None:
            old = _OLD_TASK.match(text)
            if old and self.pid is None and not self.in_panic:
                self.pid, self.task = int(old.group(1) or old.group(4)), old.group(2) or old.group(3)
        return match is not None

    def page_line(self, text: str) -> None:
        """Take a line of dump_page(). A page that is dumped before the body, or as a bad one, is what it is about."""
        about = not self.has_body or self.kind == kinds.BAD_PAGE
        self._words(text, kinds.PAGE_DUMPED if about and text.startswith(("page:", "head:", "page dumped")) else "")

    def words(self, text: str) -> None:
        """Take a line that names addresses of the report."""
        self._words(text, kinds.FAULT)

    def keep(self, index: int, line: Line, registers: RegisterSet | None = None) -> None:
        """Keep a line."""
        self.last = max(self.last, index)
        if len(self.kept) < MAX_LINES:
            if "dentry name" in line.text or "file:" in line.text:
                line = line._replace(text=_FILE_NAME.sub(r"\1...", line.text))
            self.kept.append((line, registers))

    def end(self) -> None:
        """Take the end mark."""
        self.ended = True
        self.registers.close()
        self._where = None

    def begin_panic(self, what: str) -> None:
        """Take panic()'s line; what follows shows how the kernel got from the report to it."""
        self.fatal, self.panic, self.in_panic = True, what, True
        self._where = None
        self.registers.close()

    def is_complete(self) -> bool:
        """Return whether the report has its stack: it shows no other task's then."""
        return self.kind != kinds.HANG and not self.in_panic and bool(self._frames(stacks.CALL_TRACE))

    def dumps_pages(self) -> bool:
        """Return whether a page that is dumped now is of this report: only sanitizers dump one behind their stack."""
        return not self.has_body or self.kind in kinds.SANITIZERS

    def is_notice(self) -> bool:
        """Return whether this is only a line that begins like a report."""
        return self.kind == kinds.WARNING and self.rank <= 1 and not self.has_body and not self.fatal

    # What becomes of it.

    def build(self) -> Report:
        """Return the report."""
        if not self._frames(stacks.CALL_TRACE):
            # Kernels before 4.20 show the stack of a warning only once, behind panic()'s line.
            self._stacks = [(stacks.CALL_TRACE if name == stacks.PANIC else name, f) for name, f in self._stacks]
            for found in self.registers.sets:
                found.stack = stacks.CALL_TRACE if found.stack == stacks.PANIC else found.stack
        sets = [
            found
            for found in self.registers.sets
            if found.settled_mode() == "kernel" and found.stack in ("", stacks.CALL_TRACE)
        ]
        if self.kind == kinds.HANG and self.what.startswith("task "):
            # A task that waits has none; those in its report are of CPUs that ran.
            sets = []
        of_user = self.kind == kinds.FAULT and not (self.marked or self.panic)
        of_user &= bool(self.registers.sets) and all(one.settled_mode() == USER for one in self.registers.sets)
        trace = tuple(self._frames(stacks.CALL_TRACE))
        kept = tuple(line for line, registers in self.kept if registers is None or registers.settled_mode() == "kernel")
        others = tuple(
            Stack(name, tuple(frames)) for name, frames in self._stacks if frames and name != stacks.CALL_TRACE
        )
        return Report(
            kind=self.kind,
            reason=self.reason,
            what=self.what,
            function=self._function(sets, trace),
            trace=trace,
            stacks=others,
            registers=tuple(sets),
            pages=self.pages,
            addresses=self.addresses,
            fault_address=self.fault_address,
            lines=kept,
            first=self.first,
            last=self.last,
            time=self.line.time,
            caller=self.line.caller,
            cpu=self.cpu,
            pid=self.pid,
            task=self.task,
            # It killed a program.
            deadly=self.deadly and not of_user,
            fatal=False if of_user else self.fatal,
            panic=self.panic,
            boot=self.boot,
            marked=self.marked,
        )

    def _frames(self, wanted: str) -> list[str]:
        return next((frames for name, frames in self._stacks if name == wanted and frames), [])

    def _function(self, sets: list[RegisterSet], trace: tuple[str, ...]) -> str | None:
        """Choose the function that a maintainer would name."""
        counter = sets[0].function if sets and sets[0].function else None
        link = (sets[0].link if sets else None) or self._link
        if counter and self.kind == kinds.BUG_AT and sets[0].at_start and self._link:
            # s390 stops behind the instruction of a BUG, and behind the last one of a function begins another.
            counter, trace = None, tuple(name for name in trace if name != counter)
        if self.kind == kinds.LIST and counter:
            return counter
        if self.kind == kinds.HANG:
            return self._hanging(counter, trace)
        if self.kind == kinds.LOCKING and trace:
            # Registers in it are of what an interrupt came to.
            return next((name for name in trace if not (_serves(name) or is_sleeper(name))), self._hint or trace[0])
        named: list[str] = []
        if (self.kind in (kinds.WARNING, kinds.BUG_AT, kinds.FAULT) and counter is None) or self.kind == kinds.WARNING:
            match = _AT_LINE.search(self.reason) or _AT_SYMBOL.search(self.reason)
            named = [plain_name(match.group(1))] if match else []
        elif self.kind in (*kinds.SANITIZERS, kinds.BUG, kinds.OOPS, kinds.PANIC):
            match = _IN.search(self.reason)
            named = [plain_name(match.group(1))] if match else []
        if counter:
            named.append(counter)
        if self._hint and not counter and not named:
            named = [self._hint]
        below = self._below(named, trace)
        if link and link not in named and link not in below[:2] and (counter is None or _serves(counter)):
            # What calls nobody else has no frame, and its caller's isn't in the trace then.
            below = (*below[: 1 if counter and counter in below[:1] else 0], link, *below)
        names = (*named, *(name for name in below if name not in self._behind))
        # Who asks for too much memory is warned of in the allocator.
        asked = self.kind == kinds.WARNING
        served = [name for name in names if not _serves(name)]
        chosen = [name for name in served if not (self._passed(name) or (asked and is_allocator(name)))]
        # A stack of nothing else is of the innermost of them; one of the report alone tells nothing.
        chosen = chosen or ([] if asked else served)
        chosen = chosen or [name for name in names if name == counter or not is_reporter(name)]
        return chosen[0] if chosen else self._unsure

    def _passed(self, name: str) -> bool:
        """Return whether a function only came to what its caller had done before."""
        if self.kind == kinds.BAD_PAGE:
            return is_freer(name)
        return self.kind == kinds.PANIC and _IN_SCHEDULER.match(self.what) is not None and is_sleeper(name)

    @staticmethod
    def _below(named: list[str], trace: tuple[str, ...]) -> tuple[str, ...]:
        """Leave out the frames above the function that died: those of the report itself."""
        for name in named:
            if name in trace:
                return trace[trace.index(name) :]
        return trace

    def _hanging(self, counter: str | None, trace: tuple[str, ...]) -> str | None:
        if self.what.startswith("task "):
            return next((name for name in trace if not is_sleeper(name)), trace[0] if trace else None)
        stuck = [
            name for name in (counter, self._interrupted) if name and not is_reporter(name) and not is_interrupt(name)
        ]
        names = (*stuck[:1], *self._below(stuck[:1], trace))
        return next(
            (name for name in names if not (is_reporter(name) or is_interrupt(name) or is_helper(name))),
            names[0] if names else counter,
        )

    def _words(self, text: str, kind: str) -> None:
        """Take the pfns and addresses that a line names, and whom it is about."""
        for pattern in (_PFN, _OUTSIDE):
            for digits in pattern.findall(text):
                self.pages.setdefault(int(digits, 16), text)
        if kind in ("", kinds.HANG, kinds.WARNING, kinds.LOCKING, kinds.PANIC, kinds.OOPS):
            warned = _WARNED_ON.match(text) if kind == kinds.WARNING else None
            if warned and self.cpu is None:
                self.cpu, self.pid = int(warned.group(1) or warned.group(3)), int(warned.group(2) or warned.group(5))
                self.task = warned.group(4)
            match = _ON_CPU.search(text) if kind == kinds.HANG else None
            if match and self.cpu is None:
                self.cpu = int(match.group(1) or match.group(2))
            match = (_STUCK.search(text) or _TASK.search(text)) if kind == kinds.HANG else None
            if match and self.pid is None:
                self.task, self.pid = match.group(1), int(match.group(2))
            return
        failed = _FAILED_AT.search(text) if kind in (kinds.FAULT, kinds.SANITIZER) else None
        if failed:
            if self.fault_address is None:
                self.fault_address = int(failed.group(1), 16)
            self.addresses.setdefault(int(failed.group(1), 16), text)
        if kind == kinds.PAGE_DUMPED:
            # The page's address only; its other words are its contents.
            text, _, _ = text.partition(" ")
            text = text.partition(":")[2]
        if kind == kinds.BAD_PAGE:
            return
        for pattern in (_POINTER, _PREFIXED):
            for digits in pattern.findall(text):
                if int(digits, 16) > 0xFFFF:
                    self.addresses.setdefault(int(digits, 16), text)
