# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect triage`` shows to people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

from mminspect.commands.triage.functions import is_helper
from mminspect.render import json_
from mminspect.render.table import fold, hex_range, plural, write_consequences, write_table

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
    "unknown": "Nothing tells why, or whether, this kernel died.",
    "struct pages": "The kernel died on struct pages. A log alone doesn't tell whether its memory map is wrong.",
}
LIVED_ON = {
    "other": "The memory map doesn't explain what this kernel lived through.",
    "struct pages": "The kernel complained of struct pages, and lived on. "
    "A log alone doesn't tell whether its memory map is wrong.",
}


def headline(result: dict[str, Any]) -> str:
    """Say in a sentence what the verdict is."""
    verdict, crash = result["verdict"], result["crash"]
    return LIVED_ON.get(verdict, HEADLINES[verdict]) if crash and crash["fatal"] is False else HEADLINES[verdict]


def write_json(results: list[dict[str, Any]], out: IO[str]) -> None:
    """Write results as one JSON array."""
    json_.write(results, out)


def write_lines(results: list[dict[str, Any]], out: IO[str]) -> None:
    """Write each result as a line of JSON."""
    for result in results:
        out.write(json.dumps(result) + "\n")


def write_text(results: list[dict[str, Any]], out: IO[str], width: int | None) -> None:
    """Write results, of several files with a table of all first."""
    if len(results) > 1:
        # A line each: names are last and whole, and what is long follows below.
        rows = [(*_row(result), result["path"]) for result in results]
        write_table(rows, ("verdict", "kind", "where", "file"), out)
        out.write("\n")
    for number, result in enumerate(result for result in results if "error" not in result):
        out.write("\n" if number else "")
        write_triage(result, out, width)


def _row(result: dict[str, Any]) -> tuple[str, str, str]:
    if "error" in result:
        return "error", "", ""
    crash = result["crash"] or {}
    return result["verdict"], crash.get("kind") or "", crash.get("function") or ""


class _Writer:
    def __init__(self, out: IO[str], width: int | None) -> None:
        self.out = out
        self.columns = max(MIN_WIDTH, width or DEFAULT_WIDTH)

    def say(self, text: str, indent: str = "") -> None:
        hanging = indent + ("  " if indent else "")
        self.out.write("\n".join(fold(text, self.columns, indent, hanging)) + "\n")

    def section(self, title: str, texts: Sequence[str]) -> None:
        if texts:
            self.out.write(f"\n{title}\n")
        for text in texts[:MAX_SHOWN]:
            self.say(text, "  ")
        if len(texts) > MAX_SHOWN:
            self.out.write(f"  ... and {len(texts) - MAX_SHOWN} more\n")


def write_triage(data: dict[str, Any], out: IO[str], width: int | None) -> None:
    """
    Write the result of one triage.

    :param data: As :func:`mminspect.commands.triage.files.triage_files` yields it.
    :param width: Columns of the terminal, or ``None`` if the output isn't one.
    """
    writer = _Writer(out, width)
    writer.say(_head(data))
    out.write("\n")
    writer.say(headline(data))
    writer.say(data["why"], "  ")
    if data["crash"] is not None:
        writer.section("Last words", _last_words(data["crash"]))
    writer.section("Looks like hardware", [item["hardware"] for item in data["evidence"] if "hardware" in item])
    pages = [_evidence(item) for item in data["evidence"] if "rules" in item]
    writer.section("Pages and addresses that it named or held", pages)
    writer.section(
        "What the log tells of it",
        [item["what"] for item in data["evidence"] if "rules" not in item and "what" in item],
    )
    found = [
        f"{finding['severity']} {finding['rule']} {hex_range(finding['start_pfn'], finding['end_pfn'])}: "
        f"{finding['message']}"
        for finding in data["findings"]
    ]
    writer.section("Findings that explain it", found)
    consequences = data["findings"][0]["detail"].get("consequences") if data["findings"] else None
    if consequences:
        out.write("\nWhat the kernel would do there\n")
        write_consequences(consequences, out, width)
    _write_bugs(data, writer)
    writer.section("What would prove it" if data["crash"] else "What would tell", data["proof"])
    crash = data["crash"]
    history = [_history(report) for report in data["reports"] if not (crash and _is_same(report, crash))]
    writer.section("Also in the log", history)
    if data["summary"] is not None:
        out.write("\n")
        counts = data["summary"]["by_severity"]
        writer.say("The scan: " + ", ".join(plural(number, name) for name, number in counts.items()) + ".")


def _head(data: dict[str, Any]) -> str:
    target, boot = data["target"], data["boot"]
    if target is not None:
        return f"{data['path']}: {target['release']} {target['machine']}, {target['memory_model']}"
    kernel = " ".join(boot[key] for key in ("release", "machine") if boot[key]) if boot else ""
    return f"{data['path']}: a log{' of ' if kernel else ''}{kernel}"


def _last_words(crash: dict[str, Any]) -> list[str]:
    texts = [crash["reason"]]
    if crash["function"]:
        texts.append(f"in {crash['function']}()")
    # A trace can begin with those who made the report, with the function itself, or with a helper that only the link
    # register tells the caller of.
    function, callers = crash["function"], crash["trace"]
    if function in callers:
        callers = callers[callers.index(function) + 1 :]
        # arm64 shows it once by the program counter, and once by the link register.
        while callers[:1] == [function]:
            callers = callers[1:]
    elif function and any(map(is_helper, callers[:1])):
        callers = callers[1:]
    if callers:
        texts.append("called by " + ", ".join(callers[:MAX_TRACE]))
    return texts


def _write_bugs(data: dict[str, Any], writer: _Writer) -> None:
    shown = data["source"] == "vmcore"
    for bug in data["known_bugs"]:
        title = "Looks like a known bug" if bug["harmful"] else "Looks familiar"
        if not shown:
            title += f" (this kernel {bug['status']})"
        texts = [f"{bug['id']}: {bug['title']}", bug["evidence"]]
        texts += [f'{commit["hash"]} ("{commit["title"]}"): {commit["what"]}' for commit in bug["commits"]]
        writer.section(title, texts)
    fix = next((commit for bug in data["known_bugs"] if bug["harmful"] for commit in bug["commits"]), None)
    if fix is not None and shown:
        writer.section("Try", [f'a kernel with {fix["hash"]} ("{fix["title"]}")'])


def _history(report: dict[str, Any]) -> str:
    time = "" if report["time"] is None else f"{report['time']:.6f} s: "
    return f"{time}{report['kind']}: {report['reason']}"


def _is_same(report: dict[str, Any], crash: dict[str, Any]) -> bool:
    return all(report[key] == crash[key] for key in report)


def _evidence(item: dict[str, Any]) -> str:
    what = f"pfn {item['pfn']:#x}" if "pfn" in item else f"address {item['address']:#x}"
    notes = "; ".join(f"note: {text}" for text in item.get("notes", ()))
    rules = ", ".join(item["rules"])
    found = "; ".join(filter(None, (rules, notes))) or "nothing wrong found there"
    return f"{what}: {'; '.join(filter(None, (found, item.get('what'))))} ({item['from']})"
