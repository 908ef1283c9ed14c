# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build an initramfs, and read what its init printed on the console.

The guest prints whole files between markers, each with its length in bytes, so a line that got lost
or mixed with another is noticed.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from contrib.kernels.errors import HarnessError

MARK = "@@mminspect"
READY = f"{MARK} READY"
QMP_WANTED = f"{MARK} QMP"
QMP_WANTED_AGAIN = f"{MARK} QMP AGAIN"
# Followed by an address, bytes and how many times, for gdb.parse_poke().
POKE = f"{MARK} POKE"
POKES_WANTED = f"{MARK} POKES WANTED"
ALIGN = 4

# Runs of pages with the same KPF_NOPAGE (bit 20) and KPF_RESERVED (bit 32), as "count" and two digits. Too slow for
# large guests. Of the two words of an entry, the lower one is first on little-endian machines.
KPAGEFLAGS_LIMIT_KB = 5000000
KPAGEFLAGS = rf"""[ $(sed -n 's/MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) -gt {KPAGEFLAGS_LIMIT_KB} ] || {{
  cut=3,16 swap=
  [ $(printf '\1\0' | hexdump -e '1/2 "%x"') = 1 ] || cut=8,11 swap='s/\(.\)\(.\)/\2\1/'
  hexdump -v -e '2/4 "%08x" "\n"' /proc/kpageflags | cut -c$cut | sed "$swap" |
    tr 13579bdf02468ace 1111111100000000 | uniq -c
}}"""

# What the guest prints, by the name of the section.
SECTIONS: Mapping[str, str] = {
    "version": "cat /proc/version",
    "cmdline": "cat /proc/cmdline",
    "pagesize": "grep -m 1 KernelPageSize /proc/self/smaps",
    "vmcoreinfo": "cat /sys/kernel/vmcoreinfo",
    "iomem": "cat /proc/iomem",
    "memory_blocks": "cat /sys/devices/system/memory/block_size_bytes; "
    "grep -H . /sys/devices/system/memory/memory*/state",
    "pagetypeinfo": "cat /proc/pagetypeinfo",
    "meminfo": "cat /proc/meminfo",
    "kpageflags": KPAGEFLAGS,
    "zoneinfo": "cat /proc/zoneinfo",
}
OPTIONAL_SECTIONS = ("kpageflags",)

INIT_HEAD = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/printk
show() {{
  echo "{MARK} BEGIN $1 $(wc -c </tmp/section)"
  cat /tmp/section
  echo "{MARK} END $1"
}}
"""
INIT_TAIL = f"""sync
sleep 0.3
echo "{READY}"
while true; do sleep 1000; done
"""


def init_script(
    modules: Sequence[str],
    shell: Sequence[str] = (),
    qmp: bool = False,
    after: Sequence[str] = (),
) -> str:
    """Return the text of init.

    shell are lines to run before anything is printed, after those to run when all is printed. With
    qmp, init first asks the other side for its QMP commands (memory hotplug); the lines can then
    wait for their effect.
    """
    lines = [INIT_HEAD]
    lines += [f"insmod /mod/{name}.ko\n" for name in modules]
    if qmp:
        lines.append(f'echo "{QMP_WANTED}"\n')
    lines += [line + "\n" for line in shell]
    for name, command in SECTIONS.items():
        lines.append(f"{{ {command}; }} >/tmp/section 2>/dev/null\nshow {name}\n")
    lines += [line + "\n" for line in after]
    lines.append(INIT_TAIL)
    return "".join(lines)


def module_bytes(path: Path) -> bytes:
    """Return a kernel module, uncompressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        try:
            command = ["zstd", "-dc", str(path)]
            return subprocess.run(command, check=True, capture_output=True).stdout
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise HarnessError(f"{path.name}: the zstd program cannot unpack it: {error}") from None
    return data


def module_depends(module: bytes) -> list[str]:
    """Return the modules that a module says it needs."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in match.group(1).decode().split(",") if name] if match else []


def module_name(path: str) -> str:
    """Return the name of a module as the kernel spells it."""
    return re.sub(r"\.ko.*$", "", path.rsplit("/", 1)[-1]).replace("-", "_")


def builtin_modules(directory: Path) -> set[str] | None:
    """Return the names of the modules built into the kernel, or None if the package has no list."""
    path = directory.parent / "modules.builtin"
    return {module_name(line) for line in path.read_text().split()} if path.exists() else None


def collect_modules(directory: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the modules and what they need, in the order of loading.

    What is built into the kernel is left out, and so are optional ones that are not there.
    """
    paths = {module_name(path.name): path for path in directory.rglob("*.ko*")}
    builtin = builtin_modules(directory)
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = module_name(name)
        if name in found:
            return
        if name not in paths:
            if builtin is not None and name not in builtin:
                raise HarnessError(f"the kernel below {directory} has no module {name}")
            return
        module = module_bytes(paths[name])
        for needed in module_depends(module):
            add(needed)
        found[name] = module

    for name in [*(name for name in optional if name in paths), *wanted]:
        add(name)
    return found


def cpio_entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    """Return one entry of a cpio archive in the newc format."""
    raw_name = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(raw_name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw_name
    return padded(head) + padded(data)


def padded(data: bytes) -> bytes:
    """Return data with zeros up to the alignment of newc."""
    return data + bytes(-len(data) % ALIGN)


def cpio_archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive of files, each with its mode, in the order given."""
    entries = [cpio_entry(inode, name, mode, data) for inode, (name, (mode, data)) in enumerate(files.items(), 1)]
    return b"".join(entries) + cpio_entry(0, "TRAILER!!!", 0, b"")


def build_initrd(
    out: Path,
    modules: Path,
    busybox: Path,
    wanted: Sequence[str] = (),
    shell: Sequence[str] = (),
    qmp: bool = False,
    after: Sequence[str] = (),
    acpi: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an initramfs. qemu_fw_cfg goes in if it exists: it gives QEMU the VMCOREINFO note.

    acpi has ACPI tables by name, which the kernel takes instead of the firmware's, or beside them
    (CONFIG_ACPI_TABLE_UPGRADE). They come first, in an archive of their own that is not compressed.
    """
    loaded = collect_modules(modules, wanted, optional=["qemu_fw_cfg"])
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    files = dict.fromkeys(("bin", "proc", "sys", "dev", "mod", "tmp"), (directory, b""))
    files["bin/busybox"] = (program, busybox.read_bytes())
    for name, data in loaded.items():
        files[f"mod/{name}.ko"] = (stat.S_IFREG | 0o644, data)
    files["init"] = (program, init_script(list(loaded), shell, qmp, after).encode())
    temporary = out.with_name(out.name + ".part")
    tables = {f"kernel/firmware/acpi/{name}.aml": (stat.S_IFREG | 0o644, data) for name, data in (acpi or {}).items()}
    with open(temporary, "wb") as raw:
        if tables:
            raw.write(cpio_archive(tables))
    with open(temporary, "ab") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream:
        stream.write(cpio_archive(files))
    shutil.move(str(temporary), str(out))
    return out


@dataclass(frozen=True)
class ConsoleZone:
    """A zone as /proc/zoneinfo shows it. An empty zone has no start_pfn there."""

    node: int
    name: str
    start_pfn: int | None
    spanned: int
    present: int
    managed: int


class PageFlags(NamedTuple):
    """Adjacent pages that /proc/kpageflags shows alike."""

    start_pfn: int
    end_pfn: int
    nopage: bool
    """KPF_NOPAGE: pfn_to_online_page() returned NULL."""
    reserved: bool
    """KPF_RESERVED: PG_reserved is set."""


@dataclass(frozen=True)
class Truth:
    """What a guest printed about itself."""

    release: str
    page_size: int
    pageblock_order: int
    zones: tuple[ConsoleZone, ...]
    blocks: Mapping[tuple[int, str], Mapping[str, int]]
    """Number of pageblocks of each migratetype, by node and zone."""
    system_ram: tuple[tuple[int, int], ...]
    """Physical byte ranges [start, end) that /proc/iomem calls System RAM."""
    offline_blocks: tuple[int, ...]
    """Numbers of the memory blocks that are not online."""
    vmcoreinfo: tuple[int, int] | None
    """Physical address of the VMCOREINFO note and the size of its place."""
    block_bytes: int | None = None
    """Size of a memory block of memory hotplug, if the kernel has it."""
    page_flags: tuple[PageFlags, ...] = ()
    """What /proc/kpageflags says from pfn 0 on; empty if it wasn't printed."""


def clean_lines(text: str) -> list[str]:
    """Return the console's lines without carriage returns and without the kernel's own messages."""
    lines = text.replace("\r", "").split("\n")
    return [line for line in lines if not re.match(r"\[ *\d+\.\d+\]", line)]


def split_sections(text: str) -> dict[str, str]:
    """Return the printed files by name. Raise HarnessError where one is not whole."""
    sections: dict[str, str] = {}
    name, length = "", 0
    body: list[str] = []
    for line in clean_lines(text):
        words = line.split()
        if words[:2] == [MARK, "BEGIN"] and len(words) == 4:
            name, length, body = words[2], int(words[3]), []
        elif words == [MARK, "END", name]:
            content = "".join(part + "\n" for part in body)
            if len(content.encode()) != length:
                raise HarnessError(f"the console lost part of {name}: {len(content.encode())} of {length} bytes")
            sections[name] = content
            name = ""
        elif name:
            body.append(line)
    return sections


def parse_zoneinfo(text: str) -> tuple[ConsoleZone, ...]:
    """Read /proc/zoneinfo."""
    zones = []
    for part in re.split(r"(?m)^(?=Node )", text):
        head = re.match(r"Node (\d+), zone +(\S+)", part)
        if not head:
            continue
        values = {key: int(value) for key, value in re.findall(r"(?m)^ +(spanned|present|managed) +(\d+)$", part)}
        start = re.search(r"(?m)^ +start_pfn: +(\d+)$", part)
        zones.append(
            ConsoleZone(
                node=int(head.group(1)),
                name=head.group(2),
                start_pfn=int(start.group(1)) if start else None,
                spanned=values["spanned"],
                present=values["present"],
                managed=values["managed"],
            )
        )
    return tuple(zones)


def parse_blocks(text: str) -> dict[tuple[int, str], dict[str, int]]:
    """Read the table 'Number of blocks type' of /proc/pagetypeinfo."""
    table: dict[tuple[int, str], dict[str, int]] = {}
    types: list[str] = []
    for line in text.splitlines():
        if line.startswith("Number of blocks type"):
            types = line.split()[4:]
        row = re.match(r"Node (\d+), zone +(\S+) +(\d[\d ]*)$", line)
        if types and row:
            counts = [int(word) for word in row.group(3).split()]
            table[int(row.group(1)), row.group(2)] = dict(zip(types, counts))
    return table


def parse_system_ram(text: str) -> tuple[tuple[int, int], ...]:
    """Read the top-level System RAM ranges of /proc/iomem."""
    ranges = re.findall(r"(?m)^([0-9a-f]+)-([0-9a-f]+) : System RAM", text)
    return tuple((int(start, 16), int(last, 16) + 1) for start, last in ranges)


def parse_vmcoreinfo(text: str) -> tuple[int, int] | None:
    """Read /sys/kernel/vmcoreinfo. Both numbers are hexadecimal, the second without 0x."""
    words = text.split()
    return (int(words[0], 16), int(words[1], 16)) if len(words) == 2 else None


def parse_kpageflags(text: str) -> tuple[PageFlags, ...]:
    """Read the runs that init made of /proc/kpageflags."""
    runs = []
    pfn = 0
    for count, nopage, reserved in re.findall(r"(?m)^ *(\d+) ([01])([01])$", text):
        runs.append(PageFlags(pfn, pfn + int(count), nopage == "1", reserved == "1"))
        pfn += int(count)
    return tuple(runs)


def find_in(text: str, pattern: str, what: str) -> str:
    """Return the first group of a pattern that must be in a text."""
    match = re.search(pattern, text)
    if not match:
        raise HarnessError(f"the console shows no {what}")
    return match.group(1)


def parse_console(text: str) -> Truth:
    """Read what a guest printed."""
    sections = split_sections(text)
    missing = [name for name in SECTIONS if name not in sections and name not in OPTIONAL_SECTIONS]
    if missing:
        raise HarnessError(f"the console has no section {', '.join(missing)}")
    offline = re.findall(r"memory(\d+)/state:(?!online)", sections["memory_blocks"])
    block_size = re.match(r"[0-9a-f]+$", sections["memory_blocks"], re.MULTILINE)
    return Truth(
        release=find_in(sections["version"], r"Linux version (\S+)", "kernel release"),
        page_size=1024 * int(find_in(sections["pagesize"], r"KernelPageSize: +(\d+) kB", "page size")),
        pageblock_order=int(find_in(sections["pagetypeinfo"], r"Page block order: +(\d+)", "pageblock order")),
        zones=parse_zoneinfo(sections["zoneinfo"]),
        blocks=parse_blocks(sections["pagetypeinfo"]),
        system_ram=parse_system_ram(sections["iomem"]),
        offline_blocks=tuple(sorted(int(number) for number in offline)),
        vmcoreinfo=parse_vmcoreinfo(sections["vmcoreinfo"]),
        block_bytes=int(block_size.group(), 16) if block_size else None,
        page_flags=parse_kpageflags(sections.get("kpageflags", "")),
    )
