# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results as a page: every signature and its minimal layout, and nothing of a kernel's log is markup."""

from __future__ import annotations

import io
from pathlib import Path

from contrib.explore.judge import Sighting
from contrib.explore.outcome import Outcome
from contrib.explore.page import write_layout, write_results
from contrib.explore.store import Store
from contrib.explore.tests.test_layout import RICH

HOSTILE = "log: <script>alert(1)</script>"


def test_page_of_a_layout() -> None:
    out = io.StringIO()
    write_layout(RICH, "<b>.json", None, out)
    text = out.getvalue()
    assert "&lt;b&gt;.json" in text and "<b>" not in text
    assert text.count("<svg width") == 1 and ">SRAT</text>" in text and "Content-Security-Policy" in text


def test_page_of_results(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    sighting = Sighting("error", HOSTILE, 1, "an <i>example</i>")
    outcome = Outcome("scanned", "", (sighting,), (), 1.0, 0.5, 1.5, 0)
    store.add("kernel", RICH, outcome)
    store.set_minimal("kernel", sighting, RICH, 7)
    out = io.StringIO()
    write_results(store, "kernel", Path("bzImage"), out)
    text = out.getvalue()
    assert "1 signatures of 1 layouts" in text and "after 7 boots" in text
    assert "<script>" not in text and "<i>" not in text and "&lt;script&gt;" in text
    assert "python -m contrib.explore replay" in text
