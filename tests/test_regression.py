"""The numbers of some experiments are those that were written down."""

from pathlib import Path

import pandas as pd
import pytest
import regression

KEPT = Path(__file__).parent / "kept_numbers"
IDS = ["T1", "F5", "Z-F2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_the_numbers_are_as_they_were(name, tmp_path):
    """To 1e-4 of a score, since another processor rounds in another order; on one machine, to the bit."""
    regression.make(tmp_path, [name])
    made = regression.tables(tmp_path)
    assert made
    for (_, file), table in made.items():
        kept = pd.read_csv(KEPT / name / file)
        assert regression.differences(kept, table, tolerance=1e-4) == [], file


def test_a_difference_is_seen():
    a = pd.DataFrame({"task": ["a", "b"], "score": [0.5, float("nan")]})
    assert regression.differences(a, a.copy()) == []
    assert regression.differences(a, a.assign(score=[0.5 + 1e-12, float("nan")])) == ["score: up to 1e-12, 1 values"]
    assert "score" in regression.differences(a, a.assign(score=[0.5, 0.1]))[0]
    assert regression.differences(a, a.assign(task=["a", "c"])) == ["task: 1 texts"]
    assert regression.differences(a, a[:1]) == ["2 rows, then 1"]
    assert regression.differences(a, a.rename(columns={"score": "s"})) == ["columns ['s', 'score']"]
