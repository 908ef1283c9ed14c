# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of a QEMU guest, read from its host through QEMU's process.

QMP tells where in that process the guest's RAM is. The process's memory is opened while the reader has its privileges;
after that it is read without any, and without the connection, which could do anything with the guest.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drgn import Architecture, FaultError, Platform, Program

from mminspect.errors import MminspectError, TargetError, message_of
from mminspect.program import findinfo, x86_64
from mminspect.program.arch import arch_of, arch_of_core
from mminspect.program.corefile import CoreFile
from mminspect.program.direct import Bytes, DirectMemory
from mminspect.program.elf import Segment
from mminspect.program.pagetable import PageTables
from mminspect.program.pause import Pause
from mminspect.program.qmp import Qmp, Range
from mminspect.program.segments import Segments
from mminspect.program.target import Target, read_vmcoreinfo

# What QEMU calls the architectures.
ARCHITECTURES = {
    "x86_64": Architecture.X86_64,
    "i386": Architecture.I386,
    "aarch64": Architecture.AARCH64,
    "arm": Architecture.ARM,
    "ppc64": Architecture.PPC64,
    "s390x": Architecture.S390X,
    "riscv64": Architecture.RISCV64,
    "riscv32": Architecture.RISCV32,
}
BIG_ENDIAN = (Architecture.S390X,)
PAGE = 4096
# QEMU has a thousand mappings.
MAX_MAPS = 16 << 20
# Kernel images are smaller, with all of their data.
MAX_IMAGE = 256 << 20
MAX_POINTERS = 1 << 18
# /proc/PID/pagemap: the page is in memory, or swapped out.
_THERE = 3 << 62
_REGISTER = re.compile(r"\bCR([34])=([0-9a-f]{1,16})\b")
_LA57 = 1 << 12


class Guest:
    """
    A guest whose memory is open.

    :param path: Path of the monitor's socket.
    :param stop: Whether it stands still until it is closed.
    :raises TargetError: if it can't be read.
    :ivar path: Likewise.
    :ivar architecture: What its CPUs are.
    :ivar is_still: Whether it stands still.
    """

    def __init__(self, path: str, stop: bool = False) -> None:
        self.path = path
        self.is_still = stop
        self._pause: Pause | None = None
        qmp = Qmp(path)
        try:
            found = ARCHITECTURES.get(qmp.architecture())
            if found is None:
                raise TargetError(f"{path}: the architecture of the guest is not known here")
            self.architecture = found
            self.ranges = sorted(qmp.ram())
            if not self.ranges:
                raise TargetError(f"{path}: QEMU tells of no RAM of the guest")
            is_x86 = found in (Architecture.X86_64, Architecture.I386)
            self._registers = qmp.monitor("info registers") if is_x86 else ""
            pid = _process_of(path, qmp, self.ranges)
            try:
                self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
                self._page_map = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as e:
                raise TargetError(
                    f"{path}: the memory of QEMU, process {pid}, can't be read: {e.strerror}; run mminspect as root"
                ) from None
            if stop:
                self._pause = Pause(path, qmp)
        finally:
            qmp.close()
        self._starts = [piece.start for piece in self.ranges]

    def close(self) -> None:
        """Let it run again, if it was stopped."""
        if self._pause is not None:
            self._pause.end()

    def check(self) -> None:
        """
        See that all that was read is of one guest that did what it should.

        :raises TargetError: if QEMU ended, or the guest should stand still and didn't.
        """
        if not self.is_there():
            raise TargetError(f"{self.path}: QEMU ended while its guest was read")
        if self._pause is not None:
            self._pause.check()

    def is_there(self) -> bool:
        """Tell whether QEMU has the guest's memory."""
        try:
            return bool(os.pread(self._memory, 1, self.ranges[0].at))
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the descriptor of QEMU's memory."""
        return self._memory

    def find(self, address: int, size: int) -> int | None:
        """Get where in QEMU's memory physical memory is, ``None`` if it isn't all RAM in one piece."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        piece = self.ranges[index]
        inside = address - piece.start
        return piece.at + inside if inside + size <= piece.size else None

    def read(self, address: int, size: int) -> bytes:
        """
        Read physical memory.

        :raises FaultError: if there is none.
        """
        at = self.find(address, size)
        data = b""
        with contextlib.suppress(OSError):
            data = b"" if at is None else os.pread(self._memory, size, at)
        if len(data) < size:
            raise FaultError("not in the RAM of the guest", address)
        return data

    def add_to(self, prog: Program) -> None:
        """Give a program the guest's physical memory."""

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            return self.read(address, count)

        for piece in self.ranges:
            prog.add_memory_segment(piece.start, piece.size, read, physical=True)

    def vmcoreinfo(self) -> bytes:
        """
        Find the VMCOREINFO of its kernel.

        :raises TargetError: if there is none, or more than one.
        """
        found = self._pointed_at()
        if not found:
            found = findinfo.choose(findinfo.search(self._blocks()), self.path)
        if found is None:
            raise TargetError(
                f"{self.path}: no Linux kernel is found in the guest's memory: it has not booted yet, or is another "
                "system, or its memory is encrypted (SEV, TDX); if it is Linux, give its VMCOREINFO with --vmcoreinfo"
            )
        return found

    def _blocks(self) -> Iterator[tuple[bytes, bytes]]:
        """Read all memory that there is in pieces for :func:`findinfo.search`, without making QEMU allocate any."""
        piece = findinfo.PIECE
        for start, size, at in self.ranges:
            for offset in range(-start % PAGE, size, piece):
                length = min(piece, size - offset)
                there = self._there(at + offset, length)
                if not there.any():
                    continue
                # Pages that aren't there are zeros.
                data = bytearray(length)
                edges = np.flatnonzero(np.diff(there, prepend=False, append=False)).tolist()
                for low, high in zip(edges[::2], edges[1::2]):
                    low, high = low * PAGE, min(high * PAGE, length)
                    with contextlib.suppress(OSError):
                        data[low:high] = os.pread(self._memory, high - low, at + offset + low).ljust(high - low, b"\0")
                # A note is a page, or a few.
                rest = b""
                with contextlib.suppress(FaultError):
                    rest = self.read(start + offset + length, findinfo.MAX_SIZE)
                yield bytes(data), rest

    def _there(self, at: int, size: int) -> npt.NDArray[np.bool_]:
        """Tell of each page of QEMU's memory whether anybody wrote to it."""
        count = -(-size // PAGE)
        try:
            entries = np.frombuffer(os.pread(self._page_map, count * 8, at // PAGE * 8), np.uint64)
        except OSError:
            entries = np.zeros(0, np.uint64)
        there = np.ones(count, np.bool_)
        there[: len(entries)] = (entries & np.uint64(_THERE)) != 0
        return there

    def _pointed_at(self) -> bytes | None:
        """
        Find the note by the page tables of the first CPU: data of the kernel image that is mapped there points at it.

        Searching all memory takes minutes on a large guest, and may find notes of kernels that run no more.
        """
        registers = {name: int(value, 16) for name, value in _REGISTER.findall(self._registers)}
        if self.architecture != Architecture.X86_64 or "3" not in registers:
            return None
        prog = Program(x86_64.PLATFORM)
        self.add_to(prog)
        root = registers["3"] & x86_64.PHYSICAL_MASK
        levels = 5 if registers.get("4", 0) & _LA57 else 4
        # With page table isolation, the table of the kernel is the page before that of user space.
        for start in dict.fromkeys((root, root & ~PAGE)):
            tables = x86_64.page_tables(prog, start, levels)
            for at in _pointers(prog, tables):
                with contextlib.suppress(FaultError):
                    where, _ = tables.translate(at)
                    found = findinfo.search([(self.read(where, PAGE), b"")])
                    if found:
                        return found[0]
        return None


def _pointers(prog: Program, tables: PageTables) -> Iterator[int]:
    """Get the words of the kernel image that may point at a page of the direct mapping."""
    seen: set[int] = set()
    left = MAX_IMAGE
    for where, size in tables.leaves(x86_64.START_KERNEL_MAP, x86_64.START_KERNEL_MAP + x86_64.KERNEL_IMAGE_SIZE):
        left -= size
        if left < 0 or len(seen) > MAX_POINTERS:
            return
        with contextlib.suppress(FaultError):
            words = np.frombuffer(prog.read(where, size, physical=True), np.uint64)
            words = words[(words >= x86_64.START_DIRECT) & (words < x86_64.START_KERNEL_MAP) & (words % PAGE == 0)]
            fresh = set(words.tolist()) - seen
            seen |= fresh
            yield from sorted(fresh)


def _process_of(path: str, qmp: Qmp, ranges: Sequence[Range]) -> int:
    """
    Find QEMU's process: the one that listens, or, as libvirt makes the socket, the one with the threads of the CPUs.

    :raises TargetError: if none of them has the guest's memory.
    """
    peer, _ = qmp.peer
    pids = [peer] if peer > 0 else []
    for thread in qmp.threads()[:1]:
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{thread}/status").read_text(encoding="ascii", errors="replace")
            pids += [int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:")]
    failure: OSError | None = None
    for pid in dict.fromkeys(pids):
        try:
            if _has_memory(pid, ranges):
                return pid
        except OSError as e:
            failure = e
    if failure is not None:
        raise TargetError(f"{path}: the process of QEMU can't be read: {failure.strerror}; run mminspect as root")
    raise TargetError(
        f"{path}: the process that has the guest's memory isn't found; run mminspect on the host, outside of containers"
    )


def _has_memory(pid: int, ranges: Sequence[Range]) -> bool:
    """Tell whether a process has something mapped wherever QEMU says that the guest's RAM is."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_MAPS)
    mapped: list[tuple[int, int]] = []
    for line in text.splitlines():
        low, _, high = line.partition(" ")[0].partition("-")
        with contextlib.suppress(ValueError):
            start, end = int(low, 16), int(high, 16)
            if mapped and mapped[-1][1] == start:
                mapped[-1] = (mapped[-1][0], end)
            else:
                mapped.append((start, end))
    return all(any(start <= at and at + size <= end for start, end in mapped) for _, size, at in ranges)


class GuestMemory(DirectMemory):
    """
    Kernel memory of a guest, read in large pieces where large pages map it.

    :param prog: The guest's program.
    :param guest: The guest.
    :param root: Physical address of its kernel's page tables.
    :param levels: Their levels.
    """

    # It is copied, and should then still be in the cache of the CPU.
    at_once = 2 << 20

    def __init__(self, prog: Program, guest: Guest, tables: PageTables) -> None:
        # Nothing of a file, so nothing of what its start does.
        self._prog = prog
        self._guest = guest
        self._tables = tables

    def is_whole(self) -> bool:
        """Tell whether QEMU is still there."""
        return self._guest.is_there()

    def fileno(self) -> int:
        """Return the descriptor of QEMU's memory."""
        return self._guest.fileno()

    def holds(self, address: int) -> bool:
        """Tell whether large pages map an address."""
        return self._tables.large_runs(address, 1) is not None

    def _runs(self, address: int, size: int) -> list[tuple[int, int]] | None:
        """Find memory in that of QEMU: (where, bytes) of each piece."""
        # A guest that runs changes its page tables.
        tables = self._tables if self._guest.is_still else self._tables.again()
        runs = tables.large_runs(address, size)
        if runs is None:
            return None
        found = [(self._guest.find(where, count), count) for where, count in runs]
        return [(at, count) for at, count in found if at is not None] if all(at for at, _ in found) else None

    def _data(self, address: int, size: int) -> Bytes | None:
        runs = self._runs(address, size)
        if runs is None:
            return None
        data = np.empty(size, np.uint8)
        room = memoryview(data.data)
        done = 0
        for at, count in runs:
            try:
                if os.preadv(self.fileno(), [room[done : done + count]], at) != count:
                    return None
            except OSError:
                return None
            done += count
        return data

    def read(self, address: int, size: int) -> Bytes | None:
        """Read memory; ``None`` if drgn must."""
        return self._data(address, size)

    def place(self, address: int, size: int) -> int | None:
        """Find memory of a guest that stands still."""
        runs = self._runs(address, size) if self._guest.is_still else None
        return runs[0][0] if runs is not None and len(runs) == 1 else None


_held: dict[str, Guest] = {}


def hold(path: str, stop: bool) -> None:
    """
    Open a guest for later, when the process has no rights. It is read once.

    :raises TargetError: if it can't be read.
    """
    _held[path] = Guest(path, stop)


@contextlib.contextmanager
def opened(path: str, vmcoreinfo: str | None = None) -> Iterator[Target]:
    """
    Open a guest for as long as it is read; the one that is held, if there is one.

    :param vmcoreinfo: File with its VMCOREINFO, if it isn't to be looked for.
    :raises TargetError: if it can't be read, or at the end if what was read is worth nothing.
    """
    given = findinfo.read_file(vmcoreinfo) if vmcoreinfo is not None else None
    guest = _held.pop(path, None) or Guest(path)
    try:
        try:
            yield _target(guest, guest.vmcoreinfo() if given is None else given)
        except MminspectError:
            # What went wrong may come of its end.
            guest.check()
            raise
        guest.check()
    finally:
        guest.close()


def _target(guest: Guest, info: bytes) -> Target:
    segments = Segments.of(Segment(at, 0, start, size, size) for start, size, at in guest.ranges)
    core = CoreFile("raw", segments=segments, notes={"VMCOREINFO": info})
    # A machine of 64 bits can run a kernel of 32.
    arch = arch_of_core(core) or arch_of(Platform(guest.architecture))
    prog = Program(arch.platform(">" if guest.architecture in BIG_ENDIAN else "<"))
    try:
        prog.set_linux_kernel_custom(info, True)
        guest.add_to(prog)
    except Exception as e:
        raise TargetError(f"{guest.path}: drgn can't open the guest: {message_of(e)}") from None
    vmcoreinfo = read_vmcoreinfo(prog)
    arch.lay_over(prog, vmcoreinfo, core)
    tables = arch.page_tables(prog, vmcoreinfo)
    direct = GuestMemory(prog, guest, tables) if tables is not None else None
    return Target(prog, "live", guest.path, vmcoreinfo, None, direct, is_guest=True, is_still=guest.is_still)
