# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands and their options, as the user sees them.

The file of a command is imported when the command is called: help and errors of usage need neither drgn nor numpy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

import click
from click.core import ParameterSource

from mminspect import __version__
from mminspect.cli import status
from mminspect.cli.options import (
    ALLOW_INCOMPLETE,
    FAIL_ON,
    IGNORE,
    JOBS,
    MAX_RATE,
    READ_FROM,
    SELECT,
    USER,
    WIDTH,
    complete_directories,
    complete_files,
    complete_rules,
    date,
    format_option,
    id_list,
    interval,
    output_option,
    size,
)
from mminspect.cli.output import discard
from mminspect.errors import MminspectError, did_you_mean
from mminspect.kernel.inputs import Inputs
from mminspect.render.formats import CHANGE_FORMATS, PAGE, REPORT_FORMATS

HINT = "the options of 'mminspect --help' can be given here, too"
# What an option of the group is called in the context of a command, where it can be given as well.
LATER = "later_"
# PID_MAX_LIMIT.
MAX_PID = 1 << 22
# Commands that read a guest.
GUEST_COMMANDS = ("scan", "watch", "zones", "page", "map", "capture")


@contextlib.contextmanager
def named(context: click.Context) -> Iterator[None]:
    """Let errors of usage know the command."""
    try:
        yield
    except click.UsageError as e:
        e.ctx = e.ctx or context
        raise


class Command(click.Command):
    """
    A command that is the function ``run`` of the file of its name: it takes the inputs and the options.

    The options of the group can be given after it, too.
    """

    def __init__(self, name: str, takes_vmcore: bool = False, file: str | None = None, **extra: Any) -> None:
        params = extra.pop("params")
        self._file = file or name
        if takes_vmcore:
            params = [
                click.Argument(["vmcores"], metavar="[VMCORE]...", shell_complete=complete_files, nargs=-1),
                *params,
            ]
        super().__init__(name, params=[*params, *map(_later, READ_FROM)], epilog=HINT.capitalize() + ".", **extra)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the options; what is wrong with them names the command."""
        with named(context):
            return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> object:
        """Import the file and call it."""
        pages = context.params.get("pages")
        if pages is not None and os.path.isfile(pages):
            # Late: it takes time, and this is an error.
            from mminspect.commands.saved import looks_like_json

            is_saved = "from_" in context.params and looks_like_json(pages)
            how = "a saved map or report is given with --from" if is_saved else "a vmcore is given with -c"
            raise click.UsageError(f"{pages!r} is a file; {how}", context)
        module = importlib.import_module(f"mminspect.cli.{self._file}")
        own = {name: value for name, value in context.params.items() if not name.startswith(LATER)}
        given = {
            name[len(LATER) :]: value
            for name, value in context.params.items()
            if name.startswith(LATER) and context.get_parameter_source(name) is not ParameterSource.DEFAULT
        }
        given["core"] = (*given.get("core", ()), *own.pop("vmcores", ()))
        context.obj = inputs_of(context.obj, given)
        check_guest(context.obj, self.name, bool(own.get("stop")))
        return context.invoke(module.run, context.obj, **own)


def check_guest(inputs: Inputs, command: str | None, stop: bool) -> None:
    """
    Check that a guest can be read.

    :param stop: Whether it is to stand still meanwhile.
    """
    if stop and inputs.qemu is None:
        raise click.UsageError("--stop is of a guest: give --qemu SOCKET, too")
    if inputs.qemu is None:
        return
    if inputs.core is not None:
        raise click.UsageError("--qemu reads a guest, -c a vmcore; give one of them")
    if command not in GUEST_COMMANDS:
        raise click.UsageError(f"--qemu goes with {', '.join(GUEST_COMMANDS)}")


def _later(option: click.Option) -> click.Option:
    """Make an option of the group into a command's."""
    made = copy(option)
    made.name, made.hidden = f"{LATER}{option.name}", True
    return made


def inputs_of(before: Inputs, given: Mapping[str, Any]) -> Inputs:
    """
    Add what is given to some inputs.

    :param given: Values of :data:`READ_FROM`, by name. Of options that can be given more than once all count, of others
        the last.
    """
    values = dict(given)
    cores = (*(() if before.core is None else (before.core, *before.pieces)), *values.pop("core", ()))
    symbols = (*before.symbols, *values.pop("symbols", ()))
    return before._replace(core=cores[0] if cores else None, pieces=cores[1:], symbols=symbols, **values)


class Commands(click.Group):
    """A group of commands that notices when its output can't be written. click alone would exit with status 1."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. A file in its place is scanned."""
        name, *rest = args
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(context, args)
        if not os.path.exists(name):
            guess = did_you_mean(name, self.commands) or ", and no file of that name"
            raise click.UsageError(f"there is no command {name!r}{guess}", context)
        if rest and rest[0] in self.commands:
            raise click.UsageError(f"the command goes first: mminspect {rest[0]} -c VMCORE", context)
        return "scan", self.commands["scan"], args

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the group. What is named with them and no command is scanned."""
        with named(context):
            return super().parse_args(context, self._with_scan(context, args))

    def _with_scan(self, context: click.Context, args: list[str]) -> list[str]:
        """Put in the command that is meant where a vmcore is named, or an option of ``scan`` given, and no command."""
        try:
            given, rest, _ = self.make_parser(context).parse_args(list(args))
        except click.NoSuchOption as e:
            command = next((name for name in args if name in self.commands), "scan")
            if all(e.option_name not in parameter.opts for parameter in self.commands[command].params):
                raise
            if command in args:
                raise click.UsageError(
                    f"the command goes first: mminspect {command} {e.option_name}", context
                ) from None
            # A short option can have its value, or others, behind it.
            ends = ("=",) if e.option_name.startswith("--") else ("",)
            at = next(
                index
                for index, word in enumerate(args)
                if word == e.option_name or word.startswith(tuple(e.option_name + end for end in ends))
            )
            return [*args[:at], "scan", *args[at:]]
        return [*args, "scan"] if not rest and (given.get("core") or given.get("qemu")) else args

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options, of which some print and end."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            discard(1)
            raise click.exceptions.Exit(status.BROKEN_PIPE) from None

    def invoke(self, context: click.Context) -> Any:
        """Run a command, and write all of its output."""
        try:
            result = super().invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result
        except BrokenPipeError:
            discard(1)
            raise click.exceptions.Exit(status.BROKEN_PIPE) from None
        except OSError as e:
            discard(1)
            raise MminspectError(f"{e.filename or 'the output'}: {e.strerror or e}") from None


def show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Show the version, and whether struct pages are gone over by compiled code."""
    if value:
        compiled = importlib.util.find_spec("mminspect.memmap._digest") is not None
        click.echo(f"mminspect, version {__version__} ({'compiled' if compiled else 'numpy'} pass)")
        context.exit()


def start(context: click.Context, **given: Any) -> None:
    """A linter for the Linux kernel's memory map."""
    context.obj = inputs_of(Inputs(), given)


main = Commands(
    "mminspect",
    callback=click.pass_context(start),
    params=[*READ_FROM],
    help=start.__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
main.params.append(
    click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=show_version, help="Show the version."
    )
)

COMMANDS = (
    Command(
        "scan",
        takes_vmcore=True,
        help="Walk every pageblock and report what is wrong.",
        params=[
            format_option(*REPORT_FORMATS, PAGE),
            SELECT,
            IGNORE,
            FAIL_ON,
            output_option("Write the report there, not to stdout."),
            MAX_RATE,
            USER,
            ALLOW_INCOMPLETE,
            click.Option(
                ["--baseline"],
                metavar="FILE",
                shell_complete=complete_files,
                help="Leave out the findings of this report in JSON.",
            ),
            click.Option(["--ignore-known"], is_flag=True, help="Leave out what is known and harmless."),
            click.Option(
                ["--ignore-id"],
                metavar="ID,...",
                multiple=True,
                callback=id_list,
                help="Leave out the findings with these IDs.",
            ),
            click.Option(["--stop"], is_flag=True, help="Stop the guest of --qemu while it is read."),
            click.Option(["--partial"], is_flag=True, help="When interrupted, report what was found so far."),
            JOBS,
            click.Option(["-v", "--verbose"], is_flag=True, help="Show what the kernel would do with each finding."),
            click.Option(["-n", "--notes"], is_flag=True, help="Show each note, not their number only."),
            click.Option(["--statistics"], is_flag=True, help="Show how many findings each rule has, not these."),
            WIDTH,
            click.Option(["--redact"], is_flag=True, help="Leave out addresses of the kernel, and paths."),
        ],
    ),
    Command(
        "watch",
        help="Scan again and again; report what is new or gone since the last scan.\n\n"
        "With --format prometheus, the whole state is written after each scan. The exit status is 0 after --count "
        "scans, whatever they found.",
        params=[
            click.Option(
                ["--interval"],
                metavar="TIME",
                default="5m",
                show_default=True,
                callback=interval,
                help="Time between the starts of scans: 30s, 5m, 1h.",
            ),
            click.Option(["--count"], metavar="N", type=click.IntRange(1), help="End after N scans."),
            format_option(*CHANGE_FORMATS, "prometheus"),
            SELECT,
            IGNORE,
            output_option("With prometheus: the file to replace after each scan."),
            MAX_RATE,
            USER,
        ],
    ),
    Command(
        "zones",
        takes_vmcore=True,
        help="Show nodes, zones, sections and holes.",
        params=[format_option("table", "json"), USER],
    ),
    Command(
        "page",
        help="Show all about a page, or a range of pages.\n\n"
        "A number is a pfn if there is such a page, else the address of a struct page, a physical address or a kernel "
        "virtual address. With --pid, it is an address of a process.",
        params=[
            click.Argument(["pages"], metavar="PFN|START-END|ADDRESS"),
            format_option("table", "json"),
            click.Option(
                ["--pid"],
                metavar="PID",
                type=click.IntRange(1, MAX_PID),
                help="ADDRESS is of that process: show the page behind it.",
            ),
            click.Option(["--slab"], is_flag=True, help="ADDRESS is in a slab object: show which one it is."),
            click.Option(["--brief"], is_flag=True, help="A line a page, of what is in its struct page."),
            USER,
        ],
    ),
    Command(
        "map",
        help="Draw the memory map.\n\nRANGE is START-END in pfns, half-open; without it, all memory is drawn. In a "
        "small range a cell is a page.",
        params=[
            click.Argument(["pages"], metavar="[RANGE]", required=False),
            format_option("text", "json", "html"),
            click.Option(
                ["--by"],
                type=click.Choice(["state", "zone", "migratetype"]),
                help="What to draw: what pages are, the zones that they link to, or pageblocks. Default: state.",
            ),
            WIDTH,
            click.Option(
                ["--from", "from_"],
                metavar="FILE",
                shell_complete=complete_files,
                help="Draw a saved map, or a report, in JSON.",
            ),
            output_option("Write there, not to stdout."),
            MAX_RATE,
            USER,
            JOBS,
        ],
    ),
    Command(
        "diff",
        help="Compare two reports, maps or vmcores: what is new, changed or gone.\n\nReports and maps are those that "
        "scan and map write with --format json. /proc/kcore is the running kernel.",
        params=[
            click.Argument(["before"], metavar="A", shell_complete=complete_files),
            click.Argument(["after"], metavar="B", shell_complete=complete_files),
            format_option("table", "json", "html"),
            click.Option(
                ["--fail-on"],
                type=click.Choice(["error", "warning", "note", "never"]),
                default="error",
                show_default=True,
                help="Least severity of something new that makes the exit status 1.",
            ),
            output_option("Write there, not to stdout."),
            USER,
        ],
    ),
    Command(
        "rules",
        help="Show the catalog of rules, or all about one RULE.",
        params=[
            click.Argument(["rule"], required=False, shell_complete=complete_rules),
            format_option("table", "json"),
        ],
    ),
    Command(
        "capture",
        takes_vmcore=True,
        help="Write a small vmcore that holds only what an analysis reads.",
        params=[output_option("The new vmcore; .gz, .xz or .zst compresses it.", required=True), USER],
    ),
    Command(
        "triage",
        help="Tell whether the memory map explains why a kernel died.\n\n"
        "Files are vmcores and kernel logs, packed or not; - is the standard input. The exit status is 1 if the memory "
        "map explains a death, or may, 2 if nothing tells what happened, else 0.",
        params=[
            click.Argument(["files"], metavar="FILE...", shell_complete=complete_files, nargs=-1),
            click.Option(
                ["--log"],
                metavar="FILE",
                shell_complete=complete_files,
                help="The log of the vmcore, instead of what is in the dump.",
            ),
            format_option("text", "json", "ndjson", "html"),
            output_option("Write the result there, not to stdout."),
            USER,
        ],
    ),
    Command(
        "bugs",
        help="Show the known bugs of the memory map: what each leaves in memory, and which kernels have it.",
        params=[
            click.Option(["--kernel"], metavar="RELEASE", help="Show those that may be in this kernel (uname -r)."),
            format_option("table", "json"),
        ],
    ),
)
FLEET = (
    Command(
        "run",
        file="fleet_run",
        help="Read vmcores and kernel logs, spread by Dask, and write what is found to a folder.\n\nA SOURCE is a "
        "file, a folder, a glob, or @LIST: a file with one of these in each line. What is read already isn't read "
        "again. The exit status is 1 if some could not be read.",
        params=[
            click.Argument(["sources"], metavar="SOURCE...", shell_complete=complete_files, nargs=-1, required=True),
            click.Option(
                ["--out"],
                metavar="DIR",
                shell_complete=complete_directories,
                required=True,
                help="Folder; a run that was ended goes on there.",
            ),
            click.Option(["--workers"], metavar="N", type=click.IntRange(1, 1024), help="Default: one a CPU."),
            click.Option(["--scheduler"], metavar="ADDRESS", help="Use the workers of this Dask scheduler."),
            click.Option(
                ["--timeout"],
                metavar="TIME",
                default="10m",
                show_default=True,
                callback=interval,
                help="For each file.",
            ),
            click.Option(
                ["--memory"], metavar="BYTES", default="4G", show_default=True, callback=size, help="For each file."
            ),
            click.Option(["--retry-failed"], is_flag=True, help="Read again what failed before."),
            click.Option(["--dashboard"], is_flag=True, help="Serve Dask's dashboard, and say where."),
            USER,
        ],
    ),
    Command(
        "show",
        file="fleet_show",
        help="Show the files in groups: what the memory map explains comes first.",
        params=[
            click.Argument(["folder"], metavar="DIR", shell_complete=complete_directories),
            click.Option(
                ["--by"],
                type=click.Choice(["signature", "bug", "rule", "function", "release", "host-layout"]),
                default="signature",
                show_default=True,
                help="What makes a group.",
            ),
            click.Option(["--since"], metavar="DATE", callback=date, help="Crashes since this day or time (UTC) only."),
            format_option("table", "json", "csv", "html"),
            output_option("Write there, not to stdout."),
            WIDTH,
        ],
    ),
)
for command in COMMANDS:
    main.add_command(command)
main.add_command(
    click.Group("fleet", commands=FLEET, help="Read thousands of vmcores, and group them by what memory looked like.")
)
