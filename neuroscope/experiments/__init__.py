"""The papers' tables and figures: one file each, out of the floors below, and one table of them.

The public names stand in `__init__.pyi`. Each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
