# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page`` takes its argument for."""

from __future__ import annotations

import pytest

from mminspect.commands import page_argument
from tests.conftest import Cli, Kernels, Unpacked
from tests.kit.support import AMD64_400M, AMD64_HOTPLUG, I386_HOLE

# The first is the memmap of the amd64 fixture, which has no KASLR.
VMEMMAP = 0xFFFFEA0000000000
ARGUMENTS = {
    "0x1000": ("pfn", 0x1000, 0x1001),
    "4096": ("pfn", 0x1000, 0x1001),
    "010": ("pfn", 10, 11),
    " 0x10 ": ("pfn", 0x10, 0x11),
    "0X1A": ("pfn", 0x1A, 0x1B),
    "0x1000-0x1010": ("pfn", 0x1000, 0x1010),
    "0x1000-0x1001": ("pfn", 0x1000, 0x1001),
    "0x1fff0-0x20000": ("pfn", 0x1FFF0, 0x20000),
    f"{VMEMMAP + 64 * 0x1000 + 8:#x}": ("struct page address", 0x1000, 0x1001),
    f"{VMEMMAP:#x}-{VMEMMAP + 64 * 3:#x}": ("struct page address", 0, 3),
    f"{VMEMMAP + 64 * 0x1FFFE:#x}-{VMEMMAP + 64 * 0x20000:#x}": ("struct page address", 0x1FFFE, 0x20000),
    "0x1000000": ("physical address", 0x1000, 0x1001),
    "0x20000": ("physical address", 0x20, 0x21),
    "0x1000000-0x1001800": ("physical address", 0x1000, 0x1002),
    "0x1fff0000-0x20000000": ("physical address", 0x1FFF0, 0x20000),
}


@pytest.mark.parametrize("text", ARGUMENTS)
def test_argument_is_understood(text: str, cli: Cli, unpacked: Unpacked) -> None:
    kind, start, end = ARGUMENTS[text]
    done = cli("-c", unpacked(AMD64_400M), "page", text, "--format", "json")
    assert done.status == 0
    data = done.json()
    assert (data["understood_as"], data["start_pfn"], data["end_pfn"]) == (kind, start, end)
    assert [page["pfn"] for page in data["pages"]] == list(range(start, end))


def test_table_says_so_when_a_number_is_no_pfn(cli: Cli, unpacked: Unpacked) -> None:
    core = unpacked(AMD64_400M)
    assert "taken for a physical address" in cli("-c", core, "page", "0x20000").out.splitlines()[0]
    assert "taken for" not in cli("-c", core, "page", "0x1fff0").out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither a number nor a range"),
        ("-", "neither a number nor a range"),
        ("-1", "neither a number nor a range"),
        ("5-", "neither a number nor a range"),
        ("0x", "neither a number nor a range"),
        ("1e3", "neither a number nor a range"),
        ("٣", "neither a number nor a range"),
        ("0x10-0x30000", "0x10 is a pfn of online memory, 0x2ffff is not"),
        ("0x20-0x10", "END after START"),
        ("0x20-0x20", "END after START"),
        ("0-0x8000", "can be shown at once"),
        ("0xdeadbeef000000", "no address that leads to one"),
        ("0xffffffffffffffffffff", "no address that leads to one"),
    ],
)
def test_argument_is_refused(text: str, why: str, cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_400M), "page", "--", text)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert why in line


def test_lowmem_address_of_i386(cli: Cli, unpacked: Unpacked) -> None:
    data = cli("-c", unpacked(I386_HOLE), "page", "0xc1000000", "--format", "json").json()
    assert (data["understood_as"], data["start_pfn"]) == ("virtual address", 0x1000)


def test_address_behind_lowmem_of_i386_is_not_high_memory(cli: Cli, unpacked: Unpacked) -> None:
    # HighMem begins at 0x36e00 there; pfn 0x37000 has no address in the direct mapping.
    done = cli("-c", unpacked(I386_HOLE), "page", "0xf7000000")
    assert done.status == 2
    assert "no address that leads to one" in done.err


def test_pfn_of_offline_memory_is_not_taken_for_an_address(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_HOTPLUG), "page", "0x100000")
    assert (done.status, done.out) == (2, "")
    assert "pfn 0x100000 is not online" in done.err and "SECTION_MARKED_PRESENT" in done.err


@pytest.mark.parametrize(("name", "pfn"), [("ppc64el-6.12", 0x4000), ("ppc64el-6.12-64k", 0x400)])
def test_linear_map_of_ppc64_needs_no_page_tables(name: str, pfn: int, kernels: Kernels) -> None:
    """__pa() of ppc64 takes 0xc000000000000000 away, whichever MMU the kernel has."""
    assert page_argument.parse(kernels(name), "0xc000000004000000")[:3] == (pfn, pfn + 1, "virtual address")
