# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel lived through, what was a program's fault, and what isn't of the report."""

from __future__ import annotations

import io
import json

import pytest

from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.lines import read_text
from mminspect.render.triage import write_text
from tests.commands.triage.test_boot import BOOT
from tests.commands.triage.test_checks import BAD_PAGE_6_12

SOFT_LOCKUP = """\
watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [kcompactd0:55]
CPU: 2 PID: 55 Comm: kcompactd0 Tainted: G             L     6.1.0-18-amd64 #1 Debian 6.1.76-1
RIP: 0010:isolate_freepages_block+0xb7/0x370
Call Trace:
 <TASK>
 compaction_alloc+0x8c1/0x8d0
 </TASK>
"""
OF_A_PROGRAM = """\
Unhandled fault: page domain fault (0x81b) at 0x76f31000
pgd = 12345678
CPU: 0 PID: 42 Comm: bar Not tainted 5.10.0-armmp #1
PC is at 0x10434
pc : [<00010434>]    lr : [<76e2f6c0>]    psr: 60000010
sp : 7ee2fcf0  ip : 73656372  fp : 7ee2fcfc
Flags: nZCv  IRQs on  FIQs on  Mode USER_32  ISA ARM  Segment user
"""
HUNG = """\
INFO: task kworker/1:2:999 blocked for more than 120 seconds.
      Not tainted 6.1.0-18-amd64 #1 Debian 6.1.76-1
task:kworker/1:2     state:D stack:0     pid:999   ppid:2      flags:0x00004000
Call Trace:
 <TASK>
 __schedule+0x34d/0x9e0
 wait_for_completion+0x86/0x160
 __lru_add_drain_all+0x176/0x1f0
 </TASK>
Sending NMI from CPU 0 to CPUs 1:
NMI backtrace for cpu 1
CPU: 1 PID: 55 Comm: kcompactd0 Not tainted 6.1.0-18-amd64 #1 Debian 6.1.76-1
RIP: 0010:isolate_freepages_block+0x12/0x90
RSP: 0018:ffffb0c1c6b9fb20 EFLAGS: 00010046
RAX: 0000000000000000 RBX: ffffea0000280000 RCX: 0000000000000001
"""
NMI = """\
Kernel panic - not syncing: An NMI occurred. Depending on your system the reason for the NMI is logged in
CPU: 0 PID: 0 Comm: swapper/0 Not tainted 5.10.0-8-amd64 #1 Debian 5.10.46-4
Call Trace:
 <NMI>
 panic+0x101/0x2d7
 hpwdt_pretimeout+0x80/0xf0 [hpwdt]
 end_repeat_nmi+0x16/0x55
RIP: 0010:isolate_freepages_block+0x12/0x90
RAX: 0000000000000000 RBX: ffffea0000280000 RCX: 0000000000000001
 </NMI>
"""
LIST_DEL = "list_del corruption. prev->next should be {}, but was {}. (prev=ffff9fffffd63f30)\n"
LIST_ADD = "list_add corruption. prev->next should be next ({}), but was {}. (prev=ffff888103000000).\n"


@pytest.mark.parametrize("text", [SOFT_LOCKUP, BAD_PAGE_6_12])
def test_kernel_that_was_shut_down_later_did_not_die_of_it(text: str) -> None:
    result = as_dict("log", judge_log(read_text((BOOT + text + "reboot: Power down\n").encode())))
    assert (result["verdict"], result["crash"]["fatal"]) == ("struct pages", False)
    out = io.StringIO()
    write_text([result], out, 100)
    assert "The kernel complained of struct pages, and lived on." in out.getvalue()
    assert "died" not in out.getvalue()


def test_fault_of_a_program_is_no_crash() -> None:
    assert judge_log(read_text(OF_A_PROGRAM.encode())).verdict == "unknown"
    whole = BOOT + OF_A_PROGRAM + "reboot: Restarting system\n"
    assert judge_log(read_text(whole.encode())).verdict == "no crash"
    kernel = OF_A_PROGRAM.replace("0x10434", "0xc0110434").replace("<00010434>", "<c0110434>")
    assert judge_log(read_text(kernel.replace("USER_32", "SVC_32").encode())).verdict == "other"


def test_task_that_waits_has_no_registers_of_another_cpu() -> None:
    (report, *_) = judge_log(read_text(HUNG.encode())).reports
    assert report.registers == ()
    assert report.function == "__lru_add_drain_all"


def test_what_an_nmi_came_to_is_not_said_to_be_no_code_of_struct_pages() -> None:
    found = judge_log(read_text(NMI.encode()))
    assert found.verdict == "other"
    assert "it came while isolate_freepages_block() ran" in found.why


@pytest.mark.parametrize(
    ("words", "one", "other", "hardware"),
    [
        (LIST_DEL, "ffffea0004000008", "ffffea0004000048", False),
        (LIST_DEL, "ffffea0004000008", "ffffea0004000408", False),
        (LIST_DEL, "ffffea0004000008", "ffffea000c000008", True),
        (LIST_DEL, "ffffea0004000008", "ffffea0004000018", True),
        (LIST_DEL, "ffff888102345678", "ffff88810a345678", True),
        (LIST_ADD, "ffff888102345678", "ffff88810a345678", True),
    ],
)
def test_neighbors_among_struct_pages_differ_in_one_bit_too(words: str, one: str, other: str, hardware: bool) -> None:
    text = words.format(one, other) + "kernel BUG at lib/list_debug.c:62!\nRIP: 0010:__list_del_entry_valid+0x8b/0xa0\n"
    assert ("looks like hardware" in judge_log(read_text(text.encode())).why) is hardware


@pytest.mark.parametrize("indent", [None, 3])
def test_json_of_dmesg_is_read(indent: int | None) -> None:
    rows = [{"pri": 4, "time": 12.5, "msg": text} for text in SOFT_LOCKUP.splitlines()]
    text = json.dumps({"dmesg": rows}, indent=indent, separators=None if indent else (",", ":"))
    log = read_text(text.encode())
    assert [line.text for line in log.lines] == SOFT_LOCKUP.splitlines()
    assert {line.time for line in log.lines} == {12.5}


def test_forms_of_the_journal_are_read() -> None:
    lines = SOFT_LOCKUP.splitlines()
    pretty = "".join(json.dumps({"_TRANSPORT": "kernel", "MESSAGE": line}, indent=8) + "\n" for line in lines)
    verbose = "".join(
        f"Wed 2024-02-07 11:00:00.000000 CET [s=abc;i=1]\n    _TRANSPORT=kernel\n    MESSAGE={line}\n" for line in lines
    )
    full = "".join(f"Wed 2024-02-07 11:00:00 CET myhost kernel: {line}\n" for line in lines)
    events = "".join(f"data: {json.dumps({'_TRANSPORT': 'kernel', 'MESSAGE': line})}\n\n" for line in lines)
    for form in (pretty, verbose, full, events):
        assert [line.text for line in read_text(form.encode()).lines if line.text] == lines


# Printing an oops takes locks. Lockdep reports them in the middle, and the oops goes on behind that.
LOCKDEP_INSIDE = """\
[  101.000000][   T55] ------------[ cut here ]------------
[  101.000001][   T55] kernel BUG at mm/page_alloc.c:3112!
[  101.000002][   T55] invalid opcode: 0000 [#1] PREEMPT SMP
[  101.000003][   T55] CPU: 0 PID: 55 Comm: kcompactd0 Not tainted 5.0.0-rc1 #10
[  101.000004][   T55] RIP: 0010:__isolate_free_page+0x4a8/0x680
[  101.000005][   T55] Call Trace:
[  101.000006][   T55]  compaction_alloc+0xd05/0x2970
[  101.100000][   T55] ======================================================
[  101.100001][   T55] WARNING: possible circular locking dependency detected
[  101.100002][   T55] 5.0.0-rc1 #10 Not tainted
[  101.100003][   T55] kcompactd0/55 is trying to acquire lock:
[  101.100004][   T55] the existing dependency chain (in reverse order) is:
{chain}[  101.900000][   T55]  kthread+0x357/0x430
[  102.000000][   T55] ---[ end trace b088aebfc4c7ea50 ]---
[  102.000001][   T55] RIP: 0010:__isolate_free_page+0x4a8/0x680
[  102.000002][{caller}] Kernel panic - not syncing: Fatal exception
"""


@pytest.mark.parametrize("words", ["lock {} of the chain", " lock_acquire+0x{}/0x400"])
def test_an_oops_with_a_report_of_locks_inside_is_what_killed(words: str) -> None:
    chain = "".join(f"[  101.2{number:05}][   T55] {words.format(number)}\n" for number in range(100, 300))
    found = judge_log(read_text(LOCKDEP_INSIDE.format(chain=chain, caller="   T55").encode()))
    assert (found.verdict, found.crash and found.crash.fatal) == ("struct pages", True)
    assert found.crash is not None
    assert (found.crash.kind, found.crash.function) == ("bug-at", "__isolate_free_page")
    assert found.crash.trace == ("compaction_alloc",)


def test_the_oops_of_another_task_is_not_what_killed() -> None:
    chain = "".join(f"[  101.2{number:05}][   T55]  lock_acquire+0x{number}/0x400\n" for number in range(100, 300))
    found = judge_log(read_text(LOCKDEP_INSIDE.format(chain=chain, caller="   T99").encode()))
    assert (found.verdict, found.crash and found.crash.kind) == ("unknown", "panic")
