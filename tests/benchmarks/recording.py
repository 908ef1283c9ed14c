# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Recordings of busy guests: captures of about 100 MB, made when they are asked for, that :mod:`tests.benchmarks.tiles`
makes large machines of.

A guest has two nodes with a zone Normal each, four CPUs, and most of its memory in use: large and small files (tmpfs,
in huge pages and not), a file system on a loop device, processes, HugeTLB, and what is left when a part of that ends.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from contrib.kernels.fetch import cache_dir
from contrib.kernels.matrix import find_row
from contrib.kernels.row import boot_row
from mminspect.commands.capture import capture
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel

KERNELS = ("6.1", "6.12", "7.2")
MEMORY = "6G"
# Below 3 GiB, and from 4 GiB to 5 GiB; then to 7 GiB. So both zones Normal are of whole sections.
NODES = ("4G", "2G")
CPUS = 4

USE = (
    "echo 48 >/proc/sys/vm/nr_hugepages; mkdir /large /small /huge",
    "mount -t tmpfs -o size=3g large /large; mount -t tmpfs -o size=1500m small /small",
    "mount -t tmpfs -o size=600m,huge=always huge /huge",
    "for i in $(seq 110); do dd if=/dev/zero of=/large/$i bs=1M count=20 2>/dev/null; done & A=$!",
    "for i in $(seq 6000); do echo $i >/small/$i; done & B=$!",
    "for i in $(seq 60); do dd if=/dev/zero of=/huge/$i bs=1M count=8 2>/dev/null; done",
    "for i in $(seq 150); do sleep 100000 & done",
    "wait $A $B",
    "for i in $(seq 1 3 110); do rm /large/$i; done & A=$!",
    "for i in $(seq 1 4 60); do rm /huge/$i; done",
    "for i in $(seq 40); do dd if=/dev/zero of=/small/again$i bs=4k count=4000 2>/dev/null; done",
    "wait $A",
    "for i in $(seq 1 2 40); do rm /small/again$i; done & A=$!",
    "for i in $(seq 2 5 6000); do rm /small/$i; done",
    "for i in $(seq 1 3 110); do dd if=/dev/zero of=/large/more$i bs=4k count=2000 2>/dev/null; done",
    "for i in $(seq 20); do dd if=/dev/zero of=/small/last bs=64k count=100 2>/dev/null; rm /small/last; done; wait $A",
)


def node_arguments() -> tuple[str, ...]:
    """Get QEMU's arguments for the nodes and CPUs."""
    arguments = ["-smp", str(CPUS)]
    for node, size in enumerate(NODES):
        first = node * CPUS // len(NODES)
        cpus = f"cpus={first}-{first + CPUS // len(NODES) - 1}"
        arguments += ["-object", f"memory-backend-ram,id=node{node},size={size}"]
        arguments += ["-numa", f"node,nodeid={node},{cpus},memdev=node{node}"]
    return tuple(arguments)


def record(kernel: str, directory: Path | None = None) -> Path:
    """
    Get the recording of a busy guest; boot it first if there is none.

    :param kernel: One of :data:`KERNELS`.
    :param directory: Where recordings are kept.
    """
    directory = directory or cache_dir() / "benchmarks"
    out = directory / f"busy-{kernel}"
    if out.exists():
        return out
    directory.mkdir(parents=True, exist_ok=True)
    dump = out.with_name(f"{out.name}.dump")
    click.echo(f"boots a guest for {out}", err=True)
    row = dataclasses.replace(
        find_row(f"amd64-{kernel}"),
        name=out.name,
        memory=MEMORY,
        qemu_args=node_arguments(),
        shell=USE,
        timeout=1500.0,
    )
    part = out.with_name(f"{out.name}.part")
    try:
        boot_row(row, dump)
        inputs = Inputs(str(dump))
        with open_kernel(inputs) as opened, part.open("wb") as file:
            capture(opened, inputs, file)
        part.rename(out)
    finally:
        dump.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return out
