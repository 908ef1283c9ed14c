# SPDX-License-Identifier: LGPL-2.1-or-later
"""From within the sandbox nothing can be reached but what was open."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mminspect.cli.options import USER
from mminspect.program import landlock, sandbox, seccomp, syscalls
from mminspect.program.arch import ARCHITECTURES
from tests.conftest import Unpacked
from tests.kit.support import AMD64_HEALTHY, ROOT, python, without_times

LINUX = platform.machine() in ("x86_64", "aarch64")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Each line is tried from within. What is printed is the error, or "done".
ATTEMPTS = {
    "open": "open(OTHER).read()",
    "list": "os.listdir(os.path.dirname(OTHER))",
    "write": "open(OTHER, 'a')",
    "create": "open(OTHER + '.new', 'w')",
    "create in the temporary directory": "open(tempfile.gettempdir() + '/mminspect-test', 'w')",
    "open a device": "open('/dev/null', 'w')",
    "remove": "os.unlink(OTHER)",
    "rename": "os.rename(OTHER, OTHER + '.new')",
    "link": "os.symlink(OTHER, OTHER + '.new')",
    "chmod": "os.chmod(OTHER, 0o777)",
    "chown": "os.chown(OTHER, 0, 0)",
    "truncate": "os.truncate(OTHER, 0)",
    "socket": "socket.socket(socket.AF_UNIX)",
    "connect": "socket.create_connection(('127.0.0.1', 9))",
    "exec": "os.execv('/bin/true', ['true'])",
    "exec in a child": "subprocess.run(['/bin/true'])",
    "ptrace": "call(LIBC.ptrace(16, os.getppid(), 0, 0))",
    "read another process": "call(LIBC.process_vm_readv(os.getppid(), None, 0, None, 0, 0))",
    "load a module": "call(LIBC.syscall(NUMBERS['init_module'], None, 0, None))",
    "io_uring": "call(LIBC.syscall(NUMBERS['io_uring_setup'], 1, None))",
    "a namespace": "call(LIBC.unshare(0x10000000))",
    "root again": "os.setuid(0) if os.getuid() else call(-1)",
    "a larger limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}
INSIDE = """
import ctypes, encodings.idna, json, os, resource, socket, subprocess, sys, tempfile
from mminspect.program import files, privileges, sandbox
from mminspect.program.arch import host
OTHER, HELD, user, attempts = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
LIBC, NUMBERS = ctypes.CDLL(None, use_errno=True), host().syscalls
def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
files.hold(HELD)
account = privileges.find_user(user) if user else None
files.prepare(1)
missing = sandbox.enter(account, (), sandbox.limits_for([1], False))
results = {}
for name, line in attempts.items():
    try:
        exec(line)
        results[name] = "done"
    except (OSError, ValueError) as e:
        results[name] = type(e).__name__
for _ in range(100):
    with files.scratch() as file:
        file.write(b"1")
        file.seek(0)
        assert file.read() == b"1"
results["missing"] = missing
results["held"] = open(files.open_file(HELD)).read()
print(json.dumps(results))
"""


def landlock_is_there() -> bool:
    try:
        landlock.Ruleset()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not LINUX, reason="its system calls aren't known")
@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=ROOT_ONLY)])
def test_nothing_can_be_reached_from_within(user: str, tmp_path: Path) -> None:
    other, held = tmp_path / "other", tmp_path / "held"
    other.write_text("secret")
    held.write_text("read me")
    command = [sys.executable, "-c", INSIDE, str(other), str(held), user, json.dumps(ATTEMPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["held"] == "read me"
    if landlock_is_there():
        assert results["missing"] == []
    else:
        assert [text.split()[0] for text in results["missing"]] == ["Landlock"]
    reached = [name for name in ATTEMPTS if results[name] == "done"]
    # Without Landlock, another user is what keeps a file from being read.
    assert set(reached) <= (set() if landlock_is_there() else {"open", "list"})
    assert other.read_text() == "secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "other"]


@pytest.mark.parametrize("numbers", [syscalls.X86_64, syscalls.AARCH64])
def test_jumps_of_the_filter_stay_inside(numbers: dict[str, int]) -> None:
    code = seccomp.program(0xC000003E, numbers)
    lines = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
    for index, (operation, jump_true, jump_false, _) in enumerate(lines):
        if operation & 7 == 5:
            assert index + 1 + max(jump_true, jump_false) < len(lines)
    assert lines[-1] == (6, 0, 0, 0x7FFF0000)


def test_filter_has_both_names_and_numbers_of_each_architecture() -> None:
    for arch in ARCHITECTURES:
        assert (arch.audit_arch is None) == (not arch.syscalls)
    # What one has and the other lacks are old calls, and x86's I/O ports.
    assert set(syscalls.AARCH64) <= set(syscalls.X86_64)
    assert len(set(syscalls.X86_64.values())) == len(syscalls.X86_64)
    assert len(set(syscalls.AARCH64.values())) == len(syscalls.AARCH64)


def test_limits_leave_room_for_the_largest_dumps() -> None:
    limits = sandbox.limits_for([1 << 40], False)
    assert limits.address_space > 2 << 40
    assert limits.file_size > 1 << 40
    assert limits.seconds is not None and limits.seconds > 10000
    assert sandbox.limits_for([], True).seconds is None


def trace(path: Path, *arguments: str) -> list[str]:
    """Get the system calls of a command, of all its processes, from the moment that its filter is in place."""
    log = path / "trace"
    calls = "trace=socket,connect,execve,openat,open,creat,unlink,rename,renameat,renameat2,unlinkat,fchmod,seccomp"
    command = ["strace", "-f", "-qq", "-e", calls, "-o", str(log), sys.executable, "-m", "mminspect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    # Without a log, triage can't say why the kernel died.
    assert done.returncode in ((2,) if "triage" in arguments else (0, 1)), done.stderr
    lines = log.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if " seccomp(SECCOMP_SET_MODE_FILTER" in line)
    worker = lines[start].split()[0]
    first = lines[0].split()[0]
    assert worker == first
    # The process that writes the output was started before.
    publishers = {line.split()[0] for line in lines[:start]} - {worker}
    return [line for line in lines[start + 1 :] if line.split()[0] not in publishers]


@pytest.mark.skipif(shutil.which("strace") is None or not LINUX, reason="needs strace")
@pytest.mark.parametrize(
    "words",
    [
        ["-c", "CORE", "scan", "-o", "OUT"],
        ["-c", "CORE", "scan", "--jobs", "2"],
        ["-c", "CORE", "zones"],
        ["-c", "CORE", "page", "0x1000"],
        ["-c", "CORE", "capture", "-o", "OUT"],
        ["triage", "CORE"],
        ["triage", "CORE", "--format", "html", "-o", "OUT"],
        ["-c", "CORE", "map"],
        ["-c", "CORE", "map", "--format", "html", "-o", "OUT"],
        ["-c", "CORE", "scan", "--format", "html", "-o", "OUT"],
        ["diff", "CORE", "CORE"],
        ["diff", "CORE", "CORE", "--format", "html", "-o", "OUT"],
        ["-c", "CORE", "watch", "--count", "1", "--format", "prometheus", "-o", "OUT"],
    ],
)
def test_no_command_connects_runs_a_program_or_writes_a_named_file(
    words: list[str], unpacked: Unpacked, tmp_path: Path
) -> None:
    names = {"CORE": str(unpacked(AMD64_HEALTHY)), "OUT": str(tmp_path / "out")}
    lines = trace(tmp_path, *(names.get(word, word) for word in words))
    opens = [line for line in lines if "openat(" in line or "open(" in line]
    assert [line for line in lines if line not in opens and "exited" not in line and "SIG" not in line] == []
    writes = [line for line in opens if any(flag in line for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"))]
    assert writes == []
    if "-o" in words:
        assert (tmp_path / "out").stat().st_size > 0


@ROOT_ONLY
def test_root_reads_a_private_vmcore_as_another_user(unpacked: Unpacked, tmp_path: Path) -> None:
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    core = directory / "vmcore"
    shutil.copy(unpacked(AMD64_HEALTHY), core)
    core.chmod(0o600)
    report = directory / "report"
    mode = "require" if landlock_is_there() and LINUX else "auto"
    done = python("--sandbox", mode, "-c", str(core), "scan", "--format", "json", "-o", str(report))
    assert (done.status, done.err) == (0, "")
    plain = python("--sandbox", "off", "-c", str(core), "scan", "--format", "json").json()
    assert without_times(json.loads(report.read_text())) == without_times(plain)
    assert report.stat().st_uid == 0


def test_what_can_not_be_had_is_one_line_and_status_2_where_it_is_required(unpacked: Unpacked, tmp_path: Path) -> None:
    script = (
        "from mminspect.program import landlock\n"
        "def missing(self): raise OSError(38, 'Function not implemented')\n"
        "landlock.Ruleset.__init__ = missing\n"
        "from mminspect.cli.run import run\n"
        "run()\n"
    )
    results = {}
    for mode in ("require", "auto"):
        command = [sys.executable, "-c", script, "--sandbox", mode, "-c", str(unpacked(AMD64_HEALTHY)), "scan", "-v"]
        results[mode] = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert results["require"].returncode == 2
    assert results["require"].stdout == ""
    expected = "Landlock (Function not implemented)"
    assert results["require"].stderr == f"mminspect: the sandbox can't be had: {expected} (--sandbox require)\n"
    assert results["auto"].returncode == 0
    assert results["auto"].stderr == f"mminspect: not all of the sandbox can be had: {expected}\n"


def test_user_is_nobody_by_default() -> None:
    assert USER.default == "nobody"


def test_installation_in_a_private_directory_is_noticed(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o755)
    file = directory / "module.py"
    file.touch(mode=0o644)
    closed = not sandbox.everybody_reads([str(tmp_path)])
    assert sandbox.everybody_reads([str(file)]) != closed
    directory.chmod(0o700)
    assert not sandbox.everybody_reads([str(file)])
    assert sandbox.everybody_reads(["/usr/bin"])


def test_end_of_cpu_time_is_one_line_even_in_c_code() -> None:
    script = (
        "import resource\n"
        "from mminspect import signals\n"
        "signals.quit_on_cpu_limit()\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (1, 20))\n"
        "sum(range(10**12))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "mminspect: the limit of CPU time is reached; --sandbox off lifts mminspect's own\n"


def test_debuginfod_is_never_asked(unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os, sys\n"
        "from mminspect.cli.run import run\n"
        "try:\n"
        "    run()\n"
        "except SystemExit:\n"
        "    print('DEBUGINFOD_URLS' in os.environ, file=sys.stderr)\n"
    )
    monkeypatch.setenv("DEBUGINFOD_URLS", "http://localhost:1/")
    command = [sys.executable, "-c", script, "-c", str(unpacked(AMD64_HEALTHY)), "zones"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.stderr == "False\n"


@ROOT_ONLY
@pytest.mark.parametrize("words", [("scan",), ("map",), ("page", "0x1000"), ("zones",)])
def test_an_installation_that_only_root_can_read(words: tuple[str, ...], unpacked: Unpacked, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(0o700)
    shutil.copytree(ROOT / "mminspect", private / "mminspect")
    core = unpacked(AMD64_HEALTHY)
    arguments = [*words, "-c", str(core), "--format", "json"]
    done = python(*arguments, cwd=private)
    assert (done.status, done.err) == (0, "")
    reports = [done.json(), python(*arguments, cwd=ROOT).json()]
    for report in reports:
        report.get("summary", {}).pop("elapsed_seconds", None)
    assert reports[0] == reports[1]


def test_each_part_of_the_sandbox_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: who is restricted can't become another user any more."""
    done: list[str] = []

    class Ruleset:
        """Landlock, as a list of calls."""

        def allow(self, paths: object, rights: object) -> None:
            done.append("allow")

        def restrict_self(self) -> None:
            done.append("restrict")

    monkeypatch.setattr(sandbox.landlock, "Ruleset", Ruleset)
    monkeypatch.setattr(sandbox, "_limit", lambda limits: iter(()))
    monkeypatch.setattr(sandbox.privileges, "become", lambda user: done.append("become"))
    monkeypatch.setattr(sandbox.privileges, "drop_capabilities", lambda: done.append("capabilities"))
    monkeypatch.setattr(sandbox.seccomp, "restrict", lambda arch, calls: done.append("seccomp"))
    user: Any = "nobody"
    limits: Any = None
    assert sandbox.enter(user, (), limits) == []
    assert done == ["allow", "become", "capabilities", "restrict", *(["seccomp"] if LINUX else [])]


def decide(numbers: dict[str, int], name: str, *arguments: int, arch: int = 0xC000003E) -> int:
    """Ask the filter of a system call: nr, arch, instruction_pointer, args[6]."""
    data = struct.pack("<iIQ6Q", numbers[name], arch, 0, *arguments, *[0] * (6 - len(arguments)))
    return run_filter(seccomp.program(0xC000003E, numbers), data)


def run_filter(code: bytes, data: bytes) -> int:
    """Run a filter on ``struct seccomp_data``. Return its verdict."""
    at = loaded = 0
    while True:
        operation, jump_true, jump_false, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
            continue
        taken = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[operation]
        at += jump_true if taken else jump_false


ALLOWED, REFUSED, NOT_THERE, KILLED = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        # TIOCSTI and TIOCLINUX put words into a terminal; TCGETS and TIOCGWINSZ only ask it.
        ("ioctl", (0, 0x5412), REFUSED),
        ("ioctl", (0, 0x541C), REFUSED),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5413), ALLOWED),
        ("open", (0, os.O_RDONLY), ALLOWED),
        ("open", (0, os.O_RDONLY | os.O_CLOEXEC), ALLOWED),
        ("open", (0, os.O_WRONLY), REFUSED),
        ("open", (0, os.O_RDWR), REFUSED),
        ("open", (0, os.O_RDONLY | os.O_CREAT), REFUSED),
        ("open", (0, os.O_RDONLY | os.O_TRUNC), REFUSED),
        ("openat", (0, 0, os.O_RDONLY), ALLOWED),
        ("openat", (0, 0, os.O_WRONLY), REFUSED),
        ("openat", (0, os.O_WRONLY, os.O_RDONLY), ALLOWED),
        ("openat2", (0, 0, 0), NOT_THERE),
        ("clone3", (), NOT_THERE),
        ("clone", (0x11,), ALLOWED),
        ("clone", (0x10000000,), REFUSED),
        ("execve", (), REFUSED),
        ("socket", (), REFUSED),
    ],
)
def test_system_calls_that_the_filter_lets_through(name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert decide(syscalls.X86_64, name, *arguments) == expected
    if name in syscalls.AARCH64:
        assert decide(syscalls.AARCH64, name, *arguments) == expected


def test_calls_of_other_architectures_end_it_and_those_of_x32_are_refused() -> None:
    assert decide(syscalls.X86_64, "ioctl", arch=0xC00000B7) == KILLED
    # read() and ioctl() of x32. The filter of AArch64 is not asked for such.
    for number in (0x40000000, 0x40000202):
        code = seccomp.program(0xC000003E, syscalls.X86_64)
        assert run_filter(code, struct.pack("<iIQ6Q", number, 0xC000003E, 0, *[0] * 6)) == REFUSED
