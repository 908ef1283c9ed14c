# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a scan doesn't load. The time itself is measured by tests/benchmarks."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mminspect.cli.startup import SESSION_PLUGINS, installed_plugins, start_fast
from mminspect.cli.usage import COMMANDS, LATER
from tests.conftest import Unpacked
from tests.kit.support import AMD64_HEALTHY

SCRIPT = """
import sys
from mminspect.cli import run as cli
try:
    cli.run(tuple(sys.argv[1:]))
except SystemExit:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def loaded(*arguments: str, **variables: str) -> set[str]:
    """
    Get the modules that are loaded when a command ends.

    Without a sandbox: before root becomes a user who can't read this installation, it loads what could be needed.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DRGN_")}
    command = [sys.executable, "-c", SCRIPT, "--sandbox", "off", *arguments]
    done = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env={**environment, **variables},
    )
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("words", ["--help", "--version", *(f"{command.name} --help" for command in COMMANDS)])
def test_what_needs_no_kernel_loads_no_drgn(words: str) -> None:
    modules = loaded(*words.split())
    assert "click" in modules
    assert not modules & {"_drgn", "numpy"}


def test_every_command_has_a_file_that_takes_its_options() -> None:
    for command in COMMANDS:
        run = importlib.import_module(f"mminspect.cli.{command.name}").run
        own = [p.name for p in command.params if p.name != "vmcores" and not str(p.name).startswith(LATER)]
        assert list(inspect.signature(run).parameters) == ["inputs", *own]


def test_scan_loads_no_helpers_commands_or_tables_that_it_does_not_use(unpacked: Unpacked) -> None:
    modules = loaded("-c", str(unpacked(AMD64_HEALTHY)), "scan", "--select", "zone-id", "--format", "ndjson")
    assert "_drgn" in modules
    assert not modules & {"drgn.helpers.linux", "drgn.commands", "tabulate", "mminspect.drgn_plugin"}
    assert "importlib.metadata" not in modules


@pytest.mark.parametrize("disabled", ["other", "*"])
def test_plugins_that_the_user_disabled_stay_disabled(disabled: str, unpacked: Unpacked) -> None:
    modules = loaded("-c", str(unpacked(AMD64_HEALTHY)), "scan", DRGN_DISABLE_PLUGINS=disabled)
    assert not modules & {"drgn.commands", "mminspect.drgn_plugin"}


def test_plugins_are_found_without_importing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = [entry.name for entry in entry_points(group="drgn.plugins")]
    assert installed_plugins() == set(group)
    for name, text in (
        ("other-1.dist-info", "[console_scripts]\nno = a:b\n\n[drgn.plugins]\nmine = a.b\n"),
        ("none-1.dist-info", "[console_scripts]\nno = a:b\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "entry_points.txt").write_text(text)
    (tmp_path / "archive.zip").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "gone"))
    assert installed_plugins() == {*group, "mine"}
    monkeypatch.syspath_prepend(str(tmp_path / "archive.zip"))
    assert str(tmp_path / "archive.zip") in installed_plugins()


def test_another_plugin_stays_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRGN_DISABLE_PLUGINS", raising=False)
    monkeypatch.setattr("mminspect.cli.startup.installed_plugins", lambda: {*SESSION_PLUGINS, "mine"})
    start_fast()
    assert os.environ["DRGN_DISABLE_PLUGINS"].split(",") == list(SESSION_PLUGINS)
    monkeypatch.setenv("DRGN_DISABLE_PLUGINS", "mine")
    start_fast()
    assert os.environ["DRGN_DISABLE_PLUGINS"] == "*"
