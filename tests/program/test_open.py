# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernel where it can't be read."""

from __future__ import annotations

import os

import pytest

from mminspect.program import open as targets
from tests.conftest import Cli, complaint


def test_running_kernel_without_kcore(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "KCORE", "/nonexistent/kcore")
    assert "CONFIG_PROC_KCORE" in complaint(cli("scan"))


def test_running_kernel_without_root(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "KCORE", "/dev/null")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in complaint(cli("scan"))
