# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects that are found by symbols and declarations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from drgn import FindObjectFlags

from mminspect.typeinfo.objects import ObjectFinder
from tests.kit.made import MadeKernel


@pytest.mark.parametrize("name", ["__highest_present_section_nr", "__highest_used_section_nr"])
def test_highest_section_is_found_under_the_name_that_7_4_gives_it(name: str) -> None:
    made = MadeKernel()
    types: Any = SimpleNamespace(variable_type=lambda name: None)
    table: Any = SimpleNamespace(address={name: 0x1000}.get, mem_section_value=lambda: None)
    made.memory(0x1000, [31])
    found = ObjectFinder(types, table).find(made.prog, "__highest_present_section_nr", FindObjectFlags.VARIABLE, None)
    assert found is not None
    assert found.value_() == 31
