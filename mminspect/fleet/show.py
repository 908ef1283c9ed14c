# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fleet's files in groups: DuckDB reads the rows and counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mminspect.commands.triage.bugs import BUGS
from mminspect.errors import MminspectError
from mminspect.fleet.rows import COLUMNS
from mminspect.fleet.run import needed
from mminspect.fleet.store import ROWS
from mminspect.program.text import one_line

SCHEMA = "mminspect.fleet-groups/1"
# What a file is grouped by, in SQL. What it has more than one of puts it into more than one group.
NONE = "'-'"
KEYS = {
    "signature": (
        "[concat_ws(' ', coalesce(function || '()', kind, CASE WHEN verdict = 'no crash' THEN 'no crash' END, "
        "'unknown'), signature)]"
    ),
    "bug": f"CASE WHEN len(known) > 0 THEN known ELSE [{NONE}] END",
    "rule": f"CASE WHEN cardinality(rules) > 0 THEN map_keys(rules) ELSE [{NONE}] END",
    "function": f"[coalesce(function, {NONE})]",
    "release": f"[coalesce(release, {NONE})]",
    "host-layout": f"[coalesce(layout, {NONE})]",
}
_OF_FILE = (
    *("path", "size", "mtime_ns", "status", "error", "source", "release", "machine", "verdict", "why", "kind"),
    *("function", "signature", "known", "rules", "layout", "findings", "findings_omitted", "incomplete"),
    *("crash_time", "time", "time_from", "seconds", "cpu", "content", "same_as"),
)
_OF_FINDING = (
    *("path", "size", "mtime_ns", "rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "id"),
    *("signature", "known_as"),
)
# The verdicts that come first, in this order. Then come other files in which something is wrong, the most first.
VERDICTS = ("explained", "possible")
WRONG = ("struct pages", "unexplained")


def _connect(folder: str) -> Any:
    """
    Open the rows as the tables ``files`` and ``findings``.

    :raises MminspectError: if there are none, or these aren't rows of a fleet.
    """
    path = os.path.join(folder, ROWS)
    if not os.path.isfile(path):
        raise MminspectError(f"{folder}: no results of 'mminspect fleet run' are there")
    with open(path, "rb") as rows:
        size = rows.seek(0, os.SEEK_END)
        rows.seek(max(0, size - 1))
        if rows.read(1) not in (b"", b"\n"):
            raise MminspectError(f"{path}: the last row isn't whole; the next 'mminspect fleet run' there mends it")
    duckdb = needed("duckdb")
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    try:
        if os.path.getsize(path):
            rows = connection.read_json(path, format="newline_delimited", columns=COLUMNS, maximum_object_size=1 << 24)
        else:
            rows = connection.sql("SELECT " + ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items()))
        rows.create_view("rows")
        # Of a file that was read again, the last row counts, and so it is with files of the same content.
        connection.execute(
            "CREATE TABLE all_files AS SELECT * EXCLUDE (place, known), "
            "CASE WHEN json_type(known) = 'ARRAY' THEN CAST(known AS VARCHAR[]) ELSE [] END AS known, "
            "coalesce(crash_time, mtime_ns // 1000000000) AS time, "
            "CASE WHEN crash_time IS NULL THEN 'file' ELSE 'crash' END AS time_from, "
            "row_number() OVER (PARTITION BY coalesce(content, path) ORDER BY place DESC) AS copy "
            "FROM (SELECT * FROM (SELECT *, row_number() OVER () AS place FROM rows WHERE row = 'file') "
            "QUALIFY row_number() OVER (PARTITION BY path ORDER BY place DESC) = 1)"
        )
        connection.execute("CREATE VIEW files AS SELECT * EXCLUDE (copy) FROM all_files WHERE copy = 1")
        connection.execute(
            "CREATE VIEW findings AS SELECT DISTINCT rows.* EXCLUDE (known), "
            "json_extract_string(rows.known, '$') AS known_as FROM rows JOIN files USING (path, size, mtime_ns) "
            "WHERE rows.row = 'finding' AND files.status = 'read'"
        )
    except duckdb.Error as e:
        raise MminspectError(f"{path}: {one_line(str(e).splitlines()[0])}") from None
    return connection


def write_parquet(folder: str) -> None:
    """
    Write what is there as Parquet: files.parquet and findings.parquet.

    :raises MminspectError: if it can't be written.
    """
    duckdb = needed("duckdb")
    connection = _connect(folder)
    try:
        for table, names in (("files", _OF_FILE), ("findings", _OF_FINDING)):
            target = os.path.join(folder, f"{table}.parquet").replace("'", "''")
            connection.execute(f"COPY (SELECT {', '.join(names)} FROM {table}) TO '{target}' (FORMAT parquet)")
    except duckdb.Error as e:
        raise MminspectError(f"{folder}: {one_line(str(e).splitlines()[0])}") from None


def groups(folder: str, by: str, since: int | None = None) -> dict[str, Any]:
    """
    Group the files that were read.

    :param by: A key of :data:`KEYS`.
    :param since: Time of the crash, or if that isn't known of the file, in seconds since 1970.
    :return: As docs/json.md describes it.
    """
    connection = _connect(folder)
    named, wrong = (", ".join(f"'{name}'" for name in names) for names in (VERDICTS, WRONG))
    found = connection.execute(
        f"""
        SELECT key, count(*) AS files, min(time) AS first, max(time) AS last,
               map_entries(histogram(coalesce(release, '-'))) AS releases,
               map_entries(histogram(verdict)) AS verdicts,
               first(path ORDER BY time DESC, path) AS example, first(why ORDER BY time DESC, path) AS why,
               first(source ORDER BY time DESC, path) AS source,
               first(known ORDER BY time DESC, path) || list_distinct(flatten(list(known))) AS known,
               map_entries(histogram(layout)) AS layouts,
               min(CASE WHEN verdict IN ({named}) THEN list_position([{named}], verdict)
                   WHEN verdict IN ({wrong}) OR signature IS NOT NULL THEN 10
                   WHEN verdict <> 'no crash' THEN 11 ELSE 12 END) AS place
        FROM (SELECT *, unnest({KEYS[by]}) AS key FROM files
              WHERE status = 'read' AND (?::BIGINT IS NULL OR time >= ?::BIGINT))
        GROUP BY key
        ORDER BY key = {NONE}, place, files DESC, key
        """,
        [since, since],
    )
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row)) for row in found.fetchall()]
    (copies,) = connection.execute("SELECT count(*) FROM all_files WHERE copy > 1").fetchone()
    statuses = dict(
        connection.execute(
            "SELECT status, count(*) FROM files WHERE status <> 'read' OR ?::BIGINT IS NULL OR time >= ?::BIGINT "
            "GROUP BY status",
            [since, since],
        ).fetchall()
    )
    reasons = connection.execute(
        "SELECT status, error, count(*), min(path) FROM files WHERE status <> 'read' "
        "GROUP BY ALL ORDER BY 3 DESC, 2 LIMIT 20"
    ).fetchall()
    return {
        "schema": SCHEMA,
        "by": by,
        "files": {status: statuses.get(status, 0) for status in ("read", "failed", "skipped")},
        "copies": copies,
        "groups": [_group(row, by) for row in rows],
        "not_read": [dict(zip(("status", "error", "files", "example"), row)) for row in reasons],
    }


def _group(row: Mapping[str, Any], by: str) -> dict[str, Any]:
    # Those of the example come first, in the order in which they fit it.
    known = list(dict.fromkeys(row["known"] or []))
    if by == "bug":
        known = [name for name in known if name == row["key"]]
    bug = next((bug for name in known for bug in BUGS if bug.id == name), None)
    return {
        "key": row["key"],
        "files": row["files"],
        "verdicts": _counts(row["verdicts"]),
        "first": row["first"],
        "last": row["last"],
        "releases": _counts(row["releases"]),
        "known": known,
        "fix": None if bug is None else _fix(bug),
        "layouts": _counts(row["layouts"]),
        "example": row["example"],
        "source": row["source"],
        "why": row["why"],
    }


def _counts(entries: Sequence[Any] | None) -> dict[str, int]:
    pairs = [(entry["key"], entry["value"]) for entry in entries or () if entry["key"] is not None]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _fix(bug: Any) -> str:
    """Say what to try against a bug."""
    if not bug.harmful:
        return f"{bug.title}: harmless"
    if bug.fixed is None:
        return f"{bug.title}: no fix is known"
    hashes = ", ".join(commit.hash for commit in bug.commits if "fix" in commit.what)
    stable = f", in stable {', '.join(bug.stable)}" if bug.stable else ""
    return f"{bug.title}: fixed in {bug.fixed}{stable}{f' by {hashes}' if hashes else ''}"
