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
from typing import NamedTuple

from drgn import (
    MainModule,
    MissingDebugInfoError,
    Program,
)

from mminspect.errors import TypeInfoError, message_of
from mminspect.program import files
from mminspect.program.target import FUNCTIONS, Target
from mminspect.typeinfo import agreement, buildid
from mminspect.typeinfo.btf import Btf
from mminspect.typeinfo.find_btf import _find_btf
from mminspect.typeinfo.objects import ObjectFinder
from mminspect.typeinfo.symbols import CAPTURE_NOTE, SymbolTable


class TypeSource(NamedTuple):
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
        table.add_kallsyms(target.is_here)
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
    raise TypeInfoError("drgn doesn't recognize the kernel in the dump")


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
                fd = files.open_file(path) if files.is_held(path) else -1
                # drgn closes the descriptor.
                module.try_file(path, fd=fd, force=wanted is None)
            except Exception as e:
                raise TypeInfoError(f"{path}: drgn can't load it: {message_of(e)}") from None
    if not has_types(target.prog):
        raise TypeInfoError(
            f"{paths[0]}: no DWARF of this kernel in it; "
            f"give the vmlinux of the debug package of {target.vmcoreinfo.release} with -s"
        )


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
