# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two reports or maps compared, as plain data. What one side lacks is not compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Callable

from mminspect.commands.map import SPANNED
from mminspect.errors import MminspectError
from mminspect.findings import SEVERITIES
from mminspect.memorymap.ranges import Range, merge, subtract

SCHEMA = "mminspect.diff/1"
# What of a finding is compared. Messages and details also have addresses, which differ with each boot.
_OF_FINDING = ("severity", "node", "zone", "start_pfn", "end_pfn", "known")
_OF_ZONE = ("index", "start_pfn", "end_pfn", "spanned", "present", "managed", "contiguous")
_OF_TARGET = (
    *("release", "machine", "page_size", "memory_model", "pageblock_order", "bits_per_pageblock"),
    *("page_flags_layout", "struct_page_size"),
)

Data = dict[str, Any]
# By node, zone ID and name of the zone.
Holes = dict[tuple[int, int, str], list[Range]]


def identity(finding: Mapping[str, Any]) -> Hashable:
    """Get what is the same for the same finding in two scans of one kernel."""
    return finding.get("id") or _place(finding)


def _place(finding: Mapping[str, Any]) -> Hashable:
    return finding["rule"], finding.get("node"), finding.get("zone"), finding["start_pfn"], finding["end_pfn"]


def _same_fault(finding: Mapping[str, Any]) -> Hashable:
    return finding.get("signature") or None


def diff(before: Data, after: Data) -> Data:
    """
    Compare two reports or maps.

    :param before: As JSON has it, and optionally ``memory`` as a map has it.
    :param after: Likewise.
    :return: As docs/json.md describes it.
    :raises MminspectError: if the first has too little in it for anything to be called new.
    """
    if (reason := _incomplete(before)) is not None:
        raise MminspectError(
            f"{before.get('path') or 'the first report'}: {reason}, so that nothing can be called new; compare reports "
            "of whole scans ('mminspect scan --format json')"
        )
    applied = [_rules(side) for side in (before, after)]
    common = None if None in applied else set(applied[0] or ()) & set(applied[1] or ())
    one, two = (
        [f for f in _in_range(side["findings"], other) if common is None or f["rule"] in common]
        for side, other in ((before, after), (after, before))
    )
    pairs, gone, new = match(one, two)
    changed = [change for pair in pairs if (change := _change(*pair)) is not None]
    span = _span(before, after)
    return {
        "schema": SCHEMA,
        "before": _side(before),
        "after": _side(after),
        "new": _worst_first(new),
        "gone": None if _incomplete(after) else _worst_first(gone),
        "changed": sorted(changed, key=lambda change: _order(change["after"])),
        "unchanged": len(pairs) - len(changed),
        "rules_not_compared": sorted(set(applied[0] or ()) ^ set(applied[1] or ())) if common is not None else [],
        "zones": _zones(before["zones"], after["zones"]),
        "range": None if span is None else list(span),
        "sections": _memory(_known_memory(before), _known_memory(after), span),
        "holes": _holes(before, after),
        "layout": _layout(before["target"], after["target"]),
    }


def _incomplete(side: Data) -> str | None:
    """Say why a side may have findings that it doesn't list."""
    if side.get("findings_omitted"):
        return f"a map that leaves out {side['findings_omitted']} findings"
    return "of a scan that was stopped early" if side["summary"].get("partial") else None


def _rules(side: Data) -> list[str] | None:
    """Get the rules that were applied, ``None`` if that isn't told."""
    rules = side["summary"].get("by_rule")
    return list(rules) if isinstance(rules, dict) else None


def _side(side: Data) -> Data:
    target = side["target"]
    return {
        "path": side.get("path"),
        "schema": side["schema"],
        **{key: target.get(key) for key in ("release", "machine", "kind")},
        "findings": len(side["findings"]),
    }


def _in_range(findings: Iterable[Data], other: Data) -> list[Data]:
    """Get the findings that the other side could have: a map can be of a range."""
    low, high = other.get("start_pfn"), other.get("end_pfn")
    if low is None or high is None or not other.get("is_range"):
        return list(findings)
    return [f for f in findings if f["start_pfn"] < high and low < max(f["end_pfn"], f["start_pfn"] + 1)]


def _span(before: Data, after: Data) -> Range | None:
    """Get the pfns that both sides show, ``None`` for all."""
    ranges = [(side["start_pfn"], side["end_pfn"]) for side in (before, after) if side.get("is_range")]
    return (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None


def _order(finding: Data) -> tuple[int, int, str]:
    return -SEVERITIES.index(finding["severity"]), finding["start_pfn"], finding["rule"]


def _worst_first(findings: Iterable[Data]) -> list[Data]:
    return sorted(findings, key=_order)


def match(before: Sequence[Data], after: Sequence[Data]) -> tuple[list[tuple[Data, Data]], list[Data], list[Data]]:
    """
    Match findings: by identity, then by place, then by signature where pfns moved, then where pages overlap.

    :return: (pairs, what is gone, what is new).
    """
    pairs: list[tuple[Data, Data]] = []
    for key in (identity, _place, _same_fault):
        found, before, after = _match_by(key, before, after)
        pairs += found
    found, before, after = _match_overlapping(before, after)
    return pairs + found, list(before), list(after)


def _match_by(
    key: Callable[[Data], Hashable], before: Sequence[Data], after: Sequence[Data]
) -> tuple[list[tuple[Data, Data]], list[Data], list[Data]]:
    """Match findings of equal keys, in the order of their pfns."""
    waiting: dict[Hashable, list[Data]] = {}
    for finding in before:
        waiting.setdefault(key(finding), []).append(finding)
    pairs, new = [], []
    for finding in after:
        same = waiting.get(key(finding)) if key(finding) is not None else None
        if same:
            pairs.append((same.pop(0), finding))
        else:
            new.append(finding)
    left = {id(finding) for findings in waiting.values() for finding in findings}
    return pairs, [finding for finding in before if id(finding) in left], new


def _match_overlapping(
    before: Sequence[Data], after: Sequence[Data]
) -> tuple[list[tuple[Data, Data]], list[Data], list[Data]]:
    """Match findings of one rule and zone whose pages overlap: such a finding grew, shrank or was cut."""
    kinds: dict[Hashable, list[Data]] = {}
    for finding in before:
        kinds.setdefault((finding["rule"], finding.get("node"), finding.get("zone")), []).append(finding)
    pairs, new, taken = [], [], set()
    for finding in after:
        others = kinds.get((finding["rule"], finding.get("node"), finding.get("zone")), [])
        for other in others:
            if (
                id(other) not in taken
                and other["start_pfn"] < finding["end_pfn"]
                and finding["start_pfn"] < other["end_pfn"]
            ):
                taken.add(id(other))
                pairs.append((other, finding))
                break
        else:
            new.append(finding)
    return pairs, [finding for finding in before if id(finding) not in taken], new


def _change(before: Data, after: Data) -> Data | None:
    what = {
        key: [before[key], after[key]]
        for key in _OF_FINDING
        if key in before and key in after and before[key] != after[key]
    }
    return {"what": what, "before": before, "after": after} if what else None


def _zones(before: Sequence[Data], after: Sequence[Data]) -> Data:
    # The ID of a zone depends on the kernel's configuration, its name doesn't.
    one, two = ({(zone["node"], zone["name"]): zone for zone in side} for side in (before, after))
    changed = []
    for key in sorted(one.keys() & two.keys()):
        old, now = one[key], two[key]
        what = {k: [old[k], now[k]] for k in _OF_ZONE if k in old and k in now and old[k] != now[k]}
        if what:
            changed.append({"node": key[0], "name": key[1], "what": what})
    return {
        "new": [two[key] for key in sorted(two.keys() - one.keys())],
        "gone": [one[key] for key in sorted(one.keys() - two.keys())],
        "changed": changed,
    }


def _known_memory(side: Data) -> Sequence[Data] | None:
    """Get where memory is; ``None`` if a side doesn't tell: a report, or a map that was made of one."""
    memory: Sequence[Data] | None = side.get("memory")
    return None if memory is None or any(m["state"] == SPANNED for m in memory) else memory


def _memory(before: Sequence[Data] | None, after: Sequence[Data] | None, span: Range | None) -> list[Data] | None:
    """Get where memory became online, offline or absent; ``None`` if a side doesn't tell."""
    if before is None or after is None:
        return None
    sides = [[(m["start_pfn"], m["end_pfn"], m["state"]) for m in side] for side in (before, after)]
    edges = sorted({pfn for side in sides for start, end, _ in side for pfn in (start, end)})
    result: list[Data] = []
    places = [0, 0]
    for start, end in zip(edges, edges[1:]):
        if span is not None:
            start, end = max(start, span[0]), min(end, span[1])
            if start >= end:
                continue
        states = []
        for number, side in enumerate(sides):
            while places[number] < len(side) and side[places[number]][1] <= start:
                places[number] += 1
            here = side[places[number]] if places[number] < len(side) else None
            states.append(here[2] if here is not None and here[0] <= start else "absent")
        if states[0] == states[1]:
            continue
        last = result[-1] if result else None
        if last is not None and last["end_pfn"] == start and [last["before"], last["after"]] == states:
            last["end_pfn"] = end
        else:
            result.append({"start_pfn": start, "end_pfn": end, "before": states[0], "after": states[1]})
    return result


def _holes_of(side: Data) -> Holes:
    online = merge((m["start_pfn"], m["end_pfn"]) for m in side["memory"] if m["state"] == "online")
    return {
        (zone["node"], zone["index"], zone["name"]): subtract([(zone["start_pfn"], zone["end_pfn"])], online)
        for zone in side["zones"]
    }


def _holes(before: Data, after: Data) -> Data | None:
    """Compare the pfns that zones span and that aren't online; ``None`` if a side doesn't tell."""
    if _known_memory(before) is None or _known_memory(after) is None:
        return None
    one, two = _holes_of(before), _holes_of(after)

    def only(
        here: dict[tuple[int, int, str], list[Range]], there: dict[tuple[int, int, str], list[Range]]
    ) -> list[Data]:
        return [
            {"node": key[0], "index": key[1], "zone": key[2], "start_pfn": start, "end_pfn": end}
            for key, ranges in sorted(here.items())
            for start, end in subtract(ranges, there.get(key, []))
        ]

    return {"new": only(two, one), "gone": only(one, two)}


def _layout(before: Data, after: Data) -> Data:
    return {
        key: [before[key], after[key]]
        for key in _OF_TARGET
        if key in before and key in after and before[key] != after[key]
    }


def is_new_at(data: Data, severity: str) -> bool:
    """Tell whether something new, or something that became worse, is of a severity or worse."""
    least = SEVERITIES.index(severity)
    if any(SEVERITIES.index(finding["severity"]) >= least for finding in data["new"]):
        return True
    worse = [change["what"]["severity"] for change in data["changed"] if "severity" in change["what"]]
    return any(SEVERITIES.index(old) < SEVERITIES.index(now) >= least for old, now in worse)
