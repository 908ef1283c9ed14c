# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input ends with status 2, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import zstandard

from mminspect.program import open as targets
from mminspect.typeinfo.btf import Btf
from tests.conftest import Cli, Edited, Opened, Unpacked
from tests.support import (
    AMD64_400M,
    AMD64_HEALTHY,
    AMD64_LOW_RAM,
    I386_HOLE,
    S390X,
    Done,
    elf_core,
    python,
)


def complaint(done: Done) -> str:
    """Check that a command line failed as it should, and get what it says."""
    assert done.status == 2, (done.status, done.err)
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("mminspect: ")
    assert "Traceback" not in done.err
    # An exception's name in front means that nobody thought of this input.
    assert "please report it" not in done.err, done.err
    return lines[0][len("mminspect: ") :]


@pytest.fixture
def refused(cli: Cli) -> Callable[[object], str]:
    """Scan a file that must be refused; give the complaint."""
    return lambda path: complaint(cli("-c", path, "scan"))


@pytest.fixture
def small(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a file."""

    def write(data: bytes) -> Path:
        path = tmp_path / "input"
        path.write_bytes(data)
        return path

    return write


# Files that are no vmcore


def test_no_such_file(refused: Any, tmp_path: Path) -> None:
    assert refused(tmp_path / "missing") == f"{tmp_path}/missing: No such file or directory"


def test_file_in_a_directory_that_is_a_file(refused: Any, small: Any) -> None:
    assert "Not a directory" in refused(small(b"x") / "below")


def test_directory(refused: Any, tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_empty_file(refused: Any, small: Any) -> None:
    assert "empty" in refused(small(b""))


def test_text_file(refused: Any, small: Any) -> None:
    assert "not a vmcore" in refused(small(b"Hello, world\n" * 1000))


@pytest.mark.parametrize("size", [1, 3, 4, 15, 16])
def test_short_file(refused: Any, small: Any, size: int) -> None:
    refused(small(b"\x7fELF\2\1\1\0\0\0\0\0\0\0\0\0"[:size]))


def test_device(refused: Any) -> None:
    assert "not a regular file" in refused("/dev/null")


def test_fifo_does_not_hang(refused: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused(tmp_path / "fifo")


def test_file_that_may_not_be_read(refused: Any, small: Any) -> None:
    path = small(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    assert "Permission denied" in refused(path)


def test_elf_executable(refused: Any) -> None:
    message = refused(os.path.realpath(sys.executable))
    assert "not a core" in message
    assert "-s" in message


def test_core_of_a_user_process(refused: Any, small: Any) -> None:
    prstatus = bytes(336)
    data = elf_core([("CORE", prstatus), ("CORE", bytes(136))], [(0x400000, bytes(4096))])
    assert "user process" in refused(small(data))


def test_qemu_dump_without_vmcoreinfo_says_how_to_get_one(refused: Any, small: Any) -> None:
    data = elf_core([("CORE", bytes(336)), ("QEMU", bytes(440))], [(0, bytes(4096))])
    message = refused(small(data))
    assert "no VMCOREINFO" in message
    assert "-device vmcoreinfo" in message


def test_core_without_memory(refused: Any, small: Any) -> None:
    assert "no memory" in refused(small(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [])))


def test_vmcoreinfo_of_nothing(refused: Any, small: Any) -> None:
    refused(small(elf_core([("VMCOREINFO", b"")], [(0xFFFF888000000000, bytes(4096))])))


def test_vmcoreinfo_of_noise(refused: Any, small: Any) -> None:
    noise = b"OSRELEASE=6.1.0\nPAGESIZE=banana\nSYMBOL(_stext)=xyz\n=\n\xff\xfe\n"
    refused(small(elf_core([("VMCOREINFO", noise)], [(0xFFFF888000000000, bytes(4096))])))


def test_program_headers_that_can_not_be(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<H", data, 54, 7)
    assert "program header table" in refused(small(bytes(data)))


def test_program_headers_behind_the_end(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<Q", data, 32, 1 << 60)
    refused(small(bytes(data)))


def test_program_header_count_in_a_section_header_that_is_not_there(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<H", data, 56, 0xFFFF)
    struct.pack_into("<Q", data, 40, 1 << 40)
    refused(small(bytes(data)))


@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) + 1, (1 << 64) - 1])
def test_segment_behind_the_end(refused: Any, small: Any, offset: int) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<Q", data, 64 + 56 + 8, offset)
    assert "truncated" in refused(small(bytes(data)))


@pytest.mark.parametrize("size", [1 << 31, (1 << 32) - 1])
def test_note_larger_than_the_notes(refused: Any, small: Any, size: int) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<I", data, 64 + 56 * 2 + 4, size)
    refused(small(bytes(data)))


def test_kdump_header_of_zeros(refused: Any, small: Any) -> None:
    assert "kdump" in refused(small(b"KDUMP   " + bytes(8192)))


@pytest.mark.parametrize("size", [8, 100, 511])
def test_kdump_header_that_is_cut(refused: Any, small: Any, size: int) -> None:
    refused(small((b"KDUMP   " + bytes(600))[:size]))


@pytest.mark.parametrize("size", [16, 4096, 4100, 8192])
def test_flattened_dump_that_is_cut(refused: Any, small: Any, size: int) -> None:
    data = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    assert "truncated" in refused(small((data + bytes(4096 - len(data)) + struct.pack(">qq", 0, 1 << 20))[:size]))


@pytest.mark.parametrize(("offset", "length"), [(-2, 16), (0, -1), (0, 0)])
def test_flattened_dump_with_a_record_that_can_not_be(refused: Any, small: Any, offset: int, length: int) -> None:
    data = b"makedumpfile\0\0\0\0" + bytes(4080) + struct.pack(">qq", offset, length) + bytes(64)
    assert "damaged" in refused(small(data))


# Vmcores that are damaged


def offsets(size: int, notes_at: int) -> list[int]:
    """Choose places to cut a core: inside headers, notes and memory, and right before the end."""
    headers = [1, 4, 15, 16, 17, 51, 52, 63, 64, 65, 100, 119, 120, 121, 500]
    notes = [notes_at - 1, notes_at, notes_at + 1, notes_at + 12, notes_at + 20, notes_at + 1000, notes_at + 3000]
    data = [size * part // 20 for part in range(1, 20)]
    return sorted({*headers, *notes, *data, size - 4096, size - 2, size - 1})


@pytest.mark.parametrize("name", [AMD64_HEALTHY, I386_HOLE, S390X])
def test_core_that_is_cut_anywhere(name: str, cli: Cli, edited: Edited) -> None:
    core = edited(name)
    size = core.path.stat().st_size
    for offset in reversed(offsets(size, core.headers[0].offset)):
        os.truncate(core.path, offset)
        message = complaint(cli("-c", core.path, "scan"))
        assert str(core.path) in message, offset


COMPRESSORS = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_core_that_is_cut(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = COMPRESSORS[ending](unpacked(AMD64_HEALTHY).read_bytes()[: 1 << 20])
    for size in (4, 6, 10, 18, 100, len(data) // 2, len(data) - 5, len(data) - 1):
        message = complaint(cli("-c", small(data[:size]), "scan"))
        assert any(word in message for word in ("cut short", "not a vmcore", "truncated", "nothing")), (size, message)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_core_that_is_damaged(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = COMPRESSORS[ending](unpacked(AMD64_HEALTHY).read_bytes()[: 1 << 20])
    for at in (12, len(data) // 3, len(data) // 2, len(data) - 8):
        damaged = bytearray(data)
        damaged[at : at + 4] = bytes(b ^ 0xFF for b in damaged[at : at + 4])
        complaint(cli("-c", small(bytes(damaged)), "scan"))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_text(ending: str, refused: Any, small: Any) -> None:
    assert "not a vmcore" in refused(small(COMPRESSORS[ending](b"Hello, world\n" * 100)))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_nothing(ending: str, refused: Any, small: Any) -> None:
    assert "nothing" in refused(small(COMPRESSORS[ending](b"")))


def test_zone_that_spans_too_much(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    zone = opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1]
    core.write_word(zone.spanned_pages.address_, 1 << 60)
    message = complaint(cli("-c", core.path, "scan"))
    assert "spanned_pages 0x1000000000000000" in message
    assert "node 0 zone DMA32" in message


def test_zone_that_starts_too_late(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    zone = opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1]
    core.write_word(zone.zone_start_pfn.address_, (1 << 64) - 1)
    assert "zone_start_pfn" in complaint(cli("-c", core.path, "scan"))


def test_number_of_sections_that_can_not_be(cli: Cli, edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    core.replace_in_notes(b"LENGTH(mem_section)=2048\n", b"LENGTH(mem_section)=9999\n")
    assert "sections in mem_section" in complaint(cli("-c", core.path, "scan"))


def test_section_size_that_can_not_be(cli: Cli, edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    core.replace_in_notes(b"NUMBER(SECTION_SIZE_BITS)=27\n", b"NUMBER(SECTION_SIZE_BITS)=63\n")
    complaint(cli("-c", core.path, "scan"))


def test_mem_section_that_points_nowhere(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["mem_section"].value_(), 0xDEAD00000000)
    complaint(cli("-c", core.path, "scan"))


def test_bitmap_that_can_not_be_read(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    section = opened(AMD64_HEALTHY)[0].prog["mem_section"][0][1]
    core.write_word(section.usage.address_, 0xFFFF8880DEAD0000)
    assert "bitmap of section 1" in complaint(cli("-c", core.path, "scan"))


def test_node_without_pgdat(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].address_, 0)
    assert "no pgdat" in complaint(cli("-c", core.path, "scan"))


def test_pgdat_that_points_nowhere(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].address_, 0xDEAD00000000)
    complaint(cli("-c", core.path, "scan"))


def test_memmap_that_is_not_there(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_LOW_RAM)
    vmemmap = opened(AMD64_LOW_RAM)[0].prog["vmemmap"].value_()
    for start, end in ((0x0, 0x8000), (0x100000, 0x108000)):
        core.exclude(vmemmap + start * 64, vmemmap + end * 64)
        core = type(core)(core.path)
    assert "not one struct page" in complaint(cli("-c", core.path, "scan"))


def test_flatmem_that_is_too_large(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(I386_HOLE)
    core.write_word(opened(I386_HOLE)[0].prog["max_mapnr"].address_, 0xFFFFFFFF)
    assert "max_mapnr" in complaint(cli("-c", core.path, "scan"))


def test_zone_names_that_can_not_be_read_are_no_reason_to_fail(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1].name.address_, 0xDEAD00000000)
    done = cli("-c", core.path, "scan", "--format", "json")
    assert done.status == 0
    assert done.json()["zones"][1]["name"] == "id 1"


# Types


def btf_of(opened: Opened, name: str) -> bytes:
    """Get the BTF in a stored vmcore."""
    target, types = opened(name)
    assert types.btf_address is not None
    header = target.prog.read(types.btf_address, 24)
    type_len, str_off, str_len = struct.unpack_from("<III", header, 12)
    return target.prog.read(types.btf_address, 24 + max(type_len, str_off + str_len))


def test_btf_file_is_used(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    path = small(btf_of(opened, AMD64_HEALTHY))
    assert cli("-c", unpacked(AMD64_HEALTHY), "--btf", path, "scan").status == 0


def test_btf_file_that_is_cut(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    data = btf_of(opened, AMD64_HEALTHY)
    for size in (0, 3, 23, 24, 1000, len(data) // 2, len(data) - 1):
        message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", small(data[:size]), "scan"))
        assert "BTF" in message


def test_btf_file_of_something_else(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    assert "BTF" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", small(b"Hello" * 100), "scan"))


def test_btf_file_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", tmp_path / "missing", "scan"))
    assert "No such file" in message


def test_btf_that_is_a_directory(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", tmp_path, "scan"))


def test_btf_of_another_kernel(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    path = small(btf_of(opened, AMD64_400M))
    complaint(cli("-c", unpacked(I386_HOLE), "--btf", path, "scan"))


def test_btf_with_noise_in_it(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    data = bytearray(btf_of(opened, AMD64_HEALTHY))
    for at in range(24, len(data), 4099):
        data[at : at + 8] = b"\xff" * 8
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", small(bytes(data)), "scan"))


@pytest.mark.parametrize("size", [0, 1, 60, 1 << 31])
def test_struct_page_of_an_impossible_size(size: int, cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    data = bytearray(btf_of(opened, AMD64_HEALTHY))
    types = Btf(opened(AMD64_HEALTHY)[0].prog, bytes(data))
    type_id = types.find("page", (4,))
    assert type_id is not None
    at = 24 + 4 * types._starts[type_id]
    assert struct.unpack_from("<I", data, at + 8) == (64,)
    struct.pack_into("<I", data, at + 8, size)
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", small(bytes(data)), "scan"))
    assert f"SIZE(page) is {size} there" in message


def vmlinux(build_id: bytes) -> bytes:
    """Make an ELF executable with a build ID and nothing else."""
    note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id
    names = b"\0.note.gnu.build-id\0.shstrtab\0"
    ident = b"\x7fELF\2\1\1" + bytes(9)
    end = 64 + len(note) + len(names)
    head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, end, 0, 64, 56, 0, 64, 3, 2)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 7, 2, 0, 64, len(note), 0, 0, 4, 0)
    sections += struct.pack("<IIQQQQIIQQ", 20, 3, 0, 0, 64 + len(note), len(names), 0, 0, 1, 0)
    return ident + head + note + names + sections


def test_vmlinux_of_another_build_names_both(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    path = small(vmlinux(bytes(range(20))))
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "-s", path, "scan"))
    assert bytes(range(20)).hex() in message
    assert str(opened(AMD64_HEALTHY)[0].vmcoreinfo.build_id) in message


def test_vmlinux_of_this_build_without_dwarf(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    build_id = opened(AMD64_HEALTHY)[0].vmcoreinfo.build_id
    path = small(vmlinux(bytes.fromhex(str(build_id))))
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "-s", path, "scan"))


@pytest.mark.parametrize("data", [b"", b"Hello", b"\x7fELF", b"\x7fELF\2\1\1" + b"\xff" * 100])
def test_vmlinux_that_is_none(cli: Cli, unpacked: Unpacked, small: Any, data: bytes) -> None:
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "-s", small(data), "scan"))


def test_vmlinux_that_is_cut(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = vmlinux(bytes(20))
    for size in range(0, len(data), 37):
        complaint(cli("-c", unpacked(AMD64_HEALTHY), "-s", small(data[:size]), "scan"))


def test_vmlinux_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    assert "No such file" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "-s", tmp_path / "missing", "scan"))


@pytest.mark.parametrize("text", ["", "Hello, world\n", "xyz T _stext\n", "ffff\n"])
def test_system_map_that_is_none(cli: Cli, unpacked: Unpacked, small: Any, text: str) -> None:
    assert "System.map" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "--system-map", small(text.encode()), "scan"))


def test_system_map_has_symbols_without_address(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    info = opened(AMD64_HEALTHY)[0].vmcoreinfo
    text = f"                 w __start_BTF\n{info.symbols['_stext'] - info.kaslr_offset:x} T _stext\n"
    path = small(text.encode())
    assert cli("-c", unpacked(AMD64_HEALTHY), "--system-map", path, "scan").status == 0


def test_stand_in_for_a_system_map(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    path = small(b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n")
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--system-map", path, "scan"))
    assert "-dbg" in message


def test_core_that_can_not_be_read_is_named(refused: Any) -> None:
    assert refused("/proc/self/mem").startswith("/proc/self/mem: can't be read: ")


def test_pageblock_order_that_a_capture_lacks_is_named(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--pageblock-order", "1", "scan"))
    assert message.startswith("with --pageblock-order 1: ")


def test_help_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mminspect", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "mminspect: the output: No space left on device\n"


def test_rules_without_docstrings() -> None:
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    assert python("rules", "mixed-zone", env=environment).status == 0


def test_system_map_of_another_build(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    path = small(b"ffffffff81234567 T _stext\n")
    assert "of another build" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "--system-map", path, "scan"))


@pytest.mark.parametrize("option", ["-s", "--btf", "--system-map"])
def test_file_that_would_block_or_never_end(option: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        message = complaint(cli("-c", unpacked(AMD64_HEALTHY), option, path, "scan"))
        assert message.startswith(f"{path}: not a regular file")


@pytest.mark.parametrize("option", ["-c", "-s", "--btf", "--system-map"])
def test_empty_name(option: str, cli: Cli, unpacked: Unpacked) -> None:
    assert "empty name" in complaint(cli("-c", unpacked(AMD64_HEALTHY), option, "", "scan"))


@pytest.mark.parametrize("option", ["-s", "--btf", "--system-map"])
def test_huge_file_is_not_read_as_a_whole(option: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    complaint(cli("-c", unpacked(AMD64_HEALTHY), option, path, "scan"))


def test_btf_of_a_sibling_build(cli: Cli, unpacked: Unpacked, opened: Opened, small: Any) -> None:
    # A 686 kernel has structures of the same sizes as a 686-pae kernel; a page table entry has not.
    target, types = opened(I386_HOLE)
    header = target.prog.read(types.btf_address, 24)
    type_len, str_off, str_len = struct.unpack_from("<III", header, 12)
    data = bytearray(target.prog.read(types.btf_address, 24 + max(type_len, str_off + str_len)))
    btf = Btf(target.prog, bytes(data))
    typedef = btf.find("pte_t", (8,))
    assert typedef is not None
    words = struct.unpack_from("<III", data, 24 + 4 * btf._starts[typedef])
    at = 24 + 4 * btf._starts[words[2]]
    assert struct.unpack_from("<I", data, at + 8) == (8,)
    struct.pack_into("<I", data, at + 8, 4)
    message = complaint(cli("-c", unpacked(I386_HOLE), "--btf", small(bytes(data)), "scan"))
    assert "not the types of this kernel: sizeof(pte_t) is 4 there" in message


def test_no_types_names_what_would_help(refused: Any, small: Any) -> None:
    symbols = {"swapper_pg_dir": 0xFFFFFFFF82610000, "init_top_pgt": 0xFFFFFFFF82610000, "_stext": 0xFFFFFFFF81000000}
    lines = ["OSRELEASE=6.1.0-99-cloud-amd64", "PAGESIZE=4096", "NUMBER(phys_base)=0", "NUMBER(pgtable_l5_enabled)=0"]
    lines += [f"SYMBOL({name})={address:x}" for name, address in symbols.items()]
    note = "\n".join(lines).encode()
    data = elf_core([("VMCOREINFO", note)], [(symbols["_stext"], bytes(1 << 16))])
    message = refused(small(data))
    assert "no type information for 6.1.0-99-cloud-amd64" in message
    assert "linux-image-6.1.0-99-cloud-amd64-dbg" in message
    assert "--btf" in message


# Output and usage


def test_output_in_a_directory_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "missing" / "report"))
    assert message.startswith(f"{tmp_path}/missing/report: can't be written: ")
    assert "directory" in message


def test_output_that_is_a_directory(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "is a directory" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_output_to_a_full_device(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", "/dev/full"))
    assert message == "/dev/full: can't be written: No space left on device"


@pytest.mark.parametrize("command", ["scan", "capture", "watch"])
@pytest.mark.parametrize("how", ["itself", "link", "hard link", "other path"])
def test_output_onto_the_input(how: str, command: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(unpacked(AMD64_HEALTHY).read_bytes())
    output = core if how == "itself" else tmp_path / "out"
    if how == "link":
        output.symlink_to(core)
    elif how == "hard link":
        output.hardlink_to(core) if sys.version_info >= (3, 10) else os.link(core, output)
    elif how == "other path":
        output = tmp_path / "." / ".." / tmp_path.name / "core"
    more = ("--format", "prometheus", "--count", "1") if command == "watch" else ()
    before = core.read_bytes()
    message = complaint(cli("-c", core, command, "-o", output, *more))
    assert "is a file that is read" in message
    assert core.read_bytes() == before


def test_output_onto_a_btf_file(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    path = small(b"x")
    assert "is a file that is read" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", path, "scan", "-o", path))


@pytest.mark.parametrize("ending", [".bz2", ".lz4", ".zip", ".ZIP"])
def test_capture_with_an_ending_that_it_can_not_have(ending: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    output = tmp_path / f"core{ending}"
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", output))
    assert ".gz, .xz or .zst" in message
    assert not output.exists()


def test_capture_in_a_directory_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", tmp_path / "missing" / "core"))


def test_output_of_a_scan_that_fails_leaves_nothing(cli: Cli, small: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    complaint(cli("-c", small(b"x" * 100), "scan", "-o", tmp_path / "out" / "report"))
    assert list((tmp_path / "out").iterdir()) == []


def test_output_of_a_scan_that_fails_keeps_what_was_there(cli: Cli, small: Any, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("old")
    complaint(cli("-c", small(b"x" * 100), "scan", "-o", report))
    assert report.read_text() == "old"


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_rule_that_is_none(option: str, cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", option, "mixed-zone,banana"))
    assert "'banana'" in message
    assert "mixed-zone" in message


def test_no_rule_left(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "--select", "zone-id", "--ignore", "zone-id"))
    assert "no rule is left" in message


def test_rules_of_a_rule_that_is_none(cli: Cli) -> None:
    assert "'banana'" in complaint(cli("rules", "banana"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "--format", "xml"),
        ("scan", "--fail-on", "banana"),
        ("banana",),
        ("--pageblock-order", "x", "scan"),
        ("--pageblock-order", "0", "scan"),
        ("scan", "extra"),
        ("--core",),
        ("capture",),
        ("watch", "--interval", "0s"),
        ("watch", "--interval", "99999999999999h"),
        ("watch", "--interval", "soon"),
        ("scan", "--select", ","),
    ],
)
def test_bad_usage_has_status_2(arguments: Any, cli: Cli) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("mminspect: ")
    assert "please report it" not in line


def test_module_that_cannot_be_loaded_is_one_line_and_no_bug(unpacked: Unpacked) -> None:
    program = "import sys; from mminspect.cli import run as cli; sys.modules['mminspect.walk.engine'] = None; cli.run()"
    core = str(unpacked(AMD64_HEALTHY))
    done = subprocess.run(
        [sys.executable, "-c", program, "-c", core, "scan"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("mminspect: a module can't be loaded, perhaps for lack of memory: ")
    assert "please report it" not in line


def test_pageblock_order_larger_than_a_section(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--pageblock-order", "20", "scan"))
    assert "larger than a section" in message


@pytest.mark.parametrize("command", ["zones", "capture"])
def test_other_commands_complain_alike(command: str, cli: Cli, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "out") if command == "capture" else ()
    assert "No such file" in complaint(cli("-c", tmp_path / "missing", command, *more))
    assert not (tmp_path / "out").exists()


def test_running_kernel_without_kcore(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "KCORE", "/nonexistent/kcore")
    assert "CONFIG_PROC_KCORE" in complaint(cli("scan"))


def test_running_kernel_without_root(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "KCORE", "/dev/null")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in complaint(cli("scan"))


def test_debug_shows_the_traceback(unpacked: Unpacked, tmp_path: Path) -> None:
    done = python("--debug", "-c", str(tmp_path / "missing"), "scan")
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("mminspect: ")


def test_complaint_in_a_process_of_its_own(unpacked: Unpacked, tmp_path: Path) -> None:
    assert "No such file" in complaint(python("-c", str(tmp_path / "missing"), "scan"))
