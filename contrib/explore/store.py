# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was tried: one sqlite file, which a later run goes on with."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from contrib.explore.coverage import Block
from contrib.explore.judge import Sighting
from contrib.explore.layout import Layout, dumps, loads, to_json
from contrib.explore.outcome import Outcome
from contrib.kernels.errors import HarnessError

VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS trial (
    kernel TEXT NOT NULL, layout TEXT NOT NULL, seed INTEGER, outcome TEXT NOT NULL,
    cpu REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (kernel, layout));
CREATE TABLE IF NOT EXISTS sighting (
    kernel TEXT NOT NULL, layout TEXT NOT NULL, severity TEXT NOT NULL, signature TEXT NOT NULL,
    count INTEGER NOT NULL, example TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS sighting_signature ON sighting (kernel, severity, signature);
CREATE TABLE IF NOT EXISTS block (
    kernel TEXT NOT NULL, start TEXT NOT NULL, end TEXT NOT NULL, PRIMARY KEY (kernel, start, end));
CREATE TABLE IF NOT EXISTS minimal (
    kernel TEXT NOT NULL, severity TEXT NOT NULL, signature TEXT NOT NULL, layout TEXT NOT NULL,
    boots INTEGER NOT NULL, confirmed TEXT NOT NULL, PRIMARY KEY (kernel, severity, signature));
"""


@dataclass(frozen=True)
class Signature:
    """
    A signature of a kernel.

    :ivar severity: ``note``, ``warning`` or ``error``.
    :ivar signature: What was seen.
    :ivar layouts: How many layouts gave it.
    :ivar example: A message.
    :ivar simplest: The layout with the shortest text of those that gave it.
    :ivar minimal: The minimal layout, if it was shrunk.
    :ivar boots: How many boots that took.
    :ivar confirmed: What confirmation said.
    """

    severity: str
    signature: str
    layouts: int
    example: str
    simplest: Layout
    minimal: Layout | None
    boots: int
    confirmed: str

    @property
    def key(self) -> str:
        """Return severity and signature."""
        return f"{self.severity} {self.signature}"


class Store:
    """
    Trials of layouts on kernels.

    :param path: The file; it is made if it isn't there.
    :raises HarnessError: if it isn't a store.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            self.connection = sqlite3.connect(path)
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise HarnessError(f"{path}: a store of version {version}; this is {VERSION}")
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(SCHEMA + f"PRAGMA user_version = {VERSION};")
        except sqlite3.Error as error:
            raise HarnessError(f"{path}: not a store: {error}") from None

    def add(self, kernel: str, layout: Layout, outcome: Outcome, seed: int | None = None) -> None:
        """Add a trial. One of the same kernel and layout is replaced."""
        text = dumps(layout)
        with self.connection as db:
            db.execute("DELETE FROM sighting WHERE kernel = ? AND layout = ?", (kernel, text))
            cpu = outcome.boot_cpu + outcome.scan_cpu
            db.execute(
                "INSERT OR REPLACE INTO trial VALUES (?, ?, ?, ?, ?, ?)",
                (kernel, text, seed, outcome.boot, cpu, outcome.seconds),
            )
            db.executemany(
                "INSERT INTO sighting VALUES (?, ?, ?, ?, ?, ?)",
                [(kernel, text, s.severity, s.signature, s.count, s.example) for s in outcome.sightings],
            )

    def kernels(self) -> list[str]:
        """Return the kernels that were tried."""
        return [name for (name,) in self.connection.execute("SELECT DISTINCT kernel FROM trial ORDER BY kernel")]

    def add_blocks(self, kernel: str, blocks: Iterable[Block]) -> None:
        """Add code that ran. Addresses are text: sqlite has no unsigned integers."""
        rows = [(kernel, hex(block.start), hex(block.end)) for block in blocks]
        with self.connection as db:
            db.executemany("INSERT OR IGNORE INTO block VALUES (?, ?, ?)", rows)

    def blocks(self, kernel: str) -> set[Block]:
        """Return the code that ran on any layout."""
        rows = self.connection.execute("SELECT start, end FROM block WHERE kernel = ?", (kernel,))
        return {Block(int(start, 16), int(end, 16)) for start, end in rows}

    def seeds(self, kernel: str) -> set[int]:
        """Return the seeds that were tried on a kernel."""
        rows = self.connection.execute("SELECT seed FROM trial WHERE kernel = ? AND seed IS NOT NULL", (kernel,))
        return {seed for (seed,) in rows}

    def trials(self, kernel: str) -> Iterator[tuple[Layout, str]]:
        """Return the layouts that were tried on a kernel and how their boots ended."""
        rows = self.connection.execute("SELECT layout, outcome FROM trial WHERE kernel = ? ORDER BY rowid", (kernel,))
        for text, outcome in rows:
            yield loads(text), outcome

    def cost(self, kernel: str) -> tuple[int, float]:
        """Return how many layouts were tried on a kernel, and their CPU seconds."""
        query = "SELECT count(*), coalesce(sum(cpu), 0) FROM trial WHERE kernel = ?"
        count, cpu = self.connection.execute(query, (kernel,)).fetchone()
        return count, cpu

    def set_minimal(self, kernel: str, key: Sighting, layout: Layout, boots: int, confirmed: str = "") -> None:
        """Keep the minimal layout of a signature."""
        with self.connection as db:
            row = (kernel, key.severity, key.signature, dumps(layout), boots, confirmed)
            db.execute("INSERT OR REPLACE INTO minimal VALUES (?, ?, ?, ?, ?, ?)", row)

    def signatures(self, kernel: str) -> list[Signature]:
        """Return the signatures of a kernel: errors first, the most frequent first."""
        query = """
            SELECT s.severity, s.signature, count(*), s.example, s.layout,
                m.layout, coalesce(m.boots, 0), coalesce(m.confirmed, ''), min(length(s.layout))
            FROM sighting s LEFT JOIN minimal m
            ON m.kernel = s.kernel AND m.severity = s.severity AND m.signature = s.signature
            WHERE s.kernel = ? GROUP BY s.severity, s.signature
            ORDER BY s.severity = 'note', s.severity = 'warning', count(*) DESC, s.signature"""
        found = []
        for severity, text, count, example, simplest, least, boots, said, _ in self.connection.execute(
            query, (kernel,)
        ):
            minimal = loads(least) if least else None
            found.append(Signature(severity, text, count, example, loads(simplest), minimal, boots, said))
        return found

    def export(self, kernel: str, out: TextIO) -> int:
        """Write the trials of a kernel, a line of JSON each; return how many."""
        query = "SELECT severity, signature, count, example FROM sighting WHERE kernel = ? AND layout = ?"
        count = 0
        for layout, boot in self.trials(kernel):
            rows = self.connection.execute(query, (kernel, dumps(layout)))
            sightings = [asdict(Sighting(*row)) for row in rows]
            line = {"kernel": kernel, "layout": to_json(layout), "boot": boot, "sightings": sightings}
            out.write(json.dumps(line) + "\n")
            count += 1
        return count

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
