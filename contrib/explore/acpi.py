# SPDX-License-Identifier: LGPL-2.1-or-later
"""ACPI tables of a layout: RSDP, XSDT, and what the kernel reads of memory and CPUs."""

from __future__ import annotations

import struct

from contrib.explore.layout import ACPI_SIZE, Layout, LayoutError

# struct acpi_table_header: signature, length, revision, checksum, OEM ID, OEM table ID, OEM revision, compiler.
HEADER = "<4sIBB6s8sI4sI"
RSDP = "<8sB6sBIIQB3s"
RSDP_SIZE = 36
RSDP_V1_SIZE = 20
ALIGN = 16
ENABLED, HOTPLUG = 1, 2
LOCAL_APIC, IO_APIC = 0xFEE00000, 0xFEC00000


def checksum(data: bytes) -> int:
    """Return the byte that makes the sum of all bytes zero."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return an ACPI table."""
    length = struct.calcsize(HEADER) + len(body)

    def make(check: int) -> bytes:
        return struct.pack(HEADER, signature, length, revision, check, b"MMINSP", b"EXPLORE ", 1, b"MMIN", 1) + body

    return make(checksum(make(0)))


def srat(layout: Layout) -> bytes:
    """Return the System Resource Affinity Table."""
    body = struct.pack("<IQ", 1, 0)
    for cpu, node in enumerate(layout.cpu_nodes):
        # struct acpi_srat_cpu_affinity
        low, high = node & 0xFF, (node >> 8).to_bytes(3, "little")
        body += struct.pack("<BBBBIB3sI", 0, 16, low, cpu, ENABLED, 0, high, 0)
    for entry in layout.srat:
        # struct acpi_srat_mem_affinity
        flags = ENABLED | (HOTPLUG if entry.hotplug else 0)
        body += struct.pack("<BBIHQQIIQ", 1, 40, entry.node, 0, entry.start, entry.end - entry.start, 0, flags, 0)
    return table(b"SRAT", 3, body)


def madt(cpus: int) -> bytes:
    """Return the Multiple APIC Description Table."""
    body = struct.pack("<II", LOCAL_APIC, 0)
    for cpu in range(cpus):
        # struct acpi_madt_local_apic
        body += struct.pack("<BBBBI", 0, 8, cpu, cpu, ENABLED)
    # struct acpi_madt_io_apic, and acpi_madt_interrupt_override for the timer.
    body += struct.pack("<BBBBII", 1, 12, cpus, 0, IO_APIC, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)
    return table(b"APIC", 3, body)


def rsdp(xsdt: int) -> bytes:
    """Return the Root System Description Pointer."""

    def make(first: int, second: int) -> bytes:
        return struct.pack(RSDP, b"RSD PTR ", first, b"MMINSP", 2, 0, RSDP_SIZE, xsdt, second, bytes(3))

    first = checksum(make(0, 0)[:RSDP_V1_SIZE])
    return make(first, checksum(make(first, 0)))


def padded(data: bytes) -> bytes:
    """Return data with zeros up to the next place of a table."""
    return data + bytes(-len(data) % ALIGN)


def acpi_tables(layout: Layout, at: int) -> bytes:
    """
    Return all tables of a layout, the RSDP first.

    :param at: The physical address that they are for.
    :raises LayoutError: if they don't fit.
    """
    tables = [padded(srat(layout))] if layout.srat else []
    tables += [padded(madt(layout.cpus))] if layout.cpus > 1 else []
    first = len(padded(rsdp(0)))
    position = at + first + len(padded(table(b"XSDT", 1, bytes(8 * len(tables)))))
    pointers = b""
    for one in tables:
        pointers += struct.pack("<Q", position)
        position += len(one)
    data = padded(rsdp(at + first)) + padded(table(b"XSDT", 1, pointers)) + b"".join(tables)
    if len(data) > ACPI_SIZE:
        raise LayoutError(f"the ACPI tables have {len(data)} bytes: at most {ACPI_SIZE}")
    return data
