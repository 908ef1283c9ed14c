# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory layouts: nodes, memory modules and ACPI tables."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from contrib.kernels.boot import QmpCommand
from contrib.kernels.initrd import POKE, POKES_WANTED, QMP_WANTED_AGAIN

MEBIBYTE = 1 << 20


def numa(*sizes: str) -> tuple[str, ...]:
    """Return QEMU's arguments for one node of each size, with a CPU each."""
    words = ["-smp", str(len(sizes))]
    for node, size in enumerate(sizes):
        words += ["-object", f"memory-backend-ram,id=node{node},size={size}"]
        words += ["-numa", f"node,nodeid={node},cpus={node},memdev=node{node}"]
    return tuple(words)


def dimm(number: int, mebibytes: int) -> tuple[QmpCommand, ...]:
    """Return the commands that plug in a memory module."""
    backend = {"qom-type": "memory-backend-ram", "id": f"memory{number}", "size": mebibytes << 20}
    device = {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": f"memory{number}"}
    return QmpCommand("object-add", backend), QmpCommand("device_add", device)


DIMMS = dimm(0, 128) + dimm(1, 256)


def wait_for_blocks(count: int) -> str:
    """Return the shell line that waits until there are so many memory blocks."""
    return (
        "tries=0; until [ $(ls -d /sys/devices/system/memory/memory[0-9]* | wc -l) -ge "
        f"{count} ] || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.2; done; sleep 1"
    )


def memory_only(with_cpu: str, *without: str) -> tuple[str, ...]:
    """Return QEMU's arguments for a node that has the CPU, and nodes that have none."""
    words = ["-smp", "1"]
    for node, size in enumerate((with_cpu, *without)):
        words += ["-object", f"memory-backend-ram,id=node{node},size={size}"]
        words += ["-numa", f"node,nodeid={node},memdev=node{node}" + ("" if node else ",cpus=0")]
    return tuple(words)


def unplug(number: int) -> QmpCommand:
    """Return the command that asks the guest to give a memory module back."""
    return QmpCommand("device_del", {"id": f"dimm{number}"})


def ask_again() -> str:
    """Return the shell line that asks for the second batch of QMP commands."""
    return f'echo "{QMP_WANTED_AGAIN}"'


def wait_for_fewer_blocks(count: int) -> str:
    """Return the shell line that waits until there are at most so many memory blocks."""
    return (
        "tries=0; until [ $(ls -d /sys/devices/system/memory/memory[0-9]* | wc -l) -le "
        f"{count} ] || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.2; done; sleep 1"
    )


def poke(address: str, data: str, times: int = 1) -> tuple[str, ...]:
    """Return the shell lines that have bytes written into the kernel's memory.

    address is hexadecimal, and may be a command in $() that prints it.
    """
    return f'echo "{POKE} {address} {data} {times}"', f'echo "{POKES_WANTED}"', "sleep 3"


class MemoryRange(NamedTuple):
    """Part of the physical memory, in MiB, and the node that it belongs to. A page is 1 / 256."""

    start: float
    size: float
    node: int


# struct acpi_table_header: signature, length, revision, checksum, OEM ID, OEM table ID, OEM revision, compiler.
ACPI_HEADER = "<4sIBB6s8sI4sI"
SRAT_REVISION = 3
ENABLED = 1


def srat(cpus: Sequence[int], ranges: Sequence[MemoryRange]) -> bytes:
    """Return an ACPI table that puts memory into nodes in any order, which QEMU's -numa can't do.

    cpus has the node of each CPU. The kernel numbers nodes in the order in which it meets them, CPUs
    first, so each node needs one to keep its number.
    """
    body = struct.pack("<IQ", 1, 0)
    for cpu, node in enumerate(cpus):
        # struct acpi_srat_cpu_affinity
        body += struct.pack("<BBBBIB3sI", 0, 16, node, cpu, ENABLED, 0, bytes(3), 0)
    for part in ranges:
        # struct acpi_srat_mem_affinity
        base, size = int(part.start * MEBIBYTE), int(part.size * MEBIBYTE)
        body += struct.pack("<BBIHQQIIQ", 1, 40, part.node, 0, base, size, 0, ENABLED, 0)
    length = struct.calcsize(ACPI_HEADER) + len(body)

    def table(checksum: int) -> bytes:
        names = (b"MMINSP", b"MMINSPEC", 1, b"MMIN", 1)
        return struct.pack(ACPI_HEADER, b"SRAT", length, SRAT_REVISION, checksum, *names) + body

    return table(-sum(table(0)) & 0xFF)
