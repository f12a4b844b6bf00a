"""Correlation: the table, its figure, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroscope import figures
from neuroscope.errors import choose
from neuroscope.figures import style
from neuroscope.results import Result
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PAIRS = "all pairs"
TWO_WAY = "all pairs, source and test task taken out"
SHORT = "<b>source and test<br>task taken out</b>"
SYMBOLS = {"pearson": "r", "spearman": "rho"}
NAMES = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}
Statistic = Literal["pearson", "spearman"]


@dataclass(frozen=True, repr=False)
class Correlation(Result):
    """Correlation of similarity with transfer.

    `table` has a row per test (a test task, over the models; "all pairs"; or "all pairs, source and test task taken
    out": two-way, of the residuals once each source's and each test task's own level is out of both numbers), layer (if
    asked for by layer) and statistic: n, gaps (pairs with a score and no similarity), r in [-1, 1], low and high (95 %;
    NaN where |r| is 1), p (permutation, two-sided), q (Benjamini-Hochberg over test tasks and layers; over layers for
    each view of all pairs), exact (whether all orders were counted), orders (how many), least (the smallest p that any
    order of the same numbers has), and reason (why r, or the interval of all pairs, is NaN; else empty).

    All pairs raw tell how well similarity foretells a score; so do tasks that are like all others and easy for all. The
    two-way view tells whether it does beyond that, by the pair, and is what the words go by.
    """

    def rows(self, statistic: Statistic = "pearson") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The rows of the test tasks, of all pairs, and of all pairs two-way, of one statistic."""
        choose(statistic, SYMBOLS, "statistic")
        own = self.table[self.table["statistic"] == statistic]
        return own[~own["test"].isin([PAIRS, TWO_WAY])], own[own["test"] == PAIRS], own[own["test"] == TWO_WAY]

    def sentences(self, statistic: Statistic = "pearson") -> list[tuple[str, bool]]:
        """What was found, as plain sentences, each with whether it tells a negative."""
        tests, pairs, two_way = self.rows(statistic)
        symbol, made = SYMBOLS[statistic], tests[tests["q"].notna()]
        over_pairs = _layers if self.manifest["by"] == "layer" else _overall
        found = [over_pairs(pairs, two_way, self.manifest, symbol)]
        if len(made):
            found.append(_tests(made, symbol))
        gaps = tests[tests["q"].isna()]
        if len(gaps):
            text = f"{len(gaps)} of {len(tests)} could not be computed ({gaps['reason'].iloc[0]})."
            found.append((text, False))
        left_out = self.manifest["left_out"]
        if left_out:
            of = f"{len(left_out)} of {self.manifest['averaged'] + len(left_out)} layers are in no mean"
            found.append((f"{of}, as some pair has no value there ({_spans(left_out)}).", False))
        return found

    def in_words(self, statistic: Statistic = "pearson") -> str:
        """What was found, as plain sentences; also that nothing was."""
        return " ".join(text for text, _ in self.sentences(statistic))

    def figure(self, statistic: Statistic = "pearson") -> go.Figure:
        """By layer: the correlation over all pairs with its interval; else one row per test task with its interval."""
        tests, pairs, two_way = self.rows(statistic)
        if self.manifest["by"] == "layer":
            return _by_layer(pairs, two_way, statistic, self.manifest)
        rows = [row for part in (tests, pairs, two_way) for row in part.to_dict("records")]
        return _forest(rows, statistic, self.manifest)

    def __repr__(self) -> str:
        return f"Correlation({self.in_words()})"


def _overall(pairs: pd.DataFrame, two_way: pd.DataFrame, manifest: Mapping[str, Any], symbol: str) -> tuple[str, bool]:
    raw, row = pairs.iloc[0], two_way.iloc[0]
    over = f"Over {raw['n']} pairs of {len(manifest['tasks'])} tasks,"
    if not np.isfinite(raw["r"]):
        return f"{over} the correlation is undefined ({raw['reason']}).", True
    beside = f"{_number(raw, symbol)}, p = {raw['p']:.2g} over the tasks' labels"
    if not np.isfinite(row["r"]):
        return f"{over} {beside}; what is due to pairs alone cannot be told ({row['reason']}).", True
    # p decides, as it knows that pairs share tasks; and the two-way one, as tasks that are easy for all are no pairs
    if row["p"] > ALPHA:
        verdict = "similarity does not predict transfer beyond chance"
    else:
        verdict = f"more similar tasks transfer {'better' if row['r'] > 0 else 'worse'}"
    own = f"{_number(row, symbol)}, p = {row['p']:.2g} once source and test task are taken out"
    text = f"{over} {verdict}: {own} (as they are, {beside})."
    if row["p"] <= ALPHA:
        return text, False
    if raw["p"] <= ALPHA:
        text += " Some tasks may be alike to all and easy for all."
    return text + _too_few(two_way, "tasks"), True


def _layers(pairs: pd.DataFrame, two_way: pd.DataFrame, manifest: Mapping[str, Any], symbol: str) -> tuple[str, bool]:
    made = two_way[two_way["q"].notna()]
    if not len(made):
        return f"In no layer could the correlation be computed ({two_way['reason'].iloc[0]}).", True
    best = made.loc[made["p"].idxmin()]  # the first of equals
    most = f"layer {best['layer']}: {_number(best, symbol)}, p = {best['p']:.2g}, q = {best['q']:.2g}"
    found, raw = made[made["q"] <= ALPHA], pairs[pairs["q"] <= ALPHA]["layer"].tolist()
    beside = f" With source and test task left in: {f'layers {_spans(raw)}' if raw else 'none'}."
    if not len(found):
        text = (
            f"No layer's similarity predicts transfer once source and test task are taken out, after correction over "
            f"{len(made)} layers (the nearest is {most})."
        )
        return text + _too_few(made, "tasks") + beside, True
    parts = []
    for sign, how in ((1, "better"), (-1, "worse")):
        layers = found[np.sign(found["r"]) == sign]["layer"].tolist()
        if layers:
            where = f"{'layer' if len(layers) == 1 else 'layers'} {_spans(layers)}"
            parts.append(f"more similar tasks transfer {how} in {where}")
    text = f" ({len(found)} of {len(made)} layers with q <= {ALPHA} once source and test task are taken out; strongest "
    joined = ", and ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}{text}in {most}).{beside}", False


def _tests(made: pd.DataFrame, symbol: str) -> tuple[str, bool]:
    found, by_layer = made[made["q"] <= ALPHA], "layer" in made.columns
    count = made["test"].nunique()
    what = f"{count} test task{'s' if count > 1 else ''}"
    what += f" in {made['layer'].nunique()} layers" if by_layer else ""
    if len(found):
        named = ", ".join(dict.fromkeys(found["test"]))
        of = f"correlations of {what}" if by_layer else "test tasks' correlations"
        return f"{len(found)} of {len(made)} {of} hold after correction ({named}).", False
    best = made.loc[made["p"].idxmin()]
    where = best["test"] + (f", layer {best['layer']}" if by_layer else "")
    text = f"None of {what} holds by itself after correction (smallest q = {made['q'].min():.2g}, {where}: "
    return f"{text}{_number(best, symbol)})." + _too_few(made, "models"), True


def _too_few(made: pd.DataFrame, what: str) -> str:
    """Whether even the strongest correlation of the same numbers in one test could have survived the correction."""
    least = made["least"].min()
    if least * len(made) <= ALPHA:
        return ""
    return f" With so few {what}, p cannot be below {least:.2g}, so that no single test could have."


def _number(row: Mapping[str, Any], symbol: str) -> str:
    has_interval = np.isfinite(row["low"])
    return f"{symbol} = {row['r']:.2f}" + (f" [{row['low']:.2f}, {row['high']:.2f}]" if has_interval else "")


def _spans(layers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _hover(row: Mapping[str, Any], symbol: str) -> str:
    if not np.isfinite(row["r"]):
        return str(row["reason"])
    orders = f"{'all' if row['exact'] else 'drawn'} {row['orders']:,} orders"
    gaps = f" ({row['gaps']} gaps)" if row["gaps"] else ""
    text = f"{_number(row, symbol)}<br>n = {row['n']}{gaps}<br>p = {row['p']:.3g} ({orders})<br>q = {row['q']:.3g}"
    return text + (f"<br>{row['reason']}" if row["reason"] else "")


def _by_layer(pairs: pd.DataFrame, two_way: pd.DataFrame, statistic: str, manifest: Mapping[str, Any]) -> go.Figure:
    rows, layers = two_way.to_dict("records"), two_way["layer"].tolist()
    own, raw = "source and test task taken out", "all pairs as they are"
    figure = figures.curves_with_band(
        {
            own: (layers, (two_way["r"].tolist(), two_way["low"].tolist(), two_way["high"].tolist())),
            raw: (layers, (pairs["r"].tolist(), None, None)),
        },
        title="Similarity and transfer, by layer",
        subtitle=f"over {manifest['pairs']} pairs of {len(manifest['tasks'])} tasks; shaded: 95 %, tasks drawn again; "
        f"large dots: q <= {ALPHA} over the layers",
        x_label="layer",
        y_label=f"{NAMES[statistic]} of similarity and transfer",
        hover={
            name: [_hover(row, SYMBOLS[statistic]) for row in table.to_dict("records")]
            for name, table in ((own, two_way), (raw, pairs))
        },
    )
    beyond = [
        (row["layer"], row["r"], f"layer {row['layer']}<br>{_hover(row, SYMBOLS[statistic])}", style.CATEGORIES[0])
        for row in rows
        if row["q"] <= ALPHA
    ]
    if beyond:
        x, y, hover, colour = zip(*beyond, strict=True)
        figure.add_scatter(
            name=f"q <= {ALPHA}", x=x, y=y, mode="markers", customdata=hover, showlegend=False,
            marker={"color": colour, "size": 11, "line": {"color": "white", "width": 1}},
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": style.INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(range=[-1.05, 1.05])
    return figure


def _forest(rows: list[dict[str, Any]], statistic: str, manifest: Mapping[str, Any]) -> go.Figure:
    """One row per test: a dot with its interval, filled where q holds; what is undefined says so."""
    import plotly.graph_objects as go

    symbol = SYMBOLS[statistic]
    names = [{PAIRS: f"<b>{PAIRS}</b>", TWO_WAY: SHORT}.get(row["test"], row["test"]) for row in rows]
    kinds = (
        (f"q <= {ALPHA}", style.CATEGORIES[0], "circle", [i for i, row in enumerate(rows) if row["q"] <= ALPHA]),
        ("not beyond chance", "#7b8794", "circle-open", [i for i, row in enumerate(rows) if row["q"] > ALPHA]),
    )
    traces = []
    for kind, colour, shape, chosen in kinds:
        r, low, high = ([rows[i][c] for i in chosen] for c in ("r", "low", "high"))
        traces.append(
            go.Scatter(
                name=kind,
                x=r,
                y=[names[i] for i in chosen],
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": shape, "line": {"width": 2, "color": colour}},
                error_x=style.error_bar(r, low, high, colour=colour, band=False),
                customdata=[f"<b>{rows[i]['test']}</b><br>{_hover(rows[i], symbol)}" for i in chosen],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    made = sum(bool(np.isfinite(row["q"])) for row in rows if row["test"] not in (PAIRS, TWO_WAY))
    subtitle = f"similarity against transfer, 95 % intervals; q over {made} test tasks"
    figure = style.house_figure(traces, "Does similarity predict transfer?", subtitle, height=170 + 34 * len(rows))
    for name, row in zip(names, rows, strict=True):
        if not np.isfinite(row["r"]):
            figure.add_annotation(
                x=0, y=name, text=row["reason"], showarrow=False, bgcolor="white", font={"color": "#7b8794"}
            )
    figure.add_vline(x=0, line={"color": style.INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-1.05, 1.05], title_text=NAMES[statistic])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], type="category")
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    return figure
