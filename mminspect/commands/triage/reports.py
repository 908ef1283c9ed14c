# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A log as a list of reports.

Each caller's lines are read on their own: two CPUs may print at the same time. A report begins with a sign, goes on
with signs of later stages, has a body of registers and stacks, and ends with an end mark or with the next report. Lines
that belong to no report, whoever wrote them, aren't kept.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from mminspect.commands.triage import kinds, stacks
from mminspect.commands.triage.builder import Builder
from mminspect.commands.triage.kinds import Sign, sign_of
from mminspect.commands.triage.lines import Line
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.stacks import parse_frame, stack_heading

# Signs this many lines apart, of one caller, can't be of one report.
MAX_GAP = 64
# Backtraces of all CPUs may lie between a hang and that of the CPU that hangs.
MAX_BACKTRACES = 1024
# More reports are of a machine that repeats itself; the newest count.
MAX_REPORTS = 2000
# Likewise, signs this many seconds apart.
MAX_SECONDS = 10
# Ordinary lines behind a report that show that the kernel lived on.
LIVED_ON = 3

_PANIC = re.compile(r"Kernel panic - not syncing: ?(.{0,1000})")
# panic() for the sake of what was just reported.
_CONSEQUENCE = re.compile(
    r"Fatal exception|panic_on_oops|.{0,60}: Fatal exception|Oops|(?:kernel: |\w{4,6}: )?panic_on_warn set|"
    r"(?:KASAN|UBSAN|KFENCE|KMSAN|KCSAN): |kmsan|kasan|hung_task: |RCU Stall|softlockup: hung tasks|"
    r"(?:Watchdog detected )?[Hh]ard LOCKUP|Attempted to kill (?:init|the idle)|Aiee, killing|BUG!|"
    r"Fatal (?:local )?(?:hardware error|[Mm]achine [Cc]heck)|[Mm]achine [Cc]heck|Timeout: Not all CPUs|"
    r"Unrecoverable [Mm]achine|Unhandled|"
    r"Asynchronous SError|bad mode|Bad mode|[kK]ernel stack overflow|double fault|Fatal trap|Unknown NMI|"
    r"memory_failure|Unexpected|Insufficient|lockdep|corrupted list|Fatal Machine|Aborting|unhandled|"
    r"Machine halted|Corrupt kernel stack|Bad page fault"
)
# What begins a report whose first line is lost or unknown.
_HEADLESS = re.compile(
    r"CPU: \d+ |RIP: (?:0010|0060|e030):|Krnl PSW|NIP: {1,3}[c-f][0-9a-f]{15}|(?:pc|epc) : [A-Za-z_]|"
    r"PC is at |Call [Tt]race"
)
_END = re.compile(r"---\[ end (?:trace|Kernel panic)|[-=]{3,}\[ end")
_RULE = re.compile(r"={20,}|-{20,}$")
_CUT = re.compile(r"(?:8<)?-{3,}\[ cut here \]-{3,}|8<--- cut here ---")
_PAGE = re.compile(
    r"(?:page|head): ?(?:[0-9a-f(]|ref)|(?:flags|raw|page_type|memcg|aops|anon flags|anon|ksm|head): ?|"
    r"page dumped because|addr:|file:|index:|pages's memcg|page->mem_cgroup|mapping->a_?ops|"
    r"failed to read mapping|anon "
)
_BODY = re.compile(
    r"index -?\d+ is out of range for type |"
    r"CPU: \d+ |Hardware name: |Modules linked in:|Workqueue: |Call [Tt]race|task: |Comm: |PGD |PMD |pgd = |"
    r"\[[0-9a-f]{8,16}\] (?:\*pgd|pgd)=|#PF: |Mem abort info|  (?:ESR|EC|SET|EA|FSC|CM)|swapper pgtable|user pgtable|"
    r"Faulting instruction address|LE PAGE_SIZE|BE PAGE_SIZE|Failing address|Fault in |AS:[0-9a-f]|"
    r"Data abort info|ESR = |EC = |SET = |EA = |FSC = |ISV = |CM = |Read of size|Write of size|Access of size|"
    r"The buggy address|which belongs to|Tainted: |Process \S+ \(pid: |KASAN: |last sysfs file|Sending NMI|"
    r"(?:Task|IRQ|Overflow) stack: |(?:Slab|Object) 0x[0-9a-f]{8,16} |FIX \S{1,80}: |"
    r"NMI backtrace for cpu|Pid: \d+, comm|which lock already|Possible unsafe|note: |"
    r"next=|kernel BUG at"
)
_SMALL = re.compile(r"</?(?:IRQ|TASK|NMI|EOI|SOFTIRQ|#DF|#DB|ENTRY_TRAMPOLINE|EOE)>|<<EOE>>|={4,} ?<")
# What was on the stack or in an object: nobody needs it, and it may be a user's.
_CONTENTS = re.compile(
    r"(?:Object|Redzone|Padding|Bytes b4) {1,4}(?:0x)?[0-9a-f]{8,16}: |"
    r"(?:Exception )?[Ss]tack: ?(?:\(|$)|Exception stack\(|"
    r"(?:[0-9a-f]{4}: {1,100}|(?:<0>)? ?)(?:(?:[0-9a-f]{8}|[0-9a-f]{16}|\?{8}) {0,2}){1,8}$"
)
_INTERRUPT = re.compile(r"--- ?(?:interrupt|Exception|\[? ?syscall)")
_OTHER_CPU = re.compile(r"NMI backtrace for cpu (\d{1,6})|Task dump for CPU (\d{1,6})|Sending NMI from")
_STALLED = re.compile(r"(?:rcu: )?\s{0,8}\(?(?:\d{1,6}-|t=|Tasks blocked|detected by)|(?:rcu: )?blocking rcu_node")
# What a task's stack begins with in hung task and RCU reports.
_TASK_STATE = re.compile(r"task:\S{1,40} +state:[A-Z]|[^\[\]:]{1,15} {2,}[A-Z] [ 0-9a-f(]{1,40}")


class _Stream:
    """The lines of one caller: the report that is open, and a page dump whose reason is yet to come."""

    def __init__(self) -> None:
        self.open: Builder | None = None
        self.page: list[tuple[int, Line]] = []
        self.cut: tuple[int, Line] | None = None
        # Up to here, stacks are of tasks and CPUs that are well.
        self.quiet = -1


def read_reports(lines: Sequence[Line]) -> list[Report]:
    """
    Find the reports of a log.

    :return: Oldest first.
    """
    return _Walk(lines).reports()


def split_lines(lines: Sequence[Line]) -> tuple[dict[int, Line], set[int]]:
    """
    Tell which lines the reports of a log need.

    :return: By number, the lines that are in reports or mark their beginning, without names of files; and the numbers
        of those that belong to no report.
    """
    walk = _Walk([line._replace(seq=index) for index, line in enumerate(lines)])
    wanted = {index: line for index, line in enumerate(lines) if _CUT.match(line.text.strip())}
    ordinary = set(walk.ordinary)
    for report in walk.reports():
        wanted.update((line.seq, line._replace(seq=lines[line.seq].seq)) for line in report.lines)
        # Behind a report's last line there may be registers of user space, which are its own, and others' lines.
        end = max((line.seq for line in report.lines), default=report.last)
        ordinary.difference_update(range(end, report.last + 1))
    return wanted, ordinary


class _Walk:
    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._builders: list[Builder] = []
        self._streams: dict[str | None, _Stream] = {}
        self._hang: Builder | None = None
        self._boots: list[int] = []
        # Numbers of lines that belong to no report.
        self.ordinary: list[int] = []
        for index, line in enumerate(lines):
            if line.text.startswith("Linux version "):
                self._streams.clear()
                self._hang = None
                self._boots.append(index)
            stream = self._streams.setdefault(line.caller, _Stream())
            if not self._take(stream, index, line):
                self.ordinary.append(index)

    def reports(self) -> list[Report]:
        result = []
        for builder in self._builders[-MAX_REPORTS:]:
            if builder.is_notice():
                continue
            if builder.fatal is None:
                builder.fatal = self._was_fatal(builder)
            result.append(builder.build())
        return sorted(result, key=lambda report: report.first)

    def _was_fatal(self, builder: Builder) -> bool | None:
        """Return whether a report killed the kernel, by what follows: other business, or another boot."""
        boot = bisect_right(self._boots, builder.last)
        end = self._boots[boot] if boot < len(self._boots) else None
        last = len(self.ordinary) if end is None else bisect_left(self.ordinary, end)
        if last - bisect_right(self.ordinary, builder.last) > LIVED_ON:
            return False
        return True if end is not None and builder.deadly else None

    def _take(self, stream: _Stream, index: int, line: Line) -> bool:
        """Take a line; return whether it belongs to a report."""
        text = line.text.strip()
        if not text:
            return True
        builder = stream.open
        if builder is not None and not builder.ended:
            if index - builder.last > MAX_GAP:
                builder.end()
            elif "+0x" in text:
                frame = parse_frame(text)
                if frame:
                    builder.frame(frame)
                    builder.keep(index, line)
                    return True
        if _CUT.match(text):
            stream.cut = (index, line)
            if stream.open and stream.open.has_body:
                stream.open.end()
            return True
        if _END.match(text):
            self._end(stream, index, line, text)
            return True
        panic = _PANIC.search(text) if "Kernel panic" in text else None
        if panic:
            self._panic(stream, index, line, panic.group(1))
            return True
        found = sign_of(text)
        if found:
            self._sign(stream, index, line, *found)
            return True
        return self._body(stream, index, line, text)

    # Beginnings.

    def _sign(self, stream: _Stream, index: int, line: Line, sign: Sign, what: str) -> None:
        builder = stream.open
        if builder is not None and self._is_dump_inside(builder, sign):
            builder.page_line(line.text.strip())
            builder.keep(index, line)
            return
        if builder is None or not self._goes_on(builder, index, sign) or self._is_later(builder, line):
            builder = self._begin(stream, index, line)
        builder.sign(sign, what, line)
        builder.keep(index, line)
        stream.page, stream.cut = [], None
        if builder.kind == kinds.HANG:
            self._hang = builder
        if sign.kind == kinds.PAGE_DUMPED:
            # Memory offlining and CMA dump pages of a healthy kernel. What follows is not of it.
            stream.open = None

    @staticmethod
    def _is_dump_inside(builder: Builder, sign: Sign) -> bool:
        """Return whether a page dump is part of the report, as in reports of KASAN and of bad pages."""
        return sign.kind == kinds.PAGE_DUMPED and not builder.ended and builder.kind != kinds.PAGE_DUMPED

    @staticmethod
    def _goes_on(builder: Builder, index: int, sign: Sign) -> bool:
        """Return whether a sign is of the report that is open."""
        if builder.ended or index - builder.last > MAX_GAP:
            return False
        if builder.kind == kinds.MACHINE_CHECK and sign.kind not in (kinds.MACHINE_CHECK, kinds.OOPS):
            # The machine failed before the kernel died of something.
            return False
        if builder.has_body:
            # Older kernels name the program counter before they say "Oops".
            return sign.stage == kinds.DEATH and builder.stage == kinds.CAUSE and builder.kind == kinds.FAULT
        if builder.kind == kinds.UNKNOWN:
            return True
        if builder.kind == kinds.WARNING and builder.stage == kinds.CAUSE and index - builder.last == 1:
            # Where WARN() is a call and no trap, its message follows.
            return sign.stage == kinds.PRELUDE and not sign.deadly
        return sign.stage > builder.stage or (
            sign.stage == builder.stage == kinds.PRELUDE and sign.rank >= builder.rank
        )

    @staticmethod
    def _is_later(builder: Builder, line: Line) -> bool:
        """Return whether a line was printed long after a report."""
        then = builder.line.time
        return then is not None and line.time is not None and line.time - then > MAX_SECONDS

    def _begin(self, stream: _Stream, index: int, line: Line, kind: str = kinds.UNKNOWN) -> Builder:
        if stream.open:
            stream.open.end()
        builder = Builder(index, line, len(self._boots), kind)
        if stream.cut and index - stream.cut[0] <= MAX_GAP:
            builder.first = stream.cut[0]
            builder.marked = True
        for at, earlier in stream.page:
            if index - at <= MAX_GAP:
                builder.first = min(builder.first, at)
                builder.page_line(earlier.text.strip())
                builder.keep(at, earlier)
        stream.page, stream.cut = [], None
        stream.open = builder
        self._builders.append(builder)
        return builder

    def _panic(self, stream: _Stream, index: int, line: Line, what: str) -> None:
        builder = self._cause(stream, index, what)
        if builder is None:
            kind = kinds.HANG if "LOCKUP" in what or what.startswith("softlockup") else kinds.PANIC
            builder = self._begin(stream, index, line, kind)
            builder.what, builder.rank, builder.deadly = what.strip(), 2, True
            builder.fatal, builder.panic = True, what.strip()
        else:
            builder.begin_panic(what.strip())
            stream.open = builder
        builder.keep(index, line)

    def _cause(self, stream: _Stream, index: int, what: str) -> Builder | None:
        """Return the report for whose sake panic() was called."""
        if not _CONSEQUENCE.match(what):
            return None
        if what.startswith(("hung_task", "RCU Stall", "softlockup", "Hard", "hard", "Watchdog")):
            hangs = [builder for builder in self._builders if builder.kind == kinds.HANG and builder.panic is None]
            wanted = ("task ",) if what.startswith("hung_task") else ("stall", "lockup", "LOCKUP")
            hangs = [builder for builder in hangs if any(word in builder.what for word in wanted)]
            # khungtaskd reports all blocked tasks at once; the others may wait for the first.
            while len(hangs) > 1 and wanted == ("task ",) and self._together(hangs[-2], hangs[-1]):
                hangs.pop()
            return hangs[-1] if hangs else None
        near = [builder for builder in self._builders[-8:] if index - builder.last <= MAX_GAP]
        if stream.open in near:
            near.append(stream.open)
        elif what.startswith("Attempted"):
            return None
        found = next((builder for builder in reversed(near) if self._suits(builder, what)), None)
        caller = self._lines[index].caller
        if what.startswith("Fatal exception") and (found is None or (found.kind == kinds.UNKNOWN and caller)):
            # Only an oops ends so. While it was printed, the same caller may have reported something of less weight;
            # the registers that follow are of the oops again.
            deaths = (builder for builder in reversed(self._builders[-8:]) if self._died(builder, index))
            found = next(deaths, found)
        return found

    def _died(self, builder: Builder, index: int) -> bool:
        """Return whether a report is of a death, not long ago, of the caller of a line."""
        return (
            builder.deadly
            and builder.panic is None
            and builder.line.caller == self._lines[index].caller
            and index - builder.last <= MAX_BACKTRACES
            and not any(builder.last < boot <= index for boot in self._boots)
        )

    @staticmethod
    def _suits(builder: Builder, what: str) -> bool:
        """Return whether panic() may have been called for the sake of a report."""
        if builder.panic is not None or builder.kind == kinds.PAGE_DUMPED:
            return False
        if "panic_on_warn" in what or what.startswith(("KASAN", "UBSAN", "KFENCE", "KMSAN", "KCSAN", "kmsan", "kasan")):
            return not builder.deadly
        return builder.deadly or builder.kind == kinds.UNKNOWN

    def _together(self, first: Builder, second: Builder) -> bool:
        times = first.line.time, second.line.time
        if times[0] is not None and times[1] is not None:
            return times[1] - times[0] < 1
        return second.first - first.last <= LIVED_ON

    def _end(self, stream: _Stream, index: int, line: Line, text: str) -> None:
        builder = stream.open
        if "Kernel panic" in text:
            if builder is not None and index - builder.last <= MAX_GAP:
                builder.fatal = True
                builder.keep(index, line)
            elif not any(other.fatal for other in self._builders):
                builder = self._begin(stream, index, line, kinds.PANIC)
                builder.fatal = True
                builder.what = text.partition("not syncing: ")[2].removesuffix(" ]---") or text
            return
        if builder is None:
            builder = self._begin(stream, index, line)
        if not builder.ended:
            builder.marked = True
            builder.keep(index, line)
            builder.end()

    # Bodies.

    def _body(self, stream: _Stream, index: int, line: Line, text: str) -> bool:
        other = _OTHER_CPU.match(text)
        if other and self._is_of_hang(stream, index):
            # The stuck CPU prints its own stack, under its own name.
            stream.open = self._hang
        builder = stream.open
        if builder is None or builder.ended:
            return self._between(stream, index, line, text, builder)
        if other:
            number = other.group(1) or other.group(2)
            builder.backtrace_of_cpu(int(number) if number else None)
            builder.keep(index, line)
            return True
        if _INTERRUPT.match(text):
            builder.interrupt()
            if " at 0x" not in text:
                builder.keep(index, line)
            return True
        frame = parse_frame(text)
        if frame:
            builder.frame(frame)
            builder.keep(index, line)
            return True
        heading = stack_heading(text)
        if heading:
            builder.heading(heading)
            builder.keep(index, line)
            return True
        foreign = builder.is_complete() if text.startswith("CPU: ") else not builder.dumps_pages()
        # Sanitizers say last who it was.
        foreign &= builder.kind not in kinds.SANITIZERS or builder.pid is not None
        if foreign and text.startswith(("CPU: ", "page:")):
            # Somebody else dumps a stack, and we don't know why; or a page, and the next report says why.
            builder.end()
            return self._between(stream, index, line, text, None)
        return self._words(builder, index, line, text)

    def _is_of_hang(self, stream: _Stream, index: int) -> bool:
        """Return whether a CPU's backtrace is of a hang that another caller reported."""
        if self._hang is None or index - self._hang.last > MAX_BACKTRACES:
            return False
        return stream.open is None or stream.open.kind != kinds.HANG

    def _words(self, builder: Builder, index: int, line: Line, text: str) -> bool:
        if _SMALL.match(text):
            builder.mark(text)
            builder.keep(index, line)
            return True
        if _PAGE.match(text):
            builder.page_line(text)
            builder.keep(index, line)
            return True
        if _BODY.match(text):
            if builder.about_task(text):
                builder.has_body = True
                builder.registers.close()
            elif text.startswith(("Modules linked in", "NMI")):
                builder.registers.close()
            if text.startswith(("Failing address", "KASAN: ", "Read of", "Write of", "Access of")):
                builder.words(text)
            builder.keep(index, line)
            return True
        if builder.hint(text):
            builder.keep(index, line)
            return True
        registers = builder.register_line(text)
        if registers is not None:
            builder.keep(index, line, registers)
            return True
        if _STALLED.match(text) or _TASK_STATE.match(text):
            builder.keep(index, line)
            return True
        if _CONTENTS.match(text):
            builder.last = max(builder.last, index)
            return True
        return bool(_RULE.match(text))

    def _between(self, stream: _Stream, index: int, line: Line, text: str, ended: Builder | None) -> bool:
        """Take a line while no report is open."""
        if _PAGE.match(text):
            if text.startswith(("page:", "page ")) or not stream.page:
                stream.page = []
            stream.page.append((index, line))
            return True
        if ended is not None and index - ended.last <= MAX_GAP:
            # x86 prints its registers again behind the end mark, of the kernel or of user space.
            return bool(parse_frame(text) or _BODY.match(text) or ended.registers.take(text, stacks.OTHER))
        if stream.cut and index - stream.cut[0] == 1:
            return True
        if _TASK_STATE.match(text) or _OTHER_CPU.match(text):
            stream.quiet = index + MAX_GAP if "NMI" in text else index + 2
            return True
        if index > stream.quiet and _HEADLESS.match(text):
            # The log begins inside of a report, or this is one that we don't know.
            builder = self._begin(stream, index, line)
            return self._body(stream, index, line, text) or builder is not None
        return bool(_RULE.match(text))
