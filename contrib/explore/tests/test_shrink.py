# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shrinking, with conditions in the place of kernels; and the store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from contrib.explore.board import MIB, RAM, SOFT_RESERVED
from contrib.explore.draw import Seeded
from contrib.explore.generate import generate
from contrib.explore.judge import Sighting
from contrib.explore.layout import E820Entry, Layout, dumps
from contrib.explore.outcome import Outcome
from contrib.explore.shrink import FIRST_MIB, MAX_BOOTS, shrink
from contrib.explore.store import Store
from contrib.explore.tests.test_layout import PLAIN, RICH
from contrib.kernels.errors import HarnessError

SEEN = Sighting("error", "zone-id: zone id N of N", 3, "zone id 5 of 5")
OUTCOME = Outcome("stopped", "", (SEEN,), (), 0.5, 0.1, 0.7, 1)


def has_soft_reserved(layout: Layout) -> bool:
    return any(entry.type == SOFT_RESERVED for entry in layout.e820)


def splits_a_block(layout: Layout) -> bool:
    return any(a.node != b.node and a.end == b.start and a.end % (2 * MIB) for a in layout.srat for b in layout.srat)


@pytest.mark.parametrize("wanted", [has_soft_reserved, splits_a_block])
def test_nothing_but_what_matters_is_left(wanted: object) -> None:
    assert callable(wanted)
    layouts = [layout for layout in (generate(Seeded(seed)) for seed in range(300)) if wanted(layout)]
    assert len(layouts) > 20
    for layout in layouts[:20]:
        result = shrink(layout, wanted, 10_000)
        assert result.done and wanted(result.layout)
        least = result.layout
        assert not least.words and least.initrd is None
        assert least.e820[:2] == FIRST_MIB and len(least.e820) <= 4
        assert len(least.srat) == (2 if wanted is splits_a_block else 0)


def test_the_number_of_boots_is_bounded() -> None:
    boots = []
    result = shrink(RICH, lambda layout: not boots.append(1) and has_soft_reserved(layout))  # type: ignore[func-returns-value]
    assert result.boots == len(boots) <= MAX_BOOTS


def test_a_flaky_signature_ends_with_the_layout_it_came_from() -> None:
    assert shrink(RICH, lambda layout: False).layout == RICH


def test_a_store_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = Store(path)
    store.add("6.1", PLAIN, OUTCOME, 1)
    store.add("6.1", RICH, OUTCOME, 2)
    store.add("6.1", RICH, OUTCOME, 2)
    store.close()
    store = Store(path)
    assert store.seeds("6.1") == {1, 2} and store.seeds("7.3") == set()
    count, seconds = store.cost("6.1")
    assert count == 2 and seconds == pytest.approx(1.2)
    (signature,) = store.signatures("6.1")
    assert (signature.layouts, signature.simplest, signature.minimal) == (2, PLAIN, None)
    store.set_minimal("6.1", SEEN, PLAIN, 11, "yes")
    (signature,) = store.signatures("6.1")
    assert (signature.minimal, signature.boots, signature.confirmed) == (PLAIN, 11, "yes")
    out = io.StringIO()
    assert store.export("6.1", out) == 2
    assert [json.loads(line)["layout"] for line in out.getvalue().splitlines()] == [
        json.loads(dumps(PLAIN)),
        json.loads(dumps(RICH)),
    ]


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("not a database, but long enough to be read as the header of one" * 9)
    with pytest.raises(HarnessError, match="not a store"):
        Store(path)


def test_a_shrunk_layout_is_still_one_that_can_be_booted() -> None:
    holed = Layout((*PLAIN.e820[:2], E820Entry(MIB, 300 * MIB + 0x5000, RAM), E820Entry(301 * MIB, 399 * MIB, RAM)))
    least = shrink(holed, lambda layout: len(layout.e820) == 4, 1000).layout
    assert least.check() == least
