# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports and maps that were saved as JSON."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mminspect import findings
from mminspect.commands import map as maps
from mminspect.errors import MminspectError
from mminspect.rules.registry import all_rules

# What each schema must have for it to be compared or drawn, and the type of it.
_NEEDED: dict[str, dict[str, type]] = {
    findings.SCHEMA: {"target": dict, "zones": list, "summary": dict, "findings": list},
    maps.SCHEMA: {
        "target": dict,
        "zones": list,
        "summary": dict,
        "findings": list,
        "cells": list,
        "memory": list,
        "classes": list,
        "links": list,
        "spans": list,
        "migratetypes": list,
        "cell_pages": int,
        "start_pfn": int,
        "end_pfn": int,
    },
}
# A report of a million findings has less.
MAX_SIZE = 1 << 30
# Bytes that tell JSON from other files, and that are read at once.
BEGINNING, PIECE = 64, 1 << 20
_OF_FINDING: dict[str, type] = {"rule": str, "severity": str, "start_pfn": int, "end_pfn": int, "message": str}
_OF_ZONE: dict[str, type] = {"node": int, "index": int, "name": str, "start_pfn": int, "end_pfn": int}


def looks_like_json(path: str) -> bool:
    """Tell whether a file is JSON, and not a vmcore: whether it begins with a brace or a bracket."""
    try:
        # What comes through a pipe can be read once, and is no vmcore.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return True
        with open(path, "rb") as file:
            return file.read(BEGINNING).removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")
    except OSError:
        return False


def _parse(path: str, schemas: Sequence[str]) -> dict[str, Any]:
    """
    Read a file of one of some schemas.

    :raises MminspectError: if the file has none of them, or is not all there.
    """
    kinds = "neither a report nor a map" if len(schemas) > 1 else "no report"
    try:
        with open(path, "rb") as file:
            begin = file.read(BEGINNING)
            if begin.removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in (b"{", b"["):
                raise MminspectError(f"{path}: {kinds} in JSON")
            data_read = bytearray(begin)
            # Room for all that may come would be asked for at once.
            while piece := file.read(PIECE):
                data_read += piece
                if len(data_read) > MAX_SIZE:
                    raise MminspectError(f"{path}: larger than {MAX_SIZE >> 20} MiB, as no report and no map is")
        text = data_read.decode("utf-8-sig")
    except OSError as e:
        raise MminspectError(f"{path}: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise MminspectError(f"{path}: {kinds} in JSON") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        if text.lstrip()[:1] != "{":
            raise MminspectError(f"{path}: {kinds} in JSON") from None
        if isinstance(e, json.JSONDecodeError):
            raise MminspectError(f"{path}: cut short or damaged: {e}") from None
        # Python's own limits: of digits in a number, and of how deep lists lie in lists.
        raise MminspectError(f"{path}: damaged: not as mminspect wrote it") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, str) or not schema.startswith("mminspect."):
        raise MminspectError(f"{path}: JSON, but {kinds} of mminspect")
    if schema not in schemas:
        raise MminspectError(f"{path}: has schema {schema!r}; this mminspect reads {' and '.join(schemas)}")
    result: dict[str, Any] = data
    return result


def load(path: str) -> dict[str, Any]:
    """
    Read a saved report or map.

    :raises MminspectError: if the file is neither, or not all of one.
    """
    data = _parse(path, tuple(_NEEDED))
    _check(path, data["schema"], data)
    return data


@contextlib.contextmanager
def relied_on(paths: Iterable[str]) -> Iterator[None]:
    """
    Work with what was loaded. Damage that :func:`load` doesn't see shows when it is used.

    :param paths: The files.
    :raises MminspectError: if it isn't what mminspect writes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        raise MminspectError(f"{' or '.join(paths)}: damaged: not as mminspect wrote it") from e


def load_findings(path: str) -> list[dict[str, Any]]:
    """
    Read the findings of a saved report, of which only the IDs must be there.

    :raises MminspectError: if the file is no report, or a finding has no ID.
    """
    data = _parse(path, (findings.SCHEMA,))
    _has(path, "it", data, {"findings": list})
    for finding in data["findings"]:
        _has(path, "a finding", finding, {"id": str})
        for key in ("signature", "severity", "reason"):
            if not isinstance(finding.get(key, ""), str):
                raise MminspectError(f"{path}: damaged: a finding has no {key!r} that can be used")
    result: list[dict[str, Any]] = data["findings"]
    return result


def _check(path: str, schema: str, data: dict[str, Any]) -> None:
    """
    Check what is relied on.

    :raises MminspectError: if it isn't so.
    """
    _has(path, schema, data, _NEEDED[schema])
    for finding in data["findings"]:
        _has(path, "a finding", finding, _OF_FINDING)
        if finding["severity"] not in findings.SEVERITIES:
            raise MminspectError(f"{path}: damaged: a finding with severity {finding['severity']!r}")
    for zone in data["zones"]:
        _has(path, "a zone", zone, _OF_ZONE)
    if schema == maps.SCHEMA:
        for item in data["memory"]:
            _has(path, "a range of memory", item, {"start_pfn": int, "end_pfn": int, "state": str})
        limits = (len(data["links"]), len(data["spans"]))
        for cell in data["cells"]:
            if not _is_cell(cell, limits, len(data["classes"]), len(data["migratetypes"])):
                raise MminspectError(f"{path}: damaged: {str(cell)[:80]} can't be a cell")
        if data["cell_pages"] <= 0 or data["cell_pages"] & (data["cell_pages"] - 1):
            raise MminspectError(f"{path}: damaged: cells of {data['cell_pages']} pages")


def _has(path: str, what: str, data: Any, needed: dict[str, type]) -> None:
    if not isinstance(data, dict):
        raise MminspectError(f"{path}: damaged: {what} is no object")
    for key, kind in needed.items():
        if not isinstance(data.get(key), kind) or isinstance(data[key], bool):
            raise MminspectError(f"{path}: damaged: {what} has no {key!r} that can be used")
        if key.endswith("_pfn") and not 0 <= data[key] < 1 << 63:
            raise MminspectError(f"{path}: damaged: {what} has the pfn {data[key]}")


def _is_cell(cell: Any, limits: tuple[int, int], classes: int, migratetypes: int) -> bool:
    if not isinstance(cell, list) or len(cell) < len(maps.COLUMNS):
        return False
    start, end, link, span, counts, types, severity = cell[: len(maps.COLUMNS)]
    return (
        all(isinstance(value, int) for value in (start, end, span, severity))
        and 0 <= start < end < 1 << 63
        and (link is None or (isinstance(link, int) and 0 <= link < limits[0]))
        and 0 <= span < limits[1]
        and 0 <= severity <= len(findings.SEVERITIES)
        and _are_counts(counts, classes)
        and _are_counts(types, migratetypes)
    )


def _are_counts(counts: Any, kinds: int) -> bool:
    return (
        isinstance(counts, list)
        and len(counts) % 2 == 0
        and all(isinstance(value, int) and value >= 0 for value in counts)
        and all(kind < kinds for kind in counts[::2])
    )


def as_map(data: dict[str, Any]) -> dict[str, Any]:
    """Make a map of a report: of its zones and findings, since nothing else is in it."""
    if data["schema"] == maps.SCHEMA:
        return data
    zones = data["zones"]
    rules = all_rules()
    of_zones = {rule for rule in rules if rules[rule].about == findings.ZONE}
    wrong = [f for f in data["findings"] if f["rule"] not in of_zones and f["start_pfn"] < f["end_pfn"]]
    worst = maps.Worst.of((f["severity"], [(f["start_pfn"], f["end_pfn"])]) for f in wrong)
    borders = {pfn for zone in zones for pfn in (zone["start_pfn"], zone["end_pfn"])}
    # No zone need span the pages of a finding.
    edges = np.unique([*borders, *worst.edges().tolist()]).astype(np.int64)
    low, high = (int(edges[0]), int(edges[-1])) if len(edges) else (0, 0)
    levels = worst.at(edges[:-1], edges[1:]).tolist() if len(edges) else []
    spans: list[list[int]] = [[]]
    cells: list[list[Any]] = []
    memory: list[dict[str, Any]] = []
    here: list[int] = []
    ends = edges.tolist()
    for start, end, level in zip(ends, ends[1:], levels):
        if start in borders:
            here = [n for n, zone in enumerate(zones) if zone["start_pfn"] <= start < zone["end_pfn"]]
            spans.append(here)
        # What a rule looked at is there, although nothing spans it.
        state = maps.SPANNED if here else maps.ONLINE if level else "absent"
        if memory and memory[-1]["state"] == state:
            memory[-1]["end_pfn"] = end
        else:
            memory.append({"start_pfn": start, "end_pfn": end, "state": state})
        if here or level:
            cells.append([start, end, None, len(spans) - 1, [], [], level])
    return {
        "schema": maps.SCHEMA,
        "target": data["target"],
        "zones": zones,
        "summary": data["summary"],
        "start_pfn": low,
        "end_pfn": high,
        "is_range": False,
        "cell_pages": 1,
        "classes": [],
        "links": [],
        "spans": spans,
        "migratetypes": [],
        "severities": [None, *findings.SEVERITIES],
        "memory": memory,
        "columns": list(maps.COLUMNS),
        "cells": cells,
        "findings": [_painted(f, f["rule"] in of_zones) for f in sorted(data["findings"], key=_by_severity)],
        "findings_omitted": 0,
    }


def _by_severity(finding: dict[str, Any]) -> int:
    return -findings.SEVERITIES.index(finding["severity"])


def _painted(finding: dict[str, Any], of_zone: bool) -> dict[str, Any]:
    """Add what a finding paints."""
    start, end = finding["start_pfn"], finding["end_pfn"]
    return {**finding, "pfns": [] if of_zone or end <= start else [[start, end]]}
