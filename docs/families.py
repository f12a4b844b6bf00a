"""Run the conformance tests of model families, and write what passed into docs/families.md.

    python docs/families.py

A row is a family of `tests/families.py`; a cell counts the tests of a file that were run with that family's model.
"""

import datetime
import importlib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
AREAS = {  # file of tests -> what it shows
    "test_models.py": "neurons found",
    "test_strangers_opening.py": "half precision",
    "test_interventions.py": "switched off, patched",
    "test_one_row.py": "labels judged",
    "test_relp.py": "RelP",
    "test_directions.py": "directions",
    "test_parameters.py": "parameters",
    "test_adapter.py": "trained",
    "test_lora.py": "LoRA",
}
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight", "peft")


class Counting:
    """A plugin of pytest: runs the tests that name a family, and counts them by family and file."""

    def __init__(self):
        self.families = ()
        self.counts = {}  # (family, file) -> [passed, all]

    def pytest_collection_modifyitems(self, items):
        self.families = tuple(importlib.import_module("families").FAMILIES)  # tests/ is on the path by now
        items[:] = [item for item in items if self.family_of(item)]

    def family_of(self, item):
        """The family that a test is given as its parameter `name` or `family`; None: it is of no single one."""
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        named = [parameters.get(key) for key in ("name", "family")]
        return next((one for one in named if isinstance(one, str) and one in self.families), None)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        count = self.counts.setdefault((self.family_of(item), item.path.name), [0, 0])
        if call.when == "call" or report.failed:
            count[0] += report.passed
            count[1] += not report.skipped
        return report


def table(families, counts):
    """The page: a row for every family."""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    lines = [
        "# Model families\n",
        "<!-- written by docs/families.py -->\n",
        "Neurons are found by running a tiny input once and walking the graph of its gradients, not from a table of "
        "names, so that other families work as well. These are tested, each as a small model with random weights: a "
        "cell says how many of the tests that were run with the family's model passed. A dash: what is measured there "
        "does not apply, or is tested on other families.\n",
        f"Written by `python docs/families.py` on {datetime.date.today().isoformat()} with {versions}, "
        "on a processor.\n",
        "| family | class of transformers | " + " | ".join(AREAS.values()) + " |",
        "|---|---" + "|---:" * len(AREAS) + "|",
    ]
    for name, kind in families.items():
        cells = []
        for file in AREAS:
            passed, total = counts.get((name, file), [0, 0])
            cells.append("–" if not total else f"{passed} of {total}" if passed < total else f"{passed}")
        lines.append(f"| {name} | `{kind}` | " + " | ".join(cells) + " |")
    failed = sum(total - passed for passed, total in counts.values())
    lines.append(f"\n{sum(total for _, total in counts.values())} tests, {failed} failed.")
    lines.append(
        "\nThe same mask gives the same logits, and the same task the same scores, from transformers, nnsight and a "
        "TransformerBridge, to 1e-5 (`tests/test_models.py`, `tests/test_lens_nnsight.py`). Under PEFT the neurons are "
        "those of the model underneath. What is refused is under [what cannot be concluded]"
        "(concepts/limits.md#models-that-are-refused).\n"
    )
    return "\n".join(lines)


def main():
    counting = Counting()
    files = [str(ROOT / "tests" / name) for name in AREAS]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *files], plugins=[counting])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(code)
    families = importlib.import_module("families")
    kinds = {name: type(families.build(name)).__name__ for name in families.FAMILIES}
    PAGE.write_text(table(kinds, counting.counts), encoding="utf-8")


if __name__ == "__main__":
    main()
