# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which page is behind an address of a process: ``mminspect page --pid``."""

from __future__ import annotations

from drgn import FaultError, Object
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.pid import find_task

from mminspect.commands.page_argument import Meant, number
from mminspect.errors import MminspectError
from mminspect.kernel.kernel import Kernel
from mminspect.program.text import kernel_name
from mminspect.typeinfo.symbols import CAPTURE_NOTE

# TASK_COMM_LEN.
MAX_COMM = 16


def user_page(kernel: Kernel, pid: int, text: str) -> Meant:
    """
    Find the page that a process has at an address, through its page tables.

    :param pid: Of a process or thread, in the initial PID namespace.
    :param text: The address.
    :raises MminspectError: if there is none, or this target can't tell.
    """
    core = kernel.target.core
    if core is not None and CAPTURE_NOTE in core.notes:
        raise MminspectError("a capture has no page tables of processes; give the vmcore that it was made of")
    address = number(text)
    name, mm = _process(kernel, pid)
    whose = f"PID {pid} ({name})"
    if not mm:
        raise MminspectError(f"{whose}: a kernel thread, or about to exit; it has no addresses of user space")
    try:
        if address >= mm.task_size.value_():
            raise MminspectError(f"{address:#x}: no address of user space; without --pid, kernel addresses are read")
        physical = int(follow_phys(mm, address).value_())
    except FaultError:
        raise MminspectError(
            f"{address:#x}: {whose} has no page there: it is not mapped, was never touched, or is swapped out"
        ) from None
    except NotImplementedError:
        raise MminspectError("drgn can't walk the page tables of this architecture") from None
    pfn = physical // kernel.memory.layout.page_size
    if kernel.section(pfn) is None:
        raise MminspectError(f"{address:#x}: {whose} has pfn {pfn:#x} there, which has no online struct page")
    about = {"pid": pid, "comm": name, "address": address, "physical_address": physical}
    return Meant(pfn, pfn + 1, "user address", {"process": about})


def _process(kernel: Kernel, pid: int) -> tuple[str, Object]:
    """
    Return the name and the ``struct mm_struct *`` of a process.

    :raises MminspectError: if there is none, or it can't be read.
    """
    try:
        task = find_task(kernel.prog, pid)
        if not task:
            raise MminspectError(f"there is no process {pid}")
        return kernel_name(task.comm.string_()[:MAX_COMM], MAX_COMM), task.mm.read_()
    except FaultError as e:
        raise MminspectError(f"process {pid} can't be read: {e}") from None
    except (LookupError, AttributeError) as e:
        raise MminspectError(f"processes of this kernel can't be read: {e}") from None
