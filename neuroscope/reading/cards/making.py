"""`neurons`: a card for each neuron of a mask.

1. How every task uses the neurons (`replicating`); the mask's most used ones get a card.
2. Where they fire: activations on the tasks' test texts and on others (`firing`).
3. What they write and read, and the neurons that are like them (`directions`, `active_together`, `similar`).
4. What breaks without each alone, beside random neurons (`breaking`); the same with an adapter on (`adapting`).
5. All of it as one table and as plain data (`assembling`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroscope import files
from neuroscope.attribution.objectives import OBJECTIVES, Objective
from neuroscope.checks import Progress, public, whole
from neuroscope.errors import ArgumentError, FileError, MaskError, ModelError, choose
from neuroscope.evaluation import prepare_neutral
from neuroscope.masks import Masks, NeuronMask, Scores, mask_for, masks_of, scores_of
from neuroscope.models import Model, Unit, resolve
from neuroscope.reading.activations_result import Activations
from neuroscope.reading.cards.active_together import active_together, some
from neuroscope.reading.cards.adapting import adapter_on, off
from neuroscope.reading.cards.assembling import NEAREST, Known, cards_and_table
from neuroscope.reading.cards.breaking import Lost, broken
from neuroscope.reading.cards.deck import NeuronCards
from neuroscope.reading.cards.firing import Firing
from neuroscope.reading.cards.replicating import Use, used
from neuroscope.reading.cards.similar import by_tasks
from neuroscope.reading.cards.subject import ASKED, JOURNAL, Subject, among
from neuroscope.reading.corpora import DO_LINES, JSON, Broken, sources_of
from neuroscope.reading.finding_directions import directions
from neuroscope.reading.prompts import rows_of
from neuroscope.reading.tokens_by_neurons import activations
from neuroscope.tasks import Task, Tasks, tasks_of

TEXTS = "texts"  # what texts that are of no task are called
FILES = (*JSON, ".txt")  # endings of files of texts
TYPICAL = 8  # prompts of each task that are typical inputs


@public
def neurons(
    model: Any,
    mask: Any,
    tasks: Tasks | None = None,
    *,
    texts: Sequence[str] | None = None,
    scores: Mapping[str, Scores] | None = None,
    masks: Masks | None = None,
    adapter: Any = None,
    top: int = 10,
    count: int = 10,
    objective: Objective = "loss",
    examples: int | None = 256,
    parts: int = 8,
    n: int | None = None,
    n_random: int = 5,
    unit: Unit = "hidden",
    seed: int = 0,
    skip_first: bool = False,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> NeuronCards:
    """Cards of a mask's neurons: where each fires, what it writes and reads, what breaks without it alone.

    Args:
        model: anything that can be opened.
        mask: whose neurons: a NeuronMask, or neurons as people write them, such as "9.431".
        tasks: by which neurons are scored (discovery examples) and judged (test examples); None: only texts are read.
        texts: other texts to read them on, or a file of them: JSON lines, or one text a line (broken lines are counted
            in the manifest). Without tasks and texts: the model's own neutral texts.
        scores: task -> Scores, found already. By default the tasks' discovery examples are scored.
        masks: name -> mask: a card says which of them hold the neuron.
        adapter: a NeuronAdapter that is on the model, or its file: the cards are of the model before it, and say what
            is different after it.
        top: how many neurons get a card: those of the highest score for the mask's own task, or else of the best rank
            for any task.
        count: how many texts of either sign, and how many tokens, a card shows at most.
        objective: whose rise is the effect: "loss" on the answers (nats), "log-odds", which does not saturate, or
            "logit-difference".
        examples: at most how many discovery examples of each task.
        parts: into how many parts these are dealt to see whether a rank lasts, an even number.
        n: test examples of each task, and texts (None: all).
        n_random: random neurons of every layer with a card, that are not in the mask.
        unit: what neurons are that are written by hand: "hidden", "output" or "head".
        seed: of the dealing and of the random neurons.
        skip_first: leave first tokens out of scores and activations, where some neurons are extreme whatever the text
            says.
        batch_size: as in `attribute`; it does not change the result but to rounding.
        output: folder to resume from: what was scored and judged is not measured again.
        progress: called as `progress(steps, desc=...)`, such as tqdm; None is silent.

    Returns:
        `NeuronCards`: `card("9.431")`, `to_frame()` (a row per neuron and task), `figure()`, `save(path)`.
        What the model cannot tell, such as directions of a TransformerBridge, is left out, and `manifest["missing"]`
        and the cards say why.

    Raises:
        MaskError: neurons that the model does not have (the error names the nearest), scores or masks of another model.
        ArgumentError: more neurons than `top`, and nothing to choose them by.
        TaskError: a task without test or discovery examples.

    Example:
        >>> cards = neurons("mini", "2.17", texts=["sentiment the curry was good => yes"])
        >>> cards.card("2.17").parts["texts"][0]["where"]
        'texts, text 0'
    """
    count, top, parts = whole(count, "count", 1), whole(top, "top", 1), _even(parts)
    choose(objective, OBJECTIVES, "objective")
    model = resolve(model)
    named = {} if tasks is None else tasks_of(tasks, ASKED)
    mask = mask_for(model, mask, ASKED, unit)
    given = {} if scores is None else scores_of(scores, ASKED)
    known = {str(mask.manifest["task"]): mask} if masks is None and "task" in mask.manifest else {}
    known = known if masks is None else masks_of(masks, ASKED, model, unit)
    _same_model(mask, {**{f"scores of {n}": s for n, s in given.items()}, **{f"mask {n}": m for n, m in known.items()}})
    texts, broken_lines = _texts(model, texts, n)
    journal = files.Journal(None if output is None else Path(output) / JOURNAL)
    subject = Subject(
        model, mask, mask, named, objective, examples, n, n_random, seed, skip_first, batch_size, journal,
        progress,
    )  # fmt: skip
    with adapter_on(model, adapter, ASKED) as change:
        with off(change), model.unchanged():
            uses = _uses(subject, given, parts)
            subject = replace(subject, chosen=_best(subject, uses, top))
            found = _read(subject, uses, known, texts, count)
            found = replace(found, missing={**_left_out(broken_lines), **found.missing})
            manifest = _manifest(subject, given, texts, {"top": top, "count": count, "parts": parts})
        if change is not None:
            with model.unchanged():
                found = replace(found, after=_after(subject, texts))
            manifest["adapter"] = change.mask.identity
    table, cards = cards_and_table(subject, found)
    return NeuronCards(table, {**manifest, **broken_lines, "missing": dict(found.missing)}, cards)


def _texts(model: Model, texts: Sequence[str] | None, n: int | None) -> tuple[Sequence[str] | None, dict[str, Any]]:
    """The texts, those of a file if it is one; and what the manifest says of its broken lines."""
    if texts is None or len(texts) != 1 or not texts[0].lower().endswith(FILES):
        return texts, {}
    if not Path(texts[0]).is_file() and len(texts[0].split()) > 1:  # a sentence that ends so
        return texts, {}
    (source,) = sources_of(texts[0], ASKED)
    broken = Broken()
    found = [str(text) for _, text in source.items(model, "test", n, broken)]
    if not found:
        seen = f"no text, {broken.count:,} broken lines ({broken})" if broken.count else "no text"
        raise FileError(f"{ASKED}(texts): read {texts[0]}", seen, DO_LINES)
    return found, {"broken": {"count": broken.count, "first": broken.lines}} if broken.count else {}


def _left_out(broken_lines: Mapping[str, Any]) -> dict[str, str]:
    """The broken lines as what is missing."""
    told = broken_lines.get("broken")
    return {f"{told['count']:,} broken line(s) of the file": "; ".join(told["first"])} if told else {}


def _even(parts: Any) -> int:
    number = whole(parts, "parts", 2)
    if number % 2:
        raise ArgumentError(f"{ASKED}(parts={number})", "an odd number", "give an even one, for it is halved")
    return number


def _same_model(mask: NeuronMask, others: Mapping[str, Any]) -> None:
    for name, other in others.items():
        if dict(other.widths) != dict(mask.widths) or other.unit != mask.unit:
            raise MaskError(f"{ASKED}: {name}", f"other {other.unit} neurons than the mask's", "find both on one model")


def _uses(subject: Subject, scores: Mapping[str, Scores], parts: int) -> dict[str, Use]:
    """Of the tasks, and of scores without a task."""
    found = used(subject, scores, parts)
    alone = {name: Use(s.vector().numpy(), None, "no such task") for name, s in scores.items() if name not in found}
    return {**found, **alone}


def _best(subject: Subject, uses: Mapping[str, Use], top: int) -> NeuronMask:
    """The mask's neurons that are used most."""
    mask = subject.mask
    if len(mask) <= top:
        return mask
    if not uses:
        found = f"{len(mask):,} neurons, and neither tasks nor scores to choose {top} by"
        raise ArgumentError(ASKED, found, f"give scores= or tasks, {top} neurons or fewer, or top={len(mask)}")
    own = uses.get(str(mask.manifest.get("task")))
    ranks = [(-use.scores).argsort(kind="stable").argsort() for use in ([own] if own is not None else uses.values())]
    best = np.min(ranks, axis=0)
    flat = mask.flags().nonzero().flatten().numpy()
    chosen = flat[np.argsort(best[flat], kind="stable")[:top]]
    flags = torch.zeros(sum(mask.widths.values()), dtype=torch.bool)
    flags[torch.from_numpy(chosen)] = True
    pieces = flags.split(list(mask.widths.values()))
    return among(mask, {a: piece.nonzero().flatten() for a, piece in zip(mask, pieces, strict=True)})


def _groups(subject: Subject, texts: Sequence[str] | None) -> dict[str, Task | Sequence[str]]:
    """What the neurons are read on, by name."""
    groups: dict[str, Task | Sequence[str]] = dict(subject.tasks)
    if texts is None and not groups:
        neutral = prepare_neutral(subject.model)
        texts = [f"{text.given} {text.scored}".strip() for text in neutral.texts]
    if texts:
        groups[TEXTS if TEXTS not in groups else f"other {TEXTS}"] = list(texts)
    return groups


def _activations(subject: Subject, texts: Sequence[str] | None) -> Activations:
    groups, first = _groups(subject, texts), subject.skip_first
    n, size, progress = subject.n, subject.batch_size, subject.progress
    return activations(subject.model, groups, subject.chosen, skip_first=first, n=n, batch_size=size, progress=progress)


def _read(
    subject: Subject, uses: Mapping[str, Use], masks: Mapping[str, NeuronMask], texts: Sequence[str] | None, count: int
) -> Known:
    """All that is known of the chosen neurons."""
    missing: dict[str, str] = {name: use.why for name, use in uses.items() if use.why}
    missing = {f"stability in {name}": why for name, why in missing.items()}
    firing = Firing(_activations(subject, texts), count)
    rows = some(rows_of(subject.model, _groups(subject, texts), "test", subject.n))
    few = min(count, NEAREST)
    near = {"activation": active_together(subject, rows, few), "tasks": by_tasks(subject, uses, few)}
    weights = breaks = None
    with noting(missing, "directions"):
        typical = list(texts or []) or [e.prompt for t in subject.tasks.values() for e in t.split("test", TYPICAL)]
        weights = directions(subject.model, subject.chosen, texts=typical or None, count=count)
    if subject.tasks:
        with noting(missing, "what breaks"):
            breaks = broken(subject)
    return Known(uses, masks, firing, near, weights, breaks or {}, missing)


@contextlib.contextmanager
def noting(missing: dict[str, str], part: str) -> Iterator[None]:
    """A scope in which what the model cannot tell is noted, and left out."""
    try:
        yield
    except ModelError as error:
        missing[part] = f"{error.asked}: {error.found}; {error.do}"


def _after(subject: Subject, texts: Sequence[str] | None) -> tuple[Firing, Mapping[str, Lost]]:
    """Activations, and what breaks, with the adapter on."""
    breaks: Mapping[str, Lost] = {}
    if subject.tasks:
        with noting({}, "what breaks"):  # as before it
            breaks = broken(subject)
    return Firing(_activations(subject, texts), 1), breaks


def _manifest(
    subject: Subject, scores: Mapping[str, Scores], texts: Sequence[str] | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    mask = subject.mask
    return {
        **subject.model.provenance(),
        "unit": mask.unit,
        "mask": {**dict(mask.manifest), "identity": mask.identity, "size": len(mask)},
        "data_hash": {name: task.data_hash for name, task in subject.tasks.items()},
        "scores": {name: dict(found.manifest) for name, found in scores.items()},
        "texts": None if texts is None else files.digest(*texts),
        **settings,
        **{name: getattr(subject, name) for name in ("objective", "examples", "n", "n_random", "seed", "skip_first")},
        "versions": files.versions(),
    }
