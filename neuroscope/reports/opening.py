"""How a report opens: what was found in a few sentences, what the model can do, the neurons that matter most.

The sentences are the first ones of what each result says of itself; all that was not shown, or cannot be, follows in a
section of its own, so that none of it is lost among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from neuroscope.errors import NeuroscopeError
from neuroscope.evaluation import CONSTANT
from neuroscope.experiments.f5_cross_ablation import CrossAblation
from neuroscope.experiments.t1_deactivation import Deactivation
from neuroscope.markup import NEGATIVE, NOTHING, Link, Quote, lead_and_rest
from neuroscope.masks import Scores
from neuroscope.masks.neuron_names import names_of_sites
from neuroscope.reading import NeuronCards
from neuroscope.reading.cards.firing import SINK_NOTE
from neuroscope.reading.cards.strongest import strongest
from neuroscope.results import Result, Section

if TYPE_CHECKING:
    import pandas as pd

MOST = 6  # sentences
TOLD = ("deactivation", "cross_ablation", "overlap", "faithfulness", "stability", "depth")  # the most telling first
ELSEWHERE = "What was not shown"
STRONGEST = "The neurons that matter most"
AROUND = 12  # tokens beside the marked one
WRITTEN = 4  # tokens that a row names


def kept_cards(path: Path, make: Callable[[], NeuronCards]) -> NeuronCards | NeuroscopeError:
    """The cards of a file, or new ones in it; or why there is nothing that the neurons can be read by.

    A run's folder belongs to one set of settings, so that what is there is what would be made.
    """
    with contextlib.suppress(NeuroscopeError):  # not there, or damaged: made now
        return NeuronCards.load(path)
    try:
        made = make()
    except NeuroscopeError as error:  # such as activations that are not finite: a report without is better than none
        return error
    made.save(path)
    return made


def in_words(results: Mapping[str, Result]) -> str:
    """At most `MOST` sentences, as a list: what the model can do, and what each result found; where negatives are."""
    lines = [_competence(results)]
    missing = _all_missing(results)
    room = MOST - len(lines) - bool(missing)
    lines += [_lead(results[name], _off(results)) for name in TOLD if name in results][:room]
    if missing:
        several = f"{len(missing)} findings** are" if len(missing) > 1 else "One finding** is"
        lines.append(f"**{several} negative, or say that nothing can be concluded: see {ELSEWHERE!r} below.")
    return "\n".join(f"- {line}" for line in lines)


def _lead(result: Result, off: Deactivation) -> str:
    """Its first sentence, less the tasks at chance where the line on competence has named the same ones."""
    lead = lead_and_rest(result.in_words())[0]
    standings = getattr(result, "standings", None)
    if standings is None or standings.at_chance != off.standings.at_chance:
        return lead
    return lead.replace(standings.but(), "")


def sections(
    results: Mapping[str, Result], scores: Mapping[str, Scores], cards: NeuronCards | NeuroscopeError, explorer: str
) -> list[Section]:
    """What the model can do, the strongest neurons, and what was not shown.

    Args:
        cards: of the strongest neurons, or why they could not be read.
        explorer: the file that links lead into.
    """
    found = [_tasks(results)]
    if isinstance(cards, NeuroscopeError):
        found.append(Section(STRONGEST, f"The strongest neurons could **not be read**: {cards.asked}, {cards.found}."))
    else:
        found.append(_neurons(scores, cards, explorer))
    return [*found, *_not_shown(_all_missing(results))]


def _not_shown(lines: list[str]) -> list[Section]:
    """What is negative, and about what nothing can be concluded, all of it in sight."""
    import pandas as pd  # heavy: only where a table is made

    if not lines:
        return []
    told = [line.removeprefix("- ").replace("**", "").replace("`", "") for line in lines]
    words = "Of all results, what was not found, and of what nothing can be concluded."
    return [Section(ELSEWHERE, words, tables=[("From the results below", pd.DataFrame({"finding": told}))])]


def _all_missing(results: Mapping[str, Result]) -> list[str]:
    """That of all results: those of the same masks say some things alike."""
    return list(dict.fromkeys(line for name in results for line in _missing(results[name])))


def _missing(result: Result) -> list[str]:
    """Of its words, what was not shown, or cannot be."""
    _, rest = lead_and_rest(result.in_words())
    return [line for line in rest.splitlines() if NEGATIVE in line or NOTHING in line]


def _off(results: Mapping[str, Result]) -> Deactivation:
    off = results["deactivation"]
    assert isinstance(off, Deactivation)
    return off


def _competence(results: Mapping[str, Result]) -> str:
    standings = _off(results).standings
    table, others = standings.table, standings.others
    tuned = f"{lead_and_rest(results['tuning'].in_words())[0]} " if "tuning" in results else ""
    if not others:
        return tuned + standings.nothing().strip()
    mean = table.loc[others, "score"].mean()
    line = f"{tuned}The model is better than {CONSTANT} at **{len(others)} of {len(table)}** tasks, with a mean score "
    line += f"of {mean:.1%} there"
    return f"{line}{standings.but()}." if standings.at_chance else f"{line}."


def _tasks(results: Mapping[str, Result]) -> Section:
    """Of every task, how well the model does it as it is, and what became of it."""
    off = _off(results)
    rows = off.table[off.table["condition"] == "original"].set_index("task")
    standing = off.standings.table.loc[rows.index]
    table = rows[["metric", "n", "score", "low", "high"]].assign(constant=standing["majority"])
    table = table.rename(columns={"constant": "one answer always"}).assign(chance=standing["chance"])
    if "tuning" in results:
        before = results["tuning"].table.set_index("task")["before"]
        table.insert(2, "before tuning", before.reindex(table.index))
    summary = off.summary().set_index("name")
    table["own neurons off"] = summary["off"].reindex(table.index)
    crossed = results.get("cross_ablation")
    if isinstance(crossed, CrossAblation):
        table["verdict"] = crossed.verdicts().set_index("task")["verdict"].reindex(table.index)
    words = _competence(results)
    caption = "By task, on test examples with nothing switched off (low, high: 95 % interval)"
    return Section("What the model can do", words, tables=[(caption, table.reset_index())])


def _neurons(scores: Mapping[str, Scores], cards: NeuronCards, explorer: str) -> Section:
    """Of every task, the neurons of the highest scores, with what they read and write."""
    tops = _names(scores)
    by_name = {str(card["name"]): card for card in cards.cards}
    holders: dict[str, list[str]] = {}
    for task, names in tops.items():
        for name in names:
            holders.setdefault(name, []).append(task)
    tables = [
        (f"{task}: the {len(names)} neurons of the highest score", _table(task, names, holders, by_name, explorer))
        for task, names in tops.items()
        if names
    ]
    several = [name for name, tasks in holders.items() if len(tasks) > 1]
    lines = [f"**{len(holders)}** neurons are among the ten that matter most to a task", ""]
    if len(tops) > 1:
        lines[0] += f", **{len(several)}** of them to several"
        most = max(holders, key=lambda name: len(holders[name]), default="")
        if several:
            lines.append(f"- The one that most tasks share is {most}, of {', '.join(holders[most])}.")
    lines[0] += "."
    sinks = [name for name in holders if _is_sink(by_name.get(name, {}))]
    if sinks:
        lines.append(
            f"- **Sinks**: {', '.join(sinks)} have most of their activation on the first token, whatever the text "
            "says. `skip_first=True` of `ns.attribute` leaves that token out."
        )
    lines.append("- The text is the one, of any task, where the neuron's activation is furthest from 0, at the token")
    lines[-1] += " marked; what it writes is by the straight way to the logits, toward at a positive activation."
    lines.append("- A link leads to the neuron in the explorer, with more of its texts and its score for every task.")
    return Section(STRONGEST, "\n".join(lines), tables=tables)


def _names(scores: Mapping[str, Scores]) -> dict[str, list[str]]:
    """The strongest neurons of each task by name."""
    first = next(iter(scores.values()))
    sites = names_of_sites(list(first.widths))
    flat = [f"{sites[address]}.{i}" for address, width in first.widths.items() for i in range(width)]
    return {task: [flat[i] for i in places] for task, places in strongest(scores).items()}


def _table(
    task: str, names: list[str], holders: Mapping[str, list[str]], cards: Mapping[str, Any], explorer: str
) -> pd.DataFrame:
    import pandas as pd  # heavy: only where a table is made

    rows = []
    for name in names:
        card = cards.get(name, {})
        score = next((line["score"] for line in card.get("tasks", []) if line["task"] == task), None)
        place = urlencode({"task": task, "neuron": name})
        text, value, where = _text(card)
        rows.append(
            {
                "neuron": Link(name, explorer, place),
                "score": score,
                "text": text,
                "activation": value,
                "of": where,
                "writes toward": _tokens(card, "toward"),
                "away from": _tokens(card, "away"),
                "also for": ", ".join(other for other in holders[name] if other != task),
            }
        )
    return pd.DataFrame(rows)


def _is_sink(card: Mapping[str, Any]) -> bool:
    return any(str(note).startswith(SINK_NOTE) for note in card.get("notes", []))


def _text(card: Mapping[str, Any]) -> tuple[Any, float | None, str]:
    """The text where the activation is furthest from 0, marked there; the activation; of what the text is."""
    best: tuple[float, Any] = (0.0, None)
    for text in card.get("texts", []):
        for i, value in enumerate(text["activations"]):
            if value is not None and abs(value) > best[0]:
                best = abs(value), (text, i)
    if best[1] is None:
        return "", None, ""
    text, i = best[1]
    start, stop = max(0, i - AROUND), i + AROUND + 1
    before, after = "".join(text["tokens"][start:i]), "".join(text["tokens"][i + 1 : stop])
    before, after = "…" * (start > 0) + before, after + "…" * (stop < len(text["tokens"]))
    token = text["tokens"][i]
    before += " " * (token.startswith(" ") and not token.isspace())
    return (
        Quote(" ".join(before.split("\n")), seen(token), " ".join(after.split("\n"))),
        text["activations"][i],
        text["where"].split(", text ")[0],
    )


def _tokens(card: Mapping[str, Any], side: str) -> str:
    return " · ".join(seen(token) for token, _ in card.get("writes", {}).get(side, [])[:WRITTEN])


def seen(token: str) -> str:
    """A token without the space that it begins with, and where nothing else is in it, with signs in its place.

    Example:
        >>> seen(" good"), seen("\\n"), seen(" ")
        ('good', '↵', '␣')
    """
    shown = repr(token.lstrip(" "))[1:-1]
    return shown if token.strip() else "".join("↵" if letter == "\n" else "␣" for letter in token)
