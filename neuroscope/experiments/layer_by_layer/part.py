"""What all views of a finished `mossa` share: they keep their figures, also in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, FileError
from neuroscope.experiments.layer_by_layer.mossa_table import MossaTable
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NEGATIVE = "**A negative**: "
CAVEAT = (
    "CKA says how alike the examples are arranged, not that the same computation is made, nor that the task needs it."
)


@dataclasses.dataclass(frozen=True, repr=False)
class MossaPart(Result):
    """One view of a finished `mossa`: its numbers (`table`), the figures, and what they show and do not show."""

    title = "A view of MOSSA"

    drawn: list[Any] = dataclasses.field(default_factory=list)

    @classmethod
    def of(
        cls, mossa: MossaTable, lines: Sequence[str], drawn: list[go.Figure], table: pd.DataFrame, **more: Any
    ) -> Self:
        """Made of sentences, the most telling first, figures and numbers."""
        words = "\n".join([f"{lines[0]}\n", *(f"- {line}" for line in [*lines[1:], how_made(mossa.manifest)])])
        return cls(table, {**mossa.manifest, **more, "words": words}, drawn)

    def in_words(self) -> str:
        """What the figures show, and what they do not show."""
        return str(self.manifest["words"])

    def figure(self) -> go.Figure:
        """The first of `figures`.

        Raises:
            ArgumentError: a result that has none.
        """
        if not self.drawn:
            raise ArgumentError("the figure", "a result without figures", "make it again")
        return self.drawn[0]

    def figures(self) -> list[go.Figure]:
        """All of them."""
        return list(self.drawn)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The numbers behind the words."""
        return {"summary": self.to_frame()}

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write the result with its figures as one JSON file, atomically."""
        drawn = [figure.to_json() for figure in self.drawn]
        return Result.save(dataclasses.replace(self, manifest={**self.manifest, "drawn": drawn}), path)

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read back what `save` wrote, figures too.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        result = super().load(path)
        import plotly.io as pio  # heavy: only where figures are read

        try:
            drawn = [pio.from_json(text) for text in result.manifest.pop("drawn", [])]
        except (TypeError, ValueError) as error:
            asked, do = f"read the figures from {path}", "write the file again"
            raise FileError(asked, f"a damaged figure ({type(error).__name__})", do) from None
        return dataclasses.replace(result, drawn=drawn)


def how_made(manifest: Mapping[str, Any]) -> str:
    """How the models were made, and what was read of them."""
    trained = "The control models were given"
    if manifest["trained_controls"]:
        recipe = manifest["recipe"]
        length = f"{recipe['steps']} steps" if recipe["steps"] else f"{recipe['epochs']:g} epochs"
        what = {"full": "the whole model", "ffn": "all FFN neurons", "lora": "LoRA"}
        method = what.get(manifest["method"], f"the neurons of {manifest['method']}")
        trained = f"Control models were trained on one task each ({method}, {length}, learning rate {recipe['lr']:g})"
    held = ", ".join(manifest["held_out"]) or "none"
    where = {"last": "each prompt's last token", "mean": "all tokens of each prompt"}
    at = where.get(manifest["at"], f"token {manifest['at']} of each prompt")
    return (
        f"{trained}; tasks that the multi-task model has not learnt: {held}. Representations are of {at}, on "
        f"{manifest['split']} examples."
    )


def capital(text: str) -> str:
    """The text with a capital first."""
    return text[0].upper() + text[1:]


def left_out(mossa: MossaTable, measure: str) -> list[str]:
    """Which values are missing, as a sentence, where some are."""
    gone = mossa.missing(measure)
    return [f"{gone}; they are in no number here."] if gone else []


def with_model(figure: go.Figure, model: str, what: str = "") -> go.Figure:
    """The figure with its model in the title."""
    title = figure.layout.title.text.removesuffix("</b>")
    return figure.update_layout(title_text=f"{title}{what}: {model} model</b>")


def frame(rows: Any) -> pd.DataFrame:
    """A table of rows or columns."""
    import pandas as pd  # heavy: only for tables

    return pd.DataFrame(rows)


def stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one under another."""
    import pandas as pd  # heavy: only for tables

    return pd.concat(tables, ignore_index=True)
