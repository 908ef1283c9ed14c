# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which pages the argument of ``mminspect page`` means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable, NamedTuple

from mminspect.errors import MminspectError
from mminspect.kernel.identify import virtual_to_pfn
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.structpages import StructPages
from mminspect.typeinfo.symbols import CAPTURE_NOTE

# Pages of a range that are shown one by one.
MAX_PAGES = 4096
_NUMBER = r"0[xX][0-9a-fA-F]+|[0-9]+"


class Meant(NamedTuple):
    """
    Pages that are meant.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar understood_as: What the argument was taken for.
    :ivar about: What else is known of it, by key.
    """

    start: int
    end: int
    understood_as: str
    about: Mapping[str, Any] = MappingProxyType({})

    def as_dict(self, pages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what a command writes, with what it found out about the pages."""
        place = {"start_pfn": self.start, "end_pfn": self.end, "understood_as": self.understood_as}
        return {**place, **self.about, "pages": pages}


def parse(kernel: Kernel, text: str) -> Meant:
    """
    Find out which pages are meant.

    :param text: A pfn, a physical address, the address of a struct page, a kernel virtual address, or a range
        ``START-END`` (half-open) of two of a kind. The first of these kinds that fits is taken.
    :raises MminspectError: if it is none of these.
    """
    memory = kernel.memory
    page_shift = memory.layout.page_size.bit_length() - 1
    match = re.fullmatch(rf"({_NUMBER})(?:-({_NUMBER}))?", text.strip())
    if match is None:
        raise MminspectError(
            f"{text!r}: neither a number nor a range START-END; give pfns or addresses, hexadecimal with 0x"
        )
    first = _number(match.group(1))
    # A range is half-open: its end can lie after all memory, its last byte or page can't.
    last = first if match.group(2) is None else _number(match.group(2)) - 1
    if last < first:
        raise MminspectError(f"{text}: a range is START-END, END after START")
    if kernel.section(first) is not None and kernel.section(last) is None:
        where = "online" if memory.section(first) is not None else "device"
        raise MminspectError(f"{text}: {first:#x} is a pfn of {where} memory, {last:#x} is not")
    _refuse_offline(kernel, text, first)
    kinds: Sequence[tuple[str, Callable[[int], int | None]]] = (
        ("pfn", lambda value: value),
        ("struct page address", lambda value: _page_to_pfn(kernel, value)),
        ("physical address", lambda value: value // memory.layout.page_size),
        ("virtual address", lambda value: virtual_to_pfn(kernel.target, memory, value)),
    )
    for kind, to_pfn in kinds:
        start, end = to_pfn(first), to_pfn(last)
        if start is None or end is None or kernel.section(start) is None or kernel.section(end) is None:
            continue
        if kind == "virtual address" and end - start != (last >> page_shift) - (first >> page_shift):
            raise MminspectError(f"{text}: these addresses are not next to each other in physical memory")
        if end - start >= MAX_PAGES:
            raise MminspectError(f"{text}: {end - start + 1} pages; {MAX_PAGES} can be shown at once")
        return Meant(start, end + 1, kind)
    why = ""
    if kernel.target.core is not None and CAPTURE_NOTE in kernel.target.core.notes:
        why = "; a capture has no page tables for virtual addresses"
    raise MminspectError(f"{text}: no pfn of online memory, and no address that leads to one{why}")


def _refuse_offline(kernel: Kernel, text: str, pfn: int) -> None:
    """
    Refuse a pfn of memory that is there and not online. As an address it would be another page.

    :raises MminspectError: if it is one.
    """
    memory = kernel.memory
    shift = memory.layout.pfn_section_shift
    if shift is None or kernel.section(pfn) is not None:
        return
    entry = next((entry for entry in memory.mem_sections if entry.nr == pfn >> shift), None)
    if entry is not None:
        flags = ", ".join(entry.flags) or "no flags"
        raise MminspectError(
            f"{text}: pfn {pfn:#x} is not online: pfn_to_online_page() returns NULL. Section {entry.nr} has {flags}"
        )


def number(text: str) -> int:
    """
    Return one number.

    :raises MminspectError: if the text isn't one.
    """
    if re.fullmatch(_NUMBER, text.strip()) is None:
        raise MminspectError(f"{text!r}: not an address; give one number, hexadecimal with 0x")
    return _number(text.strip())


def _number(text: str) -> int:
    return int(text, 16 if text[:2].lower() == "0x" else 10)


def _page_to_pfn(kernel: Kernel, address: int) -> int | None:
    """Get the pfn of the struct page that an address lies in."""
    found = StructPages(kernel.memory).find(address)
    return None if found is None else found.pfn
