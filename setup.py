# SPDX-License-Identifier: LGPL-2.1-or-later
"""The compiled passes: one build for all Pythons from 3.11 on, whose stable interface has buffers. Optional."""

from __future__ import annotations

import sys
import sysconfig

from setuptools import Extension, setup

STABLE = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            f"mminspect.memmap.{name}",
            [f"mminspect/memmap/{name}.c"],
            extra_compile_args=["-O3"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            py_limited_api=STABLE,
            # What can't be compiled is left out: numpy does the same.
            optional=True,
        )
        for name in ("_digest", "_classes")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
