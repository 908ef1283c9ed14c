# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Files that people take for a vmcore, or have in its place: how each begins, what it is, and the one thing to do.

What mminspect unpacks or reads is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# Bytes from a file's start that tell what it is. The volume descriptor of an ISO image is behind the others.
SIZE = 33 << 10
NOT_A_VMCORE = (
    "not a vmcore (no ELF core, kdump-compressed dump or LiME file, plain, in a tar archive or in .gz, .bz2, .xz or "
    ".zst)"
)
XEN_CORE = (
    "a core of a Xen guest as 'xl dump-core' writes it, whose memory is not in pfn order; let the guest's own kdump "
    "write a vmcore, or open this with crash"
)
XEN_HOST = (
    "a dump of a Xen host (it has a VMCOREINFO_XEN note), whose kernels' memory only the hypervisor's tables show; "
    "open it with crash"
)
VIRTUALBOX = (
    "a core from 'VBoxManage debugvm dumpvmcore', with no VMCOREINFO in it, and none found in its memory; give the "
    "guest's with --vmcoreinfo, or let the guest's own kdump write a vmcore"
)
QEMU = (
    "a dump of a QEMU guest with no VMCOREINFO note, and none found in its memory; add '-device vmcoreinfo' to QEMU "
    "and load the guest's qemu_fw_cfg module before the dump, or give the guest's with --vmcoreinfo"
)
_MEMORY_ONLY = "take it again with 'virsh dump --memory-only --format elf'"
_VMWARE = "convert it with VMware's 'vmss2core -N6', which writes an ELF core"
_OWN_KDUMP = "let the guest's own kdump write a vmcore"
_CONVERT_RAW = "convert it to LiME's format"
_NO_LINUX = "mminspect reads dumps of Linux only"
_DISK = "the vmcore is a file in its file system, most often below /var/crash; mount it, and give that file"


# Letters of a word that a text may begin with.
LONGEST_WORD = 6


class Known(NamedTuple):
    """
    A kind of file.

    :ivar starts: Bytes that it can begin with.
    :ivar what: What it is.
    :ivar todo: What to do. ``FILE`` stands for its name.
    :ivar offset: Where those bytes are.
    """

    starts: tuple[bytes, ...]
    what: str
    todo: str
    offset: int = 0

    def is_long(self, start: bytes) -> bool:
        """Tell whether what a file begins with is too long to begin a text by chance."""
        return any(len(begin) > LONGEST_WORD for begin in self.starts if start[self.offset :].startswith(begin))

    def advice(self, path: str) -> str:
        """Return what a file is, and what to do."""
        name = path if _PLAIN_PATH.fullmatch(path) and path != "-" else "FILE"
        return f"{self.what}; {self.todo.replace('FILE', name)}"


KNOWN = (
    # Compressors and archives.
    Known((b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"), "compressed by lz4", "unpack it with 'lz4 -dc FILE > vmcore'"),
    Known((b"\x89LZO\0\r\n\x1a\n",), "compressed by lzop", "unpack it with 'lzop -dc < FILE > vmcore'"),
    Known((b"LZIP",), "compressed by lzip", "unpack it with 'lzip -dc FILE > vmcore'"),
    Known((b"LRZI",), "compressed by lrzip", "unpack it with 'lrzip -d -o vmcore FILE'"),
    Known((b"\x5d\0\0",), "compressed by lzma", "unpack it with 'xz -dc --format=lzma FILE > vmcore'"),
    Known((b"\x1f\x9d", b"\x1f\xa0"), "compressed by compress", "unpack it with 'zcat < FILE > vmcore'"),
    Known((b"\xff\x06\0\0sNaPpY",), "compressed by snappy (framed)", "unpack it with 'snzip -dc FILE > vmcore'"),
    Known((b"PK\x03\x04", b"PK\x05\x06"), "a zip archive", "unpack it with 'unzip FILE' and give the vmcore in it"),
    Known((b"7z\xbc\xaf\x27\x1c",), "a 7z archive", "unpack it with '7z x FILE' and give the vmcore in it"),
    Known((b"Rar!\x1a\x07",), "a rar archive", "unpack it with 'unrar x FILE' and give the vmcore in it"),
    Known((b"070701", b"070702", b"070707"), "a cpio archive", "unpack it with 'cpio -id < FILE'"),
    Known((b"!<arch>\n",), "an ar archive or a Debian package", "unpack it with 'dpkg-deb -x FILE .' or 'ar x FILE'"),
    Known((b"\xed\xab\xee\xdb",), "an RPM package", "unpack it with 'rpm2cpio FILE | cpio -id'"),
    Known((b"hsqs",), "a squashfs image", "unpack it with 'unsquashfs FILE' and give the vmcore in it"),
    Known((b"CD001",), "an ISO image", _DISK, 32769),
    Known((b"-----BEGIN PGP MESSAGE",), "encrypted by PGP", "decrypt it with 'gpg -o vmcore -d FILE'"),
    Known((b"Salted__",), "encrypted by openssl", "decrypt it with 'openssl enc -d'"),
    Known((b"age-encryption.org/",), "encrypted by age", "decrypt it with 'age -o vmcore -d FILE'"),
    # Hypervisors: states and disks.
    Known(
        (b"LibvirtQemudSave", b"LibvirtQemudPart"),
        "a guest's state as 'virsh save' writes it, or 'virsh dump' without --memory-only",
        _MEMORY_ONLY,
    ),
    Known((b"QEVM",), "a QEMU migration stream, as 'virsh dump' without --memory-only has it", _MEMORY_ONLY),
    Known((b"QFI\xfb",), "a qcow2 disk image", _DISK),
    Known(
        (b"\xd2\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd0\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe"),
        "a VMware state (.vmss or .vmsn)",
        _VMWARE,
    ),
    Known((b"KDMV", b"COWD", b"# Disk DescriptorFile"), "a VMware disk", _DISK),
    Known(
        (b"\x7fVirtualBox SavedState",),
        "a saved state of VirtualBox",
        f"let the guest run and use 'VBoxManage debugvm VM dumpvmcore', or {_OWN_KDUMP}",
    ),
    Known((b"<<< Oracle VM Virtual", b"<<< Sun ", b"<<< innotek "), "a VirtualBox disk", _DISK),
    Known((b"conectix", b"vhdxfile", b"cxsparse"), "a disk of Hyper-V or Xen", _DISK),
    Known(
        (b"\xed\xeb\x0f\xf0", b"\xee\xeb\x0f\xf0"), "an old core of a Xen guest", f"{_OWN_KDUMP}, or open it with crash"
    ),
    Known(
        (b"LinuxGuestRecord", b"Xen saved domain", b"libvirt-xml\n"),
        "a saved Xen domain",
        _OWN_KDUMP,
    ),
    # Memory acquisition.
    Known((b"AVML",), "a memory image of AVML, compressed", f"{_CONVERT_RAW} with 'avml-convert FILE OUT.lime'"),
    Known(
        (b"EVF\x09\r\n\xff\0", b"LVF\x09\r\n\xff\0", b"EVF2\r\n\x81\0"),
        "an EnCase image",
        "export it raw with 'ewfexport'",
    ),
    Known((b"AFF10\r\n\0", b"AFF00\r\n\0"), "an AFF image", "export it raw with 'affcat FILE'"),
    Known((b"ADSEGMENTEDFILE",), "an image of AccessData FTK", "export it raw with FTK Imager"),
    # Other writers' and other systems' dumps.
    Known(
        (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", b"\xa8\x19\x01\x73\x61\x8f\x23\xed", b"\xcd\x23\x8f\x61\x73\x01\x19\xa8"),
        "an LKCD dump",
        "open it with crash; mminspect needs a dump with VMCOREINFO",
    ),
    Known(
        (b"\xa8\x19\x01\x73\x61\x8f\x23\xfd", b"\xa8\x19\x01\x73\x61\x8f\x23\xfe"),
        "a stand-alone dump of s390",
        "convert it with 'zgetdump -f elf FILE > vmcore'",
    ),
    Known(
        (b"sadump\0\0",), "a dump of Fujitsu's sadump", "convert it with 'makedumpfile -c -d 31 -x VMLINUX FILE vmcore'"
    ),
    Known((b"PAGEDUMP", b"PAGEDU64", b"MDMP"), "a crash dump of Windows", _NO_LINUX),
    Known((b"HIBR", b"hibr", b"WAKE", b"wake", b"RSTR"), "a hibernation file of Windows", _NO_LINUX),
    Known((b"minidump FreeBSD", b"FreeBSD Kernel Dump"), "a dump of FreeBSD", _NO_LINUX),
    Known((b"\xed\xc8\xfe\xde", b"\xde\xfe\xc8\xed"), "a dump of Solaris or illumos", _NO_LINUX),
    Known((b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe"), "a Mach-O file of macOS", _NO_LINUX),
    Known((b"S1SUSPEND", b"S2SUSPEND", b"LINHIB0001"), "swap space with a hibernated system", _OWN_KDUMP, 4086),
    Known((b"SWAPSPACE2", b"SWAP-SPACE"), "swap space", "give the vmcore, most often a file below /var/crash", 4086),
    # What lies about beside a vmcore.
    Known(
        (b"HdrS",),
        "a kernel image (bzImage)",
        "give the vmcore with -c; the vmlinux with its DWARF goes with -s",
        0x202,
    ),
    Known((b"\x9f\xeb\x01\0", b"\xeb\x9f\x01\0"), "raw BTF", "give it with --btf, and the vmcore with -c"),
    Known((b"OSRELEASE=",), "the text of a VMCOREINFO", "give it with --vmcoreinfo, and the vmcore with -c"),
    Known(
        (b"LPKSHHRH",),
        "a journal of systemd",
        "write the kernel's lines of it with 'journalctl --file FILE -k -o short-monotonic > log', and triage that",
    ),
    Known((b"SQLite format 3\0",), "a database of SQLite", "give the vmcore, or the kernel's log as text"),
    Known((b"%PDF-",), "a PDF document", "copy the kernel's log out of it as text, and triage that"),
    Known(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8"),
        "a picture",
        "only text can be read: write down what it shows, and triage that",
    ),
    Known((b"version https://git-lfs",), "a pointer of Git LFS", "fetch the file itself with 'git lfs pull'"),
    Known((b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), "a web page", "the download got a page and not the dump"),
)
# A path that can stand in a command as it is.
_PLAIN_PATH = re.compile(r"[\w./+@:,=-]+", re.ASCII)
_LOG = re.compile(rb"(<\d+>)?\[ *\d+\.\d{6}\]|Linux version \d")


def plain(text: bytes | str, limit: int) -> str:
    """Make a short, printable line of what a file says."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def known(start: bytes, kinds: Iterable[Known] = KNOWN) -> Known | None:
    """Find the kind of a file by its first :data:`SIZE` bytes."""
    return next((k for k in kinds if start[k.offset :].startswith(k.starts)), None)


def explain(start: bytes, path: str) -> str:
    """
    Say what a file is that is no vmcore, and what to do.

    :param start: Its first :data:`SIZE` bytes.
    :param path: Its name.
    """
    kind = known(start)
    if kind is not None:
        return f"not a vmcore, but {kind.advice(path)}"
    if _LOG.match(start):
        return "not a vmcore, but the text of a kernel log; 'mminspect triage' reads that"
    text = start[:512]
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return NOT_A_VMCORE
    return (
        f"{NOT_A_VMCORE}; if it is raw physical memory from address 0 on, give the kernel's VMCOREINFO with "
        "--vmcoreinfo"
    )
