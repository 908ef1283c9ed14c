# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports of KASAN, KFENCE, KMSAN, KCSAN and UBSAN: whose they are, and whether they are about struct pages."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.alone import LogVerdict, judge_log
from mminspect.commands.triage.lines import read_text

KASAN = """\
==================================================================
BUG: KASAN: slab-out-of-bounds in FUNCTION+0x99/0x200
Write of size 8 at addr ffff0000c0a81f80 by task kworker/0:1/12

CPU: 0 UID: 0 PID: 12 Comm: kworker/0:1 Not tainted 6.12.9 #1
Call trace:
 dump_stack_lvl+0x78/0x90
 kasan_report+0xb0/0x110
 FUNCTION+0x99/0x200
 caller+0x40/0x60

Allocated by task 1:
 memblock_alloc_node+0x10/0x20
==================================================================
"""
UBSAN = """\
------------[ cut here ]------------
UBSAN: array-index-out-of-bounds in FILE:3012:22
index 5 is out of range for type 'TYPE'
CPU: 0 UID: 0 PID: 1 Comm: systemd Not tainted 6.12.9 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 __ubsan_handle_out_of_bounds.cold+0x46/0x4b
 unknown_function+0x120/0x300
 </TASK>
---[ end trace ]---
"""
KFENCE = """\
==================================================================
BUG: KFENCE: use-after-free read in foo_read+0x40/0x80

Use-after-free read at 0xffff8881000a0000 (in kfence-#23):
 foo_read+0x40/0x80
 vfs_read+0x9b/0x1a0

kfence-#23: 0xffff8881000a0000-0xffff8881000a001f, size=32, cache=kmalloc-32

allocated by task 484 on cpu 1 at 10.101010s:
 foo_alloc+0x20/0x40

freed by task 484 on cpu 1 at 10.202020s:
 __free_pages+0x20/0x40

CPU: 1 PID: 484 Comm: cat Not tainted 5.12.0 #1
==================================================================
"""
KMSAN = """\
=====================================================
BUG: KMSAN: uninit-value in set_pfnblock_flags_mask+0x99/0x200
 set_pfnblock_flags_mask+0x99/0x200
 memmap_init_range+0x1c0/0x300

Uninit was created at:
 memblock_alloc_range_nid+0x1c0/0x300

CPU: 0 UID: 0 PID: 0 Comm: swapper Not tainted 6.12.9 #1
=====================================================
"""
KCSAN = """\
==================================================================
BUG: KCSAN: data-race in __mod_zone_page_state / isolate_migratepages_block

read-write to 0xffff88807ffde500 of 8 bytes by task 12 on cpu 1:
 __mod_zone_page_state+0x55/0xa0

Reported by Kernel Concurrency Sanitizer on:
CPU: 1 UID: 0 PID: 12 Comm: kworker/1:0 Not tainted 6.12.9 #1
==================================================================
"""


def judged(text: str) -> LogVerdict:
    return judge_log(read_text(text.encode()))


@pytest.mark.parametrize(
    ("function", "verdict"),
    [("set_pfnblock_flags_mask", "struct pages"), ("get_pfnblock_flags_mask", "struct pages"), ("evil_write", "other")],
)
def test_kasan_is_about_struct_pages_where_the_code_is(function: str, verdict: str) -> None:
    assert judged(KASAN.replace("FUNCTION", function)).verdict == verdict


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("zone [4]", "struct pages"), ("struct free_area [11]", "struct pages"), ("int [4]", "other")],
)
def test_index_of_a_zone_that_can_not_be_is_what_a_struct_page_says(kind: str, verdict: str) -> None:
    found = judged(UBSAN.replace("TYPE", kind).replace("FILE", "include/linux/mmzone.h"))
    assert found.verdict == verdict
    if verdict == "struct pages":
        assert f"index 5 is out of range for type '{kind}'" in found.why


@pytest.mark.parametrize("panic", ["", "Kernel panic - not syncing: panic_on_warn set ...\n"])
@pytest.mark.parametrize(
    ("text", "function", "verdict", "pid"),
    [
        (KFENCE, "foo_read", "other", 484),
        (KMSAN, "set_pfnblock_flags_mask", "struct pages", 0),
        (KCSAN, "__mod_zone_page_state", "other", 12),
    ],
    ids=["kfence", "kmsan", "kcsan"],
)
def test_who_it_was_is_said_last_and_is_of_the_report(
    text: str, function: str, verdict: str, pid: int, panic: str
) -> None:
    found = judged(text + panic.replace("panic_on_warn", "kmsan.panic" if text == KMSAN else "panic_on_warn"))
    assert found.verdict == verdict
    assert found.crash is not None
    assert (found.crash.function, found.crash.pid, bool(found.crash.fatal)) == (function, pid, bool(panic))
    assert len(found.reports) == 1
