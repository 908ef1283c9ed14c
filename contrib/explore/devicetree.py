# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a flattened device tree, see chapter 5 of the Devicetree Specification v0.4."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Union

MAGIC, VERSION, OLDEST_VERSION = 0xD00DFEED, 17, 16
BEGIN_NODE, END_NODE, PROPERTY, END = 1, 2, 3, 9
HEADER_SIZE = 40
NO_RESERVATIONS = bytes(16)

# Nodes are dictionaries. A property is a text, a number, a list of cells, or None if it is only there.
Value = Union[str, int, Sequence[int], None]
Node = dict[str, Any]


def cells(*numbers: int) -> list[int]:
    """Return addresses and sizes as cells, two each."""
    return [half for number in numbers for half in (number >> 32, number & 0xFFFFFFFF)]


def _bytes(value: Value) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode() + b"\0"
    return b"".join(struct.pack(">I", cell) for cell in ([value] if isinstance(value, int) else value))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _node(name: str, node: Node, names: dict[str, int]) -> Iterator[bytes]:
    yield struct.pack(">I", BEGIN_NODE) + _padded(name.encode() + b"\0")
    for key, value in node.items():
        if not isinstance(value, dict):
            data = _bytes(value)
            offset = names.setdefault(key, sum(len(known) + 1 for known in names))
            yield struct.pack(">III", PROPERTY, len(data), offset) + _padded(data)
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _node(key, value, names)
    yield struct.pack(">I", END_NODE)


def flatten(root: Node) -> bytes:
    """Return a tree as bytes."""
    names: dict[str, int] = {}
    structure = b"".join(_node("", root, names)) + struct.pack(">I", END)
    strings = b"".join(name.encode() + b"\0" for name in names)
    at = HEADER_SIZE + len(NO_RESERVATIONS)
    total = at + len(structure) + len(strings)
    fields = (
        MAGIC,
        total,
        at,
        at + len(structure),
        HEADER_SIZE,
        VERSION,
        OLDEST_VERSION,
        0,
        len(strings),
        len(structure),
    )
    return struct.pack(">10I", *fields) + NO_RESERVATIONS + structure + strings
