# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The parts of the documents that are made of the code and of stored vmcores.

``python -m tests.kit.documents`` writes them. A test compares them with what they are made of.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Callable

from mminspect.rules.registry import all_rules

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DESIGN = ROOT / "docs" / "design.md"
# The packages, in the order in which data flow through them.
FLOW = (
    *("program", "typeinfo", "memorymap", "layout", "memmap", "kernel", "helpers"),
    *("rules", "consequences", "walk", "commands", "render", "fleet", "cli"),
)
WIDTH = 118
EXAMPLE = ("fixtures/vmcores/i386-5.10-hole.xz", "--select", "bitmap-bounds")


def rules_table() -> str:
    """Make the table of rules."""
    rows = [f"| `{rule.id}` | {rule.summary} |\n" for rule in all_rules().values()]
    return "| rule | what it finds |\n|---|---|\n" + "".join(rows)


def example() -> str:
    """Scan a stored vmcore, as a terminal shows it. The last line, which has a time, is left out."""
    master, slave = os.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "dumb"}
    with open(master, "rb", buffering=0) as terminal:
        command = [sys.executable, "-m", "mminspect", *EXAMPLE]
        # It is shorter than what a terminal holds.
        subprocess.run(command, cwd=ROOT, env=environment, stdout=slave, stderr=subprocess.DEVNULL, check=False)
        os.close(slave)
        shown = terminal.read(1 << 16).decode().replace("\r\n", "\n").rstrip().rsplit("\n", 1)[0].rstrip()
    return f"```\n$ mminspect {' '.join(EXAMPLE)}\n{shown}\n```\n"


def first_line(path: Path) -> str:
    """Get the first line of a file's docstring, or of what a C file says of itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].replace("``", "").rstrip(".")
    found = re.search(r"^ \* (.*?\.)(?: |$)", text, re.MULTILINE)
    return found.group(1).rstrip(".") if found else ""


def tree() -> str:
    """Make the tree of the package: what each folder and file is for. Faces and rules have no lines of their own."""
    top = ROOT / "mminspect"
    lines = [f"{'mminspect/':26}{first_line(top / '__init__.py')}"]
    lines += _files(top, "  ")
    for package in FLOW:
        about = textwrap.wrap(first_line(top / package / "__init__.py"), WIDTH - 26, subsequent_indent=" " * 26)
        lines += ["", f"  {package + '/':24}{about[0]}", *about[1:]]
        lines += _files(top / package, "    ")
        for inner in sorted(path.parent for path in (top / package).glob("*/__init__.py")):
            lines.append(f"    {inner.name + '/':22}{first_line(inner / '__init__.py')}")
            lines += _files(inner, "      ")
    return "```\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def _files(folder: Path, indent: str) -> list[str]:
    """Make the lines of the files of a folder."""
    rules = {rule.replace("-", "_") for rule in all_rules()} if folder.name == "rules" else set()
    lines = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.c")], key=lambda path: path.name.lstrip("_")):
        if path.name != "__init__.py" and path.stem not in rules:
            start = f"{indent + path.name:26}"
            start += " " * (start[-1] != " ")
            lines += textwrap.wrap(first_line(path), WIDTH, initial_indent=start, subsequent_indent=" " * 26)
    return [*lines, f"{indent}{len(rules)} rules, a file each"] if rules else lines


MADE: dict[str, tuple[Path, Callable[[], str]]] = {
    "rules": (README, rules_table),
    "example": (README, example),
    "tree": (DESIGN, tree),
}


def replaced(name: str, text: str, made: str) -> str:
    """Put a made part into the text of its document, between its marks."""
    begin, end = f"<!-- {name}: python -m tests.kit.documents -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    return before + begin + made + end + rest.split(end)[1]


def main() -> None:
    """Write all parts."""
    for name, (path, make) in MADE.items():
        path.write_text(replaced(name, path.read_text(encoding="utf-8"), make()), encoding="utf-8")


if __name__ == "__main__":
    main()
