# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest of the matrix: what it is, where its kernel comes from, and how it is booted."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from contrib.kernels import build
from contrib.kernels.boot import ELF, Booted, Guest, QmpCommand, boot
from contrib.kernels.build import Recipe
from contrib.kernels.fetch import Kernel, Source, cached, fetch, fetch_busybox, vmlinux_of
from contrib.kernels.initrd import build_initrd


@dataclass(frozen=True)
class Row:
    """One guest of the matrix."""

    name: str
    source: Source | Recipe
    note: str
    """What this guest shows."""
    memory: str = "400M"
    qemu_args: tuple[str, ...] = ()
    append: str = ""
    kaslr: bool = False
    paging: bool = False
    format: str = ELF
    modules: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    """Lines that init runs before it prints anything."""
    qmp: tuple[QmpCommand, ...] = ()
    qmp_again: tuple[QmpCommand, ...] = ()
    """Commands for when a line of shell asks with ask_again()."""
    srat: bytes = b""
    """An ACPI table of nodes instead of the firmware's."""
    timeout: float = 300.0
    after: tuple[str, ...] = ()
    """Lines that init runs after it printed everything."""
    panics: bool = False
    """The kernel is meant to panic."""
    verdict: str = ""
    """What triage must say of the kernel's panic."""
    pokes: bool = False
    """The lines in after print what to write into the kernel's memory, as layouts.poke() has them."""


def fetch_row(row: Row, debug: bool = True) -> tuple[Kernel, Path]:
    """Fetch or build what a row boots: its kernel and a busybox of its architecture."""
    source = row.source
    kernel = build.build(source) if isinstance(source, Recipe) else fetch(source, debug)
    return kernel, fetch_busybox(source.suite, source.arch)


def kernel_of(row: Row) -> Kernel:
    """Return the kernel of a row. What is already in the cache is not looked for again."""
    if isinstance(row.source, Recipe):
        return build.build(row.source)
    return cached(row.source) or fetch(row.source)


def debug_of(row: Row, release: str) -> Path | None:
    """Return the vmlinux with DWARF of the release that a row's dump is of, or None."""
    if isinstance(row.source, Recipe):
        return build.build(row.source).vmlinux
    return vmlinux_of(row.source, release)


def boot_row(row: Row, out: Path, kernel: Kernel | None = None, busybox: Path | None = None) -> Booted:
    """Boot a row and dump its memory."""
    kernel = kernel or kernel_of(row)
    busybox = busybox or fetch_busybox(row.source.suite, row.source.arch)
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        initrd = build_initrd(
            Path(temporary, "initrd"),
            kernel.modules,
            busybox,
            row.modules,
            row.shell,
            bool(row.qmp),
            row.after,
            {"srat": row.srat} if row.srat else None,
        )
        guest = Guest(
            arch=row.source.arch,
            kernel=kernel.vmlinuz,
            initrd=initrd,
            memory=row.memory,
            qemu_args=row.qemu_args,
            append=row.append,
            kaslr=row.kaslr,
            paging=row.paging,
            format=row.format,
            qmp=row.qmp,
            qmp_again=row.qmp_again,
            timeout=row.timeout,
            panics=row.panics,
            pokes=row.pokes,
        )
        return boot(guest, out)


def describe(row: Row) -> str:
    """Return one line about a row, as 'list' prints it."""
    options = [f"-m {row.memory}"]
    options += [shlex.join(row.qemu_args)] if row.qemu_args else []
    options += [f"'{row.append}'"] if row.append else []
    return f"{row.name:<26} {row.note} ({' '.join(options)})"
