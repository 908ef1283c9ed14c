# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels that really died: the logs of guests in which lkdtm made each of its kinds of crash.

What is right follows from the source of lkdtm: the function that does what the kernel dies of has the crash type in its
name, or is a helper of the file. ``tests/data/lkdtm/README.md`` tells how the logs were made.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import about_pages
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.reports import read_reports
from tests.kit.support import DATA

FOLDER = DATA / "lkdtm"
SECTION = re.compile(r"^==== (\w+)\n", re.MULTILINE)

# By the beginning of the crash type: the report's kind, and the function if it isn't lkdtm_TYPE().
EXPECTED: dict[str, tuple[str, str | None]] = {
    "ACCESS_": (kinds.FAULT, None),
    "ATOMIC_TIMING": (kinds.HANG, None),
    "BUG": (kinds.BUG_AT, None),
    "CORRUPT_LIST_ADD": (kinds.LIST, "__list_add_valid"),
    "CORRUPT_LIST_DEL": (kinds.LIST, "__list_del_entry_valid"),
    "CORRUPT_STACK": (kinds.PANIC, None),
    "EXCEPTION": (kinds.FAULT, None),
    "EXEC_DATA": (kinds.FAULT, "data_area"),
    "EXEC_RODATA": (kinds.FAULT, "lkdtm_rodata_do_nothing"),
    "EXEC_USERSPACE": (kinds.FAULT, None),
    "EXEC_": (kinds.FAULT, "execute_location"),
    "EXHAUST_STACK": (kinds.FAULT, "recursive_loop"),
    "FORTIFY_MEM_MEMBER": (kinds.WARNING, None),
    "FORTIFY_": (kinds.BUG_AT, None),
    "HARDLOCKUP": (kinds.HANG, None),
    "HUNG_TASK": (kinds.HANG, "direct_entry"),
    "LOOP": (kinds.HANG, None),
    "PANIC": (kinds.PANIC, None),
    "REFCOUNT_TIMING": (kinds.HANG, None),
    "REFCOUNT_": (kinds.WARNING, None),
    # With slub_debug=FZPU: who takes the object next, and who frees it.
    "SLUB_WRITE_AFTER_FREE": ("slub", "lkdtm_WRITE_AFTER_FREE"),
    "SLUB_SLAB_LINEAR_OVERFLOW": ("slub", "direct_entry"),
    "SLAB_FREE_DOUBLE": (kinds.BUG_AT, "direct_entry"),
    "SLAB_FREE_": (kinds.WARNING, "cache_from_obj"),
    "SOFTLOCKUP": (kinds.HANG, None),
    "SPINLOCKUP": (kinds.LOCKING, "do_task_dead"),
    "STACK_GUARD_PAGE_": (kinds.FAULT, None),
    "SYSRQ_C": (kinds.PANIC, "sysrq_handle_crash"),
    "USERCOPY_KERNEL": (kinds.BUG, None),
    "USERCOPY_SLAB_SIZE": (kinds.BUG, "do_usercopy_slab_size"),
    "USERCOPY_SLAB_WHITELIST": (kinds.BUG, "do_usercopy_slab_whitelist"),
    "USERCOPY_STACK": (kinds.BUG, "do_usercopy_stack"),
    "USERCOPY_FOLIO": (kinds.BUG, "do_usercopy_page_span"),
    "USERCOPY_VMALLOC": (kinds.FAULT, "do_usercopy_page_span"),
    "VMALLOC_LINEAR_OVERFLOW": (kinds.FAULT, None),
    "WARNING": (kinds.WARNING, None),
    "WRITE_": (kinds.FAULT, None),
}

# What some kernels say otherwise, and why.
OTHERWISE: dict[tuple[str, str], tuple[str, str]] = {
    # fortify_panic() had its own message before Linux 6.9, and memset() was no trap.
    **{("amd64-6.1", name): (kinds.BUG, f"lkdtm_{name}") for name in ("FORTIFY_MEM_OBJECT", "FORTIFY_STRSCPY")},
    **{("amd64-6.1", name): (kinds.BUG, f"lkdtm_{name}") for name in ("FORTIFY_STR_MEMBER", "FORTIFY_STR_OBJECT")},
    ("amd64-6.1", "VMALLOC_LINEAR_OVERFLOW"): (kinds.BUG, "lkdtm_VMALLOC_LINEAR_OVERFLOW"),
    # The copy succeeds: nothing is printed.
    **{(kernel, "USERCOPY_VMALLOC"): ("", "") for kernel in ("amd64-6.1", "amd64-6.12", "ppc64el-6.12", "s390x-6.12")},
    **{("s390x-6.12", f"USERCOPY_STACK_FRAME_{name}"): ("", "") for name in ("FROM", "TO")},
    ("ppc64el-6.12", "STACK_GUARD_PAGE_LEADING"): ("", ""),
    # panic() is the last that lkdtm_PANIC() does, so the kernel names the function behind it, which is none of these.
    **{(f"{arch}-6.12", "PANIC"): (kinds.PANIC, "lkdtm_do_action") for arch in ("arm64", "riscv64", "s390x")},
    **{(f"{arch}-6.12", "SYSRQ_C"): (kinds.PANIC, "__handle_sysrq") for arch in ("riscv64", "s390x")},
    # There the unwinder stops.
    **{("armhf-6.12", name): (kinds.PANIC, "") for name in ("PANIC", "SYSRQ_C")},
    # The code that runs has no symbol, or ends with a jump.
    **{("armhf-6.12", name): (kinds.FAULT, "execute_location") for name in ("EXEC_DATA", "EXEC_RODATA")},
    ("armhf-6.12", "WARNING"): (kinds.WARNING, "lkdtm_do_action"),
    # The stack is not what overflowed; nothing of it is left to be told.
    **{("s390x-6.12", name): (kinds.FAULT, "") for name in ("CORRUPT_STACK", "CORRUPT_STACK_STRONG")},
    ("s390x-6.12", "EXEC_NULL"): (kinds.OOPS, "execute_location"),
    # The scheduler finds it in whatever runs next.
    ("ppc64el-6.12", "EXHAUST_STACK"): (kinds.PANIC, "tlb_flush_mmu_free"),
}


def logs() -> Iterator[tuple[str, str, str]]:
    """Give the logs: kernel, crash type and text."""
    for path in sorted(FOLDER.glob("*.xz")):
        _, *parts = SECTION.split(lzma.decompress(path.read_bytes()).decode())
        for crash_type, text in zip(parts[::2], parts[1::2]):
            yield path.name.partition(".txt")[0], crash_type, text


def first_report(text: str) -> Report | None:
    """Return what happened first, if it isn't a warning; what follows is of a kernel that is ill."""
    reports = read_reports(read_text(text.encode()).lines)
    return next((report for report in reports if report.fatal or report.deadly), reports[0] if reports else None)


def test_kind_and_function() -> None:
    wrong = []
    for kernel, crash_type, text in logs():
        usual = next((value for start, value in EXPECTED.items() if crash_type.startswith(start)), ("", ""))
        kind, function = OTHERWISE.get((kernel, crash_type), usual)
        report = first_report(text)
        found = (report.kind, (report.function or "").removesuffix("_or_report")) if report else ("", "")
        if found != (kind, f"lkdtm_{crash_type}" if function is None else function):
            wrong.append((kernel, crash_type, *found))
    assert not wrong, "\n".join(map(str, wrong))


def test_none_is_about_struct_pages() -> None:
    for kernel, crash_type, text in logs():
        report = first_report(text)
        if report is not None:
            assert not about_pages(report, lambda address: False, ()).about, (kernel, crash_type)
