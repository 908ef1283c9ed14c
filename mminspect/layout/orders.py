# SPDX-License-Identifier: LGPL-2.1-or-later
"""Allocation orders: the largest one, and that of a pageblock."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

from drgn import FaultError, Program

from mminspect.errors import LayoutError
from mminspect.program import since
from mminspect.program.arch import arch_of
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator, has_type

# More than ten times what any configuration has.
MAX_CONFIG_SIZE = 16 << 20
PAGETYPEINFO = "/proc/pagetypeinfo"


def max_order(prog: Program) -> int:
    """
    Get the largest order of the buddy allocator.

    The kernel's name for it changed (``MAX_ORDER - 1``, ``MAX_ORDER``, ``MAX_PAGE_ORDER``); the free
    lists have always one more element.

    :raises LayoutError: if the types don't tell.
    """
    # With superpageblocks, the lists are in these.
    holders = [name for name in ("struct zone", "struct superpageblock") if has_type(prog, name)]
    members = [prog.type(name).member("free_area") for name in holders if prog.type(name).has_member("free_area")]
    length = members[0].type.length if members else None
    if not length or length > 32:
        raise LayoutError("struct zone has no sensible free_area; the type information is not usable")
    order: int = length - 1
    return order


def formula(
    release: str,
    largest: int,
    hugetlb: bool,
    thp: bool,
    huge_order: int | None,
    limit: int | None = None,
) -> int | None:
    """
    ``pageblock_order`` as ``include/linux/pageblock-flags.h`` defines it.

    :param release: The kernel's release.
    :param largest: The largest order of the buddy allocator.
    :param hugetlb: Whether the kernel has CONFIG_HUGETLB_PAGE.
    :param thp: Whether it has CONFIG_TRANSPARENT_HUGEPAGE.
    :param huge_order: Order of a huge page, ``None`` if unknown.
    :param limit: CONFIG_PAGE_BLOCK_MAX_ORDER, if known. Its default is the largest order.
    :return: Order, or ``None`` if it can't be told.
    """
    # Since Linux kernel commit e13e7922d034 ("mm: add CONFIG_PAGE_BLOCK_ORDER to select page block
    # order") (in v6.16), the configuration can lower the upper bound.
    largest = min(largest, limit) if limit else largest
    # Huge pages count without hugetlb since Linux kernel 6.10.
    if hugetlb or (thp and since.thp_decides_pageblock_order(release)):
        if huge_order is None:
            return None
        # Before Linux kernel commit b3d40a2b6d10 ("mm: enforce pageblock_order < MAX_ORDER") (in v5.18), a
        # pageblock could be larger than the largest allocation.
        return min(huge_order, largest) if since.pageblock_order_is_bounded(release) else huge_order
    return largest


def read_pagetypeinfo(text: str) -> int | None:
    """
    Get the pageblock order from the text of ``/proc/pagetypeinfo``.

    :return: Order, or ``None`` if the text has no such line.
    """
    match = re.search(r"^Page block order:\s*(\d+)$", text, re.MULTILINE)
    return int(match.group(1)) if match else None


def pageblock_order(target: Target, page_shift: int, option: int | None = None) -> tuple[int, str]:
    """
    Get the order of a pageblock and where it is from.

    :param option: What the user says; it is believed.
    :return: (order, source); for the sources see :class:`~mminspect.memorymap.layout.Layout`.
    :raises LayoutError: if it can't be told.
    """
    prog = target.prog
    largest = max_order(prog)
    order, source = _find_order(target, page_shift, largest, option)
    if order is None:
        raise LayoutError(
            f"the pageblock order of {target.vmcoreinfo.release} can't be told; "
            "give it with --pageblock-order (the first line of the machine's /proc/pagetypeinfo has it)"
        )
    if not 0 < order <= 30:
        raise LayoutError(f"a pageblock order of {order} ({source}) can't be; give it with --pageblock-order")
    return order, source


def _find_order(target: Target, page_shift: int, largest: int, option: int | None) -> tuple[int | None, str]:
    prog = target.prog
    if option is not None:
        return option, "option"
    arch = arch_of(prog.platform)
    if arch.variable_pageblock_order:
        try:
            return int(prog.variable("pageblock_order").value_()), "variable"
        except (LookupError, FaultError):
            pass
    if target.is_here:
        try:
            with open(PAGETYPEINFO, encoding="ascii") as file:
                order = read_pagetypeinfo(file.read())
        except OSError:
            order = None
        if order is not None:
            return order, "pagetypeinfo"
    release = target.vmcoreinfo.release
    huge_order = arch.huge_page_order(prog, page_shift)
    # The types tell all but CONFIG_PAGE_BLOCK_MAX_ORDER.
    if since.config_decides_pageblock_order(release):
        config = _kconfig(prog)
        if config is not None:
            limit = config.get("CONFIG_PAGE_BLOCK_MAX_ORDER", config.get("CONFIG_PAGE_BLOCK_ORDER"))
            order = formula(
                release,
                largest,
                config.get("CONFIG_HUGETLB_PAGE") == "y",
                config.get("CONFIG_TRANSPARENT_HUGEPAGE") == "y",
                huge_order,
                int(limit) if limit else None,
            )
            return order, "config"
    # Each of these options brings its own statistics. A function of theirs shows a kernel that calls these otherwise.
    hugetlb = enumerator(prog, "enum vm_event_item", "HTLB_BUDDY_PGALLOC") is not None
    thp = enumerator(prog, "enum vm_event_item", "THP_FAULT_ALLOC") is not None
    if not hugetlb and target.has_function("hugetlb_fault"):
        return None, ""
    if not thp and target.has_function("do_huge_pmd_anonymous_page"):
        return None, ""
    return formula(release, largest, hugetlb, thp, huge_order), "formula"


def _kconfig(prog: Program) -> Mapping[str, str] | None:
    """Get the kernel's configuration if it carries it (CONFIG_IKCONFIG), as ``kernel/configs.c`` stores it."""
    try:
        start, end = (prog.symbol(name).address for name in ("kernel_config_data", "kernel_config_data_end"))
        if not 0 < end - start <= MAX_CONFIG_SIZE:
            return None
        text = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(prog.read(start, end - start), MAX_CONFIG_SIZE)
    except (LookupError, FaultError, zlib.error):
        return None
    lines = (line.partition("=") for line in text.decode("ascii", "replace").splitlines() if line[:1] != "#")
    return {name: value for name, _, value in lines if value}
