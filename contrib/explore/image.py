# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take a kernel image apart: the vmlinux inside a bzImage, arm64's Image, and what is loaded of it."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass, replace
from typing import Callable

import numpy as np
import zstandard

from contrib.explore.board import VIRT_KERNEL
from contrib.explore.cpu import ARM64, CPUS, Cpu
from contrib.kernels.errors import HarnessError

# Documentation/arch/x86/boot.rst.
HEADER_START = 0x1F1
HEADER_MAGIC_AT, HEADER_MAGIC = 0x202, b"HdrS"
SECTOR = 512
OLDEST_PROTOCOL = 0x208
PAYLOAD_OFFSET = 0x248
ELF_MAGIC = b"\x7fELF"
PT_LOAD = 1
SHT_SYMTAB = 2
ARM64_MAGIC_AT, ARM64_MAGIC = 56, b"ARMd"
ZBOOT_MAGIC = b"zimg"
R_AARCH64_RELATIVE = 0x403
# The top of the kernel's virtual addresses, and what their start is a multiple of.
ARM64_KIMAGE, ARM64_ALIGN = 0xFFFF80, 1 << 27
# A kernel is far smaller. This keeps a damaged stream from filling the machine.
MAX_VMLINUX = 1 << 30
PROGRAM_SECONDS = 120


@dataclass(frozen=True)
class Segment:
    """A part of the kernel that the boot loader puts into memory."""

    virtual: int
    physical: int
    data: bytes
    memory_size: int


@dataclass(frozen=True)
class Image:
    """
    A kernel as it is loaded.

    :ivar cpu: Its architecture.
    :ivar entry: Physical address to jump to.
    :ivar segments: What is loaded.
    :ivar header: The setup header of boot_params, from offset 0x1f1 on.
    :ivar symbols: Symbols of the ELF file, if it has any.
    """

    cpu: Cpu
    entry: int
    segments: tuple[Segment, ...]
    header: bytes
    symbols: dict[str, int]

    @property
    def wide(self) -> bool:
        """Return whether it is a 64-bit kernel."""
        return self.cpu.wide

    @property
    def end(self) -> int:
        """Return the physical address behind the image."""
        return max(segment.physical + segment.memory_size for segment in self.segments)

    @property
    def start(self) -> int:
        """Return the physical address of the image."""
        return min(segment.physical for segment in self.segments)

    def physical(self, virtual: int) -> int:
        """
        Return the physical address of a symbol.

        :raises HarnessError: if the image doesn't hold it.
        """
        for segment in self.segments:
            if segment.virtual and 0 <= virtual - segment.virtual < segment.memory_size:
                return virtual - segment.virtual + segment.physical
        raise HarnessError(f"the kernel image holds nothing at {virtual:#x}")


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, MAX_VMLINUX)


def _lzma(data: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, MAX_VMLINUX)


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_VMLINUX)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, MAX_VMLINUX)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _program(*command: str) -> Callable[[bytes], bytes]:
    def run(data: bytes) -> bytes:
        if shutil.which(command[0]) is None:
            raise HarnessError(f"the kernel is compressed with {command[0]}, which is not installed; install it")
        done = subprocess.run(command, input=data, capture_output=True, timeout=PROGRAM_SECONDS, check=False)
        # The uncompressed size follows the stream, which these programs complain about.
        return done.stdout

    return run


# What usr/Makefile and arch/x86/boot/compressed can use, by the first bytes.
DECOMPRESSORS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\0", _xz),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"BZh", _bzip2),
    (b"\x5d\0\0", _lzma),
    (b"\x02\x21\x4c\x18", _program("lz4", "-dc")),
    (b"\x89LZO", _program("lzop", "-dc")),
)


def decompress(payload: bytes) -> bytes:
    """
    Return what is in a compressed payload, or the payload itself if it isn't compressed.

    :raises HarnessError: if it is damaged.
    """
    for magic, unpack in DECOMPRESSORS:
        if payload.startswith(magic):
            try:
                return unpack(payload)
            except (lzma.LZMAError, zlib.error, OSError, ValueError, zstandard.ZstdError) as error:
                raise HarnessError(f"the kernel inside the image is damaged: {error}") from None
            except subprocess.TimeoutExpired:
                raise HarnessError("the kernel inside the image can't be unpacked in time") from None
    return payload


def setup_header(data: bytes) -> bytes | None:
    """Return the setup header of a bzImage, or ``None`` if it isn't one."""
    if data[HEADER_MAGIC_AT : HEADER_MAGIC_AT + 4] != HEADER_MAGIC:
        return None
    return data[HEADER_START : HEADER_MAGIC_AT + data[HEADER_MAGIC_AT - 1]]


def made_header() -> bytes:
    """Return the setup header of a kernel that comes without one: what the kernel itself reads of it."""
    page = bytearray(0x300)
    page[HEADER_MAGIC_AT : HEADER_MAGIC_AT + 4] = HEADER_MAGIC
    # Protocol 2.15, LOADED_HIGH.
    struct.pack_into("<HxxxxxxxxxB", page, HEADER_MAGIC_AT + 4, 0x20F, 1)
    return bytes(page[HEADER_START : HEADER_START + 0x7B])


def extract_vmlinux(data: bytes) -> bytes:
    """
    Return the vmlinux inside a bzImage.

    :raises HarnessError: if there is none.
    """
    (version,) = struct.unpack_from("<H", data, HEADER_MAGIC_AT + 4)
    if version < OLDEST_PROTOCOL:
        raise HarnessError(f"boot protocol {version:#x} of this kernel is too old")
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET)
    start = ((data[HEADER_START] or 4) + 1) * SECTOR + offset
    if not length or start + length > len(data):
        raise HarnessError("the image is cut short: its payload is not inside")
    vmlinux = decompress(data[start : start + length])
    if not vmlinux.startswith(ELF_MAGIC):
        raise HarnessError(f"the image holds no ELF file; it begins with {data[start : start + 6].hex()}")
    return vmlinux


def _unpack_arm64(data: bytes) -> bytes:
    """
    Return the Image in one that is compressed: by gzip, or with an EFI program that unpacks it.

    :raises HarnessError: if it is damaged.
    """
    if data[:2] == b"MZ" and data[4:8] == ZBOOT_MAGIC:
        offset, size = struct.unpack_from("<II", data, 8)
        data = decompress(data[offset : offset + size])
    elif data[:2] == b"\x1f\x8b":
        data = decompress(data)
    return data


def _virtual_base(data: bytes) -> int:
    """
    Return the virtual address that arm64's Image is linked to.

    Its relocations tell, which are there for KASLR. The address has 27 zeros at its end, and no kernel is that large.

    :raises HarnessError: if there are none.
    """
    words = np.frombuffer(data[: len(data) & -8], "<u8")
    offsets = words[np.flatnonzero(words[1:] == R_AARCH64_RELATIVE)]
    inside = offsets[(offsets >> np.uint64(40)) == ARM64_KIMAGE]
    if not len(inside):
        raise HarnessError("the Image has no relocations (CONFIG_RELOCATABLE); give the vmlinux")
    return int(inside.min()) & -ARM64_ALIGN


def _read_arm64(data: bytes) -> Image:
    """Return arm64's Image, see Documentation/arch/arm64/booting.rst."""
    offset, size = struct.unpack_from("<QQ", data, 8)
    physical = VIRT_KERNEL + offset
    return Image(ARM64, physical, (Segment(_virtual_base(data), physical, data, max(size, len(data))),), b"", {})


def read_image(data: bytes) -> Image:
    """
    Return a kernel out of the bytes of a bzImage, vmlinux, or arm64's Image.

    :raises HarnessError: if it is none of them, or of another architecture.
    """
    header = setup_header(data)
    try:
        data = extract_vmlinux(data) if header is not None else _unpack_arm64(data)
        if data[ARM64_MAGIC_AT : ARM64_MAGIC_AT + 4] == ARM64_MAGIC:
            return _read_arm64(data)
        if not data.startswith(ELF_MAGIC):
            raise HarnessError("neither a bzImage nor a vmlinux, nor an Image of arm64")
        return _read_elf(data, header or made_header())
    except (struct.error, IndexError):
        raise HarnessError("the kernel's ELF file is damaged") from None


def _read_elf(data: bytes, header: bytes) -> Image:
    wide = data[4] == 2
    cpu = CPUS.get(struct.unpack_from("<H", data, 18)[0])
    if data[5] != 1 or cpu is None or cpu.wide != wide:
        raise HarnessError(f"the kernel is not of {', '.join(cpu.name for cpu in CPUS.values())}")
    if wide:
        entry, phoff = struct.unpack_from("<QQ", data, 24)
        phentsize, phnum = struct.unpack_from("<HH", data, 54)
    else:
        entry, phoff = struct.unpack_from("<II", data, 24)
        phentsize, phnum = struct.unpack_from("<HH", data, 42)
    segments = []
    for index in range(phnum):
        at = phoff + index * phentsize
        if wide:
            kind, _, offset, virtual, physical, size, memory = struct.unpack_from("<IIQQQQQ", data, at)
        else:
            kind, offset, virtual, physical, size, memory = struct.unpack_from("<IIIIII", data, at)
        if kind == PT_LOAD and memory:
            if offset + size > len(data):
                raise HarnessError("the kernel's ELF file is cut short")
            segments.append(Segment(virtual, physical, data[offset : offset + size], memory))
    if not segments:
        raise HarnessError("the kernel's ELF file has nothing to load")
    if not cpu.is_x86:
        # Its physical addresses are virtual ones. It runs wherever it lies, from its first byte on.
        base, entry = min(segment.virtual for segment in segments), VIRT_KERNEL
        segments = [replace(segment, physical=segment.virtual - base + VIRT_KERNEL) for segment in segments]
    return Image(cpu, entry, tuple(segments), header, _read_symtab(data, wide))


def _read_symtab(data: bytes, wide: bool) -> dict[str, int]:
    """Return the symbols of an ELF file; the first one of a name counts."""
    shoff = struct.unpack_from("<Q", data, 40)[0] if wide else struct.unpack_from("<I", data, 32)[0]
    shentsize, shnum = struct.unpack_from("<HH", data, 58 if wide else 46)
    layout = "<IIQQQQI" if wide else "<IIIIIII"
    sections = [struct.unpack_from(layout, data, shoff + index * shentsize) for index in range(shnum if shoff else 0)]
    symbols: dict[str, int] = {}
    for _, kind, _, _, offset, size, link in sections:
        if kind != SHT_SYMTAB or link >= len(sections):
            continue
        start, length = sections[link][4:6]
        names = data[start : start + length]
        for fields in struct.iter_unpack("<IBBHQQ" if wide else "<IIIBBH", data[offset : offset + size]):
            value = fields[4] if wide else fields[1]
            if value and fields[0] < len(names):
                name = names[fields[0] : names.index(b"\0", fields[0])].decode("ascii", "replace")
                if name:
                    symbols.setdefault(name, value)
    return symbols
