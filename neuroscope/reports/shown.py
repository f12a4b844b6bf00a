"""What a report shows of an experiment's result: text, figures, tables, and what to know before reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuroscope.experiments import ParameterDepth, ParameterTransfer
from neuroscope.experiments.layer_by_layer import LayerByLayer
from neuroscope.experiments.t1_deactivation import Deactivation
from neuroscope.experiments.t5_continual_comparison import beside_published, in_words
from neuroscope.masks import OverlapSweep
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

Tables = dict[str, "pd.DataFrame"]


def shown(result: Any) -> tuple[str, list[Any], Tables]:
    """A result's text, figures and tables."""
    if isinstance(result, Deactivation):
        return _deactivated(result), [result.figure()], {"summary": result.summary(), "runs": result.to_frame()}
    if isinstance(result, OverlapSweep):
        return _overlapping(result), [result.figure()], {"overlap": result.to_frame()}
    tables: Tables = {"summary": result.summary(), "runs": result.to_frame()}
    if hasattr(result, "trend"):
        tables["trend"] = result.trend()
    if isinstance(result, LayerByLayer):
        return result.in_words(), result.drawn, tables
    if isinstance(result, ParameterTransfer):
        figures = [result.figure(), result.layer_figure(), result.pairs_figure()]
        return result.in_words(), figures, tables | {"pairs": result.cells()}
    if not hasattr(result, "methods"):
        return result.in_words(), [result.figure()], tables
    tables["metrics"] = result.metrics()
    published = beside_published(result)
    if published is not None:
        tables["published"] = published
    staged = result.metrics()["retention"].notna().any()
    return in_words(result), [result.figure(), *([result.retention_figure()] if staged else [])], tables


def _deactivated(result: Deactivation) -> str:
    summary = result.summary()
    total = summary[summary["name"] == "mean (all)"].iloc[0]
    tests = summary[summary["q"].notna()]
    hurt = tests[(tests["q"] < ALPHA) & (tests["off"] < tests["random-layer"])]
    rest = [name for name in tests["name"] if name not in set(hurt["name"])]
    lines = [
        f"- The mean score goes from {total['original']:.1%} to **{total['off']:.1%}** with the task's own neurons "
        f"off, to {total['random-layer']:.1%} with random ones of the same layers, to {total['random-uniform']:.1%} "
        "with random ones of the whole model.",
        f"- The own neurons break more than random ones of the same layers (q < {ALPHA}) in **{len(hurt)} of "
        f"{len(tests)}** tasks.",
    ]
    if rest:
        lines.append(f"- **A negative**: this was not shown in {', '.join(rest)}.")
    return "\n".join(lines)


def _overlapping(result: OverlapSweep) -> str:
    means = result.table.groupby("k")[["jaccard", "chance_layer"]].mean()
    lines = [
        f"- k = {k:.0%}: mean Jaccard **{row['jaccard']:.2f}**, by chance in the same layers {row['chance_layer']:.2f}."
        for k, row in means.iterrows()
    ]
    below = [
        f"{r['a']} | {r['b']} at {r['k']:.0%}"
        for r in result.table.to_dict("records")
        if r["jaccard"] <= r["chance_layer"]
    ]
    if below:
        lines.append(f"- **A negative**: {len(below)} of {len(result.table)} pairs overlap no more than by chance.")
    return "\n".join(lines)


def provisos(result: Any) -> str:
    """What a reader must know before reading a number."""
    if isinstance(result, LayerByLayer):
        return _settings(result)
    seen = result.manifest.get("seen", 0)
    said = "Neurons were found on discovery examples."
    if not isinstance(result, (OverlapSweep, ParameterDepth)):
        said += " Scores are on test examples."
    if seen:
        said += f" **{seen}** of the test prompts are training prompts as well: those were not held out."
    return said


def _settings(result: LayerByLayer) -> str:
    """How the models of ZZC24 were made."""
    about = result.manifest
    recipe = ", ".join(f"{name} {value}" for name, value in about["recipe"].items())
    held = ", ".join(about["held_out"]) or "none"
    return (
        f"Every model was tuned whole ({recipe}). The multi-task model has not learnt the tasks held out: {held}. "
        f"Representations are of each prompt's last token, on test examples."
    )
