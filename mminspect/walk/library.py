# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scan a kernel that is open in drgn: ``from mminspect import scan``."""

from __future__ import annotations

from collections.abc import Sequence

from drgn import Program

from mminspect.findings import Report
from mminspect.kernel.kernel import from_program
from mminspect.rules.registry import select_rules
from mminspect.walk.scan import scan as scan_kernel


def scan(
    prog: Program,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    pageblock_order: int | None = None,
) -> Report:
    """
    Scan the memory map of a kernel that is open in drgn.

    :param prog: The kernel: live, or a vmcore. If it has no type information yet, BTF is looked for and added to it.
    :param select: IDs of the rules to apply; all if empty.
    :param ignore: IDs of rules to leave out.
    :param pageblock_order: Overrides what the kernel says.
    :return: The report; its findings are sorted by pfn.
    :raises mminspect.errors.MminspectError: if the kernel can't be analyzed.
    """
    rules = select_rules(select, ignore)
    return scan_kernel(from_program(prog, pageblock_order), rules)
