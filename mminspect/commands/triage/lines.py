# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The lines of a kernel log, whoever wrote them down.

A log reaches us as a console saw it, as dmesg, journald or syslog stored it, as netconsole sent it, or quoted in mail.
Each of these puts something before the text. All of it is taken off here, and nothing of it raises an exception.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mminspect.commands.triage.prefixes import Prefix, strip_prefix

# The longest text of a record: LOG_LINE_MAX of kernel/printk/internal.h. Longer lines are cut here.
LOG_LINE_MAX = 1024
# With everything that others may put before the text.
RAW_LINE_MAX = 2 * LOG_LINE_MAX
# Enough for the largest log buffer (CONFIG_LOG_BUF_SHIFT is 25 at most) and a long serial capture.
MAX_BYTES = 64 << 20
MAX_LINES = 1_000_000

_ANSI = re.compile(r"(?:\x1b|#033)\[[0-9;?]{0,20}[A-Za-z]")
# All but tab: what terminals, flash memory and journald leave in a text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# kmsg_dump_reason_str() and part number, as pstore_dump() of fs/pstore/platform.c writes them before each chunk.
_PSTORE = re.compile(r"(?:Panic|Oops|Emergency|Shutdown|Unknown|Halt|Restart|Poweroff)#(\d{1,9}) Part(\d{1,9})$")
DMESG_JSON = '{"dmesg":['
_VERBOSE = re.compile(r".{0,60}\[s=[0-9a-f]")
_MEMBER = re.compile(r'"\w{1,64}" ?: {0,12}["\d-]')
_CALLER_NAME = re.compile(r"[TC]\d{1,10}")
_EXPORT = re.compile(r"[A-Z_][A-Z0-9_]{0,63}=")
# A console's time stamp behind something else that was printed on the same line.
_INSIDE = re.compile(r"(?:<\d{1,3}>)?\[ {0,5}\d{1,7}\.\d{6}\](?=\[| )")


class Line(NamedTuple):
    """
    A line of the log.

    :ivar seq: Number of its record, or of the line where the source has no numbers.
    :ivar time: Seconds since boot.
    :ivar caller: Who printed it, as CONFIG_PRINTK_CALLER shows it: ``T31`` is task 31, ``C1`` is an interrupt on CPU 1.
    :ivar level: From 0 (emergency) to 7 (debug).
    :ivar text: Without anything that was put before it.
    :ivar wall: Wall-clock time as the source has it.
    """

    seq: int
    time: float | None
    caller: str | None
    level: int | None
    text: str
    wall: str | None = None


class Log(NamedTuple):
    """
    A log.

    :ivar lines: Oldest first.
    :ivar cut: Why the log isn't whole, or ``None``: it was longer than we read.
    :ivar numbered: Whether :attr:`Line.seq` are the kernel's own numbers.
    """

    lines: list[Line]
    cut: str | None = None
    numbered: bool = False


def read_text(data: bytes, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> Log:
    """
    Read a log from its text. Never raises an exception.

    If it is too long, its end is read: that is where the kernel died.

    :param data: In any of the forms that are known here.
    :param max_bytes: How much of it to read.
    :param max_lines: Likewise.
    """
    cut = None
    if len(data) > max_bytes:
        data = data[-max_bytes:]
        cut = f"only the last {max_bytes} bytes were read"
    if data.startswith(DMESG_JSON.encode()):
        # On one line, without spaces.
        data = data.replace(b"},{", b"},\n{")
    raw = _split(data)
    if len(raw) > max_lines:
        raw = raw[-max_lines:]
        cut = f"only the last {max_lines} lines were read"
    lines: list[Line] = []
    for prefix, text in _fields(_order_chunks(raw)):
        if not prefix.kernel:
            continue
        seq = prefix.seq if prefix.seq is not None else len(lines)
        lines.append(Line(seq, prefix.time, prefix.caller, prefix.level, text[:LOG_LINE_MAX], prefix.wall))
    return Log(lines, cut)


def from_records(
    records: Iterable[tuple[int, float | None, str | None, int | None, str]], max_lines: int = MAX_LINES
) -> Log:
    """
    Make a log of the records of a kernel's log buffer.

    :param records: (sequence number, seconds, caller, level, text), oldest first. A text may have several lines.
    :param max_lines: If there are more, the newest are kept.
    """
    lines = [
        Line(seq, time, caller, level, _CONTROL.sub("", text)[:LOG_LINE_MAX])
        for seq, time, caller, level, whole in records
        for text in whole.split("\n")
    ]
    if len(lines) > max_lines:
        return Log(lines[-max_lines:], f"only the last {max_lines} lines were read", True)
    return Log(lines, None, True)


def caller_name(caller_id: int) -> str:
    """Return the name of a ``printk_info.caller_id``, as print_caller() of kernel/printk/printk.c prints it."""
    return f"C{caller_id & 0x7FFFFFFF}" if caller_id & 0x80000000 else f"T{caller_id}"


def _split(data: bytes) -> list[str]:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            data = data[2:].decode(encoding, "replace").encode("utf-8", "replace")
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    result = []
    for line in data.split(b"\n"):
        text = line[: 4 * RAW_LINE_MAX].decode("utf-8", "replace")[:RAW_LINE_MAX]
        if "\x1b" in text or "#0" in text:
            text = _ANSI.sub("", text).replace("#011", "\t")
        result.append(_CONTROL.sub("", text))
    if result and not result[-1]:
        result.pop()
    return result


def _order_chunks(raw: list[str]) -> list[str]:
    """Put the chunks of pstore into order: the first part is the end of the log."""
    chunks: list[tuple[int, int, list[str]]] = []
    before: list[str] = []
    for text in raw:
        match = _PSTORE.match(text)
        if match:
            chunks.append((int(match.group(1)), -int(match.group(2)), []))
        elif chunks:
            chunks[-1][2].append(text)
        else:
            before.append(text)
    if not chunks:
        return raw
    chunks.sort(key=lambda chunk: chunk[:2])
    return before + [text for chunk in chunks for text in chunk[2]]


def _fields(raw: list[str]) -> Iterator[tuple[Prefix, str]]:
    """Yield what was before each text, and the text."""
    if any(text.startswith(("__REALTIME_TIMESTAMP=", "__CURSOR=", "    _TRANSPORT=")) for text in raw[:50]):
        yield from _export(raw)
        return
    if raw and raw[0].strip() == "{":
        yield from _members(raw)
        return
    for text in raw:
        if text.startswith(("{", "data: {")) and ('"MESSAGE"' in text or '"msg"' in text):
            yield from _entry(text.removeprefix("data: ").removeprefix(DMESG_JSON))
            continue
        prefix, rest = strip_prefix(text)
        inside = _INSIDE.search(rest) if "[" in rest else None
        while inside:
            # Two messages on one line of a console: the first wasn't finished, or isn't the kernel's.
            if rest[: inside.start()].strip():
                yield prefix, rest[: inside.start()]
            prefix, rest = strip_prefix(rest[inside.start() :])
            inside = _INSIDE.search(rest)
        yield prefix, rest


def _export(raw: list[str]) -> Iterator[tuple[Prefix, str]]:
    """
    Read ``journalctl -o export``: a field a line, an empty line behind each entry.

    Likewise ``-o verbose``: each entry has a line with its time before it, and its fields are indented.
    """
    entry: dict[str, str] = {}
    for text in (*raw, ""):
        field = text[4:] if text.startswith("    ") else text
        if field and _EXPORT.match(field):
            name, _, value = field.partition("=")
            entry[name] = value
        elif entry and (not text or _VERBOSE.match(text)):
            yield from _journal(entry)
            entry = {}


def _members(raw: list[str]) -> Iterator[tuple[Prefix, str]]:
    """Read JSON with a member a line, of ``dmesg -J`` and ``journalctl -o json-pretty``."""
    members: list[str] = []
    for text in raw:
        part = text.strip()
        if part in ("}", "},"):
            yield from _entry("{" + ",".join(members) + "}")
            members = []
        elif _MEMBER.match(part):
            members.append(part.removesuffix(","))


def _entry(text: str) -> Iterator[tuple[Prefix, str]]:
    """Read an entry of the journal, or of ``dmesg -J``, which may be the last of a list."""
    try:
        entry, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(entry, dict):
        return
    if isinstance(entry.get("msg"), str):
        time, caller = entry.get("time"), entry.get("caller")
        prefix = Prefix(
            time=float(time) if isinstance(time, (int, float)) and math.isfinite(time) else None,
            caller=caller if isinstance(caller, str) and _CALLER_NAME.fullmatch(caller) else None,
            kernel=entry.get("fac", "kern") in ("kern", 0),
        )
        yield prefix, entry["msg"]
        return
    yield from _journal({name: value for name, value in entry.items() if isinstance(value, str)})


def _journal(entry: dict[str, str]) -> Iterator[tuple[Prefix, str]]:
    if "MESSAGE" not in entry:
        return
    kernel = entry.get("_TRANSPORT", "kernel") == "kernel"
    priority, micros = entry.get("PRIORITY", ""), entry.get("_SOURCE_MONOTONIC_TIMESTAMP", "")
    wall = entry.get("__REALTIME_TIMESTAMP", "")
    _, text = strip_prefix(entry["MESSAGE"])
    yield (
        Prefix(
            time=int(micros) / 1e6 if _is_number(micros) else None,
            level=int(priority) if _is_number(priority) and int(priority) < 8 else None,
            wall=wall if _is_number(wall) else None,
            kernel=kernel,
        ),
        text,
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
