# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet: what is read and kept, how it is grouped; and that nothing is lost or doubled, whatever is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mminspect.errors import MminspectError
from mminspect.fleet.examine import layout_in_words
from mminspect.fleet.show import groups, write_parquet
from mminspect.fleet.sources import Source, expand
from mminspect.fleet.store import ROWS, Store
from mminspect.fleet.task import Limits, read_file
from tests.conftest import Cli, Plant, Unpacked, complaint
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, ROOT, VMCORES
from tests.program.test_text import is_harmless

pytest.importorskip("distributed")
pytest.importorskip("duckdb")

NAMES = ("amd64-5.10-bug", "amd64-6.12-sysrq", "amd64-6.12-damaged", "amd64-6.1-healthy", "i386-5.10-hole")
LOG = b"[    1.000000] Linux version 6.1.0\n[    2.000000] BUG: Bad page state in process a  pfn:01234\n"


def source(path: Path) -> Source:
    """Look at a file."""
    (one,) = expand([str(path)])
    return one


def read_path(path: str, limits: Limits = Limits()) -> list[dict[str, Any]]:  # noqa: B008
    """Read a file as a worker does."""
    return read_file(*source(Path(path))[:3], limits)


def test_sources_are_files_folders_globs_and_lists(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c*"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "list").write_text(f"{tmp_path}/a\n\n{tmp_path}/b\n")
    named = [str(tmp_path / "a"), f"@{tmp_path}/list", str(tmp_path / "c*"), str(tmp_path / "[ef]*")]
    found = list(expand(named))
    assert [Path(one.path).name for one in found] == ["a", "1", "2", "c*", "empty", "fifo"]
    assert [one.skipped for one in found[-2:]] == ["empty", "not a regular file"]
    for bad in ("missing", "@missing", "no*"):
        with pytest.raises(MminspectError, match=r"No such file|no file is named"):
            list(expand([str(tmp_path / bad) if bad[0] != "@" else f"@{tmp_path}/missing"]))


def test_store_cuts_off_what_is_half_written_and_goes_on(tmp_path: Path) -> None:
    one, two = Source("/a", 1, 1), Source("/b", 2, 2)
    store = Store(str(tmp_path))
    store.add(one, [{"row": "finding", "rule": "x"}, {"row": "file", "status": "read"}])
    store.close()
    whole = (tmp_path / ROWS).read_bytes()
    for torn in (b'{"row": "fi', b'{"row": "finding", "path": "/b", "size": 2, "mtime_ns": 2}\n', whole[:30]):
        (tmp_path / ROWS).write_bytes(whole + torn)
        store = Store(str(tmp_path))
        assert store.done == {one.key: "read"}
        store.close()
        assert (tmp_path / ROWS).read_bytes() == whole
    store = Store(str(tmp_path))
    store.add(two, [{"row": "file", "status": "failed", "error": "x"}])
    with pytest.raises(MminspectError, match="another run uses it"):
        Store(str(tmp_path))
    store.close()
    (tmp_path / ROWS).write_bytes(b'{"row": "file"}\n')
    with pytest.raises(MminspectError, match="damaged"):
        Store(str(tmp_path))


def test_file_is_read_in_a_process_of_its_own() -> None:
    path = str(VMCORES / "amd64-5.10-bug.xz")
    *findings, file = read_path(path)
    assert (file["status"], file["verdict"], file["function"]) == ("read", "explained", "set_pfnblock_flags_mask")
    assert file["known"][0] == "holes-in-zone-0"
    assert file["layout"] == "1 node, zones DMA, DMA32, no holes"
    assert len(findings) == file["findings"] > 1


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(timeout=0.001), "the process that read it took longer than 0.001 s, twice"),
        (Limits(memory=1 << 20), "needs more than 1 MiB of memory"),
    ],
)
def test_file_that_takes_too_much_is_recorded_and_the_next_is_read(limits: Limits, says: str) -> None:
    path = str(VMCORES / "amd64-6.12-damaged.xz")
    (row,) = read_path(path, limits)
    assert (row["status"], row["error"]) == ("failed", says)
    assert read_path(path)[-1]["status"] == "read"


def test_nothing_of_a_file_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server has its own environment: it is asked which folders are there.
    before = {path.name for path in Path("/tmp").glob("mminspect-fleet-*")}
    path = str(VMCORES / "i386-5.10-hole.xz")
    read_path(path)
    read_path(path, Limits(timeout=0.01))
    assert {path.name for path in Path("/tmp").glob("mminspect-fleet-*")} == before


@pytest.mark.parametrize(
    ("holes", "zones", "text"),
    [
        ([], [("DMA", 0, 1, 10)], "1 node, zones DMA, no holes"),
        ([(5, 6)], [("DMA", 0, 1, 10), ("DMA", 1, 10, 20)], "2 nodes, zones DMA, a hole below 4 GiB"),
        ([(0, 1)], [("DMA", 0, 1, 10)], "1 node, zones DMA, no holes"),
        ([(5, 6), (1 << 20, (1 << 20) + 1)], [("N", 0, 1, 1 << 21)], "1 node, zones N, holes below and above 4 GiB"),
        (
            [(1 << 20, (1 << 20) + 1)],
            [("N", 0, 1, 9), ("N", 1, 8, 10)],
            "2 nodes, zones N, a hole above 4 GiB, zones that overlap",
        ),
    ],
)
def test_layout_in_words(holes: Any, zones: Any, text: str) -> None:
    data = {
        "holes": [{"start_pfn": start, "end_pfn": end} for start, end in holes],
        "zones": [{"name": n, "node": node, "start_pfn": start, "end_pfn": end} for n, node, start, end in zones],
    }
    assert layout_in_words(data, 4096, False) == text
    # Sections tell where holes are, and FLATMEM has none.
    assert "hole" not in layout_in_words(data, 4096, True) and "FLATMEM" in layout_in_words(data, 4096, True)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of vmcores, a log, and what is neither."""
    folder = tmp_path_factory.mktemp("fleet")
    for name in NAMES:
        shutil.copy(VMCORES / f"{name}.xz", folder)
    (folder / "dmesg").write_bytes(LOG)
    (folder / "notes.txt").write_bytes(b"call back on Monday\n" * 9)
    (folder / "noise").write_bytes(bytes(range(256)) * 64)
    (folder / "empty").touch()
    (folder / "cut.xz").write_bytes((VMCORES / f"{NAMES[0]}.xz").read_bytes()[:30_000])
    return folder


@pytest.fixture(scope="module")
def done(fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run over it."""
    out = tmp_path_factory.mktemp("out")
    ended = fleet_run(str(fleet), "--out", str(out), "--workers", "2")
    assert ended.returncode == 1, ended.stderr
    return out


def fleet_run(*arguments: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    """Run ``mminspect fleet run``."""
    command = [sys.executable, "-m", "mminspect", "fleet", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **extra)


def rows_of(out: Path, kind: str = "file") -> list[dict[str, Any]]:
    """Get the rows of one kind."""
    rows = [json.loads(line) for line in (out / ROWS).read_text().splitlines()]
    return [row for row in rows if row["row"] == kind]


def test_each_file_has_one_row(fleet: Path, done: Path) -> None:
    status = {Path(row["path"]).name: row["status"] for row in rows_of(done)}
    assert len(rows_of(done)) == len(status) == len(list(fleet.iterdir()))
    assert {name for name, what in status.items() if what == "skipped"} == {"notes.txt", "noise", "empty"}
    assert {name for name, what in status.items() if what == "failed"} == {"cut.xz"}
    files = {(row["path"], row["size"], row["mtime_ns"]) for row in rows_of(done)}
    assert {(row["path"], row["size"], row["mtime_ns"]) for row in rows_of(done, "finding")} <= files
    assert (done / "files.parquet").stat().st_size and (done / "findings.parquet").stat().st_size


def test_rows_and_groups_are_as_the_schemas_say(done: Path, cli: Cli) -> None:
    for line in (done / ROWS).read_text().splitlines():
        jsonschema.validate(json.loads(line), schema("fleet-1"))
    jsonschema.validate(cli("fleet", "show", done, "--format", "json").json(), schema("fleet-groups-1"))


def schema(name: str) -> Any:
    """Read a schema of the package."""
    return json.loads((ROOT / "mminspect" / "schemas" / f"{name}.json").read_text())


def test_what_is_read_is_not_read_again_but_what_failed_can_be(fleet: Path, done: Path) -> None:
    before = (done / ROWS).read_bytes()
    ended = fleet_run(str(fleet), "--out", str(done))
    assert "10 done before" in ended.stderr and ended.returncode == 1
    assert (done / ROWS).read_bytes() == before
    ended = fleet_run(str(fleet), "--out", str(done), "--retry-failed", "--workers", "1")
    assert "1 file, 1 failed, 9 done before" in ended.stderr
    # It counts once.
    assert groups(str(done), "signature")["files"] == {"read": 6, "failed": 1, "skipped": 3}


def test_first_screen_has_the_problems(done: Path, cli: Cli) -> None:
    out = cli("fleet", "show", done, "--width", "120").out
    head, *blocks = re.split(r"\n\n(?=\d+\. |Not read)", out)
    assert head.startswith("6 files read, 1 failed, 3 skipped; ")
    first = next(block for block in blocks if "set_pfnblock_flags_mask()" in block)
    assert blocks.index(first) < 2
    for line in (
        "verdict    explained",
        "known bug  holes-in-zone-0",
        "releases   5.10.262",
        "next       mminspect triage /",
    ):
        assert line in first
    assert "fixed in 5.12, in stable 5.11.7, 5.10.24 by 0740a50b9baa" in " ".join(first.split())
    assert "1 failed: " in blocks[-1] and "cut.xz" in blocks[-1]


@pytest.mark.parametrize("by", ["signature", "bug", "rule", "function", "release", "host-layout"])
def test_groups_have_each_file(by: str, done: Path, cli: Cli) -> None:
    data = cli("fleet", "show", done, "--by", by, "--format", "json").json()
    assert data["schema"] == "mminspect.fleet-groups/1"
    assert sum(group["files"] for group in data["groups"]) >= 6
    assert not re.search("0x|ffff[0-9a-f]{12}", json.dumps([group["key"] for group in data["groups"]]))
    for format_ in ("csv", "html"):
        text = cli("fleet", "show", done, "--by", by, "--format", format_).out
        assert all(group["example"] in text for group in data["groups"])


def test_since_leaves_out_older_ones(done: Path, cli: Cli) -> None:
    assert cli("fleet", "show", done, "--since", "2001-01-01", "--format", "json").json()["groups"]
    assert cli("fleet", "show", done, "--since", "2200-01-01T10:00", "--format", "json").json()["groups"] == []
    assert "no date" in complaint(cli("fleet", "show", done, "--since", "yesterday"))


def test_same_fault_on_different_machines_is_one_group(plant: Plant, tmp_path: Path) -> None:
    """Zeroed struct pages in the middle of memory, elsewhere on each machine."""
    (tmp_path / "fleet").mkdir()
    store = Store(str(tmp_path / "out"))
    for name, pfn in ((AMD64_HEALTHY, 0x2000), (AMD64_HEALTHY, 0x4000), (AMD64_400M, 0x3000)):
        fault = plant(name)
        fault.editor.write(fault.page(pfn), bytes(64 * fault.size))
        path = tmp_path / "fleet" / f"{name}-{pfn:#x}"
        shutil.copy(fault.editor.path, path)
        store.add(source(path), read_path(str(path)))
    store.close()
    found = groups(str(tmp_path / "out"), "signature")["groups"]
    assert [(group["files"], "/zeroed" in group["key"]) for group in found] == [(3, True)], found


def test_hostile_names_and_rows_do_no_harm(tmp_path: Path, cli: Cli) -> None:
    store = Store(str(tmp_path))
    text = "=cmd|'\x1b]0;x\x07<script>alert(1)</script>\u202e', \"a\"; DROP TABLE files"
    row = {"row": "file", "status": "read", "release": text, "function": text, "verdict": "explained", "why": text}
    store.add(Source(f"/{text}", 1, 1), [{**row, "known": [text], "rules": {text: 1}, "layout": text, "source": "log"}])
    store.add(Source("/b", 1, 1), [{"row": "file", "status": "failed", "error": text}])
    store.close()
    write_parquet(str(tmp_path))
    for by in ("signature", "bug", "rule", "host-layout"):
        for format_ in ("table", "csv", "html", "json"):
            done = cli("fleet", "show", tmp_path, "--by", by, "--format", format_)
            assert done.status == 0
            assert is_harmless(done.out)
            assert "<script" not in done.out or format_ != "html"
            assert not any(line.startswith("=") for line in done.out.splitlines())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no results of 'mminspect fleet run' are there"),
        (lambda path: (path / ROWS).write_bytes(b"\0\1\2"), ROWS),
        (lambda path: (path / ROWS).write_bytes(b'{"row": "file", "rules": 3}\n'), ROWS),
    ],
)
def test_folder_that_is_none_is_refused_in_a_line(make: Any, says: str, tmp_path: Path, cli: Cli) -> None:
    make(tmp_path)
    assert says in complaint(cli("fleet", "show", tmp_path))


def test_folder_without_rows_has_no_groups(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / ROWS).touch()
    assert cli("fleet", "show", tmp_path).out.startswith("0 files read, 0 failed, 0 skipped; 0 groups")


def many(fleet: Path, tmp_path: Path, number: int) -> Path:
    """Make a fleet of copies."""
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(number):
        for name in NAMES[:3]:
            # What follows a compressed file is padding, and makes each another one.
            (folder / f"{copy}-{name}.xz").write_bytes((fleet / f"{name}.xz").read_bytes() + bytes(4 * copy))
    return folder


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start ``mminspect fleet run``."""
    command = [sys.executable, "-m", "mminspect", "fleet", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(out: Path, number: int) -> None:
    """Wait until some files are done."""
    for _ in range(600):
        if (out / ROWS).exists() and len(
            [1 for line in (out / ROWS).read_bytes().splitlines() if b'"file"' in line]
        ) >= number:
            return
        time.sleep(0.1)
    pytest.fail("nothing is read")


def check_all(folder: Path, out: Path) -> None:
    """Check that each file was read, once."""
    paths = [row["path"] for row in rows_of(out)]
    assert sorted(paths) == sorted(map(str, folder.iterdir()))
    assert {row["status"] for row in rows_of(out)} == {"read"}
    by_file = {row["path"]: row["findings"] for row in rows_of(out)}
    counted = dict.fromkeys(by_file, 0)
    for row in rows_of(out, "finding"):
        counted[row["path"]] += 1
    assert counted == by_file


def test_client_that_is_killed_loses_and_doubles_nothing(fleet: Path, tmp_path: Path) -> None:
    folder, out = many(fleet, tmp_path, 4), tmp_path / "out"
    client = started(str(folder), "--out", str(out), "--workers", "2")
    wait_for_rows(out, 3)
    client.kill()
    client.communicate(timeout=30)
    assert len(rows_of(out)) < 12
    assert fleet_run(str(folder), "--out", str(out), "--workers", "2").returncode == 0
    check_all(folder, out)


def test_interrupt_ends_with_what_is_there(fleet: Path, tmp_path: Path) -> None:
    folder, out = many(fleet, tmp_path, 4), tmp_path / "out"
    client = started(str(folder), "--out", str(out), "--workers", "1")
    wait_for_rows(out, 2)
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "run the same command again to go on" in err and "Traceback" not in err
    assert 2 <= len(rows_of(out)) < 12
    assert groups(str(out), "signature")["groups"]
    assert fleet_run(str(folder), "--out", str(out)).returncode == 0
    check_all(folder, out)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and two workers by hand, on the loopback."""
    where = tmp_path / "scheduler.json"
    base = [sys.executable, "-m"]
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
    running = [subprocess.Popen([*base, "distributed.cli.dask_scheduler", *options], **null)]  # type: ignore[call-overload]
    try:
        for _ in range(300):
            if where.exists() and where.stat().st_size:
                break
            time.sleep(0.1)
        address = json.loads(where.read_text())["address"]
        for _ in range(2):
            worker = [
                "distributed.cli.dask_worker",
                address,
                "--nthreads",
                "1",
                "--no-dashboard",
                "--host",
                "127.0.0.1",
            ]
            running.append(subprocess.Popen([*base, *worker], **null))  # type: ignore[call-overload]
        yield address, running
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def test_worker_that_is_killed_loses_and_doubles_nothing(fleet: Path, tmp_path: Path, cluster: Any) -> None:
    address, (_, worker, _) = cluster
    folder, out = many(fleet, tmp_path, 4), tmp_path / "out"
    client = started(str(folder), "--out", str(out), "--scheduler", address)
    wait_for_rows(out, 2)
    worker.kill()
    _, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    check_all(folder, out)


def test_scheduler_that_is_killed_is_said_and_the_run_goes_on_elsewhere(
    fleet: Path, tmp_path: Path, cluster: Any
) -> None:
    address, (scheduler, *_) = cluster
    folder, out = many(fleet, tmp_path, 4), tmp_path / "out"
    client = started(str(folder), "--out", str(out), "--scheduler", address)
    wait_for_rows(out, 2)
    scheduler.kill()
    _, err = client.communicate(timeout=120)
    assert client.returncode == 2
    assert "the Dask scheduler is gone; run the same command again to go on" in err
    assert "Traceback" not in err
    assert fleet_run(str(folder), "--out", str(out), "--workers", "2").returncode == 0
    check_all(folder, out)


def test_scheduler_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_bytes(LOG)
    done = fleet_run(str(tmp_path / "dmesg"), "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith("mminspect: no Dask scheduler at tcp://127.0.0.1:1: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["distributed", "duckdb"])
def test_what_is_not_installed_is_said(module: str, tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_bytes(LOG)
    code = f"import sys; sys.modules[{module!r}] = None; from mminspect.cli.run import run; run(tuple(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fleet", "run", str(tmp_path / "dmesg"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "is not installed; install it with: pip install 'mminspect[fleet]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_scan_imports_nothing_of_fleets(unpacked: Unpacked) -> None:
    code = "import sys; from mminspect.cli.run import run\ntry: run(tuple(sys.argv[1:]))\nexcept SystemExit: pass\n"
    code += "sys.exit(' '.join({'dask', 'distributed', 'duckdb', 'mminspect.fleet'} & set(sys.modules)) or None)"
    command = [sys.executable, "-c", code, "scan", str(unpacked(AMD64_400M))]
    assert (
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False).stderr == b""
    )


def test_known_bug_of_a_machine_that_lives(cli: Cli, unpacked: Unpacked) -> None:
    *_, row = read_path(str(unpacked("i386-5.10-hole")))
    assert row["verdict"] == "unknown" and "unwritten-holes" in row["known"]
    *_, row = read_path(str(unpacked(AMD64_HEALTHY)))
    assert "unwritten-holes" not in row["known"]
