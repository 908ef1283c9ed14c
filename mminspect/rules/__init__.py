# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules. Each is one file; its docstring is its documentation."""
