# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a scan says besides its findings: counts, the kernel, its zones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mminspect.findings import Report
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.describe import describe_zones
from mminspect.rules.base import Rule
from mminspect.walk.engine import Scan
from mminspect.walk.spill import Findings


def summarize(walk: Scan, rules: Sequence[Rule], findings: Findings, seconds: float) -> dict[str, Any]:
    """Count pages and findings, as the report's ``summary`` has it."""
    by_rule = {rule.id: {"findings": 0, "pages": 0} for rule in rules}
    for rule_id, (number, pages) in findings.by_rule.items():
        by_rule[rule_id] = {"findings": number, "pages": pages}
    return {
        "pages_examined": walk.pages_examined,
        "pages_unreadable": walk.pages_unreadable,
        "pageblocks": walk.pageblocks,
        "by_rule": by_rule,
        **findings.counts(),
        "skipped": walk.skipped(),
        "elapsed_seconds": round(seconds, 3),
    }


def describe_target(kernel: Kernel) -> dict[str, Any]:
    """Describe the kernel and its layout, as the report's ``target`` has it."""
    target, layout = kernel.target, kernel.memory.layout
    flags = layout.flags
    incomplete = {} if target.incomplete is None else {"incomplete": target.incomplete.why}
    return {
        "kind": target.kind,
        **({"guest": {"stopped": target.is_still}} if target.is_guest else {}),
        "path": target.path,
        "release": layout.release,
        "machine": layout.machine,
        "tried": layout.tried,
        "page_size": layout.page_size,
        "memory_model": layout.memory_model,
        "pageblock_order": layout.pageblock_order,
        "pageblock_order_from": layout.pageblock_order_from,
        "bits_per_pageblock": layout.bits_per_pageblock,
        "types_from": kernel.types.types_from,
        "page_flags_layout": {
            "section": {"shift": flags.section.shift, "width": flags.section.width},
            "node": {"shift": flags.node.shift, "width": flags.node.width},
            "zone": {"shift": flags.zone.shift, "width": flags.zone.width},
            "node_not_in_page_flags": flags.node_not_in_page_flags,
            "flags_type": "memdesc_flags_t" if flags.memdesc else "unsigned long",
        },
        "struct_page_size": layout.page.size,
        **incomplete,
    }


def make_report(kernel: Kernel, walk: Scan, rules: Sequence[Rule], findings: Findings, start: float) -> Report:
    """
    Make the report of a walk.

    :param start: When it began, by :func:`time.monotonic`.
    """
    summary = summarize(walk, rules, findings, time.monotonic() - start)
    if walk.stopped:
        summary["partial"] = True
    return Report(describe_target(kernel), describe_zones(kernel.memory), summary, findings)
