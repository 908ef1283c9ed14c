# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Plausible mistakes of one line: each is a replacement of a piece of source text.

They are what a slip of the hand makes: a comparison that is off by its boundary, ``any`` for ``all``, a constant off by
one, arguments swapped, a statement that is missing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
}
OPERATORS: dict[type[ast.operator], tuple[str, ...]] = {
    ast.Add: ("-",),
    ast.Sub: ("+",),
    ast.LShift: (">>",),
    ast.RShift: ("<<",),
    ast.BitAnd: ("|",),
    ast.BitOr: ("&",),
    ast.FloorDiv: ("*",),
    ast.Mod: ("//",),
    ast.Mult: ("+",),
}
# Statements that decide nothing, or only on the words of an error.
LEFT_ALONE = (ast.Import, ast.ImportFrom, ast.AnnAssign, ast.ClassDef, ast.Raise, ast.Assert)
NAMES = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True)
class Mistake:
    """
    A replacement.

    :ivar file: Path from the root of the repository.
    :ivar line: First line of what is replaced, likewise ``column``; from 1 and from 0.
    :ivar lines: All lines of the statement that it is in.
    :ivar start: Offset of what is replaced, in characters; ``end`` behind it.
    :ivar kind: Which slip it is.
    """

    file: str
    line: int
    column: int
    lines: tuple[int, ...]
    start: int
    end: int
    old: str
    new: str
    kind: str

    @property
    def id(self) -> str:
        """What a file of results knows it by."""
        return f"{self.file}:{self.line}:{self.column}: {self.old!r} -> {self.new!r}"

    def apply(self, source: str) -> str:
        """Put it into the source."""
        assert source[self.start : self.end] == self.old
        return source[: self.start] + self.new + source[self.end :]


class _Text:
    """Source text, by the lines and UTF-8 columns of the parser."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a place in characters."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def of(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the offsets of a node's start and end."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Return the text of a node."""
        start, end = self.of(node)
        return self.source[start:end]


# A replacement: offset, offset behind it, new text, kind.
Change = tuple[int, int, str, str]


def _between(text: _Text, left: ast.expr, right: ast.expr, old: str, new: str, kind: str) -> Iterator[Change]:
    """Replace an operator between two operands."""
    start, end = text.of(left)[1], text.of(right)[0]
    at = text.source.find(old, start, end)
    if at >= 0 and text.source.count(old, start, end) == 1:
        yield at, at + len(old), new, kind


SYMBOLS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: " in ",
    ast.NotIn: " not in ",
    ast.Is: " is ",
    ast.IsNot: " is not ",
    ast.Add: "+",
    ast.Sub: "-",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Mult: "*",
}


def _comparison(text: _Text, node: ast.Compare) -> Iterator[Change]:
    operands = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, operands, operands[1:]):
        old = SYMBOLS[type(operator)]
        for new in COMPARISONS[type(operator)]:
            spaced = f" {new} " if old.startswith(" ") else new
            yield from _between(text, left, right, old, spaced, "comparison")


def _operator(text: _Text, node: ast.BinOp) -> Iterator[Change]:
    if isinstance(node.left, (ast.JoinedStr, ast.List)) or isinstance(node.right, (ast.JoinedStr, ast.List)):
        return
    for new in OPERATORS.get(type(node.op), ()):
        yield from _between(text, node.left, node.right, SYMBOLS[type(node.op)], new, "operator")


def _boolean(text: _Text, node: ast.BoolOp) -> Iterator[Change]:
    old, new = (" and ", " or ") if isinstance(node.op, ast.And) else (" or ", " and ")
    for left, right in zip(node.values, node.values[1:]):
        yield from _between(text, left, right, old, new, "boolean")
    for value in node.values:
        yield (*text.of(value), "True" if isinstance(node.op, ast.And) else "False", "dropped condition")


def _constant(text: _Text, node: ast.Constant) -> Iterator[Change]:
    if isinstance(node.value, bool):
        yield (*text.of(node), str(not node.value), "constant")
    elif isinstance(node.value, int):
        yield (*text.of(node), str(node.value + 1), "constant")
        if node.value > 0:
            yield (*text.of(node), str(node.value - 1), "constant")


def _call(text: _Text, node: ast.Call) -> Iterator[Change]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in NAMES:
        end = text.of(node.func)[1]
        yield end - len(name), end, NAMES[name], "any, all, min, max"
    for first, second in zip(node.args, node.args[1:] if name not in ("min", "max") else []):
        if isinstance(first, ast.Starred) or isinstance(second, ast.Starred):
            continue
        if isinstance(first, (ast.Constant, ast.JoinedStr)) or isinstance(second, (ast.Constant, ast.JoinedStr)):
            continue
        start, end = text.of(first)[0], text.of(second)[1]
        middle = text.source[text.of(first)[1] : text.of(second)[0]]
        if text.text(first) != text.text(second) and "#" not in middle:
            yield start, end, text.text(second) + middle + text.text(first), "swapped arguments"


def _slice(text: _Text, node: ast.Slice) -> Iterator[Change]:
    for bound in (node.lower, node.upper):
        if bound is not None and not isinstance(bound, ast.Constant):
            yield (*text.of(bound), f"({text.text(bound)}) + 1", "slice")


def _statement(text: _Text, node: ast.stmt) -> Iterator[Change]:
    start, end = text.of(node)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Yield, ast.YieldFrom))
    if is_call or isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)):
        yield start, end, "pass", "dropped statement"
    elif isinstance(node, ast.If) and not node.orelse:
        yield (*text.of(node.test), "False", "dropped branch")
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Tuple)):
        # One that changes what it has: the name is read in its own value.
        names = {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        if names & {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}:
            yield start, end, "pass", "dropped statement"
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield (*text.of(node.value), "None", "return")


def _of(text: _Text, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        yield from _comparison(text, node)
    elif isinstance(node, ast.BinOp):
        yield from _operator(text, node)
    elif isinstance(node, ast.BoolOp):
        yield from _boolean(text, node)
    elif isinstance(node, ast.Constant):
        yield from _constant(text, node)
    elif isinstance(node, ast.Call):
        yield from _call(text, node)
    elif isinstance(node, ast.Slice):
        yield from _slice(text, node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield (*text.of(node), text.text(node.operand), "boolean")
    elif isinstance(node, ast.IfExp):
        yield (*text.of(node.test), f"not ({text.text(node.test)})", "boolean")


def _inner(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the expressions of a statement, but for texts and types, and not the statements in it."""
    for name, child in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for item in child if isinstance(child, list) else [child]:
            if isinstance(item, ast.AST) and not isinstance(item, (ast.stmt, ast.ExceptHandler)):
                yield item
                yield from _inner(item)


def mistakes(file: str, source: str) -> list[Mistake]:
    """
    Return all mistakes that a file can have, in the order of the file.

    :param file: Its path from the root of the repository.
    """
    text, found = _Text(source), {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or isinstance(node, LEFT_ALONE):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # A docstring.
            continue
        head_end = node.end_lineno
        body = getattr(node, "body", None)
        if isinstance(body, list) and body:
            head_end = max(node.lineno, body[0].lineno - 1)
        assert head_end is not None
        lines = tuple(range(node.lineno, head_end + 1))
        changes = [*_statement(text, node), *(c for inner in _inner(node) for c in _of(text, inner))]
        for start, end, new, kind in changes:
            old = source[start:end]
            line = source.count("\n", 0, start) + 1
            column = start - (source.rfind("\n", 0, start) + 1)
            found[start, end, new] = Mistake(file, line, column, lines, start, end, old, new, kind)
    return [found[key] for key in sorted(found)]


def parses(source: str) -> bool:
    """Tell whether a source text can be read. A few replacements leave one that can't."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True
