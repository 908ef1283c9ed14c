# SPDX-License-Identifier: LGPL-2.1-or-later
"""The buddy allocator's free lists: which of them a page is on."""

from __future__ import annotations

from typing import Any

from drgn import FaultError, Object, Program

from mminspect.memorymap.map import MemoryMap

# Steps along a free list; a longer one is taken for a loop.
MAX_STEPS = 1 << 20


class FreeLists:
    """
    The heads of all free lists.

    :param memory: The kernel's memory map.
    """

    def __init__(self, prog: Program, memory: MemoryMap) -> None:
        self._prog = prog
        self._memory = memory
        self._word = memory.layout.word_bits // 8
        self._lru = prog.type("struct page").member("lru").offset
        self._heads: dict[int, tuple[str, int, str]] = {}
        names = memory.layout.migratetypes
        for zone in memory.zones:
            areas = Object(prog, "struct zone", address=zone.address).free_area
            for order in range(memory.layout.max_order + 1):
                lists = areas[order].free_list
                for index in range(len(lists)):
                    name = names[index] if index < len(names) else str(index)
                    address = lists[index].address_
                    assert address is not None
                    self._heads[address] = (str(zone), order, name)

    def find(self, page: int) -> dict[str, Any]:
        """
        Follow the links of a free page to the head of its list.

        :param page: Address of its struct page.
        :return: ``zone``, ``order`` and ``migratetype`` of the list, or ``broken``: what is wrong with the links.
        """
        start = page + self._lru
        node = start
        for _ in range(MAX_STEPS):
            following = 0
            try:
                following = self._prog.read_word(node)
                back = self._prog.read_word(following + self._word)
            except FaultError:
                return {"broken": f"the link at {node:#x} leads to {following:#x}, which can't be read"}
            if back != node:
                return {"broken": f"the list is torn at {node:#x}: its next, {following:#x}, points back to {back:#x}"}
            if following in self._heads:
                zone, order, name = self._heads[following]
                return {"zone": zone, "order": order, "migratetype": name}
            if following == start:
                return {"broken": "the links lead back to the page without a list's head"}
            node = following
        return {"broken": f"no head of a free list within {MAX_STEPS} links"}
