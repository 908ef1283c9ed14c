# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: options, exit status, where output goes."""
