# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's log buffer.

drgn's helper reads a whole buffer or nothing. The buffer of a kernel that died may be damaged, and old captures hold a
few records of it; here each record that can be read is.
"""

from __future__ import annotations

import contextlib
import struct
from typing import NamedTuple

from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.printk import get_printk_records

from mminspect.commands.triage.lines import caller_name
from mminspect.program.arch import elf_of

# Bits of a descriptor counter's sizes beyond which the buffer is damaged.
MAX_BITS = 24
# enum desc_state of kernel/printk/printk_ringbuffer.h.
COMMITTED, FINALIZED = 1, 2


class Record(NamedTuple):
    """
    A record of the log buffer.

    :ivar seq: Its sequence number.
    :ivar time: Seconds since boot.
    :ivar caller: Who printed it, as in :class:`~mminspect.commands.triage.lines.Line`.
    :ivar level: From 0 (emergency) to 7 (debug).
    :ivar text: Its lines.
    """

    seq: int
    time: float
    caller: str | None
    level: int | None
    text: str


def read_log(prog: Program) -> list[Record] | None:
    """
    Read the log buffer.

    :return: Records, oldest first, or ``None`` if the buffer isn't to be found.
    """
    try:
        prb = prog["prb"]
    except LookupError:
        return _read_structured(prog)
    try:
        return _read_ringbuffer(prog, prb[0])
    except (FaultError, LookupError, AttributeError, ValueError, struct.error):
        return None


def _read_structured(prog: Program) -> list[Record] | None:
    """Read the log of a kernel before Linux kernel commit 896fbe20b4e2 (in v5.10), which had no struct prb."""
    try:
        records = get_printk_records(prog)
    except (FaultError, LookupError, AttributeError, ValueError):
        return None
    return [
        Record(
            record.seq,
            record.timestamp / 1e9,
            f"T{record.caller_tid}"
            if record.caller_tid is not None
            else (f"C{record.caller_cpu}" if record.caller_cpu is not None else None),
            record.level,
            record.text.decode("utf-8", "replace"),
        )
        for record in records
    ]


def _read_ringbuffer(prog: Program, prb: Object) -> list[Record]:
    ring = prb.desc_ring.read_()
    text = prb.text_data_ring.read_()
    count_bits, size_bits = ring.count_bits.value_(), text.size_bits.value_()
    if not (0 < count_bits <= MAX_BITS and 0 < size_bits <= 8 + MAX_BITS):
        raise ValueError("the log buffer's sizes can't be")
    word = sizeof(prog.type("unsigned long"))
    order = elf_of(prog.platform).order
    desc_type = prog.type("struct prb_desc")
    size = sizeof(desc_type)
    descs = prog.read(ring.descs.value_(), size << count_bits)
    state_at = desc_type.member("state_var").offset
    block_at = desc_type.member("text_blk_lpos").offset
    id_mask = (1 << (8 * word - 2)) - 1
    letter = "Q" if word == 8 else "I"
    records: list[Record] = []
    current = ring.tail_id.counter.value_() & id_mask
    head = ring.head_id.counter.value_() & id_mask
    for _ in range(1 << count_bits):
        index = current & ((1 << count_bits) - 1)
        (state,) = struct.unpack_from(order + letter, descs, index * size + state_at)
        begin, following = struct.unpack_from(order + 2 * letter, descs, index * size + block_at)
        if state & id_mask == current and state >> (8 * word - 2) in (COMMITTED, FINALIZED):
            record = _record(prog, ring, text, index, (begin, following))
            records += [record] if record is not None else []
        if current == head:
            break
        current = (current + 1) & id_mask
    return records


def _record(prog: Program, ring: Object, text: Object, index: int, block: tuple[int, int]) -> Record | None:
    """Read one record; ``None`` if its memory isn't there."""
    word = sizeof(prog.type("unsigned long"))
    mask = (1 << text.size_bits.value_()) - 1
    begin, following = block[0] & mask, block[1] & mask
    # Lowest bit set: a record without data.
    if block[0] & 1:
        return None
    if begin > following:
        # The text didn't fit before the end of the buffer; it is at its start.
        begin = 0
    begin += word
    try:
        info = ring.infos[index]
        seq, nanoseconds = info.seq.value_(), info.ts_nsec.value_()
        length = min(info.text_len.value_(), max(0, following - begin))
        data = prog.read(text.data.value_() + begin, length)
    except FaultError:
        return None
    caller: str | None = None
    level: int | None = None
    # Old captures have neither.
    with contextlib.suppress(FaultError):
        # The kernel writes it without CONFIG_PRINTK_CALLER too.
        caller, level = caller_name(info.caller_id.value_()), info.level.value_()
    return Record(seq, nanoseconds / 1e9, caller, level, data.decode("utf-8", "replace"))
