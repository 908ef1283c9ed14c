# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which code of memory initialization a boot reached.

QEMU logs each block of code when it translates it, which it does when the block runs for the first time. Limited to
the functions of memory initialization, that costs a few hundredths of a second a boot.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contrib.explore.layout import merge
from contrib.explore.symbols import Symbols

# Functions of mm_init.c, memblock.c, sparse.c, page_alloc.c, of x86's numa.c, srat.c, e820.c, init.c and setup.c, and
# of arm64's init.c and mmu.c and what reads a device tree, that run once, at boot.
FUNCTIONS = re.compile(
    r"(__)?(next_mem_|memblock_|numa_|sparse_|free_area_init|memmap_init|init_unavailable|calculate_node_total|"
    r"find_zone_movable|find_usable_zone|deferred_(init|grow|page|free)|defer_init|page_alloc_init|reserve_bootmem|e820__|acpi_numa|setup_node_|"
    r"alloc_node_data|adjust_zone|zone_spanned|zone_absent|absent_pages|set_pageblock_order|setup_usemap|"
    r"init_currently_empty|set_zone_contiguous|get_pfn_range_for|early_pfn_to|subsection_map|memory_present|"
    r"vmemmap_populate|init_mem_mapping|init_range_memory|split_mem_range|trim_(bios|low|snb|platform|init)|setup_bootmem|kernelcore|movablecore|"
    r"cmdline_parse_(kernel|movable)core|reserve_crashkernel|dma_contiguous_|cma_|init_cma|parse_mem|setup_numa|"
    r"arm64_memblock_init|map_mem|map_memblock|early_init_dt_|of_numa_|arch_numa_|fdt_(init|scan)_reserved|reserve_regions|"
    r"bootmem_init|zone_sizes_init|efi_(init|find_mirror)|unflatten_device_tree|"
    r"dummy_numa|x86_numa|x86_acpi_numa|split_nodes|highmem_|mminit_|init_per_zone|mm_core_init|mem_init)\w*"
)
# Symbols around the code, and around the code that is freed after boot.
TEXT = (("_stext", "_etext"), ("_sinittext", "_einittext"))
MAX_FUNCTION = 0x8000
INSTRUCTION = re.compile(rb"^0x([0-9a-f]+):  ((?:[0-9a-f]{2} ?)+)", re.MULTILINE)
BLOCK = b"----------------"


@dataclass(frozen=True, order=True)
class Block:
    """
    A block of code: it runs from its start to its end.

    :ivar start: Address of the first instruction.
    :ivar end: Address behind the last one.
    """

    start: int
    end: int


@dataclass(frozen=True)
class Function:
    """
    How much of a function was reached.

    :ivar name: Its name.
    :ivar size: Its size in bytes.
    :ivar reached: How many of them belong to blocks that ran.
    """

    name: str
    size: int
    reached: int


def functions(symbols: Symbols) -> dict[str, tuple[int, int]]:
    """Return start and size of the functions of memory initialization that a kernel has."""
    areas = [(symbols.get(start), symbols.get(end)) for start, end in TEXT]
    found = {}
    for name, address in symbols.addresses.items():
        is_code = any(start is not None and end is not None and start <= address < end for start, end in areas)
        if is_code and FUNCTIONS.fullmatch(name) and 0 < symbols.size(name) <= MAX_FUNCTION:
            found[name] = (address, symbols.size(name))
    return found


def log_filter(symbols: Symbols) -> str:
    """Return what QEMU's ``-dfilter`` takes."""
    return ",".join(f"{start:#x}+{size:#x}" for start, size in sorted(functions(symbols).values()))


def read_blocks(log: bytes) -> tuple[Block, ...]:
    """Return the blocks in QEMU's log."""
    blocks = set()
    for part in log.split(BLOCK):
        lines = list(INSTRUCTION.finditer(part))
        if lines:
            start, last = (int(line.group(1), 16) for line in (lines[0], lines[-1]))
            blocks.add(Block(start, last + len(bytes.fromhex(lines[-1].group(2).decode()))))
    return tuple(sorted(blocks))


def by_function(symbols: Symbols, blocks: Iterable[Block]) -> list[Function]:
    """Return how much of each function blocks reach, the one with most left to reach first."""
    reached: dict[str, list[tuple[int, int]]] = defaultdict(list)
    known = functions(symbols)
    for block in blocks:
        name = symbols.name(block.start)
        if name in known:
            reached[name].append((block.start, block.end))
    found = []
    for name, (_, size) in known.items():
        parts = merge(reached[name])
        found.append(Function(name, size, min(size, sum(end - start for start, end in parts))))
    return sorted(found, key=lambda function: (function.reached - function.size, function.name))


def table(found: Sequence[Function], most: int = 25) -> str:
    """Return the functions with most code left to reach, as text."""
    total, reached = sum(function.size for function in found), sum(function.reached for function in found)
    entered = sum(function.reached > 0 for function in found)
    parts = f"{entered} of {len(found)} functions entered"
    lines = [f"{reached:,} of {total:,} bytes of memory initialization reached, {parts}. Most is left in"]
    for function in found[:most]:
        lines.append(f"  {function.size - function.reached:>6} of {function.size:>6} bytes  {function.name}")
    return "\n".join(lines)
