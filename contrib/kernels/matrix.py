# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels and guests that mminspect is tried on, and the comparison with what they say."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .boot import ELF, Booted, Guest, QmpCommand, boot
from .errors import HarnessError
from .fetch import Kernel, Source, cached, fetch, fetch_busybox
from .initrd import ConsoleZone, Truth, build_initrd

MANAGED_SLACK_PAGES = 1024
"""How far managed pages may move between the guest's print and the dump."""

V5_10 = r"linux-image-5\.10\.0-[0-9]+-"
V6_1 = r"linux-image-6\.1\.0-[0-9]+-"
V6_12 = r"linux-image-6\.12\.[0-9]+\+deb13-"
V7_2 = r"linux-binary-(?:unsigned-)?7\.2\.[0-9]+\+deb14-"

AMD64_5_10 = Source("bullseye", "amd64", V5_10 + "cloud-amd64-unsigned")
AMD64_6_1 = Source("bookworm", "amd64", V6_1 + "cloud-amd64-unsigned")
AMD64_6_12 = Source("trixie", "amd64", V6_12 + "cloud-amd64-unsigned")
AMD64_7_2 = Source("sid", "amd64", V7_2 + "cloud-amd64", ("linux-modules-{release}",))
AMD64_6_12_STANDARD = Source("trixie", "amd64", V6_12 + "amd64-unsigned")
AMD64_7_2_STANDARD = Source("sid", "amd64", V7_2 + "amd64", ("linux-modules-{release}",))
I386_5_10_PAE = Source("bullseye", "i386", V5_10 + "686-pae-unsigned")
I386_5_10 = Source("bullseye", "i386", V5_10 + "686-unsigned")
I386_6_1_PAE = Source("bookworm", "i386", V6_1 + "686-pae-unsigned")
ARM64_6_12 = Source("trixie", "arm64", V6_12 + "cloud-arm64-unsigned")
ARM64_6_12_16K = Source("trixie", "arm64", V6_12 + "arm64-16k-unsigned")
ARMHF_6_12 = Source("trixie", "armhf", V6_12 + "armmp")
S390X_6_12 = Source("trixie", "s390x", V6_12 + "s390x")
RISCV64_6_12 = Source("trixie", "riscv64", V6_12 + "riscv64")
PPC64EL_6_12 = Source("trixie", "ppc64el", V6_12 + "powerpc64le")
PPC64EL_6_12_64K = Source("trixie", "ppc64el", V6_12 + "powerpc64le-64k")


@dataclass(frozen=True)
class Row:
    """One guest of the matrix."""

    name: str
    source: Source
    note: str
    """What this guest shows."""
    memory: str = "400M"
    qemu_args: tuple[str, ...] = ()
    append: str = ""
    kaslr: bool = False
    paging: bool = False
    format: str = ELF
    modules: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    qmp: tuple[QmpCommand, ...] = ()
    timeout: float = 300.0


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


def wait_for_blocks(count: int) -> str:
    """Return the shell line that waits until there are so many memory blocks."""
    return (
        "tries=0; until [ $(ls -d /sys/devices/system/memory/memory[0-9]* | wc -l) -ge "
        f"{count} ] || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.2; done; sleep 1"
    )


BLOCK_MIB = 128
DIMMS = dimm(0, 128) + dimm(1, 256)
HOTPLUG = Row(
    "hotplug",
    AMD64_7_2,
    "memory plugged into a running guest",
    memory="400M,slots=4,maxmem=2G",
    shell=(wait_for_blocks(-(-400 // BLOCK_MIB) + 3),),
    qmp=DIMMS,
)
HOLE = "memmap=0x9c000$0xa17b000"


def version_rows() -> list[Row]:
    """Return the rows that each kernel version has."""
    rows = []
    for version, source in (
        ("5.10", AMD64_5_10),
        ("6.1", AMD64_6_1),
        ("6.12", AMD64_6_12),
        ("7.2", AMD64_7_2),
    ):
        rows += [
            Row(f"amd64-{version}", source, "the plain guest: DMA and DMA32, one node"),
            Row(
                f"amd64-{version}-4g",
                source,
                "memory on both sides of the PCI hole: DMA32 and Normal",
                memory="4G",
            ),
            Row(
                f"amd64-{version}-odd",
                source,
                "memory that ends inside a pageblock",
                append="mem=301573K",
            ),
            Row(
                f"amd64-{version}-numa",
                source,
                "the node boundary lies inside block 0x20200",
                memory="1G",
                qemu_args=numa("515M", "509M"),
            ),
        ]
    return rows


ROWS: tuple[Row, ...] = (
    *version_rows(),
    Row(
        "amd64-6.12-16g",
        AMD64_6_12,
        "many sections; the dump is kdump-zlib, 160 MB",
        memory="16G",
        format="kdump-zlib",
    ),
    Row("amd64-6.12-kdump", AMD64_6_12, "the format kdump-zlib", format="kdump-zlib"),
    Row(
        "amd64-6.12-kaslr-la57",
        AMD64_6_12,
        "KASLR and five levels of page tables",
        kaslr=True,
        qemu_args=("-cpu", "max"),
    ),
    Row(
        "amd64-7.2-kaslr-la57",
        AMD64_7_2,
        "KASLR and five levels of page tables",
        kaslr=True,
        qemu_args=("-cpu", "max"),
    ),
    Row(
        "amd64-6.12-numa-small",
        AMD64_6_12,
        "the smallest guest with a mixed block, 0x4200",
        memory="128M",
        qemu_args=numa("67M", "61M"),
    ),
    Row(
        "amd64-6.12-low-ram",
        AMD64_6_12,
        "reserved pages at the end of low memory link to Normal inside DMA32; block 0x7e00",
        memory="203M",
        qemu_args=("-machine", "pc,max-ram-below-4g=128M"),
    ),
    Row(
        "amd64-6.12-movablecore",
        AMD64_6_12,
        "zone Movable; its boundary is aligned to pageblocks",
        memory="1G",
        append="movablecore=256M",
    ),
    Row(
        "amd64-6.12-pmem",
        AMD64_6_12,
        "zone Device: pages of persistent memory, initialised by memremap_pages()",
        memory="1G",
        append="memmap=256M!512M",
        modules=("nd_e820", "nd_pmem"),
        shell=("sleep 2",),
    ),
    Row(
        "amd64-6.12-hugetlb",
        AMD64_6_12,
        "HugeTLB gave back the vmemmap of its tail pages",
        memory="1G",
        append="hugetlb_free_vmemmap=on hugepages=64",
    ),
    Row(
        "amd64-6.12-compacted",
        AMD64_6_12,
        "compaction ran, so the pageblock bitmap has skip bits",
        shell=("echo 1 >/proc/sys/vm/compact_memory",),
    ),
    replace(
        HOTPLUG,
        name="amd64-5.10-hotplug",
        source=AMD64_5_10,
        note="plugged memory is present and offline; its struct pages are all zero",
    ),
    replace(
        HOTPLUG,
        name="amd64-7.2-hotplug",
        note="plugged memory goes online as Normal",
    ),
    replace(
        HOTPLUG,
        name="amd64-7.2-hotplug-offline",
        note="plugged memory stays offline; its struct pages are all zero",
        append="memhp_default_state=offline",
    ),
    replace(
        HOTPLUG,
        name="amd64-7.2-hotplug-movable",
        note="plugged memory goes online as Movable",
        append="memhp_default_state=online_movable",
    ),
    Row(
        "i386-5.10-pae",
        I386_5_10_PAE,
        "FLATMEM; the Normal and HighMem boundary lies inside block 0x36e00",
        memory="1200M",
        paging=True,
    ),
    Row(
        "i386-5.10-pae-hole",
        I386_5_10_PAE,
        "the hole [0xa17b, 0xa217) was never initialised and links to DMA inside Normal",
        memory="1200M",
        paging=True,
        append=HOLE,
    ),
    Row(
        "i386-5.10",
        I386_5_10,
        "no PAE: another section size and pageblock order",
        memory="1200M",
        paging=True,
    ),
    Row(
        "i386-5.10-hole",
        I386_5_10,
        "the same hole without PAE",
        memory="1200M",
        paging=True,
        append=HOLE,
    ),
    Row(
        "i386-6.1-pae",
        I386_6_1_PAE,
        "6.1 on i386",
        memory="1200M",
        paging=True,
    ),
    Row(
        "i386-6.1-pae-hole",
        I386_6_1_PAE,
        "6.1 initialises the hole",
        memory="1200M",
        paging=True,
        append=HOLE,
    ),
    Row("arm64-6.12", ARM64_6_12, "arm64"),
    Row("armhf-6.12", ARMHF_6_12, "FLATMEM; struct page of 36 bytes; no hugetlb"),
    Row("s390x-6.12", S390X_6_12, "big-endian"),
    Row("riscv64-6.12", RISCV64_6_12, "drgn walks no page tables here"),
    Row(
        "ppc64el-6.12",
        PPC64EL_6_12,
        "little-endian guest on a machine QEMU takes for big-endian",
        memory="1G",
    ),
)


def find_row(name: str) -> Row:
    """Return the row of a name."""
    for row in ROWS:
        if row.name == name:
            return row
    raise HarnessError(f"no row {name}; 'list' shows them all")


def fetch_row(row: Row, debug: bool = True) -> tuple[Kernel, Path]:
    """Fetch what a row boots: its kernel and a busybox of its architecture."""
    return fetch(row.source, debug), fetch_busybox(row.source.suite, row.source.arch)


def boot_row(row: Row, out: Path, kernel: Kernel | None = None, busybox: Path | None = None) -> Booted:
    """Boot a row and dump its memory. What is already in the cache is not looked for again."""
    kernel = kernel or cached(row.source) or fetch(row.source)
    busybox = busybox or fetch_busybox(row.source.suite, row.source.arch)
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        initrd = build_initrd(
            Path(temporary, "initrd"),
            kernel.modules,
            busybox,
            row.modules,
            row.shell,
            bool(row.qmp),
        )
        guest = Guest(
            arch=row.source.arch,
            kernel=kernel.vmlinuz,
            initrd=initrd,
            memory=row.memory,
            qemu_args=row.qemu_args,
            append=row.append,
            kaslr=row.kaslr,
            paging=row.paging,
            format=row.format,
            qmp=row.qmp,
            timeout=row.timeout,
        )
        return boot(guest, out)


def describe(row: Row) -> str:
    """Return one line about a row, as 'list' prints it."""
    options = [f"-m {row.memory}"]
    options += [shlex.join(row.qemu_args)] if row.qemu_args else []
    options += [f"'{row.append}'"] if row.append else []
    return f"{row.name:<26} {row.note} ({' '.join(options)})"


def populated(report: Mapping[str, Any]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """Return a report's zones that hold or span something, by node and name."""
    return {(zone["node"], zone["name"]): zone for zone in report["zones"] if zone["spanned"] or zone["present"]}


def compare_zone(found: Mapping[str, Any], truth: ConsoleZone) -> list[str]:
    """Return how one zone of a report differs from what the guest printed."""
    expected = {"spanned": truth.spanned, "present": truth.present}
    if truth.start_pfn is not None:
        expected["start_pfn"] = truth.start_pfn
        expected["end_pfn"] = truth.start_pfn + truth.spanned
    where = f"node {truth.node} zone {truth.name}"
    differences = [
        f"{where}: {key} is {found[key]}, the guest says {value}"
        for key, value in expected.items()
        if found[key] != value
    ]
    if abs(found["managed"] - truth.managed) > MANAGED_SLACK_PAGES:
        differences.append(f"{where}: managed is {found['managed']}, the guest says {truth.managed}")
    return differences


def compare(report: Mapping[str, Any], truth: Truth) -> list[str]:
    """Return how a JSON report of mminspect differs from what the guest printed.

    Nothing is left out by either side: each zone of the guest must be in the report and the other
    way round. Pages that are managed may move a little between the print and the dump.
    """
    target = report["target"]
    expected = {
        "release": truth.release,
        "page_size": truth.page_size,
        "pageblock_order": truth.pageblock_order,
    }
    differences = [
        f"{key} is {target.get(key)}, the guest says {value}"
        for key, value in expected.items()
        if target.get(key) != value
    ]
    zones = populated(report)
    for zone in truth.zones:
        found = zones.pop((zone.node, zone.name), None)
        if found is not None:
            differences += compare_zone(found, zone)
        elif zone.spanned or zone.present:
            differences.append(f"node {zone.node} zone {zone.name} is missing")
    differences += [f"node {node} zone {name} is not the guest's" for node, name in zones]
    return differences
