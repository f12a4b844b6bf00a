"""Nearest neurons in every sense: by weights, by activation, and by which tasks use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroscope.arrays import json_plain
from neuroscope.reading.cards.active_together import Near
from neuroscope.reading.cards.replicating import Use
from neuroscope.reading.cards.subject import Place, Subject
from neuroscope.reading.directions_result import Directions

FEWEST = 3  # tasks that make a profile
WEIGHTS = {"output": "output weights", "parameters": "all weights"}


def by_tasks(subject: Subject, uses: Mapping[str, Use], count: int) -> dict[Place, Near]:
    """Of each chosen neuron, those with the nearest profile: the cosine of their scores by task, of each task's scores
    over their root mean square. Only neurons that would be in some task's mask, as large as this one, are compared.
    """
    if len(uses) < FEWEST:
        return {}
    scores = np.stack([use.scores.astype(np.float64) for use in uses.values()])
    k = max(1, len(subject.mask))
    used = (scores >= np.partition(scores, -k, axis=1)[:, -k, None]).any(0)
    profiles = scores / np.maximum(np.sqrt((scores**2).mean(1, keepdims=True)), 1e-30)
    profiles /= np.maximum(np.linalg.norm(profiles, axis=0), 1e-30)
    found: dict[Place, Near] = {}
    for place, flat in zip(subject.places, subject.flat, strict=True):
        cosines = np.where(used, profiles[:, flat] @ profiles, -2.0)
        cosines[flat] = -2.0
        order = np.argsort(-cosines, kind="stable")[:count]
        found[place] = [(subject.place_of(int(i)), float(cosines[i])) for i in order if cosines[i] > -2]
    return found


def in_card(
    subject: Subject,
    place: Place,
    name: str,
    weights: Directions | None,
    others: Mapping[str, Mapping[Place, Near]],
    most: int,
) -> list[dict[str, Any]]:
    """The rows of a card: weights first, then what else there is."""
    rows = []
    if weights is not None:
        for near in weights.nearest(name).itertuples():
            if near.rank >= most:
                continue
            rows.append({"neuron": str(near.name), "similarity": json_plain(near.value), "by": WEIGHTS[near.by]})
    for by, found in others.items():
        for other, similarity in found.get(place, []):
            rows.append({"neuron": subject.name_of(other), "similarity": json_plain(similarity), "by": by})
    return rows
