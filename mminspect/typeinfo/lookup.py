# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look up enumerators and what follows from types."""

from __future__ import annotations

from drgn import Program


def max_numnodes(prog: Program) -> int | None:
    """
    Get ``MAX_NUMNODES`` from types alone.

    ``struct zonelist`` has room for every zone of every node and an end mark:
    ``_zonerefs[MAX_NUMNODES * MAX_NR_ZONES + 1]``.

    :return: Number of nodes that the kernel can have, or ``None`` if the types don't tell.
    """
    try:
        length = prog.type("struct zonelist").member("_zonerefs").type.length
    except LookupError:
        return None
    zones = enumerator(prog, "enum zone_type", "__MAX_NR_ZONES")
    if not length or not zones or (length - 1) % zones:
        return None
    nodes: int = (length - 1) // zones
    return nodes


def enumerator(prog: Program, enum: str, name: str) -> int | None:
    """
    Get the value of an enumerator.

    :param enum: Type name, e.g. ``enum zone_type``.
    :return: Value, or ``None`` if there is no such enum or enumerator.
    """
    try:
        enumerators = prog.type(enum).enumerators
    except LookupError:
        return None
    for item in enumerators or ():
        if item.name == name:
            return int(item.value)
    return None


def has_type(prog: Program, name: str) -> bool:
    """Tell whether the kernel defines a type."""
    try:
        return bool(prog.type(name).is_complete())
    except LookupError:
        return False
