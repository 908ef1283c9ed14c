# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump doesn't hold is unreadable, whatever its format, however it is read, and whatever is missing."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from mminspect.errors import LayoutError, TargetError
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.layout.sections import sparse_sections
from mminspect.program import open as targets
from mminspect.walk.scan import scan
from tests.conftest import Cli, Kernels, Unpacked, complaint
from tests.kit.dumps import BLOCK, INCOMPLETE_ELF, INCOMPLETE_KDUMP, LARGE, LZO, ZLIB, Machine, flatten
from tests.kit.support import AMD64_400M, summary

EXCLUDED = "excluded from the dump"
MISSING = "missing from a dump that is not whole"


@pytest.fixture(scope="module")
def machine(unpacked: Unpacked, kernels: Kernels) -> Machine:
    """Give a machine with the memory of a stored vmcore."""
    return Machine(unpacked(AMD64_400M), kernels(AMD64_400M).prog["vmemmap"].value_())


@pytest.fixture(scope="module")
def control(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Give the findings of that machine's whole dump."""
    path = tmp_path_factory.mktemp("control") / "dump"
    path.write_bytes(machine.elf())
    return found(str(path))


def found(*paths: str, direct: bool = True) -> list[Any]:
    """Scan a dump, with drgn's reads alone or not; get (rule, severity, start, end, why)."""
    with open_kernel(Inputs(paths[0], pieces=paths[1:])) as kernel:
        if not direct:
            kernel.target.direct = None
        else:
            address = kernel.prog["vmemmap"].value_()
            assert kernel.target.direct is not None
            # Else this tests nothing.
            if paths[0].endswith(("/elf", "/kdump", "/split")):
                assert kernel.target.direct.holds(address)
        findings = scan(kernel).findings
    return [(*summary([f])[0], f.detail.get("why")) for f in findings]


def pieces(machine: Machine, **options: Any) -> list[bytes]:
    """Write a split dump; the memmap is in two of its three pieces."""
    cuts = [0, sorted(machine.memmap)[900], sorted(machine.memmap)[1500], machine.end]
    return [machine.kdump(piece=piece, **options) for piece in zip(cuts, cuts[1:])]


# The files of a dump, by the pfns that are left out of it.
FORMATS: dict[str, Callable[[Machine, Sequence[int]], list[bytes]]] = {
    "elf": lambda machine, out: [machine.elf(out)],
    "flattened": lambda machine, out: [flatten(machine.elf(out))],
    "kdump": lambda machine, out: [machine.kdump(out)],
    "flattened-kdump": lambda machine, out: [flatten(machine.kdump(out))],
    "libkdumpfile": lambda machine, out: [machine.kdump(out, status=LZO)],
    "split": lambda machine, out: pieces(machine, left_out=out),
}


def expected(machine: Machine, control: list[Any], out: Sequence[int], base: int, why: str) -> list[Any]:
    """Get the findings of a dump without some pages of the memmap."""
    runs: list[list[int]] = []
    for pfn in sorted(out):
        start = (machine.memmap[pfn] - base) // 64
        if runs and runs[-1][1] == start:
            runs[-1][1] += BLOCK // 64
        else:
            runs.append([start, start + BLOCK // 64])
    more = [("unreadable", "note", start, end, why) for start, end in runs]
    return sorted(control + more, key=lambda f: (f[2], f[3], f[0]))


def write(tmp_path: Path, name: str, files: Sequence[bytes]) -> list[str]:
    paths = [tmp_path / (name if number == 0 else f"{name}{number}") for number in range(len(files))]
    for path, data in zip(paths, files):
        path.write_bytes(data)
    return [str(path) for path in paths]


# Indexes of pages of the memmap: nothing; one; many at the end of a segment; some within, on two large pages.
MISSES = {
    "nothing": (),
    "one page": (210,),
    "many pages": range(200, 232),
    "pages apart": (150, 151, 310, 511, 512, 600),
}


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "drgn"])
@pytest.mark.parametrize("misses", MISSES)
@pytest.mark.parametrize("name", FORMATS)
def test_left_out_memmap_is_unreadable(
    name: str, misses: str, direct: bool, machine: Machine, control: list[Any], tmp_path: Path, kernels: Kernels
) -> None:
    order = sorted(machine.memmap)
    out = [order[index] for index in MISSES[misses]]
    paths = write(tmp_path, name, FORMATS[name](machine, out))
    base = kernels(AMD64_400M).prog["vmemmap"].value_()
    assert found(*paths, direct=direct) == expected(machine, control, out, base, EXCLUDED)


def test_control_is_what_the_stored_vmcore_has(control: list[Any], scanned: Any) -> None:
    assert [f[:4] for f in control] == summary(scanned(AMD64_400M).findings)


def cut_elf(machine: Machine, pages: int) -> bytes:
    return machine.elf()[: -pages * BLOCK]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "drgn"])
@pytest.mark.parametrize("pages", [1, 40])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("elf", cut_elf),
        ("elf", lambda machine, pages: machine.elf(flags=INCOMPLETE_ELF)[: -pages * BLOCK]),
        ("flattened", lambda machine, pages: flatten(cut_elf(machine, pages))),
        ("kdump", lambda machine, pages: machine.kdump(unwritten=last(machine, pages), status=ZLIB | INCOMPLETE_KDUMP)),
        ("lzo", lambda machine, pages: machine.kdump(unwritten=last(machine, pages), status=LZO | INCOMPLETE_KDUMP)),
        ("flat", lambda machine, pages: flatten(machine.kdump(unwritten=last(machine, pages), status=9))),
        ("flat", lambda machine, pages: in_order(machine.elf())[: -pages * BLOCK - 16]),
    ],
)
def test_lost_memmap_is_unreadable(
    name: str,
    make: Callable[[Machine, int], bytes],
    pages: int,
    direct: bool,
    machine: Machine,
    control: list[Any],
    tmp_path: Path,
    kernels: Kernels,
) -> None:
    paths = write(tmp_path, name, [make(machine, pages)])
    base = kernels(AMD64_400M).prog["vmemmap"].value_()
    gone = last(machine, pages)
    first = (machine.memmap[gone[0]] - base) // 64
    # The other findings end where the memmap does.
    left = [(*f[:3], min(f[3], first), f[4]) for f in control if f[2] < first]
    assert found(*paths, direct=direct) == expected(machine, left, gone, base, MISSING)


def last(machine: Machine, pages: int) -> list[int]:
    """Get the last pages of the memmap, which are the last of the dump."""
    order = sorted(machine.memmap)
    assert order[-1] == machine.end - 1
    return order[-pages:]


def in_order(data: bytes) -> bytes:
    """Write a flattened dump whose records are in the order of what they hold."""
    head = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    parts = [
        struct.pack(">qq", at, len(data[at : at + LARGE])) + data[at : at + LARGE] for at in range(0, len(data), LARGE)
    ]
    return head.ljust(BLOCK, b"\0") + b"".join(parts) + struct.pack(">qq", -1, -1)


def json_of(done: Any) -> Any:
    return json.loads(done.out)


HEALTHY = ("--select", "zone-span,contiguous,unreadable")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda machine: cut_elf(machine, 8), "truncated"),
        (lambda machine: machine.elf(flags=INCOMPLETE_ELF), "makedumpfile"),
        (lambda machine: machine.elf(flags=INCOMPLETE_ELF)[: -8 * BLOCK], "makedumpfile"),
        (lambda machine: machine.kdump(unwritten=last(machine, 8), status=ZLIB | INCOMPLETE_KDUMP), "makedumpfile"),
        (lambda machine: machine.kdump(status=ZLIB | INCOMPLETE_KDUMP), "makedumpfile"),
        (lambda machine: machine.kdump()[:-100], "truncated"),
        (lambda machine: flatten(cut_elf(machine, 8)), "truncated"),
        (lambda machine: in_order(machine.elf())[: -8 * BLOCK], "truncated"),
        (lambda machine: in_order(machine.kdump())[:-100], "truncated"),
        (lambda machine: pieces(machine)[0], "piece of a split dump"),
    ],
)
def test_nothing_found_in_a_dump_that_is_not_whole(
    make: Callable[[Machine], bytes], why: str, machine: Machine, cli: Cli, small: Any
) -> None:
    path = small(make(machine))
    done = cli("-c", path, "scan", "--format", "json", *HEALTHY)
    assert done.status == 2
    assert why in json_of(done)["target"]["incomplete"]
    (line,) = done.err.splitlines()
    assert line.startswith(f"mminspect: {path}: ") and why in line
    assert ("copy the dump again" in line) == (why == "truncated")
    assert ("--reassemble" in line) == (why == "piece of a split dump")
    assert cli("-c", path, "scan", "--allow-incomplete", *HEALTHY).status == 0
    assert cli("-c", path, "scan", "--fail-on", "never", *HEALTHY).status == 0
    assert cli("-c", path, "scan", "--fail-on", "note", "--allow-incomplete", "--select", "zone-span").status == 1
    table = cli("-c", path, "scan", *HEALTHY)
    assert "not whole: " in table.out and why in table.out


def test_whole_dump_is_not_called_incomplete(machine: Machine, cli: Cli, small: Any) -> None:
    done = cli("-c", small(machine.kdump()), "scan", "--format", "json", *HEALTHY)
    assert (done.status, done.err) == (0, "")
    assert "incomplete" not in json_of(done)["target"]


def test_split_dump_is_read_as_one_in_any_order(machine: Machine, control: list[Any], tmp_path: Path, cli: Cli) -> None:
    a, b, c = write(tmp_path, "split", pieces(machine))
    assert found(c, a, b) == control
    done = cli("-c", b, "-c", c, "-c", a, "scan", "--format", "json", *HEALTHY)
    assert (done.status, done.err) == (0, "")


def test_piece_without_pages_is_cut_short_by_its_writer(
    machine: Machine, control: list[Any], tmp_path: Path, cli: Cli
) -> None:
    """There is as much of its bitmap as has a bit that is set."""
    whole = machine.kdump(piece=(0, machine.end))
    empty = machine.kdump(piece=(machine.end, machine.end))[: 2 * BLOCK + BLOCK + -(-machine.end // 8) + 1]
    a, b = write(tmp_path, "split", [whole, empty])
    assert found(a, b) == control
    assert found(b, a) == control
    assert "piece of a split dump" in complaint(cli("-c", b, "scan"))


def test_split_dump_without_one_of_its_pieces(machine: Machine, tmp_path: Path, cli: Cli) -> None:
    a, _, c = write(tmp_path, "split", pieces(machine))
    done = cli("-c", c, "-c", a, "scan", "--format", "json", *HEALTHY)
    order = sorted(machine.memmap)
    missing = f"{order[900]:#x}-{order[1500]:#x}"
    assert done.status == 2
    assert missing in done.err and missing in json_of(done)["target"]["incomplete"]
    assert json_of(done)["summary"]["pages_unreadable"] == 600 * 64


def test_files_that_are_no_pieces_of_one_dump(machine: Machine, tmp_path: Path, cli: Cli) -> None:
    a, b, c = write(tmp_path, "split", pieces(machine))
    (other,) = write(tmp_path, "other", [machine.kdump()])
    assert "not a piece" in complaint(cli("-c", a, "-c", other, "scan"))
    assert "overlap" in complaint(cli("-c", a, "-c", a, "-c", b, "scan"))
    (strange,) = write(tmp_path, "strange", [machine.kdump(piece=(0, 9), info=machine.info.replace(b"6.12", b"6.13"))])
    assert "different dumps" in complaint(cli("-c", c, "-c", strange, "scan"))


def test_incomplete_dump_that_lacks_what_is_needed_is_no_case_for_other_advice(
    machine: Machine, cli: Cli, small: Any
) -> None:
    data = machine.elf(flags=INCOMPLETE_ELF)
    line = complaint(cli("-c", small(data[: len(data) // 8]), "scan"))
    assert "makedumpfile" in line and "install" not in line and "copy" not in line


def test_capture_of_a_dump_that_is_not_whole_says_so(machine: Machine, tmp_path: Path, cli: Cli) -> None:
    (path,) = write(tmp_path, "elf", [cut_elf(machine, 8)])
    capture = tmp_path / "capture"
    assert cli("-c", path, "capture", "-o", capture).status == 0
    done = cli("-c", capture, "scan", "--format", "json", *HEALTHY)
    assert done.status == 2
    assert "truncated" in json_of(done)["target"]["incomplete"]
    assert json_of(done)["summary"]["pages_unreadable"] == 8 * 64


def test_capture_carries_on_what_a_flattened_dump_lacks(
    machine: Machine, control: list[Any], tmp_path: Path, cli: Cli, kernels: Kernels
) -> None:
    out = sorted(machine.memmap)[200:232]
    (path,) = write(tmp_path, "flattened", [flatten(machine.elf(out))])
    capture = tmp_path / "capture"
    assert cli("-c", path, "capture", "-o", capture).status == 0
    base = kernels(AMD64_400M).prog["vmemmap"].value_()
    assert found(str(capture)) == expected(machine, control, out, base, EXCLUDED)


def roots(kernels: Kernels, machine: Machine) -> list[int]:
    """Get the pfns of pages that hold nothing but pointers to the roots of mem_section, and no root."""
    prog = kernels(AMD64_400M).prog
    start = prog["mem_section"].value_()
    end = start + prog["NR_SECTION_ROOTS"].value_() * 8
    return [machine.translate(address) for address in range(-(-start // BLOCK) * BLOCK, end // BLOCK * BLOCK, BLOCK)]


@pytest.mark.parametrize("flat", [False, True])
def test_left_out_zeros_among_the_roots_of_mem_section_hold_no_root(
    flat: bool, machine: Machine, control: list[Any], tmp_path: Path, kernels: Kernels
) -> None:
    out = roots(kernels, machine)
    assert out and not any(any(machine.pages[pfn]) for pfn in out)
    data = machine.elf(out)
    (path,) = write(tmp_path, "elf" if not flat else "flat", [flatten(data) if flat else data])
    assert found(path) == control


def test_roots_that_are_lost_are_not_taken_for_zeros(machine: Machine, tmp_path: Path, kernels: Kernels) -> None:
    (path,) = write(tmp_path, "kdump", [machine.kdump(unwritten=roots(kernels, machine), status=9)])
    with pytest.raises(TargetError, match="mem_section"):
        found(path)


def test_no_page_of_the_roots_is_there(machine: Machine, tmp_path: Path, kernels: Kernels) -> None:
    start = kernels(AMD64_400M).prog["mem_section"].value_()
    size = kernels(AMD64_400M).prog["NR_SECTION_ROOTS"].value_() * 8
    out = {machine.translate(address) for address in (start, *range(start, start + size, 8))}
    (path,) = write(tmp_path, "elf", [machine.elf(out)])
    with open_kernel(Inputs(path)) as kernel, pytest.raises(LayoutError, match="mem_section"):
        _ = sparse_sections(kernel.prog, 64)


def test_program_of_drgn_with_a_flattened_dump(
    machine: Machine, control: list[Any], tmp_path: Path, kernels: Kernels
) -> None:
    from drgn import Program

    from mminspect.kernel.kernel import from_program

    out = sorted(machine.memmap)[200:232]
    (path,) = write(tmp_path, "flattened", [flatten(machine.elf(out))])
    prog = Program()
    prog.set_core_dump(path)
    report = scan(from_program(prog))
    base = kernels(AMD64_400M).prog["vmemmap"].value_()
    got = [(*summary([f])[0], f.detail.get("why")) for f in report.findings]
    assert got == expected(machine, control, out, base, EXCLUDED)


def test_lime_and_raw_memory_are_read_with_a_vmcoreinfo(machine: Machine, control: list[Any], tmp_path: Path) -> None:
    (tmp_path / "info").write_bytes(machine.info)
    raw = bytearray(machine.end * BLOCK)
    for pfn, data in machine.pages.items():
        raw[pfn * BLOCK : (pfn + 1) * BLOCK] = data
    for name, data in (("lime", machine.lime()), ("raw", bytes(raw))):
        (path,) = write(tmp_path, name, [data])
        with open_kernel(Inputs(path, vmcoreinfo=str(tmp_path / "info"))) as kernel:
            got = [(*summary([f])[0], f.detail.get("why")) for f in scan(kernel).findings]
        assert got == control


def test_lime_that_is_cut_is_not_whole(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "info").write_bytes(machine.info)
    (path,) = write(tmp_path, "lime", [machine.lime()[: -8 * BLOCK]])
    target = targets.open_vmcore(path, vmcoreinfo=str(tmp_path / "info"))
    assert target.incomplete is not None and "truncated" in target.incomplete.why
