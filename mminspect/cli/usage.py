# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands and their options, as the user sees them.

The file of a command is imported when the command is called: help and errors of usage need neither drgn nor numpy.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from mminspect import __version__
from mminspect.cli import status
from mminspect.cli.options import (
    ALLOW_INCOMPLETE,
    FAIL_ON,
    IGNORE,
    JOBS,
    MAX_RATE,
    SELECT,
    USER,
    format_option,
    interval,
    output_option,
)
from mminspect.cli.output import discard
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs
from mminspect.render.formats import CHANGE_FORMATS, REPORT_FORMATS

WRONG_VALUE = (click.BadParameter, click.BadOptionUsage, click.BadArgumentUsage)


def misplaced(error: click.UsageError, command: str) -> click.UsageError:
    """Make an error that says where the vmcore goes, too."""
    what = error.format_message().rstrip(".")
    return click.UsageError(f"{what}; what to read goes before the command: mminspect -c VMCORE {command}", error.ctx)


class Command(click.Command):
    """A command that is the function ``run`` of the file of its name: it takes the inputs and the options."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the options. One of the group, or a file that nothing takes, is told its place."""
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as e:
            if any(e.option_name in option.opts for option in main.params):
                raise misplaced(e, str(self.name)) from None
            raise
        except WRONG_VALUE:
            raise
        except click.UsageError as e:
            if self.name != "rules":
                raise misplaced(e, str(self.name)) from None
            raise

    def invoke(self, context: click.Context) -> object:
        """Import the file and call it."""
        module = importlib.import_module(f"mminspect.cli.{self.name}")
        return context.invoke(module.run, context.obj, **context.params)


class Commands(click.Group):
    """A group of commands that notices when its output can't be written. click alone would exit with status 1."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. A file in its place is told its own."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as e:
            raise misplaced(e, "COMMAND") from None

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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--core",
    metavar="VMCORE",
    multiple=True,
    help="Core dump to read. Default: the running kernel, as root. May be given more than once, for the pieces of a "
    "split dump.",
)
@click.option(
    "-s",
    "--symbols",
    metavar="VMLINUX",
    multiple=True,
    help="File with the kernel's DWARF. May be given more than once. Not needed if the kernel has BTF.",
)
@click.option(
    "--btf", metavar="FILE", help="Raw BTF of the kernel, instead of what is in its memory. Not read if -s is given."
)
@click.option("--system-map", metavar="FILE", help="System.map of the kernel, for symbols where there is no DWARF.")
@click.option("--vmcoreinfo", metavar="FILE", help="VMCOREINFO of the kernel, for a dump that has none.")
@click.option(
    "--pageblock-order",
    metavar="N",
    type=click.IntRange(1, 30),
    help="Override the order of a pageblock. A capture can lack the bitmap of a smaller one.",
)
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "require", "off"]),
    default="auto",
    show_default=True,
    help="Give up all rights that reading isn't in need of: as far as it can be done, or else don't go on, or not.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(__version__, prog_name="mminspect")
@click.pass_context
def main(
    context: click.Context,
    core: tuple[str, ...],
    symbols: tuple[str, ...],
    btf: str | None,
    system_map: str | None,
    vmcoreinfo: str | None,
    pageblock_order: int | None,
    sandbox: str,
    debug: bool,
) -> None:
    """A linter for the Linux kernel's memory map."""
    first = core[0] if core else None
    context.obj = Inputs(
        first, symbols, btf, system_map, pageblock_order, core[1:], vmcoreinfo, sandbox=sandbox, debug=debug
    )


COMMANDS = (
    Command(
        "scan",
        help="Walk every pageblock and report what is wrong.",
        params=[
            format_option(*REPORT_FORMATS),
            SELECT,
            IGNORE,
            FAIL_ON,
            output_option("Write the report there, not to stdout."),
            MAX_RATE,
            USER,
            ALLOW_INCOMPLETE,
            click.Option(["--partial"], is_flag=True, help="When interrupted, report what was found so far."),
            JOBS,
            click.Option(["-v", "--verbose"], is_flag=True, help="Show what the kernel would do with each finding."),
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
    Command("zones", help="Show nodes, zones, sections and holes.", params=[format_option("table", "json"), USER]),
    Command(
        "page",
        help="Show all about a page, or a range of pages.\n\n"
        "A number is a pfn if there is such a page, else the address of a struct page, a physical address or a kernel "
        "virtual address.",
        params=[click.Argument(["pages"], metavar="PFN|START-END|ADDRESS"), format_option("table", "json"), USER],
    ),
    Command(
        "map",
        help="Draw the memory map.\n\nRANGE is START-END in pfns, half-open; without it, all memory is drawn. In a "
        "small range a cell is a page.",
        params=[
            click.Argument(["pages"], metavar="[RANGE]", required=False),
            format_option("text", "json"),
            click.Option(
                ["--by"],
                type=click.Choice(["state", "zone", "migratetype"]),
                help="What to draw: what pages are, the zones that they link to, or pageblocks. Default: state.",
            ),
            click.Option(["--width"], metavar="N", type=click.IntRange(40, 1000), help="Columns of the picture."),
            click.Option(["--from", "from_"], metavar="FILE", help="Draw a saved map, or a report, in JSON."),
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
            click.Argument(["before"], metavar="A"),
            click.Argument(["after"], metavar="B"),
            format_option("table", "json"),
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
        params=[click.Argument(["rule"], required=False), format_option("table", "json")],
    ),
    Command(
        "capture",
        help="Write a small vmcore that holds only what an analysis reads.",
        params=[output_option("The new vmcore; .gz, .xz or .zst compresses it.", required=True), USER],
    ),
    Command(
        "triage",
        help="Tell whether the memory map explains why a kernel died.\n\n"
        "Files are vmcores and kernel logs, packed or not; - is the standard input. The exit status is 1 if the memory "
        "map explains a death, or may, 2 if nothing tells what happened, else 0.",
        params=[
            click.Argument(["files"], metavar="FILE...", nargs=-1),
            click.Option(["--log"], metavar="FILE", help="The log of the vmcore, instead of what is in the dump."),
            format_option("text", "json", "ndjson"),
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
for command in COMMANDS:
    main.add_command(command)
