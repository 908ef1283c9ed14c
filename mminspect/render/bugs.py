# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect bugs`` shows to people."""

from __future__ import annotations

from typing import IO, Any

from mminspect.render.table import fold, write_pairs

# Without a terminal, lines end here.
DEFAULT_WIDTH = 100


def write_bugs(bugs: list[dict[str, Any]], out: IO[str], width: int | None) -> None:
    """Write known bugs, as :func:`mminspect.commands.triage.bugs.list_bugs` returned them."""
    for number, bug in enumerate(bugs):
        out.write("\n" if number else "")
        pairs: dict[str, Any] = {
            bug["id"]: bug["title"],
            "  in memory": bug["evidence"],
            "  seen by": ", ".join(bug["rules"]),
            "  in kernels": _kernels(bug),
        }
        if bug["machines"]:
            pairs["  machines"] = ", ".join(bug["machines"])
        if not bug["harmful"]:
            pairs["  harm"] = "none: the kernel never uses what is wrong"
        pairs["  proof"] = bug["proof"]
        if "status" in bug:
            pairs["  this kernel"] = bug["status"]
        commits = "\n".join(f'{c["hash"]} ("{c["title"]}"): {c["what"]}' for c in bug["commits"])
        name = pairs.pop(bug["id"])
        _write_lines(fold(f"{bug['id']}: {name}", width or DEFAULT_WIDTH, others="  "), out)
        write_pairs(pairs, out, width or DEFAULT_WIDTH)
        for line in commits.splitlines():
            _write_lines(fold(line, width or DEFAULT_WIDTH, "  ", "    "), out)
    if not bugs:
        out.write("no known bug\n")


def _write_lines(lines: list[str], out: IO[str]) -> None:
    out.write("\n".join(lines) + "\n")


def _kernels(bug: dict[str, Any]) -> str:
    since = (
        f"since {' and '.join([bug['introduced'], *bug['introduced_stable']])}" if bug["introduced"] else "of any age"
    )
    fixed = f"fixed in {bug['fixed']}" if bug["fixed"] else "not fixed"
    stable = f" and {', '.join(bug['fixed_stable'])}" if bug["fixed_stable"] else ""
    return f"{since}, {fixed}{stable}"
