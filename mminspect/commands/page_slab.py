# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which slab object is at an address: ``mminspect page --slab``."""

from __future__ import annotations

from typing import Any

from drgn import Object, cast
from drgn.helpers.linux.mm import PageSlab, compound_head
from drgn.helpers.linux.slab import slab_object_info

from mminspect.commands.owner import slab_cache
from mminspect.commands.page_argument import Meant, number
from mminspect.errors import MminspectError
from mminspect.kernel.identify import virtual_to_pfn
from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import READ_ERRORS
from mminspect.memorymap.mmzone import pfn_to_page


def slab_page(kernel: Kernel, text: str) -> Meant:
    """
    Find the slab object that has a kernel virtual address.

    :param text: The address.
    :raises MminspectError: if it is in none.
    """
    address = number(text)
    memory = kernel.memory
    pfn = virtual_to_pfn(kernel.target, memory, address)
    section = None if pfn is None else memory.section(pfn)
    if pfn is None or section is None:
        raise MminspectError(f"{text}: no kernel virtual address of online memory")
    try:
        page = Object(kernel.prog, "struct page *", pfn_to_page(memory.layout, section, pfn))
        head = compound_head(page)
        if not PageSlab(head):
            raise MminspectError(f"{text}: pfn {pfn:#x} has no slab; 'mminspect page {pfn:#x}' tells what it has")
        first = pfn - (page.value_() - head.value_()) // memory.layout.page.size
    except READ_ERRORS as e:
        raise MminspectError(f"{text}: the struct page of pfn {pfn:#x} can't be read: {e}") from None
    start = address - address % memory.layout.page_size - (pfn - first) * memory.layout.page_size
    about: dict[str, Any] = {"address": address, "cache": slab_cache(kernel.prog, head), "start": start}
    return Meant(pfn, pfn + 1, "slab object", {"slab_object": {**about, **_object(kernel, head, address, start)}})


def _object(kernel: Kernel, head: Object, address: int, start: int) -> dict[str, Any]:
    """Say which object it is, as far as that can be read."""
    info: dict[str, Any] = dict.fromkeys(("object_size", "objects", "object", "index", "offset", "allocated"))
    try:
        try:
            # Since Linux kernel commit d122019bf061 ("mm: Split slab into its own type") (in v5.17).
            slab = cast("struct slab *", head)
        except LookupError:
            slab = head
        cache = slab.slab_cache
        size = int(cache.size.value_())
        info["object_size"] = int(cache.object_size.value_())
        info["objects"] = int(slab.objects.value_())
        found = slab_object_info(kernel.prog, address)
        if found is not None and size:
            info["object"], info["allocated"] = found.address, found.allocated
            info["index"], info["offset"] = (found.address - start) // size, address - found.address
    except READ_ERRORS:
        # What the target doesn't hold is unknown.
        pass
    return info
