# SPDX-License-Identifier: LGPL-2.1-or-later
"""Flattened dumps are put in order before they are read, where that pays."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.errors import TargetError
from mminspect.program import corefile, unpack
from mminspect.program import open as target
from mminspect.program.flattened import FlattenedRecords, read_records
from tests.kit.dumps import LZO, ZLIB, make_kdump


def flattened(records: list[tuple[int, bytes]]) -> bytes:
    """Make a flattened file."""
    head = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    parts = [struct.pack(">qq", offset, len(data)) + data for offset, data in records]
    return head + bytes(4096 - len(head)) + b"".join(parts) + struct.pack(">qq", -1, -1)


@given(st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=50)), max_size=20), st.integers(1, 60))
def test_records_land_at_their_offsets(records: list[tuple[int, bytes]], piece: int) -> None:
    expected = bytearray()
    for offset, data in records:
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset : offset + len(data)] = data
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "PIECE", piece)
        file.write(flattened(records))
        file.flush()
        fd = unpack.rearrange(file.fileno(), "dump")
        try:
            assert os.pread(fd, 1000, 0) == expected
            in_order = FlattenedRecords(read_records(file.fileno(), "dump"))
            assert in_order.end == len(expected)
            for offset in (0, 1, 40, 140, len(expected)):
                for size in (1, 30, 1000):
                    assert in_order.pread(file.fileno(), size, offset) == expected[offset:][:size]
        finally:
            os.close(fd)


def opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Get what drgn is given of a dump."""
    given_to_drgn = []
    monkeypatch.setattr(target, "_open_core", lambda files, core: given_to_drgn.append(files[0].fd_content()))
    monkeypatch.setattr(target._Input, "fd_content", lambda self: os.pread(self.fd, 1 << 20, 0), raising=False)
    target.open_vmcore(str(path))
    (data,) = given_to_drgn
    return bytes(data)


# Its pages are left to libkdumpfile.
INSIDE = make_kdump({3: (b"x" * 4096, ZLIB)}, 8, LZO).data


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Make a flattened dump of three records."""
    path = tmp_path / "dump"
    path.write_bytes(flattened([(4, INSIDE[4:90]), (0, INSIDE[:4]), (90, INSIDE[90:])]))
    return path


def test_dump_of_many_records_is_put_in_order(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MANY_RECORDS", 2)
    assert opened(dump, monkeypatch) == INSIDE


def test_dump_of_few_records_is_read_as_it_is(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MANY_RECORDS", 3)
    assert opened(dump, monkeypatch) == dump.read_bytes()


def test_dump_is_read_as_it_is_where_there_is_no_room(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MANY_RECORDS", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: open("/dev/full", "w+b", buffering=0))  # noqa: SIM115
    assert opened(dump, monkeypatch) == dump.read_bytes()


def test_damage_is_told_before_anything_is_written(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MANY_RECORDS", 0)
    dump.write_bytes(
        dump.read_bytes()[:-16].replace(struct.pack(">qq", 90, len(INSIDE) - 90), struct.pack(">qq", -5, 9))
    )
    with pytest.raises(TargetError, match="damaged"):
        target.open_vmcore(str(dump))


@pytest.mark.parametrize("length", [0, 1, 40])
def test_flattened_dump_that_lost_its_end_is_incomplete(dump: Path, length: int) -> None:
    """Its headers are whole, so that it can be read; the end mark is missing, and maybe more of the last record."""
    whole = dump.read_bytes()
    with dump.open("rb") as file:
        assert corefile.parse(file.fileno(), str(dump)).incomplete is None
    dump.write_bytes(whole[: -16 - length])
    with dump.open("rb") as file:
        core = corefile.parse(file.fileno(), str(dump))
    assert core.incomplete is not None and not core.incomplete.is_split
    assert (core.format, core.incomplete.advice) == ("flattened", corefile.COPY_AGAIN)
