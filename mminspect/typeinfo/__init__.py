# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Type information: DWARF where there is any, else BTF with symbols from elsewhere.

After :func:`load`, types, objects and symbols of the kernel can be looked up in the program, and
drgn's own mm and mmzone helpers work on it, whichever of the two it was.

Nothing is kept from one run to the next. To find, read and index the BTF of Debian's kernels takes 25 to 30 ms, and
kallsyms 25 to 40 ms where a symbol is asked for; a cache would save a part of that and would have to be guarded against
files that somebody else put there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from drgn import (
    Architecture,
    FaultError,
    FindObjectFlags,
    MainModule,
    MissingDebugInfoError,
    Object,
    PlatformFlags,
    Program,
    Type,
    sizeof,
)

from mminspect.errors import TypeInfoError
from mminspect.inputs import open_input
from mminspect.target import FUNCTIONS, Target
from mminspect.typeinfo import agreement, buildid, declarations
from mminspect.typeinfo.btf import HEADER_SIZE, Btf, btf_size
from mminspect.typeinfo.symbols import CAPTURE_NOTE, SymbolTable

SYSFS_BTF = "/sys/kernel/btf/vmlinux"

# How far behind _stext the kernel image can hold BTF, and the step of the search.
MAX_IMAGE_SIZE = 256 << 20
SEARCH_STEP = 256 << 10
PAGE = 4096


@dataclass(frozen=True)
class TypeSource:
    """
    Where types and symbols are from.

    :ivar types_from: ``dwarf`` or ``btf``.
    :ivar symbols_from: Sources of symbols, ``elf`` with DWARF.
    :ivar btf_location: Where BTF lies: ``memory``, a file name, or ``None`` with DWARF.
    :ivar btf_address: Its address where it is in memory.
    """

    types_from: str
    symbols_from: tuple[str, ...]
    btf_location: str | None = None
    btf_address: int | None = None


@contextlib.contextmanager
def _quiet_drgn() -> Iterator[None]:
    """Keep drgn's warnings about missing debugging symbols off the user's terminal."""
    logger = logging.getLogger("drgn")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def has_types(prog: Program) -> bool:
    """Tell whether the program knows ``struct page`` and ``struct zone``."""
    try:
        return all(prog.type(name).is_complete() for name in ("struct page", "struct zone"))
    except LookupError:
        return False


def load(
    target: Target,
    symbols: Sequence[str] = (),
    btf: str | None = None,
    system_map: str | None = None,
) -> TypeSource:
    """
    Give the target's program its types, objects and symbols.

    :param symbols: Files with DWARF: a vmlinux, perhaps modules.
    :param btf: File with raw BTF.
    :param system_map: System.map of the kernel.
    :raises TypeInfoError: if there is no type information, or it isn't of this kernel.
    """
    prog = target.prog
    if symbols:
        _load_dwarf(target, symbols)
    if has_types(prog) or (btf is None and _find_dwarf(prog)):
        agreement.check(prog, target.vmcoreinfo, symbols[0] if symbols else "the DWARF that drgn found")
        return TypeSource("dwarf", ("elf",))

    table = SymbolTable(prog, target.vmcoreinfo)
    if system_map is not None:
        table.add_system_map(system_map)
    note = target.core.notes.get(CAPTURE_NOTE) if target.core else None
    if note:
        # It has all that an analysis asks for; kallsyms would only make captures larger.
        table.add_capture_note(note)
    else:
        table.add_kallsyms(target.kind == "live")
    table.finish()
    data, location, address = _find_btf(target, table, btf)
    types = Btf(prog, data)
    prog.cache[FUNCTIONS] = types.has_function
    prog.register_type_finder("mminspect-btf", types.find_type, enable_index=0)
    prog.register_object_finder("mminspect-btf", ObjectFinder(types, table).find, enable_index=-1)
    if not has_types(prog):
        raise TypeInfoError(
            f"the BTF from {location} has no struct page and struct zone; give the BTF of {target.vmcoreinfo.release}"
        )
    agreement.check(prog, target.vmcoreinfo, "the BTF in the target's memory" if location == "memory" else location)
    return TypeSource("btf", tuple(table.sources), location, address)


def _kernel_module(prog: Program) -> MainModule:
    """
    Get drgn's module for the kernel itself.

    ``Program.load_debug_info()`` would look at every loaded kernel module too. An analysis needs none of them, and
    on a damaged dump their list leads anywhere.
    """
    for module, _ in prog.loaded_modules():
        if isinstance(module, MainModule):
            return module
    raise TypeInfoError("drgn doesn't recognise the kernel in the dump")


def _load_dwarf(target: Target, paths: Sequence[str]) -> None:
    wanted = target.vmcoreinfo.build_id
    module = _kernel_module(target.prog)
    for path in paths:
        found = buildid.read_build_id(path)
        # A module has another build ID by right; only what isn't one must match.
        if path.endswith((".ko", ".ko.debug")):
            continue
        if wanted and found and found != wanted:
            raise TypeInfoError(
                f"{path}: of another build, or no kernel: its build ID is {found}, "
                f"the target's ({target.vmcoreinfo.release}) is {wanted}"
            )
        with _quiet_drgn():
            try:
                module.try_file(path, force=wanted is None)
            except Exception as e:
                raise TypeInfoError(f"{path}: drgn can't load it: {_one_line(e)}") from None
    if not has_types(target.prog):
        raise TypeInfoError(
            f"{paths[0]}: no DWARF of this kernel in it; "
            f"give the vmlinux of the debug package of {target.vmcoreinfo.release} with -s"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _find_dwarf(prog: Program) -> bool:
    """Look for DWARF where drgn finds it by itself."""
    with _quiet_drgn():
        try:
            prog.load_module_debug_info(_kernel_module(prog))
        except (MissingDebugInfoError, TypeInfoError, LookupError, OSError, ValueError):
            return False
        except Exception as e:
            if type(e) is not Exception:
                raise
            # drgn's own failure to read what it found, e.g. a damaged file.
            return False
    return has_types(prog)


def _find_btf(target: Target, table: SymbolTable, path: str | None) -> tuple[bytes, str, int | None]:
    """Get BTF data, where it is from, and its address if that is memory."""
    if path is None and target.kind == "live":
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
    platform = prog.platform
    if start is None or platform is None or platform.arch == Architecture.I386:
        return None
    order: Literal["little", "big"] = "little" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else "big"
    magic = b"".join(v.to_bytes(n, order) for v, n in ((0xEB9F, 2), (1, 1), (0, 1), (HEADER_SIZE, 4), (0, 4)))
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


class ObjectFinder:
    """
    Finds kernel objects by BTF, symbols and declarations.

    :param types: The kernel's BTF.
    :param table: The kernel's symbols.
    """

    def __init__(self, types: Btf, table: SymbolTable) -> None:
        self._types = types
        self._table = table

    def find(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        """Find an object for drgn; see ``drgn.Program.register_object_finder()``."""
        if filename:
            return None
        if flags & FindObjectFlags.CONSTANT:
            constant = self._types.enumerator(name)
            if constant is not None:
                return constant
        if flags & FindObjectFlags.VARIABLE:
            variable = self._find_variable(prog, name)
            if variable is not None:
                return variable
        if flags & FindObjectFlags.FUNCTION:
            return self._find_function(prog, name)
        return None

    def _find_variable(self, prog: Program, name: str) -> Object | None:
        type_ = declarations.variable_type(prog, name) or self._types.variable_type(name)
        if type_ is None:
            return None
        if name == "node_states":
            node_states = self._node_states(prog)
            if node_states is not None:
                return node_states
        if name == "mem_section" and self._table.mem_section_value() is not None:
            return self._mem_section(prog, type_)
        address = self._table.address(name)
        if address is not None:
            return Object(prog, type_, address=address)
        if name == "nr_node_ids":
            # drgn takes one node where this is missing. Every node that is online lies below the limit.
            nodes = declarations.max_numnodes(prog)
            return None if nodes is None else Object(prog, type_, nodes)
        if name == "max_mapnr":
            return declarations.flat_max_mapnr(prog)
        if name == "__highest_present_section_nr":
            return declarations.highest_present_section_nr(prog)
        return None

    def _mem_section(self, prog: Program, type_: Type) -> Object:
        value = self._table.mem_section_value()
        if declarations.section_is_static(prog):
            return Object(prog, type_, address=value)
        return Object(prog, type_, value=value)

    def _node_states(self, prog: Program) -> Object | None:
        # VMCOREINFO names node_online_map, which is node_states[N_ONLINE].
        online_map = self._table.address("node_online_map")
        n_online = declarations.enumerator(prog, "enum node_states", "N_ONLINE")
        size = sizeof(prog.type("nodemask_t"))
        if online_map is None or n_online is None:
            return None
        states = declarations.variable_type(prog, "node_states")
        assert states is not None
        return Object(prog, states, address=online_map - n_online * size)

    def _find_function(self, prog: Program, name: str) -> Object | None:
        type_ = self._types.function_type(name)
        if name == "vmemmap_populate":
            # drgn asks whether this exists to tell SPARSEMEM_VMEMMAP, and doesn't use the address. BTF
            # doesn't describe it where it is freed after boot.
            if not declarations.sections_share_mem_map(prog):
                return None
            type_ = type_ or prog.function_type(prog.void_type(), ())
            name = "_stext"
        address = self._table.address(name) if type_ is not None else None
        return None if address is None else Object(prog, type_, address=address)
