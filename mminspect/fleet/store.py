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
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from mminspect.errors import MminspectError
from mminspect.fleet.rows import FAILED, FILE
from mminspect.fleet.sources import Source
from mminspect.render.json_ import dumps

ROWS = "rows.ndjson"
# Bytes of a line: an answer of a process that reads a file has 4 MiB at most.
MAX_LINE = 16 << 20


class Store:
    """
    The folder of a run. One run at a time uses it.

    :param folder: Made if it isn't there.
    :ivar done: What was read of each file, by :attr:`Source.key`: its status.
    :ivar sizes: The sizes of the files whose content is known.
    :raises MminspectError: if it can't be used, or another run uses it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        path = os.path.join(folder, ROWS)
        try:
            os.makedirs(folder, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise MminspectError(f"{path}: not a regular file")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MminspectError(f"{folder}: another run uses it") from None
        except OSError as e:
            raise MminspectError(f"{path}: {e.strerror or e}") from None
        self.done: dict[tuple[str, int, int], str] = {}
        self.sizes: set[int] = set()
        # Where the rows of each content are: from which byte on, and how many.
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._mend(path)

    def _mend(self, path: str) -> None:
        """Read what is done, and cut off what is behind the last whole file."""
        position = 0
        with open(path, "rb") as rows:
            while line := rows.readline(MAX_LINE):
                position += len(line)
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    break
                try:
                    row = json.loads(line)
                    if row["row"] == FILE:
                        key = str(row["path"]), int(row["size"]), int(row["mtime_ns"])
                        self._note(key, str(row["status"]), row.get("content"), position)
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    raise MminspectError(f"{path}: damaged: {line[:60]!r} is no row of a fleet") from None
        try:
            os.ftruncate(self._fd, self._end)
        except OSError as e:
            raise MminspectError(f"{path}: {e.strerror or e}") from None

    def _note(self, key: tuple[str, int, int], status: str, content: Any, end: int) -> None:
        self.done[key] = status
        if isinstance(content, str) and status != FAILED:
            self._places[content] = self._end, end - self._end
            self.sizes.add(key[1])
        self._end = end

    def has(self, content: str | None) -> bool:
        """Tell whether a file with this content was read."""
        return content in self._places

    def add(self, source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
        """
        Add the rows of a file, the file's own at last.

        :raises MminspectError: if they can't be written.
        """
        about = {"path": source.name, "size": source.size, "mtime_ns": source.mtime_ns}
        data = "".join(dumps({"row": row["row"], **about, **row, **about}) + "\n" for row in rows).encode("ascii")
        end = self._end + len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as e:
            raise MminspectError(f"{self.folder}: {e.strerror or e}") from None
        self._note(source.key, str(rows[-1]["status"]), rows[-1].get("content"), end)

    def add_same(self, source: Source, content: str) -> None:
        """
        Add a file that has the same content as one that was read: it has the same rows.

        :raises MminspectError: if they can't be written.
        """
        start, length = self._places[content]
        rows = [json.loads(line) for line in os.pread(self._fd, length, start).splitlines()]
        rows[-1].setdefault("same_as", rows[-1]["path"])
        rows[-1].update(seconds=0.0, cpu=0.0)
        self.add(source, rows)

    def close(self) -> None:
        """Make sure that all of it is on the disk."""
        os.fsync(self._fd)
        os.close(self._fd)
