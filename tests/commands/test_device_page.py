# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of device memory: a struct page made by hand, in a plugged section of a stored vmcore that isn't online."""

from __future__ import annotations

import io
import struct

import pytest

from mminspect.commands import page_argument
from mminspect.commands.page import describe
from mminspect.errors import MminspectError
from mminspect.kernel.device import DeviceMemory
from mminspect.kernel.kernel import Kernel
from mminspect.render.page import write_pages
from tests.conftest import Unpacked
from tests.kit.support import AMD64_HOTPLUG, open_core

PGMAP = 0xFFFF8880049318B0


def offline_pfn(kernel: Kernel) -> int:
    """Get the first pfn of the first section that is valid and not online."""
    shift = kernel.memory.layout.pfn_section_shift
    assert shift is not None
    return next(e.nr for e in kernel.memory.mem_sections if "SECTION_IS_ONLINE" not in e.flags) << shift


@pytest.fixture
def kernel(unpacked: Unpacked) -> Kernel:
    """Give a kernel in which 1024 pages are of a device: node 0, zone 4, PG_reserved, refcount 1."""
    kernel = open_core(unpacked(AMD64_HOTPLUG))
    layout = kernel.memory.layout
    start = offline_pfn(kernel)
    device = DeviceMemory(start, start + 1024, PGMAP, "fs dax", 0)
    kernel.device_memory = [device]
    section = kernel.section(start)
    assert section is not None
    flags = layout.max_nr_zones - 1 << layout.flags.zone.shift | layout.page.reserved
    page = struct.pack("<2Q4QII Q", flags, PGMAP, 0, 0, 0, 0, 0xFFFFFFFF, 1, 0)
    data = page * 1024
    kernel.prog.add_memory_segment(
        section.mem_map + start * 64, len(data), lambda at, count, offset, physical: data[offset : offset + count]
    )
    return kernel


def test_device_page_is_described(kernel: Kernel) -> None:
    start = offline_pfn(kernel)
    (page,) = describe(kernel, start + 5, start + 6)
    assert page["state"] == "device memory, not online: pfn_to_online_page() returns NULL"
    assert (page["link"]["node"], page["link"]["zone_id"]) == (0, kernel.memory.layout.max_nr_zones - 1)
    assert (page["flags"], page["refcount"], page["mapcount"]) == ("PG_reserved", 1, 0)
    assert page["device"] == {"pagemap": PGMAP, "start_pfn": start, "end_pfn": start + 1024, "type": "fs dax"}
    assert page["owner"].startswith(f"device memory, fs dax: [{start:#x}, {start + 1024:#x})")
    assert page["words"][1] == f"{PGMAP:#x}"
    assert page["findings"] == []


def test_text_does_not_say_that_device_memory_was_judged(kernel: Kernel) -> None:
    start = offline_pfn(kernel)
    out = io.StringIO()
    argument = page_argument.parse(kernel, f"{start:#x}")
    assert argument[:3] == (start, start + 1, "pfn")
    found = {"start_pfn": start, "end_pfn": start + 1, "understood_as": "pfn", "pages": describe(kernel, *argument[:2])}
    write_pages(found, out, None)
    assert "No rule but device-memory judges it, which found nothing here." in out.getvalue()
    assert "Rules that it breaks" not in out.getvalue()


def test_memory_behind_that_of_the_device_is_still_refused(kernel: Kernel) -> None:
    start = offline_pfn(kernel)
    with pytest.raises(MminspectError, match="is not online"):
        page_argument.parse(kernel, f"{start + 1024:#x}")
    with pytest.raises(MminspectError, match="is a pfn of device memory"):
        page_argument.parse(kernel, f"{start:#x}-{start + 1025:#x}")


def test_struct_page_that_the_target_does_not_hold(unpacked: Unpacked) -> None:
    kernel = open_core(unpacked(AMD64_HOTPLUG))
    start = offline_pfn(kernel) + (64 << 9)
    kernel.device_memory = [DeviceMemory(start - 512, start + 512, PGMAP, None)]
    (page,) = describe(kernel, start, start + 1)
    assert page["state"].endswith("doesn't hold its struct page") or page["words"]
