# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fetch Debian kernels of any suite and architecture into a cache.

apt works on a private state, so the machine's own package lists stay as they are. Signatures are
checked with the machine's keys. A package appears in the cache in one step, by rename: a download
that was interrupted leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from contrib.kernels.errors import HarnessError

CACHE_VARIABLE = "MMINSPECT_KERNEL_CACHE"
MIRROR_VARIABLE = "MMINSPECT_DEBIAN_MIRROR"
LISTS_FRESH_SECONDS = 10 * 3600
STALE_SECONDS = 24 * 3600
UNSTABLE_SUITES = ("sid", "unstable", "experimental")
BACKPORTS = "-backports"
TEMPORARY_PREFIX = ".unpacking-"


@dataclass(frozen=True)
class Source:
    """Where a kernel comes from.

    pattern is a regular expression for the whole name of the package with the kernel image. It is
    a pattern because the version in the name moves with every update. more names further packages,
    with {release} for the kernel's release.
    """

    suite: str
    arch: str
    pattern: str
    more: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return the name of the directory that holds this suite and architecture."""
        return f"{self.suite}-{self.arch}"


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel."""

    release: str
    vmlinuz: Path
    modules: Path
    vmlinux: Path | None


def cache_dir() -> Path:
    """Return the directory that holds all downloads."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "mminspect" / "kernels"


def release_of(package: str) -> str:
    """Return the kernel release in the name of a package.

    >>> release_of("linux-image-6.1.0-56-cloud-amd64-unsigned")
    '6.1.0-56-cloud-amd64'
    >>> release_of("linux-binary-7.2.13+deb14-cloud-amd64")
    '7.2.13+deb14-cloud-amd64'
    """
    match = re.fullmatch(r"linux-(?:image|binary)-(?:unsigned-)?(.+?)(?:-unsigned)?", package)
    if not match:
        raise HarnessError(f"{package} is not the name of a kernel package")
    return match.group(1)


def version_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders the numbers inside a name by value."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def newest_first(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match pattern as a whole, the newest release first."""
    matching = {name for name in names if re.fullmatch(pattern, name)}
    return sorted(matching, key=lambda name: (version_key(release_of(name)), name), reverse=True)


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Run a program and return what it printed."""
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HarnessError(f"{command[0]} is not installed; install it and try again") from None
    if done.returncode:
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise HarnessError(f"{command[0]} ended with {done.returncode}: {tail}")
    return done.stdout


@dataclass(frozen=True)
class Mirror:
    """The archives that the machine's own apt uses."""

    main: str
    security: str | None


def find_mirror() -> Mirror:
    """Find the Debian mirror in the machine's apt configuration."""
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        security = named.rstrip("/") + "-security"
        return Mirror(named, security)
    uris = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).split()
    kinds = {uri.rstrip("/").rsplit("/", 1)[-1]: uri for uri in reversed(uris)}
    if "debian" not in kinds:
        raise HarnessError(f"apt's configuration names no Debian mirror; set {MIRROR_VARIABLE} to the address of one")
    return Mirror(kinds["debian"], kinds.get("debian-security"))


class Apt:
    """apt with a state of its own for one suite and architecture."""

    def __init__(self, suite: str, arch: str, state: Path) -> None:
        self.suite = suite
        self.arch = arch
        self.state = state
        self.asked = False
        options = {
            "Dir::State": state / "state",
            "Dir::State::status": state / "status",
            "Dir::Cache": state / "cache",
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
            "APT::Architecture": arch,
            "APT::Architectures": arch,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        self.options = ["-qq"]
        for name, value in options.items():
            self.options += ["-o", f"{name}={value}"]

    def lists(self) -> list[Path]:
        """Return the package lists that are there."""
        return list((self.state / "state" / "lists").glob("*_Packages*"))

    def update(self) -> None:
        """Fetch the package lists unless they are fresh.

        A mirror in the middle of its own update gives some lists and not others. What is there is
        then used; only having none is an error.
        """
        stamp = self.state / "updated"
        fresh = time.time() - LISTS_FRESH_SECONDS
        if self.asked or (stamp.exists() and stamp.stat().st_mtime > fresh):
            return
        self.asked = True
        (self.state / "state" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self.state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self.state / "status").touch()
        mirror = find_mirror()
        lines = [f"deb {mirror.main} {self.suite} main"]
        if mirror.security and self.suite not in UNSTABLE_SUITES and not self.suite.endswith(BACKPORTS):
            lines.append(f"deb {mirror.security} {self.suite}-security main")
        (self.state / "sources.list").write_text("\n".join(lines) + "\n")
        try:
            run(["apt-get", *self.options, "update"])
            stamp.touch()
        except HarnessError as error:
            if not self.lists():
                raise HarnessError(f"no package lists of {self.suite} {self.arch}: {error}") from error

    def names(self, prefix: str) -> list[str]:
        """Return the names of the packages that begin with prefix and can be had."""
        text = run(["apt-cache", *self.options, "search", "--names-only", f"^{re.escape(prefix)}"])
        return [line.split(" - ", 1)[0].strip() for line in text.splitlines() if line.strip()]

    def download(self, package: str, directory: Path) -> Path:
        """Download one package into an empty directory and return its file."""
        run(["apt-get", *self.options, "download", f"{package}:{self.arch}"], cwd=directory)
        files = list(directory.glob("*.deb"))
        if len(files) != 1:
            raise HarnessError(f"apt-get download gave no file for {package} ({self.arch})")
        return files[0]


@contextlib.contextmanager
def tar_of(deb: Path) -> Iterator[tarfile.TarFile]:
    """Read the files of a Debian package as a stream."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        stream = cast("IO[bytes]", process.stdout)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                yield tar
        finally:
            stream.close()
            process.kill()


def unpack_vmlinux(deb: Path, directory: Path) -> None:
    """Unpack only vmlinux, with its DWARF, out of a -dbg package."""
    with tar_of(deb) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and re.match(r"vmlinux(-|$)", name):
                with open(directory / "vmlinux", "wb") as out:
                    shutil.copyfileobj(content, out, 1 << 20)
                return
    raise HarnessError(f"{deb.name} holds no vmlinux")


def unpack(deb: Path, directory: Path, package: str) -> None:
    """Unpack a package into a directory."""
    if package.endswith("-dbg"):
        unpack_vmlinux(deb, directory)
    else:
        run(["dpkg-deb", "-x", str(deb), str(directory)])


def drop_stale(parent: Path) -> None:
    """Remove what a killed run left behind."""
    for path in parent.glob(TEMPORARY_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def fetch_package(apt: Apt, package: str, parent: Path) -> Path:
    """Return the directory of an unpacked package; download it if it is not there yet."""
    final = parent / package
    if final.is_dir():
        return final
    parent.mkdir(parents=True, exist_ok=True)
    drop_stale(parent)
    apt.update()
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent) as temporary:
        for name in ("deb", "tree"):
            Path(temporary, name).mkdir()
        tree = Path(temporary, "tree")
        unpack(apt.download(package, Path(temporary, "deb")), tree, package)
        try:
            tree.rename(final)
        except OSError:
            if not final.is_dir():  # otherwise somebody else was faster, which is as good
                raise
    return final


def find_one(trees: Sequence[Path], *patterns: str) -> Path | None:
    """Return the first path below the trees that matches the first pattern that matches."""
    for pattern in patterns:
        for tree in trees:
            for path in sorted(tree.glob(pattern)):
                if path.exists() and not path.name.endswith((".sig", ".dtb")):
                    return path
    return None


def kernel_from_trees(trees: Sequence[Path]) -> Kernel:
    """Find kernel, modules and vmlinux in unpacked packages.

    Debian calls the bootable image vmlinux on riscv64 and ppc64el, and keeps it among the modules
    since 7.x.
    """
    image = find_one(
        trees,
        "boot/vmlinuz-*",
        "boot/vmlinux-*",
        "usr/lib/modules/*/vmlinuz",
        "usr/lib/modules/*/vmlinuz.unsigned",
        "usr/lib/modules/*/vmlinux",
        "usr/lib/modules/*/vmlinux.unsigned",
    )
    places = ", ".join(str(tree) for tree in trees)
    if image is None:
        raise HarnessError(f"no kernel image below {places}")
    release = image.name.split("-", 1)[1] if image.parent.name == "boot" else image.parent.name
    modules = find_one(trees, f"usr/lib/modules/{release}/kernel", f"lib/modules/{release}/kernel")
    if modules is None:
        raise HarnessError(f"no modules of {release} below {places}")
    return Kernel(release, image, modules, find_vmlinux(trees, release))


def find_vmlinux(trees: Sequence[Path], release: str) -> Path | None:
    """Find the vmlinux with DWARF of a release."""
    return find_one(
        trees,
        "vmlinux",
        f"usr/lib/debug/boot/vmlinux-{release}",
        f"usr/lib/debug/lib/modules/{release}/vmlinux",
    )


def cached_packages(source: Source, cache: Path) -> list[str]:
    """Return the kernel packages in the cache that a source may mean, the newest first."""
    directory = cache / source.key
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return newest_first(names, source.pattern)


def companions(source: Source, package: str, debug: bool) -> list[str]:
    """Return the packages that belong to a kernel package, itself first."""
    release = release_of(package)
    names = [package, *(name.format(release=release) for name in source.more)]
    if debug:
        names.append(f"linux-image-{release}-dbg")
    return names


def cached(source: Source) -> Kernel | None:
    """Return the newest kernel of a source that is already in the cache, or None."""
    cache = cache_dir()
    parent = cache / source.key
    for package in cached_packages(source, cache):
        debug = (parent / f"linux-image-{release_of(package)}-dbg").is_dir()
        names = companions(source, package, debug)
        if all((parent / name).is_dir() for name in names):
            return kernel_from_trees([parent / name for name in names])
    return None


def fetch(source: Source, debug: bool = False) -> Kernel:
    """Fetch the newest kernel of a source, and its vmlinux with DWARF if asked (350 MB and more).

    A mirror's lists sometimes name a version that the mirror has not got. The next older version
    is then taken.
    """
    cache = cache_dir()
    apt = Apt(source.suite, source.arch, cache / "apt" / source.key)
    apt.update()
    candidates = newest_first(apt.names("linux-image-") + apt.names("linux-binary-"), source.pattern)
    if not candidates:
        raise HarnessError(f"{source.suite} {source.arch} has no package {source.pattern}")
    failures: list[str] = []
    for package in candidates:
        try:
            names = companions(source, package, debug)
            if debug:  # fails soonest, and saves the other downloads then
                names.reverse()
            trees = [fetch_package(apt, name, cache / source.key) for name in names]
            return kernel_from_trees(trees)
        except HarnessError as error:
            failures.append(f"{package}: {error}")
    raise HarnessError("; ".join(failures))


def vmlinux_of(source: Source, release: str, download: bool = True) -> Path | None:
    """Return the vmlinux with DWARF of one release; fetch it if it is not in the cache (350 MB and more).

    A mirror keeps the latest releases only. None says that this one can't be had any more.
    """
    cache = cache_dir()
    parent = cache / source.key
    package = f"linux-image-{release}-dbg"
    tree = parent / package
    if not tree.is_dir():
        if not download:
            return None
        try:
            tree = fetch_package(Apt(source.suite, source.arch, cache / "apt" / source.key), package, parent)
        except HarnessError:
            return None
    return find_vmlinux([tree], release)


OLDEST, NEXT = "bullseye", "bookworm"


def fetch_busybox(suite: str, arch: str) -> Path:
    """
    Return a static busybox of an architecture.

    Of a suite of backports, it is that of the suite they are for; of one that mirrors have lost, that of the next.
    """
    cache = cache_dir()
    suite = suite.removesuffix(BACKPORTS)
    key = f"{suite}-{arch}"
    try:
        apt = Apt(suite, arch, cache / "apt" / key)
        return busybox_in(fetch_package(apt, "busybox-static", cache / key))
    except HarnessError:
        if suite == OLDEST:
            return fetch_busybox(NEXT, arch)
        raise


def busybox_in(tree: str | Path) -> Path:
    """Return the busybox program of an unpacked package."""
    path = find_one([Path(tree)], "usr/bin/busybox", "bin/busybox")
    if path is None:
        raise HarnessError(f"no busybox below {tree}")
    return path
