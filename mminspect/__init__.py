# SPDX-License-Identifier: LGPL-2.1-or-later
"""
mminspect: a linter for the Linux kernel's memory map.

In a drgn session::

    >>> from mminspect import scan
    >>> report = scan(prog)
    >>> for finding in report.findings:
    ...     print(finding.severity, finding.message)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drgn import Program

    from mminspect.findings import Report

__version__ = "0.1.0"

__all__ = ("__version__", "scan")


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
    # Imported here so that "import mminspect" costs nothing.
    from mminspect.kernel.kernel import from_program
    from mminspect.rules.registry import select_rules
    from mminspect.walk import scan as walk

    rules = select_rules(select, ignore)
    return walk.scan(from_program(prog, pageblock_order), rules)
