# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults in the form of every architecture."""

from __future__ import annotations

import pytest

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import about_pages
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.report import Report, crash_of
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.stacks import parse_frame
from tests.commands.triage import faults

# What nobody may see again: it stands for a secret in user space's registers, stack or memory.
SECRETS = (
    *("7061737377726421", "7061737377726422", "70617373", "776f7264", "73656372", "65742121", "6d79736563726574"),
    *("61 62 63", "7fffb1c2d3e4", "b7f1c549", "aaaac1b2c3d4", "3fab1c2d3e", "7ac1b2c3d4e5"),
)


def crash(text: str) -> Report:
    """Return the crash that a log tells of."""
    found = crash_of(read_reports(read_text(text.encode()).lines))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "function", "trace", "fault", "about"),
    [
        (faults.X86_3_10, "move_freepages", ("move_freepages_block", "__rmqueue"), 0xFFFFEA0001C30008, True),
        (faults.X86_2_6_32, "frob_open", ("chrdev_open",), 0x48, False),
        (faults.X86_GPF_OLD, "isolate_lru_pages", ("shrink_inactive_list",), None, True),
        (faults.X86_GPF_6_12, "isolate_migratepages_block", ("compact_zone", "kcompactd"), 0xFFDFEA0000A40008, True),
        (faults.X86_DIVIDE, "zap_stats", ("process_one_work",), None, False),
        (faults.X86_DOUBLE_FAULT, "recurse_forever", (), None, False),
        (faults.I386, "reserve_bootmem_region", ("memblock_free_all", "mem_init"), 0xF7A80004, True),
        (faults.ARM64_4_9, "suitable_migration_target", ("suitable_migration_target",), 0xFFFF7E0000290008, True),
        (faults.ARM64_6_6, "set_pfnblock_flags_mask", ("set_pfnblock_flags_mask",), 0xFFFFFC00002A0008, True),
        (faults.ARM64_USER, "frob_ioctl", ("frob_ioctl",), None, False),
        (
            faults.ARM32_5_10,
            "isolate_migratepages_block",
            ("isolate_migratepages_block", "compact_zone"),
            0xEFF00004,
            True,
        ),
        (faults.ARM32_6_1, "frob_read", ("frob_read", "vfs_read", "ksys_read"), 0xC, False),
        (faults.S390_FAULT, "isolate_freepages_block", ("isolate_freepages_block", "compaction_alloc"), None, True),
        (faults.S390_BUG, "move_freepages_block", ("move_freepages_block",), None, True),
        (
            faults.PPC64_OLD,
            "test_pages_isolated",
            ("__offline_pages", "memory_subsys_offline"),
            0xF000000000A40008,
            True,
        ),
        (faults.RISCV_5_10, "isolate_migratepages_block", ("isolate_migratepages_block",), 0xFFFFFFCF02900008, True),
        (faults.RISCV_USER, "frob_write", ("frob_write", "vfs_write"), None, False),
        (faults.XEN_USER, "free_pcppages_bulk", ("free_unref_page_commit",), 0xFFFFEA0000B50008, True),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_fault_of_every_architecture(
    text: str, function: str, trace: tuple[str, ...], fault: int | None, about: bool
) -> None:
    found = crash(text)
    assert found.function == function
    assert found.trace[: len(trace)] == trace
    if fault is not None:
        assert found.fault_address == fault
        assert fault in found.addresses
    assert about_pages(found).about is about


@pytest.mark.parametrize(
    ("text", "function", "fault"),
    [
        (
            "kernel tried to execute NX-protected page - exploit attempt? (uid: 0)\n"
            "BUG: unable to handle page fault for address: ffff888012345000\n"
            "#PF: supervisor instruction fetch in kernel mode\n"
            "Oops: Oops: 0011 [#1] SMP PTI\nRIP: 0010:0xffff888012345000\nCall Trace:\n frob_call+0x1/0x20\n",
            "frob_call",
            0xFFFF888012345000,
        ),
        (
            "CFI failure at frob_call+0x1c/0x40 (target: frob_other+0x0/0x10; expected type: 0x1b2c3d4e)\n"
            "Oops: invalid opcode: 0000 [#1] PREEMPT SMP\nRIP: 0010:frob_call+0x1c/0x40\n",
            "frob_call",
            None,
        ),
        (
            "Unhandled fault: external abort on non-linefetch (0x1008) at 0xf0080200\npgd = c0004000\n"
            "Internal error: : 1008 [#1] SMP ARM\nCPU: 0 PID: 1 Comm: swapper/0 Not tainted 4.14.0 #1\n"
            "PC is at frob_probe+0x5c/0x1a0\npc : [<c0538a3c>]    lr : [<c0538a30>]    psr: 60000013\n",
            "frob_probe",
            0xF0080200,
        ),
        (
            "SError Interrupt on CPU0, code 0x00000000be000000 -- SError\n"
            "CPU: 0 PID: 9 Comm: app Not tainted 6.6.0 #1\n"
            "pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)\npc : frob_read+0x10/0x40\n"
            "Kernel panic - not syncing: Asynchronous SError Interrupt\nCall trace:\n dump_backtrace+0x9c/0x11c\n",
            "frob_read",
            None,
        ),
        (
            "illegal operation: 0001 ilc:1 [#1] SMP\nCPU: 0 PID: 9 Comm: app Not tainted 6.1.0 #1\n"
            "Krnl PSW : 0704c00180000000 0000000000000002 (0x2)\n"
            "Call Trace:\n([<000003ff80102a5c>] frob_call+0x3c/0x60 [frob])\n [<00000000002a1b2c>] vfs_read+0x1/0x2\n",
            "frob_call",
            None,
        ),
        (
            "CPU 0 Unable to handle kernel paging request at virtual address 00000010, epc == 8012abcd, ra == 0\n"
            "Oops[#1]:\nCPU: 0 PID: 9 Comm: app Not tainted 5.10.0 #1\n"
            "epc   : 8012abcd frob_read+0x1c/0x40\nra    : 8012abc0 frob_read+0x10/0x40\n",
            "frob_read",
            0x10,
        ),
        (
            "BUG: unable to handle kernel paging request at f7a80004\nIP: [<c10e1a2b>] frob_read+0x1b/0x40\n"
            "*pde = 00000000\nOops: 0000 [#1] SMP\nPid: 9, comm: app Not tainted 3.2.0 #1\n"
            "EIP: 0060:[<c10e1a2b>] EFLAGS: 00010246 CPU: 0\nEIP is at frob_read+0x1b/0x40\n"
            "EAX: f7a80000 EBX: 00000001 ECX: 00000000 EDX: 00000000\n",
            "frob_read",
            0xF7A80004,
        ),
    ],
    ids=["NX", "CFI", "external abort", "SError", "s390x", "mips", "i386 3.2"],
)
def test_more_forms_of_faults(text: str, function: str, fault: int | None) -> None:
    (found,) = read_reports(read_text(text.encode()).lines)
    assert (found.function, found.fault_address) == (function, fault)
    assert crash_of([found]) is found


def test_s390_failing_address_is_an_address() -> None:
    assert 0x3D10C000000 in crash(faults.S390_FAULT).addresses


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        (faults.X86_3_10, {"RAX": 0x70C00, "RBX": 0xFFFFEA0001C30000, "RDI": 0xFFFF88023FFD7000}),
        (faults.X86_GPF_6_12, {"RAX": 0xFFFFEA0000A40000, "R15": 0xFFDFEA0000A40000, "CR2": 0x7F1D2C0A9000}),
        (faults.I386, {"EAX": 0xF7A80000, "EBX": 0x64000, "ESP": 0xC1A3BF40}),
        (faults.ARM64_4_9, {"x28": 0xFFFF7E0000290000, "x27": 0xA400}),
        (faults.ARM32_5_10, {"r7": 0xEFF00000, "r9": 0x2E400, "r10": 0, "sp": 0xC5D11D40}),
        (faults.S390_FAULT, {"r1": 0x3D10C000000, "r2": 0x300000, "r10": 0x3D10C000000, "r15": 0x380001FF9A0}),
        (faults.PPC64_OLD, {"r3": 0xF000000000A40000, "r4": 0xA400, "r5": 0xA500, "DAR": 0xF000000000A40008}),
        (faults.RISCV_5_10, {"s1": 0xFFFFFFCF02900000, "t2": 0xA400, "badaddr": 0xFFFFFFCF02900008}),
        (faults.XEN_USER, {"RAX": 0xFFFFEA0000B50000}),
    ],
    ids=["x86 3.10", "x86 6.12", "i386", "arm64", "arm", "s390x", "ppc64", "riscv64", "xen"],
)
def test_registers_by_their_own_names(text: str, registers: dict[str, int]) -> None:
    values = crash(text).registers[0].values
    assert {name: values.get(name) for name in registers} == registers


def secrets_in(text: str) -> list[str]:
    """Return what the reports of a log keep of user space."""
    leaked = []
    for found in read_reports(read_text(text.encode()).lines):
        kept = "\n".join((found.reason, found.what, *(line.text for line in found.lines)))
        leaked += [secret for secret in SECRETS if secret in kept]
        values = {value for registers in found.registers for value in registers.values.values()}
        leaked += [secret for secret in SECRETS if " " not in secret and int(secret, 16) in values]
    return leaked


@pytest.mark.parametrize("name", [name for name in vars(faults) if name.isupper()])
def test_nothing_of_user_space_stays(name: str) -> None:
    lines = getattr(faults, name).splitlines()
    assert not secrets_in("\n".join(lines))
    for lost in range(len(lines)):
        assert not secrets_in("\n".join(lines[:lost] + lines[lost + 1 :])), lines[lost]
        assert not secrets_in("\n".join(lines[lost:])), lines[lost]
        assert not secrets_in("\n".join(lines[:lost])), lines[lost]


def test_second_sets_of_registers_in_the_kernel_are_kept_apart() -> None:
    (found,) = read_reports(read_text(faults.PPC64_NESTED.encode()).lines)
    assert found.kind == kinds.HANG
    assert [registers.function for registers in found.registers] == ["__free_one_page", None]
    assert found.trace == ("free_unref_page", "system_call_vectored_common")
    assert (found.cpu, found.pid, found.task) == (3, 7001, "tar")


def test_unsure_frames_are_no_trace() -> None:
    assert "zone_statistics" not in crash(faults.X86_3_10).trace
    assert crash(faults.S390_FAULT).trace.count("isolate_freepages_block") == 1
    assert "test_pages_isolated" not in crash(faults.PPC64_OLD).trace


def test_last_breaking_event_is_no_trace() -> None:
    found = crash(faults.S390_FAULT)
    assert found.trace == ("isolate_freepages_block", "compaction_alloc")
    assert [stack.name for stack in found.stacks] == ["breaking event"]


def test_registers_behind_the_end_mark_are_not_counted_twice() -> None:
    assert len(crash(faults.X86_GPF_6_12).registers) == 1


@pytest.mark.parametrize(
    ("text", "fatal"), [(faults.X86_3_10, True), (faults.ARM32_5_10, None), (faults.X86_GPF_6_12, True)]
)
def test_panic_makes_a_fault_fatal(text: str, fatal: bool | None) -> None:
    assert crash(text).fatal is fatal


def test_fault_that_the_kernel_survived() -> None:
    log = faults.X86_GPF_OLD + "".join(f"usb 1-{n}: new device\n" for n in range(9))
    assert crash(log).fatal is False


def test_pointer_that_is_wrong_by_one_bit_looks_like_hardware() -> None:
    (what,) = about_pages(crash(faults.X86_GPF_6_12)).hardware
    assert "one bit" in what and "RAX" in what


def test_frames_of_arm_before_4_11() -> None:
    frame = parse_frame("(frob_read+0x0/0x2c) from [<c0008000>] (vfs_read+0x88/0x140)")
    assert frame is not None
    assert frame[0] == ("frob_read", "vfs_read")
