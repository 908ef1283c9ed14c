# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols of a System.map."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import SymbolBinding, SymbolKind

from mminspect.errors import TypeInfoError
from mminspect.program.vmcoreinfo import Vmcoreinfo
from mminspect.typeinfo import symbols
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


@pytest.mark.parametrize(("limit", "words"), [(0, "it has no _stext"), (-1, "too large for a System.map")])
def test_system_map_as_large_as_can_be(limit: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "System.map"
    path.write_text("ffffffff81000000 T other\n")
    monkeypatch.setattr(symbols, "MAX_SYSTEM_MAP_SIZE", path.stat().st_size + limit)
    with pytest.raises(TypeInfoError, match=words):
        symbols.read_system_map(str(path), Vmcoreinfo("OSRELEASE=6.1.0\n"))
