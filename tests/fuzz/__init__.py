# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fuzzer: damaged vmcores, all commands, and the bounds that each must keep."""
