# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs that the boot's lines rule out: what they need isn't there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby

from mminspect.commands.triage.boot import NODE, Boot


def _no_node_interleaves(boot: Boot) -> bool:
    """Return whether the memory of each node is in one piece."""
    ranges = sorted((found.start, found.node) for found in boot.ranges if found.source == NODE)
    pieces = [node for node, _ in groupby(node for _, node in ranges)]
    return bool(pieces) and len(pieces) == len(set(pieces))


def _nodes_ascend(boot: Boot) -> bool:
    """Return whether a node with a higher number never has lower addresses."""
    starts = [start for _, start in sorted((found.node, found.start) for found in boot.nodes)]
    return bool(starts) and starts == sorted(starts)


_RULED_OUT: Mapping[str, Callable[[Boot], bool]] = {
    "interleaved-nodes": _no_node_interleaves,
    "descending-nodes": _nodes_ascend,
}


def is_ruled_out(bug: str, boot: Boot) -> bool:
    """
    Return whether a machine can't have a bug.

    :param bug: Its id.
    :param boot: Without lines on nodes, nothing is ruled out.
    """
    check = _RULED_OUT.get(bug)
    return check is not None and check(boot)
