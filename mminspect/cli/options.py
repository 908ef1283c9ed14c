# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The longest interval, in seconds: a year.
MAX_INTERVAL = 365 * 86400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def rule_list(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Parse rule IDs, separated by commas."""
    chosen = tuple(name.strip() for names in value for name in names.split(",") if name.strip())
    if value and not chosen:
        raise click.BadParameter("names no rule")
    return chosen


def complete_rules(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the last of some rule IDs, separated by commas, in a shell."""
    # Imported late: only shells ask for it.
    from mminspect.rules.catalog import load_catalog

    *before, last = incomplete.split(",")
    return [",".join((*before, rule["id"])) for rule in load_catalog() if rule["id"].startswith(last)]


def complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a file's name."""
    return _left_to_shell(incomplete, "file")


def complete_directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a directory's name."""
    return _left_to_shell(incomplete, "dir")


def _left_to_shell(incomplete: str, kind: str) -> list[CompletionItem]:
    # Imported late: only shells ask for it.
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


def id_list(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Parse IDs of findings, separated by commas."""
    return tuple(name.strip() for names in value for name in names.split(",") if name.strip())


def rate(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse bytes a second such as ``100M``."""
    if value is None:
        return None
    number, unit = (value[:-1], _BYTES[value[-1].upper()]) if value[-1:].upper() in _BYTES else (value, 1)
    if not number.isdigit() or int(number) == 0:
        raise click.BadParameter("give bytes a second, for example 100M")
    return int(number) * unit


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Parse bytes such as ``4G``."""
    try:
        bytes_ = rate(context, parameter, value)
    except click.BadParameter:
        raise click.BadParameter("give bytes, for example 4G") from None
    assert bytes_ is not None
    return bytes_


def interval(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Parse a time such as ``30s``, ``5m``, ``2h`` or ``1d`` to seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", value.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_INTERVAL:
        raise click.BadParameter(f"{value!r} is not an interval of up to a year; give for example 30s, 5m or 1h")
    return seconds


def date(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse a day, or a time of it, in UTC to seconds since 1970."""
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no date; give for example 2026-11-26") from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp())


def format_option(*formats: str) -> click.Option:
    """Make the option that chooses one of some formats; the first is the default."""
    return click.Option(["--format", "format_"], type=click.Choice(formats), default=formats[0], show_default=True)


def rules_option(name: str, what: str) -> click.Option:
    """Make an option that names rules."""
    return click.Option(
        [name], metavar="RULE,...", multiple=True, callback=rule_list, shell_complete=complete_rules, help=what
    )


def output_option(what: str, required: bool = False) -> click.Option:
    """Make the option that names the output file."""
    return click.Option(["-o", "--output"], metavar="FILE", shell_complete=complete_files, required=required, help=what)


SELECT = rules_option("--select", "Apply these rules only.")
IGNORE = rules_option("--ignore", "Leave these rules out.")
FAIL_ON = click.Option(
    ["--fail-on"],
    type=click.Choice(["error", "warning", "note", "never"]),
    default="error",
    show_default=True,
    help="Least severity of a finding that makes the exit status 1.",
)
ALLOW_INCOMPLETE = click.Option(
    ["--allow-incomplete"], is_flag=True, help="Exit with 0 if nothing is found in a vmcore that is not whole."
)
MAX_RATE = click.Option(
    ["--max-rate"], metavar="BYTES", callback=rate, help="Read no more memmap a second than this, e.g. 100M."
)
USER = click.Option(
    ["--user"],
    metavar="NAME",
    default="nobody",
    show_default=True,
    help="User to become once the files are open, if mminspect runs as root; root keeps the user ID.",
)
WIDTH = click.Option(
    ["--width"],
    metavar="N",
    type=click.IntRange(40, 1000),
    help="Columns to write. Default: the terminal's, else $COLUMNS, else 100.",
)
JOBS = click.Option(
    ["--jobs"],
    metavar="N",
    type=click.IntRange(1, 256),
    help="Processes that read a vmcore. Default: one, or as many as there are CPUs from 32 GiB of memory on.",
)
# What a kernel is read from, and how: before a command or after it.
READ_FROM = (
    click.Option(
        ["-c", "--core"],
        metavar="VMCORE",
        shell_complete=complete_files,
        multiple=True,
        help="Core dump to read. Default: the running kernel, as root. May be given more than once, for the pieces of "
        "a split dump.",
    ),
    click.Option(
        ["-s", "--symbols"],
        metavar="VMLINUX",
        shell_complete=complete_files,
        multiple=True,
        help="File with the kernel's DWARF. May be given more than once. Not needed if the kernel has BTF.",
    ),
    click.Option(
        ["--btf"],
        metavar="FILE",
        shell_complete=complete_files,
        help="Raw BTF of the kernel, instead of what is in its memory. Not read if -s is given.",
    ),
    click.Option(
        ["--system-map"],
        metavar="FILE",
        shell_complete=complete_files,
        help="System.map of the kernel, for symbols where there is no DWARF.",
    ),
    click.Option(
        ["--vmcoreinfo"],
        metavar="FILE",
        shell_complete=complete_files,
        help="VMCOREINFO of the kernel, for a dump that has none.",
    ),
    click.Option(
        ["--qemu"],
        metavar="SOCKET",
        shell_complete=complete_files,
        help="Read a QEMU guest on this machine, as root, by the Unix socket of its monitor (QMP).",
    ),
    click.Option(
        ["--pageblock-order"],
        metavar="N",
        type=click.IntRange(1, 30),
        help="Override the order of a pageblock. A capture can lack the bitmap of a smaller one.",
    ),
    click.Option(
        ["--sandbox"],
        type=click.Choice(["auto", "require", "off"]),
        default="auto",
        show_default=True,
        help="Give up all rights that reading isn't in need of: as far as it can be done, or else don't go on, or not.",
    ),
    click.Option(["--debug"], is_flag=True, help="Show a traceback when something goes wrong."),
)
