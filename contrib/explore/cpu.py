# SPDX-License-Identifier: LGPL-2.1-or-later
"""The architectures that can be explored: what the harness must know of a CPU. A new one is one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from contrib.explore.board import PC, VIRT, VIRT_EFI
from contrib.explore.gdbstub import Gdb

# QEMU's stub for x86-64 has this order, whatever mode the CPU is in.
X86_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip")
ARM64_REGISTERS = (*(f"x{n}" for n in range(31)), "sp", "pc")


@dataclass(frozen=True)
class Cpu:
    """
    An architecture.

    :ivar name: Debian's name of it.
    :ivar qemu: The program.
    :ivar model: QEMU's CPU.
    :ivar machine: ``e_machine`` of ELF files.
    :ivar wide: Whether it has 64 bits.
    :ivar registers: The order of the stub's registers.
    :ivar counter: The program counter.
    :ivar arguments: The registers of a function's first arguments; without any, they are on the stack.
    :ivar link: The register with the return address; without one, it is on top of the stack.
    :ivar stack: The stack pointer.
    :ivar wait: The instruction that waits for an interrupt; the CPU is behind it while it waits.
    :ivar head: How many bytes there are before ``_stext``.
    :ivar boards: The boards that a layout can be of.
    """

    name: str
    qemu: str
    model: str
    machine: int
    wide: bool
    registers: tuple[str, ...]
    counter: str
    arguments: tuple[str, ...]
    link: str
    stack: str
    wait: bytes
    head: int
    boards: tuple[str, ...]

    @property
    def mask(self) -> int:
        """Return the highest address."""
        return (1 << 64) - 1 if self.wide else (1 << 32) - 1

    @property
    def is_x86(self) -> bool:
        """Return whether it is amd64 or i386."""
        return self.counter == "rip"

    def return_address(self, gdb: Gdb, registers: Mapping[str, int]) -> int:
        """Return where the function that the CPU has just entered returns to."""
        if self.link:
            return registers[self.link]
        return int.from_bytes(gdb.read(registers[self.stack], 8 if self.wide else 4), "little")

    def argument(self, gdb: Gdb, registers: Mapping[str, int], number: int) -> int:
        """Return an argument of the variadic function that the CPU has just entered."""
        if self.arguments:
            return registers[self.arguments[number]]
        return int.from_bytes(gdb.read(registers[self.stack] + 4 * (number + 1), 4), "little")

    def waits(self, gdb: Gdb, address: int) -> bool:
        """Return whether the CPU waits for an interrupt."""
        size = len(self.wait)
        return gdb.read(address - size, size) == self.wait


AMD64 = Cpu(
    name="amd64",
    qemu="qemu-system-x86_64",
    model="max",
    machine=62,
    wide=True,
    registers=X86_REGISTERS,
    counter="rip",
    arguments=("rdi", "rsi", "rdx", "rcx"),
    link="",
    stack="rsp",
    wait=b"\xf4",  # hlt
    head=0,
    boards=(PC.name,),
)
I386 = replace(AMD64, name="i386", machine=3, wide=False, arguments=())
# A CPU without pointer authentication, which would be most of what TCG does.
ARM64 = Cpu(
    name="arm64",
    qemu="qemu-system-aarch64",
    model="cortex-a57",
    machine=183,
    wide=True,
    registers=ARM64_REGISTERS,
    counter="pc",
    arguments=("x0", "x1", "x2", "x3"),
    link="x30",
    stack="sp",
    wait=bytes.fromhex("7f2003d5"),  # wfi
    # SEGMENT_ALIGN is 64 KiB since 4.6.
    head=0x10000,
    boards=(VIRT.name, VIRT_EFI.name),
)
CPUS: Mapping[int, Cpu] = {cpu.machine: cpu for cpu in (AMD64, I386, ARM64)}
