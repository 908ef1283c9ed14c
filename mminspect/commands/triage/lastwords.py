# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's last words: what killed it, and which pages and addresses it named.

Pure functions of the log's lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mminspect.commands.triage.log import Line

# How the first line of a crash looks, and what kind of crash it is. The first that matches a line counts.
SIGNS: tuple[tuple[str, str], ...] = (
    ("vm-bug-on", r"page dumped because: VM_BUG_ON_(?:PAGE|FOLIO)\((?P<what>.*)\)"),
    ("bad-page", r"BUG: Bad page (?:state|map|cache) in (?:process )?(?P<what>.*)"),
    ("page-dumped", r"page dumped because: (?P<what>.*)"),
    ("outside-zone", r"page 0x(?P<what>[0-9a-f]+ outside (?:node \d+ )?zone .*)"),
    ("list", r"(?P<what>list_(?:add|del) corruption.*)"),
    ("bug-at", r"kernel BUG at (?P<what>\S+:\d+)"),
    ("bug-at", r"Kernel BUG at (?P<what>\S+)"),
    ("fault", r"BUG: (?P<what>kernel NULL pointer dereference.*|unable to handle (?:kernel |page fault).*)"),
    ("fault", r"(?P<what>Unable to handle (?:kernel|paging).*)"),
    (
        "fault",
        r"(?P<what>(?:BUG: )?(?:Kernel|Bad kernel|kernel) (?:attempted|data access|NULL pointer|access of bad).*)",
    ),
    ("fault", r"(?:Oops: )?(?P<what>general protection fault.*)"),
    ("hang", r"(?P<what>watchdog: BUG: soft lockup.*|rcu: INFO: rcu_\w+ (?:self-)?detected stalls?.*)"),
    ("oops", r"(?P<what>Oops(?: -|:) .*)"),
    ("panic", r"Kernel panic - not syncing: (?P<what>.*)"),
)
_SIGNS = tuple((kind, re.compile(pattern)) for kind, pattern in SIGNS)
KINDS = tuple(dict.fromkeys(kind for kind, _ in SIGNS))
# Lines that say what came before: a page dump begins with the page, and says why afterwards.
_BEFORE = re.compile(
    r"(?:page|head|flags|raw):|page_type:|cut here|aops:|dentry name|pages's memcg|memcg:|anon |ksm |flags:"
)
_PFN = re.compile(r"\bpfn:\s*(?:0x)?([0-9a-f]+)")
_OUTSIDE = re.compile(r"\bpage 0x([0-9a-f]+) outside")
_POINTER = re.compile(r"\b(?:0x)?([0-9a-f]{16}|[0-9a-f]{8})\b")
_REGISTER = re.compile(r"\b([A-Za-z][A-Za-z0-9_]{0,5}) ?: ([0-9a-f]{16}|[0-9a-f]{8})\b")
_FUNCTION = re.compile(
    r"(?:RIP: 0010:|RIP: \d{4}:\[<[0-9a-f]+>\] |EIP: |pc : |PC is at |epc : |NIP \[[0-9a-f]+\] |"
    r"Krnl PSW : .*\()([A-Za-z_][\w.]*)\+0x"
)
_USER = re.compile(r"(?:RIP: 0033:|EIP: 0x|CS: +0033|User PSW|epc : 0000[0-9a-f]+ ra)")
_FRAME = re.compile(
    r"^\s*(?:\[<[0-9a-f]+>\] )?(\? )?(?:\[[0-9a-f]+\] )?(?:\(?\[<?[0-9a-f]+>?\]\)? )?([A-Za-z_][\w.]*)\+0x"
)
_KERNEL_BUG = re.compile(r"(?:at )?([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x")
# Suffixes that the compiler adds to a function that it split or copied.
_SUFFIX = re.compile(r"\.(?:cold|part|constprop|isra|llvm)(?:\.\d+)*")
_CPU = re.compile(r"\bCPU: (\d+) (?:UID: \d+ )?PID: (\d+)")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
# What is left of "list_del corruption" that is an address.
_LIST = re.compile(r"list_(?:add|del) corruption")


@dataclass
class Crash:
    """
    A crash as the log tells it.

    :ivar kind: One of :data:`KINDS`.
    :ivar reason: The line that names it.
    :ivar what: The part of it that says what happened: the condition, file and line, the address.
    :ivar function: Where it happened, if the log says so.
    :ivar trace: Functions of the call trace, innermost first. Those that the kernel isn't sure of are left out.
    :ivar pfns: Pfns that the kernel named, with the line.
    :ivar pointers: Addresses in its words (not in the registers), with the line.
    :ivar registers: Values by register; the first report counts.
    :ivar cpu: The CPU that reports it; likewise ``pid``.
    :ivar lines: The lines of the crash, as they stand in the log.
    """

    kind: str
    reason: str
    what: str
    function: str | None = None
    trace: list[str] = field(default_factory=list)
    pfns: dict[int, str] = field(default_factory=dict)
    pointers: dict[int, str] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    cpu: int | None = None
    pid: int | None = None
    lines: list[Line] = field(default_factory=list)


def plain_name(function: str) -> str:
    """Remove what the compiler added to a function's name."""
    return _SUFFIX.sub("", function)


def sign_of(text: str) -> tuple[str, str] | None:
    """Get (kind, what) if a line is the sign of a crash."""
    for kind, pattern in _SIGNS:
        match = pattern.search(text)
        if match:
            return kind, match.group("what").strip()
    return None


def crash_lines(lines: Sequence[Line]) -> list[Line]:
    """
    Get the lines of a crash: from the first sign of it to the end, without the registers and the code of user space.

    :return: Empty if the kernel didn't crash. A warning isn't a crash.
    """
    start = next((number for number, line in enumerate(lines) if sign_of(line.text)), None)
    if start is None:
        return []
    while start and _BEFORE.search(lines[start - 1].text):
        start -= 1
    result, user = [], False
    for line in lines[start:]:
        if _USER.search(line.text):
            user = True
        elif (
            "</TASK>" in line.text or "Modules linked in" in line.text or _END.search(line.text) or "panic" in line.text
        ):
            user = False
        if not user:
            result.append(line)
    return result


def parse(lines: Sequence[Line]) -> Crash | None:
    """
    Find the crash in a log.

    :return: ``None`` if there is none.
    """
    kept = crash_lines(lines)
    crash: Crash | None = None
    frames_done = registers_done = False
    for line in kept:
        sign = sign_of(line.text)
        if sign is not None and crash is None:
            crash = Crash(sign[0], line.text.strip(), sign[1], lines=kept)
            for earlier in kept[: kept.index(line)]:
                _addresses(crash, earlier.text)
        if crash is None:
            continue
        if sign is not None and KINDS.index(sign[0]) < KINDS.index(crash.kind) and not crash.trace:
            # "Bad page state" is followed by "page dumped because", which says more.
            crash.kind, crash.reason, crash.what = sign[0], line.text.strip(), sign[1]
        frames_done = frames_done or bool(_END.search(line.text))
        registers_done = _read_line(crash, line.text, frames_done, registers_done)
    return crash


def _read_line(crash: Crash, text: str, frames_done: bool, registers_done: bool) -> bool:
    """Take what a line says into a crash; return whether its registers are complete."""
    function = _FUNCTION.search(text)
    named = _KERNEL_BUG.search(text) if "BUG at" in text else None
    cpu = _CPU.search(text)
    if cpu and crash.cpu is None:
        crash.cpu, crash.pid = int(cpu.group(1)), int(cpu.group(2))
    found = function or named
    if found and crash.function is None:
        crash.function = plain_name(found.group(1))
    if "Call Trace" in text or "Call trace" in text:
        return True
    registers = _REGISTER.findall(text)
    if registers and not registers_done and "raw:" not in text:
        for name, value in registers:
            crash.registers.setdefault(name, int(value, 16))
        return registers_done
    frame = _FRAME.match(text)
    if frame and not frames_done:
        if not frame.group(1):
            crash.trace.append(plain_name(frame.group(2)))
        return registers_done
    if not frames_done:
        _addresses(crash, text)
    return registers_done


def _addresses(crash: Crash, text: str) -> None:
    """Take the pfns and addresses that a line names."""
    for pattern in (_PFN, _OUTSIDE):
        for digits in pattern.findall(text):
            crash.pfns.setdefault(int(digits, 16), text.strip())
    if "Code:" in text or "Comm:" in text or "raw:" in text:
        return
    if sign_of(text) or _LIST.search(text) or text.lstrip().startswith(("page:", "head:")):
        for digits in _POINTER.findall(text):
            crash.pointers.setdefault(int(digits, 16), text.strip())
