# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether types are of the kernel at hand: VMCOREINFO holds sizes, offsets and numbers that the kernel itself wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drgn import Program, Type, offsetof, sizeof

from mminspect.errors import TypeInfoError
from mminspect.program.arch import arch_of
from mminspect.program.vmcoreinfo import Vmcoreinfo

_KEY = re.compile(r"(SIZE|OFFSET|LENGTH|NUMBER)\((\w+)(?:\.(\w+))?\)")

# What an analysis decodes. VMCOREINFO tells of more, such as the log buffer.
_TYPES = ("atomic_long_t", "free_area", "list_head", "mem_section", "nodemask_t", "page", "pglist_data", "zone")

# Page flags that VMCOREINFO gives by number, or, PG_head, as a mask.
_PAGE_FLAG = re.compile(r"PG_[a-z0-9]+")


def _find_type(prog: Program, name: str) -> Type | None:
    for spelling in (f"struct {name}", name):
        try:
            found = prog.type(spelling)
        except (LookupError, SyntaxError):
            continue
        return found if found.is_complete() else None
    return None


def _value(prog: Program, what: str, name: str, member: str | None) -> int | None:
    """Get what the types say for a line of VMCOREINFO, ``None`` if they say nothing."""
    try:
        if what == "NUMBER":
            if name == "PG_head_mask":
                return 1 << int(prog.constant("PG_head").value_())
            return int(prog.constant(name).value_()) if _PAGE_FLAG.fullmatch(name) else None
        type_ = _find_type(prog, name) if name in _TYPES else None
        if type_ is None:
            return None
        if what == "SIZE" and member is None:
            return int(sizeof(type_))
        if what == "OFFSET" and member is not None:
            return int(offsetof(type_, member))
        if what == "LENGTH" and member is not None:
            return int(type_.member(member).type.length)
    except (LookupError, TypeError, AttributeError):
        return None
    return None


def _compare(prog: Program, vmcoreinfo: Vmcoreinfo) -> Iterator[tuple[str, int, int]]:
    """Compare all lines; yields key, what the kernel says and what the types say."""
    for key in vmcoreinfo.lines:
        match = _KEY.fullmatch(key)
        told = vmcoreinfo.number(key) if match else None
        if match is None or told is None:
            continue
        value = _value(prog, *match.groups())
        if value is not None:
            yield key, told, value
    option = arch_of(prog.platform).pae_option
    if option is not None:
        entry = _find_type(prog, "pte_t")
        if entry is not None:
            yield "sizeof(pte_t)", 8 if option in vmcoreinfo.lines else 4, int(sizeof(entry))


def check(prog: Program, vmcoreinfo: Vmcoreinfo, source: str) -> None:
    """
    Check that the types of a program are those of its kernel.

    What only one side knows is passed over.

    :param source: Where the types are from, for the message.
    :raises TypeInfoError: if they are of another build.
    """
    for key, told, value in _compare(prog, vmcoreinfo):
        if told != value:
            raise TypeInfoError(
                f"{source}: not the types of this kernel: {key} is {value} there, "
                f"the target ({vmcoreinfo.release}) says {told}"
            )
