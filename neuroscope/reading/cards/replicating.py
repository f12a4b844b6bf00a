"""How much every task uses the neurons, and whether it does so on other examples.

1. A task's discovery examples are dealt out to parts of one size, and each part is scored once (`stability`).
2. The score is the mean over parts, unless scores were given; the rank is among all neurons of the model, 1 the most.
3. Of all halves of the parts: between which ranks the neuron lies, and in which share it would be in a mask as large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from neuroscope import distributed, files
from neuroscope.attribution import METHODS, attribute, reliability
from neuroscope.attribution.dealing import dealt_out, part_of
from neuroscope.masks import Scores
from neuroscope.reading.cards.subject import ASKED, Subject
from neuroscope.reading.packing import packed, unpacked
from neuroscope.statistics import percentile_interval
from neuroscope.tasks import Task

HOW = ("method", "objective", "reduction", "sign")
Found = dict[str, float]


@dataclass(frozen=True)
class Use:
    """How a task uses the neurons.

    Attributes:
        scores: [neuron] of every neuron of the model.
        parts: [part, neuron] of parts of the examples; None where they were not scored, which `why` says.
    """

    scores: Float[np.ndarray, " neuron"]
    parts: Float[np.ndarray, "part neuron"] | None = None
    why: str = ""

    def rows(self, chosen: Sequence[int], k: float, seed: int) -> list[Found]:
        """Of each chosen neuron: score, rank, and over halves rank_low, rank_high (95 % of them) and selected."""
        rows = [
            {"score": float(self.scores[i]), "rank": float(1 + (self.scores > self.scores[i]).sum())} for i in chosen
        ]
        if self.parts is None:
            return rows
        ranks = reliability.ranks(self.parts, chosen, seed)
        selected = reliability.selected(self.parts, k, seed)
        for row, i, of_halves in zip(rows, chosen, ranks.T, strict=True):
            low, high = percentile_interval(of_halves)
            row |= {"rank_low": low, "rank_high": high, "selected": float(selected[i])}
        return rows


def used(subject: Subject, scores: Mapping[str, Scores], parts: int) -> dict[str, Use]:
    """Of every task that has scores, or whose examples can be scored, how it uses the neurons."""
    found: dict[str, Use] = {}
    cells: dict[str, Any] = {}
    dealt: dict[str, list[list[int]]] = {}
    for name, task in subject.tasks.items():
        is_there = bool(task.discovery or task.train) or name not in scores  # else there is nothing to deal out
        count = len(task.split("discovery", subject.examples)) if is_there else 0
        several = min(parts, count - count % 2)
        how, why = _how(subject, scores.get(name))
        several = several if several > 1 or name in scores else 1
        if several and how is not None:
            dealt[name] = dealt_out(name, count, several, subject.seed)
            cells |= {f"{name}\n{i}": partial(_part, subject, task, name, dealt, i, how) for i in range(several)}
        elif name in scores:
            found[name] = Use(scores[name].vector().numpy(), None, why or "no discovery examples")
    whole = distributed.has_shards(subject.model.root)
    done = distributed.shared_out(f"{ASKED}: scores", cells, subject.progress, whole=whole)
    for name, of_task in dealt.items():
        table = np.stack([unpacked(done[f"{name}\n{i}"]) for i in range(len(of_task))])
        own = scores[name].vector().numpy() if name in scores else table.mean(0, dtype=np.float64)
        found[name] = Use(own, table if len(table) > 1 else None, "" if len(table) > 1 else "one discovery example")
    return {name: found[name] for name in subject.tasks if name in found}


def _part(
    subject: Subject, task: Task, name: str, dealt: Mapping[str, list[list[int]]], part: int, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores of one part of a task's examples."""
    ((_, asked),) = part_of({name: task}, dealt, part)

    def measure() -> dict[str, Any]:
        found = attribute(
            subject.model, asked, examples=None, batch_size=subject.batch_size, unit=subject.mask.unit, **how
        )
        return packed(found.vector().numpy())

    return subject.journal.get(subject.key("scores", asked.data_hash, dealt[name][part], sorted(how.items())), measure)


def _how(subject: Subject, scores: Scores | None) -> tuple[dict[str, Any] | None, str]:
    """The keywords of `attribute` by which scores were made; None where they cannot be made of a part."""
    if scores is None:
        return {"objective": subject.objective, "skip_first": subject.skip_first}, ""
    manifest = scores.manifest
    method = METHODS.get(str(manifest.get("method")))
    if method is None or method.together or method.partial:
        return None, f"scores by {manifest.get('method', 'an unknown method')}, which parts of the examples do not have"
    options = manifest.get("options", {})
    if not isinstance(options, Mapping) or not all(isinstance(v, int | float | str | None) for v in options.values()):
        return None, f"options of {manifest['method']} that cannot be read back"
    first = {"skip_first": True} if method.by_token and subject.skip_first else {}
    return {name: manifest[name] for name in HOW if name in manifest} | dict(options) | first, ""


def identity(scores: Mapping[str, Scores]) -> dict[str, str]:
    """What tells scores from others."""
    return {name: files.digest(found.vector().numpy().tobytes()) for name, found in scores.items()}
