# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: python -m contrib.explore."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any, Callable

import click

from contrib.explore import mutants as planted
from contrib.explore import page, report
from contrib.explore.campaign import Campaign
from contrib.explore.compare import compare, mail, read_corpus
from contrib.explore.confirm import confirm
from contrib.explore.describe import describe, strips
from contrib.explore.fromlog import rebuild
from contrib.explore.judge import SEVERITIES, Sighting
from contrib.explore.layout import Layout, dumps, loads
from contrib.explore.outcome import Outcome
from contrib.explore.qemu import command
from contrib.explore.shrink import MAX_BOOTS
from contrib.explore.store import Store
from contrib.explore.workers import Spec, Task, explorer, make_pool, perform
from contrib.kernels.__main__ import Group, leave
from contrib.kernels.errors import HarnessError

UNITS = {"s": 1, "m": 60, "h": 3600}
Pokes = tuple[tuple[str, bytes], ...]
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
HTML = click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page there as well.")


def duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a duration such as 10m."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+)([smh])", value)
    if not match:
        raise click.BadParameter("need a number and s, m or h, such as 10m")
    return float(match.group(1)) * UNITS[match.group(2)]


def poke(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Pokes:
    """Return the bytes in SYMBOL=HEX."""
    try:
        return tuple((name, bytes.fromhex(data)) for name, data in (value.split("=") for value in values))
    except ValueError:
        raise click.BadParameter("need SYMBOL=HEX, such as init_unavailable_range=31d231c990") from None


def read_layout(path: Path) -> Layout:
    """
    Return the layout in a file, or on standard input.

    :raises HarnessError: if it isn't one.
    """
    try:
        return loads(sys.stdin.read() if str(path) == "-" else path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: {error}") from None


def kernel_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which kernel, and how to try it."""
    for option in (
        click.option("--modules", type=DIRECTORY, help="Its modules, for layouts with devices but DIMMs."),
        click.option(
            "--poke", "pokes", multiple=True, callback=poke, metavar="SYMBOL[+0xOFFSET]=HEX", help="Bytes over code."
        ),
        click.option("--system-map", type=EXISTING, help="Where kallsyms lacks what is not code."),
        click.option("--vmlinux", type=EXISTING, help="With DWARF; where the kernel has no BTF."),
    ):
        function = option(function)
    return function


def pool_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who does the work."""
    for option in (
        click.option("--scheduler", help="Address of a Dask scheduler."),
        click.option("--workers", type=click.IntRange(0, 256), default=2, show_default=True, help="0: this process."),
    ):
        function = option(function)
    return function


def make_spec(
    kernel: Path,
    vmlinux: Path | None = None,
    system_map: Path | None = None,
    pokes: Pokes = (),
    modules: Path | None = None,
) -> Spec:
    """Return which kernel is meant."""
    names = [str(path.absolute()) if path else None for path in (vmlinux, system_map, modules)]
    return Spec(str(kernel.absolute()), names[0], names[1], pokes, names[2])


def say(line: str) -> None:
    """Print a line of progress."""
    click.echo(line, err=True)


@click.group(cls=Group)
def main() -> None:
    """Find what breaks a kernel's memory map: try it on physical memory layouts."""
    signal.signal(signal.SIGTERM, leave)


@main.command()
@click.argument("kernel", type=EXISTING)
@kernel_options
@pool_options
@click.option("--time", "seconds", callback=duration, metavar="10m", help="How long to try new layouts.")
@click.option("--layouts", type=click.IntRange(0), help="How many new layouts to try.  [default: 200]")
@click.option("--after-boot", is_flag=True, help="Layouts with devices, and memory brought online or taken away.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first layout's seed.")
@click.option("--store", "path", type=click.Path(path_type=Path), default=Path("explore.db"), show_default=True)
@click.option("--shrink", "least", type=click.Choice([*SEVERITIES, "never"]), default="warning", show_default=True)
@click.option("--confirm/--no-confirm", "confirmed", default=True, help="Boot minimal layouts with stock firmware too.")
@HTML
def run(
    kernel: Path,
    vmlinux: Path | None,
    system_map: Path | None,
    pokes: Pokes,
    modules: Path | None,
    workers: int,
    scheduler: str | None,
    seconds: float | None,
    layouts: int | None,
    after_boot: bool,
    seed: int,
    path: Path,
    least: str,
    confirmed: bool,
    html: Path | None,
) -> None:
    """Try KERNEL, a bzImage or vmlinux, on random layouts. A store that is there is gone on with."""
    spec = make_spec(kernel, vmlinux, system_map, pokes, modules)
    opened = spec.open()
    store = Store(path)
    name = report.kernel_name(opened)
    campaign = Campaign(spec, name, opened.image.cpu, store, say, after_boot)
    if layouts is None and seconds is None:
        layouts = 200
    pool = make_pool(workers, scheduler)
    try:
        campaign.run(pool, seed, layouts, seconds)
        if least != "never":
            campaign.shrink(pool, least)
    finally:
        pool.close()
    if confirmed:
        confirm_all(store, name, spec, kernel)
    click.echo(report.table(store, name, kernel))
    if html:
        with html.open("w", encoding="utf-8") as out:
            page.write_results(store, name, kernel, out)
    click.echo(report.reached(store, name, opened))


def confirm_all(store: Store, name: str, spec: Spec, kernel: Path) -> None:
    """Confirm the minimal layouts of a store that aren't yet."""
    for signature in store.signatures(name):
        if signature.minimal is not None and not signature.confirmed:
            said = confirm(explorer(spec), signature.minimal, signature.key, kernel)
            key = Sighting(signature.severity, signature.signature, signature.layouts, signature.example)
            store.set_minimal(name, key, signature.minimal, signature.boots, said)
            say(f"{said}: {signature.key}")


@main.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.argument("kernel", type=EXISTING)
@kernel_options
def replay(
    layout: Path,
    kernel: Path,
    vmlinux: Path | None,
    system_map: Path | None,
    pokes: Pokes,
    modules: Path | None,
) -> None:
    """Try KERNEL on the layout in a file; exit with 1 if there is an error."""
    done = perform(make_spec(kernel, vmlinux, system_map, pokes, modules), Task(dumps(read_layout(layout))))
    if done.outcome is None:
        raise HarnessError(done.error)
    click.echo(report.outcome(done.outcome))
    sys.exit(int(has_error(done.outcome)))


def has_error(outcome: Outcome) -> bool:
    """Return whether an outcome has a signature that is an error."""
    return any(sighting.severity == "error" for sighting in outcome.sightings)


@main.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.argument("kernel", type=EXISTING)
@kernel_options
@click.option("--signature", "wanted", help="A part of the signature to keep. Default: the first error.")
@click.option("--boots", type=click.IntRange(1), default=MAX_BOOTS, show_default=True, help="How many at most.")
def shrink(
    layout: Path,
    kernel: Path,
    vmlinux: Path | None,
    system_map: Path | None,
    pokes: Pokes,
    modules: Path | None,
    wanted: str | None,
    boots: int,
) -> None:
    """Print a minimal layout that still gives a signature."""
    spec = make_spec(kernel, vmlinux, system_map, pokes, modules)
    text = dumps(read_layout(layout))
    done = perform(spec, Task(text))
    if done.outcome is None:
        raise HarnessError(done.error)
    keys = sorted(done.outcome.keys, key=lambda key: (not key.startswith("error"), key))
    key = next((key for key in keys if (wanted or "error") in key), None)
    if key is None:
        raise HarnessError(f"the layout gives no such signature; it gives {'; '.join(keys) or 'none'}")
    result = perform(spec, Task(text, None, key, boots))
    if result.shrunk is None:
        raise HarnessError(result.error)
    say(f"{result.boots} boots for {key}")
    click.echo(result.shrunk)


@main.command()
@click.argument("layout", type=click.Path(path_type=Path))
@click.option("--kernel", type=EXISTING, help="Print the commands that show the layout on this bzImage, too.")
@HTML
def show(layout: Path, kernel: Path | None, html: Path | None) -> None:
    """Show a layout in words and as a picture."""
    one = read_layout(layout)
    if html:
        with html.open("w", encoding="utf-8") as out:
            page.write_layout(one, layout.name, kernel, out)
    click.echo(f"{describe(one)}\n\n{strips(one)}")
    if kernel:
        click.echo("\n" + command(one, kernel))


@main.command("from-log")
@click.argument("log", type=EXISTING)
def from_log(log: Path) -> None:
    """Print the layout of the machine that a kernel log, or a copy of /proc/iomem, is from."""
    rebuilt = rebuild(log.read_text(errors="replace"))
    for remark in rebuilt.remarks:
        say(f"note: {remark}")
    click.echo(dumps(rebuilt.layout))


@main.command("export")
@click.argument("path", type=EXISTING)
def export_store(path: Path) -> None:
    """Print all trials of a store, a line of JSON each."""
    store = Store(path)
    for name in store.kernels():
        store.export(name, sys.stdout)


@main.command("compare")
@click.argument("first", type=EXISTING)
@click.argument("second", type=EXISTING)
@pool_options
@click.option("--layouts", "corpus", type=EXISTING, default=report.CORPUS, help="A line of JSON each.")
@click.option("--least", type=click.Choice(SEVERITIES), default="note", show_default=True, help="What counts.")
def compare_kernels(first: Path, second: Path, workers: int, scheduler: str | None, corpus: Path, least: str) -> None:
    """Compare two kernels on the same layouts; exit with 1 where SECOND shows what FIRST doesn't."""
    specs = [make_spec(path) for path in (first, second)]
    names = [report.kernel_name(spec.open()) for spec in specs]
    layouts = read_corpus(corpus)
    pool = make_pool(workers, scheduler)
    try:
        result = compare(pool, specs[0], specs[1], layouts, least)
    finally:
        pool.close()
    click.echo(mail(result, names[0], names[1], second), nl=False)
    if not result.tried:
        raise HarnessError(f"no layout could be tried: {(result.failures or ['the file has none'])[0]}")
    sys.exit(1 if result.new else 0)


@main.command("mutants")
@click.argument("kernel", type=EXISTING)
@click.option("--vmlinux", type=EXISTING, help="With DWARF; where the kernel has no BTF.")
@click.option("--system-map", type=EXISTING, help="Where kallsyms lacks what is not code.")
@pool_options
@click.option("--count", type=click.IntRange(1), default=25, show_default=True, help="How many mistakes.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which ones, and which layouts.")
@click.option("--layouts", type=click.IntRange(1), default=60, show_default=True, help="How many each, at most.")
def try_mutants(
    kernel: Path,
    vmlinux: Path | None,
    system_map: Path | None,
    workers: int,
    scheduler: str | None,
    count: int,
    seed: int,
    layouts: int,
) -> None:
    """Put mistakes into KERNEL, one at a time, and see how many layouts show it; the bug of 2021 is the first."""
    spec = make_spec(kernel, vmlinux, system_map)
    opened = spec.open()
    pool = make_pool(workers, scheduler)
    try:
        (plain,) = pool.run(spec, iter([Task(dumps(opened.plain))]))
        if plain.outcome is None:
            raise HarnessError(plain.error)
        every = planted.mutants(opened, plain.outcome.blocks)
        trial = planted.Trial(pool, spec, planted.layouts(read_corpus(report.CORPUS), layouts, seed, opened.image.cpu))
        old = planted.bug_of_2021(opened)
        shown = 0
        for number, mutant in enumerate([*old, *planted.choose(every, count, seed)], 1):
            result = trial.run(mutant)
            shown += bool(result.keys)
            click.echo(f"{number} {planted.line(result)}")
    finally:
        pool.close()
    click.echo(f"{shown} of {number} mistakes shown; {len(every)} are possible")


if __name__ == "__main__":
    main()
