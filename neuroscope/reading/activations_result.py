"""What was read: a row per token, a column per neuron; the tables, figures and matrices that are made of it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroscope import figures, files
from neuroscope.checks import public, whole
from neuroscope.errors import ArgumentError, choose
from neuroscope.markup import NEGATIVE
from neuroscope.reading.packing import packed, unpacked
from neuroscope.results import Result, content_of, damaged, refuse_other_formats
from neuroscope.tasks import Tasks, tasks_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = ("task", "text", "position", "part", "token", "id")  # of every token, before the neurons'
FEW = 48  # tokens that a figure has room for
MOST = 40  # neurons that a figure has room for
BINS = 40
Text = tuple[str, str, Sequence[str]]  # prompt, answer, tokens
Pool = Literal["mean", "last", "max", "none"]


@dataclass(frozen=True, repr=False)
class Activations(Result):
    """Neurons' activations: a row per token, a column per neuron.

    Attributes:
        table: task, text (its place in the task), position (0 is the row's first token), part ("prompt", "answer" or
            "decoder"), token, id; and for every neuron, such as "11.1229", its activation. NaN where the neuron does
            not see the token: an expert's of a token that is routed elsewhere, and of an encoder-decoder model the
            neurons of the other stack.
        texts: task -> (prompt, answer, tokens) of every text: the answer is empty where there is none; the tokens are
            all that the model (of an encoder-decoder model: its encoder) was shown.
        first: neuron -> the share of its absolute activation that is on first tokens, over all tokens of the texts,
            whichever of them were read.
    """

    texts: Mapping[str, Sequence[Text]] = field(default_factory=dict)
    first: Mapping[str, float] = field(default_factory=dict)

    title = "Activations of neurons"
    captions: ClassVar[Mapping[str, str]] = {"neurons": "Every neuron", "top": "Where neurons are most active"}

    @property
    def neurons(self) -> list[str]:
        """The neurons' names, in forward order."""
        return [name for name in self.table.columns if name not in COLUMNS]

    @property
    def values(self) -> Float[np.ndarray, "token neuron"]:
        """The activations alone."""
        return np.array(self.table[self.neurons], dtype=np.float32)

    @property
    def sinks(self) -> list[str]:
        """Neurons that are active at the first token of a text, whatever it says (`reading.sinks` has the rule)."""
        return list(self.manifest.get("sinks", ()))

    def summary(self) -> pd.DataFrame:
        """A row per neuron: tokens that it saw, mean, sd, least, greatest, density, first_share, sink.

        `density` is the share of its tokens at which it is above 0. Missing values are left out, and counted out.
        """
        import pandas as pd  # heavy: only for tables

        x = self.values.astype(np.float64)
        seen = ~np.isnan(x)
        n = seen.sum(0)
        filled = np.where(seen, x, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = filled.sum(0) / n
            spread = np.sqrt(np.where(seen, (x - mean) ** 2, 0.0).sum(0) / n)
            density = (filled > 0).sum(0) / n
        ends = {name: f(np.where(seen, x, worst), axis=0) for name, f, worst in _ENDS}
        columns = {"tokens": n, "mean": mean, "sd": spread}
        columns |= {name: np.where(n > 0, values, np.nan) for name, values in ends.items()}
        share = np.array([self.first.get(name, np.nan) for name in self.neurons])
        columns |= {"density": density, "first_share": share, "sink": [name in self.sinks for name in self.neurons]}
        return pd.DataFrame({"neuron": self.neurons, **columns})

    @public
    def top(self, count: int = 20) -> pd.DataFrame:
        """Where each neuron is most active, in both directions, one token of each text.

        Args:
            count: at most how many texts of each neuron and sign.

        Returns:
            A row per neuron, sign and rank: neuron, sign, rank (0 is the most extreme), value, task, text, position,
            token, context (the text around the token, which stands in « »). Positive values alone count for "+",
            negative ones for "-"; of equal values the first.
        """
        import pandas as pd  # heavy: only for tables

        count = whole(count, "count", 1)
        x, owners, token = self.values, self._owners(), self.table
        rows = []
        for name, column in zip(self.neurons, x.T, strict=True):
            for sign, signed in (("+", column), ("-", -column)):
                for rank, row in enumerate(_one_per_text(signed, owners, count)):
                    where = {c: token[c].iat[row] for c in ("task", "text", "position", "token")}
                    about = {"neuron": name, "sign": sign, "rank": rank, "value": float(column[row])}
                    rows.append({**about, **where, "row": row})
        columns = ["neuron", "sign", "rank", "value", "task", "text", "position", "token"]
        frame = pd.DataFrame(rows, columns=[*columns, "row"])
        frame["context"] = [self._context(int(row)) for row in frame["row"]]
        return frame.drop(columns="row")

    def by_token(self) -> pd.DataFrame:
        """A row per neuron and distinct token: neuron, token, count, mean, min and max; by falling mean."""
        import pandas as pd  # heavy: only for tables

        grouped = self.table.groupby("token", sort=False)[self.neurons]
        wide = {name: getattr(grouped, name)() for name in ("count", "mean", "min", "max")}
        tokens = wide["mean"].index.to_numpy()
        columns = {name: frame.to_numpy().T.ravel() for name, frame in wide.items()}
        order = np.repeat(np.arange(len(self.neurons)), len(tokens))
        names = {"neuron": np.array(self.neurons)[order], "token": np.tile(tokens, len(self.neurons))}
        frame = pd.DataFrame({**names, **columns})
        frame = frame[frame["count"] > 0].assign(order=order[frame["count"] > 0])
        frame = frame.sort_values(["order", "mean"], ascending=[True, False], kind="stable")
        return pd.DataFrame(frame.drop(columns="order").reset_index(drop=True))

    @public
    def histogram(self, tasks: Tasks | Sequence[str] | None = None, *, neuron: str | None = None) -> go.Figure:
        """How often one neuron has which activation, a curve for each task.

        Args:
            tasks: those to show, as Tasks or by name; None: all.
            neuron: which; None: the one with the greatest absolute activation.

        Raises:
            ArgumentError: a task or a neuron that was not read.
        """
        known = list(dict.fromkeys(self.table["task"]))
        names = known if tasks is None else [choose(name, known, "task of tasks") for name in _names(tasks)]
        if neuron is None:
            neuron = self.neurons[int(np.nan_to_num(np.abs(self.values)).max(0, initial=0).argmax())]
        chosen = self.table[["task", choose(neuron, self.neurons, "neuron")]].dropna()
        edges = np.histogram_bin_edges(chosen[neuron], BINS)
        middle = ((edges[1:] + edges[:-1]) / 2).tolist()
        curves = {}
        for name in names:
            counts = np.histogram(chosen.loc[chosen["task"] == name, neuron], edges)[0]
            curves[name] = (middle, ((100 * counts / max(1, counts.sum())).tolist(), None, None))
        return figures.curves_with_band(
            curves,
            title=f"Activation of neuron {html.escape(neuron)}",
            subtitle=f"share of each task's tokens in {BINS} bins",
            x_label="activation",
            y_label="% of tokens",
            within=(0.0, 100.0),
        )

    @public
    def to_probe(
        self, positive: str, *, by: Literal["label", "task"] = "label", pool: Pool = "mean"
    ) -> dict[str, Tensor]:
        """The matrix, labels and groups that TransformerLens' sparse probes take, as keywords.

        `transformer_lens.tools.analysis.fit_sparse_probe(**acts.to_probe("yes"), k=5)`; feature i is `acts.neurons[i]`.

        Args:
            positive: the answer, or the name of the task, whose texts are the positive class; all others are negative.
            by: whether that is a "label" (answer) or a "task".
            pool: what a text is told by: the "mean" or "max" of its tokens that were read, or the "last" of them;
                "none" gives every token as an example of its own.

        Returns:
            features [example, neuron] float32, labels [example] of flags, groups [example]: equal prompts share one, so
            that a probe is never tested on a prompt that it was trained on.

        Raises:
            ArgumentError: no such label or task, nothing beside it, or values that are missing.
        """
        x = torch.from_numpy(self.values)
        if bool(torch.isnan(x).any()):
            found = f"{int(torch.isnan(x).sum())} missing values, of neurons that do not see every token"
            raise ArgumentError("to_probe", found, "read other neurons (not of experts, or of a second stack)")
        owners = torch.from_numpy(self._owners())
        texts = [(task, answer, prompt) for task, told in self.texts.items() for prompt, answer, _ in told]
        told = [answer if by == "label" else task for task, answer, _ in texts]
        choose(positive, list(dict.fromkeys(told)), f"{by} (positive)")
        if len(set(told)) < 2:
            raise ArgumentError(f"to_probe(positive={positive!r})", f"no other {by}", "read texts of two kinds")
        is_positive = torch.tensor([name == positive for name in told])
        prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for *_, prompt in texts))}
        groups = torch.tensor([prompts[prompt] for *_, prompt in texts])
        if pool == "none":
            return {"features": x, "labels": is_positive[owners], "groups": groups[owners]}
        known, lengths = torch.unique_consecutive(owners, return_counts=True)
        pools = {"mean": lambda part: part.mean(0), "max": lambda part: part.amax(0), "last": lambda part: part[-1]}
        pooled = torch.stack([pools[pool](part) for part in x.split(lengths.tolist())])
        return {"features": pooled, "labels": is_positive[known], "groups": groups[known]}

    def in_words(self) -> str:
        """How much was read, where the strongest activation is, and which neurons are sinks."""
        x, names = self.values, self.neurons
        texts = len(np.unique(self._owners()))
        said = f"{len(names):,} neuron(s) were read at {len(x):,} tokens of {texts:,} text(s)"
        if np.isnan(x).all():
            return f"{NEGATIVE}: {said}, and none of them sees any of the tokens."
        row, column = np.unravel_index(int(np.nanargmax(np.abs(x))), x.shape)
        where = f"at {self.table['token'].iat[row]!r} in {self._context(int(row))!r}"
        lines = [f"{said}; the strongest activation is **{x[row, column]:.3g}**, of **{names[column]}** {where}.", ""]
        sinks = self.sinks
        advice = "" if self.manifest.get("skip_first") else " `skip_first=True` leaves that token out."
        if sinks:
            shown = ", ".join(sinks[:8]) + (f" and {len(sinks) - 8} more" if len(sinks) > 8 else "")
            lines.append(
                f"- **Sinks**: {len(sinks)} of them have most of their absolute activation on the first token of a "
                f"text, whatever it says: {shown}.{advice}"
            )
        if unknown := self.manifest.get("unknown"):
            lines.append(
                f"- **{unknown['count']:,}** of the texts' tokens are words that the tokenizer does not know, shown as "
                f"{unknown['token']}: what is read there is of no word in particular."
            )
        missing = int(np.isnan(x).sum())
        if missing:
            lines.append(f"- {missing:,} of {x.size:,} values are missing: the neuron does not see that token.")
        return "\n".join(lines)

    def figure(self) -> go.Figure:
        """Of few tokens, every token's activations; else the mean over each task's tokens, of the strongest neurons."""
        x, names = self.values, self.neurons
        strength = np.nan_to_num(np.abs(x)).max(0, initial=0)
        kept = np.sort(np.argsort(-strength, kind="stable")[:MOST])
        shown, strongest = [names[i] for i in kept], f"; the strongest {MOST}" if len(names) > MOST else ""
        if len(x) <= FEW:
            columns = [f"{i + 1} {token}" for i, token in enumerate(self.table["token"])]
            table, over = x[:, kept].T, "token by token"
        else:
            tasks = list(dict.fromkeys(self.table["task"]))
            parts = [x[(self.table["task"] == task).to_numpy()][:, kept] for task in tasks]
            columns, over = [*tasks], "mean over the tokens of each task"
            table = np.stack([_mean(part) for part in parts], axis=1)
        return figures.heatmap(
            table,
            [html.escape(column) for column in columns],
            shown,
            title="Activations of neurons",
            subtitle=over + strongest + "; grey: the neuron does not see the token" * bool(np.isnan(table).any()),
            colour_label="activation",
            y_label="neuron",
            scale="diverging",
            text=None if len(columns) <= 8 else np.full(table.shape, "").tolist(),
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every neuron, and where each is most active."""
        return {"neurons": self.summary(), "top": self.top(3)}

    def __repr__(self) -> str:
        texts = len(np.unique(self._owners()))
        return f"Activations({len(self.neurons):,} neurons at {len(self.table):,} tokens of {texts:,} texts)"

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write one JSON file, atomically. Activations keep every bit.

        Raises:
            FileError: a name that says another format, such as a table's or a page's.
        """
        refuse_other_formats(path)
        about = self.table[[c for c in COLUMNS if c in self.table]]
        content = {"format": files.FORMAT, "kind": type(self).__name__, "module": type(self).__module__}
        content |= {"manifest": self.manifest, "texts": {k: list(map(list, v)) for k, v in self.texts.items()}}
        content |= {"tokens": {name: about[name].tolist() for name in about}}
        content |= {"neurons": self.neurons, "values": packed(self.values), "first": dict(self.first)}
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
            about = pd.DataFrame(content["tokens"])
            values = pd.DataFrame(unpacked(content["values"]), columns=content["neurons"])
            texts = {task: [(p, a, tuple(t)) for p, a, t in told] for task, told in content["texts"].items()}
            return cls(pd.concat([about, values], axis=1), dict(content["manifest"]), texts, dict(content["first"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, cls.__name__, error) from None

    def _owners(self) -> Int[np.ndarray, " token"]:
        """The text of every token, counted over all tasks."""
        starts, n = {}, 0
        for task in dict.fromkeys([*self.texts, *self.table["task"]]):
            starts[task] = n
            n += len(self.texts.get(task, ())) or int(self.table.loc[self.table["task"] == task, "text"].max()) + 1
        return np.array(self.table["task"].map(starts) + self.table["text"], dtype=np.int64)

    def _context(self, row: int) -> str:
        """The text around a token that was read, which stands in « »."""
        about = self.table[["task", "text", "position", "part", "token"]]
        here = about.iloc[row]
        texts = self.texts.get(here["task"], ())
        if here["part"] == "decoder" or here["text"] >= len(texts):
            return f"«{here['token']}»"
        return marked(texts[here["text"]][2], int(here["position"]))


def marked(words: Sequence[str], place: int, around: int = 8) -> str:
    """The text around one of its tokens, which stands in « »: words of a tokenizer without spaces are set apart.

    Example:
        >>> marked(["the", "food", "was", "good"], 1), marked(["the", " food", " was"], 1)
        ('the «food» was good', 'the« food» was')
    """
    apart = not any(word[:1].isspace() for word in words[1:])
    start, stop = max(0, place - around), place + around + 1
    near = [f"«{word}»" if i == place else word for i, word in enumerate(words[:stop])][start:]
    dots = ["…"] * (start > 0), ["…"] * (stop < len(words))
    return (" " if apart else "").join([*dots[0], *near, *dots[1]])


_ENDS: tuple[tuple[str, Any, float], ...] = (("min", np.min, np.inf), ("max", np.max, -np.inf))


def _mean(part: Float[np.ndarray, "token neuron"]) -> Float[np.ndarray, " neuron"]:
    seen: Bool[np.ndarray, "token neuron"] = ~np.isnan(part)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seen, part, 0.0).sum(0, dtype=np.float64) / seen.sum(0)


def _one_per_text(signed: Float[np.ndarray, " token"], owners: Int[np.ndarray, " token"], count: int) -> list[int]:
    """Rows of the greatest values above 0, one of each text."""
    rows = np.flatnonzero(np.nan_to_num(signed, nan=0.0) > 0)
    order = rows[np.argsort(-signed[rows], kind="stable")]
    _, first = np.unique(owners[order], return_index=True)
    return order[np.sort(first)][:count].tolist()


def _names(tasks: Any) -> list[str]:
    if isinstance(tasks, Sequence) and not isinstance(tasks, str) and all(isinstance(one, str) for one in tasks):
        return list(tasks)
    return [tasks] if isinstance(tasks, str) else list(tasks_of(tasks, "histogram"))
