# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What kernel functions would do with the pages of a finding, following their C for the kernel at hand.

- :mod:`mminspect.consequences.guards`: what of the kernel decides that, read from the kernel itself.
- :mod:`mminspect.consequences.place`: a page as the walkers of a zone meet it, and what would be done with it.
- :mod:`mminspect.consequences.model`: the kernel functions, as pure functions of such a place.
- :mod:`mminspect.consequences.block`: which pages of a pageblock can be free, and which zone gets to them.
- :mod:`mminspect.consequences.attach`: adds the consequences to findings.
"""
