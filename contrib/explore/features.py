# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Features of layouts: what could matter to memory initialization.

Layouts with the same features are of the same kind. A layout with a feature that none had before is worth keeping.
"""

from __future__ import annotations

from collections import defaultdict

from contrib.explore.board import HIGH_MEMORY, MIB, PAGE, RAM, SOFT_RESERVED
from contrib.explore.describe import PAGEBLOCK, SECTION, alignment
from contrib.explore.layout import Layout, ram_ranges

DMA_END = 16 * MIB
HOLE, NO_NODE = "hole", "-"
UNITS = (("page", PAGE), ("pageblock", PAGEBLOCK), ("section", SECTION))


def type_at(layout: Layout, address: int) -> str:
    """Return the e820 type of an address; of overlapping entries not RAM."""
    types = [entry.type for entry in layout.e820 if entry.start <= address < entry.end]
    others = [kind for kind in types if kind != RAM]
    return (others or types or [HOLE])[0]


def node_at(layout: Layout, address: int) -> str:
    """Return the node of an address."""
    return next((str(entry.node) for entry in layout.srat if entry.start <= address < entry.end), NO_NODE)


def edges(layout: Layout) -> list[int]:
    """Return all addresses above 1 MiB where type or node change, and the ends of zones inside RAM."""
    found = {value for entry in layout.e820 for value in (entry.start, entry.end)}
    found |= {value for part in layout.srat for value in (part.start, part.end)}
    found |= {end for end in (DMA_END, HIGH_MEMORY) if type_at(layout, end - 1) == RAM or type_at(layout, end) == RAM}
    return sorted(value for value in found if value >= MIB)


def _sides(layout: Layout, edge: int) -> str:
    """Return what is left and right of an edge, and whether the node changes."""
    same = node_at(layout, edge - 1) == node_at(layout, edge)
    return f"{type_at(layout, edge - 1)}|{type_at(layout, edge)}{'' if same else ' other node'}"


def features(layout: Layout) -> frozenset[str]:
    """Return the features of a layout."""
    found = set()
    together: dict[tuple[str, int], list[str]] = defaultdict(list)
    for edge in edges(layout):
        sides = _sides(layout, edge)
        found.add(f"edge {sides} at a {alignment(edge)}" if edge % PAGE == 0 else f"edge {sides} inside a page")
        for name, unit in UNITS:
            if edge % unit:
                together[name, edge // unit].append(sides)
    for (name, _), texts in together.items():
        found |= {f"in one {name}: {left}, {right}" for left, right in zip(texts, texts[1:])}
    found |= _places(layout) | _nodes(layout) | _after_boot(layout)
    found |= {f"word {word.split('=')[0]}" for word in layout.words}
    return frozenset(found)


def _places(layout: Layout) -> set[str]:
    found = set()
    if layout.acpi is not None:
        found.add(f"ACPI tables in {type_at(layout, layout.acpi)}")
    if layout.initrd is not None:
        end = layout.initrd.start + layout.initrd.size
        at_end = any(limit - PAGE < end <= limit for _, limit in ram_ranges(layout.e820))
        found.add(f"initrd {'at the end of' if at_end else 'inside'} RAM")
    if list(layout.e820) != sorted(layout.e820):
        found.add("e820 unsorted")
    found.add(f"CPUs {min(layout.cpus, 2)}")
    if not layout.board.is_pc:
        found.add(f"machine {layout.machine}")
    return found


def _after_boot(layout: Layout) -> set[str]:
    found = {f"{one.kind} from a {alignment(one.start)} to a {alignment(one.end)}" for one in layout.devices}
    found |= {f"{one.kind} in part" for one in layout.devices if 0 < one.plugged < one.size}
    found |= {f"device on node {min(one.node, 2)}" for one in layout.devices}
    found |= {
        f"{layout.dax} at {_sides(layout, entry.start)}"
        for entry in layout.e820
        if layout.dax and entry.type == SOFT_RESERVED
    }
    verbs = [step.verb for step in layout.steps]
    found |= {f"step {verb}" for verb in verbs} | {
        f"steps {first}, {second}" for first, second in zip(verbs, verbs[1:])
    }
    ram = ram_ranges(layout.e820)
    found |= {f"{step.verb} of RAM" for step in layout.steps if any(low <= step.address < high for low, high in ram)}
    return found


def _nodes(layout: Layout) -> set[str]:
    if not layout.srat:
        return set()
    order = [part.node for part in sorted(layout.srat, key=lambda part: part.start)]
    found = {f"nodes {len(set(order))}", f"nodes without CPUs {len(set(order) - set(layout.cpu_nodes))}"}
    if order != sorted(order):
        found.add("nodes descend")
    if len(order) > len(set(order)):
        found.add("nodes interleave")
    if any(part.hotplug for part in layout.srat):
        found.add("hot pluggable")
    left_out = any(
        node_at(layout, start) == NO_NODE or node_at(layout, end - 1) == NO_NODE
        for start, end in ram_ranges(layout.e820)
        if start >= MIB
    )
    return found | ({"RAM without node"} if left_out else set())
