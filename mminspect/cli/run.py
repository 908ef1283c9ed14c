# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, Callable, NoReturn

import click

from mminspect import __version__, signals
from mminspect.cli.output import check_writable, open_output, stdout
from mminspect.errors import MminspectError, Stopped

EXIT_FINDINGS = 1
EXIT_FAILED = 2
# Plugins that drgn would load which are commands for its interactive session. They take longer to load than all else.
SESSION_PLUGINS = ("mminspect", "builtin_commands", "crash_commands")


@dataclass(frozen=True)
class Options:
    """The options before the command."""

    core: str | None
    symbols: tuple[str, ...]
    btf: str | None
    system_map: str | None
    pageblock_order: int | None

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """The files that are read."""
        return (self.core, *self.symbols, self.btf, self.system_map)


class Commands(click.Group):
    """A group of commands that notices when its output can't be written. click alone would exit with status 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            result = super().invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result
        except BrokenPipeError:
            _discard(1)
            raise MminspectError("the output was closed before all of it was written") from None
        except OSError as e:
            _discard(1)
            raise MminspectError(f"{e.filename or 'the output'}: {e.strerror or e}") from None


def _discard(fd: int) -> None:
    """Keep Python from writing at exit what could not be written now."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--core", metavar="VMCORE", help="Core dump to read. Default: the running kernel, as root.")
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
@click.option(
    "--pageblock-order",
    metavar="N",
    type=click.IntRange(1, 30),
    help="Override the order of a pageblock. A capture can lack the bitmap of a smaller one.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.version_option(__version__, prog_name="mminspect")
@click.pass_context
def main(
    context: click.Context,
    core: str | None,
    symbols: tuple[str, ...],
    btf: str | None,
    system_map: str | None,
    pageblock_order: int | None,
    debug: bool,
) -> None:
    """A linter for the Linux kernel's memory map."""
    context.obj = Options(core, symbols, btf, system_map, pageblock_order)


def run(argv: tuple[str, ...] | None = None) -> NoReturn:
    """Run the command line; no exception but SystemExit leaves it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _open_standard_files()
    signals.raise_stopped()
    signals.quit_on_bus_error()
    _start_fast()
    try:
        status = main.main(arguments, prog_name="mminspect", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        # The help that click shows when there are no arguments. Before click 8.2 it is no exception.
        if type(e).__name__ == "NoArgsIsHelpError":
            e.show()
            sys.exit(e.exit_code)
        _die(" ".join(e.format_message().split()), e.exit_code)
    except Stopped as e:
        signals.stopped()
        _die(str(e), e.status)
    except MminspectError as e:
        if debug:
            traceback.print_exc()
        _die(str(e))
    except MemoryError:
        _die("out of memory")
    except ImportError as e:
        if debug:
            traceback.print_exc()
        _die(f"a part of the program can't be loaded, or there is too little memory for it: {e}")
    except OSError as e:
        # Of what click prints by itself, such as help.
        _discard(1)
        _die(f"{e.filename or 'the output'}: {e.strerror or e}")
    except Exception as e:
        if debug:
            traceback.print_exc()
        message = " ".join(str(e).split()) or type(e).__name__
        _die(f"{type(e).__name__}: {message} (--debug shows where; please report it)")


def _open_standard_files() -> None:
    """Keep the numbers of standard files that the caller closed from files that are opened later."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _say(message: str) -> None:
    try:
        click.echo(f"mminspect: {message}", err=True)
    except OSError:
        _discard(2)


def _start_fast() -> None:
    """Keep libraries from preparing what is not used here."""
    disabled = os.environ.get("DRGN_DISABLE_PLUGINS")
    if disabled != "*":
        names = (*SESSION_PLUGINS, *(disabled.split(",") if disabled else ()))
        # drgn looks for plugins with importlib.metadata, which takes 40 ms to be imported; "*" keeps it from that.
        os.environ["DRGN_DISABLE_PLUGINS"] = "*" if _installed_plugins() <= set(names) else ",".join(names)
    # numpy's linear algebra starts a thread for each CPU.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _installed_plugins() -> set[str]:
    """Get the names of the entry points in the group ``drgn.plugins`` of all installed packages."""
    names = set()
    for directory in sys.path:
        try:
            packages = [item for item in os.listdir(directory or ".") if item.endswith((".dist-info", ".egg-info"))]
        except NotADirectoryError:
            # A zip archive can hold anything.
            names.add(directory)
            continue
        except OSError:
            continue
        for package in packages:
            names |= _drgn_plugins(os.path.join(directory, package, "entry_points.txt"))
    return names


def _drgn_plugins(path: str) -> set[str]:
    """Get the names of a package's plugins for drgn."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return set()
    names = set()
    group = ""
    for line in lines:
        if line.startswith("["):
            group = line
        elif group == "[drgn.plugins]" and "=" in line:
            names.add(line.split("=")[0].strip())
    return names


def _die(message: str, status: int = EXIT_FAILED) -> NoReturn:
    _say(message)
    sys.exit(status)


@contextlib.contextmanager
def _opened(options: Options) -> Iterator[tuple[Any, Any]]:
    """Open the target that the options name, with types, for as long as it is read."""
    # Imported late: "mminspect --help" and "rules" need no drgn.
    from mminspect.program import open as targets
    from mminspect.typeinfo import load as typeinfo

    with targets.opened(options.core) as target:
        yield target, typeinfo.load(target, options.symbols, options.btf, options.system_map)


def _style(out: IO[str]) -> Any:
    from mminspect.render.formats import Style

    if not out.isatty():
        return Style()
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(shutil.get_terminal_size().columns, color)


class ProgressBar:
    """A progress bar on stderr, on a terminal only."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._start = time.monotonic()
        self._done = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, total: int) -> Callable[[int], None]:
        """Begin; see :func:`mminspect.walk.scan.scan_target`."""
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return lambda pages: None
        bar: Any = self._stack.enter_context(
            click.progressbar(
                length=total,
                label="struct pages",
                file=sys.stderr,
                show_eta=True,
                width=0,
                item_show_func=self._rate,
                update_min_steps=max(1, total // 200),
            )
        )

        def advance(pages: int) -> None:
            self._done += pages
            bar.update(pages, self._done)

        return advance

    def _rate(self, done: int | None) -> str | None:
        seconds = time.monotonic() - self._start
        return f"{done / seconds / 1e6:.1f} M pages/s" if done and seconds else None


def _rule_list(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(name.strip() for names in value for name in names.split(",") if name.strip())
    if value and not chosen:
        raise click.BadParameter("names no rule")
    return chosen


def _rate(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = (value[:-1], units[value[-1].upper()]) if value[-1:].upper() in units else (value, 1)
    if not number.isdigit() or int(number) == 0:
        raise click.BadParameter("give bytes a second, for example 100M")
    return int(number) * unit


def _interval(context: click.Context, parameter: click.Parameter, value: str) -> float:
    from mminspect.commands.watch import parse_interval

    try:
        return parse_interval(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from None


_select = click.option(
    "--select", metavar="RULE,...", multiple=True, callback=_rule_list, help="Apply these rules only."
)
_ignore = click.option(
    "--ignore", metavar="RULE,...", multiple=True, callback=_rule_list, help="Leave these rules out."
)
_fail_on = click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "note", "never"]),
    default="error",
    show_default=True,
    help="Least severity of a finding that makes the exit status 1.",
)
_max_rate = click.option(
    "--max-rate", metavar="BYTES", callback=_rate, help="Read no more memmap a second than this, e.g. 100M."
)
_user = click.option(
    "--user",
    metavar="NAME",
    default="nobody",
    show_default=True,
    help="User to become once the running kernel's files are open; root keeps the user ID.",
)


class Session:
    """
    A target opened for scans, and the place where reports go.

    For the running kernel, everything that needs privileges is done when this is made, and the privileges are given
    up.
    """

    def __init__(self, options: Options, output: str | None, user: str) -> None:
        self._options = options
        self._output = output
        self._publisher: Any = None
        self.prepared: Any = None
        with _opened(options) as (self.target, self.types):
            pass
        if self.target.kind == "live":
            self._give_up_privileges(user)

    def _give_up_privileges(self, user: str) -> None:
        # What is imported later could be unreadable for the user that the process becomes.
        import tabulate  # noqa: F401

        from mminspect.cli import privileges
        from mminspect.cli.publish import Publisher
        from mminspect.rules.registry import all_rules
        from mminspect.walk.live import prepare

        all_rules()
        account = privileges.find_user(user)
        self.prepared = prepare(self.target, self._options.pageblock_order)
        if self._output is not None and self._output != "-":
            self._publisher = Publisher(self._output)
        privileges.lower_priority()
        privileges.drop(account)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        if self._publisher is not None:
            self._publisher.close()

    def scan(self, rules: Any, gentleness: Any, jobs: int | None = 1) -> Any:
        """Scan once; see :func:`mminspect.walk.scan.scan_target`."""
        from mminspect.walk.scan import scan_target

        order = self._options.pageblock_order
        with ProgressBar() as bar:
            return scan_target(self.target, self.types, rules, order, bar.start, gentleness, self.prepared, jobs)

    def output(self) -> contextlib.AbstractContextManager[IO[str]]:
        """Open the place where a report goes; it is replaced as a whole."""
        if self._publisher is not None:
            opened: contextlib.AbstractContextManager[IO[str]] = self._publisher.open()
            return opened
        return open_output(self._output)


@main.command()
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "ndjson", "csv", "prometheus"]),
    default="table",
    show_default=True,
)
@_select
@_ignore
@_fail_on
@click.option("-o", "--output", metavar="FILE", help="Write the report there, not to stdout.")
@_max_rate
@_user
@click.option("--partial", is_flag=True, help="When interrupted, report what was found so far.")
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Processes that read a vmcore. Default: one, or as many as there are CPUs from 32 GiB of memory on.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show what the kernel would do with each finding.")
@click.pass_obj
def scan(
    options: Options,
    format_: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str,
    output: str | None,
    max_rate: int | None,
    user: str,
    partial: bool,
    jobs: int | None,
    verbose: bool,
) -> int:
    """Walk every pageblock and report what is wrong."""
    from mminspect.render.formats import REPORT_FORMATS
    from mminspect.rules.registry import select_rules
    from mminspect.walk.scan import Gentleness

    rules = select_rules(select, ignore)
    check_writable(output, options.inputs)
    with Session(options, output, user) as session:
        stopper = signals.Stopper() if partial else None
        report = session.scan(rules, Gentleness(max_rate, stopper), jobs)
        with session.output() as out:
            REPORT_FORMATS[format_](report, out, replace(_style(out), verbose=verbose))
    found = fail_on != "never" and report.count(fail_on)
    if stopper is not None and stopper.status is not None:
        _say(f"{stopper.message}: the report is of the part that was walked")
        # Nothing found says little when not all was looked at.
        return EXIT_FINDINGS if found else 0 if fail_on == "never" else stopper.status
    return EXIT_FINDINGS if found else 0


@main.command()
@click.option(
    "--interval",
    metavar="TIME",
    default="5m",
    show_default=True,
    callback=_interval,
    help="Time between the starts of scans: 30s, 5m, 1h.",
)
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N scans.")
@click.option(
    "--format", "format_", type=click.Choice(["table", "ndjson", "prometheus"]), default="table", show_default=True
)
@_select
@_ignore
@click.option("-o", "--output", metavar="FILE", help="With prometheus: the file to replace after each scan.")
@_max_rate
@_user
@click.pass_obj
def watch(
    options: Options,
    interval: float,
    count: int | None,
    format_: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output: str | None,
    max_rate: int | None,
    user: str,
) -> None:
    """
    Scan again and again; report what is new or gone since the last scan.

    With --format prometheus, the whole state is written after each scan. The exit status is 0 after --count scans,
    whatever they found.
    """
    from mminspect.commands.watch import changes
    from mminspect.render import json_, table
    from mminspect.render.formats import REPORT_FORMATS
    from mminspect.rules.registry import select_rules
    from mminspect.walk.scan import Gentleness

    rules = select_rules(select, ignore)
    if output is not None and format_ != "prometheus":
        raise click.UsageError("-o goes with --format prometheus; the other formats are streams on stdout")
    check_writable(output, options.inputs)
    with Session(options, output, user) as session:
        before: Any = []
        done = 0
        while True:
            begin = time.monotonic()
            report = session.scan(rules, Gentleness(max_rate))
            if format_ == "prometheus":
                with session.output() as out:
                    REPORT_FORMATS[format_](report, out, _style(out))
            else:
                events = changes(before, report.findings)
                if format_ == "ndjson":
                    json_.write_lines((change.as_dict() for change in events), stdout())
                elif events:
                    style = _style(stdout())
                    rows = [(change.event, change.finding) for change in events]
                    table.write_changes(rows, stdout(), style.width, style.color)
                before = report.findings
            if output is None:
                stdout().flush()
            done += 1
            if count is not None and done >= count:
                return
            time.sleep(max(0.0, interval - (time.monotonic() - begin)))


@main.command()
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def zones(options: Options, format_: str) -> None:
    """Show nodes, zones, sections and holes."""
    from mminspect.commands.zones import overview
    from mminspect.layout.read import read_memory_map
    from mminspect.render import json_, table

    with _opened(options) as (target, _):
        data = overview(read_memory_map(target, options.pageblock_order))
    if format_ == "json":
        json_.write(data, stdout())
    else:
        table.write_overview(data, stdout(), _style(stdout()).width)


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
    from mminspect.commands.page import PageInspector
    from mminspect.kernel.identify import what_is
    from mminspect.layout.read import read_memory_map
    from mminspect.memmap.calibrate import calibrate
    from mminspect.memmap.reader import Memmap
    from mminspect.render import json_, table

    with _opened(options) as (target, _):
        memory = read_memory_map(target, options.pageblock_order)
        memmap = Memmap(target.prog, memory, live=target.kind == "live", direct=target.direct)
        calibrate(memmap, memory)
        inspector = PageInspector(target, memory, memmap, what_is(target, memory))
        start, end, meaning = inspector.parse(pages)
        with ProgressBar() as bar:
            found = inspector.inspect(start, end, bar.start)
    data = {"start_pfn": start, "end_pfn": end, "understood_as": meaning, "pages": found}
    if format_ == "json":
        json_.write(data, stdout())
    else:
        table.write_pages(data, stdout(), _style(stdout()).width)


@main.command()
@click.argument("rule", required=False)
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def rules(rule: str | None, format_: str) -> None:
    """Show the catalogue of rules, or all about one RULE."""
    from mminspect.render import json_, table
    from mminspect.rules.registry import catalogue, select_rules

    chosen = select_rules([rule] if rule else [])
    data = catalogue(chosen)
    if format_ == "json":
        json_.write(data, stdout())
    elif rule:
        table.write_rule(data[0], stdout())
    else:
        table.write_rules(data, stdout(), _style(stdout()).width)


@main.command()
@click.option("-o", "--output", metavar="FILE", required=True, help="The new vmcore; .gz, .xz or .zst compresses it.")
@click.pass_obj
def capture(options: Options, output: str) -> None:
    """Write a small vmcore that holds just what an analysis reads."""
    from mminspect.commands.capture import capture as write_capture
    from mminspect.commands.capture import check_ending

    check_ending(output)
    check_writable(output, options.inputs)
    size = write_capture(
        options.core, options.symbols, options.btf, options.system_map, options.pageblock_order, output
    )
    written = os.stat(output).st_size if os.path.isfile(output) else size
    click.echo(f"{output}: {written:,} bytes", err=True)


@main.command()
@click.argument("vmcores", metavar="VMCORE...", nargs=-1)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_fail_on
@click.option("-o", "--output", metavar="FILE", help="Write the result there, not to stdout.")
@click.pass_obj
def triage(options: Options, vmcores: tuple[str, ...], format_: str, fail_on: str, output: str | None) -> int:
    """Tell whether the memory map explains why a kernel died."""
    from mminspect.commands.triage.run import triage as run_triage
    from mminspect.render import json_
    from mminspect.render.triage import write_triage

    if vmcores and options.core is not None:
        raise click.UsageError("triage reads the vmcores that follow it: leave out -c, or give no other vmcore")
    paths = vmcores or ((options.core,) if options.core is not None else ())
    if not paths:
        raise click.UsageError("give at least one vmcore")
    check_writable(output, (*options.inputs, *paths))
    results: list[dict[str, Any]] = []
    status = 0
    for path in paths:
        try:
            data, report = run_triage(path, options.symbols, options.btf, options.system_map, options.pageblock_order)
        except MminspectError as e:
            if len(paths) == 1:
                raise
            _say(str(e))
            status = EXIT_FAILED
            results.append({"path": path, "error": str(e)})
            continue
        results.append(data)
        if fail_on != "never" and report.count(fail_on):
            status = max(status, EXIT_FINDINGS)
    with open_output(output) as out:
        if format_ == "json":
            json_.write(results, out)
        else:
            for number, data in enumerate(data for data in results if "error" not in data):
                out.write("\n" if number else "")
                write_triage(data, out, _style(out).width)
    return status
