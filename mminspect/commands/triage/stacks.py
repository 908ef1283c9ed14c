# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks in a log: their headings and their frames, as every architecture prints them."""

from __future__ import annotations

import re
from typing import NamedTuple

# The name of the stack that shows how the kernel got where it died; all others are named after their heading.
CALL_TRACE = "call trace"
OTHER = "other"
PANIC = "panic"

_NAME = r"[A-Za-z_$.][\w.$]{0,255}"
_OFFSET = r"\+0x[0-9a-f]{1,16}/0x[0-9a-f]{1,16}"
_ADDRESS = r"\[<?(?:0x)?[0-9a-f]{8,16}>?\]"
# "func+0x1/0x2", behind up to two addresses. "? " and parentheses mark what the kernel isn't sure of.
_PLAIN = re.compile(rf"(\()?(?:{_ADDRESS}\)? {{0,3}}){{0,2}}(\? )?\(?({_NAME}){_OFFSET}(.{{0,200}})")
# 32-bit Arm: "[<8010fb3c>] (callee) from [<8010c058>] (caller+0x20/0x24)", since 5.18 "callee from caller+0x20/0x24".
_ARM = re.compile(rf"{_ADDRESS} \(({_NAME})[^()]{{0,80}}\) from {_ADDRESS} \(({_NAME})\+0x")
_ARM_SHORT = re.compile(rf"({_NAME})(?: \[{_NAME}\])? from ({_NAME})\+0x")
# As tools that add source lines leave it.
_INLINE = re.compile(
    rf"(?:(?:{_ADDRESS}|\[< {{0,9}}inline {{0,9}}>\]) {{0,3}}){{0,2}}({_NAME}) [\w./+-]{{1,200}}:\d{{1,6}}"
    r"(?: \[inline\])?$"
)
_DECODED = re.compile(rf"(?:{_ADDRESS} )?(\? )?({_NAME}) \((?:[\w./+-]{{1,200}}:\d{{1,6}}|\?\?:)")
# Suffixes that the compiler adds to a function that it split or copied.
_SUFFIX = re.compile(r"\.(?:cold|part|constprop|isra|llvm)(?:\.\d+)*")

_CALL_TRACE = re.compile(r"(?:Call [Tt]race|Backtrace|Kernel [Cc]all [Tt]race|Stack [Tt]race):? ?")
_HEADINGS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("allocation", r"(?:INFO: )?[Aa]llocated(?: by task \d| in |:)"),
        ("free", r"(?:INFO: )?[Ff]reed(?: by task \d| in |:)"),
        ("page_owner allocation", r"page last allocated via "),
        ("page_owner free", r"page last free "),
        ("page_owner", r"page(?:_owner| has been migrated)"),
        ("related work", r"(?:Last|Second to last) (?:potentially related work creation|call_rcu)"),
        ("origin", r"Uninit was (?:created|stored)|Local variable .{1,100} created at"),
        ("other access", r"(?:read|write|read-write|assert no writes|assert no accesses) .{0,40}to 0x.{1,60} by "),
        ("lock", r"-> #\d|the existing dependency chain|the (?:first|second) lock's|\{[\w?+-]{1,40}\} state was"),
        (
            "lock",
            r"(?:\.\.\. ?)?(?:key|acquired|which became .{1,60}|(?:IN-)?(?:HARD|SOFT)IRQ[-\w]{0,20}|"
            r"INITIAL (?:READ )?USE) {1,8}at:",
        ),
        ("irq state", r"(?:hard|soft)irqs last +(?:en|dis)abled at|last (?:en|dis)abled"),
        ("breaking event", r"Last Breaking-Event-Address"),
        ("rcu kthread", r"(?:rcu: )?(?:RCU grace-period kthread stack|Stack dump where RCU GP kthread)"),
    )
)


class Frame(NamedTuple):
    """
    A line of a stack.

    :ivar functions: Innermost first. Lines of 32-bit Arm name two.
    :ivar sure: Whether the kernel is sure of it.
    :ivar by_link: Whether it is where the link register points to, which s390 shows in parentheses.
    :ivar at_start: Whether the last one's address is its first. Nobody returns there: a function that calls one that
        doesn't return ends with that call, and the next function in memory is named in its place.
    """

    functions: tuple[str, ...]
    sure: bool = True
    by_link: bool = False
    at_start: bool = False


class Stack(NamedTuple):
    """
    A stack.

    :ivar name: What it is the stack of.
    :ivar functions: Innermost first, without those that the kernel isn't sure of.
    """

    name: str
    functions: tuple[str, ...]


def plain_name(function: str) -> str:
    """Return a function's name without what the compiler added to it."""
    return _SUFFIX.sub("", function)


def parse_frame(text: str) -> Frame | None:
    """
    Parse a line as a stack's frame.

    :param text: Without space before it.
    """
    if "+0x" not in text:
        if "inline" not in text and ":" not in text:
            return None
        match = _INLINE.match(text)
        if match:
            return Frame((plain_name(match.group(1)),))
        match = _DECODED.match(text)
        return Frame((plain_name(match.group(2)),), not match.group(1)) if match else None
    match = _PLAIN.match(text)
    if match and " from " not in match.group(4):
        sure = not match.group(1) and not match.group(2) and "(unreliable)" not in match.group(4)
        return Frame((plain_name(match.group(3)),), sure, bool(match.group(1)), "+0x0/" in text)
    match = _ARM.match(text) or _ARM_SHORT.match(text)
    if match:
        at_start = text.startswith("+0x0/", match.end(2))
        return Frame((plain_name(match.group(1)), plain_name(match.group(2))), at_start=at_start)
    match = _PLAIN.match(text)
    if match and " from [<" in match.group(4):
        # 32-bit Arm before 4.11: "(callee+0x0/0x2) from [<c0008000>] (caller+0x1/0x2)".
        caller = re.search(rf"\(({_NAME})\+0x", match.group(4))
        if caller:
            return Frame((plain_name(match.group(3)), plain_name(caller.group(1))))
    return None


def stack_heading(text: str) -> str | None:
    """
    Return the name of the stack that a line is the heading of.

    :param text: Without space before it.
    """
    if _CALL_TRACE.match(text):
        return CALL_TRACE
    for name, pattern in _HEADINGS:
        if pattern.match(text):
            return name
    return None
