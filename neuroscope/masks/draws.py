"""How random masks are drawn beside a mask."""

from __future__ import annotations

from typing import Literal

Match = Literal["uniform", "layer", "activation"]
DRAWN = {  # how, in words
    "uniform": "random neurons of the whole model",
    "layer": "random neurons of the same layers",
    "activation": "random neurons of the same layers that are as loud",
}
