"""The papers' tables and figures: one file each, out of the floors below, and one table of them.

The public names stand in `__init__.pyi`. Each is imported when it is first used.
"""

import lazy_loader

from neuroscope.errors import spelled

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = spelled("neuroscope.experiments", __all__, _import)
