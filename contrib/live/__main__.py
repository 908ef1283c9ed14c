# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: python -m contrib.live."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Callable, TypeVar

import click

from contrib.kernels.__main__ import Group, leave
from contrib.kernels.layouts import numa
from contrib.live.kernels import SOURCES, find_busybox, find_kernel
from contrib.live.rootfs import Job
from contrib.live.session import LiveGuest, Session, started
from contrib.live.trials import LAYOUTS, Series, guest_with, hotplug, scan_and_dump, soak

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)
NOTHING = Job("")
DUMP_POINT = "dump"


@click.group(cls=Group)
def main() -> None:
    """Run this checkout of mminspect inside Debian kernels under QEMU."""
    signal.signal(signal.SIGTERM, leave)


def kernel_option(command: Command) -> Command:
    """Add the option that names a kernel."""
    text = f"{', '.join(SOURCES)}, or a directory with unpacked kernel packages."
    option = click.option("-k", "--kernel", default="6.12", show_default=True, help=text)
    return option(command)


def log_option(command: Command) -> Command:
    """Add the option that keeps the console."""
    return click.option("--log", type=FILE, help="Keep the console there.")(command)


def layout_option(command: Command) -> Command:
    """Add the option that names a layout."""
    return click.option("--layout", type=click.Choice(list(LAYOUTS)), default="plain", show_default=True)(command)


@main.command("list")
def list_command() -> None:
    """List kernels and layouts."""
    for name, source in SOURCES.items():
        click.echo(f"kernel {name:<14} {source.suite} {source.arch}")
    for name, layout in LAYOUTS.items():
        click.echo(f"layout {name:<14} {layout.note}")


@main.command("fetch")
@click.argument("kernels", nargs=-1, metavar="[KERNEL]...")
def fetch_command(kernels: tuple[str, ...]) -> None:
    """Download kernels, all of them by default."""
    for name in kernels or tuple(SOURCES):
        click.echo(find_kernel(name).vmlinuz)
    click.echo(find_busybox())


def collect(session: Session, out: Path) -> None:
    """Copy what the script left in the shared directory."""
    shutil.copytree(session.share, out, dirs_exist_ok=True)


@main.command("run")
@kernel_option
@log_option
@click.argument("script", type=click.File())
@click.option("-m", "--memory", default="1G", show_default=True)
@click.option("--smp", "cpus", default=1, show_default=True)
@click.option("--append", default="", help="Kernel parameters, such as lockdown=confidentiality.")
@click.option("--qemu", "qemu_args", multiple=True, metavar="ARG", help="An argument for QEMU. May be repeated.")
@click.option("--numa", "nodes", multiple=True, metavar="SIZE", help="A node of this size. May be repeated.")
@click.option("--kaslr/--no-kaslr", default=True, show_default=True)
@click.option("--uid", default=0, show_default=True, help="User that runs the script.")
@click.option("--dump", type=FILE, help=f"Dump the memory there when the script is at 'pause {DUMP_POINT}'.")
@click.option("--collect", "out", type=click.Path(file_okay=False, path_type=Path), help="Keep what is in $share.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds.")
@click.pass_context
def run_command(
    context: click.Context,
    kernel: str,
    log: Path | None,
    script: Any,
    memory: str,
    cpus: int,
    append: str,
    qemu_args: tuple[str, ...],
    nodes: tuple[str, ...],
    kaslr: bool,
    uid: int,
    dump: Path | None,
    out: Path | None,
    timeout: float,
) -> None:
    """Run the shell script SCRIPT in a guest, print its output, and end with its status.

    The script has the command mminspect, the interpreter as $python, and a directory $share for
    files to keep.
    """
    arguments = (*numa(*nodes), *qemu_args) if nodes else qemu_args
    job = Job(script.read(), uid)
    guest = LiveGuest(find_kernel(kernel), job, memory, cpus, arguments, append, kaslr, timeout)
    with started(guest, log) as session:
        if dump is not None:
            session.wait(DUMP_POINT)
            session.dump(dump)
            session.go(DUMP_POINT)
        result = session.finish()
        if out is not None:
            collect(session, out)
    click.echo(result.output, nl=False)
    context.exit(result.status)


@main.command("compare")
@kernel_option
@log_option
@layout_option
@click.option("-o", "--output", required=True, type=FILE, help="The dump.")
@click.pass_context
def compare_command(context: click.Context, kernel: str, log: Path | None, layout: str, output: Path) -> None:
    """Scan a running guest, then a dump of it, and show how the two differ."""
    pair = scan_and_dump(guest_with(find_kernel(kernel), LAYOUTS[layout], NOTHING), output, log)
    lines = pair.differences()
    for line in lines:
        click.echo(line)
    counts = ", ".join(f"{number} {name}" for name, number in pair.live["summary"]["by_severity"].items())
    click.echo(f"{layout} on {pair.truth.release}: {counts}; {len(lines)} differences")
    context.exit(1 if lines else 0)


def report_series(context: click.Context, series: Series) -> None:
    """Print the result of a series; end with 1 if anything was wrong."""
    for failure in series.failures:
        click.echo(failure)
    for number, key in series.strangers:
        click.echo(f"scan {number}: {key}")
    click.echo(series.output, nl=False)
    click.echo(f"pages examined: {', '.join(map(str, sorted(series.pages)))}")
    click.echo(str(series))
    context.exit(1 if series.failures or series.strangers else 0)


@main.command("soak")
@kernel_option
@log_option
@layout_option
@click.option("--scans", default=100, show_default=True)
@click.option("--timeout", default=7200.0, show_default=True, help="Seconds.")
@click.pass_context
def soak_command(
    context: click.Context, kernel: str, log: Path | None, layout: str, scans: int, timeout: float
) -> None:
    """Scan a guest again and again while its memory is under pressure."""
    chosen = LAYOUTS[layout]
    arguments = ("-smp", "2") if "-smp" not in chosen.qemu_args else ()
    guest = LiveGuest(
        find_kernel(kernel),
        NOTHING,
        chosen.memory,
        qemu_args=(*arguments, *chosen.qemu_args),
        append=chosen.append,
        timeout=timeout,
    )
    report_series(context, soak(guest, scans, log))


@main.command("hotplug")
@kernel_option
@log_option
@click.option("--rounds", default=4, show_default=True, help="Memory modules to plug in.")
@click.option("--online", default="online", show_default=True, help="State of new memory: offline, online_movable...")
@click.option("--remove", is_flag=True, help="Take the modules out again. Needs --online online_movable.")
@click.option("--timeout", default=1800.0, show_default=True, help="Seconds.")
@click.pass_context
def hotplug_command(
    context: click.Context, kernel: str, log: Path | None, rounds: int, online: str, remove: bool, timeout: float
) -> None:
    """Plug memory into a guest while it is scanned."""
    append = f"memhp_default_state={online}"
    guest = LiveGuest(find_kernel(kernel), NOTHING, append=append, cpus=2, timeout=timeout)
    report_series(context, hotplug(guest, rounds, remove, log=log))


if __name__ == "__main__":
    sys.exit(main())
