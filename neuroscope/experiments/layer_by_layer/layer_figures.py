"""What each figure of ZZC24 shows of a finished `mossa`: sentences, figures, and the numbers behind them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope import figures
from neuroscope.comparison.segmentation import ZZC24
from neuroscope.errors import ArgumentError
from neuroscope.experiments.layer_by_layer.chance import (
    DRAWS,
    NEAREST,
    PER_TASK,
    SHUFFLED,
    choices,
    groupings,
    neighbours,
    orders,
    shuffled_dimensions,
    spread,
    too_few,
)
from neuroscope.experiments.layer_by_layer.mossa_result import ALL, MULTI, PRE
from neuroscope.experiments.layer_by_layer.mossa_run import Mossa
from neuroscope.experiments.layer_by_layer.words import at_the_floor, complete
from neuroscope.statistics import ALPHA, benjamini_hochberg, paired_permutation, permutation_p

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Made = tuple[list[str], list[Any], Any, dict[str, Any]]  # sentences, figures, table, for the manifest
FLAT = 0.02  # of CKA: medians that differ by less are called flat
NEGATIVE = "**A negative**: "


def learnt(found: Mossa) -> Mossa:
    """The same without the tasks held out."""
    out = set(found.manifest["held_out"])
    families = {t: f for t, f in found.manifest["families"].items() if t not in out}
    table = found.table[~found.table["task"].isin(out)].reset_index(drop=True)
    return dataclasses.replace(found, table=table, manifest=found.manifest | {"families": families})


def _segments(found: Mossa, seed: int) -> Made:
    found = learnt(found)
    sentences, drawn, tables = [], [], []
    for model in found.models:
        layers = int(found.values("cka", model).drop(columns=0).notna().all().sum())
        if layers < 3:
            raise ArgumentError(
                "Z-F1, the layers in segments",
                f"{layers} layers with a value beside the embedding",
                "give a deeper model",
            )
        cut = found.segments(model, seed=seed)
        said = f"{model[0].upper()}{model[1:]} model: {cut.sentence()[0].lower()}{cut.sentence()[1:]}"
        if cut.clear:
            sentences.append(said)
            if tuple(cut.table["name"]) != ZZC24:
                sentences.append(
                    f"{NEGATIVE}shared, transition and refinement layers, three segments each below the one before, "
                    f"are not established in the {model} model."
                )
        else:
            few = (
                f" {layers} layers have only {math.factorial(layers)} orders, and were looked at for one boundary: "
                "that none is clear says little of a deeper model."
            )
            sentences.append(NEGATIVE + said + (few if cut.manifest["boundaries"] == 1 else ""))
        drawn.append(_named(cut.figure(), model))
        tables.append(cut.to_frame().assign(model=model, clear=cut.clear, p_cut=cut.manifest["p"]))
    return sentences, drawn, _stacked(tables), {}


def _boxes(found: Mossa, seed: int) -> Made:
    found = learnt(found)
    sentences = [found.sentence("Z-F2"), *_flat(found)]
    wide = _means(found)
    if MULTI in wide and len(wide):
        taught, nearer = "having learnt the tasks together", "the multi-task model nearer to those tuned on one task"
        if paired_permutation(wide[MULTI].to_numpy(), wide[PRE].to_numpy()) >= ALPHA:
            sentences.append(f"{NEGATIVE}it is not shown that {taught} brought {nearer}.")
        elif (wide[MULTI] - wide[PRE]).mean() <= 0:
            sentences.append(f"{NEGATIVE}{taught} did not bring {nearer}.")
    rows = found.table[(found.table["measure"] == "cka") & found.table["value"].notna()]
    inside = rows[rows["q"] > ALPHA]
    if len(inside):
        null = found.manifest["null"]
        count = at_the_floor(rows, null)
        few = f", {count} of them though none of the {null} permutations reached them" if count else ""
        sentences.append(
            f"{NEGATIVE}{len(inside)} of {len(rows)} values are not shown to be beyond chance (q > {ALPHA}){few}."
        )
    columns = {"median": "median", "lowest": "min", "highest": "max"}
    table = rows.groupby(["model", "layer"], sort=False)["value"].agg(**columns)
    band = rows.groupby(["model", "layer"], sort=False)[["low", "high"]].mean()
    near = found.figure(band=False)  # beside chance near 0 the boxes are lines, where all values are near 1
    near.update_layout(title_text=near.layout.title.text.replace("</b>", ", close up</b>"))
    return sentences, [found.figure(), near], table.join(band).reset_index(), {}


def _flat(found: Mossa) -> Iterator[str]:
    for model, own in complete(found.table)[0].groupby("model", sort=False):
        medians = own.groupby("layer")["value"].median()
        across = float(medians.max() - medians.min())
        if across < FLAT:
            yield (
                f"{NEGATIVE}the {model} model's medians differ by {across:.3f} over the layers: a curve so flat shows "
                "no layer where tasks part."
            )


def _clusters(found: Mossa, seed: int) -> Made:
    found = learnt(found)
    sentences, rows = [found.sentence("Z-F3")], []
    families = found.manifest["families"]
    for model, means in _means(found).items():
        names = np.array([families[task] for task in means.index])
        own = spread(means.to_numpy(), names)
        drawn = [spread(means.to_numpy(), order) for order in orders(names, seed)]
        for cluster in dict.fromkeys(names):
            rows.append({"model": model, "cluster": cluster, "cka": means[names == cluster].mean()})
        if len(set(names)) < 2 or len(set(names)) == len(names):
            sentences.append(
                f"{NEGATIVE}with {len(set(names))} clusters of {len(names)} tasks nothing can be shuffled."
            )
            continue
        p, high = permutation_p(own, drawn), np.quantile(drawn, 0.95)
        said = (
            f"the {model} model's clusters lie {own:.5f} apart (standard deviation of their means); with their names "
            f"shuffled over the tasks, 95 % lie less than {high:.5f} apart (one-sided p = {p:.2g})."
        )
        sentences.append(
            said[0].upper() + said[1:] if p <= ALPHA else NEGATIVE + said + too_few(groupings(names), ALPHA)
        )
    return sentences, [found.clusters()], _frame(rows), {}


def _maps(found: Mossa, seed: int) -> Made:
    drawn = []
    for model in found.models:
        made = found.map(model, n=PER_TASK, seed=seed)
        mapped = len(made.layers) - len(made.manifest["gaps"])
        beside = made.multiples(columns=2 if mapped <= 4 else 3)
        drawn += [_named(made.figure(), model), _named(beside, model, ", layer by layer")]
    families, rows = found.manifest["families"], []
    curves: dict[str, Any] = {}
    for label in found.models:
        rows += [{"model": label, **row} for row in neighbours(found.representations[label], families, seed)]
    table = _frame(rows)
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    sentences = ["A t-SNE map shows who is near whom; sizes of clusters and distances between them mean nothing."]
    for label, own in table.groupby("model", sort=False):
        made = own[own["value"].notna()]
        if made.empty:
            sentences.append(f"{NEGATIVE}of the {label} model nothing can be said: {own['reason'].iloc[0]}.")
            continue
        curves[str(label)] = (own["layer"].tolist(), tuple(own[c].tolist() for c in ("value", "low", "high")))
        best, above = made.loc[made["value"].idxmax()], made[made["q"] <= ALPHA]
        sentences.append(
            f"In the {label} model's representations, of the {NEAREST} nearest examples of other tasks up to "
            f"{best['value']:.0%} are of the example's own cluster (layer {best['layer']}); with the clusters' names "
            f"shuffled over the tasks, 95 % of the shares there are {best['low']:.0%} to {best['high']:.0%}. Beyond "
            f"chance (q <= {ALPHA}) in {_in_layers(above['layer'])} of {len(made)}."
        )
        rest = made[made["q"] > ALPHA]["layer"]
        if len(rest):
            few = too_few(groupings(list(families.values())), ALPHA)
            sentences.append(
                f"{NEGATIVE}in {_in_layers(rest)} of the {label} model it is not shown that clusters stand together."
                f"{few}"
            )
    gaps = table[table["value"].isna()]["layer"].unique().tolist()
    if gaps and curves:
        why = "; ".join(table.loc[table["value"].isna(), "reason"].unique())
        sentences.append(f"Layers without a value: {', '.join(map(str, gaps))} ({why}).")
    if curves:
        drawn.append(
            figures.curves_with_band(
                curves, title="Do clusters of tasks stand together?", x_label="layer",
                y_label=f"share of the {NEAREST} nearest of other tasks",
                subtitle="shaded: 95 % with the clusters' names shuffled over the tasks",
            )
        )  # fmt: skip
    sentences.append("Tasks of a cluster have alike prompts: standing together need not be more than that.")
    return sentences, drawn, table, {"neighbours": NEAREST, "per_task": PER_TASK, "draws": DRAWS}


def _dimensions(found: Mossa, seed: int) -> Made:
    sentences, rows = [found.sentence("Z-F5")], []
    curves: dict[str, Any] = {}
    bands: list[Any] = []
    share, layers = found.manifest["share"], ["emb", *found.manifest["layers"][1:]]
    for model in found.models:
        wide = found.values("dimension", model)
        pooled = wide.loc[ALL if ALL in wide.index else wide.index[0]].to_numpy(dtype=float)
        low, high = shuffled_dimensions(found.representations[model], share, seed)
        about = {"model": model, "value": pooled, "shuffled_low": low, "shuffled_high": high}
        rows.append(_frame({"layer": range(len(pooled)), **about}))
        curves[model] = (pooled, None, None)
        bands += [low, high]
        made = np.isfinite(pooled) & np.isfinite(low)
        fewer = made & (pooled < low)
        said = (
            f"with every feature shuffled by itself the {model} model's representations would take "
            f"{np.nanmin(low, initial=np.inf):.0f} to {np.nanmax(high, initial=-np.inf):.0f} components: the real ones "
            f"take fewer than all of {SHUFFLED} such copies in {int(fewer.sum())} of {int(made.sum())} layers (by "
            f"chance, {made.sum() / (SHUFFLED + 1):.2g})."
        )
        every = fewer.sum() == made.sum() and made.any()
        sentences.append(said[0].upper() + said[1:] if every else NEGATIVE + said)
    low, high = np.min(bands, axis=0), np.max(bands, axis=0)  # the models' differ by little: one band for both
    curves["features shuffled"] = ((low + high) / 2, low, high)
    thin = {m: found.values("dimension", m).drop(index=ALL, errors="ignore") for m in found.models}
    figure = figures.layer_curves(
        curves, layers, title="Dimensions of the representations",
        subtitle="thick: all tasks together, thin: single tasks",
        y_label=f"components for {100 * share:g} % of the variance",
        tasks={m: {str(t): row.tolist() for t, row in table.iterrows()} for m, table in thin.items()},
        groups=found.manifest["families"],
    )  # fmt: skip
    return sentences, [figure], _stacked(rows), {"shuffled": SHUFFLED}


def _held_out(found: Mossa, seed: int) -> Made:
    sentences = [found.sentence("Z-F7")]
    wide = _means(found)
    out = wide.index.isin(found.manifest["held_out"])
    table = wide.assign(held_out=out).rename_axis("task").reset_index()
    if out.all() or not out.any():
        none = f"{NEGATIVE}no task {'learnt' if out.all() else 'held out'} has a value: nothing can be compared."
        return [*sentences, none], [found.held_out()], table, {}
    table["difference"] = difference = (wide[MULTI] - wide[PRE]).to_numpy()
    own = float(difference[~out].mean() - difference[out].mean())
    drawn, exact = choices(difference, int(out.sum()), seed)
    p, (low, high) = permutation_p(abs(own), np.abs(drawn), exact), np.quantile(drawn, (0.025, 0.975))
    said = (
        f"training on the other tasks moved the multi-task model by {difference[~out].mean():+.4f} CKA towards the "
        f"control models on tasks it learnt, by {difference[out].mean():+.4f} on tasks held out: {own:+.4f} apart, "
        f"where 95 % of the {len(drawn)} choices of {int(out.sum())} tasks to hold out give {low:+.4f} to {high:+.4f} "
        f"(p = {p:.2g})."
    )
    good = p <= ALPHA and own > 0
    few = too_few(math.comb(len(out), int(out.sum())), ALPHA)
    sentences.append(said[0].upper() + said[1:] if good else f"{NEGATIVE}{said}{few}")
    return sentences, [found.held_out()], table, {}


def _named(figure: go.Figure, model: str, what: str = "") -> go.Figure:
    """The figure with its model in the title."""
    title = figure.layout.title.text.removesuffix("</b>")
    return figure.update_layout(title_text=f"{title}{what}: {model} model</b>")


def _in_layers(layers: Sequence[int]) -> str:
    named = ", ".join(map(str, layers))
    return f"layer{'s' if len(layers) > 1 else ''} {named}" if len(layers) else "no layer"


def _means(found: Mossa) -> pd.DataFrame:
    """Mean CKA over the layers where every task has a value, [task, model]."""
    rows = complete(found.table)[0]
    return rows.pivot_table(index="task", columns="model", values="value", sort=False)


def _frame(rows: Any) -> pd.DataFrame:
    import pandas as pd  # heavy: only for tables

    return pd.DataFrame(rows)


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd  # heavy: only for tables

    return pd.concat(tables, ignore_index=True)


# figure -> (finished mossa, seed) -> what it shows
FIGURES: dict[str, Callable[[Mossa, int], Made]] = {
    "Z-F1": _segments, "Z-F2": _boxes, "Z-F3": _clusters, "Z-F4": _maps, "Z-F5": _dimensions, "Z-F7": _held_out,
}  # fmt: skip
