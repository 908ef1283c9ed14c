# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page types, of kernels of all versions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mminspect.layout.pagetypes import page_type, page_types
from tests.conftest import Kernels
from tests.kit.support import AMD64_400M, AMD64_HEALTHY


@pytest.mark.parametrize(
    ("name", "mapcount", "kind"),
    [
        (AMD64_HEALTHY, -1, None),
        (AMD64_HEALTHY, 0, None),
        (AMD64_HEALTHY, ~0x80, "buddy"),
        (AMD64_HEALTHY, ~0x200, "table"),
        (AMD64_400M, -1, None),
        (AMD64_400M, 7, None),
        (AMD64_400M, 0xF0000000 - (1 << 32), "buddy"),
    ],
)
def test_page_types(name: str, mapcount: int, kind: str, kernels: Kernels) -> None:
    assert page_type(page_types(kernels(name).target), mapcount) == kind


class OtherKernel:
    """A kernel of which only what its page types are told by is known."""

    def __init__(self, release: str, member: str = "", types: Any = (), slab: bool = True, **numbers: int) -> None:
        self.prog = self.vmcoreinfo = self
        self.release = release
        self.enumerators = [SimpleNamespace(name=name, value=value) for name, value in types]
        self._member = member
        self._flags = [SimpleNamespace(name="PG_slab", value=7)] if slab else []
        self._numbers = {f"NUMBER({name})": value for name, value in numbers.items()}

    def type(self, name: str) -> OtherKernel:
        if name == "enum pagetype" and not self.enumerators:
            raise LookupError(name)
        return SimpleNamespace(enumerators=self._flags) if name == "enum pageflags" else self

    def has_member(self, name: str) -> bool:
        return name == self._member

    def number(self, key: str) -> int | None:
        return self._numbers.get(key)


# enum pagetype of Linux 6.11.
PAGETYPE_6_11 = [
    ("PG_buddy", 0x40000000),
    ("PG_offline", 0x20000000),
    ("PG_table", 0x10000000),
    ("PG_guard", 0x08000000),
    ("PG_hugetlb", 0x04000000),
    ("PG_slab", 0x02000000),
    ("PG_zsmalloc", 0x01000000),
    ("PAGE_TYPE_BASE", 0x80000000),
    ("PAGE_MAPCOUNT_RESERVE", -0x10000),
]


@pytest.mark.parametrize(
    ("kernel", "value", "kind"),
    [
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFFBFF, "table"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFFDFF, "kmemcg"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFF9FF, "kmemcg table"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFF7FF, "guard"),
        (OtherKernel("5.10.0", "memcg_data"), 0xFFFFFDFF, "table"),
        (OtherKernel("5.10.0"), 0xFFFFFBFF, "table"),
        (OtherKernel("5.11.0"), 0xFFFFFBFF, "guard"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFFDFF, "table"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFFF7F, "buddy"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFF7FF, None),
        (OtherKernel("6.9.0", "memcg_data", PAGE_HUGETLB_MAPCOUNT_VALUE=~0x800), 0xFFFFF7FF, "hugetlb"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xBFFFFFFF, "buddy"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFDFF0020, "slab"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFFFFFFFF, None),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFFFFFBFF, None),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 3, None),
    ],
)
def test_page_types_of_other_kernels(kernel: Any, value: int, kind: str | None) -> None:
    assert page_type(page_types(kernel), value) == page_type(page_types(kernel), value - (1 << 32)) == kind


def test_type_of_a_kernel_that_is_not_known_is_not_read_by_old_rules() -> None:
    """Without PG_slab it is no kernel before 6.10, and from then on there is enum pagetype."""
    target: Any = OtherKernel("5.10.0", "mem_cgroup", slab=False)
    assert page_type(page_types(target), 0xFFFFFBFF - (1 << 32)) == "unknown (0xfffffbff)"
    assert page_type(page_types(target), -1) is None
    assert page_type(page_types(target), 3) is None
