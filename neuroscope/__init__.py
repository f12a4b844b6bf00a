"""neuroscope: which neurons does a task use, are they its own, and what happens without them?

    import neuroscope as ns

    model = ns.load("mini")
    tasks = ns.load_tasks("mini")
    mask = ns.attribute(model, tasks["sentiment-food"]).top(0.10)
    with ns.ablate(model, mask):
        ns.evaluate(model, tasks["sentiment-food"])

The public names stand in `__init__.pyi`, and nowhere else. Each is imported when it is first used, so that
`import neuroscope` costs nothing.
"""

import lazy_loader

from neuroscope.errors import spelled

__version__ = "0.1.0"

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = spelled("neuroscope", __all__, _import)
