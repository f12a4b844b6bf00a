"""`Faithfulness` in words: sentences computed from its numbers, negatives among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from neuroscope.experiments.standings import Standings
from neuroscope.markup import NEGATIVE, NOTHING
from neuroscope.masks.draws import DRAWN
from neuroscope.statistics import ALPHA

if TYPE_CHECKING:
    import pandas as pd


class Told(Protocol):
    """What words are made of; `Faithfulness` says what each is."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def standings(self) -> Standings: ...

    @property
    def known(self) -> list[str]: ...

    @property
    def nothing_to_carry(self) -> list[str]: ...

    def sizes(self) -> pd.DataFrame: ...

    def minimal(self, share: float) -> pd.DataFrame: ...

    def against(self) -> pd.DataFrame: ...


def said(found: Told, share: float) -> str:
    """How few neurons suffice for which task, beside random ones; where none do, and where nothing can be said.

    Args:
        found: the result.
        share: of what all neurons carry, that is asked for.
    """
    standings, known, part = found.standings, found.known, f"{share:.0%}"
    why = [*standings.why(), *_nothing_to_carry(found)]
    if not known:
        lead = f"{NOTHING}: no task is left at which the neurons are shown to do anything.\n"
        return "\n".join([lead if standings.others else standings.nothing(), *why])
    minimal, sizes = found.minimal(share), found.sizes()
    minimal, sizes = (table[table["task"].isin(known)] for table in (minimal, sizes))
    groups, drawn = list(minimal["scores"].unique()), DRAWN[found.manifest.get("match", "layer")]
    lines: list[str] = []
    for group in groups:
        by = f" by {group}" * (len(groups) > 1)
        rows, every = (table[table["scores"] == group] for table in (minimal, sizes))
        enough = rows.dropna(subset="k")
        if len(enough):
            many = f"**{len(enough)} of {len(rows)}** tasks" if len(rows) > 1 else "this task"
            lead = (
                f"In {many} **{percent(enough['k'].max())}** of the neurons{by}, or fewer, alone are shown to carry "
                f"{part} of the task, all others being ablated"
            )
        else:
            lead = f"{NEGATIVE}: of no task were fewer than all neurons{by} shown to carry {part} alone"
        lines.append(f"{lead}{standings.but()}.\n" if group == groups[0] else f"- {lead}.")
        lines += why if group == groups[0] else []
        lines += [_suffices(row) for row in enough.itertuples()]
        lines += _negatives(rows, every, by, part, drawn)
    lines += [_compared(found, group, groups[0]) for group in groups[1:]]
    return "\n".join([*lines, *_rules(found, part)])


def percent(share: float) -> str:
    """A share as few digits as it has.

    Example:
        >>> percent(0.001), percent(0.1)
        ('0.1%', '10%')
    """
    return f"{100 * share:.3g}%"


def _suffices(row: Any) -> str:
    return (
        f"- **{percent(row.k)}** of the neurons ({row.neurons}) suffice for {row.task}: alone they carry "
        f"{row.only:.0%} [{row.low:.0%}, {row.high:.0%}] of what all neurons do, random ones {row.random_only:.0%}; "
        f"switched off, they leave {row.off:.0%}."
    )


def _negatives(rows: pd.DataFrame, sizes: pd.DataFrame, by: str, part: str, drawn: str) -> list[str]:
    """Where no size was enough, and where one was but random masks may be as good."""
    lines = []
    enough, none = rows.dropna(subset="k"), rows[rows["k"].isna()]
    best = sizes[sizes["k"] < 1].groupby("task").last()
    estimates = none.set_index("task")["estimate"]
    told = [
        f"{name} (the largest, {percent(best.loc[name, 'k'])}, carries {best.loc[name, 'only']:.0%} "
        f"[{best.loc[name, 'only_low']:.0%}, {best.loc[name, 'only_high']:.0%}]"
        + (f"; {percent(at)} does by its estimate, but the examples are too few to show it)" if at == at else ")")
        for name, at in estimates.items()
        if name in best.index
    ]
    if told:
        lines.append(
            f"- {NEGATIVE}: no size measured short of all neurons{by} was shown to carry {part} of {', '.join(told)}."
        )
    alike = enough[~((enough["q_only"] < ALPHA) & (enough["only"] > enough["random_only"]))]
    if len(alike):
        lines.append(
            f"- {NEGATIVE}: at these sizes {drawn} were not shown to carry less alone in {', '.join(alike['task'])}."
        )
    return lines


def _compared(found: Told, group: str, first: str) -> str:
    """Whether a set of scores carries more than the first, over all sizes."""
    rows = found.against()
    rows = rows[(rows["condition"] == "cpr") & (rows["scores"] == group) & rows["q_first"].notna()]
    shown = rows["q_first"] < ALPHA
    parts = [
        f"{text} in {', '.join(rows[those]['task'])}"
        for text, those in (
            ("it carries more", shown & (rows["difference"] > 0)),
            ("it carries less", shown & (rows["difference"] < 0)),
            (f"{NEGATIVE}: no difference was shown", ~shown),
        )
        if those.any()
    ]
    return f"- Over all sizes (CPR), {group} beside {first}: {'; '.join(parts)}."


def _nothing_to_carry(found: Told) -> list[str]:
    names = found.nothing_to_carry
    if not names:
        return []
    text = "with everything ablated it scores no less than with nothing ablated, so that the share carried is undefined"
    return [f"- {NOTHING} about {', '.join(names)}: {text}."]


def _rules(found: Told, part: str) -> list[str]:
    sizes = ", ".join(percent(k) for k in found.manifest["k"])
    return [
        "- What is carried is a share of what all neurons add to the score that is left with everything ablated. A "
        f"size suffices where the lower end of its 95 % interval over examples is {part} or more, and was looked for "
        f"among {sizes}; smaller ones may do. Random ones are {DRAWN[found.manifest.get('match', 'layer')]}. CPR is "
        "the area under that share over sizes, CMD that of its distance from 1.",
    ]
