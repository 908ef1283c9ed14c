# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the running kernel's own files say of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mminspect.kernel import proc


def test_blocks_that_are_not_online_are_no_ram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, state in ((0, "online"), (1, "offline"), (2, "going-offline"), (12, "offline")):
        block = tmp_path / f"memory{number}"
        block.mkdir()
        (block / "state").write_text(f"{state}\n")
    # 128 MiB, as the file has it: hexadecimal, without 0x.
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    texts = {"/proc/iomem": "00000000-67ffffff : System RAM\n"}
    read = proc._read
    monkeypatch.setattr(proc, "MEMORY_BLOCKS", tmp_path)
    monkeypatch.setattr(proc, "_read", lambda path: texts.get(path, "") if path.startswith("/proc") else read(path))
    assert list(proc.read_proc_files(4096).ram) == [(0, 0x8000), (0x18000, 0x60000)]


def test_zones_of_zoneinfo() -> None:
    text = (
        "Node 0, zone      DMA\n"
        "  per-node stats\n"
        "      nr_inactive_anon 81\n"
        "  pages free     3840\n"
        "        spanned  4095\n"
        "        present  3998\n"
        "        managed  3840\n"
        "  start_pfn:           1\n"
        "Node 1, zone   Normal\n"
        "  pages free     0\n"
        "        spanned  0\n"
        "        present  0\n"
    )
    assert [tuple(item) for item in proc.parse_zoneinfo(text)] == [
        (0, "DMA", 4095, 3998, 1),
        (1, "Normal", 0, 0, None),
    ]
    assert proc.parse_zoneinfo("Node 0, zone      DMA\n        present  3998\n") == []
