# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels of live guests: standard ones, since Debian's cloud kernels have no 9p."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel, Source, cached, fetch, fetch_busybox, kernel_from_trees

BUSYBOX_SUITE = "trixie"

SOURCES: Mapping[str, Source] = {
    "6.1": Source("bookworm", "amd64", r"linux-image-6\.1\.0-[0-9]+-amd64-unsigned"),
    "6.12": Source("trixie", "amd64", r"linux-image-6\.12\.[0-9]+\+deb13-amd64-unsigned"),
    "7.2": Source(
        "sid",
        "amd64",
        r"linux-binary-(?:unsigned-)?7\.2\.[0-9]+\+deb14-amd64",
        ("linux-modules-{release}",),
    ),
}


def find_kernel(name: str) -> Kernel:
    """Return a kernel by its version, out of the cache if it is there, or in a directory of that name."""
    if name in SOURCES:
        return cached(SOURCES[name]) or fetch(SOURCES[name])
    if Path(name).is_dir():
        return kernel_from_trees([Path(name)])
    raise HarnessError(f"no kernel {name}; there are {', '.join(SOURCES)}, or give a directory with unpacked packages")


def find_busybox() -> Path:
    """Return a static busybox for the initramfs."""
    return fetch_busybox(BUSYBOX_SUITE, "amd64")
