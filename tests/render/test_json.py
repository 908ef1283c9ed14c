# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON in pieces is the JSON of the library."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mminspect.render import json_

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
DATA = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def written(data: Any) -> str:
    out = io.StringIO()
    json_.write(data, out)
    return out.getvalue()


@given(DATA | st.dictionaries(st.text(max_size=3), st.lists(DATA, max_size=3), max_size=3))
def test_pieces_are_what_the_library_writes(data: Any) -> None:
    assert written(data) == json.dumps(data, indent=2).replace("\x7f", "\\u007f") + "\n"


def test_pieces_hold_no_lone_surrogates() -> None:
    text = written({"\ud800": ["\udfff", {"a": "\ud800"}], "b": "\udc80"})
    str(json.loads(text)).encode()
    assert "\\ud" not in text.replace("\\\\ud", "")
