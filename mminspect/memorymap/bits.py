# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of memory that differ from what they should be in one place, as memory that fails makes them."""

from __future__ import annotations


def one_place(first: int, second: int) -> str | None:
    """Return ``one bit`` or ``one byte`` if two numbers differ in no more than that."""
    difference = first ^ second
    if not difference:
        return None
    if difference & (difference - 1) == 0:
        return "one bit"
    low = ((difference & -difference).bit_length() - 1) // 8 * 8
    return "one byte" if difference >> low < 0x100 else None


def one_bit(first: int, second: int) -> str | None:
    """Return ``one bit`` if two numbers differ in no more than that."""
    return "one bit" if one_place(first, second) == "one bit" else None


def looks_like_hardware(difference: str | None, what: str) -> str:
    """
    Return what a message says of such a difference.

    :param difference: As :func:`one_place` returned it.
    :param what: What the word should be.
    """
    return f"; it differs in {difference} from {what}, which looks like hardware" if difference else ""
