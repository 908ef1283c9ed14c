# SPDX-License-Identifier: LGPL-2.1-or-later
"""A target: a vmcore or the running kernel, opened as a drgn program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

import drgn
from drgn import Program

from mminspect.errors import CutShortError, DamagedError, LayoutError, TargetError, TypeInfoError
from mminspect.program import corefile
from mminspect.program.direct import DirectMemory
from mminspect.program.vmcoreinfo import Vmcoreinfo

KCORE = "/proc/kcore"
# Key in the program's cache of what tells whether BTF has a function. drgn would look for its address, too.
FUNCTIONS = "mminspect_functions"
_DRGN_FOLDER = os.path.dirname(drgn.__file__) + os.sep


def _is_of_drgn(error: Exception) -> bool:
    """Tell whether drgn, or a helper of it, raised an error over what a kernel's memory or types say."""
    # Over many things it raises a plain Exception or LookupError, which nobody else does.
    kind = type(error)
    if kind in (Exception, LookupError) or kind.__module__ in ("_drgn", "drgn"):
        return True
    if kind is AttributeError and "has no member" in str(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_DRGN_FOLDER)


@contextlib.contextmanager
def _or_cut_short(is_whole: Callable[[], bool]) -> Iterator[None]:
    """
    Turn drgn's errors into ours.

    :raises CutShortError: at the end, also instead of any error, if a file is no longer whole.
    :raises DamagedError: instead of an error of drgn.
    """
    try:
        yield
    except Exception as e:
        if not is_whole():
            raise CutShortError() from None
        if _is_of_drgn(e):
            raise DamagedError(e) from e
        raise
    if not is_whole():
        raise CutShortError()


@dataclass
class Target:
    """
    An opened target.

    :ivar prog: The drgn program; memory can be read, nothing else is promised yet.
    :ivar kind: ``vmcore`` or ``live``.
    :ivar path: What the user named, or :data:`KCORE`.
    :ivar vmcoreinfo: The kernel's VMCOREINFO.
    :ivar core: The headers of a vmcore, ``None`` for a live kernel or a program of unknown origin.
    :ivar direct: Reads the memory of a vmcore without a copy, where that can be done.
    :ivar is_guest: Whether a live kernel isn't the one that this process runs on, so that nothing of this machine tells
        of it.
    :ivar is_still: Whether a live kernel stands still while it is read.
    """

    prog: Program
    kind: str
    path: str
    vmcoreinfo: Vmcoreinfo
    core: corefile.CoreFile | None = None
    direct: DirectMemory | None = None
    is_guest: bool = False
    is_still: bool = False

    @property
    def is_here(self) -> bool:
        """Whether this is the kernel that this process runs on, with files in /proc and /sys."""
        return self.kind == "live" and not self.is_guest

    @property
    def moves(self) -> bool:
        """Whether memory changes while it is read."""
        return self.kind == "live" and not self.is_still

    @contextlib.contextmanager
    def kept_whole(self) -> Iterator[None]:
        """
        Read a vmcore and see at the end that its file was not cut short meanwhile.

        What was cut off looks like memory that was never in the dump, so nothing that was found may be reported.

        :raises mminspect.errors.CutShortError: if it was, also instead of any error that came of it.
        """
        with _or_cut_short(lambda: self.direct is None or self.direct.is_whole()), self._or_incomplete():
            yield

    @property
    def incomplete(self) -> corefile.Incomplete | None:
        """Why a vmcore is not whole, ``None`` if nothing says so."""
        return self.core.incomplete if self.core is not None else None

    @contextlib.contextmanager
    def _or_incomplete(self) -> Iterator[None]:
        """Raise what is wrong with a vmcore that is not whole instead of what doesn't work because of that."""
        try:
            yield
        except (TypeInfoError, LayoutError) as e:
            if self.incomplete is None:
                raise
            # What could be done about it elsewhere doesn't help here.
            what = str(e).split("; ")[0]
            raise TargetError(f"{self.path}: {self.incomplete} (in what there is: {what})") from e

    def has_function(self, name: str) -> bool:
        """
        Tell whether the kernel has a function, by its type information.

        Functions that the compiler inlined everywhere and static ones of the same name are not told reliably.
        """
        find: Callable[[str], bool] | None = self.prog.cache.get(FUNCTIONS)
        if find is not None:
            return find(name)
        try:
            self.prog.function(name)
        except LookupError:
            return False
        return True


def read_vmcoreinfo(prog: Program) -> Vmcoreinfo:
    """
    Get the VMCOREINFO of a program.

    :raises TargetError: if it has none.
    """
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    except LookupError:
        raise TargetError("the program has no VMCOREINFO; it is no Linux kernel") from None
    return Vmcoreinfo(text)
