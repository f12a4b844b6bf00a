"""How far a task's neurons replicate on other examples of the same task, and when it is asked in other ways.

A mask found on other examples overlaps with itself by less than 1, so that is all that two tasks' masks can reach:
`overlap` prints this ceiling beside chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures, files
from neuroscope.attribution import reliability
from neuroscope.attribution.attributing import attribute
from neuroscope.attribution.dealing import dealt_out, number_of_parts, part_of, variants_of
from neuroscope.attribution.methods import METHODS
from neuroscope.checks import Progress, public, share, watched
from neuroscope.errors import ArgumentError, choose, suggest
from neuroscope.masks import NeuronMask, Scores, check_mask
from neuroscope.masks.evidence import Evidence, evidence_of, is_top, same_recipe
from neuroscope.models import resolve
from neuroscope.results import Result
from neuroscope.statistics import percentile_interval
from neuroscope.tasks import Task, Tasks, tasks_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class Stability(Result):
    """How far masks and scores replicate.

    `table` has a row per task, k and number of examples: task, k, examples (that each of two masks is found on),
    neurons, jaccard (mean over pairs of masks found on different examples), low and high (the middle 95 % of these
    pairs, which share examples with one another: no interval of the mean), pairs, chance (Jaccard of layer-matched
    random masks). The manifest has `reliability` by task (`half`: Spearman's rho of the scores of two halves; `full`:
    of all examples, by Spearman and Brown; and shares of variance) and the neurons of every `consensus` mask.
    """

    title = "How far masks replicate"
    captions: ClassVar[Mapping[str, str]] = {
        "reliability": "Reliability of the scores, and whose their variance is",
        "masks": "Overlap of masks of one task, found on different examples",
    }

    def reliability(self) -> pd.DataFrame:
        """One row per task: half and full (Spearman's rho), and the shares of variance."""
        import pandas as pd

        return pd.DataFrame([{"task": name} | row for name, row in self.manifest["reliability"].items()])

    @public
    def ceiling(self, k: float = 0.10) -> dict[str, float]:
        """The expected Jaccard of a task's mask with one that is found on other examples, each on half of them.

        Masks found on all examples replicate rather better, so that the ceiling is a cautious one.

        Raises:
            ArgumentError: a share that was not measured.
        """
        rows = self._at(k)
        last = rows[rows["examples"] == rows.groupby("task")["examples"].transform("max")]
        return dict(zip(last["task"], last["jaccard"].astype(float), strict=True))

    @public
    def consensus(self, task: str, k: float = 0.10) -> NeuronMask:
        """The neurons that are in the mask of (almost) every half of the examples: stability selection.

        As Meinshausen & Bühlmann (2010) select variables, in complementary halves as Shah & Samworth (2013) draw them.
        How often a neuron must be selected is the `often` that `stability` was given.

        Raises:
            ArgumentError: no such task, or a share that was not measured.
        """
        choose(task, self.manifest["consensus"], "task")
        self._at(k)
        about = self.manifest["masks"][task]
        selection = {"k": share(k), "often": self.manifest["often"]}
        return NeuronMask.of(
            self.manifest["consensus"][task][str(share(k))],
            self.manifest["widths"],
            self.manifest["unit"],
            {**about, "selection": selection},
        )

    @public
    def about(self, mask: NeuronMask) -> Evidence:
        """What this says of a mask that was found in the way that was tried here, for its evidence card.

        Raises:
            ArgumentError: a mask found in another way or of another task, or of a size that was not measured.
        """
        asked = "stability(...).about(mask)"
        check_mask(mask, asked)
        masks = self.manifest.get("masks", {})
        names = [name for name, found in masks.items() if same_recipe(mask, found) and mask.unit == found["unit"]]
        if not names or not is_top(mask):
            what = f"a mask that was not found as those of {', '.join(masks) or 'no task'} here"
            found = what if not names else "a mask that was not cut from the scores of the whole model by size"
            raise ArgumentError(asked, found, "measure how far it replicates in the way that the mask was made")
        rows = self.table[self.table["task"] == names[0]]
        sized = rows[rows["neurons"] == len(mask)].sort_values("examples")
        if sized.empty:
            sizes = ", ".join(f"{k:.3g}" for k in sorted(set(rows["k"])))
            found = f"a mask of {len(mask):,} neurons, {len(mask) / sum(mask.widths.values()):.3g} of all"
            raise ArgumentError(asked, found, f"measure that share with stability(k=...); here is k = {sizes}")
        row = sized.iloc[-1]
        reliable = {key: self.manifest["reliability"][names[0]][key] for key in ("half", "full")}
        numbers = {"k": row["k"], "ceiling": row["jaccard"], "chance": row["chance"], "examples": row["examples"]}
        return evidence_of("stability", self.manifest, names[0], **numbers, **reliable)

    def _at(self, k: float) -> pd.DataFrame:
        wanted, measured = share(k), sorted(set(self.table["k"]))
        if wanted not in measured:
            raise ArgumentError(f"k={k!r} of a stability", f"k of {measured}", "ask for one of these, or measure it")
        return self.table[self.table["k"] == wanted]

    def in_words(self) -> str:
        """How much of a mask comes back on other examples, and what that depends on."""
        largest = self.table["k"].max()
        rows = self._at(largest)
        ceilings = self.ceiling(largest)
        worst = min(ceilings, key=lambda name: ceilings[name])
        mean, chance = float(np.mean(list(ceilings.values()))), rows["chance"].mean()
        lines = [
            f"Two masks of one task (k = {largest:.3g}), each found on half of the examples, overlap **{mean:.2f}** "
            f"in the mean over tasks (Jaccard; by chance {chance:.2f}), {ceilings[worst]:.2f} in {worst}.",
            "",
            "- No two tasks can be expected to overlap more than that where their masks are found on so many examples "
            "(on more, they may): `overlap(masks, ceiling=stability.ceiling(k))`.",
        ]
        for k in sorted(set(self.table["k"]))[:-1]:
            found = self.ceiling(k)
            lines.append(f"- k = {k:.3g}: {np.mean(list(found.values())):.2f}, {min(found.values()):.2f} at least.")
        weak = [name for name, value in ceilings.items() if value < 0.5]
        if weak:
            lines.append(
                f"- **A negative**: of {', '.join(weak)}, two masks share less than half of the neurons that are in "
                "either: find them on more examples, or take what replicates with `.consensus(task, k)`."
            )
        table = self.reliability()
        lines.append(
            "- Reliability of the scores on all examples (Spearman over neurons, split halves): "
            f"{table['full'].mean():.2f} in the mean, {table['full'].min():.2f} at least."
        )
        for kind in self.manifest["variants"]:
            lines.append(
                f"- Of the variance of the scores' ranks, {table[kind].mean():.0%} is that of {kind}, beside "
                f"{table['examples'].mean():.0%} of examples; the rest is the neurons' own."
            )
        return "\n".join(lines)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Reliability by task, and the overlap of masks."""
        return {"reliability": self.reliability(), "masks": self.to_frame()}

    def figure(self) -> go.Figure:
        """Overlap of two masks of one task by the examples that each is found on; the mean over tasks, by k."""
        curves: dict[str, Any] = {}
        reference: dict[str, Any] = {}
        for k, rows in self.table.groupby("k"):
            means = rows.groupby("examples", as_index=False)[["jaccard", "chance"]].mean()
            spread = rows.groupby("examples")["jaccard"].agg(["min", "max"])
            label = f"k = {100 * k:.3g} %"
            curves[label] = (means["examples"], (100 * means["jaccard"], 100 * spread["min"], 100 * spread["max"]))
            reference[label] = (means["examples"], 100 * means["chance"])
        return figures.curves_with_band(
            curves,
            reference,
            title=self.title,
            subtitle="two masks of one task, found on different examples: mean and range over tasks; dotted: random "
            "masks of the same layers",
            x_label="examples that each mask is found on",
            y_label="Jaccard, %",
            within=(0, 100),
            colours=dict.fromkeys(curves, figures.style.MEASURED) if len(curves) == 1 else None,
        )


@public
def stability(
    model: Any,
    tasks: Tasks,
    *,
    k: Sequence[float] = (0.001, 0.01, 0.1),
    parts: int = 8,
    often: float = 0.9,
    variants: Mapping[str, Mapping[str, Tasks]] | None = None,
    examples: int | None = 256,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **how: Any,
) -> Stability:
    """How far the masks of `attribute` replicate: on other examples of the task, and with other ways of asking.

    The discovery examples are dealt out to parts of one size and each part is scored once, so that it costs one pass of
    `attribute` (one more for each variant). Scores of several parts are the mean of theirs, as they are for every
    method that averages over examples; those of "lape" and others that score tasks together are averaged as well.

    Args:
        tasks: with as many discovery examples as parts at least.
        k: growing shares of neurons in a mask.
        parts: into how many parts the examples are dealt, at least 2; an even number. What is left over is not used.
        often: in which share of halves a neuron must be in the mask to be in the `consensus`.
        variants: kind -> name -> the same tasks asked in another way, such as `{"templates": {"question": [...]}}` or
            `{"shots": {f"seed {s}": task.with_shots(4, seed=s) for s in range(3)}}`. Every task needs its counterpart
            of the same name, with the same examples in the same order. Each kind has a share of the variance.
        examples: at most how many discovery examples (None: all).
        batch_size: as in `attribute`.
        seed: of the dealing.
        progress: called as `progress(iterable, desc=...)`, such as tqdm.
        how: method, objective, reduction, unit and options of `attribute`.

    Returns:
        Stability, with `.ceiling(k)` for `overlap` and `.consensus(task, k)`.

    Raises:
        ArgumentError: shares, parts, or keywords of `attribute` that cannot be.
        TaskError: fewer examples than parts, or a variant without the task, or of another number of examples.

    Example:
        >>> import neuroscope as ns
        >>> task = ns.load_tasks("mini", train=4, discovery=16, test=4)["nli-food"]
        >>> found = ns.stability("mini", task, parts=4, k=[0.1])
        >>> 0.3 < found.ceiling(0.1)["nli-food"] < 0.9
        True
    """
    import pandas as pd

    method = METHODS[choose(how.get("method", "grad-x-act"), METHODS, "method")]
    known = ["method", "objective", "reduction", "unit", "sign", *method.options]
    if unknown := next((name for name in how if name not in known), None):
        raise ArgumentError(f"stability({unknown}=...)", "no such option", suggest(unknown, known))
    parts, often = number_of_parts(parts, "stability"), share(often, "often")
    named = tasks_of(tasks, "stability")
    kinds = variants_of(variants, named)
    opened, dealt = resolve(model), {}
    for name, task in named.items():
        dealt[name] = dealt_out(name, len(task.split("discovery", examples)), parts, seed)
    how |= {"examples": None, "batch_size": batch_size, "seed": seed}
    asked: dict[tuple[str, str], Mapping[str, Task]] = {("", ""): named}
    asked |= {(kind, name): ways for kind, names in kinds.items() for name, ways in names.items()}
    wanted = [(way, part) for way in asked for part in range(parts)]
    scores: dict[tuple[str, str], list[dict[str, Scores]]] = {way: [] for way in asked}
    for way, part in watched(wanted, progress, "stability"):
        scores[way].append(attribute(opened, dict(part_of(asked[way], dealt, part)), **how))
    first = scores["", ""][0]
    some = next(iter(first.values()))
    rows: list[dict[str, Any]] = []
    reliabilities: dict[str, dict[str, float]] = {}
    consensus: dict[str, dict[str, dict[str, list[int]]]] = {}
    for name in named:
        found = {way: np.stack([part[name].vector().numpy() for part in of_way]) for way, of_way in scores.items()}
        own = found["", ""]
        half, full = reliability.split_half(own, seed)
        plain = reliability.shares_of_variance(own[None])
        reliabilities[name] = {"half": half, "full": full, "examples": plain["examples"]} | {
            kind: reliability.shares_of_variance(np.stack([own, *(found[kind, n] for n in names)]))["ways"]
            for kind, names in kinds.items()
        }
        consensus[name] = {}
        for value in k:
            often_in = reliability.selected(own, value, seed) >= often - 1e-9
            consensus[name][str(value)] = _indices(often_in, some.widths)
            mask = reliability.top(own.mean(0), value)
            for size in sorted({2**i for i in range(10) if 2**i <= parts // 2} | {parts // 2}):
                pairs = reliability.jaccards(own, size, value, seed)
                low, high = percentile_interval(pairs)
                rows.append(
                    {"task": name, "k": value, "examples": size * len(dealt[name][0]), "neurons": int(mask.sum())}
                    | {"jaccard": float(pairs.mean()), "low": low, "high": high, "pairs": len(pairs)}
                    | {"chance": _chance(mask, some.widths)}
                )
    manifest = {
        **opened.provenance(),
        "unit": some.unit,
        "widths": dict(some.widths),
        "parts": parts,
        "often": often,
        "seed": seed,
        "variants": {kind: list(names) for kind, names in kinds.items()},
        "reliability": reliabilities,
        "consensus": consensus,
        "masks": {
            name: {**of.manifest, "data_hash": named[name].data_hash, "unit": of.unit} for name, of in first.items()
        },
        "measured": files.today(),
        "versions": files.versions(),
    }
    return Stability(pd.DataFrame(rows), manifest)


def _indices(flags: np.ndarray, widths: Mapping[str, int]) -> dict[str, list[int]]:
    ends = np.cumsum(list(widths.values()))[:-1]
    return {a: np.flatnonzero(part).tolist() for a, part in zip(widths, np.split(flags, ends), strict=True)}


def _chance(flags: np.ndarray, widths: Mapping[str, int]) -> float:
    """Jaccard of two random masks of as many neurons in the same layers as this one has."""
    counts = {a: len(chosen) for a, chosen in _indices(flags, widths).items()}
    shared = sum(count**2 / widths[a] for a, count in counts.items() if count)
    return shared / (2 * sum(counts.values()) - shared)
