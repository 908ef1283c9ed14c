# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands for what in the picture of a memory map: letters and colors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mminspect.findings import ERROR, NOTE, WARNING


class Mark(NamedTuple):
    """
    What stands for a kind of cells.

    :ivar name: What it means.
    :ivar background: One of the 256 colors of terminals; ``None`` for that of the terminal.
    :ivar foreground: Color of the letter on it.
    :ivar level: 0, or 1 + the index of a finding's severity.
    """

    letter: str
    name: str
    background: int | None
    foreground: int = 16
    level: int = 0

    def paint(self) -> str:
        """Get the letter in its colors."""
        if self.background is None:
            return f"\x1b[0m{self.letter}"
        bold = "1;" if self.level else ""
        return f"\x1b[0;{bold}38;5;{self.foreground};48;5;{self.background}m{self.letter}"


ABSENT = Mark(" ", "no memory", None)
# Capital letters are for findings only. The colors are close to those of Okabe and Ito, which the color-blind can tell
# apart; they differ in brightness, too.
FINDINGS = {
    ERROR: Mark("E", "error", 166, 231, 3),
    WARNING: Mark("W", "warning", 214, 16, 2),
    NOTE: Mark("N", "note", 227, 16, 1),
}
FREE_LARGE = Mark(".", "free, in blocks of a pageblock or more", 236, 250)
FREE_SMALL = Mark(",", "free, in smaller blocks", 242, 16)
UNREADABLE = Mark("?", "unreadable", 53, 231)
UNKNOWN = Mark("u", "in use, otherwise unknown", 252)
CLASSES = {
    "file": Mark("f", "file (LRU)", 25, 231),
    "anon": Mark("a", "anonymous (LRU)", 74),
    "slab": Mark("s", "slab", 36),
    "page table": Mark("t", "page table", 115),
    "hugetlb": Mark("h", "hugetlb", 18, 231),
    "compound": Mark("c", "other compound", 103),
    "reserved": Mark("r", "reserved", 247),
    "cma": Mark("m", "in use in a CMA pageblock", 175),
    "isolated": Mark("i", "in use in an isolated pageblock", 182),
    "device": Mark("d", "device", 139),
    "offline": Mark("o", "offline (balloon, virtio-mem)", 95, 231),
    "zeroed": Mark("z", "never initialized: zeroed", 130, 231),
    "poisoned": Mark("p", "never initialized: poisoned", 131, 231),
    "stale": Mark("x", "never initialized: stale", 132, 231),
    "deferred": Mark("l", "to be initialized later", 223),
    "unknown": UNKNOWN,
}
MIGRATETYPES = {
    "UNMOVABLE": Mark("u", "UNMOVABLE", 252),
    "MOVABLE": Mark("m", "MOVABLE", 25, 231),
    "RECLAIMABLE": Mark("r", "RECLAIMABLE", 36),
    "HIGHATOMIC": Mark("h", "HIGHATOMIC", 182),
    "CMA": Mark("c", "CMA", 175),
    "ISOLATE": Mark("i", "ISOLATE", 95, 231),
}
NO_BLOCK = Mark("?", "no migratetype", 53, 231)
NO_ZONE = Mark("?", "no zone, or unreadable", 53, 231)
MIXED = Mark("*", "several zones", 252)
ZONE_COLORS = ((25, 231), (74, 16), (36, 16), (115, 16), (175, 16), (182, 16), (103, 16), (247, 16))
ZONE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def severity_mark(severity: str) -> Mark:
    """Get what stands for a finding."""
    return FINDINGS[severity]


class Marks:
    """
    What stands for the cells of a map.

    :ivar order: All marks, in the order of a legend.
    """

    def __init__(self, order: Sequence[Mark]) -> None:
        self.order = [*FINDINGS.values(), *order]

    def of(self, cell: Sequence[Any]) -> list[tuple[Mark, int]]:
        """Get (mark, pages) of what is in a cell."""
        raise NotImplementedError


class _ByState(Marks):
    def __init__(self, data: dict[str, Any]) -> None:
        block = data["target"].get("pageblock_order", 0)
        self._marks = [_of_class(name, block) for name in data["classes"]]
        super().__init__([FREE_LARGE, FREE_SMALL, *CLASSES.values(), UNREADABLE])

    def of(self, cell: Sequence[Any]) -> list[tuple[Mark, int]]:
        counts = cell[4]
        if not counts:
            return [(UNREADABLE, cell[1] - cell[0])]
        found: dict[Mark, int] = {}
        for kind, pages in zip(counts[::2], counts[1::2]):
            mark = self._marks[kind]
            found[mark] = found.get(mark, 0) + pages
        return list(found.items())


def _of_class(name: str, pageblock_order: int) -> Mark:
    if name.startswith("free "):
        return FREE_LARGE if int(name[len("free ") :]) >= pageblock_order else FREE_SMALL
    # Classes of later versions are unknown to this one.
    return CLASSES.get(name, UNREADABLE if name not in ("initialized",) else UNKNOWN)


class _ByZone(Marks):
    def __init__(self, data: dict[str, Any]) -> None:
        names = [(z["node"], z["index"], f"node {z['node']} {z['name']}") for z in data["zones"]]
        known = {(node, index) for node, index, _ in names}
        for link in data["links"]:
            if link["node"] is not None and (link["node"], link["zone_id"]) not in known:
                known.add((link["node"], link["zone_id"]))
                zone = link["zone"] or f"zone ID {link['zone_id']}"
                names.append((link["node"], link["zone_id"], f"node {link['node']} {zone}"))
        self._by_id: dict[tuple[int, int], Mark] = {}
        for number, (node, index, name) in enumerate(names):
            background, foreground = ZONE_COLORS[number % len(ZONE_COLORS)]
            letter = ZONE_LETTERS[number % len(ZONE_LETTERS)]
            self._by_id[node, index] = Mark(letter, name, background, foreground)
        self._links = [
            MIXED if link["node"] is None else self._by_id[link["node"], link["zone_id"]] for link in data["links"]
        ]
        self._spans = [
            [self._by_id[data["zones"][n]["node"], data["zones"][n]["index"]] for n in s] for s in data["spans"]
        ]
        self._has_links = bool(data["links"])
        super().__init__([*self._by_id.values(), MIXED, NO_ZONE])

    def of(self, cell: Sequence[Any]) -> list[tuple[Mark, int]]:
        pages = cell[1] - cell[0]
        if cell[2] is not None:
            return [(self._links[cell[2]], pages)]
        spans = self._spans[cell[3]]
        if self._has_links or not spans:
            return [(NO_ZONE, pages)]
        return [(spans[0] if len(spans) == 1 else MIXED, pages)]


class _ByMigratetype(Marks):
    def __init__(self, data: dict[str, Any]) -> None:
        self._marks = [
            MIGRATETYPES.get(name, Mark(str(number % 10), f"migratetype {name}", 131, 231))
            for number, name in enumerate(data["migratetypes"])
        ]
        super().__init__([*self._marks, NO_BLOCK])

    def of(self, cell: Sequence[Any]) -> list[tuple[Mark, int]]:
        counts = cell[5]
        return [(self._marks[kind], pages) for kind, pages in zip(counts[::2], counts[1::2])] or [
            (NO_BLOCK, cell[1] - cell[0])
        ]


KINDS = {"state": _ByState, "zone": _ByZone, "migratetype": _ByMigratetype}


def marks_of(data: dict[str, Any], by: str) -> Marks:
    """
    Choose what stands for the cells of a map.

    :param by: ``state``, ``zone`` or ``migratetype``.
    """
    marks: Marks = KINDS[by](data)
    return marks
