# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels opened without rights, and the place where output goes."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click
import drgn

from mminspect.cli.output import check_writable, open_output, own_descriptor, say
from mminspect.cli.progress import ProgressBar
from mminspect.cli.publish import Publisher
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, open_kernel
from mminspect.program import files, late, privileges, sandbox

if TYPE_CHECKING:
    from mminspect.findings import Report
    from mminspect.memorymap.map import MemoryMap
    from mminspect.rules.base import Rule
    from mminspect.walk.limits import Limits
    from mminspect.walk.picture import Picture


def _duplicate(path: str, descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OSError as e:
        raise MminspectError(f"{path}: can't be written: {e.strerror}") from None


class Session:
    """
    Rights are given up here, before a vmcore is looked at.

    What needs them is done first: the files that the user named are opened, and so is the place where output goes. The
    running kernel is opened first as well, and what only root can read of it is read. Of a guest, the memory is opened.

    :param output: Path of the output file; ``None`` or ``-`` for stdout.
    :param user: User to become.
    :param vmcores: Vmcores that are opened later, instead of the one that ``inputs`` names.
    :param verbose: Whether to say what of the sandbox can't be had.
    :param gentle: Whether the running kernel is read at low priority.
    :param forever: Whether a vmcore is read until the program is told to end.
    :param stop: Whether a guest stands still until it was read.
    :raises MminspectError: if the rights of a process that reads the running kernel can't be given up, or the sandbox
        is required and can't be had.
    """

    def __init__(
        self,
        inputs: Inputs,
        output: str | None,
        user: str,
        vmcores: Sequence[str] = (),
        verbose: bool = False,
        gentle: bool = False,
        forever: bool = False,
        stop: bool = False,
    ) -> None:
        self._inputs = inputs
        self._output = output
        self._verbose = verbose or inputs.debug
        self._publisher: Publisher | None = None
        self._live: Kernel | None = None
        # What is said of a vmcore that is not whole, once it is sure that there is output.
        self._notice: str | None = None
        self._has_output = False
        named = [name for name in (*inputs.files, *vmcores) if name is not None]
        check_writable(output, named)
        is_live = inputs.core is None and not vmcores
        if inputs.qemu is not None:
            # Most scans have no guest.
            from mminspect.program import guest

            guest.hold(inputs.qemu, stop)
        elif is_live:
            with open_kernel(inputs) as self._live:
                self._live.read_privileged()
        elif inputs.sandbox == sandbox.OFF:
            return
        account = self._account(user, is_live)
        if account is not None and not sandbox.everybody_reads((__file__, os.__file__, drgn.__file__, click.__file__)):
            late.load()
            # The folder of the rules can't be listed later.
            from mminspect.rules.registry import all_rules

            all_rules()
        if output is not None and output != "-":
            descriptor = own_descriptor(output)
            if descriptor is None:
                self._publisher = Publisher(output)
            else:
                # Links to it could be out of reach later, and its number be that of another file.
                self._output = f"/dev/fd/{_duplicate(output, descriptor)}"
        files.allow_many(len(named))
        for name in named:
            files.hold(name)
        if gentle and is_live:
            privileges.lower_priority()
        if is_live and account is not None:
            # Reading what the kernel lets root alone read with root's rights isn't an option.
            privileges.become(account)
        if is_live and (reason := privileges.drop_capabilities()) is not None:
            raise MminspectError(f"can't drop capabilities: {reason}")
        if inputs.sandbox != sandbox.OFF:
            self._confine(account, named, is_live or forever)

    def _account(self, user: str, is_live: bool) -> pwd.struct_passwd | None:
        """Find the user to become, ``None`` to stay the same."""
        if os.geteuid() != 0:
            return None
        account = privileges.find_user(user)
        return account if account.pw_uid != 0 else None

    def _confine(self, account: pwd.struct_passwd | None, named: Sequence[str], forever: bool) -> None:
        sizes = []
        for name in named:
            with contextlib.suppress(OSError):
                sizes.append(files.stat(name).st_size)
        files.prepare(max(1, len(named)))
        missing = sandbox.enter(account, named, sandbox.limits_for(sizes, forever))
        if missing and self._inputs.sandbox == sandbox.REQUIRE:
            raise MminspectError(f"the sandbox can't be had: {'; '.join(missing)} (--sandbox require)")
        if missing and self._verbose:
            say(f"not all of the sandbox can be had: {'; '.join(missing)}")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        if self._publisher is not None:
            self._publisher.close()

    @contextlib.contextmanager
    def kernel(self, inputs: Inputs | None = None) -> Iterator[Kernel]:
        """
        Open the kernel for as long as it is read; see :func:`mminspect.kernel.kernel.open_kernel`. Say if its vmcore is
        not whole.

        :param inputs: Another vmcore's.
        """
        if self._live is not None and (inputs is None or inputs.core is None):
            yield self._live
            return
        with open_kernel(inputs or self._inputs) as kernel:
            incomplete = kernel.target.incomplete
            if incomplete is not None:
                # If it isn't enough for that, the error says it all.
                _ = kernel.memmap
                self._notice = f"{kernel.target.path}: {incomplete}"
                if self._has_output:
                    self._say_notice()
            try:
                yield kernel
            except MminspectError as e:
                if self._notice is not None:
                    # An error is one line.
                    self._notice = None
                    e.args = (f"{e}; the vmcore is {incomplete}",)
                raise
            self._say_notice()

    def _say_notice(self) -> None:
        if self._notice is not None:
            say(self._notice)
            self._notice = None

    def output(self, binary: bool = False) -> contextlib.AbstractContextManager[IO[Any]]:
        """Open the place where output goes; it is replaced as a whole."""
        self._has_output = True
        self._say_notice()
        if self._publisher is not None:
            return self._publisher.open(binary)
        return open_output(self._output, binary)

    @property
    def written(self) -> int | None:
        """Bytes of the file that was written, if it is known."""
        return self._publisher.written if self._publisher is not None else None


def scan_with_progress(kernel: Kernel, rules: Sequence[Rule], limits: Limits) -> Report:
    """Scan once; see :func:`mminspect.walk.scan.scan`."""
    from mminspect.walk.scan import scan

    with ProgressBar() as bar:
        return scan(kernel, rules, limits, bar.start)


def picture_with_progress(
    kernel: Kernel, rules: Sequence[Rule], limits: Limits, order: int, span: tuple[int, int] | None
) -> tuple[Picture, Report]:
    """
    Scan once, and gather the picture of the memory map meanwhile.

    :param order: As :class:`mminspect.walk.picture.Picture` takes it; likewise ``span``.
    """
    from mminspect.walk.picture import Picture
    from mminspect.walk.scan import scan

    made: list[Picture] = []

    def observe(memory: MemoryMap) -> Picture:
        made.append(Picture(memory, order, span))
        return made[-1]

    with ProgressBar() as bar:
        report = scan(kernel, rules, limits, bar.start, observe)
    return made[-1], report
