# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols of a System.map."""

from __future__ import annotations

import pytest
from drgn import SymbolBinding, SymbolKind

from mminspect.typeinfo.symbols import symbols_from_entries


@pytest.mark.parametrize(
    ("letter", "kind", "binding", "moved"),
    [
        ("T", SymbolKind.FUNC, SymbolBinding.GLOBAL, True),
        ("t", SymbolKind.FUNC, SymbolBinding.LOCAL, True),
        ("D", SymbolKind.OBJECT, SymbolBinding.GLOBAL, True),
        ("b", SymbolKind.OBJECT, SymbolBinding.LOCAL, True),
        ("A", SymbolKind.OBJECT, SymbolBinding.GLOBAL, False),
        ("a", SymbolKind.OBJECT, SymbolBinding.LOCAL, False),
    ],
)
def test_letters_of_nm(letter: str, kind: SymbolKind, binding: SymbolBinding, moved: bool) -> None:
    entries = [(0x1000, letter, "one"), (0x1000, "T", "alias"), (0x1040, "T", "next")]
    one, alias, following = symbols_from_entries(entries, 0x100000)
    assert (one.name, one.kind, one.binding, one.size) == ("one", kind, binding, 0x40)
    assert one.address == (0x101000 if moved else 0x1000)
    assert (alias.size, following.size, following.address) == (0x40, 0, 0x101040)
