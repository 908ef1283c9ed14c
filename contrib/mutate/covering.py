# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A pytest plugin that writes down which test runs which lines.

What is made once and shared (a fixture of the session, the report of a stored vmcore) counts for each test that uses
it, not only for the one that came first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

ROOT = Path(__file__).parents[2]
# Where to write, and the names of fixtures that give functions which remember what they made.
FILE = "MUTATE_MAP"
REMEMBERING = ("unpacked", "kernels", "opened", "scanned")


class Covering:
    """Switches coverage's context with each test and each thing that tests share."""

    def __init__(self, file: Path) -> None:
        # Only those that make a map need it.
        import coverage

        self.file = file
        self.coverage = coverage.Coverage(data_file=None, source=[str(ROOT / "mminspect")], messages=False)
        self.stack = [""]
        self.uses: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def switch(self, context: str) -> None:
        """Let lines count for a context until :meth:`back`."""
        self.uses.setdefault(self.stack[-1], set()).add(context)
        self.stack.append(context)
        self.coverage.switch_context(context)

    def back(self) -> None:
        """Let lines count for the context before."""
        self.stack.pop()
        self.coverage.switch_context(self.stack[-1])

    def remembering(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Let what a function makes count for whoever asks for it."""

        def call(*arguments: Any) -> Any:
            self.switch(f"shared {name} {arguments}")
            try:
                return function(*arguments)
            finally:
                self.back()

        return call

    @pytest.hookimpl
    def pytest_sessionstart(self) -> None:
        """Begin."""
        self.coverage.start()
        self.coverage.switch_context("")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run one test."""
        self.switch(item.nodeid)
        for name in getattr(item, "fixturenames", ()):
            self.uses.setdefault(item.nodeid, set()).add(f"fixture {name}")
        try:
            return (yield)  # type: ignore[misc]
        finally:
            self.back()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Set up a fixture."""
        if fixturedef.scope == "function":
            return (yield)  # type: ignore[misc]
        self.switch(f"fixture {fixturedef.argname}")
        try:
            value: Any = yield
        finally:
            self.back()
        if fixturedef.argname in REMEMBERING:
            value = self.remembering(fixturedef.argname, value)
            fixturedef.cached_result = (value, *fixturedef.cached_result[1:])
        return value  # type: ignore[no-any-return]

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how long a test took, and whether it passed."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def _all_uses(self, context: str) -> set[str]:
        found, waiting = set(), [context]
        while waiting:
            for used in self.uses.get(waiting.pop(), ()):
                if used not in found:
                    found.add(used)
                    waiting.append(used)
        return found

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        """Write the map."""
        self.coverage.stop()
        tests = [test for test in self.seconds if test not in self.failed]
        number = {test: index for index, test in enumerate(tests)}
        tests_of: dict[str, set[int]] = {}
        for test, index in number.items():
            for context in (test, *self._all_uses(test)):
                tests_of.setdefault(context, set()).add(index)
        data, files = self.coverage.get_data(), {}
        for path in sorted(data.measured_files()):
            lines = {}
            for line, contexts in data.contexts_by_lineno(path).items():
                covering = set().union(*(tests_of.get(context, ()) for context in contexts))
                lines[line] = sorted(covering)
            name = str(Path(path).relative_to(ROOT))
            files[name] = {"source": Path(path).read_text(encoding="utf-8"), "lines": lines}
        found = {"tests": tests, "seconds": [round(self.seconds[test], 4) for test in tests], "files": files}
        self.file.write_text(json.dumps(found), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Take part if a file is named."""
    file = os.environ.get(FILE)
    if file:
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 2000))
        config.pluginmanager.register(Covering(Path(file)))
