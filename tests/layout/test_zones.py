# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a spinlock is held, as its bytes in a dump tell; numbers that the types take for something else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from drgn import Object

from mminspect.errors import TypeInfoError
from mminspect.layout import zones
from tests.conftest import Kernels
from tests.kit.support import AMD64_HEALTHY


def lock(data: bytes) -> Any:
    """Make a ``spinlock_t`` of a kernel with SMP."""
    raw = SimpleNamespace(type_=len(data), to_bytes_=lambda: data)
    type_ = SimpleNamespace(has_member=lambda name: name == "rlock")
    return SimpleNamespace(type_=type_, rlock=SimpleNamespace(raw_lock=raw))


@pytest.mark.parametrize(
    ("data", "held"),
    [
        # Queued spinlocks: locked, pending, the tail of those who wait.
        (b"\0\0\0\0", False),
        (b"\1\0\0\0", True),
        (b"\0\1\0\0", True),
        (b"\1\0\4\0", True),
        # Tickets of 32-bit Arm: owner and next.
        (b"\5\0\5\0", False),
        (b"\5\0\6\0", True),
        (b"\6\0\5\0", True),
        (b"\0\5\0\5", False),
        # s390x: the CPU that holds it, one more than its number. What follows isn't the lock.
        (b"\0\0\0\1", True),
        (b"\0\0\0\0\1\2\3\4", False),
        # Without SMP there is no lock.
        (b"", None),
    ],
)
def test_lock_is_held(data: bytes, held: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "sizeof", lambda size: size)
    assert zones.lock_is_held(lock(data)) is held


@pytest.mark.parametrize("owner", [0, 0xFFFF888000000001])
def test_lock_of_a_preemptible_kernel_has_an_owner(owner: int) -> None:
    type_ = SimpleNamespace(has_member=lambda name: name == "lock")
    made: Any = SimpleNamespace(type_=type_, lock=SimpleNamespace(owner=owner))
    assert zones.lock_is_held(made) is bool(owner)


def test_number_that_the_types_take_for_a_structure(kernels: Kernels) -> None:
    prog = kernels(AMD64_HEALTHY).prog
    assert zones.integer(Object(prog, "unsigned long", 7)) == 7
    with pytest.raises(TypeInfoError, match=r"^struct list_head is the type of what must be a number"):
        zones.integer(Object(prog, "struct list_head", {"next": 0, "prev": 0}))
