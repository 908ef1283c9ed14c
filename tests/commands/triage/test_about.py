# SPDX-License-Identifier: LGPL-2.1-or-later
"""What in a report is about struct pages, or about the machine."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.about import _addresses, is_machine_check
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.report import crash_of
from mminspect.commands.triage.reports import read_reports


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mce: [Hardware Error]: Machine check events logged", False),
        ("mce: CPU0: Thermal monitoring enabled (TM1)", False),
        ("mce: Using 10 MCE banks", False),
        ("EDAC MC: Ver: 3.0.0", False),
        ("EDAC MC0: Giving out device to module skx_edac", False),
        ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 4: 9c00", True),
        ("EDAC MC0: 1 CE memory read error", True),
        ("random: crng init done", False),
    ],
)
def test_lines_of_the_machine_that_mean_no_error(line: str, expected: bool) -> None:
    assert is_machine_check(line) is expected


@pytest.mark.parametrize(("distance", "told"), [(0x34, True), (-8, True), (0xFFF, True), (0x1000, False)])
def test_access_through_a_register_that_holds_a_struct_page(distance: int, told: bool) -> None:
    page = 0xFFFFEA0000A40000
    fault = page + distance
    text = (
        f"BUG: unable to handle page fault for address: {fault:016x}\n"
        "#PF: supervisor write access in kernel mode\n"
        "Oops: 0002 [#1] PREEMPT SMP\n"
        "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1\n"
        "RIP: 0010:frob_device+0x1c/0x2b0\n"
        f"RAX: 0000000000000000 RBX: {page:016x} RCX: 0000000000000001\n"
        "RDX: 0000000000000000 RSI: 0000000000000000 RDI: 0000000000000000\n"
        "Call Trace:\n"
        " frob_ioctl+0x18/0x2e\n"
    )
    found = crash_of(read_reports(read_text(text.encode()).lines))
    assert found is not None
    told_as = f"the access to {fault:#x} was made through RBX, a struct page at {page:#x}"
    assert (told_as in _addresses(found, lambda value: value == page)) is told
