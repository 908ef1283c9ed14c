# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file becomes memory: vmcores and the running kernel as drgn programs."""
