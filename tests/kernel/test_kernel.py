# SPDX-License-Identifier: LGPL-2.1-or-later
"""An open kernel is read on demand, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from drgn import Program

from mminspect.commands.capture import capture
from mminspect.commands.page import pages
from mminspect.commands.page_argument import parse
from mminspect.commands.triage.run import triage
from mminspect.commands.zones import zones
from mminspect.errors import CutShortError, LayoutError
from mminspect.kernel import kernel as kernel_
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, from_program, open_kernel
from mminspect.walk.scan import scan
from tests.conftest import Kernels, Unpacked
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA

# What a kernel is read by.
READERS = ("read_memory_map", "calibrate", "with_per_cpu_pages", "per_cpu_blocks", "FreeLists", "resources")
COMMANDS: dict[str, Callable[[Kernel], object]] = {
    "zones": zones,
    "scan": scan,
    "page": lambda kernel: pages(kernel, parse(kernel, "0x2000-0x2010")),
    "triage": triage,
}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is read of any kernel."""
    seen: list[str] = []

    def count(name: str) -> None:
        original = getattr(kernel_, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(kernel_, name, counted)

    for name in READERS:
        count(name)
    return seen


def test_opening_reads_nothing_but_types(reads: list[str], unpacked: Unpacked) -> None:
    with open_kernel(Inputs(str(unpacked(AMD64_HEALTHY)))) as kernel:
        assert kernel.types.types_from == "btf"
    assert reads == []


@pytest.mark.parametrize("commands", [[name] for name in COMMANDS] + [[*COMMANDS]], ids="+".join)
def test_no_command_reads_anything_twice(commands: list[str], reads: list[str], unpacked: Unpacked) -> None:
    with open_kernel(Inputs(str(unpacked(AMD64_HEALTHY)))) as kernel:
        for name in commands:
            COMMANDS[name](kernel)
    assert "read_memory_map" in reads
    assert sorted(reads) == sorted(set(reads))


def test_capture_reads_the_memory_map_once(reads: list[str], unpacked: Unpacked, tmp_path: Path) -> None:
    inputs = Inputs(str(unpacked("amd64-6.12-damaged")))
    with open_kernel(inputs) as kernel, (tmp_path / "core").open("wb") as out:
        capture(kernel, inputs, out)
    assert reads.count("read_memory_map") == 1


def test_pageblock_order_is_that_of_the_inputs(unpacked: Unpacked) -> None:
    with open_kernel(Inputs(str(unpacked(AMD64_400M)), pageblock_order=10)) as kernel:
        assert kernel.memory.layout.pageblock_order == kernel.memory_with_lists.layout.pageblock_order == 10


def test_a_program_that_is_open_gives_the_same(unpacked: Unpacked, kernels: Kernels) -> None:
    prog = Program()
    prog.set_core_dump(str(unpacked(AMD64_NUMA)))
    kernel = from_program(prog)
    assert kernel.prog is prog
    assert kernel.memory == kernels(AMD64_NUMA).memory


def test_reading_again_keeps_the_layout(kernels: Kernels, reads: list[str]) -> None:
    kernel = Kernel(kernels(AMD64_400M).target, kernels(AMD64_400M).types, 10)
    again = kernel.reread()
    assert again.memory.layout is kernel.memory.layout
    assert again.memory == kernel.memory and again.memory is not kernel.memory
    assert again.memmap is not kernel.memmap
    # The layout is as right as it was.
    assert reads == ["read_memory_map", "read_memory_map", "calibrate"]


def test_pages_that_decode_to_no_zone_are_refused(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> None:
        raise LayoutError("no page decodes")

    monkeypatch.setattr(kernel_, "calibrate", wrong)
    kernel = Kernel(kernels(AMD64_400M).target, kernels(AMD64_400M).types)
    for _ in range(2):
        with pytest.raises(LayoutError, match="no page decodes"):
            scan(kernel)


def test_a_file_that_is_cut_short_is_told_at_the_end(unpacked: Unpacked, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(unpacked(AMD64_HEALTHY).read_bytes())
    with pytest.raises(CutShortError), open_kernel(Inputs(str(core))) as kernel:
        zones(kernel)
        with core.open("r+b") as file:
            file.truncate(core.stat().st_size - 1)
