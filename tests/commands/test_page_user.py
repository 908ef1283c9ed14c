# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page behind a process's address, and the slab object at an address of the kernel."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from drgn.helpers.linux.pid import find_task

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Source, cached, fetch, fetch_busybox
from contrib.kernels.matrix import find_row
from contrib.kernels.row import boot_row
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY, open_core

# Of each mapping of a process, its start, and what pagemap says of the page there.
GUEST = (
    "sleep 1000 & pid=$!",
    "sleep 1",
    'echo "TRUTH pid $pid"',
    "for range in $(cut -d ' ' -f 1 /proc/$pid/maps); do start=$((0x${range%-*})); "
    "entry=$(dd if=/proc/$pid/pagemap bs=8 skip=$((start / 4096)) count=1 2>&- | hexdump -v -e '2/4 \"%08x \"'); "
    'echo "TRUTH page $start $entry"; done',
)
PRESENT, PFN = 1 << 63, (1 << 55) - 1


class Guest(NamedTuple):
    """
    A guest's dump, and what it said of a process of its own.

    :ivar pages: Pfns by address; ``None`` where nothing is present.
    """

    core: Path
    pid: int
    pages: dict[int, int | None]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    for program in ("qemu-system-x86_64", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    row = replace(find_row("amd64-6.12"), after=GUEST)
    assert isinstance(row.source, Source)
    try:
        kernel = cached(row.source) or fetch(row.source, debug=False)
        busybox = fetch_busybox(row.source.suite, row.source.arch)
    except HarnessError as e:
        pytest.skip(f"the kernel can't be had: {e}")
    booted = boot_row(row, tmp_path_factory.mktemp("guest") / "core", kernel, busybox)
    said = booted.log.read_text(errors="replace")
    (pid,) = re.findall(r"TRUTH pid (\d+)", said)
    found = re.findall(r"TRUTH page (\d+) ([0-9a-f]{8}) ([0-9a-f]{8})", said)
    entries = {int(start): int(high + low, 16) for start, low, high in found}
    yield Guest(booted.core, int(pid), {at: e & PFN if e & PRESENT else None for at, e in entries.items()})


@pytest.mark.vm
def test_pages_of_a_process_are_those_that_pagemap_has(guest: Guest, cli: Cli) -> None:
    assert len(guest.pages) > 4 and any(guest.pages.values())
    memory = open_core(guest.core).memory
    for address, pfn in guest.pages.items():
        done = cli("-c", guest.core, "page", "--pid", guest.pid, "--brief", "--format", "json", hex(address + 0x123))
        if pfn is None:
            assert "has no page there" in complaint(done)
        elif memory.section(pfn) is None:
            assert "no online struct page" in complaint(done)
        else:
            data = done.json()
            assert (data["start_pfn"], data["understood_as"]) == (pfn, "user address")
            process = {"pid": guest.pid, "comm": "sleep", "address": address + 0x123}
            assert data["process"] == {**process, "physical_address": pfn * 4096 + 0x123}


@pytest.mark.vm
def test_the_whole_page_is_shown(guest: Guest, cli: Cli) -> None:
    address, pfn = next((at, pfn) for at, pfn in guest.pages.items() if pfn)
    out = cli("-c", guest.core, "page", "--pid", guest.pid, address).out
    assert out.startswith(f"{address:#x} of PID {guest.pid} (sleep) is at physical address {pfn * 4096:#x}.\n")
    assert f"{pfn:#x} ({pfn})" in out


@pytest.mark.vm
@pytest.mark.parametrize(
    ("pid", "address", "words"),
    [
        ("1999999", "0x400000", "there is no process 1999999"),
        ("2", "0x400000", "PID 2 (kthreadd): a kernel thread"),
        ("1", "0xffff888000001000", "no address of user space"),
        ("1", "0x10", "PID 1 (init) has no page there"),
        ("1", "0x1000-0x2000", "not an address"),
        ("1", "0x" + "f" * 40, "no address of user space"),
    ],
)
def test_addresses_without_a_page_say_why(guest: Guest, pid: str, address: str, words: str, cli: Cli) -> None:
    assert words in complaint(cli("-c", guest.core, "page", "--pid", pid, address))


@pytest.mark.vm
def test_slab_objects_are_those_that_the_kernel_has(guest: Guest, cli: Cli) -> None:
    task = find_task(open_core(guest.core).prog, guest.pid)
    for pointer, cache in ((task, "task_struct"), (task.mm, "mm_struct"), (task.fs.root.dentry, "dentry")):
        address = pointer.value_()
        for offset in (0, 24):
            done = cli("-c", guest.core, "page", "--slab", "--brief", "--format", "json", hex(address + offset))
            data = done.json()
            found = data["slab_object"]
            assert (found["cache"], found["object"], found["offset"]) == (cache, address, offset)
            assert found["allocated"] is True and 0 <= found["index"] < found["objects"]
            assert found["start"] <= address and found["object_size"] <= address + found["object_size"] - found["start"]
            assert data["understood_as"] == "slab object"
    text = cli("-c", guest.core, "page", "--slab", hex(task.value_() + 8)).out.splitlines()[0]
    assert f"is byte 8 of the object at {task.value_():#x} of cache task_struct" in text and "allocated" in text


@pytest.mark.vm
def test_what_is_in_no_slab_says_so(guest: Guest, cli: Cli) -> None:
    memory = open_core(guest.core)
    text = memory.prog.symbol("linux_banner").address
    assert "has no slab" in complaint(cli("-c", guest.core, "page", "--slab", hex(text)))
    assert "no kernel virtual address" in complaint(cli("-c", guest.core, "page", "--slab", "0x1000"))


@pytest.mark.vm
def test_a_capture_has_no_processes(guest: Guest, cli: Cli, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert cli("-c", guest.core, "capture", "-o", small).status == 0
    assert "a capture has no page tables" in complaint(cli("-c", small, "page", "--pid", guest.pid, "0x400000"))


def test_options_that_do_not_go_together(unpacked: Unpacked, cli: Cli) -> None:
    core = unpacked(AMD64_HEALTHY)
    assert "give one of them" in complaint(cli("-c", core, "page", "--slab", "--pid", "1", "0x1000"))
    assert "1<=x<=4194304" in complaint(cli("-c", core, "page", "--pid", "0", "0x1000"))
    assert "give one number" in complaint(cli("-c", core, "page", "--slab", "0x1000-0x2000"))
    assert "a capture has no page tables" in complaint(cli("-c", core, "page", "--pid", "1", "0x1000"))
