# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mistakes: which a piece of source can have, what runs for them, and those that tests once missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrib.mutate.__main__ import KNOWN
from contrib.mutate.mistakes import mistakes
from contrib.mutate.run import ROOT, Bench, CoverageMap, choose, known_mistakes
from contrib.mutate.same import SAME, is_same

SOURCE = '''"""Text with 1 < 2."""
LIMIT = 3


def at(x: int = 0, y: int = 0) -> bool:
    """Text."""
    if any(v <= LIMIT for v in (x, y)) and not x:
        x -= 1
    # "ß" is one character and two bytes.
    return f("ß", x, y[x:])
'''


def test_mistakes_are_those_of_a_slip() -> None:
    found = {(m.old, m.new) for m in mistakes("file.py", SOURCE)}
    assert {
        ("3", "4"),
        ("<=", "<"),
        ("<=", ">"),
        ("any", "all"),
        (" and ", " or "),
        ("not x", "x"),
        ("x -= 1", "pass"),
        ("x, y[x:]", "y[x:], x"),
        ("x", "(x) + 1"),
        ("any(v <= LIMIT for v in (x, y)) and not x", "False"),
    } <= found
    # Texts, comments and types decide nothing.
    assert not any(old in ("1 < 2", "Text", "int") for old, _ in found)


def test_each_mistake_can_be_read() -> None:
    for mistake in mistakes("file.py", SOURCE):
        changed = mistake.apply(SOURCE)
        assert changed != SOURCE
        compile(changed, "file.py", "exec")
        assert SOURCE.splitlines()[mistake.line - 1][mistake.column :].startswith(mistake.old.splitlines()[0])


def test_a_seed_chooses_the_same_mistakes() -> None:
    files = ["mminspect/memorymap/bitmap.py"]
    assert choose(5, 10, files) == choose(5, 10, files)
    assert choose(5, 10, files) != choose(6, 10, files)
    assert choose(5, 4, files) == choose(5, 10, files)[:4]


def test_tests_of_a_line_are_found_after_the_file_has_grown(tmp_path: Path) -> None:
    old = "a = 1\n\n\ndef f():\n    return a < 2\n\n\ndef g():\n    return a > 2\n"
    lines = {"1": [0, 1, 2], "4": [0, 1, 2], "5": [0, 1], "8": [0, 1, 2], "9": [2]}
    tests = ["tests/test_b.py::slow", "tests/test_file.py::named", "tests/test_b.py::g"]
    data = {"tests": tests, "seconds": [1.0, 5.0, 0.1], "files": {"file.py": {"source": old, "lines": lines}}}
    (tmp_path / "map.json").write_text(json.dumps(data), encoding="utf-8")
    coverage = CoverageMap(tmp_path / "map.json")
    new = f"# More.\n{old}"
    found = {m.old: coverage.tests(m, new) for m in mistakes("file.py", new) if m.old in ("<", ">")}
    assert found == {"<": [tests[1], tests[0]], ">": [tests[2]]}


def test_mistake_that_a_test_notices_and_one_that_none_does(tmp_path: Path) -> None:
    test = "contrib/mutate/tests/test_mistakes.py::test_a_seed_chooses_the_same_mistakes"
    bench = Bench(tmp_path)
    file = "contrib/mutate/run.py"
    made = mistakes(file, (ROOT / file).read_text(encoding="utf-8"))
    noticed = next(m for m in made if "chance.choice" in m.old and m.new == "None")
    assert bench.try_(noticed, [test]).by == test
    missed = next(m for m in made if m.old == "600")
    assert (bench.try_(missed, [test]).outcome, bench.try_(missed, [test]).by) == ("survived", "")


def test_mistakes_that_tests_once_missed_can_still_be_made() -> None:
    """``python -m contrib.mutate known`` tries them."""
    for _, tests in known_mistakes(KNOWN):
        assert all((ROOT / test).is_file() for test in tests)


def test_mistakes_that_change_nothing_are_known_by_their_line() -> None:
    for item in json.loads(SAME.read_text(encoding="utf-8")):
        assert len(item["why"].split()) > 3
        row = {"id": f"{item['file']}:1:2: {item['change']}", "code": item["code"]}
        assert is_same(row)
        assert not is_same({**row, "code": "pass"})
        source = (ROOT / item["file"]).read_text(encoding="utf-8")
        if item["code"] not in [line.strip() for line in source.splitlines()]:
            pytest.fail(f"{item['file']} no longer has: {item['code']}")
