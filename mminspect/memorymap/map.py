# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kernel's nodes, zones and sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mminspect.memorymap.device import DevicePages
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.lru import LruLists
from mminspect.memorymap.percpu import PerCpuPages
from mminspect.memorymap.sections import Section, SectionEntry
from mminspect.memorymap.unaccepted import UnacceptedList
from mminspect.memorymap.zones import Node, Zone


@dataclass(frozen=True)
class MemoryMap:
    """
    One kernel's nodes, zones and sections.

    :ivar zones: Every zone of every node with a pgdat, empty ones too, by (node, zone ID).
    :ivar sections: Ascending.
    :ivar phantom_zones: FLATMEM only: what the memory behind a node's zones would be taken for, by
        (node, zone ID out of the array), if it can be read.
    :ivar mem_sections: Every ``struct mem_section`` that isn't empty; none with FLATMEM.
    :ivar pfn_limit: Pfn behind the last that the machine can have, 0 if unknown.
    :ivar booted: Whether the kernel has left the boot behind it, ``None`` if that can't be told.
    :ivar section_to_node_table: Nodes by section, where ``page->flags`` has no room for them; ``None`` if unknown.
    :ivar per_cpu: Per-CPU lists, by zone and CPU; none where they were not read or can't be.
    :ivar unaccepted: Lists of unaccepted memory that aren't empty; none where they were not read or can't be.
    :ivar device: Device memory; none where it was not read or can't be.
    :ivar lru: LRU lists, ``None`` if they were not read.
    """

    layout: Layout
    nodes: tuple[Node, ...]
    zones: tuple[Zone, ...]
    sections: Sequence[Section]
    phantom_zones: dict[tuple[int, int], Zone] = field(default_factory=dict)
    mem_sections: Sequence[SectionEntry] = ()
    pfn_limit: int = 0
    booted: bool | None = None
    section_to_node_table: npt.NDArray[np.unsignedinteger] | None = field(default=None, compare=False, repr=False)
    per_cpu: tuple[PerCpuPages, ...] = field(default=(), compare=False, repr=False)
    unaccepted: tuple[UnacceptedList, ...] = field(default=(), compare=False, repr=False)
    device: tuple[DevicePages, ...] = field(default=(), compare=False, repr=False)
    lru: LruLists | None = field(default=None, compare=False, repr=False)

    def zone(self, node: int, index: int) -> Zone | None:
        """Get a zone, or ``None`` if the node is offline or the zone ID out of the array."""
        return self._zones_by_id.get((node, index))

    @cached_property
    def _zones_by_id(self) -> dict[tuple[int, int], Zone]:
        return {(z.node, z.index): z for z in self.zones}

    def node(self, nid: int) -> Node | None:
        """Get an online node, or ``None``."""
        return next((n for n in self.nodes if n.nid == nid), None)

    @property
    def populated_zones(self) -> list[Zone]:
        """The zones that span pages, by node and zone ID."""
        return [z for z in self.zones if z.spanned]

    @cached_property
    def contiguous_zones(self) -> list[Zone]:
        """The zones that span pages and are marked contiguous, by node and zone ID. Cached."""
        return [z for z in self.zones if z.contiguous and z.spanned]

    @cached_property
    def _section_starts(self) -> npt.NDArray[np.uint64]:
        """The first pfn of each section, a very large one if it has none. Ascending but for these."""
        nowhere = 1 << 63
        starts = (section.ranges[0][0] if section.ranges else nowhere for section in self.sections)
        # Those without a pfn take the place of their successor, so that the order holds.
        found = np.fromiter(starts, np.uint64, len(self.sections))
        result: npt.NDArray[np.uint64] = np.minimum.accumulate(found[::-1])[::-1]
        return result

    def section(self, pfn: int) -> Section | None:
        """Get the section of an online pfn, or ``None``."""
        if not 0 <= pfn < 1 << 63:
            return None
        at = int(self._section_starts.searchsorted(np.uint64(pfn), "right")) - 1
        if at < 0:
            return None
        section = self.sections[at]
        return section if any(start <= pfn < end for start, end in section.ranges) else None

    def online_ranges(self) -> Iterator[tuple[int, int]]:
        """Get the online pfns as half-open ranges, ascending. Those that touch are one."""
        first = last = 0
        for section in self.sections:
            for start, end in section.ranges:
                if start != last:
                    if first < last:
                        yield first, last
                    first = start
                last = end
        if first < last:
            yield first, last

    def zones_spanning(self, start: int, end: int) -> list[Zone]:
        """Get the zones that span any pfn of ``[start, end)``, by node and zone ID."""
        return [z for z in self.zones if z.spanned and z.start_pfn < end and start < z.end_pfn]

    def link_name(self, link: int) -> str:
        """Get a link in words, e.g. ``node 0 zone DMA32`` or ``node 0 zone id 5``."""
        node, index = self.layout.node_zone(link)
        zone = self.zone(node, index)
        return str(zone) if zone else f"node {node} zone id {index}"
