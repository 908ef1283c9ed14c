# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel opened for scans, and the place where reports go."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from typing import IO

from mminspect.cli import privileges
from mminspect.cli.output import open_output
from mminspect.cli.progress import ProgressBar
from mminspect.cli.publish import Publisher
from mminspect.findings import Report
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Rule
from mminspect.walk.limits import Limits
from mminspect.walk.picture import Picture
from mminspect.walk.scan import scan

# Modules that are imported when they are needed, and could be unreadable for the user that the process becomes.
LATE = ("mminspect.kernel.identify", "tabulate")


class Session:
    """
    A kernel opened for scans, and the place where reports go.

    For the running kernel, everything that needs privileges is done when this is made, and the privileges are given
    up.

    :param output: Path of the file for reports; ``None`` or ``-`` for stdout.
    :param user: User to become.
    """

    def __init__(self, inputs: Inputs, output: str | None, user: str) -> None:
        self._output = output
        self._publisher: Publisher | None = None
        with open_kernel(inputs) as self.kernel:
            pass
        if self.kernel.is_live:
            self._give_up_privileges(user)

    def _give_up_privileges(self, user: str) -> None:
        for name in LATE:
            importlib.import_module(name)
        account = privileges.find_user(user)
        self.kernel.read_privileged()
        if self._output is not None and self._output != "-":
            self._publisher = Publisher(self._output)
        privileges.lower_priority()
        privileges.drop(account)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        if self._publisher is not None:
            self._publisher.close()

    def scan(self, rules: Sequence[Rule], limits: Limits) -> Report:
        """Scan once; see :func:`mminspect.walk.scan.scan`."""
        with ProgressBar() as bar:
            return scan(self.kernel, rules, limits, bar.start)

    def picture(
        self, rules: Sequence[Rule], limits: Limits, order: int, span: tuple[int, int] | None
    ) -> tuple[Picture, Report]:
        """
        Scan once, and gather the picture of the memory map meanwhile.

        :param order: As :class:`mminspect.walk.picture.Picture` takes it; likewise ``span``.
        """
        made: list[Picture] = []

        def observe(memory: MemoryMap) -> Picture:
            made.append(Picture(memory, order, span))
            return made[-1]

        with ProgressBar() as bar:
            report = scan(self.kernel, rules, limits, bar.start, observe)
        return made[-1], report

    def output(self) -> contextlib.AbstractContextManager[IO[str]]:
        """Open the place where a report goes; it is replaced as a whole."""
        return self._publisher.open() if self._publisher is not None else open_output(self._output)
