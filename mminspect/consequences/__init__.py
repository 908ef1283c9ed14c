# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What kernel functions would do with the pages of a finding, following their C for the kernel at hand.

- :mod:`mminspect.consequences.guards`: what of the kernel decides that, read from the kernel itself.
- :mod:`mminspect.consequences.model`: the kernel functions, as pure functions of a page and its pageblock.
- :mod:`mminspect.consequences.attach`: adds the consequences to findings.
"""
