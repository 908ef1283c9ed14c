# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF, a vmlinux and a System.map that are damaged, of another kernel, or something else."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mminspect.program.target import Target
from mminspect.typeinfo.btf import Btf
from tests.conftest import Cli, Opened, Unpacked, complaint
from tests.kit.made import MadeKernel
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, I386_HOLE, elf_core


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
    assert "corrupt BTF: " in message
    assert "struct page " in message


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
    what = "vmcore" if option == "-c" else "file"
    assert f"the name of the {what} is empty" in complaint(cli("-c", unpacked(AMD64_HEALTHY), option, "", "scan"))


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
    number = btf.find("unsigned int", (1,))
    assert number is not None
    struct.pack_into("<I", data, 24 + 4 * btf._starts[typedef] + 8, number)
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


def test_with_dwarf_a_kernel_has_the_functions_that_drgn_finds() -> None:
    """Without BTF nobody but drgn knows functions."""
    made = MadeKernel()
    made.function("dump_page")
    target: Any = SimpleNamespace(prog=made.prog)
    assert Target.has_function(target, "dump_page") is True
    assert Target.has_function(target, "dump_vma") is False
