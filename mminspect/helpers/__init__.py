# SPDX-License-Identifier: LGPL-2.1-or-later
"""What drgn's helpers lack of the memory map: functions of drgn objects, named after the kernel's."""

from __future__ import annotations

from mminspect.helpers.mmzone import page_to_nid, page_zone, page_zonenum, pfn_to_online_page, zone_spans_pfn
from mminspect.helpers.page_alloc import for_each_free_page, for_each_pageblock, for_each_pcp_page
from mminspect.helpers.page_alloc import get_pfnblock_migratetype as get_pfnblock_migratetype

__all__ = (
    "for_each_free_page",
    "for_each_pageblock",
    "for_each_pcp_page",
    "get_pfnblock_migratetype",
    "page_to_nid",
    "page_zone",
    "page_zonenum",
    "pfn_to_online_page",
    "zone_spans_pfn",
)
