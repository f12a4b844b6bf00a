"""Print constraints with the lowest version of everything that pyproject.toml requires: what `make lowest` installs."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KEPT = {"torch"}  # builds for a processor are there for few versions


def lowest(requirements):
    """name==version of the lower bound of each; what has none is left free."""
    pins = []
    for text in requirements:
        requirement = Requirement(text)
        bounds = [one.version for one in requirement.specifier if one.operator == ">="]
        if bounds and requirement.name not in KEPT:
            pins.append(f"{requirement.name}=={bounds[0]}")
    return pins


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(PROJECT["dependencies"])) + "\n")
