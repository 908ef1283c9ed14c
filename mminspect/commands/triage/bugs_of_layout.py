# SPDX-License-Identifier: LGPL-2.1-or-later
"""Quirks of stock kernels that come from where memory lies: no kernel is without them."""

from __future__ import annotations

from mminspect.commands.triage.bug import Bug

LAYOUT = (
    Bug(
        id="pfn-0",
        title="the first page links to a zone that begins behind it",
        evidence="pfn 0 is reserved and links to zone DMA, which begins at pfn 1",
        rules=("zone-span",),
        proof="the boot reserves the first page, and zone DMA's range doesn't begin at 0",
        harmful=False,
    ),
    Bug(
        id="tail-of-the-last-section",
        title="struct pages behind the end of memory link to the last zone, up to the end of the section",
        evidence="reserved pages behind a zone's end, up to a multiple of the section's size",
        rules=("zone-span",),
        proof="memory doesn't end at a multiple of the section's size",
        harmful=False,
    ),
    Bug(
        id="hole-outside-zones",
        title="struct pages of a hole link to a neighboring zone that doesn't span them",
        evidence="reserved pages of a hole, outside the span of their zone, where no walk of it comes",
        rules=("zone-span",),
        proof='the pages lie in no "node N: [mem ...]" range of the boot',
        harmful=False,
    ),
    Bug(
        id="zone-boundary",
        title="two zones meet inside a pageblock",
        evidence="each page of the pageblock is spanned by its own zone, and by no other",
        rules=("mixed-zone",),
        proof='a zone or a "node N: [mem ...]" range begins inside the pageblock',
        harmful=False,
    ),
    Bug(
        id="zones-overlap",
        title="spans of zones overlap, as nodes interleave or memory was plugged in",
        evidence="spans of two zones have pfns in common",
        rules=("zone-overlap",),
        proof='the "node N: [mem ...]" lines alternate between nodes, or memory blocks went online into a zone',
        harmful=False,
    ),
    Bug(
        id="hole-of-the-zone-above",
        title="reserved pages behind the end of low memory link to the zone above",
        evidence="reserved pages below the start of their zone",
        rules=("zone-span", "mixed-zone"),
        proof='no "node N: [mem ...]" range has the pages, and the zone above begins behind them',
        harmful=False,
    ),
    Bug(
        id="zone-id-inside-a-zone",
        title="reserved pages inside a zone get a zone id one behind the last: another node was asked for it",
        evidence="reserved pages with zone id MAX_NR_ZONES, inside the span of a zone",
        rules=("zone-id", "mixed-zone"),
        proof="the boot reserves the range, it is no RAM, and a zone spans it",
    ),
    Bug(
        id="zeroed-tail-of-mem-map",
        title="FLATMEM's mem_map ends at a multiple of the largest block, and its end is zero",
        evidence="zero struct pages behind the last zone",
        rules=("uninitialized",),
        proof="the kernel has CONFIG_FLATMEM",
        harmful=False,
    ),
)
