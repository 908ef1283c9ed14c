# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a console, a logger or a mail puts before the text of a kernel message.

Every pattern is anchored, and no repeated part of one can begin where another ends, so that each takes time
proportional to the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# More than this many things aren't put before one text.
MAX_PREFIXES = 8

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO = rf"\d{{4}}-\d\d-\d\d[T ]{_CLOCK}(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
# A host's name counts as one only before the name of a program or a time stamp: it looks like the first word of a text.
_HOST = r"(?:[\w.:-]{1,255} (?=kernel: ?|kernel\[\d+\]:|[\w./-]{1,64}\[\d{1,10}\]: |\[ {0,8}\d{1,10}\.\d))?"

# printk's own: "[    1.234567] ", and "[    1.234567][  T31] " or "[T31] " of CONFIG_PRINTK_CALLER. Vendors' with the
# CPU: "[    1.234567@2]- ", "[    1.234567,2] ".
_TIME = re.compile(r"\s*\[ {0,8}(\d{1,10}\.\d{1,9})(?: {0,8}<[^<>]{0,20}>|@(\d{1,4})(?=\]-? )|,(\d{1,4}))?\]")
_CALLER = re.compile(r"\s{0,4}\[ {0,8}([TC]\d{1,10})\]")
# Vendors' consoles name the CPU and the task, as Android's do.
_VENDOR = re.compile(r"\s{0,2}(?:<\d>|-)?\.?(?:\(\d{1,3}\))?\[\d{1,3}: ?[^\]\[]{1,40}\]|- ?| \[ {0,7}\d{1,7}\] ")
# "<4>", syslog's number: eight times the facility and the level.
_LEVEL = re.compile(r"\s*<(\d{1,3})>")
# dmesg -x: "kern  :warn  : ".
_DECODED = re.compile(r"\s*([a-z0-9]{2,8}) {0,8}:(emerg|alert|crit|err|warn|notice|info|debug) {0,8}: ")
# dmesg -T, -H, -e; conserver, minicom, tio.
_BRACKETED_WALL = re.compile(
    rf"\s*\[ {{0,8}}((?:{_DAY} )?{_MONTH} {{1,2}}\d{{1,2}} {_CLOCK}(?: \d{{4}})?|{_ISO}|"
    rf"{_MONTH} {{0,2}}\d{{1,2}} \d\d:\d\d|{_CLOCK}|\+ {{0,8}}\d{{1,10}}\.\d{{1,9}})\] ?"
)
# syslog, RFC 3164 and RFC 3339; journalctl -o short, short-full, short-iso, short-unix; ts.
_SYSLOG = re.compile(
    rf"\s*((?:{_DAY} )?{_MONTH} [ \d]?\d (?:\d{{4}} )?{_CLOCK}|"
    rf"{_DAY} {_ISO}(?: [A-Z]{{2,5}})?|{_ISO}|\d{{9,11}}\.\d{{6}}) {_HOST}"
)
_HOST_ONLY = re.compile(r" ?[\w.-]{1,255} (?=kernel: )")
# adb logcat -b kernel.
_LOGCAT = re.compile(r"(\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) {1,6}\d{1,7} {1,6}\d{1,7} [VDIWEF] (\S{1,40}?) {0,20}: ")
_TAG = re.compile(r"(kernel|[\w./-]{1,64})(\[\d{1,10}\])?: ?(?:- - - )?")
_RFC5424 = re.compile(
    rf"\s*<(\d{{1,3}})>1 ({_ISO}|-) [\w.:-]{{1,255}} ([\w./-]{{1,64}}) [\w-]{{1,64}} [\w.-]{{1,64}} "
    r"(?:-|\[[^\]]{0,400}\]) ?"
)
# /dev/kmsg and netconsole's extended form; a release may stand before it.
_EXTENDED = re.compile(
    r"\s*(?:\d{1,3}\.[\w.+~-]{1,64},)?(\d{1,5}),(\d{1,19}),(\d{1,19}),[^;,]{0,8}(?:,([^;]{0,200}))?;"
)
_EXTENDED_CALLER = re.compile(r"caller=([TC]\d{1,10})")
# KASAN points to a line of its own with ">", and no space behind it.
_QUOTE = re.compile(r"(?:\s?>(?=[ >\[<]|$)){1,9} ?")

_LEVELS = {
    name: number for number, name in enumerate(("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"))
}


@dataclass
class Prefix:
    """
    What stood before a text.

    :ivar time: Seconds since boot.
    :ivar caller: As in :class:`mminspect.commands.triage.lines.Line`, likewise ``level`` and ``wall``.
    :ivar seq: Number of the record.
    :ivar kernel: False for what a program wrote.
    :ivar done: Whether the text follows at once.
    """

    time: float | None = None
    caller: str | None = None
    level: int | None = None
    wall: str | None = None
    seq: int | None = None
    kernel: bool = True
    done: bool = False


def strip_prefix(text: str) -> tuple[Prefix, str]:
    """Return what stands before the text of a line, and the text."""
    prefix = Prefix()
    if text[:1] == ">" or text[:2] == " >":
        match = _QUOTE.match(text)
        if match:
            text = text[match.end() :]
    for _ in range(MAX_PREFIXES):
        rest = _strip_one(prefix, text)
        if rest is None:
            break
        text = rest
        if prefix.done:
            return prefix, text
        if prefix.time is not None:
            return prefix, _strip_behind_time(prefix, text)
    if prefix.caller is None:
        match = _CALLER.match(text)
        if match:
            prefix.caller, text = match.group(1), text[match.end() :].removeprefix(" ")
    return prefix, text


def _strip_behind_time(prefix: Prefix, text: str) -> str:
    """Strip what follows printk's time: the caller, and the host and tag of ``journalctl -o short-monotonic``."""
    match = _CALLER.match(text)
    if match:
        prefix.caller = match.group(1)
        text = text[match.end() :]
    match = _VENDOR.match(text)
    if match:
        return text[match.end() :]
    match = _HOST_ONLY.match(text)
    if match:
        text = text[match.end() :]
        return _strip_tag(prefix, text)
    return text.removeprefix(" ")


def _strip_one(prefix: Prefix, text: str) -> str | None:
    """Strip one thing; ``None`` if there is none."""
    start = text.lstrip()[:1]
    if start == "[":
        match = _TIME.match(text)
        if match:
            prefix.time = float(match.group(1))
            cpu = match.group(2) or match.group(3)
            prefix.caller = f"C{cpu}" if cpu else None
            return text[match.end() :]
        match = _BRACKETED_WALL.match(text)
        if match:
            prefix.wall = match.group(1)
            return text[match.end() :]
        return None
    if start == "<":
        match = _RFC5424.match(text)
        if match:
            prefix.wall = match.group(2)
            prefix.kernel &= match.group(3) == "kernel"
        match = match or _LEVEL.match(text)
        if match is None:
            return None
        number = int(match.group(1))
        prefix.level = number & 7
        prefix.kernel &= number < 8
        return text[match.end() :]
    return _strip_words(prefix, text)


def _strip_words(prefix: Prefix, text: str) -> str | None:
    match = _EXTENDED.match(text)
    if match:
        prefix.level, prefix.seq = int(match.group(1)) & 7, int(match.group(2))
        prefix.kernel &= int(match.group(1)) < 8
        prefix.time = int(match.group(3)) / 1e6
        caller = _EXTENDED_CALLER.search(match.group(4) or "")
        prefix.caller = caller.group(1) if caller else None
        prefix.done = True
        return text[match.end() :]
    match = _SYSLOG.match(text)
    if match:
        prefix.wall = match.group(1)
        return _strip_tag(prefix, text[match.end() :])
    match = _LOGCAT.match(text)
    if match:
        prefix.wall = match.group(1)
        prefix.kernel &= match.group(2) == "kernel"
        return text[match.end() :]
    match = _DECODED.match(text)
    if match:
        prefix.level = _LEVELS[match.group(2)]
        prefix.kernel &= match.group(1) == "kern"
        return text[match.end() :]
    return None


def _strip_tag(prefix: Prefix, text: str) -> str:
    """Strip the name of the program that wrote the line. Only the kernel's are kernel messages."""
    match = _TAG.match(text)
    if match and (match.group(1) == "kernel" or match.group(2)):
        prefix.kernel &= match.group(1) == "kernel"
        return text[match.end() :]
    return text
