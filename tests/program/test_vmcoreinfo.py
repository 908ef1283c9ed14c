# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of VMCOREINFO."""

from __future__ import annotations

from mminspect.program.vmcoreinfo import Vmcoreinfo


def test_symbols_are_addresses() -> None:
    text = "OSRELEASE=6.1.0\nSYMBOL(a)=0\nSYMBOL(b)=-1\nSYMBOL(c)=ffffffff82000000\nSYMBOL(d)=x\nno line\n"
    found = Vmcoreinfo(text)
    assert found.symbols == {"a": 0, "c": 0xFFFFFFFF82000000}
    assert found.release == "6.1.0"
