"""The words are those of the docs, one for each task."""

from pathlib import Path

import neuroscope as ns


def check(found, folder):
    verdicts = found["verdicts"]
    assert list(verdicts) == ["sentiment-food", "sentiment-film", "nli-food"]
    rules = ns.experiments.CrossAblation.verdicts.__doc__
    assert all(f'"{verdict}"' in rules for verdict in verdicts.values())
    assert "CrossAblation" in type(found["crossed"]).__name__ if "crossed" in found else True
    assert Path(folder).is_dir()
