"""A row for NCFT with shares from 0 to 1."""


def check(found, folder):
    metrics = found["metrics"]
    assert len(metrics) == 1 and "ncft" in set(metrics["method"])
    assert 0 <= metrics["average accuracy"].iloc[0] <= 1
