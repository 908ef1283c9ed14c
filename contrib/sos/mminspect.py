# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plugin of sos (sosreport): what mminspect says of the running kernel.

Install as sos/report/plugins/mminspect.py. It works with sos 4.0 and later.
"""

from __future__ import annotations

from sos.report.plugins import DebianPlugin, IndependentPlugin, Plugin, RedHatPlugin, UbuntuPlugin


# sos 4.0 on Debian knows no IndependentPlugin.
class Mminspect(Plugin, IndependentPlugin, RedHatPlugin, DebianPlugin, UbuntuPlugin):
    """Collects a scan of the kernel's memory map and the kernel's own view of its memory."""

    short_desc = "Scan of the kernel's memory map"

    plugin_name = "mminspect"
    profiles = ("system", "memory", "kernel")
    packages = ("mminspect", "python3-mminspect")
    commands = ("mminspect",)
    # A scan reads 64 bytes of each page of memory, and gives way to other work.
    plugin_timeout = 1800
    cmd_timeout = 1500

    def setup(self):
        """Tell sos what to collect."""
        self.add_copy_spec(["/proc/iomem", "/proc/zoneinfo", "/proc/pagetypeinfo"])
        self.add_cmd_output(
            "mminspect scan --format json --fail-on never",
            suggest_filename="mminspect_scan.json",
            stderr=False,
            timeout=self.cmd_timeout,
        )
        self.add_cmd_output("mminspect --version")
