# SPDX-License-Identifier: LGPL-2.1-or-later
"""A line a page, compared with what drgn reads of each."""

from __future__ import annotations

import pytest
from drgn import Object

from tests.conftest import Cli, Kernels, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X])
def test_each_page_is_as_drgn_reads_it(name: str, cli: Cli, unpacked: Unpacked, kernels: Kernels) -> None:
    prog = kernels(name).prog
    start = {I386_HOLE: 0xA170, ARM64: 0x40200}.get(name, 0x1234)
    data = cli("page", "-c", unpacked(name), "--brief", "--format", "json", f"{start:#x}-{start + 40:#x}").json()
    assert [page["pfn"] for page in data["pages"]] == list(range(start, start + 40))
    enumerators = {item.name: item.value for item in prog.type("enum pageflags").enumerators}
    struct_page = prog.type("struct page")
    for page in data["pages"]:
        value = Object(prog, struct_page, address=page["struct_page"])
        flags = value.flags.f if struct_page.member("flags").type.type_name() == "memdesc_flags_t" else value.flags
        bits = {name for name, bit in enumerators.items() if bit < enumerators["__NR_PAGEFLAGS"]}
        expected = {bit for bit in bits if flags.value_() >> enumerators[bit] & 1}
        assert set(page["flags"]) <= expected
        assert {enumerators[flag] for flag in page["flags"]} == {enumerators[flag] for flag in expected}
        assert page["refcount"] == value._refcount.counter.value_()
        assert page["mapcount"] == value._mapcount.counter.value_()
        assert page["mapping"] == value.mapping.value_()
        assert page["physical_address"] == page["pfn"] * 4096


def test_text_is_a_line_a_page(cli: Cli, unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    head, _, *lines = cli("page", "-c", unpacked(I386_HOLE), "--brief", "0xa179-0xa17d").out.splitlines()
    assert head.split() == ["pfn", "physical", "struct", "page", "zone", "refcount", "mapcount", "mapping", "flags"]
    assert [line.split()[0] for line in lines] == ["0xa179", "0xa17a", "0xa17b", "0xa17c"]
    assert "0 Normal" in lines[0] and "0 DMA" in lines[2] and "zeroed" in lines[2]


def test_what_is_no_page_is_refused(cli: Cli, unpacked: Unpacked) -> None:
    assert "no pfn of online memory" in complaint(cli("page", "-c", unpacked(I386_HOLE), "--brief", "0x99999999"))
