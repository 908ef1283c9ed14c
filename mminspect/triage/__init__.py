# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Triage of crash dumps: does the memory map explain why the kernel died?

- :mod:`mminspect.triage.log` reads the log buffer.
- :mod:`mminspect.triage.lastwords` finds the crash in it, and the pages and addresses that the kernel named.
- :mod:`mminspect.triage.known` has the known bugs, each with the evidence that it leaves.
- :mod:`mminspect.triage.verdict` compares the crash with the findings of a scan.
- :mod:`mminspect.triage.run` does all of it for a vmcore.
"""
