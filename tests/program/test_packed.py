# SPDX-License-Identifier: LGPL-2.1-or-later
"""Readers of compressed files."""

from __future__ import annotations

import io
import random

import pytest

from mminspect.program.packed import DAMAGED, OPENERS
from mminspect.program.wrapping import compression
from tests.program.test_unpack import COMPRESSORS


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("kind", ["zeros", "random", "text"])
def test_data_that_is_cut_anywhere_is_not_taken_for_whole(ending: str, kind: str) -> None:
    # Blocks of all kinds: repeated bytes, plain and packed ones, and two streams or frames.
    content = {"zeros": bytes(300_000), "random": random.Random(1).randbytes(300_000), "text": b"some text " * 30_000}
    first, second = (COMPRESSORS[ending](part) for part in (content[kind][:200_000], content[kind][200_000:]))
    data = first + second
    opener = OPENERS[compression(data) or ""]
    assert opener(io.BytesIO(data)).read() == content[kind]
    step = max(1, len(data) // 400)
    cuts = {*range(1, len(data), step), *range(len(data) - 30, len(data)), *range(len(first) - 30, len(first) + 30)}
    for size in sorted(cuts - {len(first)}):
        if 0 < size < len(data):
            with pytest.raises((*DAMAGED, OSError)):
                opener(io.BytesIO(data[:size])).read()
