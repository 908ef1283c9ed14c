# SPDX-License-Identifier: LGPL-2.1-or-later
"""A short run of the fuzzer, always with the same cases, and the fuzzer itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.case import Result, damaged, faults
from tests.fuzz.damage import Damage, Damager
from tests.fuzz.inputs import PACKED, Inputs, names
from tests.kit.support import ROOT

CASES = 60


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", [1, 2])
def test_short_run_stays_inside_the_bounds(seed: int, tmp_path: Path) -> None:
    record = tmp_path / "record"
    # A process of its own: what the tests have imported and opened counts as memory.
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES), "--seed", str(seed), "--record", str(record)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert rows[-1]["end"] == CASES


@pytest.mark.parametrize("name", [PACKED[0], f"{PACKED[0]}.kdump", f"{PACKED[0]}.flat", f"{PACKED[0]}.xz"])
def test_damage_is_the_same_for_a_seed_and_is_mended(name: str, tmp_path: Path) -> None:
    path = Inputs(tmp_path).path(name)
    whole = path.read_bytes()
    damager = Damager(path)
    changed = 0
    for seed in range(40):
        damage = damager.make(Random(seed))
        assert damage == damager.make(Random(seed))
        with damaged(path, damage):
            changed += path.read_bytes() != whole
        assert path.read_bytes() == whole
    # Some damage writes what was there before.
    assert changed > 20


def test_every_stored_vmcore_and_every_format_is_damaged() -> None:
    stored = {path.stem for path in (ROOT / "fixtures" / "vmcores").glob("*.xz")}
    assert stored < set(names())
    assert {name.rpartition(".")[2] for name in set(names()) - stored} == {
        "kdump",
        "zst-kdump",
        "flat",
        "gz",
        "zst",
        "xz",
    }


WHOLE = Result(0, 0.5, 90_000, b"{}", "")
ARGUMENTS = ["-c", "core", "scan", "--format", "json"]


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        (Result(1, 1.4, 300_000, b"{}", ""), []),
        (Result(2, 0.1, 90_000, b"", "mminspect: damaged\n"), []),
        (Result(2, 0.1, 90_000, b"", "one\ntwo\n"), ["2 lines on stderr"]),
        (Result(1, 0.1, 90_000, b"{}", "mminspect: core: truncated: the file has 3 bytes\n"), []),
        (Result(1, 0.1, 90_000, b"{}", "mminspect: core: strange\n"), ["1 lines on stderr"]),
        (Result(2, 0.1, 90_000, b"", ""), ["0 lines on stderr"]),
        (Result(-11, 0.1, 90_000, b"", ""), ["status -11"]),
        (Result(2, 0.1, 90_000, b"", "mminspect: KeyError: 3 (please report it)\n"), ["words"]),
        (Result(0, 1.6, 90_000, b"{}", ""), ["time"]),
        (Result(0, 0.1, 310_000, b"{}", ""), ["memory"]),
        (Result(0, 0.1, 90_000, b"{", ""), ["stdout isn't JSON"]),
    ],
)
def test_bounds(result: Result, wrong: list[str]) -> None:
    assert [fault.split(":")[0] for fault in faults(result, ARGUMENTS, WHOLE)] == wrong


def test_damage_at_the_end_of_a_file_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with damaged(path, Damage([(8, b"abcd"), (9, b"x")], None, b"tail")):
        assert path.read_bytes().startswith(b"01234567ax")
    assert path.read_bytes() == b"0123456789"
    with damaged(path, Damage([(2, b"ab")], 5, b"")):
        assert path.read_bytes() == b"01ab4"
    assert path.read_bytes() == b"0123456789"
