"""Which way of scoring neurons to use on this model: every method against exact ablation of held-out neurons.

1. Every method scores all neurons on discovery examples; its time and the examples that it shows the model are counted.
2. Neurons are sampled: half are the first of any method or the loudest (largest mean activation), taken in turns; the
   others are drawn at random from the rest.
3. Each sampled neuron is ablated by itself on test examples (`exact`), which gives its effect.
4. Of each method: Spearman's correlation of its scores with the effects, and its recall of the neurons with the largest
   effects, each with an interval. Recommended is the method with the highest recall; of equal ones the one with the
   highest correlation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from neuroscope import figures, files
from neuroscope.attribution import METHODS, attribute
from neuroscope.attribution.objectives import OBJECTIVES, Objective
from neuroscope.checks import Progress, public, texts_of, whole
from neuroscope.errors import ArgumentError, choose
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import Model, Unit, resolve
from neuroscope.results import Result
from neuroscope.statistics import Floats, bootstrap_interval, percentile_interval, score_interval
from neuroscope.tasks import Task, tasks_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DEFAULT = "grad-x-act"  # LX24's, and that of `attribute`
CONTROL = "random"
RESAMPLES = 500
Asked = Mapping[str, Mapping[str, Any]]  # label -> arguments of `attribute`


@dataclass(frozen=True, repr=False)
class MethodComparison(Result):
    """One row per task and method.

    Columns: task, method, spearman (with exact ablation, over the sampled neurons; NaN where all scores are equal) with
    low and high, recall (share of the neurons with the largest effects that are among as many of its first) with
    recall_low and recall_high, top and neurons (how many those are), shown (examples it showed the model for each one
    that it scored). The manifest has `seconds` by method, and `recommended`.
    """

    title = "Which method finds the neurons that matter"
    captions: ClassVar[Mapping[str, str]] = {"methods": "Every method against exact ablation, over all tasks"}

    @property
    def recommended(self) -> str:
        """The method to use: the highest recall, and of equal ones the highest correlation."""
        return str(self.manifest["recommended"])

    def overall(self) -> pd.DataFrame:
        """One row per method, the best first: over all tasks, with `behind`, how much recall it lacks of the best."""
        import pandas as pd  # heavy: only for tables

        return pd.DataFrame(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        return [row | {"seconds": self.manifest["seconds"][row["method"]]} for row in self.manifest["overall"]]

    def in_words(self) -> str:
        """Which method to use and why, and where the default is not the best."""
        rows = {row["method"]: row for row in self._rows()}
        best, top = rows[self.recommended], int(self.table["top"].iloc[0])
        text = f"Use **{best['method']}** on this model: of the {top} sampled neurons whose ablation changes the "
        text += f"{self.manifest['objective']} most, it has {_share(best)} among its own first {top}"
        text += f", and its scores correlate with the effects by {_rank(best)}."
        chance = top / int(self.table["neurons"].iloc[0])
        if best["recall_low"] <= chance:
            text += f"\n\n- **A negative**: that is not more than the {chance:.0%} that chance has: no method can be "
            text += (
                "told from a draw. Sample more neurons, or ask for another objective (log-odds where it is certain)."
            )
        default = rows.get(DEFAULT)
        if default is not None and best is not default:
            lacks = f"{default['behind']:.0%} [{default['behind_low']:.0%}, {default['behind_high']:.0%}]"
            if default["behind_low"] > 0:
                text += (
                    f"\n\n- **A negative**: the default, {DEFAULT}, is not the best here: it has {_share(default)}, "
                )
                text += f"{lacks} less."
            else:
                text += f"\n\n- The default, {DEFAULT}, cannot be told from it: it has {_share(default)}, {lacks} less."
        elif default is not None:
            text += "\n\n- It is the default."
        cheap = [r for r in rows.values() if r["method"] != CONTROL and r is not best and r["behind_low"] <= 0]
        cheap = [r for r in cheap if r["seconds"] < best["seconds"] / 2]
        if cheap:
            names = ", ".join(
                f"{r['method']} ({r['seconds'] / max(best['seconds'], 1e-9):.0%} of its time)" for r in cheap
            )
            text += f"\n\n- Not told apart in recall, and at least twice as fast: {names}."
        text += "\n\n- The rule: the highest recall over all tasks; of equal ones, the highest correlation with exact "
        text += "ablation. Half of the sampled neurons are the first of any method or the loudest, half are random."
        return text

    def tables(self) -> dict[str, pd.DataFrame]:
        """Over all tasks, and task by task."""
        return {"methods": self.overall(), "tasks": self.to_frame()}

    def figure(self) -> go.Figure:
        """Recall and correlation of each method, over all tasks."""
        frame = self.overall()
        bars = {
            "recall": tuple(frame[c].tolist() for c in ("recall", "recall_low", "recall_high")),
            "Spearman": tuple(frame[c].tolist() for c in ("spearman", "low", "high")),
        }
        return figures.bars_with_band(
            frame["method"].tolist(),
            bars,
            title="Methods against exact ablation",
            subtitle=f"recommended: {self.recommended}; {self.manifest['neurons']} neurons sampled for each task",
            value_label="agreement with exact ablation",
            within=(-1.0, 1.0),
        )


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['recall']:.0%} [{row['recall_low']:.0%}, {row['recall_high']:.0%}]"


def _rank(row: Mapping[str, Any]) -> str:
    return f"{row['spearman']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


@public
def compare_methods(
    model: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    *,
    methods: Sequence[str] | Mapping[str, Any] | None = None,
    neurons: int = 200,
    top: int = 20,
    objective: Objective = "loss",
    unit: Unit = "hidden",
    examples: int | None = 64,
    n: int | None = 32,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> MethodComparison:
    """Compare ways of scoring neurons with exact ablation, and recommend one for this model.

    Args:
        model: anything that can be opened, in float32 (exact ablation asks for it).
        tasks: a Task, or a sequence or a mapping of them.
        methods: names of methods; or a label -> arguments of `attribute`, such as
            `{"relp, authors": {"method": "relp", "rules": "authors"}}`. None: all that the tasks allow.
        neurons: how many to sample for each task; every one is ablated by itself.
        top: how many of them count as those with the largest effects.
        objective: what is scored, and what exact ablation measures.
        unit: "hidden", "output" or "head".
        examples: discovery examples to score on (None: all).
        n: test examples to ablate on (None: all).
        seed: of the random neurons and of the intervals.
        batch_size: examples per forward pass (None: chosen by tokens).
        progress: called as `progress(iterable, desc=...)`; `tqdm` fits.

    Returns:
        `MethodComparison`: a row per task and method; `.recommended` is the name of one, `.in_words()` says why.

    Raises:
        ArgumentError: an unknown method or option, "exact" among them, or fewer neurons than `top`.
        ModelError, TaskError: as `attribute`; a task without test examples.

    Example:
        >>> import neuroscope as ns
        >>> task = ns.load_tasks("mini", train=4, discovery=8, test=8)["nli-food"]
        >>> found = ns.compare_methods("mini", task, methods=["grad-x-act", "random"], neurons=30, top=10)
        >>> found.table["method"].tolist()
        ['grad-x-act', 'random']
    """
    by_name = tasks_of(tasks, "compare_methods")
    choose(objective, OBJECTIVES, "objective")
    whole(top, "top", 1, "give how many neurons count as the most relevant, such as 20")
    if whole(neurons, "neurons", 2, "give how many to sample, such as 200") <= top:
        raise ArgumentError(f"compare_methods(neurons={neurons}, top={top})", "no more neurons than top", "sample more")
    asked = _asked(methods, by_name)
    for task in by_name.values():
        task.split("test", n)
    opened = resolve(model)
    width = sum(site.width for site in opened.sites(unit).values())
    if width < neurons:
        raise ArgumentError(f"neurons={neurons}", f"a model of {width} of them", "sample fewer")
    settings: dict[str, Any] = {"objective": objective, "unit": unit, "seed": seed, "batch_size": batch_size}
    settings["progress"] = progress
    seconds, shown, scores = {}, {}, {}
    with opened.unchanged():
        for label, options in asked.items():
            begun = time.perf_counter()
            scores[label], shown[label] = _scored(opened, by_name, {**settings, "examples": examples, **options})
            seconds[label] = time.perf_counter() - begun
        known = [scores[label] for label, options in asked.items() if options == {"method": "activation"}]
        loud = (known or [attribute(opened, by_name, **{**settings, "method": "activation", "examples": examples})])[0]
        rows: list[dict[str, Any]] = []
        draws: dict[str, list[Floats]] = {label: [] for label in asked}
        hits: dict[str, list[Floats]] = {label: [] for label in asked}
        for name, task in by_name.items():
            vectors = {label: found[name].vector() for label, found in scores.items()}
            chosen = _sampled([*vectors.values(), loud[name].vector()], neurons, seed)
            mask = _mask(scores[next(iter(scores))][name], chosen)
            exact = attribute(
                opened, task, **{**settings, "method": "exact", "neurons": mask, "split": "test", "examples": n}
            )
            effects = exact.vector()[chosen].numpy()
            for label, vector in vectors.items():
                values = vector[chosen].numpy()
                found, drawn = _hits(values, effects, top), _rank_draws(values, effects, seed)
                hits[label].append(found)
                draws[label].append(drawn)
                rows.append(
                    {"task": name, "method": label, **_measured(found, [_spearman(values, effects)], [drawn], seed)}
                    | {"top": top, "neurons": neurons, "shown": shown[label]}
                )
        provenance = opened.provenance()
    import pandas as pd  # heavy: only for tables

    table = pd.DataFrame(rows)
    overall = _overall(table, hits, draws, seed)
    manifest = {
        **provenance,
        **{k: settings[k] for k in ("objective", "unit", "seed")},
        "tasks": {name: task.data_hash for name, task in by_name.items()},
        "methods": {label: {k: str(v) for k, v in options.items()} for label, options in asked.items()},
        "examples": examples,
        "n": n,
        "neurons": neurons,
        "recommended": overall[0]["method"],
        "overall": overall,
        "seconds": seconds,
        "versions": files.versions(),
    }
    return MethodComparison(table, manifest)


def _asked(methods: Any, tasks: Mapping[str, Task]) -> Asked:
    """The methods to compare by label; all that the tasks allow if None."""
    if methods is None:
        corrupt = all(e.corrupt is not None for task in tasks.values() for e in task.split("discovery"))
        fits = lambda row: (corrupt or not row.corrupt) and (len(tasks) > 1 or not row.together)  # noqa: E731
        open_ones = [
            name for name, row in METHODS.items() if fits(row) and not row.partial and "base" not in row.options
        ]
        return {name: {"method": name} for name in open_ones}
    if isinstance(methods, Mapping):
        asked = {}
        for label, options in methods.items():
            if not isinstance(label, str) or not isinstance(options, Mapping) or "method" not in options:
                do = "give label -> arguments of attribute, such as {'relp': {'method': 'relp'}}"
                raise ArgumentError(f"methods[{label!r}]", "no method", do)
            asked[label] = dict(options)
    else:
        asked = {name: {"method": name} for name in texts_of(methods, "methods")}
    if not asked:
        raise ArgumentError("methods=()", "no method", "give some names, or None for all that the tasks allow")
    for options in asked.values():
        if choose(options["method"], METHODS, "methods") == "exact":
            raise ArgumentError("methods", "exact among them", "leave it out: the others are compared with it")
    return asked


def _scored(model: Model, tasks: Mapping[str, Task], how: dict[str, Any]) -> tuple[Mapping[str, Scores], float]:
    """The scores, and how many examples the model was shown for each one that was scored."""
    shown = 0

    def count(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal shown
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        shown += len(tensors[0]) if tensors else 0

    handle = model.base.register_forward_pre_hook(count, with_kwargs=True)
    try:
        scores = attribute(model, tasks, **how)
    finally:
        handle.remove()
    return scores, shown / sum(s.manifest["examples"] for s in scores.values())


def _sampled(rankings: Sequence[Float[Tensor, " neuron"]], neurons: int, seed: int) -> Tensor:
    """Half are the first of any ranking, in turns; the rest are drawn from the others. Ascending."""
    orders = [r.argsort(descending=True, stable=True).tolist() for r in rankings]
    first: dict[int, None] = {}
    for place in zip(*orders, strict=True):
        for neuron in place:
            if len(first) < neurons // 2:
                first[neuron] = None
    left = torch.tensor([i for i in range(len(rankings[0])) if i not in first])
    drawn = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))[: neurons - len(first)]]
    return torch.cat([torch.tensor([*first], dtype=torch.long), drawn]).sort().values


def _mask(scores: Scores, chosen: Tensor) -> NeuronMask:
    """The chosen neurons, numbered in forward order through the model, as a mask."""
    flags = torch.zeros(len(scores), dtype=torch.bool)
    flags[chosen] = True
    parts = flags.split([scores.widths[a] for a in scores])
    return NeuronMask(
        {a: p.nonzero().flatten() for a, p in zip(scores, parts, strict=True)}, scores.widths, scores.unit
    )


def _hits(values: Floats, effects: Floats, top: int) -> Floats:
    """Of each neuron with a largest effect, whether it is among the method's first; of tied ones, how likely it is."""
    wanted = np.argsort(-effects, kind="stable")[:top]
    bar = np.sort(values)[-top]
    above, tied = int((values > bar).sum()), int((values == bar).sum())
    return np.where(values > bar, 1.0, np.where(values == bar, (top - above) / tied, 0.0))[wanted]


def _spearman(values: Floats, effects: Floats) -> float:
    if np.ptp(values) == 0 or np.ptp(effects) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(values), stats.rankdata(effects))[0, 1])


def _rank_draws(values: Floats, effects: Floats, seed: int) -> Floats:
    """Spearman's correlation of resampled neurons."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(values), size=(RESAMPLES, len(values)))
    return np.array([_spearman(values[i], effects[i]) for i in draws])


def _measured(hits: Floats, ranks: Sequence[float], draws: Sequence[Floats], seed: int) -> dict[str, float]:
    """Correlation and recall, with their intervals."""
    low, high = percentile_interval(np.mean(draws, axis=0))
    recall_low, recall_high = score_interval(hits, seed)
    numbers = {"spearman": float(np.mean(ranks)), "low": low, "high": high}
    return numbers | {"recall": float(hits.mean()), "recall_low": recall_low, "recall_high": recall_high}


def _overall(
    table: pd.DataFrame,
    hits: Mapping[str, list[Floats]],
    draws: Mapping[str, list[Floats]],
    seed: int,
) -> list[dict[str, Any]]:
    """One row per method over all tasks, the recommended one first, the control last."""
    pooled = {label: np.concatenate(found) for label, found in hits.items()}
    rows = []
    for label, found in pooled.items():
        of_tasks = table[table["method"] == label]
        row: dict[str, Any] = {"method": label, **_measured(found, of_tasks["spearman"].tolist(), draws[label], seed)}
        rows.append(row | {"shown": float(of_tasks["shown"].mean())})
    rows.sort(key=lambda r: (r["method"] == CONTROL, -r["recall"], -np.nan_to_num(r["spearman"], nan=-1.0)))
    for row in rows:
        lacking = pooled[rows[0]["method"]] - pooled[row["method"]]
        low, high = bootstrap_interval(lacking, seed)
        row |= {"behind": float(lacking.mean()), "behind_low": low, "behind_high": high}
    return rows
