# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find kernel objects by BTF, symbols and declarations."""

from __future__ import annotations

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Type,
    sizeof,
)

from mminspect.typeinfo import declarations
from mminspect.typeinfo.btf import Btf
from mminspect.typeinfo.lookup import enumerator, max_numnodes
from mminspect.typeinfo.symbols import SymbolTable


class ObjectFinder:
    """
    Finds kernel objects by BTF, symbols and declarations.

    :param types: The kernel's BTF.
    :param table: The kernel's symbols.
    """

    def __init__(self, types: Btf, table: SymbolTable) -> None:
        self._types = types
        self._table = table
        self._sought: set[str] = set()

    def find(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        """Find an object for drgn; see ``drgn.Program.register_object_finder()``."""
        # Where VMCOREINFO lacks a number, drgn derives it from a variable whose type depends on that number.
        if filename or name in self._sought:
            return None
        self._sought.add(name)
        try:
            return self._find(prog, name, flags)
        finally:
            self._sought.discard(name)

    def _find(self, prog: Program, name: str, flags: FindObjectFlags) -> Object | None:
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
            nodes = max_numnodes(prog)
            return None if nodes is None else Object(prog, type_, nodes)
        if name == "max_mapnr":
            return declarations.flat_max_mapnr(prog)
        if name == "__highest_present_section_nr":
            # Linux 7.4 renames it.
            address = self._table.address("__highest_used_section_nr")
            if address is not None:
                return Object(prog, type_, address=address)
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
        n_online = enumerator(prog, "enum node_states", "N_ONLINE")
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
