# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Targets: a vmcore or the running kernel, opened as a drgn program.

A target holds memory and VMCOREINFO. Types and symbols are added by :mod:`mminspect.typeinfo.load`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from drgn import FaultError, Platform, Program, ProgramFlags

from mminspect.errors import TargetError
from mminspect.program import corefile, files, findinfo, kdump, magic, overlay, split
from mminspect.program.arch import Arch, arch_of, arch_of_core
from mminspect.program.direct import DirectMemory
from mminspect.program.elf import Segment
from mminspect.program.mapped import MappedFile
from mminspect.program.target import KCORE, Target, _or_cut_short, read_vmcoreinfo
from mminspect.program.vmcoreinfo import Vmcoreinfo
from mminspect.program.wrapping import START, is_wrapped

# libkdumpfile looks through the records of a flattened dump one by one for every page that it reads. With this many it
# is faster to put them in order first, unless the pages are read here.
MANY_RECORDS = 1 << 14
# Wrappings of a dump that are taken off: a compressed archive of a compressed dump.
MAX_WRAPPINGS = 3

PROC = "/proc"


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
        if not prog.flags & ProgramFlags.IS_LOCAL:
            return Target(prog, "live", "guest", vmcoreinfo, is_guest=True)
        return Target(prog, "live", KCORE, vmcoreinfo)
    path = str(getattr(prog, "core_dump_path", None) or "")
    core = _read_headers(path)
    if core is not None:
        overlay.fault_on_excluded(prog, core.segments)
        if core.format == "flattened" and any(s.filesz < s.memsz for s in core.segments):
            _walk_page_tables(prog, vmcoreinfo)
    return Target(prog, "vmcore", path, vmcoreinfo, core)


def _walk_page_tables(prog: Program, vmcoreinfo: Vmcoreinfo) -> None:
    """
    Read kernel memory by way of physical memory, and of what is laid over it.

    libkdumpfile translates addresses by itself, and reads zeros where an ELF dump that it opened lacks memory.

    :raises TargetError: if the page tables aren't known here.
    """
    tables = arch_of(prog.platform).page_tables(prog, vmcoreinfo)
    if tables is None:
        raise TargetError(
            "a flattened ELF dump that memory was left out of can't be told from one with zeros there; put it in "
            "order with 'makedumpfile -R', and open the result"
        )
    start = 1 << 63
    prog.add_memory_segment(start, (1 << 64) - start, tables.read)


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


def open_vmcore(path: str, pieces: Sequence[str] = (), vmcoreinfo: str | None = None) -> Target:
    """
    Open a vmcore: ELF, kdump-compressed or LiME's, plain or compressed as a whole.

    :param path: Path of the file.
    :param pieces: The other files of a split dump.
    :param vmcoreinfo: File with the kernel's VMCOREINFO, where the dump has none.
    :raises TargetError: if it isn't a vmcore, or is damaged.
    """
    given = findinfo.read_file(vmcoreinfo) if vmcoreinfo is not None else None
    with contextlib.ExitStack() as stack:
        inputs = [stack.enter_context(_Input(name, given)) for name in (path, *pieces)]
        core = inputs[0].core
        if pieces:
            core = split.join([(file.path, file.core) for file in inputs])
            for file in inputs:
                if file.core.incomplete is not None and file.core.incomplete.is_split:
                    file.core = replace(file.core, incomplete=None)
            # The first has the headers, even if it has no pages.
            inputs = [file for file in inputs if file.core.piece and file.core.piece[0] < file.core.piece[1]] or inputs
        try:
            with _or_cut_short(lambda: all(file.is_whole() for file in inputs)):
                return _open_core(inputs, core)
        except OSError as e:
            raise TargetError(f"{path}: can't be read: {e.strerror or e}") from None


class _Input:
    """
    A file of a dump, open for as long as the dump is being opened.

    :ivar path: What the user named.
    :ivar fd: The file, or what it was unpacked into.
    :ivar core: Its headers.
    """

    def __init__(self, path: str, vmcoreinfo: bytes | None) -> None:
        corefile.check_readable(path)
        self.path = path
        try:
            self.fd = files.open_file(path)
        except OSError as e:
            raise TargetError(f"{path}: {e.strerror}") from None
        try:
            self._size = os.fstat(self.fd).st_size
            with _or_cut_short(self.is_whole):
                self._unpack()
                self.core = self._parse(vmcoreinfo)
                if self._needs_order():
                    self._rearrange()
        except OSError as e:
            os.close(self.fd)
            raise TargetError(f"{path}: can't be read: {e.strerror or e}") from None
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)

    def is_whole(self) -> bool:
        """Tell whether what is read is still as long as it was."""
        return os.fstat(self.fd).st_size >= self._size

    def _replace(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd
        self._size = os.fstat(fd).st_size

    def _unpack(self) -> None:
        for _ in range(MAX_WRAPPINGS):
            if not is_wrapped(os.pread(self.fd, START, 0)):
                return
            # What unpacks takes longer to be imported than most dumps' headers to be read.
            from mminspect.program import unpack

            self._replace(unpack.unpack(self.fd, self.path))

    def _parse(self, vmcoreinfo: bytes | None) -> corefile.CoreFile:
        try:
            core = corefile.parse(self.fd, self.path)
        except corefile.UnknownFormatError:
            # Raw memory has no header, so only who has its VMCOREINFO can say that it is that.
            if vmcoreinfo is None:
                raise
            core = corefile.raw_memory(self._size)
        if vmcoreinfo is not None:
            core = replace(core, notes={**core.notes, "VMCOREINFO": vmcoreinfo})
        return core

    def _needs_order(self) -> bool:
        """Tell whether a flattened dump is put in order before it is read."""
        records, header = self.core.records, self.core.kdump
        if records is None:
            return False
        if header is None:
            return records.overlap
        # libkdumpfile opens none that is cut short.
        if self.core.incomplete is not None and kdump.is_foreign(header):
            return True
        return len(records) > MANY_RECORDS and not kdump.is_read_here(self.core)

    def _rearrange(self) -> None:
        from mminspect.program import unpack

        # Without room for it the dump can still be read as it is.
        with contextlib.suppress(OSError):
            self._replace(unpack.rearrange(self.fd, self.path))
            self.core = replace(self.core, records=None, format="elf" if self.core.is_elf else "kdump")


@contextlib.contextmanager
def opened(
    path: str | None, pieces: Sequence[str] = (), vmcoreinfo: str | None = None, qemu: str | None = None
) -> Iterator[Target]:
    """
    Open a vmcore, the running kernel or a guest, for as long as it is read; see :meth:`Target.kept_whole`.

    :param path: Path of the vmcore, ``None`` for the running kernel.
    :param pieces: As in :func:`open_vmcore`, and so is ``vmcoreinfo``.
    :param qemu: Socket of a guest's monitor.
    """
    if qemu is not None:
        # Most targets are none, and don't need what asks QEMU.
        from mminspect.program import guest

        with guest.opened(qemu, vmcoreinfo) as target:
            yield target
        return
    target = open_vmcore(path, pieces, vmcoreinfo) if path is not None else open_live()
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


def _try_open(fd: int, platform: Platform | None, core: corefile.CoreFile) -> None:
    """
    Let another process open a dump with libkdumpfile, which some damaged ones end by a signal.

    :raises TargetError: if this one does.
    """
    child = os.fork()
    if not child:
        # Whatever it raises is raised again where it can be told.
        with contextlib.suppress(BaseException):
            os.dup2(files.null(), 2)
            Program(platform, vmcoreinfo=core.vmcoreinfo).set_core_dump(fd)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise TargetError(f"libkdumpfile crashes (signal {os.WTERMSIG(status)}): its headers or VMCOREINFO are damaged")


def _set_core_dump(fd: int, platform: Platform | None, core: corefile.CoreFile) -> Program:
    if core.format != "elf":
        _try_open(fd, platform, core)
    prog = Program(platform, vmcoreinfo=core.vmcoreinfo)
    # libkdumpfile advises on stderr to convert flattened dumps.
    with _quiet_stderr(core.format == "flattened"):
        # drgn closes the descriptor that it gets.
        prog.set_core_dump(os.dup(fd))
    return prog


def _pages_of(file: _Input, platform: Platform | None) -> kdump.DumpPages:
    """Get the pages of a file. libkdumpfile takes a second to open one that is flattened."""
    core = file.core

    def fallback(fd: int) -> Program:
        try:
            return _set_core_dump(fd, platform, core)
        except Exception as e:
            why = core.incomplete or f"libkdumpfile can't open it: {e}"
            raise TargetError(f"{file.path}: {why}") from None

    return kdump.DumpPages(file.fd, core, fallback)


def _open_pages(files: Sequence[_Input], platform: Platform | None, info: bytes) -> tuple[Program, kdump.Pages]:
    """Open a kdump-compressed dump whose pages are read here."""
    pages: kdump.Pages = _pages_of(files[0], platform)
    if len(files) > 1:
        pages = split.SplitPages((file.core.piece or (0, 0), _pages_of(file, platform)) for file in files)
    prog = Program(platform)
    prog.set_linux_kernel_custom(info, False)
    prog.add_memory_segment(0, pages.end, pages.read, physical=True)
    return prog, pages


def _reader(fd: int, core: corefile.CoreFile) -> corefile.Read:
    """Get what reads a dump's inside by size and offset."""
    records = core.records
    if records is None:
        return lambda size, offset: os.pread(fd, size, offset)
    return lambda size, offset: records.pread(fd, size, offset)


def _open_segments(file: _Input, platform: Platform | None, info: bytes) -> Program:
    """Open a dump that is no plain ELF file, by the segments that its headers name."""
    # It is closed with the program, which holds what reads it.
    held = open(os.dup(file.fd), "rb", buffering=0)  # noqa: SIM115
    read = _reader(held.fileno(), file.core)
    prog = Program(platform)
    prog.set_linux_kernel_custom(info, False)

    for segment in file.core.segments:

        def read_segment(address: int, count: int, offset: int, physical: bool, segment: Segment = segment) -> bytes:
            data = b"" if held.closed else read(count, segment.offset + offset)
            if len(data) < count:
                raise FaultError(overlay.MISSING, address)
            return data

        if segment.filesz and segment.paddr not in overlay.NO_PADDR:
            prog.add_memory_segment(segment.paddr, segment.filesz, read_segment, physical=True)
        if segment.filesz and segment.vaddr:
            prog.add_memory_segment(segment.vaddr, segment.filesz, read_segment)
    return prog


def _find_vmcoreinfo(file: _Input, core: corefile.CoreFile) -> bytes | None:
    """Look for the note that a dump's headers don't have in its memory."""
    if core.kdump is None:
        blocks = findinfo.blocks_of_segments(_reader(file.fd, core), core.segments)
    elif kdump.can_read(core):
        pages = _pages_of(file, None)
        blocks = pages.blocks(findinfo.PIECE // pages.page_size, 1 + findinfo.MAX_SIZE // pages.page_size)
    else:
        return None
    return findinfo.choose(findinfo.search(blocks), file.path)


def _without_vmcoreinfo(core: corefile.CoreFile) -> str:
    """Say that a dump has no VMCOREINFO, and what to do."""
    if "VBCORE" in core.notes:
        return magic.VIRTUALBOX
    # QEMU's kdump files have a header of their own, with nothing in it but this.
    if "QEMU" in core.notes:
        return magic.QEMU
    if core.format == "lime":
        return "memory as LiME saves it, with no VMCOREINFO found in it; give the kernel's with --vmcoreinfo"
    if core.kdump is not None:
        return (
            "no VMCOREINFO in the kdump header, and none found in its memory; give it with --vmcoreinfo (a QEMU guest "
            "needs '-device vmcoreinfo' and its qemu_fw_cfg module before the dump)"
        )
    return (
        "no VMCOREINFO note, and none found in its memory: it is the core of a user process, or was not written by "
        "kdump, makedumpfile or QEMU; give the kernel's with --vmcoreinfo if it is the dump of one"
    )


def _open_core(files: Sequence[_Input], core: corefile.CoreFile) -> Target:
    file, path = files[0], files[0].path
    if core.vmcoreinfo is None:
        # User processes have no physical addresses, so no page tables either.
        found = _find_vmcoreinfo(file, core)
        if found is None:
            raise TargetError(f"{path}: {core.incomplete or _without_vmcoreinfo(core)}")
        core = replace(core, notes={**core.notes, "VMCOREINFO": found})
        file.core = core
    info = core.vmcoreinfo
    assert info is not None
    named = arch_of_core(core)
    platform = _platform(core, named)
    pages: kdump.Pages | None = None
    here = kdump.is_read_here(core) if len(files) == 1 else kdump.can_read(core)
    if core.kdump is not None and not (here and named is not None and named.is_walked):
        here = False
        _check_foreign(path, core, len(files))
    try:
        if here:
            prog, pages = _open_pages(files, platform, info)
        elif core.format == "elf" or core.kdump is not None:
            prog = _set_core_dump(file.fd, platform, core)
        else:
            prog = _open_segments(file, platform, info)
    except Exception as e:
        if core.incomplete is not None:
            raise TargetError(f"{path}: {core.incomplete}") from None
        raise TargetError(f"{path}: drgn can't open the dump: {e}") from None
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(f"{path}: not the dump of a Linux kernel")
    vmcoreinfo = read_vmcoreinfo(prog)
    overlay.fault_on_excluded(prog, core.segments)
    arch = arch_of(prog.platform)
    arch.lay_over(prog, vmcoreinfo, core)
    tables = arch.page_tables(prog, vmcoreinfo)
    mapped = core.segments if core.records is None else ()
    direct: DirectMemory = MappedFile(prog, file.fd, mapped, tables)
    if pages is not None and tables is not None:
        direct = kdump.PackedMemory(prog, file.fd, pages, tables)
    return Target(prog, "vmcore", path, vmcoreinfo, core, direct)


def _check_foreign(path: str, core: corefile.CoreFile, files: int) -> None:
    """
    Check that libkdumpfile can read a dump. Behind the end of its file it is ended by a signal.

    :raises TargetError: if it can't.
    """
    if files > 1:
        raise TargetError(f"{path}: its pieces can't be read one by one; join them with 'makedumpfile --reassemble'")
    if core.incomplete is not None and core.piece is None:
        raise TargetError(f"{path}: {core.incomplete}")


def why_no_kcore(proc: str) -> str | None:
    """
    Say why a proc file system has no ``kcore`` that is one, ``None`` if it has.

    Containers get one with a device or a folder mounted over it, or one of processes alone (subset=pid).
    """
    path = f"{proc}/kcore"
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return None
    except FileNotFoundError:
        if not os.path.exists(f"{proc}/meminfo"):
            return f"{path} doesn't exist, nor does {proc}/meminfo: not all of proc is mounted here, as in a container"
        return f"{path} doesn't exist; kernels without CONFIG_PROC_KCORE have none"
    except OSError as e:
        return f"{path}: {e.strerror}"
    return f"{path} isn't a file: something else is mounted over it, as in a container; run mminspect on the host"


def open_live() -> Target:
    """
    Open the running kernel.

    :raises TargetError: if it can't be read; the message says what is missing.
    """
    why = why_no_kcore(PROC)
    if why is not None:
        raise TargetError(f"{why}; give a vmcore with -c")
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
