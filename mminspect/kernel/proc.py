# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what the running kernel says of its memory in ``/proc``."""

from __future__ import annotations

import re
from pathlib import Path

from mminspect.layout.orders import read_pagetypeinfo
from mminspect.memorymap.proc import ProcFiles, ZoneInfo
from mminspect.memorymap.ranges import Range, merge, subtract

MEMORY_BLOCKS = Path("/sys/devices/system/memory")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def read_proc_files(page_size: int) -> ProcFiles:
    """Read the files. Root is needed for most of them."""
    offline: list[Range] = []
    size_text = _read(str(MEMORY_BLOCKS / "block_size_bytes")).strip()
    if size_text:
        pages = int(size_text, 16) // page_size
        for block in MEMORY_BLOCKS.glob("memory[0-9]*"):
            if _read(str(block / "state")).strip() != "online":
                number = int(block.name[len("memory") :])
                offline.append((number * pages, (number + 1) * pages))
    ram = subtract(parse_system_ram(_read("/proc/iomem"), page_size), merge(offline))
    zones = parse_zoneinfo(_read("/proc/zoneinfo"))
    return ProcFiles(read_pagetypeinfo(_read("/proc/pagetypeinfo")), tuple(zones), tuple(ram))


def parse_zoneinfo(text: str) -> list[ZoneInfo]:
    """Parse ``/proc/zoneinfo``."""
    result = []
    for part in re.split(r"^(?=Node \d+, zone)", text, flags=re.MULTILINE):
        head = re.match(r"Node (\d+), zone\s+(\S+)", part)
        if head is None:
            continue
        numbers = {
            name: int(match.group(1)) if (match := re.search(rf"^\s+{name}:?\s+(\d+)$", part, re.MULTILINE)) else None
            for name in ("spanned", "present", "start_pfn")
        }
        if numbers["spanned"] is not None and numbers["present"] is not None:
            result.append(
                ZoneInfo(
                    int(head.group(1)), head.group(2), numbers["spanned"], numbers["present"], numbers["start_pfn"]
                )
            )
    return result


def parse_system_ram(text: str, page_size: int) -> list[Range]:
    """
    Parse ``/proc/iomem``.

    :return: Pfn ranges of whole pages of System RAM, ascending. Empty if the addresses are hidden (not root).
    """
    ranges = []
    for match in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM", text, re.MULTILINE):
        start, end = int(match.group(1), 16), int(match.group(2), 16) + 1
        low, high = -(-start // page_size), end // page_size
        if low < high:
            ranges.append((low, high))
    return merge(ranges)
