# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels and guests that mminspect is tried on."""

from __future__ import annotations

from dataclasses import replace

from contrib.kernels import build
from contrib.kernels.errors import HarnessError
from contrib.kernels.faults import FAULTS
from contrib.kernels.layouts import (
    DIMMS,
    MemoryRange,
    ask_again,
    memory_only,
    numa,
    poke,
    srat,
    unplug,
    wait_for_blocks,
    wait_for_fewer_blocks,
)
from contrib.kernels.lists import LISTS
from contrib.kernels.row import Row
from contrib.kernels.sources import (
    AMD64_5_10,
    AMD64_5_10_STANDARD,
    AMD64_6_1,
    AMD64_6_1_STANDARD,
    AMD64_6_12,
    AMD64_6_12_STANDARD,
    AMD64_7_2,
    AMD64_7_2_STANDARD,
    AMD64_BETWEEN,
    ARM64_6_12,
    ARM64_6_12_16K,
    ARM64_7_3,
    ARMHF_6_12,
    I386_5_10,
    I386_5_10_PAE,
    I386_6_1,
    I386_6_1_PAE,
    PPC64EL_6_12,
    PPC64EL_6_12_64K,
    RISCV64_6_12,
    S390X_6_12,
)

BLOCK_MIB = 128
OFFLINE_LAST_BLOCK = "echo offline >$(ls -d /sys/devices/system/memory/memory[0-9]* | sort -V | tail -n 1)/state"
# 2021's layout in small: the first page of each pageblock between 40 and 126 MiB is a hole, as E820 has it.
BLOCK_HOLES = " ".join(f"memmap=4K${mebibytes << 20:#x}" for mebibytes in range(40, 126, 2))
# Fill memory from below with files. Free pages that can be moved to are then few, and all in one pageblock, whose
# first page is a hole. The huge pages asked for after each file make compaction look for a free page.
PROVOKE_COMPACTION = (
    "echo 8 >/proc/sys/kernel/printk",
    "mkdir /files; mount -t tmpfs -o size=95% files /files",
    "for round in 1 2 3 4; do",
    "  i=0; while [ $i -lt 300 ]; do dd if=/dev/zero of=/files/$i bs=64k count=1 2>/dev/null; i=$((i + 1)); done",
    "  while [ $i -lt 1200 ]; do",
    "    dd if=/dev/zero of=/files/$i bs=16k count=1 2>/dev/null; i=$((i + 1))",
    "    for pages in 40 0; do echo $pages >/proc/sys/vm/nr_hugepages; done",
    "  done",
    "  rm /files/*",
    "done",
)
# xor %eax,%eax; mov (%rax),%rax
READ_NULL = "31c0488b00"
# The 64 struct pages from pfn 0x8000 on, in the middle of free memory.
DAMAGED_PAGES = poke("ffffea0000200000", "00", 64 * 64)
TAKE_ALL_MEMORY = "mkdir /files; mount -t tmpfs -o size=100% files /files; dd if=/dev/zero of=/files/all bs=1M"
HOTPLUG = Row(
    "hotplug",
    AMD64_7_2,
    "memory plugged into a running guest",
    memory="400M,slots=4,maxmem=2G",
    shell=(wait_for_blocks(-(-400 // BLOCK_MIB) + 3),),
    qmp=DIMMS,
)
HOLE = "memmap=0x9c000$0xa17b000"
# One where HighMem begins, in its first pageblock, and one in the middle of it.
HIGHMEM_HOLES = f"{HOLE} memmap=0x21000$0x36fff000 memmap=0x9c000$0x3a17b000"
DESCENDING = srat((0, 1), (MemoryRange(0, 517, 1), MemoryRange(517, 507, 0)))
INTERLEAVED = srat(
    (0, 1),
    (MemoryRange(0, 259, 0), MemoryRange(259, 251, 1), MemoryRange(510, 263, 0), MemoryRange(773, 251, 1)),
)


def version_rows() -> list[Row]:
    """Return the rows that each kernel version has."""
    rows = []
    for version, source, standard in (
        ("5.10", AMD64_5_10, AMD64_5_10_STANDARD),
        ("6.1", AMD64_6_1, AMD64_6_1_STANDARD),
        ("6.12", AMD64_6_12, AMD64_6_12_STANDARD),
        ("7.2", AMD64_7_2, AMD64_7_2_STANDARD),
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
            Row(
                f"amd64-{version}-16g",
                source,
                "many sections; the dump is kdump-zlib, 160 MB",
                memory="16G",
                format="kdump-zlib",
            ),
            Row(
                f"amd64-{version}-kaslr-la57",
                source,
                "KASLR and five levels of page tables",
                kaslr=True,
                qemu_args=("-cpu", "max"),
            ),
            Row(f"amd64-{version}-standard", standard, "Debian's standard kernel"),
        ]
    return rows


ROWS: tuple[Row, ...] = (
    *version_rows(),
    *(
        Row(
            f"amd64-{version}",
            source,
            "a kernel between two of Debian's releases",
            memory="1G",
            qemu_args=numa("515M", "509M"),
        )
        for version, source in AMD64_BETWEEN.items()
    ),
    Row("amd64-6.12-kdump", AMD64_6_12, "the format kdump-zlib", format="kdump-zlib"),
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
    Row("amd64-6.12-absent", AMD64_6_12, "absent subsections in a zone", memory="1G", append="memmap=64M$256M"),
    Row(
        "amd64-6.12-movablecore",
        AMD64_6_12,
        "zone Movable; its boundary is aligned to pageblocks",
        memory="1G",
        append="movablecore=256M",
    ),
    Row(
        "amd64-6.12-kernelcore",
        AMD64_6_12,
        "zone Movable on each of four nodes",
        memory="1024M",
        qemu_args=numa("301M", "203M", "263M", "257M"),
        append="kernelcore=400M",
    ),
    Row(
        "amd64-6.12-pmem",
        AMD64_6_12,
        "zone Device: pages of persistent memory, initialized by memremap_pages()",
        memory="1G",
        append="memmap=256M!512M",
        modules=("nd_e820", "nd_pmem"),
        shell=("sleep 2",),
    ),
    *(
        Row(
            f"amd64-{version}-hugetlb",
            source,
            "HugeTLB gave back the vmemmap of its tail pages",
            memory="1G",
            append="hugetlb_free_vmemmap=on hugepages=64",
        )
        for version, source in (("6.1", AMD64_6_1), ("6.12", AMD64_6_12), ("7.2", AMD64_7_2))
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
        "the hole [0xa17b, 0xa217) was never initialized and links to DMA inside Normal",
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
        "i386-6.1",
        I386_6_1,
        "6.1 without PAE",
        memory="1200M",
        paging=True,
    ),
    Row(
        "i386-6.1-pae-hole",
        I386_6_1_PAE,
        "6.1 initializes the hole",
        memory="1200M",
        paging=True,
        append=HOLE,
    ),
    Row(
        "amd64-6.12-numa4",
        AMD64_6_12,
        "four nodes of odd sizes",
        memory="1024M",
        qemu_args=numa("301M", "203M", "263M", "257M"),
    ),
    Row(
        "amd64-6.12-memory-only",
        AMD64_6_12,
        "nodes without a CPU",
        memory="1024M",
        qemu_args=memory_only("515M", "206M", "303M"),
    ),
    *(
        row
        for version, source in (("5.10", AMD64_5_10), ("6.12", AMD64_6_12), ("7.2", AMD64_7_2))
        for row in (
            Row(
                f"amd64-{version}-descending",
                source,
                "node 1 lies below node 0; the boundary is inside block 0x20400",
                memory="1G",
                qemu_args=("-smp", "2"),
                srat=DESCENDING,
            ),
            Row(
                f"amd64-{version}-interleaved",
                source,
                "the spans of two nodes overlap",
                memory="1G",
                qemu_args=("-smp", "2"),
                srat=INTERLEAVED,
            ),
        )
    ),
    replace(
        HOTPLUG,
        name="amd64-7.2-hotplug-partly",
        note="the last block of plugged memory was offlined again",
        append="memhp_default_state=online_movable",
        shell=(*HOTPLUG.shell, OFFLINE_LAST_BLOCK),
    ),
    replace(
        HOTPLUG,
        name="amd64-7.2-hotplug-removed",
        note="one of two memory modules was taken out again",
        append="memhp_default_state=online_movable",
        shell=(*HOTPLUG.shell, ask_again(), wait_for_fewer_blocks(5)),
        qmp_again=(unplug(1),),
    ),
    *(
        Row(
            f"amd64-{version}-virtio-mem",
            source,
            "virtio-mem plugged 182 MiB: the last block is used in part",
            memory="400M,maxmem=2G",
            qemu_args=(
                *("-object", "memory-backend-ram,id=vmem,size=512M"),
                *("-device", "virtio-mem-pci,id=virtio-mem,memdev=vmem,requested-size=182M"),
            ),
            modules=("virtio_pci", "virtio_mem"),
            shell=(wait_for_blocks(6),),
        )
        for version, source in (("6.12", AMD64_6_12), ("7.2", AMD64_7_2))
    ),
    Row(
        "amd64-6.12-pmem-shared",
        AMD64_6_12,
        "persistent memory shares sections with RAM on both sides",
        memory="1G",
        append="memmap=100M!530M",
        modules=("nd_e820", "nd_pmem"),
        shell=("sleep 2",),
    ),
    Row(
        "i386-6.1-pae-highmem-holes",
        I386_6_1_PAE,
        "holes in Normal, in HighMem, and in the first pageblock of HighMem",
        memory="1200M",
        paging=True,
        append=HIGHMEM_HOLES,
    ),
    Row(
        "i386-5.10-pae-highmem-holes",
        I386_5_10_PAE,
        "the same holes where nobody initializes them",
        memory="1200M",
        paging=True,
        append=HIGHMEM_HOLES,
    ),
    *FAULTS,
    *LISTS,
    Row("arm64-7.3", ARM64_7_3, "arm64, a newer kernel"),
    Row("arm64-6.12", ARM64_6_12, "arm64"),
    Row("arm64-6.12-16k", ARM64_6_12_16K, "pages of 16 KiB", memory="1G", qemu_args=("-cpu", "cortex-a76")),
    Row("armhf-6.12", ARMHF_6_12, "FLATMEM; struct page of 36 bytes; no hugetlb"),
    Row("s390x-6.12", S390X_6_12, "big-endian"),
    Row("riscv64-6.12", RISCV64_6_12, "drgn walks no page tables here"),
    Row(
        "ppc64el-6.12",
        PPC64EL_6_12,
        "little-endian guest on a machine QEMU takes for big-endian",
        memory="1G",
    ),
    Row("ppc64el-6.12-hash", PPC64EL_6_12, "the hash MMU", memory="1G", append="disable_radix"),
    Row("ppc64el-6.12-64k", PPC64EL_6_12_64K, "pages of 64 KiB", memory="1G"),
    Row(
        "amd64-6.1-sparse",
        build.SPARSE_AMD64,
        "SPARSEMEM without VMEMMAP: the section is in page->flags",
        memory="1G",
        qemu_args=numa("515M", "509M"),
    ),
    Row(
        "amd64-6.1-sparse-fake",
        build.SPARSE_AMD64,
        "the same with emulated nodes",
        memory="1G",
        append="numa=fake=3",
    ),
    Row("amd64-6.1-sparse-no-numa", build.SPARSE_NO_NUMA, "SPARSEMEM without VMEMMAP and without NUMA"),
    Row(
        "amd64-7.3-sections-of-7.4",
        build.SECTIONS_7_4,
        "no SECTION_MARKED_PRESENT, and a mem_section of 24 bytes; plugged memory goes online",
        memory=HOTPLUG.memory,
        append="memhp_default_state=online",
        shell=HOTPLUG.shell,
        qmp=DIMMS,
    ),
    Row(
        "amd64-7.3-sections-of-7.4-offline",
        build.SECTIONS_7_4,
        "the same, and plugged memory stays offline",
        memory=HOTPLUG.memory,
        append="memhp_default_state=offline",
        shell=HOTPLUG.shell,
        qmp=DIMMS,
    ),
    Row(
        "i386-6.1-numa",
        build.I386_NUMA,
        "32 bits with NUMA: the section is in page->flags, the node is not",
        memory="1G",
        # With this section size the kernel refuses nodes that don't begin at a multiple of 512 MiB.
        qemu_args=numa("512M", "512M"),
    ),
    Row(
        "amd64-6.1-poisoned",
        build.DEBUG_VM,
        "CONFIG_DEBUG_VM, and holes that nobody initializes: their struct pages are poison",
        append=f"memmap=0x40000$0xa17b000 {build.POISONED_HOLES}",
        # With CONFIG_DEBUG_VM_PGFLAGS, who reads the flags of a poisoned page is killed.
        shell=("mount -o bind /dev/null /proc/kpageflags",),
    ),
    Row(
        "amd64-6.1-mirror",
        build.DEBUG_VM,
        "kernelcore=mirror: Normal and Movable overlap, and share pageblocks",
        memory="5G",
        append="kernelcore=mirror",
    ),
    Row(
        "amd64-6.1-debug-vm",
        build.DEBUG_VM,
        "CONFIG_DEBUG_VM: struct pages of plugged memory are poison, and it stays offline",
        memory="400M,slots=4,maxmem=2G",
        append="vm_debug=P",
        shell=HOTPLUG.shell,
        qmp=DIMMS,
    ),
    Row(
        "amd64-5.10-debug-vm",
        build.BUG_2021,
        "CONFIG_DEBUG_VM, and holes that link to zone 0: memory for struct pages is poisoned, and all is initialized",
        append="vm_debug=P",
    ),
    Row(
        "amd64-5.10-bug",
        build.BUG_2021,
        "the bug of 2021: compaction meets a hole that links to zone DMA inside DMA32, and the kernel panics",
        memory="128M",
        append=f"oops=panic {BLOCK_HOLES}",
        after=PROVOKE_COMPACTION,
        panics=True,
        verdict="explained",
    ),
    Row(
        "amd64-6.12-damaged",
        AMD64_6_12,
        "64 struct pages of free memory were zeroed by a debugger; the allocator meets them, and the kernel panics",
        append="oops=panic",
        after=("echo 8 >/proc/sys/kernel/printk", *DAMAGED_PAGES, TAKE_ALL_MEMORY),
        pokes=True,
        panics=True,
        verdict="explained",
    ),
    Row(
        "amd64-6.12-sysrq",
        AMD64_6_12,
        "panic by request: nothing is wrong",
        after=("echo 8 >/proc/sys/kernel/printk", "echo c >/proc/sysrq-trigger"),
        panics=True,
        verdict="other",
    ),
    Row(
        "amd64-7.2-null",
        AMD64_7_2,
        "a NULL pointer dereference that has nothing to do with memory management",
        append="oops=panic",
        after=(
            "echo 8 >/proc/sys/kernel/printk",
            *poke("$(sed -n 's/ t version_proc_show$//p' /proc/kallsyms)", READ_NULL),
            "cat /proc/version",
        ),
        pokes=True,
        panics=True,
        verdict="other",
    ),
)


def find_row(name: str) -> Row:
    """Return the row of a name."""
    for row in ROWS:
        if row.name == name:
            return row
    raise HarnessError(f"no row {name}; 'list' shows them all")
