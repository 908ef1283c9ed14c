# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hangs: whose stack counts, and which hang killed the kernel."""

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


BODY = """\
Modules linked in:
CPU: 2 PID: 66 Comm: kcompactd0 Not tainted 6.1.0 #1
RIP: 0010:isolate_freepages_block+0x88/0x4d0
RSP: 0018:ffffb1c7805e7bb0 EFLAGS: 00010202
RAX: 0000000000000000 RBX: ffffea0000a40000 RCX: 0000000000000000
Call Trace:
 <TASK>
 compaction_alloc+0x40/0x60
 migrate_pages+0x231/0xe40
 </TASK>
"""


@pytest.mark.parametrize(
    ("first", "panic"),
    [
        ("watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [kcompactd0:66]", "softlockup: hung tasks"),
        ("NMI watchdog: BUG: soft lockup - CPU#2 stuck for 22s! [kcompactd0:66]", "softlockup: hung tasks"),
        ("BUG: soft lockup - CPU#2 stuck for 67s! [kcompactd0:66]", "softlockup: hung tasks"),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 2", "Hard LOCKUP"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 2", "Hard LOCKUP"),
        ("watchdog: CPU 2 self-detected hard LOCKUP @ isolate_freepages_block+0x88/0x4d0", "Hard LOCKUP"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "RCU Stall"),
        ("INFO: rcu_sched self-detected stall on CPU", "RCU Stall"),
    ],
)
def test_every_kind_of_lockup(first: str, panic: str) -> None:
    (found,) = reports(
        f"{first}\n{BODY}Kernel panic - not syncing: {panic}\nCPU: 2 PID: 66 Comm: a\nCall Trace:\n panic+0x1/0x2\n"
    )
    assert (found.kind, found.function) == (kinds.HANG, "isolate_freepages_block")
    assert found.trace == ("compaction_alloc", "migrate_pages")
    assert (found.fatal, found.panic, found.cpu, found.pid) == (True, panic, 2, 66)
    assert found.registers[0].values["RBX"] == 0xFFFFEA0000A40000
    assert about_pages(found).about


def test_who_waits_for_a_spinlock_hangs() -> None:
    (found,) = reports(
        "watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [tar:66]\n"
        + BODY.replace("isolate_freepages_block", "native_queued_spin_lock_slowpath").replace(
            " compaction_alloc+0x40/0x60", " _raw_spin_lock_irqsave+0x3d/0x50\n free_pcppages_bulk+0x1/0x2"
        )
    )
    assert found.function == "free_pcppages_bulk"
    assert about_pages(found).about


def test_stall_of_another_cpu() -> None:
    (found,) = reports(
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n"
        "rcu: \t2-....: (20999 ticks this GP) idle=7fa4/1/0x4000000000000000 softirq=461/461 fqs=5240\n"
        "rcu: \t(detected by 0, t=21002 jiffies, g=6743, q=969 ncpus=4)\n"
        "Sending NMI from CPU 0 to CPUs 2:\n"
        "NMI backtrace for cpu 2\n"
        + BODY
        + "rcu: rcu_preempt kthread starved for 5001 jiffies! g6743 f0x0 ->state=0x402\n"
        "rcu: \tUnless rcu_preempt kthread gets sufficient CPU time, OOM is now expected behavior.\n"
        "rcu: RCU grace-period kthread stack dump:\n"
        "task:rcu_preempt     state:I stack:0     pid:15    ppid:2      flags:0x00004000\n"
        "Call Trace:\n"
        " <TASK>\n"
        " __schedule+0x351/0xa20\n"
        " rcu_gp_kthread+0xe1/0x1a0\n"
        " </TASK>\n"
    )
    assert found.function == "isolate_freepages_block"
    assert found.trace == ("compaction_alloc", "migrate_pages")
    assert [stack.name for stack in found.stacks] == ["rcu kthread"]


def test_grace_period_thread_before_the_cpu_that_stalls() -> None:
    (found,) = reports(
        "rcu: INFO: rcu_sched self-detected stall on CPU\n"
        "rcu: \t1-...!: (10499 ticks this GP) idle=9f9/1/0x4000000000000002 softirq=2116/2117 fqs=0\n"
        "rcu: rcu_sched kthread starved for 10500 jiffies! g989 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0\n"
        "rcu: RCU grace-period kthread stack dump:\n"
        "task:rcu_sched       state:R  running task     stack:    0 pid:   13 ppid:     2 flags:0x00000008\n"
        "Call trace:\n"
        " __switch_to+0x104/0x160\n"
        " rcu_gp_kthread+0x310/0x460\n"
        "rcu: Stack dump where RCU GP kthread last ran:\n"
        "Task dump for CPU 0:\n"
        "task:app             state:R  running task     stack:    0 pid: 1432 ppid:  1414 flags:0x00000002\n"
        "Call trace:\n"
        " __switch_to+0x104/0x160\n"
        "Task dump for CPU 1:\n"
        "task:kcompactd0      state:R  running task     stack:    0 pid:   66 ppid:     2 flags:0x00000002\n"
        "Call trace:\n"
        " dump_backtrace+0x0/0x1e0\n"
        " sched_show_task+0x164/0x1a0\n"
        " rcu_sched_clock_irq+0x6a0/0xd40\n"
        " update_process_times+0x64/0xa0\n"
        " el1_irq+0xc8/0x180\n"
        " isolate_migratepages_block+0x2c4/0xd40\n"
        " compact_zone+0x53c/0xc20\n"
    )
    assert found.function == "isolate_migratepages_block"
    assert found.trace[-1] == "compact_zone"


def test_what_an_interrupt_interrupted_hangs() -> None:
    (found,) = reports(
        "INFO: rcu_sched self-detected stall on CPU\n"
        "CPU: 0 PID: 9 Comm: app Not tainted 4.19.0 #1\n"
        "Call Trace:\n"
        " <IRQ>\n"
        " dump_stack+0x71/0x9b\n"
        " rcu_check_callbacks+0x5ce/0x960\n"
        " smp_apic_timer_interrupt+0x6b/0x140\n"
        " </IRQ>\n"
        "RIP: 0010:frob_poll+0x33/0x80 [frob]\n"
        "RSP: 0018:ffffae5a03b4bb38 EFLAGS: 00000202\n"
        "RAX: 0000000000000001 RBX: ffff8881000a1b00 RCX: 0000000000000000\n"
        " frob_read+0x1c/0x60 [frob]\n"
    )
    assert found.function == "frob_poll"
    assert found.trace[-2:] == ("frob_poll", "frob_read")


def test_other_cpu_prints_its_own_backtrace() -> None:
    (found,) = reports(
        "[   10.000001][    C0] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 4-.... } 6 jiffies\n"
        "[   10.000002][    C0] Sending NMI from CPU 0 to CPUs 4:\n"
        "[   10.000003][    C4] NMI backtrace for cpu 4\n"
        "[   10.000004][    C4] CPU: 4 PID: 66 Comm: kcompactd0 Not tainted 6.1.0 #1\n"
        "[   10.000005][    C4] RIP: 0010:isolate_freepages_block+0x88/0x4d0\n"
        "[   10.000006][    C4] Call Trace:\n"
        "[   10.000007][    C4]  compaction_alloc+0x40/0x60\n"
    )
    assert (found.caller, found.function, found.trace) == ("C0", "isolate_freepages_block", ("compaction_alloc",))


HUNG = """\
INFO: task tar:{pid} blocked for more than 122 seconds.
      Not tainted 6.12.0 #1
"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.
task:tar             state:D stack:0     pid:{pid}   tgid:{pid}   ppid:2      flags:0x00004000
Call Trace:
 <TASK>
 __schedule+0x3bf/0xb30
 schedule+0x27/0xf0
 io_schedule+0x46/0x70
 folio_wait_bit_common+0x13f/0x340
 frob_writepages+0x8e1/0xd40
 </TASK>
"""


def test_blocked_task_counts_and_not_khungtaskd() -> None:
    found = crash(
        HUNG.format(pid=170)
        + HUNG.format(pid=171)
        + "Showing all locks held in the system:\n"
        + "NMI backtrace for cpu 0\n"
        + "CPU: 0 UID: 0 PID: 65 Comm: khungtaskd Not tainted 6.12.0 #1\n"
        + "Call Trace:\n watchdog+0x9a1/0xe80\n"
        + "Kernel panic - not syncing: hung_task: blocked tasks\n"
        + "CPU: 1 UID: 0 PID: 65 Comm: khungtaskd Not tainted 6.12.0 #1\n"
        + "Call Trace:\n panic+0x118/0x2f0\n kthread+0xd2/0x100\n"
    )
    assert (found.kind, found.function, found.pid) == (kinds.HANG, "frob_writepages", 170)
    assert found.trace[0] == "__schedule" and "kthread" not in found.trace
    assert found.fatal and not about_pages(found).about


def test_owner_of_what_a_task_waits_for_is_no_other_hang() -> None:
    (found,) = reports(
        HUNG.format(pid=170)
        + "INFO: task tar:170 is blocked on a mutex likely owned by task cat:9.\n"
        + "task:cat             state:S stack:0     pid:9     tgid:9     ppid:1      flags:0x00004000\n"
        + "Call Trace:\n <TASK>\n __schedule+0x3bf/0xb30\n frob_hold+0x1/0x20\n </TASK>\n"
    )
    assert (found.function, found.pid) == ("frob_writepages", 170)
    assert [stack.functions[-1] for stack in found.stacks] == ["frob_hold"]


def test_lockup_that_went_by_is_history() -> None:
    log = (
        f"[  100.000000] watchdog: BUG: soft lockup - CPU#2 stuck for 26s! [kcompactd0:66]\n{BODY}"
        + "".join(f"[ 200.00000{n}] usb 1-{n}: new device\n" for n in range(9))
        + "[ 9000.000000] BUG: kernel NULL pointer dereference, address: 0000000000000070\n"
        "[ 9000.000001] Oops: 0000 [#1] SMP NOPTI\n"
        "[ 9000.000002] RIP: 0010:frob_irq+0x33/0x90\n"
        "[ 9000.000003] Kernel panic - not syncing: Fatal exception in interrupt\n"
    )
    first, second = reports(log)
    assert (first.kind, first.fatal) == (kinds.HANG, False)
    assert (second.function, second.fatal) == ("frob_irq", True)
    assert crash_of([first, second]) is second
    assert not set(second.trace) & set(first.trace)


def test_panic_of_hours_later_is_not_the_warnings_end() -> None:
    log = (
        "WARNING: CPU: 1 PID: 31 at drivers/frob.c:1 frob_warn+0x84/0xa0\n"
        + "".join(f"usb 1-{n}: new device\n" for n in range(99))
        + "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"
    )
    first, second = reports(log)
    assert not first.fatal
    assert second.kind == kinds.PANIC and second.fatal


def test_panic_is_of_the_last_of_two_hangs_that_are_apart() -> None:
    """The first one was a minute earlier, and the machine lived on."""
    early = "".join(f"[  100.000000] {line}\n" for line in HUNG.format(pid=170).splitlines())
    late = "".join(f"[  160.000000] {line}\n" for line in HUNG.format(pid=171).splitlines())
    found = crash(
        early
        + late
        + "[  160.100000] Kernel panic - not syncing: hung_task: blocked tasks\n"
        + "[  160.100001] CPU: 1 UID: 0 PID: 65 Comm: khungtaskd Not tainted 6.12.0 #1\n"
        + "[  160.100002] Call Trace:\n[  160.100003]  panic+0x118/0x2f0\n"
    )
    assert (found.kind, found.pid, found.fatal) == (kinds.HANG, 171, True)
