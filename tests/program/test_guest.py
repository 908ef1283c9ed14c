# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of a guest, which is memory of QEMU's process: here of this one."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn import FaultError, Program

from mminspect.errors import TargetError
from mminspect.program import guest as guests
from mminspect.program import x86_64
from mminspect.program.guest import Guest, GuestMemory
from tests.kit.fakeqemu import FakeQemu, fake_qemu

SIZE = 8 << 20
HIGH = 1 << 32
PRESENT, PSE = 1, 0x80
ROOT, IMAGE, NOTE, OLD_NOTE = 0x2000, 0x400000, 0x5000, 0x9000
DIRECT = 0xFFFF888000000000
TEXT = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"
OLD_TEXT = b"OSRELEASE=5.10.0\nPAGESIZE=4096\n"


def readable() -> bool:
    """Tell whether this process can read its own memory as another one does."""
    try:
        os.close(os.open(f"/proc/{os.getpid()}/mem", os.O_RDONLY))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not readable(), reason="/proc/PID/mem can't be read")


class Made(NamedTuple):
    """
    A guest made by hand.

    :ivar low: Its memory from 0 on.
    :ivar high: Its memory from 4 GiB on.
    """

    qemu: FakeQemu
    low: mmap.mmap
    high: mmap.mmap

    def open(self, stop: bool = False) -> Guest:
        """Open it."""
        return Guest(str(self.qemu.path), stop)


def note(text: bytes) -> bytes:
    """Make the note of a VMCOREINFO as a kernel has it in its memory."""
    return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text.ljust(-(-len(text) // 4) * 4, b"\0")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with fake_qemu(tmp_path / "qmp") as qemu, mmap.mmap(-1, SIZE) as low, mmap.mmap(-1, SIZE) as high:
        pieces = [ctypes.c_char.from_buffer(memory) for memory in (low, high)]
        qemu.ram = [(start, SIZE, ctypes.addressof(at)) for start, at in zip((0, HIGH), pieces)]
        yield Made(qemu, low, high)
        del pieces


def with_kernel(made: Made) -> Made:
    """Give it page tables, a kernel image, its note, and one of a kernel that ran before."""
    for table, index, entry in (
        (ROOT, 511, 0x3000),
        (0x3000, 510, 0x4000),
        (0x4000, 8, IMAGE | PSE),
        (ROOT, DIRECT >> 39 & 511, 0x6000),
        (0x6000, 4, HIGH | PSE),
    ):
        struct.pack_into("<Q", made.low, table + 8 * index, entry | PRESENT)
    # Words that point nowhere, at a page without a note, and at the note.
    for offset, word in ((0x10, DIRECT), (0x1230, DIRECT + HIGH), (0x1238, DIRECT + HIGH + NOTE), (0x1240, 1)):
        struct.pack_into("<Q", made.low, IMAGE + offset, word)
    made.high[NOTE : NOTE + 200] = note(TEXT).ljust(200, b"\0")
    made.low[OLD_NOTE : OLD_NOTE + 200] = note(OLD_TEXT).ljust(200, b"\0")
    made.qemu.registers = f"CR0=80050033 CR2=0000000000000000 CR3={ROOT:016x} CR4=00000020\r\n"
    return made


@pytest.mark.parametrize("user_space", [False, True])
def test_the_note_is_that_of_the_kernel_that_runs(made: Made, user_space: bool) -> None:
    with_kernel(made)
    if user_space:
        # The table of user space, with page table isolation, and a PCID.
        made.qemu.registers = f"CR3={ROOT + 0x1007:016x} CR4=00020020\r\n"
    assert made.open().vmcoreinfo() == TEXT


def test_without_registers_memory_is_searched(made: Made) -> None:
    with_kernel(made).qemu.registers = ""
    with pytest.raises(TargetError, match="2 in its memory, of different kernels; give the right one"):
        made.open().vmcoreinfo()
    made.low[OLD_NOTE : OLD_NOTE + 200] = bytes(200)
    assert made.open().vmcoreinfo() == TEXT


def test_a_search_makes_no_memory_of_what_is_not_there(made: Made) -> None:
    made.high[NOTE : NOTE + 200] = note(TEXT).ljust(200, b"\0")
    guest = made.open()
    assert guest.vmcoreinfo() == TEXT
    there = sum(int(guest._there(at, size).sum()) for _, size, at in guest.ranges)
    # A huge page at most.
    assert there <= 512


@pytest.mark.parametrize("registers", ["", "CR3=0000000000002000 CR4=00000020", "CR3=fffffffffffff000", "CR3=zz"])
def test_a_guest_without_linux(made: Made, registers: str) -> None:
    made.qemu.registers = registers
    made.low[0x1000:0x1004] = b"BIOS"
    with pytest.raises(TargetError, match="no Linux kernel is found in the guest's memory: it has not booted yet"):
        made.open().vmcoreinfo()


def test_page_tables_that_lead_in_circles_end(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "MAX_IMAGE", 64 << 20)
    # Each entry is the table itself.
    made.low[ROOT : ROOT + 4096] = struct.pack("<Q", ROOT | PRESENT) * 512
    made.qemu.registers = f"CR3={ROOT:016x}"
    with pytest.raises(TargetError, match="no Linux kernel is found"):
        made.open().vmcoreinfo()


def test_memory_is_where_qemu_says(made: Made) -> None:
    made.low[SIZE - 4 :] = b"last"
    made.high[:5] = b"first"
    guest = made.open()
    assert guest.read(SIZE - 4, 4) == b"last"
    assert guest.read(HIGH, 5) == b"first"
    for address, size in ((SIZE - 3, 4), (SIZE, 1), (HIGH - 1, 2), (HIGH + SIZE, 1)):
        with pytest.raises(FaultError):
            guest.read(address, size)


def test_large_pages_are_read_in_one_piece(made: Made) -> None:
    guest = with_kernel(made).open()
    prog = Program(x86_64.PLATFORM)
    guest.add_to(prog)
    memory = GuestMemory(prog, guest, x86_64.page_tables(prog, ROOT, 4))
    data = memory.read(DIRECT + HIGH, 4 << 20)
    assert data is not None
    assert data.tobytes() == made.high[: 4 << 20]
    # Behind its RAM, and where nothing is mapped.
    assert memory.read(DIRECT + HIGH + SIZE - 4096, 8192) is None
    assert memory.read(DIRECT, 4096) is None
    # A guest that runs can change its page tables.
    struct.pack_into("<Q", made.low, 0x6000 + 8 * 4, 0)
    assert memory.read(DIRECT + HIGH, 4096) is None


def test_a_process_without_that_memory_is_not_read(made: Made) -> None:
    made.qemu.ram[1] = (HIGH, SIZE, 0x1000)
    with pytest.raises(TargetError, match="the process that has the guest's memory isn't found"):
        made.open()


@pytest.mark.parametrize(
    ("command", "reply", "words"),
    [
        ("query-target", {"arch": "vax"}, "the architecture of the guest is not known"),
        ("query-target", [], "the architecture of the guest is not known"),
        ("human-monitor-command", "nothing", "QEMU tells of no RAM"),
        ("human-monitor-command", {"a": 1}, "QEMU tells of no RAM"),
    ],
)
def test_replies_that_make_no_sense(made: Made, command: str, reply: object, words: str) -> None:
    made.qemu.answers[command] = lambda: {"return": reply}
    with pytest.raises(TargetError, match=words):
        made.open()


def test_one_that_stands_still(made: Made) -> None:
    guest = made.open(stop=True)
    assert made.qemu.state == "paused"
    guest.check()
    guest.close()
    assert made.qemu.state == "running"
