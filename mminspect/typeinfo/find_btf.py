# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find BTF: in a file, or in the kernel's memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

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
MIN_BTF_SIZE = 1 << 20


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
    tail, behind = b"", 0
    address = start & ~(PAGE - 1)
    while address < end:
        step_end = (address // SEARCH_STEP + 1) * SEARCH_STEP
        for piece_start, piece in _pieces(prog, address, step_end):
            # No data runs across a hole of the image, e.g. the freed init sections.
            tail = tail if piece_start == behind else b""
            data = tail + piece
            at = data.find(magic)
            while at >= 0:
                found = piece_start - len(tail) + at
                if _is_btf(prog, found):
                    return found
                at = data.find(magic, at + 1)
            tail, behind = data[-len(magic) :], piece_start + len(piece)
        address = step_end
    return None


def _pieces(prog: Program, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """
    Read what there is of a step.

    BTF is larger than two steps. So where this step and the next have holes, none begins here, and of a dump that is
    cut short, hundreds of megabytes aren't read page by page.
    """
    data = _read(prog, start, end - start)
    if data:
        yield start, data
    elif _read(prog, end, SEARCH_STEP):
        for address in range(start, end, PAGE):
            data = _read(prog, address, PAGE)
            if data:
                yield address, data


def _read(prog: Program, address: int, size: int) -> bytes:
    try:
        data: bytes = prog.read(address, size)
        return data
    except FaultError:
        return b""


def _is_btf(prog: Program, address: int) -> bool:
    try:
        size = btf_size(prog.read(address, HEADER_SIZE))
        # The modules' programs in the image have small BTF of their own in tests only; the kernel's
        # is megabytes.
        return size > MIN_BTF_SIZE
    except (FaultError, TypeInfoError):
        return False
