"""How much work a job is: its stages, each with what is scored, measured, trained and read in it.

Counts follow from what was asked: T tasks, of which L are learnt where others are held out, S seeds, R random masks of
each kind. What an earlier stage has in the journal is not counted again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = 3  # of random masks in `deactivation`
BESIDE = 3  # random masks beside each in the faithfulness of `run`
SHARED = "layer by layer"  # figures of one run of `mossa`, which is made once in a folder
RATES = 3  # that T5 tries of each method


@dataclass(frozen=True)
class Stage:
    """A part of a job.

    Attributes:
        name: what it does.
        scorings: tasks whose neurons are scored, once each.
        evaluations: a task measured under one condition is one.
        neutral: passes over the neutral texts.
        trainings: of some neurons, or of a model.
        readings: tasks whose representations are read, once each.
        is_about: the counts are no more than near.
    """

    name: str
    scorings: int = 0
    evaluations: int = 0
    neutral: int = 0
    trainings: int = 0
    readings: int = 0
    is_about: bool = False


@dataclass(frozen=True)
class Size:
    """How large a job is.

    Attributes:
        tasks: T.
        learnt: L.
        seeds: S.
        n_random: R.
        settings: everything else that the experiment was given, or has by default.
    """

    tasks: int
    learnt: int = 0
    seeds: int = 1
    n_random: int = 0
    settings: Mapping[str, Any] | None = None

    def number(self, name: str, default: int = 1) -> int:
        """How many values a setting has."""
        value = (self.settings or {}).get(name)
        return len(value) if isinstance(value, Sequence) and not isinstance(value, str) else default


def stages_of_run(t: int, r: int, sizes: int, parts: bool, tune: bool, neutral: bool) -> list[Stage]:
    """The stages of `run`.

    Args:
        t: tasks.
        r: random masks of each kind.
        sizes: shares whose faithfulness is shown, k among them; 0 for none.
        parts: whether it is seen how masks replicate.
        tune: whether the model is trained first.
        neutral: whether there are neutral texts.

    Example:
        >>> [(stage.name, stage.evaluations) for stage in stages_of_run(2, 3, 0, False, False, False)]
        [('find neurons', 0), ('switch them off', 22), ('cross-ablate', 8), ('read the strongest neurons', 0)]
    """
    stages = [Stage("tune the model", evaluations=2 * t, trainings=1)] * tune
    stages += [Stage("find neurons", scorings=t)] + [Stage("see how masks replicate", scorings=t)] * parts
    stages.append(
        Stage("switch them off", evaluations=t * (2 + KINDS * r), neutral=neutral * (1 + t * (1 + KINDS * r)))
    )
    if t > 1:  # what the stage before has measured: nothing off, each own mask, and its random ones of the same layers
        stages.append(Stage("cross-ablate", evaluations=t * (1 + t * (1 + r)) - t * (2 + r)))
    if sizes:  # alone and off, with random masks; at k what is off is known; and everything off
        each = 2 * (1 + BESIDE)
        stages.append(Stage("measure faithfulness", evaluations=t * (each * sizes - (1 + BESIDE) + 1)))
    return [*stages, Stage("read the strongest neurons", readings=t, is_about=True)]


def _deactivation(s: Size) -> list[Stage]:
    t, r = s.tasks, s.n_random
    off = Stage("switch neurons off", evaluations=t * (2 + KINDS * r), neutral=1 + t * (1 + KINDS * r))
    return [Stage("find neurons", scorings=t), off]


def _train_only(s: Size) -> list[Stage]:
    runs = s.tasks * s.seeds * 3  # its own, random ones of the whole model, random ones of the same layers
    return [Stage("find neurons", scorings=s.tasks), Stage("train", evaluations=s.tasks + runs, trainings=runs)]


def _proportions(s: Size) -> list[Stage]:
    groups = 1 if (s.settings or {}).get("joint", True) else s.learnt
    runs = groups * s.number("k", 5) * s.seeds * 2
    train = Stage("train", evaluations=s.tasks * (1 + runs), trainings=runs)
    return [Stage("find neurons", scorings=s.tasks), train]


def _cross_training(s: Size) -> list[Stage]:
    runs = s.tasks * s.seeds * 2
    train = Stage("train", evaluations=s.tasks * (1 + runs), trainings=runs)
    return [Stage("find neurons", scorings=s.tasks), train]


def _depth(s: Size) -> list[Stage]:
    return [Stage("find neurons", scorings=s.tasks), Stage("train", trainings=s.tasks)]


def _overlap_controlled(s: Size) -> list[Stage]:
    runs = s.number("shares", 5) * s.seeds
    train = Stage("train", evaluations=s.tasks * (1 + runs), trainings=runs)
    return [Stage("find neurons", scorings=s.tasks), train]


def _continual(s: Size) -> list[Stage]:
    given = (s.settings or {}).get("recipe") or {}
    rates = 1 if given.get("lr") else RATES
    runs = s.number("methods", 12) * ((rates if rates > 1 else 0) + s.seeds)
    stages = runs * s.tasks
    return [Stage("learn tasks in turn", s.tasks, stages * s.tasks, trainings=stages, is_about=True)]


def _mossa(s: Size) -> list[Stage]:
    return [Stage(SHARED, trainings=1 + s.tasks, readings=3 * s.tasks)]


def _faithfulness(s: Size) -> list[Stage]:
    each = 2 * (1 + s.n_random) * s.number("k", 6)
    measure = Stage("measure faithfulness", evaluations=s.tasks * (2 + each), is_about=True)
    return [Stage("find neurons", scorings=s.tasks), measure]


def _modularity(s: Size) -> list[Stage]:
    t, values = s.tasks, s.number("values", 2)
    cross = Stage("cross-ablate", evaluations=values * t * t * (1 + s.n_random) + t, is_about=True)
    return [Stage("find neurons", scorings=t, evaluations=2 * t, is_about=True), cross]


def _pruning(s: Size) -> list[Stage]:
    runs = s.tasks * s.number("k", 4) * (2 + s.n_random)  # by score, against it, at random
    take = Stage("prune and train", 0, s.tasks + 2 * runs, 2 * runs, runs, is_about=True)
    return [Stage("find neurons", scorings=s.tasks), take]


def _scores_alone(s: Size) -> list[Stage]:
    return [Stage("find neurons", scorings=s.tasks)]


STAGES: dict[str, Callable[[Size], list[Stage]]] = {
    "deactivation": _deactivation,
    "train_only": _train_only,
    "proportion_sweep": _proportions,
    "parameter_depth": _depth,
    "parameter_transfer": _cross_training,
    "cross_training": _cross_training,
    "continual_comparison": _continual,
    "overlap_sweep": _scores_alone,
    "overlap_controlled": _overlap_controlled,
    "mossa": _mossa,
    "faithfulness": _faithfulness,
    "modularity": _modularity,
    "pruning": _pruning,
}
