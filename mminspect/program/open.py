# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Targets: a vmcore or the running kernel, opened as a drgn program.

A target holds memory and VMCOREINFO. Types and symbols are added by :mod:`mminspect.typeinfo.load`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from drgn import Platform, Program, ProgramFlags

from mminspect.errors import TargetError
from mminspect.program import corefile, files, kdump, overlay, unpack
from mminspect.program.arch import Arch, arch_of, arch_of_core
from mminspect.program.direct import DirectMemory
from mminspect.program.mapped import MappedFile
from mminspect.program.target import KCORE, Target, _or_cut_short, read_vmcoreinfo

# libkdumpfile looks through the records of a flattened dump one by one for every page that it reads. With this many it
# is faster to put them in order first, unless the pages are read here.
MANY_RECORDS = 1 << 14


def from_program(prog: Program) -> Target:
    """
    Make a target of a drgn program that somebody else opened.

    Reads of memory that was left out of an ELF dump fail from then on, instead of returning zeros.

    :raises TargetError: if it isn't the Linux kernel.
    """
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError("the program is not a Linux kernel")
    vmcoreinfo = read_vmcoreinfo(prog)
    if prog.flags & ProgramFlags.IS_LIVE:
        return Target(prog, "live", KCORE, vmcoreinfo)
    path = str(getattr(prog, "core_dump_path", None) or "")
    core = _read_headers(path)
    if core is not None:
        overlay.fault_on_excluded(prog, core.segments)
    return Target(prog, "vmcore", path, vmcoreinfo, core)


def _read_headers(path: str) -> corefile.CoreFile | None:
    """Read the headers of a vmcore that drgn has open, as far as it is a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return corefile.parse(fd, path)
    finally:
        os.close(fd)


def open_vmcore(path: str) -> Target:
    """
    Open a vmcore: ELF or kdump-compressed, plain or compressed as a whole.

    :param path: Path of the file.
    :raises TargetError: if it isn't a vmcore, or is damaged.
    """
    corefile.check_readable(path)
    try:
        fd = files.open_file(path)
    except OSError as e:
        raise TargetError(f"{path}: {e.strerror}") from None
    size = os.fstat(fd).st_size
    try:
        # Both are those of what is read: the file, or what it was unpacked into.
        with _or_cut_short(lambda: os.fstat(fd).st_size >= size):
            compression = unpack.compression(os.pread(fd, 16, 0))
            if compression is not None:
                unpacked = unpack.unpack(fd, path, compression)
                os.close(fd)
                fd = unpacked
                size = os.fstat(fd).st_size
            core = corefile.parse(fd, path)
            if core.records is not None and len(core.records) > MANY_RECORDS and not kdump.can_read(core):
                # Without room for it the dump can still be read as it is.
                with contextlib.suppress(OSError):
                    rearranged = unpack.rearrange(fd, path)
                    os.close(fd)
                    fd = rearranged
                    size = os.fstat(fd).st_size
                    core = replace(core, records=None)
            return _open_core(fd, path, core)
    except OSError as e:
        raise TargetError(f"{path}: can't be read: {e.strerror or e}") from None
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(path: str | None) -> Iterator[Target]:
    """
    Open a vmcore, or the running kernel, for as long as it is read; see :meth:`Target.kept_whole`.

    :param path: Path of the vmcore, ``None`` for the running kernel.
    """
    target = open_vmcore(path) if path is not None else open_live()
    with target.kept_whole():
        yield target


def _platform(core: corefile.CoreFile, arch: Arch | None) -> Platform | None:
    """
    Get the platform of a vmcore where drgn would find a wrong one.

    It takes the class of an ELF core for the word size. The headers of QEMU's kdump files don't name the platform well
    enough for drgn, which takes its time to find that out.
    """
    if arch is None or (core.format == "elf" and core.is_64_bit == arch.is_64_bit):
        return None
    return arch.platform(core.order)


@contextlib.contextmanager
def _quiet_stderr(quiet: bool) -> Iterator[None]:
    """Keep what C code writes to stderr off it."""
    if not quiet:
        yield
        return
    saved, null = os.dup(2), files.null()
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _set_core_dump(fd: int, platform: Platform | None, core: corefile.CoreFile) -> Program:
    prog = Program(platform)
    # libkdumpfile advises on stderr to convert flattened dumps.
    with _quiet_stderr(core.format == "flattened"):
        # drgn closes the descriptor that it gets.
        prog.set_core_dump(os.dup(fd))
    return prog


def _open_pages(fd: int, platform: Platform | None, core: corefile.CoreFile) -> tuple[Program, kdump.DumpPages]:
    """Open a kdump file whose pages are read here. libkdumpfile takes a second to open one that is flattened."""
    assert core.kdump is not None and core.vmcoreinfo is not None
    prog = Program(platform)
    prog.set_linux_kernel_custom(core.vmcoreinfo, False)
    pages = kdump.DumpPages(fd, core.kdump, core.records, lambda fd: _set_core_dump(fd, platform, core))
    prog.add_memory_segment(0, pages.end, pages.read, physical=True)
    return prog, pages


def _open_core(fd: int, path: str, core: corefile.CoreFile) -> Target:
    named = arch_of_core(core)
    platform = _platform(core, named)
    pages = None
    try:
        if kdump.can_read(core) and named is not None and named.is_walked:
            prog, pages = _open_pages(fd, platform, core)
        else:
            prog = _set_core_dump(fd, platform, core)
    except Exception as e:
        raise TargetError(f"{path}: drgn can't open the dump: {e}") from None
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(f"{path}: not the dump of a Linux kernel")
    vmcoreinfo = read_vmcoreinfo(prog)
    overlay.fault_on_excluded(prog, core.segments)
    arch = arch_of(prog.platform)
    arch.lay_over(prog, vmcoreinfo, core)
    tables = arch.page_tables(prog, vmcoreinfo)
    direct: DirectMemory = MappedFile(prog, fd, core.segments, tables)
    if pages is not None and tables is not None:
        direct = kdump.PackedMemory(prog, fd, pages, tables)
    return Target(prog, "vmcore", path, vmcoreinfo, core, direct)


def open_live() -> Target:
    """
    Open the running kernel.

    :raises TargetError: if it can't be read; the message says what is missing.
    """
    if not os.path.exists(KCORE):
        raise TargetError(
            f"{KCORE} doesn't exist: this kernel was built without CONFIG_PROC_KCORE; give a vmcore with -c"
        )
    if os.geteuid() != 0:
        raise TargetError("the running kernel's memory is readable by root only: run mminspect as root, or give -c")
    lockdown = Path("/sys/kernel/security/lockdown")
    try:
        if "[confidentiality]" in lockdown.read_text():
            raise TargetError(
                "the kernel is locked down (lockdown=confidentiality): not even root reads its memory; give -c"
            )
    except OSError:
        pass
    prog = Program()
    try:
        prog.set_kernel()
    except PermissionError:
        raise TargetError(
            f"{KCORE}: permission denied: CAP_SYS_RAWIO is missing, or the kernel is locked down"
        ) from None
    except Exception as e:
        raise TargetError(f"the running kernel can't be opened: {e}") from None
    return Target(prog, "live", KCORE, read_vmcoreinfo(prog))
