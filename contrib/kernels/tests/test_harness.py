# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the parts that are plain functions."""

from __future__ import annotations

import functools
import io
import os
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contrib.kernels import elfcore
from contrib.kernels.agree import compare, compare_last_words, compare_reports, compare_triage
from contrib.kernels.boot import ELF, MACHINES, Guest, check, kernel_parameters, qemu_command
from contrib.kernels.build import Edit, apply, missing_options
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import newest_first, release_of
from contrib.kernels.gdb import Poke, Stub, parse_poke
from contrib.kernels.initrd import (
    MARK,
    PageFlags,
    Truth,
    collect_modules,
    cpio_archive,
    init_script,
    parse_console,
    parse_kpageflags,
)
from contrib.kernels.layouts import MemoryRange, srat
from contrib.kernels.layouts import poke as poke_lines
from contrib.kernels.matrix import ROWS
from contrib.kernels.run import Result, agreement, details

ZONEINFO = """Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 0
  pages free     3840
        spanned  4095
        present  3998
        managed  3840
        cma      0
  pagesets
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone   Device
  pages free     0
        spanned  65536
        present  0
        managed  0
Node 1, zone   Normal
        spanned  0
        present  0
        managed  0
"""
PAGETYPEINFO = """Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1
Node    0, zone      DMA, type    Unmovable      0      1

Number of blocks type     Unmovable      Movable
Node 0, zone      DMA            1            7
"""
FILES = {
    "version": "Linux version 6.12.1-test (x) #1\n",
    "cmdline": "console=ttyS0\n",
    "pagesize": "KernelPageSize:        4 kB\n",
    "vmcoreinfo": "0x0000000004000000 1024\n",
    "iomem": "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n  1-2 : System RAM\n",
    "memory_blocks": "8000000\n/sys/devices/system/memory/memory0/state:online\n"
    "/sys/devices/system/memory/memory32/state:offline\n",
    "pagetypeinfo": PAGETYPEINFO,
    "meminfo": "MemTotal: 1 kB\n",
    "zoneinfo": ZONEINFO,
}


def console(files: dict[str, str]) -> str:
    """Return a console text as a guest would print it, with the kernel's messages in between."""
    lines = ["[    0.000000] Linux version"]
    for name, text in files.items():
        lines.append(f"{MARK} BEGIN {name} {len(text)}")
        lines += text.splitlines()
        lines.insert(-1, "[   12.345678] a message")
        lines.append(f"{MARK} END {name}")
    return "\r\n".join(lines) + "\r\n"


@pytest.fixture(name="truth")
def truth_fixture() -> Truth:
    """Return the truth of the console above."""
    return parse_console(console(FILES))


def test_names_of_packages() -> None:
    """The release is in the package's name, and numbers are ordered by value."""
    assert release_of("linux-binary-unsigned-7.2.13+deb14-cloud-amd64") == ("7.2.13+deb14-cloud-amd64")
    names = ["linux-image-6.12.9-armmp", "linux-image-6.12.10-armmp", "linux-image-6.12.10-dbg"]
    assert newest_first(names, r"linux-image-6\.12\.[0-9]+-armmp") == names[1::-1]
    with pytest.raises(HarnessError):
        release_of("bash")


def test_console(truth: Truth) -> None:
    """Everything on the console is understood."""
    assert (truth.release, truth.page_size, truth.pageblock_order) == ("6.12.1-test", 4096, 9)
    assert [(z.node, z.name, z.start_pfn, z.spanned) for z in truth.zones] == [
        (0, "DMA", 1, 4095),
        (0, "Device", None, 65536),
        (1, "Normal", None, 0),
    ]
    assert truth.blocks == {(0, "DMA"): {"Unmovable": 1, "Movable": 7}}
    assert truth.system_ram == ((0x1000, 0x9FC00),)
    assert truth.offline_blocks == (32,)
    assert truth.vmcoreinfo == (0x4000000, 0x1024)


def test_console_that_lost_a_line() -> None:
    """A line that is missing is noticed, and so is a whole section."""
    with pytest.raises(HarnessError, match="lost part of zoneinfo"):
        parse_console(console(FILES).replace("        present  3998\r\n", ""))
    with pytest.raises(HarnessError, match="no section meminfo"):
        parse_console(console({k: v for k, v in FILES.items() if k != "meminfo"}))


def report_of(truth: Truth) -> dict[str, Any]:
    """Return a report that agrees with the truth."""
    zones = [
        {
            "node": zone.node,
            "index": index,
            "name": zone.name,
            "start_pfn": zone.start_pfn or 0,
            "end_pfn": (zone.start_pfn or 0) + zone.spanned,
            "spanned": zone.spanned,
            "present": zone.present,
            "managed": zone.managed,
        }
        for index, zone in enumerate(truth.zones)
    ]
    target = {"release": truth.release, "page_size": 4096, "pageblock_order": 9}
    return {"target": target, "zones": zones}


def test_compare(truth: Truth) -> None:
    """A report that agrees has no differences; each kind of error is one."""
    report = report_of(truth)
    assert compare(report, truth) == []
    report["target"]["pageblock_order"] = 10
    report["zones"][0]["present"] += 1
    report["zones"][1]["node"] = 7
    assert compare(report, truth) == [
        "pageblock_order is 10, the guest says 9",
        "node 0 zone DMA: present is 3999, the guest says 3998",
        "node 0 zone Device is missing",
        "node 7 zone Device is not the guest's",
    ]


def test_cpio(tmp_path: Path) -> None:
    """The cpio program reads what we write."""
    if shutil.which("cpio") is None:
        pytest.skip("no cpio program")
    files = {"d": (stat.S_IFDIR | 0o755, b""), "d/odd": (stat.S_IFREG | 0o644, b"12345")}
    command = ["cpio", "-idm", "--quiet"]
    subprocess.run(command, input=cpio_archive(files), cwd=tmp_path, check=True)
    assert (tmp_path / "d" / "odd").read_bytes() == b"12345"


def test_modules(tmp_path: Path) -> None:
    """What a module needs is loaded first; what is nowhere is an error."""
    directory = tmp_path / "kernel"
    directory.mkdir()
    (directory / "nd_pmem.ko").write_bytes(b"\0depends=nd-btt,built-in\0")
    (directory / "nd-btt.ko").write_bytes(b"\0depends=\0")
    (tmp_path / "modules.builtin").write_text("kernel/built-in.ko\n")
    assert list(collect_modules(directory, ["nd_pmem"], ["qemu_fw_cfg"])) == ["nd_btt", "nd_pmem"]
    with pytest.raises(HarnessError, match="no module nonsense"):
        collect_modules(directory, ["nonsense"])


def test_init_script() -> None:
    """init asks for QMP before the lines that wait for its effect, and prints after them."""
    text = init_script(["a"], ["wait for it"], qmp=True)
    places = [text.index(word) for word in ("insmod", " QMP", "wait for it", "show version", "READY")]
    assert places == sorted(places)


def make_core(order: str, wide: bool, gap: int = 64) -> bytearray:
    """Return a core as QEMU writes it: a section header lies before the program headers."""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    layout = order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH")
    segment = order + ("IIQQQQQQ" if wide else "IIIIIIII")
    size, entry = (64, 56) if wide else (52, 32)
    phoff = size + gap
    head = struct.pack(layout, 4, 8, 1, 0, phoff, size, 0, size, entry, 2, gap, 1, 0)
    start = phoff + 2 * entry
    note = struct.pack(order + "III", 5, 4, 1) + b"CORE\0\0\0\0" + b"regs"
    note_fields = [4, 0, start, 0, 0, len(note), len(note), 0]
    load_fields = [1, 0, start + len(note), 0, 0x1000, 64, 64, 0]
    headers = b""
    for fields in (note_fields, load_fields):
        if not wide:
            fields = [fields[0], *fields[2:7], fields[1], fields[7]]
        headers += struct.pack(segment, *fields)
    place = struct.pack(order + "III", 11, 5, 0) + b"VMCOREINFO\0\0" + b"A=B\nC\0\0\0"
    return bytearray(ident + head + bytes(gap) + headers + note + place.ljust(64, b"\0"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [True, False])
def test_repair(tmp_path: Path, order: str, wide: bool) -> None:
    """The note is found in guest memory and the program headers follow the ELF header."""
    path = tmp_path / "core"
    path.write_bytes(make_core(order, wide))
    move = functools.partial(elfcore.linear_map, physical=0x1000, virtual=0xC0000000)
    elfcore.repair(path, (0x1000, 64), (move,))
    with open(path, "rb") as core:
        headers = elfcore.read_headers(core)
        note, load = headers.segments
        assert elfcore.has_vmcoreinfo(core)
        core.seek(note.offset)
        notes = core.read(note.filesz)
        assert notes[12:17] == b"CORE\0"
        assert notes.endswith(b"VMCOREINFO\0\0A=B\nC\0\0\0")
        assert (load.vaddr, load.paddr, load.memsz) == (0xC0000000, 0x1000, 64)
        assert elfcore.read_physical(core, headers, 0x100C, 10) == b"VMCOREINFO"


def test_repair_of_the_byte_order(tmp_path: Path) -> None:
    """A big-endian header over little-endian memory becomes a little-endian one."""
    core = make_core(">", True)
    core[-64:] = make_core("<", True)[-64:]
    path = tmp_path / "core"
    path.write_bytes(core)
    elfcore.repair(path, (0x1000, 64), (elfcore.little_endian, elfcore.drop_notes))
    with open(path, "rb") as stream:
        assert elfcore.read_headers(stream).elf.order == "<"
        assert elfcore.has_vmcoreinfo(stream)
    assert b"regs" not in path.read_bytes()[-40:]


def test_repair_refuses() -> None:
    """What is no ELF file, or has no note where it should be, is an error."""
    with pytest.raises(HarnessError, match="not an ELF file"):
        elfcore.read_headers(io.BytesIO(b"KDUMP   "))
    core = io.BytesIO(bytes(make_core("<", True)))
    headers = elfcore.read_headers(core)
    with pytest.raises(HarnessError, match="no VMCOREINFO note"):
        elfcore.add_vmcoreinfo(core, headers, (0x1008, 32))
    with pytest.raises(HarnessError, match="no memory at physical address 0x5000"):
        elfcore.read_physical(core, headers, 0x5000, 8)


def guest(**options: Any) -> Guest:
    """Return a guest with some options."""
    return Guest(**{"arch": "amd64", "kernel": Path("k"), "initrd": Path("i"), **options})


def test_command_lines() -> None:
    """The kernel's and QEMU's parameters follow the guest."""
    assert kernel_parameters(guest()) == "console=ttyS0 panic=-1 nokaslr no_timer_check"
    assert "nokaslr" not in kernel_parameters(guest(kaslr=True))
    command = qemu_command(guest(qemu_args=("-smp", "2")), Path("/a,b"), Path("/m"))
    assert command[-2:] == ["-smp", "2"]
    assert "file:/a,,b" in command
    assert "vmcoreinfo" in command
    assert "vmcoreinfo" not in qemu_command(guest(arch="s390x"), Path("/l"), Path("/m"))


def test_refusals() -> None:
    """What QEMU or we cannot do is refused before the boot."""
    check(guest())
    for options in ({"arch": "vax"}, {"format": "kdump-zlib", "paging": True}):
        with pytest.raises(HarnessError):
            check(guest(**options))


def test_rows() -> None:
    """Names are unique, machines exist, and paging goes with ELF only."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.source.arch in MACHINES
        assert row.format == ELF or not row.paging


def test_kpageflags_runs_become_pfn_ranges() -> None:
    runs = parse_kpageflags("      1 01\n     15 00\n     16 10\n")
    assert runs == (PageFlags(0, 1, False, True), PageFlags(1, 16, False, False), PageFlags(16, 32, True, False))


def test_init_runs_lines_after_the_print() -> None:
    script = init_script([], ["before"], after=["after"])
    printed = script.index("show zoneinfo")
    assert script.index("before\n") < printed < script.index("after\n")


def test_the_checksum_of_an_acpi_table_is_right() -> None:
    table = srat((0, 1), (MemoryRange(0, 512, 1), MemoryRange(512, 512, 0)))
    assert sum(table) % 256 == 0
    assert len(table) == struct.unpack_from("<I", table, 4)[0] == 36 + 12 + 2 * 16 + 2 * 40


def test_kconfig_options_that_were_refused_are_named() -> None:
    config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\n"
    assert missing_options(("CONFIG_A=y", "CONFIG_B=n", "CONFIG_D=n"), config) == []
    assert missing_options(("CONFIG_B=y", "CONFIG_C=n"), config) == ["CONFIG_B=y", "CONFIG_C=n"]


def test_an_edit_must_match_once_and_leaves_hard_links_alone(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    for directory in (original, copy):
        directory.mkdir()
    (original / "file.c").write_text("one two")
    os.link(original / "file.c", copy / "file.c")
    apply([Edit("file.c", "two", "three")], copy)
    assert (copy / "file.c").read_text() == "one three"
    assert (original / "file.c").read_text() == "one two"
    with pytest.raises(HarnessError, match="has not the text"):
        apply([Edit("file.c", "four", "five")], copy)


WORDS = "[   15.7] page:(____ptrval____) refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x2a00\n"


def test_last_words_must_have_a_finding() -> None:
    found = {"rule": "zone-span", "start_pfn": 0x2A00, "end_pfn": 0x2A01}
    assert compare_last_words(WORDS, {"findings": [found]}) == []
    missing = compare_last_words(WORDS, {"findings": []})
    assert missing is not None and "0x2a00" in missing[0]
    with pytest.raises(HarnessError, match="named no page"):
        compare_last_words("", {"findings": []})


def report_with(**changes: Any) -> dict[str, Any]:
    finding = {"rule": "bitmap-bounds", "start_pfn": 1, "message": "hits: x", "detail": {"there": "x", "index": 4}}
    return {
        "target": {"types_from": "btf", "release": "1"},
        "zones": [],
        "summary": {"elapsed_seconds": 1.0},
        "findings": [{**finding, **changes}],
    }


def test_reports_may_differ_in_symbols_only() -> None:
    other = report_with(message="hits: y", detail={"there": "y", "index": 4})
    assert compare_reports(report_with(), other) == []
    other = report_with(detail={"there": "y", "index": 5})
    assert compare_reports(report_with(), other) == ["findings differ between the sources of types"]


def test_a_result_says_what_disagrees() -> None:
    result = Result(ROWS[0], reports={"btf": {}}, checks={"zones": [], "ram": ["pfn 3 is missing"]})
    assert agreement(result) == "DISAGREES: ram"
    assert not result.agrees
    assert details([result]) == [f"{ROWS[0].name}: ram: pfn 3 is missing"]
    assert agreement(Result(ROWS[0], problem="no mirror")) == "FAILED"


def test_row_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_pokes() -> None:
    """Address and bytes are hexadecimal; the bytes repeat."""
    assert parse_poke(" ffffea0000200000 00ff 3") == Poke(0xFFFFEA0000200000, b"\x00\xff" * 3)
    assert parse_poke("10 90").data == b"\x90"
    for words in ("", "10", "10 9", "10 90 x"):
        with pytest.raises(HarnessError, match="ADDRESS BYTES"):
            parse_poke(words)
    assert poke_lines("10", "90", 2)[0].endswith('POKE 10 90 2"')


def test_gdb_stub_skips_what_it_was_not_asked(tmp_path: Path) -> None:
    """QEMU tells that the guest stopped before it answers."""
    answers = [b"+$T02thread:01;#04+$OK#9a", b"+$E14#aa"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "gdb"))
        server.listen()
        stub = Stub(tmp_path / "gdb")
        connection, _ = server.accept()
        with connection:
            connection.sendall(answers[0])
            stub.write(Poke(0x1000, b"\x00"))
            connection.sendall(answers[1])
            with pytest.raises(HarnessError, match="0x1000: E14"):
                stub.write(Poke(0x1000, b"\x00"))
            assert b"$M1000,1:00#" in connection.recv(4096)


def test_triage_must_say_what_the_row_says() -> None:
    result = {"verdict": "other", "why": "w", "crash": {"lines": ["Kernel panic"]}}
    console = "[    1.0] Kernel panic\r\n"
    assert compare_triage(result, "other", console) == []
    assert len(compare_triage(result, "explained", console) or ()) == 1
    assert len(compare_triage(result, "other", "") or ()) == 1
    assert len(compare_triage({**result, "crash": None}, "other", console) or ()) == 1
