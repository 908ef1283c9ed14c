# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect triage`` shows to people."""

from __future__ import annotations

import textwrap
from typing import IO, Any

from mminspect.render.table import hex_range, plural, write_consequences

# Without a terminal, lines of text end here.
DEFAULT_WIDTH = 100
MIN_WIDTH = 40
MAX_TRACE = 8
MAX_SHOWN = 8

HEADLINES = {
    "explained": "The memory map explains this crash.",
    "possible": "The memory map may explain this crash; nothing proves it.",
    "unexplained": "The kernel died on struct pages, but the memory map doesn't explain it.",
    "other": "The memory map doesn't explain this crash.",
    "no crash": "This kernel didn't crash.",
    "no log": "The dump doesn't tell whether the kernel crashed.",
}


def write_triage(data: dict[str, Any], out: IO[str], width: int | None) -> None:
    """
    Write the result of a triage.

    :param data: What :func:`mminspect.commands.triage.run.triage` returned.
    :param width: Columns of the terminal, or ``None`` if the output isn't one.
    """
    columns = max(MIN_WIDTH, width or DEFAULT_WIDTH)

    def say(text: str, indent: str = "") -> None:
        hanging = indent + ("  " if indent else "")
        lines = textwrap.wrap(text, columns, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)
        out.write("\n".join(lines) + "\n")

    target = data["target"]
    say(f"{target['path']}: {target['release']} {target['machine']}, {target['memory_model']}")
    out.write("\n")
    say(HEADLINES[data["verdict"]])
    say(data["why"], "  ")
    crash = data["crash"]
    if crash is not None:
        out.write("\nLast words\n")
        say(crash["reason"], "  ")
        if crash["function"]:
            say(f"in {crash['function']}()", "  ")
        # Some architectures begin the trace with the function itself.
        callers = crash["trace"][crash["trace"][:1] == [crash["function"]] :]
        if callers:
            say("called by " + ", ".join(callers[:MAX_TRACE]), "  ")
    if data["evidence"]:
        out.write("\nPages and addresses that it named or held\n")
        for item in data["evidence"][:MAX_SHOWN]:
            say(_evidence(item), "  ")
        _rest(data["evidence"], out)
    if data["findings"]:
        out.write("\nFindings that explain it\n")
        for finding in data["findings"][:MAX_SHOWN]:
            pfns = hex_range(finding["start_pfn"], finding["end_pfn"])
            say(f"{finding['severity']} {finding['rule']} {pfns}: {finding['message']}", "  ")
        _rest(data["findings"], out)
        consequences = data["findings"][0]["detail"].get("consequences")
        if consequences:
            out.write("\nWhat the kernel would do there\n")
            write_consequences(consequences, out, width)
    for bug in data["known_bugs"]:
        out.write("\nLooks like a known bug\n" if bug["commits"] else "\nLooks familiar\n")
        say(f"{bug['name']}: {bug['evidence']}", "  ")
        for commit in bug["commits"]:
            say(f'{commit["hash"]} ("{commit["title"]}"): {commit["what"]}', "  ")
    fix = next((commit for bug in data["known_bugs"] for commit in bug["commits"]), None)
    if fix is not None:
        out.write("\nTry\n")
        say(f'a kernel with {fix["hash"]} ("{fix["title"]}")', "  ")
    if data["proof"]:
        out.write("\nWhat would prove it\n")
        for text in data["proof"]:
            say(text, "  ")
    counts = data["summary"]["by_severity"]
    out.write("\n")
    say("The scan: " + ", ".join(plural(number, name) for name, number in counts.items()) + ".")


def _evidence(item: dict[str, Any]) -> str:
    what = f"pfn {item['pfn']:#x}" if "pfn" in item else f"address {item['address']:#x}"
    notes = "; ".join(f"note: {text}" for text in item.get("notes", ()))
    rules = ", ".join(item["rules"])
    return f"{what}: {'; '.join(filter(None, (rules, notes))) or 'nothing wrong found there'} ({item['from']})"


def _rest(items: list[Any], out: IO[str]) -> None:
    if len(items) > MAX_SHOWN:
        out.write(f"  ... and {len(items) - MAX_SHOWN} more\n")
