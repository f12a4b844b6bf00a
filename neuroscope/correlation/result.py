"""Correlation: the table, its figure, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroscope import figures, style
from neuroscope.errors import choose
from neuroscope.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PAIRS = "all pairs"
ALPHA = 0.05
SYMBOLS = {"pearson": "r", "spearman": "rho"}
NAMES = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}
Statistic = Literal["pearson", "spearman"]


@dataclass(frozen=True, repr=False)
class Correlation(Result):
    """Correlation of similarity with transfer.

    `table` has a row per test (a test task, over the models; or "all pairs"), layer (if asked for by layer) and
    statistic: n, gaps (pairs with a score and no similarity), r in [-1, 1], low and high (95 %; NaN where |r| is 1),
    p (permutation, two-sided), q (Benjamini-Hochberg over test tasks and layers; over layers for all pairs), exact
    (whether all orders were counted), orders (how many), and reason (why r is NaN, else empty).
    """

    def rows(self, statistic: Statistic = "pearson") -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of the test tasks, and those of all pairs, of one statistic."""
        choose(statistic, SYMBOLS, "statistic")
        own = self.table[self.table["statistic"] == statistic]
        return own[own["test"] != PAIRS], own[own["test"] == PAIRS]

    def in_words(self, statistic: Statistic = "pearson") -> str:
        """What was found, as plain sentences; also that nothing was."""
        tests, pairs = self.rows(statistic)
        symbol = SYMBOLS[statistic]
        sentences = [
            _layers(pairs, symbol) if self.manifest["by"] == "layer" else _overall(pairs, self.manifest, symbol)
        ]
        made = tests[tests["q"].notna()]
        if len(made):
            sentences.append(_tests(made, symbol))
        gaps = len(tests) - len(made)
        if gaps:
            sentences.append(
                f"{gaps} of {len(tests)} could not be computed ({tests[tests['q'].isna()]['reason'].iloc[0]})."
            )
        return " ".join(sentences)

    def figure(self, statistic: Statistic = "pearson") -> go.Figure:
        """By layer: the correlation over all pairs with its interval; else one row per test task with its interval."""
        tests, pairs = self.rows(statistic)
        if self.manifest["by"] == "layer":
            return _by_layer(pairs, statistic, self.manifest)
        return _forest([*tests.to_dict("records"), *pairs.to_dict("records")], statistic, self.manifest)

    def __repr__(self) -> str:
        return f"Correlation({self.in_words()})"


def _overall(pairs: pd.DataFrame, manifest: Mapping[str, Any], symbol: str) -> str:
    row = pairs.iloc[0]
    over = f"Over {row['n']} pairs of {len(manifest['tasks'])} tasks,"
    if not np.isfinite(row["r"]):
        return f"{over} the correlation is undefined ({row['reason']})."
    # p decides, as it knows that pairs share tasks
    if row["p"] > ALPHA:
        verdict = "similarity does not predict transfer beyond chance"
    else:
        verdict = f"more similar tasks transfer {'better' if row['r'] > 0 else 'worse'}"
    return f"{over} {verdict}: {_number(row, symbol)}, p = {row['p']:.2g} over the tasks' labels."


def _layers(pairs: pd.DataFrame, symbol: str) -> str:
    made = pairs[pairs["q"].notna()]
    if not len(made):
        return f"In no layer could the correlation be computed ({pairs['reason'].iloc[0]})."
    best = made.loc[made["p"].idxmin()]  # the first of equals
    most = f"layer {best['layer']}: {_number(best, symbol)}, p = {best['p']:.2g}, q = {best['q']:.2g}"
    found = made[made["q"] <= ALPHA]
    if not len(found):
        text = (
            f"No layer's similarity predicts transfer after correction over {len(made)} layers (the nearest is {most})."
        )
        return text + _too_few(made, "tasks")
    parts = []
    for sign, how in ((1, "better"), (-1, "worse")):
        layers = found[np.sign(found["r"]) == sign]["layer"].tolist()
        if layers:
            where = f"{'layer' if len(layers) == 1 else 'layers'} {_spans(layers)}"
            parts.append(f"more similar tasks transfer {how} in {where}")
    text = f" ({len(found)} of {len(made)} layers with q <= {ALPHA}; strongest in {most})."
    joined = ", and ".join(parts)
    return joined[0].upper() + joined[1:] + text


def _tests(made: pd.DataFrame, symbol: str) -> str:
    found, by_layer = made[made["q"] <= ALPHA], "layer" in made.columns
    count = made["test"].nunique()
    what = f"{count} test task{'s' if count > 1 else ''}"
    what += f" in {made['layer'].nunique()} layers" if by_layer else ""
    if len(found):
        named = ", ".join(dict.fromkeys(found["test"]))
        of = f"correlations of {what}" if by_layer else "test tasks' correlations"
        return f"{len(found)} of {len(made)} {of} hold after correction ({named})."
    best = made.loc[made["p"].idxmin()]
    where = best["test"] + (f", layer {best['layer']}" if by_layer else "")
    text = f"None of {what} holds by itself after correction (smallest q = {made['q'].min():.2g}, {where}: "
    return f"{text}{_number(best, symbol)})." + _too_few(made, "models")


def _too_few(made: pd.DataFrame, what: str) -> str:
    """Whether even a perfect correlation in one test could have survived the correction."""
    least = (1 / made["orders"]).min()
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
    return f"{_number(row, symbol)}<br>n = {row['n']}{gaps}<br>p = {row['p']:.3g} ({orders})<br>q = {row['q']:.3g}"


def _by_layer(pairs: pd.DataFrame, statistic: str, manifest: Mapping[str, Any]) -> go.Figure:
    label, rows = NAMES[statistic], pairs.to_dict("records")
    figure = figures.curves_with_band(
        {label: (pairs["layer"].tolist(), (pairs["r"].tolist(), pairs["low"].tolist(), pairs["high"].tolist()))},
        title="Where similarity predicts transfer",
        subtitle=f"over {manifest['pairs']} pairs of {len(manifest['tasks'])} tasks; shaded: 95 %, tasks drawn again; "
        f"orange: q <= {ALPHA} over the layers",
        x_label="layer",
        y_label=f"{label} of similarity and transfer",
        hover={label: [_hover(row, SYMBOLS[statistic]) for row in rows]},
    )
    beyond = [
        (row["layer"], row["r"], f"layer {row['layer']}<br>{_hover(row, SYMBOLS[statistic])}", style.CATEGORIES[1])
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
    names = [f"<b>{row['test']}</b>" if row["test"] == PAIRS else row["test"] for row in rows]
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
    made = sum(bool(np.isfinite(row["q"])) for row in rows) - int(np.isfinite(rows[-1]["q"]))
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
