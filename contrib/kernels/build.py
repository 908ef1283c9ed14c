# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build small kernels that Debian doesn't ship, out of Debian's linux-source packages.

A kernel starts from allnoconfig plus a list of options, so it takes a few minutes on two cores. It
needs gcc, make, flex, bison, bc and libelf-dev. What was built stays in the cache, under a name
that changes with the recipe; it is never committed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Apt, Kernel, cache_dir, fetch_package, run

JOBS = 2
MAKE_SECONDS = 3600
ERROR_LINES = 5


@dataclass(frozen=True)
class Edit:
    """A change of one place in the kernel's source."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Recipe:
    """A kernel to build."""

    name: str
    suite: str
    arch: str
    version: str
    """The version in the name of the linux-source package."""
    options: tuple[str, ...]
    """Lines of a .config; the rest is as allnoconfig has it."""
    edits: tuple[Edit, ...] = ()
    """Changes of the source."""

    @property
    def key(self) -> str:
        """Return the name of the cache's directory for this suite and architecture."""
        return f"{self.suite}-{self.arch}"

    @property
    def package(self) -> str:
        """Return the name of the package with the source."""
        return f"linux-source-{self.version}"

    @property
    def digest(self) -> str:
        """Return a short name for just this version of the recipe."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    @property
    def place(self) -> Path:
        """Return the directory that the finished kernel has in the cache."""
        return cache_dir() / "built" / f"{self.name}-{self.digest}"


COMMON = (
    "CONFIG_ACPI=y",
    "CONFIG_BINFMT_ELF=y",
    "CONFIG_BINFMT_SCRIPT=y",
    "CONFIG_BLK_DEV_INITRD=y",
    "CONFIG_BUG=y",
    "CONFIG_COMPACTION=y",
    "CONFIG_DEBUG_KERNEL=y",
    "CONFIG_DEVTMPFS=y",
    "CONFIG_FW_CFG_SYSFS=y",
    "CONFIG_HUGETLBFS=y",
    "CONFIG_KALLSYMS=y",
    "CONFIG_KEXEC=y",
    "CONFIG_MULTIUSER=y",
    "CONFIG_PCI=y",
    "CONFIG_POSIX_TIMERS=y",
    "CONFIG_PRINTK=y",
    "CONFIG_PRINTK_TIME=y",
    "CONFIG_PROC_FS=y",
    "CONFIG_PROC_PAGE_MONITOR=y",
    "CONFIG_RD_GZIP=y",
    "CONFIG_SERIAL_8250=y",
    "CONFIG_SERIAL_8250_CONSOLE=y",
    "CONFIG_SHMEM=y",
    "CONFIG_SLUB=y",
    "CONFIG_SMP=y",
    "CONFIG_SYSFS=y",
    "CONFIG_TMPFS=y",
    "CONFIG_TTY=y",
    "CONFIG_ZONE_DMA=y",
)
DWARF_5_10 = ("CONFIG_DEBUG_INFO=y", "CONFIG_DEBUG_INFO_DWARF4=y")
DWARF_6_1 = ("CONFIG_DEBUG_INFO_DWARF4=y",)
WIDE = ("CONFIG_64BIT=y", "CONFIG_ZONE_DMA32=y")
NUMA = ("CONFIG_NUMA=y", "CONFIG_X86_64_ACPI_NUMA=y", "CONFIG_NUMA_EMU=y")

# What 0740a50b9baa ("mm/page_alloc.c: refactor initialization of struct page for holes in memory layout")
# repaired: holes belonged to zone 0 of node 0, wherever they were.
HOLES_TO_ZONE_0 = Edit(
    "mm/page_alloc.c",
    "__init_single_page(pfn_to_page(pfn), pfn, zone, node);\n\t\t__SetPageReserved",
    "__init_single_page(pfn_to_page(pfn), pfn, 0, 0);\n\t\t__SetPageReserved",
)
# What 6e2b7044c199 and be21b32afe47 put right in compaction, where the crash of 2021 was seen: the first page of
# a pageblock was taken for a page of the zone without a look at it.
COMPACTION_TRUSTS_BLOCKS = (
    Edit(
        "mm/compaction.c",
        "\tstart_pfn = max(pageblock_start_pfn(pfn), cc->zone->zone_start_pfn);\n",
        "\tstart_pfn = pageblock_start_pfn(pfn);\n",
    ),
    Edit(
        "mm/compaction.c",
        "\tpage = pageblock_pfn_to_page(start_pfn, end_pfn, cc->zone);\n\tif (!page)\n\t\treturn;\n\n"
        "\tisolate_freepages_block(cc, &start_pfn",
        "\tpage = pfn_to_page(pfn);\n\n\tisolate_freepages_block(cc, &start_pfn",
    ),
)

# A word on the kernel's command line leaves holes above zone DMA as they were allocated.
POISONED_HOLES = "mminspect=poisoned-holes"
HOLES_STAY = Edit(
    "mm/page_alloc.c",
    "\tu64 pgcnt = 0;\n\n\tfor (pfn = spfn; pfn < epfn; pfn++) {\n\t\tif (!pfn_valid(pageblock_start_pfn(pfn))) {",
    f'\tu64 pgcnt = 0;\n\n\tif (zone && strstr(boot_command_line, "{POISONED_HOLES}"))\n\t\treturn;\n\n'
    "\tfor (pfn = spfn; pfn < epfn; pfn++) {\n\t\tif (!pfn_valid(pageblock_start_pfn(pfn))) {",
)
# What firmware would say of memory that is mirrored; only kernelcore=mirror looks at it. The second range begins and
# ends inside pageblocks.
MIRRORED_MEMORY = Edit(
    "arch/x86/kernel/e820.c",
    "\tmemblock_trim_memory(PAGE_SIZE);\n\n\tmemblock_dump_all();\n",
    "\tmemblock_trim_memory(PAGE_SIZE);\n\tmemblock_mark_mirror(0, 0x120000000ULL);\n"
    "\tmemblock_mark_mirror(0x140100000ULL, 0x10200000ULL);\n\n\tmemblock_dump_all();\n",
)

# What linux-next has for Linux 7.4, put into 7.3: "mm/sparse: remove SECTION_MARKED_PRESENT", "mm/sparse: rename
# __highest_present_section_nr to __highest_used_section_nr", "mm/sparse: relax struct mem_section size constraints".
# The other flags move down by a bit, and a root's last bytes are unused.
MMZONE = "include/linux/mmzone.h"


def _renamed(path: str, text: str) -> Edit:
    return Edit(path, text, text.replace("__highest_present_section_nr", "__highest_used_section_nr"))


SECTIONS_OF_7_4 = (
    Edit(MMZONE, "enum {\n\tSECTION_MARKED_PRESENT_BIT,\n", "enum {\n"),
    Edit(MMZONE, "#define SECTION_MARKED_PRESENT\t\tBIT(SECTION_MARKED_PRESENT_BIT)\n", ""),
    Edit(
        MMZONE,
        "(section && (section->section_mem_map & SECTION_MARKED_PRESENT))",
        "(section && section->section_mem_map)",
    ),
    _renamed(MMZONE, "extern unsigned long __highest_present_section_nr;"),
    _renamed(MMZONE, "while (nr <= __highest_present_section_nr"),
    _renamed(MMZONE, "(++section_nr <= __highest_present_section_nr)"),
    Edit(
        MMZONE,
        "\tstruct mem_section_usage *usage;\n#ifdef",
        "\tstruct mem_section_usage *usage;\n\tunsigned int order;\n#ifdef",
    ),
    Edit(MMZONE, "&mem_section[root][nr & SECTION_ROOT_MASK]", "&mem_section[root][nr % SECTIONS_PER_ROOT]"),
    Edit(
        "mm/sparse.h",
        "(section_nr > __highest_present_section_nr)\n\t\t__highest_present_section_nr = section_nr;\n\n"
        "\tms->section_mem_map |= SECTION_MARKED_PRESENT;\n",
        "(section_nr > __highest_used_section_nr)\n\t\t__highest_used_section_nr = section_nr;\n",
    ),
    _renamed("mm/sparse.c", "unsigned long __highest_present_section_nr;"),
    Edit("mm/sparse.c", "\tBUILD_BUG_ON(!is_power_of_2(sizeof(struct mem_section)));\n", ""),
    _renamed("mm/compaction.c", "(++start_nr <= __highest_present_section_nr)"),
)

SPARSE_AMD64 = Recipe(
    "amd64-6.1-sparse",
    "bookworm",
    "amd64",
    "6.1",
    (*COMMON, *WIDE, *NUMA, *DWARF_6_1, "CONFIG_SPARSEMEM_VMEMMAP=n"),
)
SPARSE_NO_NUMA = Recipe(
    "amd64-6.1-sparse-no-numa",
    "bookworm",
    "amd64",
    "6.1",
    (*COMMON, *WIDE, *DWARF_6_1, "CONFIG_NUMA=n", "CONFIG_SPARSEMEM_VMEMMAP=n"),
)
DEBUG_VM = Recipe(
    "amd64-6.1-debug-vm",
    "bookworm",
    "amd64",
    "6.1",
    (
        *(*COMMON, *WIDE, *NUMA, *DWARF_6_1),
        *("CONFIG_DEBUG_VM=y", "CONFIG_DEBUG_VM_PGFLAGS=y"),
        *("CONFIG_MEMORY_HOTPLUG=y", "CONFIG_MEMORY_HOTREMOVE=y", "CONFIG_ACPI_HOTPLUG_MEMORY=y"),
        "CONFIG_DEFERRED_STRUCT_PAGE_INIT=y",
    ),
    (HOLES_STAY, MIRRORED_MEMORY),
)
SECTIONS_7_4 = Recipe(
    "amd64-7.3-sections-of-7.4",
    "trixie-backports",
    "amd64",
    "7.3",
    (
        *(*COMMON, *WIDE, *NUMA, *DWARF_6_1),
        *("CONFIG_MEMORY_HOTPLUG=y", "CONFIG_MEMORY_HOTREMOVE=y", "CONFIG_ACPI_HOTPLUG_MEMORY=y"),
        *("CONFIG_CRASH_DUMP=y", "CONFIG_ZONE_DEVICE=y"),
    ),
    SECTIONS_OF_7_4,
)
I386_NUMA = Recipe(
    "i386-6.1-numa",
    "bookworm",
    "i386",
    "6.1",
    (
        *(*COMMON, *DWARF_6_1),
        *("CONFIG_64BIT=n", "CONFIG_M686=y", "CONFIG_X86_BIGSMP=y", "CONFIG_HIGHMEM64G=y", "CONFIG_NUMA=y"),
        "CONFIG_ACPI_NUMA=y",
    ),
)
BUG_2021 = Recipe(
    "amd64-5.10-bug",
    "bullseye",
    "amd64",
    "5.10",
    (*COMMON, *WIDE, *NUMA, *DWARF_5_10, "CONFIG_DEBUG_VM=y"),
    (HOLES_TO_ZONE_0, *COMPACTION_TRUSTS_BLOCKS),
)

ARCH_NAMES = {"amd64": "x86_64", "i386": "i386"}


def make(source: Path, objects: Path, arch: str, *words: str) -> None:
    """Run make for a kernel; the objects stay outside of the source."""
    command = ["nice", "make", "-C", str(source), f"O={objects}", f"ARCH={ARCH_NAMES[arch]}", f"-j{JOBS}", *words]
    # A reproducible build has neither the builder's name nor the time in it.
    known = {"KBUILD_BUILD_USER": "mminspect", "KBUILD_BUILD_HOST": "lab", "KBUILD_BUILD_TIMESTAMP": "1970-01-01"}
    log = objects / "make.log"
    with open(log, "ab") as stream:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **known},
                timeout=MAKE_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise HarnessError("make is not installed; install build-essential, flex, bison, bc, libelf-dev") from None
        except subprocess.TimeoutExpired:
            raise HarnessError(f"the kernel took longer than {MAKE_SECONDS} s to build") from None
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()
        wrong = [line for line in lines if re.search(r"error|Error|not found", line)][:ERROR_LINES]
        raise HarnessError(f"make ended with {done.returncode}: {' / '.join(wrong or lines[-ERROR_LINES:])}")


def configure(source: Path, objects: Path, recipe: Recipe) -> None:
    """Write the .config, and make sure that each option of the recipe came through."""
    fragment = objects / "fragment"
    fragment.write_text("\n".join(recipe.options) + "\n")
    make(source, objects, recipe.arch, f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig")
    missing = missing_options(recipe.options, (objects / ".config").read_text())
    if missing:
        raise HarnessError(f"{recipe.name}: Kconfig refused {', '.join(missing)}")


def missing_options(options: Sequence[str], config: str) -> list[str]:
    """Return the options that a .config has otherwise. An option that isn't there at all is n.

    >>> missing_options(["CONFIG_A=y", "CONFIG_B=n"], "# CONFIG_A is not set")
    ['CONFIG_A=y']
    """
    lines = set(config.splitlines())
    missing = []
    for option in options:
        name, value = option.split("=", 1)
        there = f"{name}=y" in lines if value == "n" else option in lines
        if there == (value == "n"):
            missing.append(option)
    return missing


def apply(edits: Sequence[Edit], source: Path) -> None:
    """Change the source. Each text must be there exactly once."""
    for edit in edits:
        path = source / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise HarnessError(f"{edit.path} has not the text to change: {edit.old.strip().splitlines()[0]}")
        path.unlink()  # may be a hard link
        path.write_text(text.replace(edit.old, edit.new))


def unpacked_source(recipe: Recipe) -> Path:
    """Return the kernel's source tree; fetch and unpack it if it is not there yet."""
    cache = cache_dir()
    tree = cache / "source" / recipe.package
    if tree.is_dir():
        return tree
    apt = Apt(recipe.suite, recipe.arch, cache / "apt" / recipe.key)
    package = fetch_package(apt, recipe.package, cache / recipe.key)
    tarball = next((package / "usr" / "src").glob("linux-source-*.tar.xz"), None)
    if tarball is None:
        raise HarnessError(f"{recipe.package} has no tarball")
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=tree.parent) as temporary:
        part = Path(temporary, "tree")
        part.mkdir()
        run(["tar", "xf", str(tarball), "-C", str(part), "--strip-components=1"])
        part.rename(tree)
    return tree


def built(recipe: Recipe) -> Kernel | None:
    """Return a kernel that is in the cache, or None."""
    place = recipe.place
    if not place.is_dir():
        return None
    release = (place / "release").read_text().strip()
    return Kernel(release, place / "bzImage", place / "modules" / "kernel", place / "vmlinux")


def build(recipe: Recipe) -> Kernel:
    """Return the kernel of a recipe; build it if it is not in the cache."""
    kernel = built(recipe)
    if kernel is not None:
        return kernel
    tree = unpacked_source(recipe)
    place = recipe.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=place.parent) as temporary:
        source, objects, result = tree, Path(temporary, "objects"), Path(temporary, "result")
        if recipe.edits:
            source = Path(temporary, "source")
            run(["cp", "-al", str(tree.resolve()), str(source)])
            apply(recipe.edits, source)
        objects.mkdir()
        configure(source, objects, recipe)
        make(source, objects, recipe.arch, "bzImage")
        (result / "modules" / "kernel").mkdir(parents=True)
        shutil.copy(objects / "arch" / "x86" / "boot" / "bzImage", result)
        for name in ("vmlinux", "System.map", ".config"):
            shutil.copy(objects / name, result / name.lstrip("."))
        shutil.copy(objects / "include" / "config" / "kernel.release", result / "release")
        result.rename(place)
    kernel = built(recipe)
    assert kernel is not None
    return kernel
