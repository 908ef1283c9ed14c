# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is done after boot: an initrd whose init loads drivers, brings memory online and takes it away.

It ends with a restart, where the harness stops the guest.
"""

from __future__ import annotations

import lzma
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from contrib.explore.acpi import srat
from contrib.explore.layout import BLOCK_STEPS, DIMM, VIRTIO_MEM, Layout, LayoutError
from contrib.kernels.errors import HarnessError
from contrib.kernels.initrd import collect_modules, cpio_archive

# Where an init ends.
STOP = "kernel_restart"
VIRTIO_MODULES = ("virtio_pci", "virtio_mem")
DAX_MODULES = ("dax_hmem",)
# A virtio-mem device is plugged by a worker thread.
PLUG_SECONDS = 1
SRAT_PATH = "kernel/firmware/acpi/srat.aml"
MEMORY = "/sys/devices/system/memory"
HEAD = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sys /sys
block() {{
  echo {MEMORY}/memory$(($1 / 0x$(cat {MEMORY}/block_size_bytes)))
}}
"""


def wanted_modules(layout: Layout) -> tuple[str, ...]:
    """Return the kernel modules that a layout needs."""
    virtio = VIRTIO_MODULES if any(device.kind == VIRTIO_MEM for device in layout.devices) else ()
    return (*virtio, *((*DAX_MODULES, layout.dax) if layout.dax else ()))


def _step(layout: Layout, verb: str, address: int) -> str:
    if verb in BLOCK_STEPS:
        return f"echo {verb} >$(block {address:#x})/state"
    dimms = sorted((one for one in layout.devices if one.kind == DIMM), key=lambda one: one.start)
    slots = [slot for slot, one in enumerate(dimms) if one.start <= address < one.end]
    return f"echo 1 >/sys/bus/acpi/devices/PNP0C80:{slots[0]:02x}/eject" if slots else ":"


def init_script(layout: Layout, modules: Sequence[str], last: str = "reboot -f") -> str:
    """
    Return the text of init. A step that the kernel refuses is passed over.

    :param modules: What to load, in this order.
    :param last: The line that it ends with.
    """
    lines = [f"insmod /mod/{name}.ko" for name in modules]
    if layout.dax:
        driver = f"/sys/bus/dax/drivers/{layout.dax}"
        # Some kernels bind it by themselves.
        lines.append(f"for one in /sys/bus/dax/devices/*; do echo ${{one##*/}} >{driver}/new_id; done")
    if any(device.kind == VIRTIO_MEM for device in layout.devices):
        lines.append(f"sleep {PLUG_SECONDS}")
    lines += [_step(layout, step.verb, step.address) for step in layout.steps]
    return HEAD + "".join(f"{line} 2>/dev/null\n" for line in lines) + last + "\n"


def find_busybox() -> Path:
    """
    Return a busybox for the guest: this machine's.

    :raises HarnessError: if there is none that is linked statically.
    """
    path = shutil.which("busybox")
    if path is None or b"/ld-linux" in Path(path).read_bytes()[:4096]:
        raise HarnessError("what is done after boot needs a static busybox; install busybox-static")
    return Path(path)


def make_initrd(layout: Layout, modules: Path | None) -> bytes:
    """
    Return the initrd of a layout.

    :param modules: The directory of the kernel's modules; it is needed for all but DIMMs.
    :raises LayoutError: if the layout needs modules that aren't there.
    """
    wanted, loaded = wanted_modules(layout), {}
    if wanted:
        if modules is None:
            raise LayoutError(f"the layout needs the modules {', '.join(wanted)}; give their directory with --modules")
        try:
            loaded = collect_modules(modules, wanted)
        except lzma.LZMAError as error:
            raise HarnessError(f"a module below {modules} can't be unpacked: {error}") from None
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    files = dict.fromkeys(("bin", "sys", "dev", "mod"), (directory, b""))
    files["bin/busybox"] = (program, find_busybox().read_bytes())
    files.update({f"mod/{name}.ko": (stat.S_IFREG | 0o644, data) for name, data in loaded.items()})
    files["init"] = (program, init_script(layout, list(loaded)).encode())
    # The table comes first, in an archive of its own (CONFIG_ACPI_TABLE_UPGRADE).
    table = {SRAT_PATH: (stat.S_IFREG | 0o644, srat(layout))} if layout.srat else {}
    return (cpio_archive(table) if table else b"") + cpio_archive(files)
