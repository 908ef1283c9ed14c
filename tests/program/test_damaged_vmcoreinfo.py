# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO of a kdump file that is damaged: libkdumpfile, which reads it, is ended by a signal by some of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mminspect.errors import TargetError
from mminspect.program import corefile
from mminspect.program import open as opening
from mminspect.program.open import open_vmcore
from tests.kit.dumps import make_kdump

INFO = b"OSRELEASE=6.12.0\nPAGESIZE=4096\nOFFSET(page.lru)=8\nSYMBOL(_text)=ffffffff81000000\n"


def parse(path: Path, info: bytes) -> corefile.CoreFile:
    """Parse a kdump file with some VMCOREINFO."""
    path.write_bytes(make_kdump({3: (bytes(4096), 0)}, 64, info=info).data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return corefile.parse(fd, str(path))
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "info",
    [
        INFO.replace(b".lru)=8\n", b"\0\1\0\0\0\0\0\0"),
        INFO.replace(b"OFFSET(page", b"\n.......(pa"),
        INFO.replace(b"6.12.0", b"6\n.2.0"),
        INFO.replace(b"PAGESIZE", b"\0AGESIZE"),
    ],
)
def test_it_is_refused(info: bytes, tmp_path: Path) -> None:
    assert parse(tmp_path / "core", INFO).vmcoreinfo == INFO
    with pytest.raises(TargetError, match=r": its VMCOREINFO is damaged; copy the dump again$"):
        parse(tmp_path / "core", info)


def test_padding_behind_it_is_no_damage(tmp_path: Path) -> None:
    assert parse(tmp_path / "core", INFO + bytes(30)).vmcoreinfo == INFO


def test_library_that_crashes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "core"
    path.write_bytes(make_kdump({3: (bytes(4096), 0)}, 64, info=INFO).data)
    monkeypatch.setattr(opening, "Program", crash)
    with pytest.raises(TargetError, match=r"libkdumpfile crashes \(signal 9\)"):
        open_vmcore(str(path))
