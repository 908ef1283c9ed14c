# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages, made from the commands themselves: one for mminspect, one for each command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from mminspect import __version__
from mminspect.cli.usage import main

STATUS = "## Exit status"
USAGE = Path(__file__).resolve().parents[2] / "docs" / "usage.md"


def escape(text: str) -> str:
    """
    Return text for roff.

    >>> escape("a-b \\\\ .c")
    'a\\\\-b \\\\e .c'
    """
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^(?=[.'])", r"\&", text)


def paragraphs(text: str) -> str:
    """Return paragraphs of roff."""
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n.PP\n".join(escape(part) for part in parts if part)


def statuses() -> Iterator[tuple[str, str]]:
    """Return each exit status and its meaning, as the document has them."""
    section = USAGE.read_text().split(f"{STATUS}\n", 1)[1].split("\n## ", 1)[0]
    for status, meaning in re.findall(r"(?m)^\| (\d+) \| (.+) \|$", section):
        yield status, re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", meaning).replace("`", "")


def records(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Return the options of a command that are shown, and what each does."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield record


def tagged(rows: Iterator[tuple[str, str]]) -> str:
    """Return a list of terms."""
    return "".join(f".TP\n\\fB{escape(term)}\\fR\n{paragraphs(text)}\n" for term, text in rows)


def page(command: click.Command, context: click.Context, others: list[str]) -> str:
    """
    Return the page of a command.

    :param others: Names of pages to see, too.
    """
    path = context.command_path
    name = path.replace(" ", "-")
    summary, _, _ = (command.help or "").partition("\n\n")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f'.TH {name.upper()} 1 "" "mminspect {__version__}" "mminspect"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(' '.join(summary.split()).rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{escape(path)}\\fR {escape(usage)}",
        ".SH DESCRIPTION",
        paragraphs(command.help or ""),
        ".SH OPTIONS",
        tagged(records(command, context)).rstrip("\n"),
    ]
    if isinstance(command, click.Group):
        rows = ((child, one.get_short_help_str(200)) for child, one in sorted(command.commands.items()))
        parts += [".SH COMMANDS", tagged(rows).rstrip("\n")]
    parts += [".SH EXIT STATUS", tagged(statuses()).rstrip("\n")]
    parts += [".SH SEE ALSO", ",\n".join(rf"\fB{escape(other)}\fR(1)" for other in others)]
    return "\n".join(parts) + "\n"


def pages(command: click.Command = main, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Return the names of the files, and their text."""
    context = click.Context(command, parent, command.name, **command.context_settings)
    name = context.command_path.replace(" ", "-")
    children = dict(sorted(command.commands.items())) if isinstance(command, click.Group) else {}
    up = [] if parent is None else [parent.command_path.replace(" ", "-")]
    yield f"{name}.1", page(command, context, [*up, *(f"{name}-{child}" for child in children)])
    for child in children.values():
        yield from pages(child, context)
