# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that is to be explored: its image, symbols and VMCOREINFO, studied once and kept."""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from contrib.explore.board import MIB, RAM, RESERVED, VIRT, VIRT_FIRST
from contrib.explore.image import Image, read_image
from contrib.explore.layout import E820Entry, Layout
from contrib.explore.machine import STOPPED, Plan, Ram, booted
from contrib.explore.symbols import Symbols, read_kallsyms, read_system_map
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import cache_dir

# Right behind page_alloc_init_late(): deferred struct pages, per-CPU lists and contiguous zones are final.
STOP = "driver_init"
PANICS = ("panic", "vpanic")
EARLY = "early_printk"
MAKES_VMCOREINFO = "crash_save_vmcoreinfo_init"
VMCOREINFO_START = b"OSRELEASE="
MEM_SECTION = re.compile(rb"(?<=^SYMBOL\(mem_section\)=)[0-9a-f]+$", re.MULTILINE)
PHYS_OFFSET = re.compile(rb"(?<=^NUMBER\(PHYS_OFFSET\)=0x)[0-9a-f]+$", re.MULTILINE)
# Bump when the files of a study change.
STUDY = "4"
PROGRAM_SECONDS = 600
# Magic, version, flags and size of the header.
BTF_MAGIC = bytes.fromhex("9feb010018000000")
PLAIN = Layout(
    (
        E820Entry(0, 0x9F000, RAM),
        E820Entry(0x9F000, MIB, RESERVED),
        E820Entry(MIB, 400 * MIB, RAM),
    )
)
PLAIN_VIRT = Layout((E820Entry(VIRT_FIRST, VIRT_FIRST + 400 * MIB, RAM),), machine=VIRT.name)


@dataclass(frozen=True)
class Kernel:
    """
    A kernel.

    :ivar name: Its release, or where it is from.
    :ivar digest: SHA-256 of its file.
    :ivar image: What is loaded.
    :ivar symbols: Its symbols.
    :ivar vmcoreinfo: Its VMCOREINFO. Of all values, only those of ``mem_section`` and ``PHYS_OFFSET`` depend on the
        layout.
    :ivar btf: Raw BTF, where the kernel has none of its own.
    :ivar system_map: Goes with ``btf``.
    :ivar pokes: Bytes to write over code: by symbol, or ``SYMBOL+0xOFFSET``.
    :ivar path: The file, for boots with firmware.
    :ivar modules: The directory of its modules, for what is done after boot.
    """

    name: str
    digest: str
    image: Image
    symbols: Symbols
    vmcoreinfo: bytes
    btf: str | None = None
    system_map: str | None = None
    pokes: tuple[tuple[str, bytes], ...] = ()
    path: Path = Path()
    modules: Path | None = None

    def plan(self, stop: str = STOP) -> Plan:
        """
        Return how to boot it.

        :param stop: The function to stop at.
        """
        return _plan(self.image, self.symbols, stop, self.pokes)

    @property
    def plain(self) -> Layout:
        """Return a layout without anything that could be wrong."""
        return plain_layout(self.image)

    def vmcoreinfo_of(self, ram: Ram) -> bytes:
        """Return the VMCOREINFO for a layout: some of it is somewhere else in each."""
        info = self.vmcoreinfo
        for name, pattern in (("mem_section", MEM_SECTION), ("memstart_addr", PHYS_OFFSET)):
            address = self.symbols.get(name)
            if address is not None and self.image.wide:
                (value,) = struct.unpack("<Q", ram.read(self.image.physical(address), 8))
                info = pattern.sub(b"%x" % value, info)
        return info


def plain_layout(image: Image) -> Layout:
    """Return a layout without anything that could be wrong."""
    return PLAIN if image.cpu.is_x86 else PLAIN_VIRT


def _plan(image: Image, symbols: Symbols, stop: str, pokes: tuple[tuple[str, bytes], ...] = ()) -> Plan:
    return Plan(
        image,
        symbols.need(stop),
        tuple(address for address in map(symbols.get, PANICS) if address is not None),
        symbols.get(EARLY),
        tuple((image.physical(symbols.place(name)), data) for name, data in pokes),
    )


def _learn_vmcoreinfo(image: Image, symbols: Symbols) -> bytes:
    """
    Boot a kernel once, until it has made its VMCOREINFO, and read that.

    :raises HarnessError: if the kernel doesn't get there.
    """
    plan = replace(_plan(image, symbols, MAKES_VMCOREINFO), behind=True)
    with booted(plan, plain_layout(image)) as (boot, ram):
        if boot.outcome != STOPPED:
            where = symbols.name(boot.caller or boot.address)
            raise HarnessError(f"the kernel does not boot on a plain layout: {boot.outcome} in {where} {boot.text!r}")
        info = ram.find_page(VMCOREINFO_START)
    if not info:
        raise HarnessError("the kernel makes no VMCOREINFO; it needs CONFIG_CRASH_CORE or CONFIG_VMCORE_INFO")
    return info


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=True)
    except FileNotFoundError:
        raise HarnessError(f"{words[0]} is not installed; install dwarves and binutils") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"{words[0]} failed: {error}") from None
    return done.stdout


def _study(path: Path, vmlinux: Path | None, system_map: Path | None, out: Path) -> None:
    """Write what is to be kept of a kernel into a directory."""
    image = read_image(path.read_bytes())
    if system_map is not None:
        symbols = read_system_map(system_map)
    elif vmlinux is not None:
        symbols = Symbols(read_image(vmlinux.read_bytes()).symbols)
    else:
        symbols = Symbols(image.symbols) if image.symbols else read_kallsyms(image)
    info = _learn_vmcoreinfo(image, symbols)
    digits = 16 if image.wide else 8
    text = "".join(f"{address:0{digits}x} t {name}\n" for name, address in symbols.addresses.items())
    (out / "System.map").write_text(text)
    (out / "vmcoreinfo").write_bytes(info)
    if not any(BTF_MAGIC in segment.data for segment in image.segments):
        if vmlinux is None:
            raise HarnessError("the kernel has no BTF; give its vmlinux with --vmlinux")
        _run(["pahole", f"--btf_encode_detached={out / 'btf'}", str(vmlinux)])


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}") from None


def study_dir() -> Path:
    """Return the directory with what is known of kernels."""
    return cache_dir().parent / "explore"


def open_kernel(path: Path, vmlinux: Path | None = None, system_map: Path | None = None) -> Kernel:
    """
    Return a kernel. What is learned of it is kept in the cache.

    :param path: A bzImage, vmlinux, or arm64's Image.
    :param vmlinux: The vmlinux with DWARF and symbols of the same build; needed where the kernel has no BTF.
    :param system_map: Its System.map; needed where kallsyms lacks what is not code.
    :raises HarnessError: if it can't be explored.
    """
    data = _read_file(path)
    digest = hashlib.sha256(data).hexdigest()
    image = read_image(data)
    final = study_dir() / f"{digest[:20]}-{STUDY}"
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".study-", dir=final.parent) as temporary:
            out = Path(temporary, "study")
            out.mkdir()
            _study(path, vmlinux, system_map, out)
            try:
                out.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
    btf = final / "btf"
    info = (final / "vmcoreinfo").read_bytes()
    release = re.match(rb"OSRELEASE=(.*)", info)
    return Kernel(
        release.group(1).decode("ascii", "replace") if release else path.name,
        digest,
        image,
        read_system_map(final / "System.map"),
        info,
        str(btf) if btf.exists() else None,
        str(final / "System.map") if btf.exists() else None,
        path=path,
    )
