"""`Pruning` in words: sentences computed from its numbers, negatives among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from neuroscope.evaluation.repetition import GRAM
from neuroscope.experiments.standings import Standings
from neuroscope.markup import NEGATIVE
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd

WHAT = {"selective": "what the task needs least", "reverse": "what it needs most"}
TRAINED = {"neurons": "training the neurons that are left", "lora": "training a LoRA"}


class Told(Protocol):
    """What words are made of; `Pruning` says what each is."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def standings(self) -> Standings: ...

    def shares(self) -> pd.DataFrame: ...


def said(found: Told) -> str:
    """Whether scores tell what can go, what breaks, and what training brings back."""
    standings, table = found.standings, found.shares()
    if not standings.others:
        return "\n".join([standings.nothing(), *standings.why(), *_rules(found)])
    table = table[table["task"].isin(standings.others)]
    before, after = table[~table["recovered"]], table[table["recovered"]]
    better = before[(before["selective_q"] < ALPHA) & (before["selective_effect"] < 0)]
    worse = before[(before["reverse_q"] < ALPHA) & (before["reverse_effect"] > 0)]
    of = f"of {len(before)} (task and share)"
    lead = f"Taking out by score what a task needs least costs it less than random pruning in **{len(better)}** {of}, "
    lead += f"and taking out what it needs most costs more in **{len(worse)}** (q < {ALPHA}){standings.but()}.\n"
    lines = [lead if len(better) else f"{NEGATIVE}: {lead[0].lower()}{lead[1:]}", *standings.why()]
    lines += [_at(share, rows) for share, rows in before.groupby("share")]
    lost = before[(before["selective_q"] < ALPHA) & (before["selective_effect"] > 0)]
    if len(lost):
        named = ", ".join(f"{r.task} at {r.share:.0%}" for r in lost.itertuples())
        lines.append(f"- {NEGATIVE}: there it costs more than random pruning: {named}.")
    lines += [line for name in WHAT for line in _collapse(before, name)]
    lines += _recovery(found, before, after)
    return "\n".join([*lines, *_rules(found)])


def _at(share: float, rows: pd.DataFrame) -> str:
    means = rows[["selective", "random", "reverse", "intact", "parameters"]].mean()
    return (
        f"- With **{share:.0%}** of every layer gone ({means['parameters']:.0%} of all parameters left): "
        f"{means['selective']:.0%} by score, {means['random']:.0%} at random, {means['reverse']:.0%} against the "
        f"score; {means['intact']:.0%} with nothing gone (means over tasks)."
    )


def _collapse(before: pd.DataFrame, name: str) -> list[str]:
    """From which share on the text suffers, and whether it repeats itself."""
    known = before[before[f"{name}_text"] != "not known"]
    broken = known[known[f"{name}_text"] != "holds"]
    if known.empty:
        return []
    if broken.empty:
        return [f"- With {WHAT[name]} gone, neutral text was not shown to suffer at any share."]
    first = broken.groupby("task", sort=False)["share"].min()
    worst = broken.sort_values(f"{name}_neutral").iloc[-1]
    repeats = broken[broken[f"{name}_text"].isin(["repetition", "both"])]
    line = (
        f"- With {WHAT[name]} gone the text suffers, from {first.min():.0%} on, in {len(first)} of "
        f"{known['task'].nunique()} tasks: neutral text costs up to {worst[f'{name}_neutral']:.3g} nats a token "
        f"(intact {worst['intact_neutral']:.3g}, random {worst['random_neutral']:.3g})"
    )
    if len(repeats):
        most = repeats.sort_values(f"{name}_repetition").iloc[-1]
        line += (
            f", and it repeats itself: {most[f'{name}_repetition']:.0%} of {GRAM}-grams in {most['task']} at "
            f"{most['share']:.0%} (intact {most['intact_repetition']:.0%})"
        )
    return [f"{line}. It is not the task alone that changes there."]


def _recovery(found: Told, before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """What training brings back, and whether what was pruned by score is then better than what was at random."""
    if after.empty:
        return []
    how = TRAINED[str(found.manifest["recovery"])]
    lines = []
    for (share, rows), (_, was) in zip(after.groupby("share"), before.groupby("share"), strict=True):
        now, earlier = (t[["selective", "random", "reverse"]].mean() for t in (rows, was))
        parts = ", ".join(
            f"{now[name]:.0%} {word} (from {earlier[name]:.0%})"
            for name, word in (("selective", "by score"), ("random", "at random"), ("reverse", "against it"))
        )
        lines.append(
            f"- At {share:.0%}, **{how} brings** {parts}; the whole model trained in the same way has "
            f"{rows['intact'].mean():.0%}."
        )
    columns = [f"{name}_neutral" for name in (*WHAT, "intact")]
    last, then = (t[t["share"] == t["share"].max()][columns].mean() for t in (after, before))
    if last.notna().all():
        parts = ", ".join(
            f"{last[column]:.3g} {word} (before the training {then[column]:.3g})"
            for column, word in zip(columns, ("by score", "against it", "with nothing gone"), strict=True)
        )
        share = after["share"].max()
        lines.append(f"- Neutral text, which is not trained, then costs at {share:.0%} {parts}, nats a token.")
    better = after[(after["selective_q"] < ALPHA) & (after["selective_effect"] < 0)]
    if len(better):
        named = ", ".join(f"{r.task} at {r.share:.0%}" for r in better.itertuples())
        lines.append(f"- After training it still matters what was taken out: better than random in {named}.")
    else:
        lines.append(
            f"- {NEGATIVE}: after training, pruning by score was not shown to leave more than random pruning anywhere."
        )
    return lines


def _rules(found: Told) -> list[str]:
    shares = ", ".join(f"{share:.0%}" for share in found.manifest["k"])
    why = found.manifest.get("neutral", {}).get("why")
    lines = [f"- Whether the text holds is not known: {why}."] if why else []
    return [
        *lines,
        f"- Of every layer alike go {shares}: by the task's scores, against them, or {found.manifest['n_random']} "
        "times at random. The model that is left is smaller by that, and has the logits of the one with these neurons "
        "off. A score is compared with those of random pruning at the same share and training, text with the model as "
        "it is.",
    ]
