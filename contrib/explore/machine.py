# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The direct boot: run a kernel on a layout under QEMU until memory initialization is done.

Guest RAM is a file without a name, which nobody has to clean up. QEMU dies with this process. The guest's CPU time,
wall time and memory are limited.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contrib.explore.acpi import acpi_tables
from contrib.explore.board import GIB, HIGH_MEMORY, MIB, PC, PCI_HOLE, VIRT_RAM, Board
from contrib.explore.bootparams import BOOT_PARAMS, PAGE_TABLES, loaded
from contrib.explore.gdbstub import Gdb, StubError
from contrib.explore.image import Image
from contrib.explore.layout import DIMM, Device, Layout, LayoutError, is_ram, ram_ranges
from contrib.explore.rom import make_rom
from contrib.explore.virt import loaded_virt, virt_words
from contrib.kernels.boot import dies_with_parent
from contrib.kernels.errors import HarnessError

MIN_RAM = 4 * GIB
CPU_SECONDS = 40.0
WALL_SECONDS = 240.0
# A guest that uses next to no CPU for so long may have halted, or the host is busy. Its timer takes some.
IDLE_SECONDS = 5.0
IDLE_CPU = 0.25
# It has, if it waits for an interrupt so often.
HALTED = 3
STEP_SECONDS = 0.5
# What a boot uses is 20 to 70 MiB; a guest that fills its memory is ended here.
MEMORY_LIMIT = 1536 << 20
# Early page tables, and what the kernel allocates before it knows any RAM, follow the image.
BEHIND_IMAGE = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")

STOPPED = "stopped"
PANIC = "panic"
HANG = "hang"
RESET = "reset"
TOO_LARGE = "fills memory"
IDLE = "idle"
TRAPS = {0: "divide error", 6: "invalid opcode", 13: "general protection fault", 14: "page fault"}


class Ram:
    """
    The memory of a guest: a file without a name. Of a PC, what is beyond the PCI hole follows what is below it.

    :ivar devices: The memory of devices, by physical address.
    """

    def __init__(self, size: int, board: Board = PC) -> None:
        self.size, self.board = size, board
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        self.devices: dict[int, Ram] = {}
        os.ftruncate(self.fd, self.size)

    def offset(self, physical: int) -> int:
        """Return where a physical address is in the file."""
        if not self.board.is_pc:
            return physical - VIRT_RAM
        return physical if physical < PCI_HOLE else physical - HIGH_MEMORY + PCI_HOLE

    def write(self, physical: int, data: bytes) -> None:
        """Write at a physical address."""
        os.pwrite(self.fd, data, self.offset(physical))

    def read(self, physical: int, size: int) -> bytes:
        """Read at a physical address."""
        return os.pread(self.fd, size, self.offset(physical))

    def find_page(self, start: bytes) -> bytes:
        """Return the text on the page that starts with some bytes, or nothing."""
        end = min(self.size, PCI_HOLE)
        with mmap.mmap(self.fd, end, prot=mmap.PROT_READ) as view:
            hole = 0
            while True:
                try:
                    data = os.lseek(self.fd, hole, os.SEEK_DATA)
                except OSError:  # nothing but a hole is left
                    return b""
                hole = os.lseek(self.fd, data, os.SEEK_HOLE)
                for page in range(data, min(hole, end), mmap.PAGESIZE):
                    if view[page : page + len(start)] == start:
                        return view[page : view.find(b"\0", page)]

    @property
    def used(self) -> int:
        """Return how many bytes of the host's memory it takes."""
        return os.fstat(self.fd).st_blocks * 512 + sum(device.used for device in self.devices.values())

    @property
    def path(self) -> str:
        """Return a path by which this user's processes can open it."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.fd)


@dataclass(frozen=True)
class Boot:
    """
    How a boot ended.

    :ivar outcome: :data:`STOPPED` where it was to stop, or what happened instead.
    :ivar address: Where the CPU was.
    :ivar caller: The return address of ``panic()``, or what is behind the first byte of the culprit.
    :ivar text: The first argument of ``panic()``, or what is known of an early exception.
    :ivar cpu_seconds: CPU time of QEMU.
    :ivar wall_seconds: Time of the boot.
    :ivar trace: QEMU's log of code that ran.
    """

    outcome: str
    address: int
    caller: int
    text: str
    cpu_seconds: float
    wall_seconds: float
    trace: bytes = b""


@dataclass(frozen=True)
class Plan:
    """
    What to boot and where to stop.

    :ivar image: The kernel.
    :ivar stop: Where to stop.
    :ivar panics: Where the kernel tells that it dies: ``panic`` and the like.
    :ivar early: ``early_printk()``, which tells of exceptions before the kernel has a log.
    :ivar pokes: Bytes to write over the image, at physical addresses.
    :ivar behind: Whether to stop where the function at ``stop`` returns to.
    :ivar trace: Which code to log when it first runs, for QEMU's ``-dfilter``; nothing if empty.
    """

    image: Image
    stop: int
    panics: tuple[int, ...] = ()
    early: int | None = None
    pokes: tuple[tuple[int, bytes], ...] = ()
    behind: bool = False
    trace: str = ""


def ram_size(layout: Layout) -> int:
    """Return how much RAM a guest must have so that there is some wherever the layout says so."""
    if not layout.board.is_pc:
        return -(-max(entry.end for entry in layout.e820) // GIB) * GIB - VIRT_RAM
    end = max([HIGH_MEMORY, *(end for _, end in ram_ranges(layout.e820)), (layout.acpi or 0) + MIB])
    return max(MIN_RAM, -(-(end - HIGH_MEMORY + PCI_HOLE) // GIB) * GIB)


def fill(ram: Ram, plan: Plan, layout: Layout) -> None:
    """
    Write what a boot loader writes.

    :raises LayoutError: if kernel and layout don't go together.
    """
    image = plan.image
    if layout.machine not in image.cpu.boards:
        raise LayoutError(f"a layout of machine {layout.machine} is not for a kernel of {image.cpu.name}")
    if not is_ram(layout.e820, image.start, image.end + BEHIND_IMAGE):
        raise LayoutError(f"the kernel needs RAM in {image.start:#x}-{image.end + BEHIND_IMAGE:#x}")
    pieces = loaded(image, layout) if image.cpu.is_x86 else loaded_virt(image, layout)
    for physical, data in (*pieces, *plan.pokes):
        ram.write(physical, data)
    if layout.acpi is not None:
        ram.write(layout.acpi, acpi_tables(layout, layout.acpi))


def _backend(name: str, ram: Ram) -> list[str]:
    path = f"/proc/self/fd/{ram.fd}"
    return ["-object", f"memory-backend-file,id={name},size={ram.size},mem-path={path},share=on,prealloc=off"]


def command(plan: Plan, layout: Layout, ram: Ram, firmware: Sequence[str]) -> list[str]:
    """Return QEMU's command line; its standard input and output are the gdb stub."""
    return [
        *(
            plan.image.cpu.qemu,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-S",
            "-gdb",
            "stdio",
        ),
        *("-accel", "tcg", "-cpu", plan.image.cpu.model, "-smp", str(layout.cpus)),
        *_backend("ram", ram),
        *firmware,
    ]


def device_words(devices: Sequence[Device]) -> list[str]:
    """Return QEMU's options for nodes and devices. The RAM is ``ram``, memory of devices ``memory0`` and so on."""
    nodes = max(device.node for device in devices) + 1
    words = ["-numa", "node,nodeid=0,memdev=ram"]
    for node in range(1, nodes):
        words += ["-numa", f"node,nodeid={node}"]
    for number, device in enumerate(devices):
        place = f"memdev=memory{number},node={device.node}"
        if device.kind == DIMM:
            words += ["-device", f"pc-dimm,{place},addr={device.start:#x}"]
        else:
            words += ["-device", f"virtio-mem-pci,{place},memaddr={device.start:#x},requested-size={device.plugged}"]
    return words


def memory_words(size: int, devices: Sequence[Device], room: int) -> list[str]:
    """Return QEMU's options for the machine and its memory."""
    if not devices:
        return ["-machine", "pc,memory-backend=ram", "-m", f"{size >> 20}M"]
    slots = max(1, sum(device.kind == DIMM for device in devices))
    return ["-machine", "pc", "-m", f"{size >> 20}M,slots={slots},maxmem={(size + room) >> 20}M"]


@contextlib.contextmanager
def nameless_file(data: bytes) -> Iterator[int]:
    """Give a file without a name."""
    fd = os.memfd_create("data", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Stock:
    """
    A boot by QEMU's own firmware and boot loader.

    :ivar kernel: A bzImage.
    :ivar memory: Size of the guest's RAM, in bytes.
    :ivar append: The kernel's command line.
    :ivar srat: An ACPI table to add, or nothing.
    :ivar initrd: An initrd, or nothing.
    :ivar devices: Memory that comes after boot.
    :ivar room: How many bytes of addresses the devices take from the first possible one on.
    """

    kernel: str
    memory: int
    append: str
    srat: bytes = b""
    initrd: bytes = b""
    devices: tuple[Device, ...] = ()
    room: int = 0


class Qemu:
    """A running QEMU."""

    def __init__(self, words: Sequence[str], fds: Sequence[int]) -> None:
        if shutil.which(words[0]) is None:
            raise HarnessError(f"{words[0]} is not installed; install it and try again")
        ours, theirs = socket.socketpair()
        self.errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        self.process = subprocess.Popen(
            [*dies_with_parent(), *words],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=self.errors,
            pass_fds=tuple(fds),
        )
        theirs.close()
        self.gdb = Gdb(ours)
        self.cpu_seconds = 0.0

    def check(self) -> None:
        """
        See that it runs.

        :raises HarnessError: if it doesn't.
        """
        try:
            self.gdb.ask("?")
        except (StubError, ConnectionError):
            raise HarnessError(f"QEMU does not run: {self.said() or 'it says nothing'}") from None

    def cpu(self) -> float:
        """Return the CPU time that it used so far."""
        try:
            with open(f"/proc/{self.process.pid}/stat", "rb") as stream:
                fields = stream.read().rsplit(b")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        except (OSError, IndexError):
            return self.cpu_seconds

    def said(self) -> str:
        """Return what it wrote to standard error."""
        return os.pread(self.errors, 500, 0).decode("latin-1").strip().replace("\n", " / ")

    def close(self) -> None:
        """End it and add up its CPU time."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self.gdb.socket.close()
        os.close(self.errors)


def _wait(qemu: Qemu, ram: Ram, end: float) -> str:
    """Wait until the guest stops; return why."""
    idle_since, idle_cpu = time.monotonic(), 0.0
    while True:
        answer = qemu.gdb.receive(STEP_SECONDS)
        if answer is not None:
            return RESET if answer[:1] in ("W", "X") else STOPPED
        now, used = time.monotonic(), qemu.cpu()
        if used - idle_cpu > IDLE_CPU:
            idle_since, idle_cpu = now, used
        if ram.used > MEMORY_LIMIT:
            return TOO_LARGE
        if now > end or used > CPU_SECONDS:
            return HANG
        if now - idle_since > IDLE_SECONDS:
            return IDLE


def _follow(qemu: Qemu, ram: Ram, plan: Plan, end: float) -> tuple[str, int, int, str]:
    """Run the guest to its end: outcome, address, caller, text."""
    gdb, cpu, stop = qemu.gdb, plan.image.cpu, plan.stop
    stops = {plan.stop, *plan.panics, *([plan.early] if plan.early else [])}
    for address in stops:
        gdb.set_breakpoint(address)
    halts = 0
    while True:
        gdb.resume()
        outcome = _wait(qemu, ram, end)
        if outcome == RESET:
            return RESET, 0, 0, ""
        if outcome != STOPPED:
            gdb.interrupt()
        registers = gdb.registers(cpu.registers)
        address = registers[cpu.counter] & cpu.mask
        if outcome == IDLE and address not in stops:
            halts += cpu.waits(gdb, address)
            outcome = HANG if halts >= HALTED else IDLE
        if outcome in (HANG, TOO_LARGE):
            return outcome, address, 0, ""
        if outcome == IDLE and address not in stops:
            continue
        if address == stop and plan.behind and stop == plan.stop:
            stop = cpu.return_address(gdb, registers)
            stops.add(stop)
            gdb.clear_breakpoint(address)
            gdb.set_breakpoint(stop)
            continue
        if address == stop:
            return STOPPED, address, 0, ""
        if address in plan.panics:
            text = gdb.read_text(cpu.argument(gdb, registers, 0))
            return PANIC, address, cpu.return_address(gdb, registers), text
        text = gdb.read_text(cpu.argument(gdb, registers, 0)) if address == plan.early else ""
        if "early exception" in text:
            # PANIC: early exception 0x%02lx IP %lx:%lx error %lx cr2 0x%lx
            trap, culprit = (cpu.argument(gdb, registers, number) for number in (1, 3))
            return PANIC, culprit, culprit + 1, f"early {TRAPS.get(trap, 'exception')}"
        if address != plan.early:
            return HANG, address, 0, "unknown stop"
        gdb.clear_breakpoint(address)
        gdb.ask("s")
        gdb.set_breakpoint(address)


@contextlib.contextmanager
def booted(plan: Plan, layout: Layout, stock: Stock | None = None) -> Iterator[tuple[Boot, Ram]]:
    """
    Boot a kernel on a layout; give how that ended, and the guest's memory.

    :param stock: Use QEMU's firmware and boot loader; else there are none.
    :raises HarnessError: if QEMU doesn't work.
    """
    with contextlib.ExitStack() as stack:
        ram = Ram(stock.memory if stock else ram_size(layout), layout.board)
        stack.callback(ram.close)
        if stock is None and not layout.board.is_pc:
            fill(ram, plan, layout)
            fds, firmware = [ram.fd], virt_words(ram.size)
        elif stock is None:
            fill(ram, plan, layout)
            rom = make_rom(plan.image.wide, plan.image.entry, BOOT_PARAMS, PAGE_TABLES)
            fds = [ram.fd, stack.enter_context(nameless_file(rom))]
            firmware = [*memory_words(ram.size, (), 0), "-bios", f"/proc/self/fd/{fds[1]}"]
        else:
            fds, firmware = [ram.fd], ["-kernel", stock.kernel, "-append", stock.append]
            firmware += memory_words(ram.size, stock.devices, stock.room)
            for option, data in (("-acpitable", stock.srat), ("-initrd", stock.initrd)):
                if data:
                    fds.append(stack.enter_context(nameless_file(data)))
                    firmware += [option, ("file=" if option == "-acpitable" else "") + f"/proc/self/fd/{fds[-1]}"]
            for number, device in enumerate(stock.devices):
                ram.devices[device.start] = Ram(device.size)
                stack.callback(ram.devices[device.start].close)
                fds.append(ram.devices[device.start].fd)
                firmware += _backend(f"memory{number}", ram.devices[device.start])
            firmware += device_words(stock.devices) if stock.devices else []
        traced = None
        if plan.trace:
            traced = stack.enter_context(nameless_file(b""))
            fds.append(traced)
            firmware += ["-d", "in_asm", "-dfilter", plan.trace, "-D", f"/proc/self/fd/{traced}"]
        start = time.monotonic()
        qemu = Qemu(command(plan, layout, ram, firmware), fds)
        try:
            qemu.check()
            outcome, address, caller, text = _follow(qemu, ram, plan, start + WALL_SECONDS)
        except (StubError, ConnectionError):
            outcome, address, caller, text = RESET, 0, 0, ""
        finally:
            qemu.close()
        seconds = time.monotonic() - start
        trace = b"" if traced is None else os.pread(traced, os.fstat(traced).st_size, 0)
        yield Boot(outcome, address, caller, text, qemu.cpu_seconds, seconds, trace), ram
