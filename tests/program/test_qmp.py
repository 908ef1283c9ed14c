# SPDX-License-Identifier: LGPL-2.1-or-later
"""The monitor of QEMU, and sockets of others that are taken for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mminspect.errors import TargetError
from mminspect.program import qmp
from mminspect.program.qmp import Qmp, Range
from tests.conftest import Cli, complaint
from tests.kit.fakeqemu import FakeQemu, fake_qemu


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "SECONDS", 0.5)


def failure(qemu: FakeQemu, command: str = "query-status") -> str:
    """Connect and run a command that must fail, and get what is said."""
    with pytest.raises(TargetError) as e:
        Qmp(str(qemu.path)).execute(command)
    text = str(e.value)
    assert text.startswith(f"{qemu.path}: ")
    assert "\n" not in text
    return text


def test_ram_is_that_of_the_address_space_memory_and_no_devices(qemu: FakeQemu) -> None:
    qemu.ram = [(0, 0xA0000, 0x7000_0000), (0x100000, 0x700_0000, 0x7010_0000), (1 << 32, 1 << 40, 0x1_0000_0000)]
    connection = Qmp(str(qemu.path))
    assert connection.ram() == [Range(*piece) for piece in qemu.ram]
    assert connection.status() == "running"
    assert connection.architecture() == "x86_64"


@pytest.mark.parametrize(
    "line", ["0000-0fff (prio 0, ram): x", "  0fff-0000 (prio 0, ram): x", "  0-g (prio 0, ram): x"]
)
def test_lines_that_are_no_ram(line: str) -> None:
    text = f'FlatView #0\n AS "memory", root: system\n{line}'
    assert qmp.parse_flat_view(text) == ([(0, 0x1000)] if line.startswith("0") else [])


def test_events_and_replies_to_others_are_not_the_reply(qemu: FakeQemu) -> None:
    qemu.answers["query-status"] = lambda: (
        b'{"event": "RESUME"}\n[1]\n{"return": {"status": "old"}, "id": 99}\n'
        b'{"return": {"status": "paused"}, "id": 2}\n'
    )
    connection = Qmp(str(qemu.path))
    assert connection.status() == "paused"
    assert connection.resumed == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"error": {"class": "E", "desc": "no\\u001b[31m\\nway"}, "id": 2}\n', "refuses query-status: no?[31m?way"),
        (b'{"error": 1, "id": 2}\n', "refuses query-status"),
        (b"no JSON\n", "not QMP"),
        (b"[" * 100000 + b"\n", "not QMP"),
        (b"", "does not answer query-status within"),
        (b'{"event": "STOP"}\n' * 3, "does not answer query-status within"),
    ],
)
def test_bad_replies(qemu: FakeQemu, answer: bytes, words: str) -> None:
    qemu.answers["query-status"] = lambda: answer
    assert words in failure(qemu)


def test_a_line_without_end_is_not_kept(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MAX_LINE", 1 << 16)
    qemu.answers["query-status"] = lambda: b"x" * (1 << 18)
    assert "one line; this is not QMP" in failure(qemu)


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) ", "not QMP"),
        (b"{}\n", "not QMP"),
        (b"", "another client has it"),
    ],
)
def test_others_than_qmp(qemu: FakeQemu, greeting: bytes, words: str) -> None:
    qemu.greeting = greeting
    assert words in failure(qemu)


def test_a_qemu_that_ends(qemu: FakeQemu) -> None:
    connection = Qmp(str(qemu.path))
    qemu.close()
    with pytest.raises(TargetError, match="QEMU c"):
        connection.status()
    assert not connection.drain()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "No such file"),
        ("file", "not a socket, or nobody listens on it"),
        ("dead", "not a socket, or nobody listens on it"),
        ("x" * 120, "longer than the path of a socket can be"),
        ("localhost:4444", "give the path of a Unix socket"),
    ],
)
def test_no_socket(name: str, words: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "dead"))
    path = name if ":" in name else str(tmp_path / name)
    assert words in complaint(cli("scan", "--qemu", path, "--sandbox", "off"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "--stop"], "give --qemu SOCKET"),
        (["scan", "--qemu", "x", "-c", "y"], "give one of them"),
        (["triage", "--qemu", "x", "y"], "--qemu goes with scan, watch, zones"),
        (["map", "--qemu", "x", "--from", "y"], "--from draws what was saved"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], words: str, cli: Cli) -> None:
    assert words in complaint(cli(*arguments))
