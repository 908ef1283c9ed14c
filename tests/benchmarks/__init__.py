# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast mminspect is beside its peers, and how it grows: ``python -m tests.benchmarks``. No test asserts a time."""
