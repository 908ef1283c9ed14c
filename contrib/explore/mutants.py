# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Mistakes put into a kernel: how many of them do layouts show, and after how many?

A mutant differs from its kernel in one instruction of memory initialization that runs on a plain layout. What is
changed is what a small mistake in the source changes: a comparison that is off by one, a check that is missing, a
constant that is off by one, a call that is left out.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from contrib.explore.coverage import Block
from contrib.explore.cpu import Cpu
from contrib.explore.draw import Seeded
from contrib.explore.generate import generate
from contrib.explore.image import Image
from contrib.explore.kernel import Kernel
from contrib.explore.layout import Layout, dumps
from contrib.explore.workers import Pool, Spec, Task
from contrib.kernels.errors import HarnessError

# Functions of mm_init.c, memblock.c, sparse.c and page_alloc.c that decide what the memory map is.
FUNCTIONS = re.compile(
    r"(__)?(memmap_init|init_unavailable|free_area_init|mm_core_init|adjust_zone|calculate_node|find_zone_movable|"
    r"memblock_(add|isolate|merge|set_node|reserve|remove|insert|trim|free_all|overlaps|search)|next_mem_|sparse_|"
    r"memory_present|subsection_map|deferred_|init_deferred|reserve_bootmem|set_zone_contiguous|absent_pages|"
    r"get_pfn_range|init_pageblock|setup_usemap|zone_spanned|init_single_page|page_alloc_init|memblocks_present|"
    r"free_unused_memmap|set_pageblock)\w*"
)
# Opcodes of conditional jumps that differ only in whether "equal" jumps, by the low four bits: b and be, ae and a, l
# and le, ge and g.
TWINS = {0x2: 0x6, 0x6: 0x2, 0x3: 0x7, 0x7: 0x3, 0xC: 0xE, 0xE: 0xC, 0xD: 0xF, 0xF: 0xD}
NOPS = {2: b"\x66\x90", 5: b"\x0f\x1f\x44\x00\x00", 6: b"\x66\x0f\x1f\x44\x00\x00"}
# How often both kernels are tried on a layout before a signature is the mutant's.
REPEATS = 2
# The bug of 2021: each hole goes to zone 0 of node 0.
BUG_OF_2021 = ("init_unavailable_range", bytes.fromhex("31d231c990"))


@dataclass(frozen=True)
class Mutant:
    """
    A mistake.

    :ivar poke: Where, as ``SYMBOL+0xOFFSET``, and the bytes.
    :ivar what: The mistake in words.
    :ivar instruction: What was there.
    """

    poke: tuple[str, bytes]
    what: str
    instruction: str


@dataclass
class Result:
    """
    What layouts show of a mutant.

    :ivar layouts: How many were tried.
    :ivar keys: Signatures that the kernel itself doesn't give on the layout that showed it; empty if none did.
    :ivar shown_by: That layout.
    :ivar failure: What the harness failed on.
    """

    mutant: Mutant
    layouts: int = 0
    keys: list[str] = field(default_factory=list)
    shown_by: str = ""
    failure: str = ""


def _changes(code: bytes, mnemonic: str) -> Iterator[tuple[str, bytes]]:
    """Return mistakes that one instruction can have: in words, and the bytes."""
    first = code[0]
    is_short, is_long = 0x70 <= first <= 0x7F, first == 0x0F and len(code) == 6 and 0x80 <= code[1] <= 0x8F
    if is_short or is_long:
        at = 0 if is_short else 1
        twin = TWINS.get(code[at] & 0xF)
        if twin is not None:
            yield "a comparison is off by one", code[:at] + bytes([code[at] & 0xF0 | twin]) + code[at + 1 :]
        yield "a check never holds", NOPS[len(code)]
        yield "a check is inverted", code[:at] + bytes([code[at] ^ 1]) + code[at + 1 :]
    elif first == 0xE8 and len(code) == 5:
        yield "a call is left out", NOPS[5]
    elif mnemonic in ("add", "sub", "cmp", "lea") and code[-1] in (1, 0xFF) and len(code) <= 4:
        # The last byte is the constant, which is 1 or -1.
        yield "a constant is 0 in place of 1", code[:-1] + b"\0"


def _bytes_at(image: Image, start: int, size: int) -> bytes:
    for segment in image.segments:
        if segment.virtual <= start < segment.virtual + len(segment.data):
            return segment.data[start - segment.virtual :][:size]
    return b""


def mutants(kernel: Kernel, blocks: Iterable[Block]) -> list[Mutant]:
    """
    Return all mutants of a kernel.

    :param blocks: The code that runs on a plain layout.
    :raises HarnessError: if capstone isn't installed, or the kernel is not of x86.
    """
    if not kernel.image.cpu.is_x86:
        raise HarnessError(f"mistakes are put into kernels of amd64 and i386, not of {kernel.image.cpu.name}")
    try:
        capstone: Any = importlib.import_module("capstone")
    except ImportError:
        raise HarnessError("capstone is not installed; install mminspect[explore]") from None
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if kernel.image.wide else capstone.CS_MODE_32)
    symbols = kernel.symbols
    fentry = symbols.get("__fentry__")
    found: dict[tuple[str, bytes], Mutant] = {}
    for block in blocks:
        name = symbols.name(block.start)
        if not FUNCTIONS.fullmatch(name):
            continue
        for one in decoder.disasm(_bytes_at(kernel.image, block.start, block.end - block.start), block.start):
            if one.mnemonic == "call" and (fentry is None or one.op_str in (hex(fentry), "rax")):
                continue
            for what, code in _changes(bytes(one.bytes), one.mnemonic):
                place = f"{name}+{one.address - symbols.need(name):#x}"
                found[place, code] = Mutant((place, code), what, _readable(kernel, f"{one.mnemonic} {one.op_str}"))
    return list(found.values())


def _readable(kernel: Kernel, instruction: str) -> str:
    """Return an instruction with the function's name in place of an address that it calls."""
    match = re.fullmatch(r"call (0x[0-9a-f]+)", instruction)
    return f"call {kernel.symbols.name(int(match.group(1), 16))}" if match else instruction


def bug_of_2021(kernel: Kernel) -> list[Mutant]:
    """Return the bug of 2021, if the kernel has a function to put it in."""
    has_it = BUG_OF_2021[0] in kernel.symbols
    return [Mutant(BUG_OF_2021, "each hole goes to zone 0 of node 0", "call __fentry__")] if has_it else []


def choose(every: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return some mutants, each function and each kind of mistake as often as others as far as they go."""
    generator = random.Random(seed)
    left = list(every)
    generator.shuffle(left)
    chosen: list[Mutant] = []
    used: dict[str, int] = {}

    def weight(mutant: Mutant) -> int:
        return used.get(mutant.poke[0].split("+")[0], 0) * 2 + used.get(mutant.what, 0)

    while left and len(chosen) < count:
        best = min(left, key=weight)
        left.remove(best)
        chosen.append(best)
        for key in (best.poke[0].split("+")[0], best.what):
            used[key] = used.get(key, 0) + 1
    return chosen


def layouts(corpus: list[Layout], count: int, seed: int, cpu: Cpu) -> list[Layout]:
    """Return the layouts of the corpus, and as many random ones as are missing."""
    return [*corpus, *(generate(Seeded(seed + number), cpu) for number in range(max(0, count - len(corpus))))][:count]


class Trial:
    """
    Tries mutants of a kernel on layouts, one after another until one shows the mutant.

    :param pool: Does the work.
    :param spec: The kernel.
    :param layouts: The layouts, the most telling first.
    """

    def __init__(self, pool: Pool, spec: Spec, layouts: list[Layout]) -> None:
        self._pool = pool
        self._spec = spec
        self._layouts = layouts
        self._normal: dict[str, set[str]] = {}

    def _keys(self, spec: Spec, text: str) -> set[str]:
        found: set[str] = set()
        for done in self._pool.run(spec, iter([Task(text)] * REPEATS)):
            if done.outcome is None:
                raise HarnessError(done.error)
            found |= done.outcome.keys
        return found

    def _once(self, spec: Spec, text: str) -> set[str]:
        (done,) = self._pool.run(spec, iter([Task(text)]))
        if done.outcome is None:
            raise HarnessError(done.error)
        return done.outcome.keys

    def run(self, mutant: Mutant) -> Result:
        """Try a mutant."""
        result = Result(mutant)
        spec = Spec(self._spec.path, self._spec.vmlinux, self._spec.system_map, (mutant.poke,))
        try:
            for layout in self._layouts:
                text = dumps(layout)
                if text not in self._normal:
                    self._normal[text] = self._keys(self._spec, text)
                result.layouts += 1
                new = self._once(spec, text) - self._normal[text]
                # What timing decides isn't the mutant's.
                if new and (new := new & self._once(spec, text)):
                    result.keys, result.shown_by = sorted(new), text
                    break
        except HarnessError as error:
            result.failure = str(error)
        return result


def line(result: Result) -> str:
    """Return a result as a line."""
    mutant = result.mutant
    said = f"{mutant.poke[0]}={mutant.poke[1].hex()} ({mutant.instruction}): {mutant.what}: "
    if result.failure:
        return f"{said}the harness failed: {result.failure}"
    if not result.keys:
        return f"{said}not shown by {result.layouts} layouts"
    more = f", and {len(result.keys) - 1} more" if len(result.keys) > 1 else ""
    return f"{said}layout {result.layouts}: {result.keys[0]}{more}"
