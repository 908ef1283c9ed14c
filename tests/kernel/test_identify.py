# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lives at an address: symbols and pages, and kernels that don't tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drgn import Symbol, SymbolBinding, SymbolKind

from mminspect.kernel import identify
from mminspect.kernel.identify import virtual_to_pfn
from mminspect.typeinfo.symbols import best_symbol
from tests.conftest import Kernels
from tests.kit.support import AMD64_HEALTHY, AMD64_HOTPLUG, I386_HOLE


def test_checksum_is_no_address() -> None:
    crc, text = (Symbol(n, a, 64, SymbolBinding.GLOBAL, SymbolKind.OBJECT) for n, a in (("__crc_x", 32), ("text", 16)))
    assert best_symbol([crc, text]) == text
    assert best_symbol([crc]) is None


def test_kernel_whose_direct_mapping_is_unknown(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise Exception("could not find variable in direct mapping")

    kernel = kernels(AMD64_HOTPLUG)
    monkeypatch.setattr("mminspect.kernel.identify.virt_to_pfn", fail)
    # A capture has no page tables either.
    assert virtual_to_pfn(kernel.target, kernel.memory, 0xFFFF888008000000) is None
    assert kernel.identify(0xFFFF888008000000)["kind"] in ("unmapped", "unknown")


def test_struct_page_tells_of_memory_that_the_dump_lacks(kernels: Kernels) -> None:
    there = kernels(I386_HOLE).identify(0xF6EF5FE8)
    assert (there["kind"], there["pfn"]) == ("reserved", 0x36EF5)


def test_slab_memory_is_asked_for_by_its_address(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels(AMD64_HEALTHY)
    slab = kernel.memory.layout.page.flag("slab")
    pfn = next(
        chunk.start_pfn + int(index)
        for chunk in kernel.memmap.chunks()
        for index in np.flatnonzero(chunk.flags & np.uint64(slab))
    )
    asked: list[int] = []
    monkeypatch.setattr(identify, "slab_object_info", lambda prog, address: asked.append(address))
    address = 0xFFFF888000000000 + pfn * 4096 + 0x123
    there = identify._identify_page(kernel.target, kernel.memory, pfn, address)
    assert there == {"kind": "slab", "text": f"page {pfn:#x}, slab memory", "pfn": pfn}
    assert asked == [address]


@pytest.mark.parametrize(("allocated", "text"), [(True, "allocated"), (False, "free"), (None, "state unknown")])
def test_slab_object_has_a_state(allocated: bool | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SimpleNamespace(name=SimpleNamespace(string_=lambda: b"dentry"))
    info = SimpleNamespace(slab_cache=cache, address=0x1000, allocated=allocated)
    monkeypatch.setattr(identify, "slab_object_info", lambda prog, address: info)
    prog: Any = None
    assert identify._identify_slab(prog, 1, 0x1008)["text"] == f"slab object 0x1000 of dentry, {text}"
