# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The first lines of reports, and what each says of its report.

The patterns follow the kernel's sources: arch/*/kernel/traps.c and mm/fault.c, lib/bug.c, kernel/panic.c, mm/debug.c,
lib/list_debug.c, mm/kasan/report.c and its siblings, kernel/watchdog.c, kernel/rcu/tree_stall.h, kernel/hung_task.c.
"""

from __future__ import annotations

import re
from typing import NamedTuple

VM_BUG_ON = "vm-bug-on"
BAD_PAGE = "bad-page"
PAGE_DUMPED = "page-dumped"
OUTSIDE_ZONE = "outside-zone"
LIST = "list"
SANITIZER = "sanitizer"
# Kinds of reports that begin with a sanitizer's sign.
SANITIZERS = ("kasan", "kmsan", "kcsan", "kfence", "ubsan", "slub")
BUG_AT = "bug-at"
FAULT = "fault"
HANG = "hang"
WARNING = "warning"
LOCKING = "locking"
MACHINE_CHECK = "machine-check"
BUG = "bug"
OOPS = "oops"
PANIC = "panic"
UNKNOWN = "unknown"

# Where a sign stands in its report. Signs of later stages go on with a report; one of the same stage begins another.
PRELUDE, CAUSE, DEATH = range(3)


class Sign(NamedTuple):
    """
    How a line begins a report, or goes on with it.

    :ivar kind: Of the report.
    :ivar stage: ``PRELUDE``, ``CAUSE`` or ``DEATH``.
    :ivar rank: The sign of a report with the highest rank gives it its kind and reason.
    :ivar deadly: Whether the kernel can't go on as if nothing had happened.
    """

    kind: str
    stage: int
    rank: int
    deadly: bool
    pattern: re.Pattern[str]


def _signs() -> tuple[Sign, ...]:
    rows: tuple[tuple[str, int, int, bool, str], ...] = (
        (VM_BUG_ON, PRELUDE, 9, True, r"page dumped because: (?P<what>VM_BUG_ON_(?:PAGE|FOLIO|PGFLAGS)?\(?.*)"),
        (
            VM_BUG_ON,
            PRELUDE,
            9,
            True,
            r"VM_BUG_ON_(?:VMA|MM|VMG)\(.*|(?:vma|mm|folio) [0-9a-f]{8,16} (?:start|mmap) .*",
        ),
        (WARNING, PRELUDE, 6, False, r"page dumped because: (?P<what>VM_WARN_ON.*)"),
        (BAD_PAGE, PRELUDE, 8, False, r"BUG: (?P<what>Bad page (?:state|map|cache) .*|Bad swap .*|Bad p[gmu4]d.*)"),
        (PAGE_DUMPED, PRELUDE, 1, False, r"page dumped because: (?P<what>.*)"),
        (OUTSIDE_ZONE, PRELUDE, 8, False, r"page 0x[0-9a-f]{1,16} outside (?:node \d+ )?zone .*"),
        (LIST, PRELUDE, 7, False, r"list_(?:add|del|splice) (?:corruption|double add).*"),
        (LIST, PRELUDE, 7, False, r"(?:list|hlist|plist).{0,20} corruption.*"),
        (BUG, PRELUDE, 7, False, r"usercopy: Kernel memory (?:exposure|overwrite).*"),
        (WARNING, PRELUDE, 6, False, r"refcount_t: .*"),
        (BUG, PRELUDE, 7, False, r"(?:detected buffer overflow|fortify_panic).*"),
        (
            MACHINE_CHECK,
            PRELUDE,
            8,
            True,
            r".{0,40}\[Hardware Error\]: (?:.{0,60}Machine Check Exception|event severity: (?:fatal|panic)).*",
        ),
        (MACHINE_CHECK, PRELUDE, 8, True, r"(?:CPU \d+: )?Machine [Cc]heck(?:: | Exception).*"),
        (
            SANITIZER,
            CAUSE,
            7,
            False,
            r"(?:BUG: )?(?P<what>(?:KASAN|KMSAN|KCSAN|KFENCE|UBSAN): (?!maybe |probably |[\w-]{1,40} in range).*)",
        ),
        (SANITIZER, CAUSE, 7, False, r"BUG (?P<what>[\w.-]{1,80} ?(?:\([^()]{1,80}\))?: (?!kasan: ).*)"),
        (BUG_AT, CAUSE, 5, True, r"[kK]ernel BUG at .*"),
        (BUG_AT, CAUSE, 5, True, r"kernel BUG in .*|BUG: failure at .*"),
        (FAULT, PRELUDE, 3, True, r"[kK]ernel (?:tried|attempted) to .*|unable to execute userspace code.*"),
        (FAULT, PRELUDE, 3, True, r"(?:traps: )?(?P<what>Missing ENDBR.*|CFI failure.*)"),
        (WARNING, CAUSE, 5, False, r"WARNING: (?P<what>(?:CPU: \d+ PID: \d+ )?at \S.*)"),
        (WARNING, CAUSE, 5, False, r"WARNING: (?P<what>\S+:\d+ (?:at|in) \S.*)"),
        (
            HANG,
            CAUSE,
            6,
            False,
            r"(?:NMI |CPU\d+: )?(?:watchdog: )?(?P<what>BUG: soft lockup.*|Watchdog detected hard LOCKUP.*|"
            r"CPU \d+ (?:self-)?detected hard LOCKUP.*|BUG: workqueue lockup.*|BUG: spinlock lockup.*|"
            r"BUG: rwlock-lockup.*|BUG: spinlock cpu recursion.*)",
        ),
        (HANG, CAUSE, 6, False, r"(?:rcu: )?INFO: (?P<what>\w{1,40} (?:self-)?detected (?:expedited )?stalls?.*)"),
        (HANG, CAUSE, 6, False, r"INFO: (?P<what>task (?!.{1,80} is blocked on a ).{1,200})"),
        (HANG, CAUSE, 6, False, r"BUG: (?P<what>task .{1,80} (?:blocked|hung) .*)"),
        (
            FAULT,
            CAUSE,
            4,
            True,
            r"(?:BUG: |CPU \d+ )?(?P<what>(?:[uU]nable to handle|[kK]ernel NULL pointer|"
            r"Kernel data access|Bad kernel|Kernel access of bad|"
            r"Unhandled (?:fault|prefetch abort|exception)|(?:[#\w]{2,8} )?stack guard page was hit|"
            r"unable to handle).*)",
        ),
        (FAULT, CAUSE, 4, True, r"(?:traps: )?(?P<what>PANIC: double fault.*)"),
        (FAULT, CAUSE, 4, True, r"(?P<what>Kernel stack overflow.*|Insufficient stack space to handle exception!.*)"),
        (FAULT, CAUSE, 4, True, r"Bad mode in .* handler detected.*|SError Interrupt on CPU.*|Unhandled \d+-bit el.*"),
        (FAULT, CAUSE, 4, True, r"(?P<what>Unhandled kernel unaligned access.*|Alignment trap: .*|Unrecoverable .*)"),
        (
            LOCKING,
            CAUSE,
            5,
            False,
            r"(?:WARNING|INFO|BUG): (?P<what>(?:possible|inconsistent|suspicious|bad|lock|locks|held|HARDIRQ|SOFTIRQ|"
            r"trying to register|still has locks|nested lock|MAX_LOCK|MAX_STACK|Nested|Invalid|kernel stack|"
            r"task .{1,40} still holds|key|sleeping|scheduling|using|workqueue leaked|spinlock|rwlock|mutex|atomic|"
            r"unable to|at least|DEBUG_LOCKS).*)",
        ),
        (LOCKING, CAUSE, 5, False, r"\[ BUG: (?P<what>.*)|\[ INFO: (?P<info>.*)"),
        (WARNING, PRELUDE, 4, False, r"DEBUG_LOCKS_WARN_ON.*|ODEBUG: (?!Out of memory).*"),
        (WARNING, CAUSE, 3, False, r"BUG: (?P<what>memory leak|leak).*"),
        (WARNING, CAUSE, 3, False, r"(?P<what>unreferenced object 0x[0-9a-f]+ .*)"),
        (WARNING, CAUSE, 3, False, r"[^:\[\]]{1,40}: (?P<what>(?:page|vmalloc) allocation (?:failure|error).*)"),
        (WARNING, CAUSE, 3, False, r".{1,40} invoked oom-killer: .*"),
        (WARNING, CAUSE, 3, False, r"BUG: (?P<what>(?:Bad rss-counter|non-zero pgtables|Dentry|MAX_|bad usercopy).*)"),
        (BUG, CAUSE, 4, False, r"BUG: (?P<what>(?!KASAN)(?!KFENCE)\S.*)"),
        (WARNING, CAUSE, 1, False, r"WARNING: (?P<what>\S.*)"),
        (FAULT, DEATH, 4, True, r"(?:Oops: )?(?P<what>general protection fault.*)"),
        (OOPS, DEATH, 3, True, r"Oops(?: -|:| ?\[#).*"),
        (OOPS, DEATH, 3, True, r"Internal error: .*"),
        (OOPS, DEATH, 3, True, r".{1,200}?\[#\d{1,6}\].*"),
    )
    return tuple(Sign(k, stage, rank, deadly, re.compile(pattern)) for k, stage, rank, deadly, pattern in rows)


SIGNS = _signs()

# All of them as one, for the many lines that are none.
_ANY = re.compile(
    "|".join(f"(?:{sign.pattern.pattern})" for sign in SIGNS).replace("?P<what>", "?:").replace("?P<info>", "?:")
)
# Of user space: the kernel says so of a program that it kills. The kernel is well.
_PROGRAM = re.compile(
    r"(?:traps: )?[^\[\]]{1,64}\[\d{1,10}\](?::| general| trap| bad frame| segfault)|"
    r".{1,80}(?: segfault at | ip:[0-9a-f]{1,16} sp:| ip [0-9a-f]{8,16} sp )|"
    r"\S{1,64} \(\d{1,10}\): (?:undefined|unhandled)|audit: |process \S+ |coredump: "
)


def sign_of(text: str) -> tuple[Sign, str] | None:
    """
    Return the sign that a line is, and what it says.

    :param text: Without space before it.
    """
    if _ANY.match(text) is None or _PROGRAM.match(text):
        return None
    for sign in SIGNS:
        match = sign.pattern.match(text)
        if match:
            groups = match.groupdict()
            what = next((value for value in groups.values() if value), None) or text
            return sign, what.strip()
    return None
