# SPDX-License-Identifier: LGPL-2.1-or-later
"""Device memory that says of itself what can't be."""

from __future__ import annotations

from pathlib import Path

from drgn import offsetof

from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.layout.sections import device_pagemaps
from mminspect.program.elf import Elf
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_DEVDAX


def offset_of(core: bytes, address: int) -> int:
    """Get where a virtual address is in a capture."""
    elf = Elf.of(core)
    assert elf is not None
    header = elf.header(core)
    for segment in elf.segments(core[header.phoff : header.phoff + elf.segment_size * header.phnum]):
        if segment.type == 1 and segment.vaddr <= address < segment.vaddr + segment.filesz:
            return segment.offset + address - segment.vaddr
    raise AssertionError(f"{address:#x} is not in the capture")


def test_millions_of_ranges_are_refused_before_they_are_read(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = unpacked(AMD64_DEVDAX)
    with open_kernel(Inputs(str(path))) as kernel:
        _, pgmap = next(device_pagemaps(kernel.prog, 12))
        address = pgmap.value_() + offsetof(kernel.prog.type("struct dev_pagemap"), "nr_range")
    core = bytearray(path.read_bytes())
    at = offset_of(bytes(core), address)
    core[at : at + 4] = (1 << 23).to_bytes(4, "little")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(core)
    assert "a dev_pagemap with 8388608 ranges can't be; it is damaged" in complaint(cli("-c", damaged, "zones"))
