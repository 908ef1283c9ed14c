# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plugin of sos, against a stand-in for its API and against sos itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "sos" / "mminspect.py"


def load_plugin() -> Any:
    """Return the plugin's class."""
    spec = importlib.util.spec_from_file_location("mminspect_sos_plugin", PLUGIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Mminspect


class StandIn:
    """Takes the calls that a plugin makes."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.commands: dict[str, dict[str, Any]] = {}

    def add_copy_spec(self, paths: list[str]) -> None:
        """Take paths to copy."""
        self.copied += paths

    def add_cmd_output(self, command: str, **options: Any) -> None:
        """Take a command to run."""
        self.commands[command] = options


def test_what_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan is collected as JSON, with nothing of stderr in it and a time limit."""
    api: Any = types.ModuleType("sos.report.plugins")
    api.Plugin = StandIn
    for name in ("IndependentPlugin", "RedHatPlugin", "DebianPlugin", "UbuntuPlugin"):
        setattr(api, name, type(name, (), {}))
    for name in ("sos", "sos.report"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "sos.report.plugins", api)
    plugin = load_plugin()()
    plugin.setup()
    options = plugin.commands["mminspect scan --format json --fail-on never"]
    assert options["stderr"] is False
    assert 0 < options["timeout"] < plugin.plugin_timeout
    assert "/proc/zoneinfo" in plugin.copied


def test_with_sos() -> None:
    """sos takes the plugin for one that works on every distribution."""
    plugins = pytest.importorskip("sos.report.plugins", reason="sos is not installed")
    found = load_plugin()
    assert issubclass(found, plugins.Plugin)
    assert issubclass(found, plugins.IndependentPlugin)
    assert found.plugin_name == "mminspect"
