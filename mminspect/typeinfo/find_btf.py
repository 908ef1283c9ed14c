# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find BTF: in a file, or in the kernel's memory."""

from __future__ import annotations

import struct

from drgn import FaultError, Program

from mminspect.errors import TypeInfoError
from mminspect.program.arch import arch_of, elf_of
from mminspect.program.target import Target
from mminspect.typeinfo.btf import BTF_MAGIC, HEADER_SIZE, btf_size
from mminspect.typeinfo.inputs import open_input
from mminspect.typeinfo.symbols import SymbolTable

SYSFS_BTF = "/sys/kernel/btf/vmlinux"
# How far behind _stext the kernel image can hold BTF, and the step of the search.
MAX_IMAGE_SIZE = 256 << 20
SEARCH_STEP = 256 << 10
PAGE = 4096


def _find_btf(target: Target, table: SymbolTable, path: str | None) -> tuple[bytes, str, int | None]:
    """Get BTF data, where it is from, and its address if that is memory."""
    if path is None and target.is_here:
        path = SYSFS_BTF
    if path is not None:
        return _read_btf(path), path, None
    # A capture names it. Otherwise looking for the data is faster than reading the symbols.
    start = table.address("__start_BTF") if "capture" in table.sources else None
    if start is None:
        start = _search_btf(target)
    if start is None:
        start = table.address("__start_BTF")
    if start is not None:
        try:
            size = btf_size(target.prog.read(start, HEADER_SIZE))
            return target.prog.read(start, size), "memory", start
        except FaultError:
            raise TypeInfoError(
                f"the BTF of {target.vmcoreinfo.release} is in no part of the dump; "
                "give it with --btf, or a vmlinux with -s"
            ) from None
    release = target.vmcoreinfo.release
    raise TypeInfoError(
        f"no type information for {release}: no DWARF found and no BTF in the kernel's memory; "
        f"install the kernel's debug package (on Debian linux-image-{release}-dbg), or give the vmlinux of the "
        "kernel's build with -s, or its BTF with --btf"
    )


def _read_btf(path: str) -> bytes:
    """Read a file as far as its BTF header says."""
    with open_input(path, "raw BTF, as /sys/kernel/btf/vmlinux has it") as file:
        header = file.read(HEADER_SIZE)
        try:
            size = btf_size(header)
        except TypeInfoError as e:
            raise TypeInfoError(f"{path}: {e}") from None
        return header + file.read(size - len(header))


def _search_btf(target: Target) -> int | None:
    """
    Find BTF in the kernel image by its header, where no symbol tells.

    :return: Address, or ``None``.
    """
    prog = target.prog
    start = target.vmcoreinfo.symbols.get("_stext")
    if start is None or not arch_of(prog.platform).search_btf:
        return None
    magic = struct.pack(elf_of(prog.platform).order + "HBBII", BTF_MAGIC, 1, 0, HEADER_SIZE, 0)
    # It follows the read-only data, at whose end kallsyms is. To begin there finds it at once.
    tables = [at for name, at in target.vmcoreinfo.symbols.items() if name.startswith("kallsyms_")]
    middle = min(max([start, *tables]), start + MAX_IMAGE_SIZE)
    found = _search(prog, magic, middle, start + MAX_IMAGE_SIZE)
    return found if found is not None else _search(prog, magic, start, middle + len(magic))


def _search(prog: Program, magic: bytes, start: int, end: int) -> int | None:
    tail = b""
    address = start & ~(PAGE - 1)
    while address < end:
        piece = _read_piece(prog, address)
        data = tail + piece
        at = data.find(magic)
        while at >= 0:
            found = address - len(tail) + at
            if _is_btf(prog, found):
                return found
            at = data.find(magic, at + 1)
        if not piece:
            # A hole of the image, e.g. the freed init sections: no data runs across it.
            tail = b""
            address += PAGE
        else:
            tail = data[-len(magic) :]
            address += len(piece)
    return None


def _read_piece(prog: Program, address: int) -> bytes:
    for size in (SEARCH_STEP, PAGE):
        if size == SEARCH_STEP and address % SEARCH_STEP:
            continue
        try:
            data: bytes = prog.read(address, size)
            return data
        except FaultError:
            continue
    return b""


def _is_btf(prog: Program, address: int) -> bool:
    try:
        size = btf_size(prog.read(address, HEADER_SIZE))
        # The modules' programs in the image have small BTF of their own in tests only; the kernel's
        # is megabytes.
        return size > 1 << 20
    except (FaultError, TypeInfoError):
        return False
