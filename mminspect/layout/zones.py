# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a ``struct zone`` changes while the kernel runs: free lists, lock, compaction's cursors."""

from __future__ import annotations

from drgn import Object, sizeof

from mminspect.memorymap.zones import FreeArea, ZoneState

CURSORS = ("compact_cached_free_pfn", "compact_cached_migrate_pfn", "compact_init_migrate_pfn", "compact_init_free_pfn")


def zone_state(zone: Object, address: int) -> ZoneState:
    """
    Decode a zone that was read.

    :param zone: Value of the ``struct zone``.
    :param address: Where it was read.
    """
    type_ = zone.type_
    return ZoneState(
        _free_areas(zone, address),
        bool(lock_is_held(zone.lock)),
        int(zone.node.value_()) if type_.has_member("node") else None,
        zone.zone_pgdat.value_(),
        tuple(_cursors(zone)),
    )


def _free_areas(zone: Object, address: int) -> tuple[FreeArea, ...]:
    prog = zone.prog_
    list_head = sizeof(prog.type("struct list_head"))
    area_type = prog.type("struct free_area")
    areas = address + zone.type_.member("free_area").offset
    lists = area_type.member("free_list").offset
    result = []
    for order, area in enumerate(zone.free_area):
        heads = area.free_list
        start = areas + order * sizeof(area_type) + lists
        count = len(heads)
        result.append(
            FreeArea(
                area.nr_free.value_(),
                tuple(start + i * list_head for i in range(count)),
                tuple(heads[i].next.value_() for i in range(count)),
                tuple(heads[i].prev.value_() for i in range(count)),
            )
        )
    return tuple(result)


def lock_is_held(lock: Object) -> bool | None:
    """
    Tell whether a ``spinlock_t`` is held.

    Where there are tickets, the lock is free when both halves of its word are equal; else when the word is 0.

    :return: ``None`` if nothing tells, as without SMP.
    """
    if lock.type_.has_member("rlock"):
        raw = lock.rlock.raw_lock
    elif lock.type_.has_member("lock"):
        # PREEMPT_RT: a mutex, whose owner is set while it is held.
        return bool(lock.lock.owner)
    else:
        return None
    size = min(4, sizeof(raw.type_))
    if not size:
        # Without SMP there is nothing to lock.
        return None
    data = raw.to_bytes_()[:size]
    return any(data) and data[: size // 2] != data[size // 2 :]


def _cursors(zone: Object) -> list[tuple[str, int]]:
    result: list[tuple[str, int]] = []
    for name in CURSORS:
        if not zone.type_.has_member(name):
            continue
        member = zone.member_(name)
        length: int | None = getattr(member.type_, "length", None)
        if length is None:
            result.append((name, member.value_()))
        else:
            result.extend((f"{name}[{i}]", member[i].value_()) for i in range(length))
    return result
