# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures, the kernel's log, the host's count, and mminspect's judgment of a stored vmcore."""

from __future__ import annotations

import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from contrib.explore.board import GIB, MIB, RAM, RESERVED
from contrib.explore.judge import Judgment, Scanner, sightings_of, without_numbers
from contrib.explore.layout import E820Entry, Layout
from contrib.explore.outcome import expected_pages, host_sightings, log_sightings
from contrib.explore.tests.test_layout import LOW, PLAIN

VMCORES = Path(__file__).parents[3] / "fixtures" / "vmcores"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "2 pages linked to node 0 zone DMA, but node 1 zone DMA32 spans [0x1, 0x1000)",
            "1 page linked to node 3 zone DMA, but node 0 zone DMA32 spans [0x101, 0x1000)",
        ),
        (
            "pageblock links to node 0 zone DMA32, node 1 zone Normal: legal",
            "pageblock links to node 1 zone Normal, node 0 zone DMA32, node 2 zone Normal: legal",
        ),
        (
            "pageblock links to node 0 zone id 5, node 1 zone DMA32: some",
            "pageblock links to node 1 zone DMA32, node 0 zone id 7: some",
        ),
        ("node 0 zone DMA, order 4: nr_free is 18446744073709551615", "node 1 zone DMA, order 10: nr_free is 7"),
    ],
)
def test_messages_that_differ_in_numbers_only_have_one_signature(one: str, other: str) -> None:
    assert without_numbers(one) == without_numbers(other)


def test_messages_of_other_zones_or_states_have_another_signature() -> None:
    assert without_numbers("linked to node 0 zone DMA") != without_numbers("linked to node 0 zone DMA32")


def test_the_worst_outcome_is_in_the_signature() -> None:
    finding = {"rule": "zone-span", "severity": "error", "message": "1 page", "start_pfn": 16, "end_pfn": 17}
    outcomes = [{"outcome": outcome} for outcome in ("safe", "faults", "reads wrong")]
    worse = {**finding, "detail": {"consequences": outcomes}}
    better = {**finding, "detail": {"consequences": outcomes[:1]}}
    (first, second) = sightings_of([worse, better, worse])
    assert (first.signature, first.count) == ("zone-span: N page [faults]", 2)
    assert second.signature == "zone-span: N page [safe]"
    assert first.example == "0x10-0x11 1 page"


def test_a_signature_of_mminspect_itself_is_taken_as_it_is() -> None:
    finding = {"rule": "zone-span", "severity": "error", "message": "5 pages", "signature": "zone-span/reserved"}
    assert sightings_of([finding])[0].signature == "zone-span: zone-span/reserved"


LOG = (
    b"\0\0BUG: Bad page state in process swapper  pfn:0f000\0\0\0\0"
    b"page dumped because: nonzero mapcountnt\0\0"
    b"WARNING: CPU: 0 PID: 0 at mm/page_alloc.c:1234 free_one_page+0x12/0x340\0"
    b"WARNING: mm/memblock.c:77 at memblock_add+0x1/0x2, CPU#0: swapper/0\0"
    b"BUG: Bad page state in process swapper  pfn:0f001\0"
    b"BUG: unable to handle page fault for address: ffff888012345678\0#PF\0RIP: 0010:memmap_init+0x3e/0x123\0"
    b"DMA: preallocated 128 KiB\0"
)


def test_the_log_is_read_for_what_the_kernel_complains_of() -> None:
    found = {sighting.signature: sighting.count for sighting in log_sightings(LOG)}
    assert found == {
        "log: BUG: Bad page state": 2,
        "log: Bad page because: nonzero mapcount": 1,
        "log: WARNING at mm/page_alloc.c in free_one_page": 1,
        "log: WARNING at mm/memblock.c in memblock_add": 1,
        "log: BUG: unable to handle page fault for address in memmap_init": 1,
    }
    assert log_sightings(b"DMA: preallocated 128 KiB GFP_KERNEL pool for atomic allocations") == []


def test_the_host_counts_whole_pages_of_ram_above_the_bios() -> None:
    # 1-400 MiB, 0-0x9f000 without the first page.
    assert expected_pages(PLAIN, 1 << 64) == 399 * 256 + 0x9E
    ragged = Layout((*LOW, E820Entry(MIB, 200 * MIB + 0x800, RAM), E820Entry(200 * MIB + 0x800, 201 * MIB, RESERVED)))
    assert expected_pages(ragged, 1 << 64) == 199 * 256 + 0x9E
    assert expected_pages(replace(PLAIN, words=("mem=200M",)), 1 << 64) is None
    assert expected_pages(replace(PLAIN, words=("movablecore=64M",)), 1 << 64) == 399 * 256 + 0x9E
    huge = Layout((*PLAIN.e820, E820Entry(64 * GIB - MIB, 64 * GIB + MIB, RAM)))
    assert expected_pages(huge, 64 * GIB) == 400 * 256 + 0x9E
    # Without PAE, i386 has none of it.
    assert expected_pages(huge, 4 * GIB) == 399 * 256 + 0x9E


def test_lost_and_gained_pages_are_sightings() -> None:
    expected = expected_pages(PLAIN, 1 << 64)
    assert expected is not None
    for present, text in ((expected, ""), (expected - 3, "3 pages of RAM"), (expected + 1, "1 pages are present")):
        found = host_sightings(PLAIN, Judgment((), ({"present": present},), "", 0.0), 1 << 64)
        assert (found[0].example if found else "").startswith(text)
        assert bool(found) == bool(text)


def test_the_scanner_judges_stored_vmcores_one_after_the_other(tmp_path: Path) -> None:
    scanner = Scanner()
    try:
        for name in ("amd64-6.1-healthy", "amd64-6.1-poisoned"):
            path = tmp_path / name
            path.write_bytes(lzma.decompress((VMCORES / f"{name}.xz").read_bytes()))
            judgment = scanner.scan(str(path))
            assert judgment.error == ""
            assert len(judgment.zones) > 0
            severities = {sighting.severity for sighting in judgment.sightings}
            assert ("error" in severities) == (name == "amd64-6.1-poisoned")
        broken = scanner.scan(str(tmp_path / "nothing"))
        assert broken.sightings == () and "No such file" in broken.error
    finally:
        scanner.close()
