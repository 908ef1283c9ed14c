# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel of arm64, booted directly with a device tree and with an EFI memory map."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from contrib.explore.board import GIB, MIB, MIRRORED, NVS, RAM, RESERVED, VIRT, VIRT_EFI, VIRT_FIRST
from contrib.explore.kernel import PLAIN_VIRT, open_kernel
from contrib.explore.layout import E820Entry, Layout, SratEntry
from contrib.explore.outcome import Explorer
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import cached, fetch
from contrib.kernels.sources import ARM64_6_12

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    for program in ("qemu-system-aarch64", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        kernel = cached(ARM64_6_12) or fetch(ARM64_6_12)
    except HarnessError as error:
        pytest.skip(f"the kernel can't be had: {error}")
    one = Explorer(open_kernel(kernel.vmlinuz))
    yield one
    one.close()


@pytest.mark.parametrize("machine", [VIRT.name, VIRT_EFI.name])
def test_a_plain_layout_shows_nothing_but_notes(machine: str, explorer: Explorer) -> None:
    outcome = explorer.run(replace(PLAIN_VIRT, machine=machine))
    assert outcome.boot == "stopped"
    assert {sighting.severity for sighting in outcome.sightings} <= {"note"}
    assert len(outcome.blocks) > 500


def test_nodes_and_mirrored_memory_are_where_the_layout_says(explorer: Explorer) -> None:
    layout = Layout(
        (
            E820Entry(VIRT_FIRST, 2 * GIB, RAM),
            E820Entry(2 * GIB, 2 * GIB + MIB, NVS),
            E820Entry(3 * GIB, 4 * GIB, RAM),
            E820Entry(4 * GIB, 4 * GIB + 512 * MIB, MIRRORED),
        ),
        (SratEntry(0, 2 * GIB, 1), SratEntry(2 * GIB, 5 * GIB, 0)),
        (0,),
        words=("kernelcore=mirror",),
        machine=VIRT_EFI.name,
    )
    outcome = explorer.run(layout)
    assert outcome.boot == "stopped"
    # The host's own count is among them: no page is lost or gained.
    assert {sighting.severity for sighting in outcome.sightings} <= {"note"}


def test_a_reserved_range_that_ends_behind_memory_gets_a_zone_that_is_none(explorer: Explorer) -> None:
    layout = Layout(
        (E820Entry(VIRT_FIRST, 0x60000000, RAM), E820Entry(0x60000000, 0x673FFEDD, RESERVED)), machine=VIRT.name
    )
    assert any(key.startswith("error zone-id: ") for key in explorer.run(layout).keys)
