# SPDX-License-Identifier: LGPL-2.1-or-later
"""A log reads the same, whoever wrote it down."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.commands.triage.lines import (
    LOG_LINE_MAX,
    caller_name,
    from_records,
    read_text,
)

TEXT = [
    "BUG: unable to handle page fault for address: ffffea0000a40008",
    "#PF: supervisor read access in kernel mode",
    "CPU: 0 PID: 33 Comm: kcompactd0 Not tainted 6.1.0 #1",
    "RIP: 0010:isolate_freepages_block+0x88/0x4d0",
    "Call Trace:",
    " <TASK>",
    " compaction_alloc+0x40/0x60",
    "general protection fault: 0000 [#2] SMP",
    "rcu: \t(t=27313 jiffies g=674353 q=96903 ncpus=2)",
    "page:ffffea0000029000 refcount:1 mapcount:-1 mapping:0000000000000000 index:0x0 pfn:0xa40",
]

FORMS = {
    "plain": "{text}",
    "dmesg": "[  123.456789] {text}",
    "dmesg of milliseconds": "[  123.456] {text}",
    "caller of a task": "[  123.456789][   T31] {text}",
    "caller of a CPU": "[  123.456789][    C1] {text}",
    "caller without a time": "[   T31] {text}",
    "dmesg -T": "[Thu Nov 26 00:24:43 2026] {text}",
    "dmesg -H": "[Nov26 00:24] {text}",
    "dmesg -e": "[  +0.000012] {text}",
    "dmesg -d": "[  123.456789 <    0.000012>] {text}",
    "dmesg -x": "kern  :warn  : [  123.456789] {text}",
    "dmesg -x -T": "kern  :emerg : [Thu Nov 26 00:24:43 2026] {text}",
    "dmesg --time-format iso": "2026-11-26T00:24:43,456789+00:00 {text}",
    "dmesg -r": "<4>[  123.456789] {text}",
    "journalctl -k": "Nov 26 00:24:43 host kernel: {text}",
    "journalctl -o short-precise": "Nov 26 00:24:43.456789 host kernel: {text}",
    "journalctl -o short-iso": "2026-11-26T00:24:43+0000 host kernel: {text}",
    "journalctl -o short-iso-precise": "2026-11-26T00:24:43.456789+01:00 host.example.org kernel: {text}",
    "journalctl -o short-monotonic": "[  123.456789] host kernel: {text}",
    "journalctl -o short-unix": "1795652683.456789 host kernel: {text}",
    "journalctl -o short-full": "Thu 2026-11-26 00:24:43 UTC host kernel: {text}",
    "syslog": "Nov  6 00:24:43 host kernel: [  123.456789] {text}",
    "syslog with a pid": "Nov  6 00:24:43 host kernel[0]: {text}",
    "syslog of RFC 3339": "2026-11-26T00:24:43.456789+00:00 host kernel: [  123.456789] {text}",
    "syslog of RFC 5424": "<4>1 2026-11-26T00:24:43.456789Z host kernel - - - [  123.456789] {text}",
    "syslog of another machine": "Nov 26 00:24:43 192.0.2.7 [  123.456789] {text}",
    "netconsole": "<4>[  123.456789] {text}",
    "netconsole, extended": "4,416,123456789,-;{text}",
    "netconsole, extended, with caller": "4,416,123456789,-,caller=T31;{text}",
    "netconsole, extended, with release": "6.12.0-1-amd64,4,416,123456789,-,caller=C1;{text}",
    "conserver": "[2026-11-26 00:24:43] [  123.456789] {text}",
    "minicom": "[2026-11-26 00:24:43.456] [  123.456789] {text}",
    "tio": "[00:24:43.456] [  123.456789][   T31] {text}",
    "ts": "Nov 26 00:24:43 [  123.456789] {text}",
    "lava": "2026-11-26T00:24:43.456789 <4>[  123.456789] {text}",
    "a vendor's console": "<4>[  123.456789] -(1)[31:kcompactd0]{text}",
    "a vendor's console with the CPU": "[  123.456789@1] {text}",
    "a vendor's console with the CPU, and more": "[  123.456789@1]- {text}",
    "a vendor's console with a comma": "[  123.456789,1] {text}",
    "a vendor's console with the pid": "[  123.456789] [31] {text}",
    "logcat": "02-07 11:20:34.567     0     0 W kernel  : {text}",
    "mail": "> [  123.456789] {text}",
    "mail, quoted twice": "> > [  123.456789] {text}",
    "mail, quoted twice and tight": ">> [  123.456789] {text}",
    "mail without a space": ">[  123.456789] {text}",
    "mail of journald's": "> Nov 26 00:24:43 host kernel: {text}",
    "in color": "\x1b[32m[  123.456789] \x1b[0m{text}\x1b[0m",
    "indented": "    [  123.456789] {text}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_has_the_same_text(form: str, end: str) -> None:
    data = end.join(FORMS[form].format(text=text) for text in TEXT).encode()
    assert [line.text for line in read_text(data).lines] == TEXT


@pytest.mark.parametrize(
    ("form", "time", "caller", "level"),
    [
        ("caller of a task", 123.456789, "T31", None),
        ("caller of a CPU", 123.456789, "C1", None),
        ("caller without a time", None, "T31", None),
        ("dmesg -x", 123.456789, None, 4),
        ("dmesg -x -T", None, None, 0),
        ("dmesg -r", 123.456789, None, 4),
        ("netconsole, extended, with caller", 123.456789, "T31", 4),
        ("tio", 123.456789, "T31", None),
        ("syslog of RFC 5424", 123.456789, None, 4),
    ],
)
def test_time_caller_and_level(form: str, time: float | None, caller: str | None, level: int | None) -> None:
    (line,) = read_text(FORMS[form].format(text=TEXT[0]).encode()).lines
    assert (line.time, line.caller, line.level) == (time, caller, level)


@pytest.mark.parametrize(
    ("form", "wall"),
    [
        ("dmesg -T", "Thu Nov 26 00:24:43 2026"),
        ("journalctl -k", "Nov 26 00:24:43"),
        ("syslog of RFC 3339", "2026-11-26T00:24:43.456789+00:00"),
        ("conserver", "2026-11-26 00:24:43"),
    ],
)
def test_wall_clock(form: str, wall: str) -> None:
    (line,) = read_text(FORMS[form].format(text=TEXT[0]).encode()).lines
    assert line.wall == wall


@pytest.mark.parametrize(
    "line",
    [
        "Nov 26 00:24:43 host sshd[300]: BUG: unable to handle page fault",
        "Nov 26 00:24:43 host systemd[1]: Kernel panic - not syncing: no",
        "2026-11-26T00:24:43+0000 host app[3]: Oops: 0000 [#1]",
        "daemon:info  : [  123.456789] systemd[1]: Kernel panic - not syncing: no",
        "<30>[  123.456789] systemd[1]: Kernel panic - not syncing: no",
        "30,416,123456789,-;systemd[1]: Kernel panic - not syncing: no",
    ],
)
def test_what_programs_write_is_no_kernel_message(line: str) -> None:
    assert read_text(line.encode()).lines == []


def test_shadow_bytes_of_kasan_are_no_quotation() -> None:
    (line,) = read_text(b">ffff888012345a00: fa fb fb fb\n").lines
    assert line.text == ">ffff888012345a00: fa fb fb fb"


def test_chunks_of_pstore_are_put_into_order() -> None:
    data = (
        "Panic#2 Part1\n<0>[   12.000003] Kernel panic - not syncing: x\n"
        "Panic#2 Part2\n<4>[   12.000001] a\n<4>[   12.000002] b\n"
        "Oops#1 Part1\n<4>[   11.000000] before\n"
    )
    lines = read_text(data.encode()).lines
    assert [line.time for line in lines] == [11.0, 12.000001, 12.000002, 12.000003]


def test_export_of_the_journal() -> None:
    data = (
        "__CURSOR=s=1\n__REALTIME_TIMESTAMP=1795652683456789\n_TRANSPORT=kernel\nPRIORITY=4\n"
        "_SOURCE_MONOTONIC_TIMESTAMP=123456789\nMESSAGE=BUG: one = two\n\n"
        "__CURSOR=s=2\n_TRANSPORT=syslog\nMESSAGE=BUG: no\n\n"
        "__CURSOR=s=3\n_TRANSPORT=kernel\nMESSAGE= frame+0x1/0x2\n"
    )
    first, second = read_text(data.encode()).lines
    assert (first.text, first.time, first.level) == ("BUG: one = two", 123.456789, 4)
    assert second.text == " frame+0x1/0x2"


def test_journal_as_json() -> None:
    entries = [
        {"MESSAGE": text, "_TRANSPORT": "kernel", "PRIORITY": "3", "_SOURCE_MONOTONIC_TIMESTAMP": "5000000"}
        for text in TEXT
    ]
    entries.append({"MESSAGE": "BUG: no", "_TRANSPORT": "syslog"})
    lines = read_text("\n".join(json.dumps(entry) for entry in entries).encode()).lines
    assert [(line.text, line.time, line.level) for line in lines] == [(text, 5.0, 3) for text in TEXT]


def test_two_messages_on_one_line_of_a_console() -> None:
    lines = read_text(b"login: [  611.778481][    C1] rcu: INFO: a[  611.778482] BUG: b\n").lines
    assert [(line.text, line.caller) for line in lines] == [
        ("login: ", None),
        ("rcu: INFO: a", "C1"),
        ("BUG: b", None),
    ]


def test_tabs_of_syslog() -> None:
    (line,) = read_text(b"Nov 26 00:24:43 host kernel: rcu: #0112-....: (1 GPs behind)\n").lines
    assert line.text == "rcu: \t2-....: (1 GPs behind)"


def test_windows_text() -> None:
    data = "\r\n".join(f"[  1.000000] {text}" for text in TEXT).encode("utf-16")
    assert [line.text for line in read_text(data).lines] == TEXT


def test_records_of_a_log_buffer() -> None:
    log = from_records([(7, 1.5, caller_name(31), 4, "a\nb"), (8, 1.6, caller_name(0x80000002), 4, "c")])
    assert [(line.seq, line.caller, line.text) for line in log.lines] == [
        (7, "T31", "a"),
        (7, "T31", "b"),
        (8, "C2", "c"),
    ]
    assert log.numbered and log.cut is None


def test_end_of_a_long_log_is_read() -> None:
    data = b"".join(b"line %d\n" % number for number in range(1000))
    log = read_text(data, max_lines=10)
    assert [line.text for line in log.lines] == [f"line {number}" for number in range(990, 1000)]
    assert log.cut is not None
    log = read_text(data, max_bytes=100)
    assert log.lines[-1].text == "line 999" and len(log.lines) < 13
    assert log.cut is not None
    assert read_text(data).cut is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_give_lines_within_bounds(data: bytes) -> None:
    for line in read_text(data).lines:
        assert len(line.text) <= LOG_LINE_MAX
        assert "\n" not in line.text and "\0" not in line.text


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 80))
def test_cut_lines_are_read(form: str, text: str, length: int) -> None:
    read_text(FORMS[form].format(text=text)[:length].encode())
