# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: python -m contrib.kernels."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from tabulate import tabulate

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel, busybox_in, kernel_from_trees
from contrib.kernels.fixtures import FIXTURES, VMCORES, make_fixture
from contrib.kernels.initrd import Truth
from contrib.kernels.matrix import ROWS, find_row
from contrib.kernels.row import boot_row, describe, fetch_row
from contrib.kernels.run import HEADERS, markdown, run_rows, table_row


class Group(click.Group):
    """A group whose commands report a HarnessError as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


def leave(number: int, _: object) -> NoReturn:
    """End in order on a signal, so that QEMU and temporary files go too."""
    sys.exit(128 + number)


@click.group(cls=Group)
def main() -> None:
    """Boot stock Debian kernels under QEMU and dump their memory."""
    signal.signal(signal.SIGTERM, leave)


@main.command("list")
def list_rows() -> None:
    """List the rows of the matrix."""
    for row in ROWS:
        click.echo(describe(row))


def echo_kernel(kernel: Kernel) -> None:
    """Print where a kernel's files are."""
    click.echo(f"release {kernel.release}")
    click.echo(f"vmlinuz {kernel.vmlinuz}")
    click.echo(f"modules {kernel.modules}")
    if kernel.vmlinux:
        click.echo(f"vmlinux {kernel.vmlinux}")


@main.command("fetch")
@click.argument("row")
@click.option("--debug/--no-debug", default=True, help="With vmlinux and its DWARF (350 MB).")
def fetch_command(row: str, debug: bool) -> None:
    """Download the newest kernel of ROW."""
    kernel, busybox = fetch_row(find_row(row), debug)
    echo_kernel(kernel)
    click.echo(f"busybox {busybox}")


def echo_truth(truth: Truth) -> None:
    """Print what a guest said."""
    click.echo(f"release {truth.release}, pageblock order {truth.pageblock_order}")
    for zone in truth.zones:
        if zone.spanned:
            start = "?" if zone.start_pfn is None else zone.start_pfn
            click.echo(
                f"node {zone.node} {zone.name:<8} start {start} spanned {zone.spanned} "
                f"present {zone.present} managed {zone.managed}"
            )
    if truth.offline_blocks:
        click.echo(f"memory blocks not online: {', '.join(map(str, truth.offline_blocks))}")


DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@main.command("boot")
@click.argument("row")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--kernel", "tree", type=DIRECTORY, help="Unpacked kernel packages to boot instead.")
@click.option("--busybox", "box", type=DIRECTORY, help="An unpacked busybox-static to use instead.")
def boot_command(row: str, output: Path, tree: Path | None, box: Path | None) -> None:
    """Boot ROW and dump its memory into a file. The console goes to FILE.log."""
    kernel = kernel_from_trees([tree]) if tree else None
    busybox = busybox_in(box) if box else None
    booted = boot_row(find_row(row), output, kernel, busybox)
    click.echo(f"ready after {booted.ready_seconds:.1f} s; {booted.core.stat().st_size} bytes")
    echo_truth(booted.truth)


@main.command("run")
@click.argument("rows", nargs=-1)
@click.option("--debug/--no-debug", default=True, help="Scan with DWARF too; fetches vmlinux (350 MB each).")
@click.option(
    "--dumps",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory that keeps the dumps. Dumps that are there are used again.",
)
@click.option("--again", is_flag=True, help="Boot even if there is a dump.")
@click.option(
    "--markdown",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table there; other rows in it are kept.",
)
def run_command(rows: tuple[str, ...], debug: bool, dumps: Path | None, again: bool, page: Path | None) -> None:
    """Boot, dump, scan and compare ROWS, or all."""
    chosen = [find_row(name) for name in rows] or list(ROWS)
    if dumps:
        dumps.mkdir(parents=True, exist_ok=True)
    results = run_rows(chosen, dumps, debug, again, lambda line: click.echo(line, err=True))
    click.echo(tabulate([table_row(result) for result in results], HEADERS, disable_numparse=True))
    if page:
        page.write_text(markdown(results, page.read_text() if page.exists() else ""))
    if not all(result.agrees for result in results):
        sys.exit(1)


@main.command("capture")
@click.argument("names", nargs=-1)
@click.option("--dumps", required=True, type=click.Path(file_okay=False, path_type=Path), help="As for 'run'.")
@click.option("-o", "--output", default=VMCORES, show_default="fixtures/vmcores", type=DIRECTORY)
def capture_command(names: tuple[str, ...], dumps: Path, output: Path) -> None:
    """Make the fixtures NAMES anew, or all, from the dumps of their rows. Rows without a dump are booted."""
    dumps.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in names or FIXTURES:
        try:
            captured = make_fixture(name, dumps, output)
        except HarnessError as error:
            failed = True
            click.echo(f"error: {name}: {error}", err=True)
        else:
            click.echo(captured)
            click.echo(f"  {captured.command}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
