"""The tables of results as files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from neuroscope import files
from neuroscope.results import Result


def save_tables(results: Mapping[str, Result], folder: Path) -> None:
    """Every table of every result as CSV and parquet: `<name of the result>_<name of the table>`."""
    for name, result in results.items():
        for part, table in result.tables().items():
            files.write(folder / f"{name}_{part}.csv", table.to_csv(index=False))
            files.write(folder / f"{name}_{part}.parquet", partial(table.to_parquet, index=False))
