# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports of the kernel's own checks: bad pages, BUG(), lists, sanitizers, warnings, and panics."""

from __future__ import annotations

import pytest

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import about_pages
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.report import Report, crash_of
from mminspect.commands.triage.reports import read_reports


def reports(text: str) -> list[Report]:
    """Return the reports of a log."""
    return read_reports(read_text(text.encode()).lines)


def crash(text: str) -> Report:
    """Return the crash that a log tells of."""
    found = crash_of(reports(text))
    assert found is not None
    return found


BAD_PAGE_6_12 = """\
BUG: Bad page state in process tar  pfn:10b00
page: refcount:0 mapcount:0 mapping:0000000000000000 index:0x1 pfn:0x10b00
flags: 0xfffffc0000001(locked|node=0|zone=1|lastcpupid=0x1fffff)
raw: 000fffffc0000001 dead000000000100 dead000000000122 0000000000000000
raw: 0000000000000001 0000000000000000 00000000ffffffff 0000000000000000
page dumped because: PAGE_FLAGS_CHECK_AT_PREP flag set
Modules linked in:
CPU: 0 UID: 0 PID: 613 Comm: tar Tainted: G    B              6.12.0 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x5d/0x80
 bad_page+0x6b/0x100
 get_page_from_freelist+0x121e/0x1760
 __alloc_pages_noprof+0x182/0x340
 </TASK>
"""

BAD_PAGE_5_4 = """\
BUG: Bad page state in process swapper  pfn:07c00
page:ffffea00001f0000 refcount:0 mapcount:-128 mapping:0000000000000000 index:0x0
flags: 0xfffffc0000000()
raw: 000fffffc0000000 ffffea00001f0008 ffffea00001f0008 0000000000000000
page dumped because: nonzero mapcount
CPU: 0 PID: 0 Comm: swapper Not tainted 5.4.0 #1
Call Trace:
 dump_stack+0x6d/0x95
 bad_page.cold.120+0x7f/0xb2
 free_pages_check_bad+0x5c/0x80
 __free_pages_ok+0x3ae/0x4a0
 __free_pages_core+0x8d/0xb0
"""

VM_BUG_ON_PAGE = """\
page:ffffea0001c30000 refcount:0 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x70c00
flags: 0x1000(reserved)
raw: 0000000000001000 ffffea0001c30008 ffffea0001c30008 0000000000000000
page dumped because: VM_BUG_ON_PAGE(!zone_spans_pfn(page_zone(page), pfn))
------------[ cut here ]------------
kernel BUG at mm/page_alloc.c:533!
invalid opcode: 0000 [#1] SMP PTI
CPU: 1 PID: 59 Comm: kcompactd0 Not tainted 5.10.15 #1
RIP: 0010:set_pfnblock_flags_mask+0x9b/0xe0
RSP: 0018:ffffb3f5801d7ad8 EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffffea0001c30000 RCX: 0000000000000000
Call Trace:
 update_pageblock_skip+0x3c/0x50
 isolate_migratepages_block+0x5f2/0xc60
 compact_zone+0x6d9/0xd40
---[ end trace 1c2d3e4f50617283 ]---
"""

VM_BUG_ON_VMA = """\
vma ffff888104b3c2f0 start 00007f0b10000000 end 00007f0b10001000 mm ffff888106a1cd80
prot 8000000000000025 anon_vma 0000000000000000 vm_ops 0000000000000000
------------[ cut here ]------------
kernel BUG at mm/rmap.c:1283!
invalid opcode: 0000 [#1] PREEMPT SMP
CPU: 0 PID: 900 Comm: app Not tainted 6.1.0 #1
RIP: 0010:frob_vma_check+0x5f/0x70
Call Trace:
 handle_mm_fault+0x11c/0x2d0
"""

BUG_NOT_VERBOSE = """\
------------[ cut here ]------------
Kernel BUG at move_freepages_block+0x9a/0xa0 [verbose debug info unavailable]
invalid opcode: 0000 [#1] SMP
CPU: 0 PID: 1 Comm: systemd Not tainted 5.15.0 #1
RIP: 0010:move_freepages_block+0x9a/0xa0
Call Trace:
 steal_suitable_fallback+0x10b/0x2a0
"""


@pytest.mark.parametrize(
    ("text", "kind", "function", "pfn"),
    [
        (BAD_PAGE_6_12, kinds.BAD_PAGE, "get_page_from_freelist", 0x10B00),
        (BAD_PAGE_5_4, kinds.BAD_PAGE, "__free_pages_ok", 0x7C00),
        (VM_BUG_ON_PAGE, kinds.VM_BUG_ON, "set_pfnblock_flags_mask", 0x70C00),
    ],
)
def test_reports_of_pages(text: str, kind: str, function: str, pfn: int) -> None:
    found = crash(text)
    assert (found.kind, found.function) == (kind, function)
    assert list(found.pages) == [pfn]
    assert about_pages(found).about


def test_page_dump_before_the_bug_belongs_to_it() -> None:
    (found,) = reports(VM_BUG_ON_PAGE)
    assert found.first == 0
    assert found.addresses == {0xFFFFEA0001C30000: "ffffea0001c30000"}
    assert "zone_spans_pfn" in found.reason
    assert found.trace[:2] == ("update_pageblock_skip", "isolate_migratepages_block")


def test_contents_of_a_struct_page_are_no_addresses() -> None:
    assert 0xFFFFEA00001F0008 not in crash(BAD_PAGE_5_4).addresses


def test_bug_of_machines_without_a_trap() -> None:
    (found,) = reports(
        "BUG: failure at mm/page_alloc.c:533/set_pfnblock_flags_mask()!\nKernel panic - not syncing: BUG!\n"
    )
    assert (found.kind, found.function, found.fatal) == (kinds.BUG_AT, "set_pfnblock_flags_mask", True)


def test_check_of_a_vma_is_not_about_pages() -> None:
    found = crash(VM_BUG_ON_VMA)
    assert found.function == "frob_vma_check"
    assert not found.pages


def test_bug_without_verbose_information() -> None:
    found = crash(BUG_NOT_VERBOSE)
    assert (found.kind, found.function) == (kinds.BUG_AT, "move_freepages_block")
    assert about_pages(found).about


LISTS = {
    "list_add corruption. prev->next should be next (ffff8881000a1b00), but was ffffea0000a40008. "
    "(prev=ffffea0000a40048).": (0xFFFF8881000A1B00, 0xFFFFEA0000A40008, 0xFFFFEA0000A40048),
    "list_add double add: new=ffffea0000a40008, prev=ffffea0000a40008, next=ffff8881000a1b00.": (
        0xFFFFEA0000A40008,
        0xFFFF8881000A1B00,
    ),
    "list_del corruption. next->prev should be ffffea0000a40008, but was dead000000000122": (
        0xFFFFEA0000A40008,
        0xDEAD000000000122,
    ),
    "list_del corruption, ffffea0000a40008->next is LIST_POISON1 (dead000000000100)": (
        0xFFFFEA0000A40008,
        0xDEAD000000000100,
    ),
}


@pytest.mark.parametrize("words", LISTS)
def test_every_message_of_list_debugging(words: str) -> None:
    (found,) = reports(
        f"{words}\n"
        "------------[ cut here ]------------\n"
        "kernel BUG at lib/list_debug.c:62!\n"
        "invalid opcode: 0000 [#1] PREEMPT SMP\n"
        "CPU: 3 PID: 90 Comm: app Not tainted 6.1.0 #1\n"
        "RIP: 0010:__list_del_entry_valid.cold+0x1d/0x69\n"
        "Call Trace:\n"
        " frob_free+0x20/0x60\n"
    )
    assert (found.kind, found.reason, found.function) == (kinds.LIST, words, "__list_del_entry_valid")
    assert set(found.addresses) == set(LISTS[words])
    # The words name a struct page's list head; the function doesn't matter then.
    assert about_pages(found).about


@pytest.mark.parametrize(("caller", "about"), [("free_pcppages_bulk", True), ("frob_free", False)])
def test_a_list_of_something_else(caller: str, about: bool) -> None:
    (found,) = reports(
        "list_del corruption. prev->next should be ffff8881000a1b00, but was ffff8881000a1b08\n"
        "------------[ cut here ]------------\n"
        "WARNING: CPU: 3 PID: 90 at lib/list_debug.c:59 __list_del_entry_valid+0x84/0xa0\n"
        "CPU: 3 PID: 90 Comm: app Not tainted 5.4.0 #1\n"
        "RIP: 0010:__list_del_entry_valid+0x84/0xa0\n"
        f"Call Trace:\n {caller}+0x20/0x60\n"
    )
    assert found.kind == kinds.LIST
    assert about_pages(found).about is about


def test_given_memory_map_decides_instead_of_the_usual_place() -> None:
    text = next(iter(LISTS))
    (found,) = reports(f"{text}\nkernel BUG at lib/list_debug.c:62!\nRIP: 0010:__list_add_valid+0x1/0x2\n")
    assert about_pages(found).about
    assert not about_pages(found, lambda address: False).about
    assert about_pages(found, lambda address: address == 0xFFFF8881000A1B00).about


@pytest.mark.parametrize(
    ("stack", "address", "about"),
    [
        (0xFFFFD442003DBBB0, 0xFFFFF7E79159E240, True),
        (0xFFFFD442003DBBB0, 0xFFFF8CDBC24EC840, False),
        (0xFFFFD442003DBBB0, 0xFFFFD44200500000, False),
        (0xFFFFD442003DBBB0, 0xFFFFFE0000002000, False),
        (0xFFFFD442003DBBB0, 0xFFFFFFFFC05FB1C7, False),
        (0xFFFF88023F8C3B30, 0xFFFFC90000A40000, False),
    ],
)
def test_struct_pages_above_a_random_vmalloc(stack: int, address: int, about: bool) -> None:
    (found,) = reports(
        f"BUG: unable to handle page fault for address: {address:016x}\n"
        "Oops: 0000 [#1] PREEMPT SMP NOPTI\n"
        "RIP: 0010:frob_peek+0x1c/0x40\n"
        f"RSP: 0018:{stack:016x} EFLAGS: 00000282\n"
    )
    assert about_pages(found).about is about


def test_head_of_a_poisoned_page_is_a_struct_page() -> None:
    (found,) = reports(
        "BUG: unable to handle page fault for address: fffffffffffffffe\n"
        "Oops: 0000 [#1] PREEMPT SMP NOPTI\n"
        "RIP: 0010:frob_peek+0x1c/0x40\n"
    )
    about = about_pages(found)
    assert about.about and "poison" in about.why


@pytest.mark.parametrize(("caller", "about"), [("compact_zone", True), ("shrink_folio_list", False)])
def test_callers_that_call_only_code_of_pages(caller: str, about: bool) -> None:
    (found,) = reports(
        "BUG: unable to handle page fault for address: ffff888123456008\n"
        "Oops: 0000 [#1] PREEMPT SMP NOPTI\n"
        "RIP: 0010:frob_peek+0x1c/0x40\n"
        f"Call Trace:\n {caller}+0x1/0x20\n"
    )
    assert about_pages(found).about is about


WARNINGS = {
    "WARNING: CPU: 1 PID: 31 at mm/page_alloc.c:682 __add_to_free_list+0x84/0xa0": "__add_to_free_list",
    "WARNING: mm/page_alloc.c:682 at __add_to_free_list+0x84/0xa0, CPU#1: kswapd0/31": "__add_to_free_list",
    "WARNING: at mm/page_alloc.c:682 __add_to_free_list+0x84/0xa0()": "__add_to_free_list",
}


@pytest.mark.parametrize("words", WARNINGS)
def test_warning_is_a_crash_only_with_panic_on_warn(words: str) -> None:
    text = (
        "------------[ cut here ]------------\n"
        "page type is 0, passed migratetype is 1 (nr=512)\n"
        f"{words}\n"
        "CPU: 1 UID: 0 PID: 31 Comm: kswapd0 Not tainted 6.12.0 #1\n"
        "RIP: 0010:__add_to_free_list+0x84/0xa0\n"
        "Call Trace:\n"
        " <TASK>\n"
        " expand+0x1ab/0x230\n"
        " </TASK>\n"
    )
    (found,) = reports(text + "---[ end trace 0000000000000000 ]---\n")
    assert crash_of([found]) is None
    (found,) = reports(
        text + "Kernel panic - not syncing: kernel: panic_on_warn set ...\nCall Trace:\n panic+0x1/0x2\n"
    )
    assert crash_of([found]) is found
    assert (found.kind, found.function, found.trace) == (kinds.WARNING, WARNINGS[words], ("expand",))
    assert (found.cpu, found.pid, found.task) == (1, 31, "kswapd0")
    assert about_pages(found).about


def test_caller_that_asks_for_too_much_is_not_about_pages() -> None:
    (found,) = reports(
        "WARNING: CPU: 1 PID: 31 at mm/page_alloc.c:4975 __alloc_frozen_pages_noprof+0x2c4/0x560\n"
        "RIP: 0010:__alloc_frozen_pages_noprof+0x2c4/0x560\n"
        "Call Trace:\n frob_ioctl+0x1/0x20\n"
        "Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
    )
    assert found.fatal and not about_pages(found).about


SANITIZERS = {
    "kasan": "BUG: KASAN: slab-out-of-bounds in frob_copy+0x1c/0x40\nWrite of size 8 at addr ffff888104b3c2f0",
    "kfence": "BUG: KFENCE: use-after-free read in frob_copy+0x1c/0x40\nUse-after-free read at 0x(____ptrval____)",
    "kmsan": "BUG: KMSAN: uninit-value in frob_copy+0x1c/0x40",
    "kcsan": "BUG: KCSAN: data-race in frob_copy / frob_free",
    "ubsan": "UBSAN: shift-out-of-bounds in drivers/frob/frob.c:12:3",
}


@pytest.mark.parametrize("kind", SANITIZERS)
def test_sanitizers_name_the_driver(kind: str) -> None:
    (found,) = reports(
        "==================================================================\n"
        f"{SANITIZERS[kind]}\n"
        "CPU: 0 UID: 0 PID: 9 Comm: a Not tainted 6.12.0 #1\n"
        "Call Trace:\n"
        " dump_stack_lvl+0x5d/0x80\n"
        " kasan_report+0xd9/0x110\n"
        " frob_copy+0x1c/0x40\n"
        " frob_ioctl+0x5d/0x80\n"
        "\n"
        "Allocated by task 7:\n"
        " kasan_save_stack+0x24/0x50\n"
        " frob_alloc+0x2e/0x120\n"
        "\n"
        "Freed by task 8:\n"
        " kfree+0xd9/0x250\n"
        " frob_free+0x33/0x60\n"
        "\n"
        "The buggy address belongs to the physical page:\n"
        "page:ffffea000412cf00 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x104b3c\n"
        "flags: 0x200000000000040(head|node=0|zone=2)\n"
        "page dumped because: kasan: bad access detected\n"
        "page last allocated via order 0, migratetype Unmovable, gfp_mask 0xcc0(GFP_KERNEL), pid 1, tgid 1 (init)\n"
        " get_page_from_freelist+0xfce/0x2f80\n"
        "==================================================================\n"
        "Kernel panic - not syncing: KASAN: panic_on_warn set ...\n"
    )
    assert (found.kind, found.function) == (kind, "frob_copy")
    assert found.trace == ("dump_stack_lvl", "kasan_report", "frob_copy", "frob_ioctl")
    assert {stack.name: stack.functions[-1] for stack in found.stacks} == {
        "allocation": "frob_alloc",
        "free": "frob_free",
        "page_owner allocation": "get_page_from_freelist",
    }
    assert found.fatal and not about_pages(found).about


def test_kasan_of_a_struct_page() -> None:
    (found,) = reports(
        "BUG: KASAN: wild-memory-access in stable_page_flags+0x1c/0x40\n"
        "Read of size 8 at addr ffffea000412cf08 by task page-types/9\n"
    )
    assert about_pages(found).about


def test_shadow_of_an_address_is_part_of_a_fault() -> None:
    (found,) = reports(
        "Oops: general protection fault, probably for non-canonical address 0xdffffc0000000004: 0000 [#1] SMP KASAN\n"
        "KASAN: null-ptr-deref in range [0x0000000000000020-0x0000000000000027]\n"
        "RIP: 0010:frob_ioctl+0x25/0xc0\n"
    )
    assert (found.kind, found.function) == (kinds.FAULT, "frob_ioctl")


@pytest.mark.parametrize(
    "reason", ["unmovable page", "migration failure", "isolation failed", "CMA allocation failed", "test"]
)
def test_dumped_pages_of_a_healthy_kernel_are_no_crash(reason: str) -> None:
    (found,) = reports(
        "page:ffffea0000a40000 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x29000\n"
        f"page dumped because: {reason}\n"
    )
    assert found.kind == kinds.PAGE_DUMPED
    assert crash_of([found]) is None


@pytest.mark.parametrize(
    "text",
    [
        "traps: app[3615] general protection fault ip:7feb96eb56a1 sp:20000fd0 error:0 in a.so[7feb96e75000+84000]",
        "app[88]: segfault at 10 ip 00007f2b1c2d3e4f sp 00007ffd1c2d3e40 error 4 in app[55d0c1b2c000+1000]",
        "app[88]: unhandled level 2 translation fault (11) at 0x00000010, esr 0x92000006",
        "app (88): undefined instruction: pc=0000000000010400",
        "User process fault: interruption code 003b ilc:3 in app[1000000+2000]",
        "process 'app' launched '/bin/sh' with NULL argv: empty string added",
        "mce: [Hardware Error]: Machine check events logged",
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "INFO: lockdep is turned off.",
        "rcu: Hierarchical SRCU implementation.",
        "WARNING: Spectre v2 mitigation leaves CPU vulnerable",
        "perf: interrupt took too long (2503 > 2500), lowering kernel.perf_event_max_sample_rate to 79750",
        "Kernel command line: panic=1 oops=panic",
    ],
)
def test_no_crash(text: str) -> None:
    assert crash_of(reports(text + "\n")) is None


def test_panic_by_hand() -> None:
    (found,) = reports(
        "sysrq: Trigger a crash\n"
        "Kernel panic - not syncing: sysrq triggered crash\n"
        "CPU: 0 PID: 303 Comm: bash Kdump: loaded Not tainted 6.1.0 #1\n"
        "Call Trace:\n"
        " <TASK>\n"
        " dump_stack_lvl+0x44/0x5c\n"
        " panic+0x118/0x2ed\n"
        " sysrq_handle_crash+0x16/0x20\n"
        " write_sysrq_trigger+0x36/0x50\n"
    )
    assert (found.kind, found.function, found.fatal, found.cpu) == (kinds.PANIC, "sysrq_handle_crash", True, 0)


def test_old_sysrq_is_a_fault_in_its_handler() -> None:
    (found,) = reports(
        "SysRq : Trigger a crash\n"
        "BUG: unable to handle kernel NULL pointer dereference at           (null)\n"
        "IP: [<ffffffff8141b2c6>] sysrq_handle_crash+0x16/0x20\n"
        "Oops: 0002 [#1] SMP\n"
        "CPU: 1 PID: 2101 Comm: bash Not tainted 3.10.0 #1\n"
        "RIP: 0010:[<ffffffff8141b2c6>]  [<ffffffff8141b2c6>] sysrq_handle_crash+0x16/0x20\n"
    )
    assert (found.kind, found.function) == (kinds.FAULT, "sysrq_handle_crash")


def test_out_of_memory_panics() -> None:
    found = crash(
        "app invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0\n"
        "CPU: 1 PID: 600 Comm: app Not tainted 6.1.0 #1\n"
        "Call Trace:\n"
        " dump_header+0x4a/0x200\n"
        " out_of_memory.cold+0x67/0x7f\n"
        " __alloc_pages_slowpath.constprop.0+0xb9e/0xcf0\n"
        "Mem-Info:\n"
        "Node 0 DMA free:15360kB min:328kB low:408kB high:488kB\n"
        "Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled\n"
        "CPU: 1 PID: 600 Comm: app Not tainted 6.1.0 #1\n"
        "Call Trace:\n"
        " panic+0x118/0x2ed\n"
        " out_of_memory.cold+0x5e/0x7f\n"
    )
    assert found.kind == kinds.PANIC and "Out of memory" in found.reason
    assert not about_pages(found).about


def test_machine_check_is_hardware() -> None:
    found = crash(
        "mce: [Hardware Error]: CPU 2: Machine Check Exception: 5 Bank 7: be00000000800400\n"
        "mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffff812a1b2c> {free_pcppages_bulk+0x1c/0x2b0}\n"
        "mce: [Hardware Error]: TSC 1b2c3d4e5f ADDR 29000000 MISC 86\n"
        "Kernel panic - not syncing: Fatal local machine check\n"
    )
    assert (found.kind, found.fatal) == (kinds.MACHINE_CHECK, True)
    about = about_pages(found)
    assert not about.about and "the machine reported an error" in about.hardware[0]


def test_machine_check_before_is_remembered() -> None:
    lines = read_text(
        b"EDAC MC0: 1 UE memory read error on CPU_SrcID#0 (channel:0 slot:0 page:0x29000)\n" + VM_BUG_ON_PAGE.encode()
    ).lines
    (found,) = read_reports(lines)
    assert "EDAC MC0" in about_pages(found, earlier=lines[: found.first]).hardware[0]


def test_stack_protector_names_the_function() -> None:
    found = crash("Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: frob_ioctl+0x7ea/0x7f0\n")
    assert (found.kind, found.function) == (kinds.PANIC, "frob_ioctl")


def test_names_of_files_are_not_kept() -> None:
    found = crash(
        "BUG: Bad page map in process app  pte:8000000000a40067 pmd:8fb898067\n"
        "page:ffffea0000029000 refcount:1 mapcount:-1 mapping:ffff888104b3c2f0 index:0x0 pfn:0xa40\n"
        'aops:ext4_da_aops ino:60b dentry name(?):"my diary.txt"\n'
        "page dumped because: bad pte\n"
        "addr:00007f0b10000000 vm_flags:08000070 anon_vma:0000000000000000 mapping:ffff888104b3c2f0 index:211\n"
        "file:letters fault:ext4_filemap_fault mmap:ext4_file_mmap read_folio:ext4_read_folio\n"
        "CPU: 5 PID: 29 Comm: app Tainted: P 6.1.0 #31\n"
    )
    kept = "\n".join(line.text for line in found.lines)
    assert "diary" not in kept and "letters" not in kept
    assert "ext4_da_aops" in kept and "ext4_filemap_fault" in kept
