"""The words of `modularity`: whether families are modules, beside what is published.

`found` is a `Modularity`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from neuroscope.markup import NOTHING
from neuroscope.masks import DRAWN
from neuroscope.statistics import ALPHA

OVERLAP = "overlap"
# Han et al. 2026, their project page: means over six models of 24 to 123 billion parameters at k = 0.1 %, of pairs
# within a family and across; ablation with corrupt activations. None is published for other values.
PUBLISHED = {OVERLAP: (0.129, 0.030), "corrupt": (0.259, 0.025)}
PUBLISHED_RAND = 0.78


def said(found: Any) -> str:
    """Whether families are modules by overlap and by damage, what is left out, and what is published."""
    filtered = found.filtered
    left_out = [f"- Left out: **{row.task}** ({row.why})." for row in filtered[~filtered["kept"]].itertuples()]
    number = f"{int(filtered['kept'].sum())} of {len(filtered)} tasks"
    if found.overlap is None:
        return "\n".join([f"{NOTHING}: {number} are kept, and two are needed.\n", *left_out])
    rows, families = found.families(), found.kept_families
    if rows["p"].isna().all():
        why = "all tasks kept are of one family" if len(set(families.values())) == 1 else "no two are of one family"
        lead = f"{NOTHING} about families: {number} are kept, and {why}."
    else:
        shown = [r.measure for r in rows.itertuples() if r.p < ALPHA]
        rest = [r.measure for r in rows.itertuples() if not r.p < ALPHA]
        told = f"(**{number}** kept)"
        lead = f"Families are **modules** by {_and(shown)} {told}: tasks share, or need, their own family's neurons."
        if rest:
            lead = f"**A negative**: families are not shown to be modules by {_and(rest)} {told}"
            lead += f"; they are by {_and(shown)}." if shown else "."
    least = least_p(families)
    lines = [lead, "", *(_line(found, row) for row in rows.to_dict("records")), *_most_and_least(found)]
    if least >= ALPHA:
        lines.append(f"- Of these {len(families)} tasks no p can be below {least:.2g}: give more tasks a family.")
    if (clusters := found.clusters()) is not None and (rand := clusters.manifest["rand"]) is not None:
        verdict = "" if clusters.manifest["p"] < ALPHA else "**A negative**: "
        lines.append(
            f"- {verdict}Clusters of the overlaps beside the families: adjusted Rand index **{rand:.2f}** (1 the "
            f"same, 0 by chance), p = {clusters.manifest['p']:.2g}; published {PUBLISHED_RAND}."
        )
    few_neurons = filtered[filtered["kept"] & (filtered["neurons"] < filtered["asked"])]
    if len(few_neurons):
        lines.append(f"- Fewer neurons than asked for have a relevance above 0 in {_and(few_neurons['task'])}.")
    return "\n".join([*lines, *left_out, *_how(found)])


def _line(found: Any, row: Mapping[str, Any]) -> str:
    what, unit = ("Overlap", "%") if row["measure"] == OVERLAP else (f"Off ({row['measure']})", "points lost")
    beside = "by chance" if row["measure"] == OVERLAP else DRAWN[found.manifest["match"]]
    means = [
        f"{100 * row[name]:.1f} {unit} {name}" if row[name] == row[name] else f"no pair {name} to average"
        for name in ("within", "across")
    ]
    ratio = f", a ratio of {row['ratio']:.1f}" if row["ratio"] == row["ratio"] else ""
    p = f", p = {row['p']:.2g}" if row["p"] == row["p"] else ", nothing to test"
    published = "none is published for this value"
    if row["published_within"] == row["published_within"]:
        published = f"published {100 * row['published_within']:.1f} and {100 * row['published_across']:.1f}"
    return f"- {what}: {means[0]}, {means[1]}{ratio}{p}; {beside} {100 * row['beside']:.1f}; {published}."


def _most_and_least(found: Any) -> list[str]:
    """In which families most and least is lost: a mean over families may be one family's."""
    rows = found.by_family().dropna(subset="within")
    lines = []
    for value, of in rows.groupby("value", sort=False):
        if len(of) > 1:
            most, least = of.loc[of["within"].idxmax()], of.loc[of["within"].idxmin()]
            lines.append(
                f"- Off ({value}), by family: most is lost within {most['family']} ({100 * most['within']:.1f} "
                f"points), least within {least['family']} ({100 * least['within']:.1f})."
            )
    return lines


def _how(found: Any) -> list[str]:
    about = found.manifest
    return [
        f"- Masks: the {about['k']:.2%} of neurons with the largest relevance above 0 ({about['method']}, sign "
        f"{about['sign']}). Kept: tasks of which the model has {about['least']:.0%} of the examples right both "
        "ways, and of these only such examples: with nothing off it scores 100 % by choice.",
        "- Published numbers (Han et al. 2026, project page): means over six models of 24 to 123 billion "
        "parameters, 46 tasks, k = 0.10 %; there, neurons are found and judged on the same examples.",
    ]


def _and(names: Iterable[str]) -> str:
    return ", ".join(names)


def least_p(families: Mapping[str, str]) -> float:
    """The smallest p that dealing families out in all orders can give: orders that leave each family together.

    Example:
        >>> least_p({"a": "x", "b": "x", "c": "y", "d": "y"})  # 8 of 24 orders
        0.3333333333333333
    """
    sizes = Counter(families.values())
    same = math.prod(math.factorial(size) for size in sizes.values())
    same *= math.prod(math.factorial(number) for number in Counter(sizes.values()).values())
    return same / math.factorial(len(families))
