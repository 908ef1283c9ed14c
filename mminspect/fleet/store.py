# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The results of a fleet: rows that are only appended.

The rows of a file are written at once: one for each finding, and at last the file's own. What a run that was killed
left half written is cut off when the next one begins. Of a file that was read again, the last rows count.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from mminspect.errors import MminspectError
from mminspect.fleet.sources import Source
from mminspect.render.json_ import dumps

ROWS = "rows.ndjson"
FAILED, SKIPPED = "failed", "skipped"
PIECE = 1 << 20


class Store:
    """
    The folder of a run. One run at a time uses it.

    :param folder: Made if it isn't there.
    :ivar done: What was read of each file, by :attr:`Source.key`: its status.
    :raises MminspectError: if it can't be used, or another run uses it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        path = os.path.join(folder, ROWS)
        try:
            os.makedirs(folder, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MminspectError(f"{folder}: another run uses it") from None
        except OSError as e:
            raise MminspectError(f"{path}: {e.strerror or e}") from None
        self.done: dict[tuple[str, int, int], str] = {}
        self._mend(path)

    def _mend(self, path: str) -> None:
        """Read what is done, and cut off what is behind the last whole file."""
        end = position = 0
        with open(path, "rb") as rows:
            for line in rows:
                position += len(line)
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    if row["row"] == "file":
                        end = position
                        self.done[row["path"], row["size"], row["mtime_ns"]] = row["status"]
                except (ValueError, KeyError, TypeError):
                    raise MminspectError(f"{path}: damaged: {line[:60]!r} is no row of a fleet") from None
        os.ftruncate(self._fd, end)

    def add(self, source: Source, rows: Iterable[Mapping[str, Any]]) -> None:
        """
        Add the rows of a file, the file's own at last.

        :raises MminspectError: if they can't be written.
        """
        about = {"path": source.path, "size": source.size, "mtime_ns": source.mtime_ns}
        rows = list(rows)
        data = "".join(dumps({"row": row["row"], **about, **row}) + "\n" for row in rows).encode("ascii")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as e:
            raise MminspectError(f"{self.folder}: {e.strerror or e}") from None
        self.done[source.key] = str(rows[-1]["status"])

    def close(self) -> None:
        """Make sure that all of it is on the disk."""
        os.fsync(self._fd)
        os.close(self._fd)
