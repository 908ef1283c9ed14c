# SPDX-License-Identifier: LGPL-2.1-or-later
"""Captures: they scan the same, hold nothing else, and drgn's helpers work on them."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
from pathlib import Path
from typing import Any, Callable

import pytest
import zstandard
from drgn import Architecture, Platform, PlatformFlags
from drgn.helpers.linux.mm import (
    decode_page_flags,
    for_each_valid_page_range,
    page_to_pfn,
    pfn_to_page,
)
from drgn.helpers.linux.mmzone import (
    NODE_DATA,
    decode_section_flags,
    early_section,
    for_each_online_pgdat,
    for_each_present_section,
    nr_to_section,
    online_section,
    pfn_to_section_nr,
    valid_section,
)

from mminspect.cli.capture import XzStreams, compressed
from mminspect.commands import capture as capture_
from mminspect.commands.capture import Recorder
from mminspect.errors import TypeInfoError
from mminspect.kernel.inputs import Inputs
from mminspect.program.arch import arch_of
from tests.conftest import Cli, Edited, Opened, Scanned, Unpacked
from tests.kit.support import (
    AMD64_400M,
    AMD64_HEALTHY,
    AMD64_HOTPLUG,
    AMD64_NUMA,
    I386_HOLE,
    NAMES,
    S390X,
    CoreEditor,
    scan_file,
    without_times,
)

UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.decompress,
    "xz": lzma.decompress,
    "zst": lambda data: zstandard.ZstdDecompressor().stream_reader(data).read(),
    "elf": bytes,
}


def capture(cli: Cli, source: Path, output: Path) -> None:
    """Capture a vmcore."""
    done = cli("-c", source, "capture", "-o", output)
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith(f"{output}: ")


def segments(path: Path) -> list[tuple[int, int, int]]:
    """Get (address, bytes in the file, bytes in memory) of a core's segments."""
    return [(h.vaddr, h.filesz, h.memsz) for h in CoreEditor(path).loads]


@pytest.mark.parametrize("name", NAMES)
def test_capture_of_a_capture_scans_the_same_and_holds_no_more(
    name: str, cli: Cli, unpacked: Unpacked, scanned: Scanned, tmp_path: Path
) -> None:
    output = tmp_path / "core"
    source = unpacked(name)
    capture(cli, source, output)
    report = scan_file(output)
    assert without_times(report.as_dict()) == without_times(scanned(name).as_dict())
    original = CoreEditor(source)
    for start, size, _ in segments(output):
        assert original.load_at(start, size)
    assert sum(size for _, size, _ in segments(output)) <= sum(size for _, size, _ in segments(source))


@pytest.mark.parametrize("name", [AMD64_HEALTHY, S390X])
def test_capture_of_a_capture_has_the_same_memory(name: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    capture(cli, unpacked(name), tmp_path / "one")
    capture(cli, tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_capture_is_deterministic(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    for output in ("one.gz", "two.gz"):
        capture(cli, unpacked(AMD64_HEALTHY), tmp_path / output)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes())[:4] == b"\x7fELF"
    assert cli("-c", tmp_path / "one.gz", "scan").status == 0


@pytest.mark.parametrize("ending", UNPACK)
def test_ending_chooses_the_compression(ending: str) -> None:
    data = bytes(range(256)) * 1000
    results = []
    for _ in range(2):
        packed = io.BytesIO()
        with compressed(packed, f"core.{ending}") as out:
            out.write(data)
        results.append(packed.getvalue())
    assert UNPACK[ending](results[0]) == data
    assert results[0] == results[1]
    assert (len(results[0]) < len(data)) is (ending != "elf")


def test_entries_of_one_size_are_packed_by_their_differences() -> None:
    # Struct pages on a list: each leads to its neighbors, so no two are equal.
    entry = "<8Q"
    base = 0xFFFFEA0000000000
    pages = b"".join(
        struct.pack(entry, 0x17FFFFC0020014, at + 72, at - 56, 0xFFFF888003333301, (at - base) >> 6, 0, 1 << 32, 0)
        for at in range(base, base + (1 << 22), 64)
    )
    text = bytes(range(256)) * 100
    packed = io.BytesIO()
    with compressed(packed, "core.xz") as out:
        assert isinstance(out, XzStreams)
        out.write(text)
        out.repeats(64)
        out.write(pages[:1000])
        out.repeats(64)
        out.write(pages[1000:])
        out.repeats(0)
        out.write(text)
        # A filter of xz can't have this distance.
        out.repeats(257)
        out.write(text)
    data = packed.getvalue()
    assert lzma.decompress(data) == text + pages + text + text
    assert len(data) < len(lzma.compress(pages)) / 4
    assert data.count(b"\xfd7zXZ\0") == 3


@pytest.mark.parametrize("name", [AMD64_NUMA, I386_HOLE])
def test_xz_has_every_byte_in_less_room(name: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    for output in ("core", "core.xz"):
        capture(cli, unpacked(name), tmp_path / output)
    plain, packed = (tmp_path / "core").read_bytes(), (tmp_path / "core.xz").read_bytes()
    assert lzma.decompress(packed) == plain
    assert len(packed) < len(lzma.compress(plain))


@pytest.mark.parametrize("ending", UNPACK)
def test_compressed_capture_can_be_scanned(
    ending: str, cli: Cli, unpacked: Unpacked, scanned: Scanned, tmp_path: Path
) -> None:
    """Packed quickly here; capture itself takes its time."""
    pack = {
        "gz": lambda data: gzip.compress(data, 1),
        "xz": lambda data: lzma.compress(data, preset=0),
        "zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
        "elf": bytes,
    }[ending]
    path = tmp_path / "core"
    path.write_bytes(pack(unpacked(S390X).read_bytes()))
    report = cli("-c", path, "scan", "--format", "json").json()
    assert without_times(report) == without_times(scanned(S390X).as_dict())


def test_capture_holds_no_memory_that_nothing_read(cli: Cli, edited: Edited, tmp_path: Path) -> None:
    """A secret beside what is read stays behind: in a longer segment, and in one of its own."""
    core = edited(AMD64_HEALTHY)
    secret = b"correct horse battery staple"
    # The last segment grows by a secret at the end of the file.
    last = max(core.loads, key=lambda load: load.offset)
    assert last.offset + last.filesz == core.path.stat().st_size
    grown = last._replace(filesz=last.filesz + len(secret), memsz=last.memsz + len(secret))
    core.rewrite([grown if segment is last else segment for segment in core.segments], secret)
    assert CoreEditor(core.path).read(last.vaddr + last.filesz, len(secret)) == secret
    capture(cli, core.path, tmp_path / "core")
    assert secret not in (tmp_path / "core").read_bytes()


def test_capture_keeps_what_was_left_out_of_a_dump(cli: Cli, edited: Edited, opened: Opened, tmp_path: Path) -> None:
    core = edited(AMD64_HEALTHY)
    start = opened(AMD64_HEALTHY)[0].prog["vmemmap"].value_() + 0x2000 * 64
    core.exclude(start, start + 8192)
    capture(cli, core.path, tmp_path / "core")
    one, other = scan_file(core.path), scan_file(tmp_path / "core")
    assert one.summary["pages_unreadable"] == 128
    assert without_times(other.as_dict()) == without_times(one.as_dict())


def test_capture_with_btf_from_a_file_needs_that_file_no_more(
    cli: Cli, unpacked: Unpacked, opened: Opened, scanned: Scanned, tmp_path: Path
) -> None:
    target, types = opened(AMD64_HEALTHY)
    assert types.btf_address is not None
    btf = tmp_path / "btf"
    header = target.prog.read(types.btf_address, 24)
    size = 24 + int.from_bytes(header[16:20], "little") + int.from_bytes(header[20:24], "little")
    btf.write_bytes(target.prog.read(types.btf_address, size))
    done = cli("-c", unpacked(AMD64_HEALTHY), "--btf", btf, "capture", "-o", tmp_path / "core")
    assert done.status == 0
    report = scan_file(tmp_path / "core")
    assert without_times(report.as_dict()) == without_times(scanned(AMD64_HEALTHY).as_dict())


# drgn's helpers


@pytest.mark.parametrize("name", NAMES)
def test_drgn_finds_the_nodes(name: str, opened: Opened, scanned: Scanned) -> None:
    prog = opened(name)[0].prog
    nodes = list(for_each_online_pgdat(prog))
    assert len(nodes) == (2 if name == AMD64_NUMA else 1)
    for zone in scanned(name).zones:
        there = NODE_DATA(prog, zone["node"]).node_zones[zone["index"]]
        assert there.zone_start_pfn.value_() == zone["start_pfn"]
        assert there.spanned_pages.value_() == zone["spanned"]
    assert [n.value_() for n in nodes] == [NODE_DATA(prog, i).value_() for i in range(len(nodes))]


SECTIONS = {
    AMD64_400M: [0, 1, 2, 3],
    AMD64_NUMA: [0, 1, 2, 3, 4, 5, 6, 7],
    AMD64_HEALTHY: [0, 1, 2],
    # The plugged memory is present and offline.
    AMD64_HOTPLUG: [0, 1, 2, 3, 32, 33, 34],
    S390X: [0, 1],
}


@pytest.mark.parametrize("name", SECTIONS)
def test_drgn_finds_the_sections(name: str, opened: Opened) -> None:
    prog = opened(name)[0].prog
    sections = list(for_each_present_section(prog))
    assert [nr for nr, _ in sections] == SECTIONS[name]
    online = [nr for nr, section in sections if online_section(section)]
    assert online == [nr for nr in SECTIONS[name] if nr < 32]
    for nr, section in sections:
        assert valid_section(section)
        assert bool(early_section(section)) is (nr < 32)
        assert nr_to_section(prog, nr) == section
        assert "SECTION_MARKED_PRESENT" in decode_section_flags(section)


@pytest.mark.parametrize("name", NAMES)
def test_drgn_finds_the_valid_pages(name: str, opened: Opened, scanned: Scanned) -> None:
    prog = opened(name)[0].prog
    pages = sum(end - start for start, end, _ in for_each_valid_page_range(prog))
    examined = scanned(name).summary["pages_examined"]
    # Offline sections are valid for drgn.
    assert pages == (examined + 3 * 32768 if name == AMD64_HOTPLUG else examined)


@pytest.mark.parametrize("name", NAMES)
def test_drgn_finds_struct_pages_and_flags(name: str, opened: Opened, scanned: Scanned) -> None:
    prog = opened(name)[0].prog
    finding: Any = scanned(name).findings[0]
    page = pfn_to_page(prog, finding.start_pfn)
    assert page_to_pfn(page).value_() == finding.start_pfn
    assert "PG_reserved" in decode_page_flags(page)
    if name != I386_HOLE:
        nr = pfn_to_section_nr(prog, finding.start_pfn)
        assert online_section(nr_to_section(prog, nr))


def test_capture_walks_its_target_once(cli: Cli, unpacked: Unpacked, tmp_path: Path, monkeypatch: Any) -> None:
    walks = []
    original = capture_.Scan.walk
    monkeypatch.setattr(capture_.Scan, "walk", lambda *arguments: walks.append(1) or original(*arguments))
    capture(cli, unpacked(AMD64_NUMA), tmp_path / "capture.elf")
    assert walks == [1]


def test_capture_of_an_architecture_without_a_row_is_refused(
    cli: Cli, unpacked: Unpacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform(Architecture.S390, PlatformFlags(0))
    monkeypatch.setattr(capture_, "arch_of", lambda _: arch_of(platform))
    done = cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", tmp_path / "core")
    assert (done.status, list(tmp_path.glob("core*"))) == (2, [])
    assert "captures of s390 kernels can't be written" in done.err


def test_kernel_without_btf_is_captured_with_its_vmlinux(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(target: Any, symbols: Any = (), btf: Any = None) -> str:
        asked.append((tuple(symbols), btf))
        if not symbols:
            raise TypeInfoError("the kernel has no BTF")
        return "types"

    monkeypatch.setattr(capture_, "load", load)
    target: Any = object()
    with pytest.raises(TypeInfoError):
        capture_._load_types(target, Inputs())
    assert capture_._load_types(target, Inputs(symbols=("vmlinux",))) == "types"  # type: ignore[comparison-overlap]
    # BTF first: with it the capture needs no vmlinux.
    assert asked == [((), None), ((), None), (("vmlinux",), None)]


def test_a_damaged_number_of_sections_is_not_gone_through(
    cli: Cli, edited: Edited, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = edited("ppc64el-6.12")
    number = opened("ppc64el-6.12")[0].prog.symbol("__highest_present_section_nr")
    core.write(number.address, b"\xff" * 7 + b"\x00")
    reads = 0
    on_read = Recorder._on_read

    def counted(self: Recorder, *arguments: Any) -> bytes:
        nonlocal reads
        reads += 1
        return on_read(self, *arguments)

    monkeypatch.setattr(Recorder, "_on_read", counted)
    capture(cli, core.path, tmp_path / "core")
    # Two helpers go through the sections.
    assert reads < 400_000
    one, other = scan_file(core.path), scan_file(tmp_path / "core")
    assert without_times(other.as_dict()) == without_times(one.as_dict())
