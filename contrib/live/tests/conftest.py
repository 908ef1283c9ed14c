# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels for the tests that boot a guest."""

from __future__ import annotations

import functools
import shutil

import pytest

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel
from contrib.live.kernels import find_busybox, find_kernel


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "vm: boots a guest under QEMU, which takes a minute or more")


@functools.cache
def kernel_or_reason(version: str) -> Kernel | str:
    """Return a kernel, or why there is none."""
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed"
    try:
        find_busybox()
        return find_kernel(version)
    except HarnessError as error:
        return f"no kernel {version} to boot: {error}"


def kernel_or_skip(version: str) -> Kernel:
    """Return a kernel, or skip the test."""
    found = kernel_or_reason(version)
    if isinstance(found, str):
        pytest.skip(found)
    return found
