# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that mminspect reports to its user."""


class MminspectError(Exception):
    """
    The job can't be done.

    The message is one line: it says what is wrong and what to do about it. The command line
    prints it and exits with status 2.
    """


class Terminated(BaseException):
    """
    SIGTERM arrived.

    No ``Exception``: nothing but the command line, and a walk that may stop early, catches it.
    """


class TargetError(MminspectError):
    """The vmcore or the running kernel can't be opened or read."""


class TypeInfoError(MminspectError):
    """There is no usable type information for the kernel."""


class LayoutError(MminspectError):
    """The kernel's memory map layout can't be derived, or makes no sense."""
