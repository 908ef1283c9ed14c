# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line."""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import IO, Any, Callable, NoReturn, Optional, Tuple

import click

from mminspect import __version__
from mminspect.errors import MminspectError
from mminspect.output import open_output

EXIT_FINDINGS = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


@dataclass(frozen=True)
class Options:
    """The options before the command."""

    core: Optional[str]
    symbols: Tuple[str, ...]
    btf: Optional[str]
    system_map: Optional[str]
    pageblock_order: Optional[int]


class Terminated(Exception):
    """SIGTERM arrived."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--core", metavar="VMCORE", help="Core dump to read. Default: the running kernel, as root.")
@click.option(
    "-s",
    "--symbols",
    metavar="VMLINUX",
    multiple=True,
    help="File with the kernel's DWARF. May be given more than once. Not needed if the kernel has BTF.",
)
@click.option("--btf", metavar="FILE", help="Raw BTF of the kernel, instead of what is in its memory.")
@click.option("--system-map", metavar="FILE", help="System.map of the kernel, for symbols where there is no DWARF.")
@click.option("--pageblock-order", metavar="N", type=click.IntRange(1, 30), help="Override the order of a pageblock.")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(__version__, prog_name="mminspect")
@click.pass_context
def main(
    context: click.Context,
    core: Optional[str],
    symbols: Tuple[str, ...],
    btf: Optional[str],
    system_map: Optional[str],
    pageblock_order: Optional[int],
    debug: bool,
) -> None:
    """A linter for the Linux kernel's memory map."""
    context.obj = Options(core, symbols, btf, system_map, pageblock_order)


def run(argv: Optional[Tuple[str, ...]] = None) -> NoReturn:
    """Run the command line; no exception but SystemExit leaves it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments

    def terminate(signum: int, frame: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        status = main.main(arguments, prog_name="mminspect", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _die("interrupted", EXIT_INTERRUPTED)
    except Terminated:
        _die("terminated", EXIT_TERMINATED)
    except BrokenPipeError:
        # Python would try to flush the rest at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _die("the output was closed before all of it was written")
    except MminspectError as e:
        if debug:
            traceback.print_exc()
        _die(str(e))
    except MemoryError:
        _die("out of memory")
    except Exception as e:
        if debug:
            traceback.print_exc()
        message = " ".join(str(e).split()) or type(e).__name__
        _die(f"{type(e).__name__}: {message} (--debug shows where; please report it)")


def _die(message: str, status: int = EXIT_FAILED) -> NoReturn:
    click.echo(f"mminspect: {message}", err=True)
    sys.exit(status)


def _open(options: Options) -> "Tuple[Any, Any]":
    """Open the target that the options name, with types."""
    # Imported late: "mminspect --help" and "rules" need no drgn.
    from mminspect import target as targets
    from mminspect import typeinfo

    target = targets.open_vmcore(options.core) if options.core is not None else targets.open_kernel()
    return target, typeinfo.load(target, options.symbols, options.btf, options.system_map)


def _style(out: IO[str]) -> "Any":
    from mminspect.render import Style

    if not out.isatty():
        return Style()
    return Style(shutil.get_terminal_size().columns, not os.environ.get("NO_COLOR"))


class ProgressBar:
    """A progress bar on stderr, on a terminal only."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._start = time.monotonic()
        self._done = 0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, total: int) -> Callable[[int], None]:
        """Begin; see :func:`mminspect.analyzer.scan_target`."""
        if not sys.stderr.isatty():
            return lambda pages: None
        bar: Any = self._stack.enter_context(
            click.progressbar(
                length=total,
                label="struct pages",
                file=sys.stderr,
                show_eta=True,
                item_show_func=self._rate,
                update_min_steps=max(1, total // 200),
            )
        )

        def advance(pages: int) -> None:
            self._done += pages
            bar.update(pages, self._done)

        return advance

    def _rate(self, done: Optional[int]) -> Optional[str]:
        seconds = time.monotonic() - self._start
        return f"{done / seconds / 1e6:.1f} M pages/s" if done and seconds else None


def _rule_list(context: click.Context, parameter: click.Parameter, value: Optional[str]) -> Tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


@main.command()
@click.option(
    "--format", "format_", type=click.Choice(["table", "json", "ndjson", "csv"]), default="table", show_default=True
)
@click.option("--select", metavar="RULE,...", callback=_rule_list, help="Apply these rules only.")
@click.option("--ignore", metavar="RULE,...", callback=_rule_list, help="Leave these rules out.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "note", "never"]),
    default="error",
    show_default=True,
    help="Least severity of a finding that makes the exit status 1.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the report there, not to stdout.")
@click.pass_obj
def scan(
    options: Options,
    format_: str,
    select: Tuple[str, ...],
    ignore: Tuple[str, ...],
    fail_on: str,
    output: Optional[str],
) -> int:
    """Walk every pageblock and report what is wrong."""
    from mminspect.analyzer import scan_target
    from mminspect.render import REPORT_FORMATS
    from mminspect.rules import select_rules

    rules = select_rules(select, ignore)
    with open_output(output) as out:
        target, types = _open(options)
        with ProgressBar() as bar:
            report = scan_target(target, types, rules, options.pageblock_order, bar.start)
        REPORT_FORMATS[format_](report, out, _style(out))
    return EXIT_FINDINGS if fail_on != "never" and report.count(fail_on) else 0


@main.command()
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def zones(options: Options, format_: str) -> None:
    """Show nodes, zones, sections and holes."""
    from mminspect.layout import read_memory_map
    from mminspect.overview import overview
    from mminspect.render import json_, table

    target, _ = _open(options)
    data = overview(read_memory_map(target, options.pageblock_order))
    if format_ == "json":
        json_.write(data, sys.stdout)
    else:
        table.write_overview(data, sys.stdout, _style(sys.stdout).width)


@main.command()
@click.argument("pages", metavar="PFN|START-END|ADDRESS")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def page(options: Options, pages: str, format_: str) -> None:
    """
    Show all about a page, or a range of pages.

    A number is a pfn if there is such a page, else the address of a struct page, a physical address or a
    kernel virtual address.
    """
    from mminspect.layout import read_memory_map
    from mminspect.memmap import Memmap, calibrate
    from mminspect.pageinfo import PageInspector
    from mminspect.render import json_, table
    from mminspect.whatis import what_is

    target, _ = _open(options)
    memory = read_memory_map(target, options.pageblock_order)
    memmap = Memmap(target.prog, memory, live=target.kind == "live")
    calibrate(memmap, memory)
    inspector = PageInspector(target, memory, memmap, what_is(target, memory))
    start, end, meaning = inspector.parse(pages)
    data = {"start_pfn": start, "end_pfn": end, "understood_as": meaning, "pages": inspector.inspect(start, end)}
    if format_ == "json":
        json_.write(data, sys.stdout)
    else:
        table.write_pages(data, sys.stdout, _style(sys.stdout).width)


@main.command()
@click.argument("rule", required=False)
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def rules(rule: Optional[str], format_: str) -> None:
    """Show the catalogue of rules, or all about one RULE."""
    from mminspect.render import json_, table
    from mminspect.rules import catalogue, select_rules

    chosen = select_rules([rule] if rule else [])
    data = catalogue(chosen)
    if format_ == "json":
        json_.write(data, sys.stdout)
    elif rule:
        table.write_rule(data[0], sys.stdout)
    else:
        table.write_rules(data, sys.stdout, _style(sys.stdout).width)


@main.command()
@click.option("-o", "--output", metavar="FILE", required=True, help="The new vmcore; .gz, .xz or .zst compresses it.")
@click.pass_obj
def capture(options: Options, output: str) -> None:
    """Write a small vmcore that holds just what an analysis reads."""
    from mminspect.capture import capture as write_capture

    size = write_capture(
        options.core, options.symbols, options.btf, options.system_map, options.pageblock_order, output
    )
    click.echo(f"{output}: {size:,} bytes", err=True)
