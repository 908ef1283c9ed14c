# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Places where the running kernel's own files say something else than its memory map.

On a live kernel only: ``/proc/pagetypeinfo`` has the pageblock order, ``/proc/zoneinfo`` the span of each zone, and
``/proc/iomem`` the System RAM. They are computed by the kernel from the same structures that mminspect decodes, so a
disagreement means that mminspect or the kernel is wrong. Nothing else in the report should be believed then.

Memory hotplug during the scan is not a disagreement: the files are compared only if the memory map was the same
before and after they were read.

Always an error.

Example: ``mminspect --pageblock-order 10 scan`` on a kernel whose pageblocks have order 9.
"""

from __future__ import annotations

from mminspect.rules.base import Rule, never_described, no_matches

RULE_ID = "proc-disagrees"

RULE = Rule(
    RULE_ID,
    "the running kernel's files in /proc contradict its memory map",
    ("pagetypeinfo_show", "zoneinfo_show_print", "iomem_resource"),
    (),
    # The comparison is of whole files, in mminspect.walk.proc.
    no_matches,
    never_described,
    documentation=__doc__,
)
