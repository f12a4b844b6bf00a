"""Statistics of every neuron over a corpus, and the texts at which each is most active."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from neuroscope import figures, files
from neuroscope.checks import public, whole
from neuroscope.errors import ArgumentError
from neuroscope.markup import NEGATIVE
from neuroscope.reading.activations_result import marked
from neuroscope.reading.packing import packed, unpacked
from neuroscope.reading.prompts import DECODER
from neuroscope.results import Result, content_of, damaged, refuse_other_formats

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SIGNS = ("+", "-")
SHOWN = 8  # sinks that words name


@dataclass(frozen=True)
class ReadText:
    """A text that some neuron is most active at: its source, its place there, what it says and its tokens.

    Attributes:
        decoder: of an encoder-decoder model, the tokens that its decoder reads.
    """

    task: str
    text: int
    prompt: str
    tokens: Sequence[str]
    decoder: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Extremes:
    """The largest and smallest activations of every neuron, one of each text.

    Attributes:
        value: [sign, rank, neuron] activations; NaN where there are no more.
        text: [sign, rank, neuron] the number of the text.
        position: [sign, rank, neuron] of the token in the text.
    """

    value: Float[np.ndarray, "2 count neuron"]
    text: Int[np.ndarray, "2 count neuron"]
    position: Int[np.ndarray, "2 count neuron"]


NOTHING = np.zeros((2, 0, 0))


@dataclass(frozen=True, repr=False)
class NeuronStatistics(Result):
    """Every neuron of a model over a corpus: a row per neuron.

    Attributes:
        table: name ("11.1229"), address, layer, neuron; tokens (that it saw), mean, sd (NaN where it is
            below 0.3 % of the mean: rounding), min, max; density (the share of its tokens at which it is above 0);
            quantiles (q01 ... q99), of a sample of the tokens; first_share (the share of its absolute activation that
            is on first tokens), sink (whether it is active there whatever the text says: `reading.sinks` has the
            rule); and of several sources or tasks the mean of each, such as "mean nli-food".
        extremes: where each neuron is most active.
        texts: number -> the text, of all that `extremes` refer to.
    """

    extremes: Extremes = field(default_factory=lambda: Extremes(NOTHING, NOTHING, NOTHING))
    texts: Mapping[int, ReadText] = field(default_factory=dict)

    title = "Neurons over a corpus"
    captions: ClassVar[Mapping[str, str]] = {"sinks": "Sinks", "layers": "Every layer"}

    @property
    def sinks(self) -> list[str]:
        """Neurons that are active at the first token of a text, whatever it says (`reading.sinks` has the rule)."""
        return self.table.loc[self.table["sink"], "name"].tolist()

    @public
    def top(self, neurons: str | Sequence[str], count: int | None = None) -> pd.DataFrame:
        """The texts at which neurons are most active, in both directions, one token of each text.

        Args:
            neurons: their names, such as "11.1229".
            count: at most how many texts of each neuron and sign; None: all that were kept.

        Returns:
            A row per neuron, sign and rank: neuron, sign, rank (0 is the most extreme), value, task, text, position,
            token, context. Positive values alone count for "+", negative ones for "-"; of equal values any may be kept.

        Raises:
            ArgumentError: a name of no neuron; the nearest are named.
        """
        import pandas as pd  # heavy: only for tables

        kept = self.extremes.value.shape[1]
        count = kept if count is None else min(kept, whole(count, "count", 1))
        place = {name: i for i, name in enumerate(self.table["name"])}
        rows = []
        for name in [neurons] if isinstance(neurons, str) else neurons:
            if name not in place:
                near = sorted(place, key=lambda other: _distance(name, other))[:3]
                raise ArgumentError(f"neurons={name!r}", "no such neuron", f"the nearest: {', '.join(near)}")
            for s, sign in enumerate(SIGNS):
                for rank in range(count):
                    i = (s, rank, place[name])
                    value = float(self.extremes.value[i])
                    if value > 0 if sign == "+" else value < 0:
                        rows.append({"neuron": name, "sign": sign, "rank": rank, "value": value, **self._place(i)})
        columns = ["neuron", "sign", "rank", "value", "task", "text", "position", "token", "context"]
        return pd.DataFrame(rows, columns=columns)

    def _place(self, i: tuple[int, int, int]) -> dict[str, Any]:
        found, position = self.texts[int(self.extremes.text[i])], int(self.extremes.position[i])
        about = {"task": found.task, "text": found.text, "position": position}
        tokens = found.decoder if self.table["address"].iat[i[2]].startswith(DECODER) else found.tokens
        return {**about, "token": tokens[position], "context": marked(tokens, position)}

    def layers(self) -> pd.DataFrame:
        """A row per layer: neurons, the quartiles of their density, how many are sinks, and how many never above 0."""
        grouped = self.table.groupby("layer")
        quartiles = {f"density_{q}": grouped["density"].quantile(q / 100) for q in (25, 50, 75)}
        counts = {"neurons": grouped.size(), "sinks": grouped["sink"].sum()}
        counts["never_positive"] = (self.table["density"] == 0).groupby(self.table["layer"]).sum()
        frame = counts["neurons"].to_frame("neurons").assign(**quartiles)
        return frame.assign(sinks=counts["sinks"], never_positive=counts["never_positive"]).reset_index()

    def in_words(self) -> str:
        """How much was read; which neurons are sinks; what was left out of the corpus."""
        about, sinks = self.manifest, self.sinks
        said = f"{len(self.table):,} neurons were read at {about['tokens']:,} tokens of {about['texts']:,} texts"
        none = int((self.table["tokens"] == 0).sum())
        lines = [
            f"{said}; half of them are above 0 at {self.table['density'].median():.0%} of the tokens or fewer.",
            "",
        ]
        if sinks:
            shown = ", ".join(sinks[:SHOWN]) + (f" and {len(sinks) - SHOWN} more" if len(sinks) > SHOWN else "")
            advice = "" if about.get("skip_first") else " `skip_first=True` leaves that token out."
            lines.append(
                f"- **Sinks**: {len(sinks):,} have most of their absolute activation on the first token of a text, "
                f"whatever it says: {shown}.{advice}"
            )
        if none:
            lines.append(f"- {NEGATIVE}: {none:,} neurons saw no token, and have no numbers.")
        for name, broken in about.get("broken", {}).items():
            lines.append(
                f"- {NEGATIVE}: {broken['count']:,} lines of {name} are no texts: {'; '.join(broken['first'])}."
            )
        if about.get("cut"):
            lines.append(f"- {about['cut']:,} texts are longer than the model's context, and were cut at their end.")
        if about.get("empty"):
            lines.append(f"- {NEGATIVE}: {about['empty']:,} texts have no tokens, and were left out.")
        sample = about["sample"]
        if sample < about["tokens"]:
            lines.append(f"- Quantiles are of {sample:,} tokens, drawn evenly from all; the rest is of every token.")
        return "\n".join(lines)

    def figure(self) -> go.Figure:
        """How often neurons are above 0, by layer: the median and the quartiles over a layer's neurons."""
        layers = self.layers()
        low, median, high = ((100 * layers[f"density_{q}"]).tolist() for q in (25, 50, 75))
        hover = [
            f"{row.neurons:,} neurons, {row.sinks} sinks, {row.never_positive} never above 0"
            for row in layers.itertuples()
        ]
        return figures.curves_with_band(
            {"neurons": (layers["layer"].tolist(), (median, low, high))},
            title="How often neurons are above 0",
            subtitle="median and quartiles over the neurons of each layer",
            x_label="layer",
            y_label="% of tokens",
            hover={"neurons": hover},
            within=(0.0, 100.0),
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every layer, and the sinks."""
        return {"layers": self.layers(), "sinks": self.table[self.table["sink"]].reset_index(drop=True)}

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write one JSON file, atomically. Numbers keep every bit.

        Raises:
            FileError: a name that says another format, such as a table's or a page's.
        """
        refuse_other_formats(path)
        content = {"format": files.FORMAT, "kind": type(self).__name__, "module": type(self).__module__}
        content |= {"manifest": self.manifest, "table": {name: _written(self.table[name]) for name in self.table}}
        content["extremes"] = {name: packed(array) for name, array in vars(self.extremes).items()}
        content["texts"] = {
            str(i): [t.task, t.text, t.prompt, list(t.tokens), list(t.decoder)] for i, t in self.texts.items()
        }
        return files.write(path, json.dumps(content))

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read back what `save` wrote.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        import pandas as pd  # heavy: only where a table is read

        content = content_of(path, cls.__name__)
        try:
            read = {name: unpacked(v) if isinstance(v, dict) else v for name, v in content["table"].items()}
            extremes = Extremes(**{name: unpacked(values) for name, values in content["extremes"].items()})
            texts = {int(i): ReadText(*told[:3], *map(tuple, told[3:])) for i, told in content["texts"].items()}
            return cls(pd.DataFrame(read), dict(content["manifest"]), extremes, texts)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, cls.__name__, error) from None

    def __repr__(self) -> str:
        about = self.manifest
        return f"NeuronStatistics({len(self.table):,} neurons at {about.get('tokens', 0):,} tokens)"


def _written(column: pd.Series) -> Any:
    return column.tolist() if column.dtype == object or column.dtype.kind == "O" else packed(column.to_numpy())


def _distance(name: object, other: str) -> tuple[float, float]:
    """How far two names are apart: in layers, then in neurons."""
    try:
        (layer, neuron), (at, index) = (str(one).rsplit(".", 1) for one in (name, other))
        return abs(float(layer) - float(at)), abs(float(neuron) - float(index))
    except ValueError:
        return 0.0, float(str(name) not in other)
