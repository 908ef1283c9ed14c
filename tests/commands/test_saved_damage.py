# SPDX-License-Identifier: LGPL-2.1-or-later
"""Saved reports and maps that were damaged or forged: one line, and nothing of them on the terminal."""

from __future__ import annotations

import copy
import json
import os
import random
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands import saved
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_NUMA, I386_HOLE
from tests.program.test_text import is_harmless

TRIES = 60
VALUES: list[Any] = [
    *(None, True, -1, 0, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 65), 1.5, float("nan"), 1e308, "", "x" * 5000),
    *("<script>alert(1)</script>", "\x1b[31mred", "\u202e\u200b", "\ud800", [], {}, [[]], {"a": 1}, "error"),
]
COMMANDS = (
    ("map", "--from", "BAD"),
    ("map", "--from", "BAD", "--by", "zone"),
    ("map", "--from", "BAD", "--format", "html"),
    ("map", "0x100-0x2000", "--from", "BAD", "--by", "zone"),
    ("diff", "BAD", "GOOD"),
    ("diff", "GOOD", "BAD", "--format", "html"),
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Get the places of values, of long lists the first."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data[:6]) if isinstance(data, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def damaged(data: Any, random_: random.Random) -> Any:
    """Take a value out of a file, or put another in its place."""
    result = copy.deepcopy(data)
    *path, last = random_.choice(list(places(data)))
    part = result
    for key in path:
        part = part[key]
    if isinstance(part, dict) and not random_.randrange(4):
        del part[last]
    else:
        part[last] = random_.choice(VALUES)
    return result


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("command", ["map", "scan"])
@pytest.mark.parametrize("name", [I386_HOLE, AMD64_NUMA])
def test_damaged_files_end_in_a_line(name: str, command: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    data = cli(
        command, "-c", unpacked(name), "--format", "json", *(["--fail-on", "never"] * (command == "scan"))
    ).json()
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(json.dumps(data))
    random_ = random.Random(f"{name} {command}")
    for _ in range(TRIES):
        bad.write_text(json.dumps(damaged(data, random_)))
        words = {"BAD": str(bad), "GOOD": str(good)}
        arguments = random_.choice(COMMANDS)
        done = cli(*(words.get(word, word) for word in arguments))
        if done.status == 2:
            assert "report it" not in complaint(done), bad.read_text()[:2000]
        assert done.status in (0, 1, 2)
        assert "html" in arguments or is_harmless(done.out)
        assert is_harmless(done.err) and len(done.err.splitlines()) <= 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"schema": ' + b"[" * 100_000, "damaged: not as mminspect wrote it"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "damaged: not as mminspect wrote it"),
        (b"\xef\xbb\xbf{}", "JSON, but neither a report nor a map of mminspect"),
        (b"\0" * 100, "neither a report nor a map in JSON"),
    ],
    ids=["deep", "long number", "byte order mark", "zeros"],
)
def test_limits_of_python_are_no_words_for_a_user(data: bytes, says: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(data)
    assert complaint(cli("map", "--from", path)).endswith(says)


def test_a_file_without_end_is_not_read(cli: Cli) -> None:
    assert complaint(cli("map", "--from", "/dev/zero")).endswith("neither a report nor a map in JSON")


def test_a_file_that_is_too_large_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "MAX_SIZE", 1 << 20)
    path = tmp_path / "map.json"
    path.write_bytes(b'{"a": "' + b"x" * (2 << 20))
    assert complaint(cli("map", "--from", path)).endswith("larger than 1 MiB, as no report and no map is")


def test_a_side_of_a_diff_can_come_through_a_pipe(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    cli("scan", "-c", unpacked(I386_HOLE), "--format", "json", "-o", report)
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writer, report.read_bytes()), os.close(writer)))
    thread.start()
    done = cli("diff", f"/dev/fd/{reader}", report)
    thread.join()
    os.close(reader)
    assert "No difference" in done.out and done.status == 0


def test_what_is_missing_in_a_finding_is_said_to_be_damage(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    data = cli("scan", "-c", unpacked(I386_HOLE), "--format", "json", "--fail-on", "never").json()
    del data["findings"][0]["detail"]["consequences"][0]["function"]
    bad = tmp_path / "bad"
    bad.write_text(json.dumps(data))
    assert complaint(cli("map", "--from", bad, "--format", "html")).endswith("bad: damaged: not as mminspect wrote it")


def test_reading_takes_no_more_memory_than_there_is(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    cli("scan", "-c", unpacked(I386_HOLE), "--format", "json", "-o", report)
    tracemalloc.start()
    saved.load(str(report))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
