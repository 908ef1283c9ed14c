# SPDX-License-Identifier: LGPL-2.1-or-later
"""A log is a list of reports, and nothing of one gets into another."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.commands.triage import kinds
from mminspect.commands.triage.alone import judge_log
from mminspect.commands.triage.lines import from_records, read_text
from mminspect.commands.triage.report import crash_of
from mminspect.commands.triage.reports import read_reports
from tests.commands.triage import faults

PIECES = [
    *(line for name, text in vars(faults).items() if name.isupper() for line in text.splitlines()),
    "page dumped because: unmovable page",
    "page:ffffea0000a40000 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x29000",
    "BUG: Bad page state in process tar  pfn:10b00",
    "------------[ cut here ]------------",
    "---[ end trace 0000000000000000 ]---",
    "---[ end Kernel panic - not syncing: x ]---",
    "Kernel panic - not syncing: hung_task: blocked tasks",
    "Kernel panic - not syncing: panic_on_warn set ...",
    "INFO: task tar:1 blocked for more than 122 seconds.",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "NMI backtrace for cpu 4",
    "Linux version 6.1.0 (a@b) (gcc) #1",
    "Zone ranges:",
    "Allocated by task 1:",
    "",
]


def test_page_dump_behind_a_report_is_of_the_next_one() -> None:
    text = (
        "watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [tar:66]\n"
        "CPU: 2 PID: 66 Comm: tar Not tainted 6.1.0 #1\n"
        "RIP: 0010:frob+0x88/0x4d0\n"
        "Call Trace:\n frob2+0x40/0x60\n"
        "page:ffffea0000a40000 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x29000\n"
        "page dumped because: VM_BUG_ON_PAGE(1)\n"
        "kernel BUG at mm/swap.c:1!\n"
    )
    first, second = read_reports(read_text(text.encode()).lines)
    assert (first.kind, first.pages) == (kinds.HANG, {})
    assert (second.kind, list(second.pages)) == (kinds.VM_BUG_ON, [0x29000])


def test_two_cpus_that_print_at_once_are_two_reports() -> None:
    one, other = faults.X86_GPF_6_12.splitlines()[:13], faults.X86_2_6_32.splitlines()
    records = []
    for number in range(max(len(one), len(other))):
        records += [(0, 1.0, "T88", 4, one[number])] if number < len(one) else []
        records += [(0, 1.0, "C1", 4, other[number])] if number < len(other) else []
    first, second = read_reports(from_records(records).lines)
    assert (first.caller, first.function) == ("T88", "isolate_migratepages_block")
    assert (second.caller, second.function, second.trace) == ("C1", "frob_open", ("chrdev_open",))
    assert "frob_open" not in first.trace
    assert not [line for line in first.lines if "frob" in line.text]


@pytest.mark.parametrize(
    "text",
    [
        "Some new words: 0000 [#1] SMP\nCPU: 1 PID: 3 Comm: a Not tainted 9.0 #1\nRIP: 0010:frob+0x1/0x2\n",
        "Internal error: a reason that nobody knows: 0 [#7] SMP\npc : frob+0x1/0x2\n",
        "------------[ cut here ]------------\nnew check\nRIP: 0010:frob+0x1/0x2\nCall Trace:\n frob2+0x1/0x2\n",
        "RIP: 0010:frob+0x1/0x2\nCall Trace:\n frob2+0x1/0x2\n---[ end trace 0000000000000000 ]---\n",
        "usb 1-1: gone\n---[ end Kernel panic - not syncing: whatever ]---\n",
        "Kernel panic - not syncing: whatever\n",
    ],
)
def test_unknown_cause_is_a_crash_all_the_same(text: str) -> None:
    assert crash_of(read_reports(read_text(text.encode()).lines)) is not None
    assert judge_log(read_text(text.encode())).verdict != "no crash"


@pytest.mark.parametrize(
    "text",
    [
        "sysrq: Show backtrace of all active CPUs\nNMI backtrace for cpu 0\n"
        "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1\nRIP: 0010:frob+0x1/0x2\nCall Trace:\n frob2+0x1/0x2\n",
        "task:init            state:S stack:0     pid:1     ppid:0      flags:0x00004002\n"
        "Call Trace:\n <TASK>\n __schedule+0x351/0xa20\n",
        "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1\nCall Trace:\n dump_stack_lvl+0x1/0x2\n frob+0x1/0x2\n",
    ],
)
def test_stacks_that_somebody_asked_for_are_no_crash(text: str) -> None:
    assert crash_of(read_reports(read_text(text.encode()).lines)) is None


def test_no_panic_line_is_needed() -> None:
    text = faults.ARM64_6_6
    (found,) = read_reports(read_text(text.encode()).lines)
    assert crash_of([found]) is found and found.fatal is None


def test_next_boot_shows_that_it_died() -> None:
    text = faults.ARM64_6_6 + "Linux version 6.6.0 (a@b) (gcc) #1 SMP\n" + "usb 1-1: new device\n" * 9
    (found,) = read_reports(read_text(text.encode()).lines)
    assert found.fatal is True


def test_last_boot_that_died_counts() -> None:
    boot = "Linux version 6.6.0 (a@b) (gcc) #1 SMP\n"
    text = boot + faults.X86_GPF_6_12 + boot + faults.ARM64_6_6 + boot + "usb 1-1: new device\n" * 9
    found = crash_of(read_reports(read_text(text.encode()).lines))
    assert found is not None and found.boot == 2 and found.function == "set_pfnblock_flags_mask"


def test_lines_of_others_are_not_kept() -> None:
    lines = faults.X86_3_10.splitlines()
    mixed = "\n".join(f"{line}\nsystemd[1]: password=tr0ub4dor {number}" for number, line in enumerate(lines))
    (found,) = read_reports(read_text(mixed.encode()).lines)
    assert found.function == "move_freepages"
    assert found.trace == ("move_freepages_block", "__rmqueue", "get_page_from_freelist")
    assert not [line for line in found.lines if "tr0ub4dor" in line.text]


def test_first_and_last_are_places_in_the_log() -> None:
    text = "usb 1-1: new device\n" * 3 + faults.X86_DIVIDE
    (found,) = read_reports(read_text(text.encode()).lines)
    assert (found.first, found.last) == (3, 7)


def test_bad_rss_counter_is_no_crash_of_its_own() -> None:
    log = "BUG: Bad page map in process a  pte:80 pmd:80\nBUG: Bad rss-counter state mm:0000000012345678 val:1\n"
    found = crash_of(read_reports(read_text(log.encode()).lines))
    assert found is not None and found.kind == kinds.BAD_PAGE


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_read(data: bytes) -> None:
    judge_log(read_text(data))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, "T1", "C2"]), st.one_of(st.sampled_from(PIECES), st.text(max_size=80))),
        max_size=60,
    )
)
def test_any_order_of_real_lines_is_read(pieces: list[tuple[str | None, str]]) -> None:
    log = from_records([(number, float(number), caller, 4, text) for number, (caller, text) in enumerate(pieces)])
    found = judge_log(log)
    assert found.verdict in ("struct pages", "other", "no crash", "unknown")
    for report in found.reports:
        assert report.first <= report.last < max(len(log.lines), 1)
        assert all(registers.settled_mode() == "kernel" for registers in report.registers)


@pytest.mark.parametrize(
    "line", sorted({*PIECES, "a" * 1000, "[" * 1000, "? " * 500, "x+0x" * 250, "BUG: " * 200, " " * 1000})
)
def test_no_line_takes_long(line: str) -> None:
    """A line may be repeated in itself up to its greatest length."""
    whole = (line * (1024 // max(len(line), 1) + 1))[:1024]
    log = from_records([(number, None, None, None, text) for number, text in enumerate([whole] * 50)])
    start = time.process_time()
    judge_log(log)
    assert time.process_time() - start < 0.5


def test_time_is_proportional_to_the_log() -> None:
    def seconds(times: int) -> float:
        log = read_text((faults.X86_GPF_6_12 + faults.PPC64_NESTED).encode() * times)
        start = time.process_time()
        judge_log(log)
        return time.process_time() - start

    seconds(10)
    assert seconds(400) < 30 * max(seconds(40), 0.01)


def function_of(text: str) -> str | None:
    """Return the function that the one report of a log names."""
    (report,) = read_reports(read_text(text.encode()).lines)
    return report.function


def test_lockdep_names_who_did_it_and_not_who_was_interrupted() -> None:
    assert (
        function_of(
            "WARNING: inconsistent lock state\n"
            "6.1.0 #1 Not tainted\n"
            "tar/66 [HC1[1]:SC0[0]:HE0:SE1] takes:\n"
            "ffff8801e85ebf20 (&gizmo->lock){?.+.}-{2:2}, at: gizmo_timer+0x11/0xe0\n"
            "Call Trace:\n"
            " <IRQ>\n"
            " dump_stack_lvl+0x40/0x60\n"
            " print_usage_bug+0x10/0x20\n"
            " mark_lock+0x20/0x30\n"
            " __lock_acquire+0x40/0x60\n"
            " lock_acquire+0x40/0x60\n"
            " _raw_spin_lock+0x2b/0x40\n"
            " gizmo_timer+0x11/0xe0\n"
            " </IRQ>\n"
            "RIP: 0010:victim+0x54/0x80\n"
            " victim_caller+0x66/0x180\n"
        )
        == "gizmo_timer"
    )


@pytest.mark.parametrize(
    ("line", "frames", "function"),
    [
        (
            "BUG: scheduling while atomic: tar/66/0x00000002",
            "__schedule_bug __schedule schedule gizmo_wait",
            "gizmo_wait",
        ),
        (
            "BUG: using smp_processor_id() in preemptible [00000000] code: tar/66",
            "check_preemption_disabled debug_smp_processor_id gizmo_cpu",
            "gizmo_cpu",
        ),
        (
            "BUG: sleeping function called from invalid context at mm/slab.h:500",
            "__might_resched kmem_cache_alloc gizmo_make",
            "gizmo_make",
        ),
    ],
)
def test_rules_of_context_name_who_broke_them(line: str, frames: str, function: str) -> None:
    stack = "".join(f" {name}+0x40/0x60\n" for name in ("dump_stack_lvl", *frames.split(), "vfs_write"))
    assert function_of(f"{line}\nCPU: 1 PID: 66 Comm: tar Not tainted 6.1.0 #1\nCall Trace:\n{stack}") == function


def test_who_asks_for_too_much_is_named_and_not_the_allocator() -> None:
    text = (
        "WARNING: CPU: 1 PID: 66 at mm/page_alloc.c:5500 {0}+0x40/0x60\n"
        "RIP: 0010:{0}+0x40/0x60\n"
        "Call Trace:\n"
        " {0}+0x40/0x60\n alloc_pages_mpol+0x40/0x60\n ___kmalloc_large_node+0x4/0x60\n gizmo_write+0x40/0x60\n"
        "---[ end trace 0000000000000000 ]---\n"
    )
    assert function_of(text.format("__alloc_frozen_pages_noprof")) == "gizmo_write"
    # What it warns of within is its own.
    assert function_of(text.format("get_page_from_freelist")) == "get_page_from_freelist"


def test_stall_in_a_tracer_is_that_of_its_caller() -> None:
    assert (
        function_of(
            "rcu: INFO: rcu_sched self-detected stall on CPU\n"
            "CPU: 1 PID: 66 Comm: tar Not tainted 6.1.0 #1\n"
            "RIP: 0010:unwind_next_frame+0x40/0x60\n"
            "Call Trace:\n <TASK>\n"
            " unwind_next_frame+0x40/0x60\n arch_stack_walk+0x40/0x60\n stack_trace_save+0x40/0x60\n"
            " kasan_save_stack+0x40/0x60\n gizmo_loop+0x40/0x60\n"
        )
        == "gizmo_loop"
    )


def test_machine_that_is_halted_died_of_what_was_before() -> None:
    text = (
        "PANIC: double fault, error_code: 0x0\n"
        "CPU: 1 PID: 66 Comm: tar Not tainted 4.16.0 #1\n"
        "RIP: 0010:gizmo_wait+0x19d/0x250\n"
        "Call Trace:\n gizmo_read+0x67/0x90\n"
        "Kernel panic - not syncing: Machine halted.\n"
    )
    (report,) = read_reports(read_text(text.encode()).lines)
    assert (report.kind, report.function, report.fatal) == (kinds.FAULT, "gizmo_wait", True)


@pytest.mark.parametrize(
    "freers",
    [
        ("__free_pages_ok", "__folio_put"),
        ("free_pages_prepare", "free_unref_folios", "folios_put_refs", "release_pages"),
        ("__free_frozen_pages", "page_frag_free"),
    ],
)
def test_bad_page_is_of_who_gave_it_back(freers: tuple[str, ...]) -> None:
    frames = ("dump_stack_lvl", "bad_page", *freers, "gizmo_release", "vfs_write")
    stack = "".join(f" {name}+0x40/0x60\n" for name in frames)
    text = (
        "BUG: Bad page state in process tar  pfn:10b00\n"
        "page: refcount:0 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x10b00\n"
        "page dumped because: PAGE_FLAGS_CHECK_AT_FREE flag(s) set\n"
        "CPU: 1 PID: 66 Comm: tar Not tainted 6.10.0 #1\n"
    )
    assert function_of(f"{text}Call Trace:\n{stack}") == "gizmo_release"
    # Nobody is below: the innermost that frees.
    alone = "".join(f" {name}+0x40/0x60\n" for name in ("dump_stack_lvl", "bad_page", "free_unref_page"))
    assert function_of(f"{text}Call Trace:\n{alone}") == "free_unref_page"


@pytest.mark.parametrize("what", ["corrupted stack end detected inside scheduler", "scheduling while atomic"])
def test_panic_in_the_scheduler_is_of_who_called_it(what: str) -> None:
    stack = "".join(
        f" {name}+0x40/0x60\n"
        for name in ("dump_stack", "panic", "__schedule", "schedule", "schedule_timeout", "gizmo_thread", "kthread")
    )
    text = f"Kernel panic - not syncing: {what}\nCPU: 1 PID: 66 Comm: g Not tainted 6.1.0 #1\nCall Trace:\n{stack}"
    assert function_of(text) == "gizmo_thread"


def test_read_beyond_a_string_is_of_who_printed_it() -> None:
    stack = "".join(
        f" {name}+0x40/0x60\n"
        for name in ("dump_stack", "string", "vsnprintf", "dev_vprintk_emit", "_dev_info", "gizmo")
    )
    text = "BUG: KASAN: slab-out-of-bounds in string+0x1/0x2\nCPU: 1 PID: 6 Comm: g Not tainted 6.1.0 #1\n"
    assert function_of(f"{text}Call Trace:\n{stack}") == "gizmo"
