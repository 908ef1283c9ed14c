# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel, booted directly: known faults are found, with the layouts and the mistakes that cause them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contrib.explore.board import HIGH_MEMORY, MIB, RAM, RESERVED, SOFT_RESERVED
from contrib.explore.judge import Judgment
from contrib.explore.kernel import Kernel, open_kernel
from contrib.explore.layout import DIMM, Device, E820Entry, Layout, Step
from contrib.explore.outcome import Explorer
from contrib.explore.qemu import stock
from contrib.explore.tests.test_layout import LOW, PLAIN
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel as Fetched
from contrib.kernels.fetch import Source, cached, fetch

pytestmark = pytest.mark.vm

AMD64_6_1 = Source("bookworm", "amd64", r"linux-image-6\.1\.0-[0-9]+-cloud-amd64-unsigned")
# In the section that RAM ends in, on a machine with deferred initialization.
SOFT = Layout((*LOW, E820Entry(MIB, 400 * MIB, RAM), E820Entry(400 * MIB, 464 * MIB, SOFT_RESERVED)))
HOLE = Layout(
    (
        *LOW,
        E820Entry(MIB, 0xA17B000, RAM),
        E820Entry(0xA17B000, 0xA217000, RESERVED),
        E820Entry(0xA217000, 256 * MIB, RAM),
    )
)
# xor %edx,%edx; xor %ecx,%ecx; nop: every hole belongs to zone 0 of node 0, as before commit 0740a50b9baa.
BUG_OF_2021 = (("init_unavailable_range", bytes.fromhex("31d231c990")),)


@pytest.fixture(scope="module")
def debian() -> Fetched:
    for program in ("qemu-system-x86_64", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        return cached(AMD64_6_1) or fetch(AMD64_6_1)
    except HarnessError as error:
        pytest.skip(f"the kernel can't be had: {error}")


@pytest.fixture(scope="module")
def image(debian: Fetched) -> Path:
    return debian.vmlinuz


@pytest.fixture(scope="module")
def kernel(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        # The study of the kernel is part of the test.
        patch.setattr("contrib.explore.kernel.study_dir", lambda: tmp_path_factory.mktemp("studies"))
        yield open_kernel(image)


@pytest.fixture(scope="module")
def explorer(kernel: Kernel) -> Iterator[Explorer]:
    one = Explorer(kernel)
    yield one
    one.close()


def test_symbols_are_where_the_kernel_itself_says(kernel: Kernel) -> None:
    said = re.findall(rb"^SYMBOL\((\w+)\)=([0-9a-f]+)$", kernel.vmcoreinfo, re.MULTILINE)
    # The value of mem_section is what it points to. Some names are macros.
    expected = {name.decode(): int(value, 16) for name, value in said if name != b"mem_section"}
    found = {name: at for name, at in kernel.symbols.addresses.items() if name in expected}
    assert {"_stext", "init_uts_ns", "node_data"} <= found.keys()
    assert found == {name: expected[name] for name in found}


def test_a_plain_layout_shows_nothing_but_notes(explorer: Explorer) -> None:
    outcome = explorer.run(PLAIN)
    assert outcome.boot == "stopped"
    assert {sighting.severity for sighting in outcome.sightings} == {"note"}


def test_soft_reserved_memory_behind_the_end_of_ram_gets_a_zone_that_is_none(explorer: Explorer, image: Path) -> None:
    wanted = {sighting.signature for sighting in explorer.run(SOFT).sightings if sighting.severity == "error"}
    assert any(signature.startswith("zone-id:") for signature in wanted)
    # QEMU's firmware and boot loader give the same.
    again = explorer.run(SOFT, stock(SOFT, image))
    assert wanted <= {sighting.signature for sighting in again.sightings}


def test_the_bug_of_2021_is_found_where_five_bytes_put_it_back(kernel: Kernel, explorer: Explorer) -> None:
    mutant = Explorer(replace(kernel, pokes=BUG_OF_2021))
    try:
        new = mutant.run(HOLE).keys - explorer.run(HOLE).keys
    finally:
        mutant.close()
    assert any(key.startswith("warning mixed-zone: ") and "/DMA+DMA32/" in key for key in new)
    assert not any("ftrace" in key for key in new)


def test_a_kernel_that_panics_tells_where(kernel: Kernel) -> None:
    # ud2, before the kernel has handlers for exceptions and after.
    for name in ("free_area_init", "page_alloc_init_late"):
        mutant = Explorer(replace(kernel, pokes=((name, b"\x0f\x0b"),)))
        try:
            outcome = mutant.run(PLAIN)
        finally:
            mutant.close()
        assert outcome.boot == "panic"
        assert any(f"panic in {name}:" in sighting.signature for sighting in outcome.sightings)


def test_what_comes_after_boot_is_judged(kernel: Kernel, debian: Fetched) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("busybox-static is not installed")
    seen: list[dict[str, object]] = []
    # Node 1 has nothing but the module, whose first half is online in Movable and whose second half is not online.
    layout = replace(
        PLAIN,
        e820=(*PLAIN.e820, E820Entry(512 * MIB, 768 * MIB, SOFT_RESERVED)),
        words=("memhp_default_state=offline",),
        devices=(Device(DIMM, HIGH_MEMORY, 256 * MIB, 1),),
        dax="device_dax",
        steps=(Step("online_movable", HIGH_MEMORY),),
    )
    explorer = Explorer(replace(kernel, modules=debian.modules))
    scan = explorer.scanner.scan

    def scan_and_keep(*words: object) -> Judgment:
        judgment = scan(*words)  # type: ignore[arg-type]
        seen.extend(dict(zone) for zone in judgment.zones)
        return judgment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer.scanner, "scan", scan_and_keep)
        outcome = explorer.run(layout)
    explorer.close()
    assert outcome.boot == "stopped"
    found = {(zone["node"], zone["name"]): (zone["start_pfn"], zone["spanned"], zone["present"]) for zone in seen}
    assert found[1, "Movable"] == (0x100000, 0x8000, 0x8000)
    assert found[0, "Device"] == (0x20000, 0x10000, 0)


def held() -> tuple[int, list[str]]:
    """Return how many files this process has open, and its children."""
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return len(os.listdir("/proc/self/fd")), children


def test_nothing_is_left_behind(explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    explorer.run(PLAIN)
    before = held()
    explorer.run(PLAIN)
    assert held() == before
    assert not list(tmp_path.iterdir())
