"""Continual: the scores of every task after every stage, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from neuroscope import figures
from neuroscope.checks import all_of, public
from neuroscope.errors import ArgumentError
from neuroscope.evaluation import CONSTANT
from neuroscope.results import Result
from neuroscope.statistics import mean_interval
from neuroscope.tasks.catalogue import CL_ORDERS
from neuroscope.training.continual_learning.learnt import kept_in_words, learnt_table, never_learnt, note
from neuroscope.training.continual_learning.metrics import RUN, VARIANT, matrix, method_means, retention, run_metrics

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

STAGES = "run a method with stages: any but joint"

Variant = tuple[str, str, float]  # method, options, learning rate

# LX24 Table 5, Llama-2-7b: average accuracy in %, means over orders 1 to 3 (four tasks) and 4 to 6 (eight)
PUBLISHED = {
    "seqft": (47.1, 34.6), "seq-lora": (53.8, 47.7), "epi": (48.4, 42.6), "o-lora": (76.1, 71.6), "ncft": (71.3, 70.0),
    "w-ncft": (73.3, 72.0), "per-task": (77.2, 84.5),
}  # fmt: skip
CONTROLS = (  # method, what it is compared with, what that trains
    ("ncft", "ncft-random", "as many random neurons of the same layers"),
    ("ncft", "ffn", "all FFN neurons"),
    ("ncft", "seqft", "the whole model"),
    ("ncft", "seq-lora", "LoRA on all linear layers"),
    ("w-ncft", "ncft", "the same without weighting"),
)


@dataclass(frozen=True, repr=False)
class Continual(Result):
    """Runs of methods over sequences of tasks.

    Attributes:
        table: one row per run, stage and task: method, options (text: those that are not its defaults), lr, order
            (its number), seed, stage (0: the base), learnt (the stage's task), task, position (of the task in the
            order, from 1; 0: the base could do it already), score, low, high (95 % interval over examples),
            se (standard error over examples), n, trained (parameters trained at the stage), stored (numbers kept
            besides the base, or instead of it, to answer and to go on learning), seconds, peak_mib (memory beyond what
            was held before the stage).
        manifest: model, tasks with data hashes, orders, sees (by method, what it is told or keeps that others do not;
            "" for nothing), chance (of each task the best constant answer, its score and that of guessing), settings,
            the log of every stage, versions.

    Example:
        >>> import pandas as pd
        >>> rows = [(1, "a", 1, 0.9), (1, "b", 2, 0.5), (2, "a", 1, 0.7), (2, "b", 2, 0.9)]
        >>> table = pd.DataFrame(rows, columns=["stage", "task", "position", "score"]).assign(method="ffn", options="")
        >>> table = table.assign(lr=1e-3, order=0, seed=0, se=0.05, trained=10, stored=20, seconds=1.0, peak_mib=1.0)
        >>> Continual(table, {}).metrics()[["average accuracy", "retention", "forgetting"]].round(3).to_dict("records")
        [{'average accuracy': 0.8, 'retention': 0.778, 'forgetting': 0.2}]
    """

    title = "Learning tasks one after another"
    captions: ClassVar[Mapping[str, str]] = {
        "summary": "Means over runs, per method",
        "learnt": "Every task right after its own stage, beside the best constant answer",
        "runs": "Every task after every stage",
        "metrics": "Every run",
        "published": "Average accuracy in %, beside Table 5 of Leng & Xiong (Llama-2-7b)",
    }

    @classmethod
    @public
    def join(cls, results: Sequence[Continual]) -> Continual:
        """Several results as one, to compare methods on the same model and tasks.

        Raises:
            ArgumentError: none, of different models, tasks or orders, or with a run twice.
        """
        import pandas as pd  # heavy: only where tables are made

        results = all_of(results, "results")
        wrong = [type(result).__name__ for result in results if not isinstance(result, Continual)]
        if wrong or not results:
            raise ArgumentError("join results", ", ".join(wrong) or "none", "give one or more results of continual")
        first = results[0].manifest
        for other in results[1:]:
            for key in ("fingerprint", "data_hash", "known", "orders", "split", "n"):
                if other.manifest[key] != first[key]:
                    found = f"{key} {other.manifest[key]}, and {first[key]}"
                    raise ArgumentError("join results", found, "join runs on one model, with the same tasks and orders")
        runs = [run for result in results for run in result.manifest["runs"]]
        keys = [key for result in results for key, _ in result.runs()]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ArgumentError("join results", f"the run {dict(zip(RUN, twice, strict=True))} twice", "give each once")
        table = pd.concat([result.table for result in results], ignore_index=True)
        sees = {method: text for result in results for method, text in result.manifest.get("sees", {}).items()}
        return cls(table, {**first, "runs": runs, "sees": sees})

    @property
    def methods(self) -> list[str]:
        """What the methods are called: by name, with options and learning rate where a method has several of them."""
        return list(self._labels().values())

    def _labels(self) -> dict[Variant, str]:
        keys = list(dict.fromkeys(self.table[VARIANT].itertuples(index=False, name=None)))
        labels = {}
        for method, options, lr in keys:
            same_method = [key for key in keys if key[0] == method]
            several = [len({key[i] for key in same_method}) > 1 for i in (1, 2)]
            more = [text for text, wanted in zip((options, f"{lr:g}"), several, strict=True) if wanted and text]
            labels[method, options, lr] = " ".join([method, *more])
        return labels

    def runs(self) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
        """(method, options, lr, order, seed) and the rows of each run."""
        return list(self.table.groupby(RUN, sort=False))

    def metrics(self) -> pd.DataFrame:
        """One row per run: every number of `METRICS`, the interval of the average accuracy, and the costs.

        low, high: the average accuracy's 95 % interval over test examples (normal; the scores of the tasks are
        independent). base: the mean score on the tasks that the base could do before. base kept: that after the last
        stage, over that before. trained: parameters trained at the last stage. stored: numbers kept after it.
        """
        return run_metrics(self.table)

    def summary(self) -> pd.DataFrame:
        """One row per method, options and learning rate: means over runs, with the average accuracy's 95 % interval.

        The interval is Student's t over runs (orders and seeds); of a single run, the one over test examples. sees:
        what the method is told or keeps that others do not.
        """
        means = method_means(self.metrics())
        means["sees"] = [self.manifest.get("sees", {}).get(method, "") for method in means["method"]]
        return means

    def learnt(self) -> pd.DataFrame:
        """One row per method and task, means over runs: was it learnt above chance right after its own stage?

        Columns: method, task, learnt (score after its own stage; of joint, after the only one), last (after the last
        stage), kept (last over learnt; NaN at chance), runs, n, majority, uniform, p_majority and chance ("above", "at
        chance" or "no test": `evaluation.constant`, of the mean over runs).
        """
        return learnt_table(self.table, self._labels(), self.manifest.get("chance") or {})

    @public
    def differences(self, reference: str) -> pd.DataFrame:
        """How much more a method's average accuracy is than every other's on the same orders and seeds.

        One row per other method: mean difference (reference - method), its 95 % Student's t interval over runs (NaN
        for a single run), and the number of runs.

        Raises:
            ArgumentError: a method that is not one of `methods`.
        """
        import pandas as pd  # heavy: only where tables are made

        if reference not in self.methods:
            raise ArgumentError(
                f"differences(reference={reference!r})", f"runs of {', '.join(self.methods)}", "name one of them"
            )
        labels = self._labels()
        scores = {
            labels[key]: runs.set_index(["order", "seed"])["average accuracy"]
            for key, runs in self.metrics().groupby(VARIANT, sort=False)
        }
        rows = []
        for method, other in scores.items():
            if method != reference:
                gap = (scores[reference] - other).dropna().to_numpy()
                low, high = mean_interval(gap)
                mean = gap.mean() if len(gap) else np.nan
                rows.append({"method": method, "difference": mean, "low": low, "high": high, "runs": len(gap)})
        return pd.DataFrame(rows)

    @public
    def matrix(self, method: str | None = None, order: int = 0) -> pd.DataFrame:
        """a[i, j]: mean over seeds of the score on task j (column) after learning task i (row; first the base).

        Raises:
            ArgumentError: no such method or order; several methods, and none is named.
        """
        runs = self._of(method)
        runs = runs[(runs["order"] == order) & (runs["position"] > 0)]
        if not len(runs):
            raise ArgumentError(f"matrix(order={order})", f"orders {sorted(set(self.table['order']))}", "name one")
        means = runs.groupby(["stage", "learnt", "position", "task"], sort=False)["score"].mean().reset_index()
        wide = means.pivot(index="stage", columns="position", values="score")
        wide.columns = means.drop_duplicates("position").set_index("position").loc[wide.columns, "task"]
        wide.index = means.drop_duplicates("stage").set_index("stage").loc[wide.index, "learnt"]
        return wide

    def _of(self, method: str | None) -> pd.DataFrame:
        if method is None and len(self.methods) > 1:
            raise ArgumentError("one method's runs", f"runs of {', '.join(self.methods)}", "name one: method=...")
        if method is not None and method not in self.methods:
            raise ArgumentError(f"runs of method {method!r}", f"runs of {', '.join(self.methods)}", "name one of them")
        key = next(key for key, label in self._labels().items() if method in (None, label))
        return self.table[(self.table[VARIANT] == key).all(axis=1)]

    @public
    def figure(self, method: str | None = None, order: int = 0) -> go.Figure:
        """The accuracy matrix of one method, mean over seeds; for several methods, accuracy against forgetting."""
        if method is None and len(self.methods) > 1:
            return self.plane_figure()
        wide = self.matrix(method, order)
        runs = self._of(method)
        runs = runs[(runs["order"] == order) & (runs["position"] > 0)]
        span = runs.groupby(["learnt", "task"])[["low", "high"]].mean()
        level = {
            task: f"<br>{CONSTANT}: {constant['majority']:.3f}"
            for task, constant in (self.manifest.get("chance") or {}).items()
            if constant
        }
        hover = [
            [
                f"<b>{task}</b> after {stage}<br>{value:.3f} [{span.loc[(stage, task), 'low']:.3f}, "
                f"{span.loc[(stage, task), 'high']:.3f}] over examples{level.get(str(task), '')}"
                if not np.isnan(value)  # a task still to come, not measured
                else ""
                for task, value in row.items()
            ]
            for stage, row in wide.iterrows()
        ]
        name = method or self.methods[0]
        lr = runs["lr"].iloc[0]
        stands = self.learnt()
        return figures.heatmap(
            wide.to_numpy(),
            [str(task) for task in wide.columns],
            [str(stage) for stage in wide.index],
            title=f"Scores after every stage: {name}",
            subtitle=f"mean over {runs['seed'].nunique()} seed(s), order {order}, learning rate {lr:g}"
            + self._weighting((runs["method"].iloc[0], runs["options"].iloc[0], lr))
            + note(stands[stands["method"] == name]),
            colour_label="score",
            x_label="task measured",
            y_label="after learning",
            hover=hover,
            text=[["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in wide.to_numpy()],
            limits=(0.0, 1.0),
        )

    def retention_figure(self) -> go.Figure:
        """Retention (LX24, Eq. 5, Figure 4) after every stage, one curve per method; the band is over runs."""
        curves = {}
        for variant, label in self._labels().items():
            matrices = [matrix(run) for key, run in self.runs() if key[:3] == variant]
            staged = [retention(a) for a in matrices if not np.isnan(a[np.tril_indices(len(a))]).any()]
            if staged:
                values = np.array(staged)[:, 1:]
                intervals = [mean_interval(column) for column in values.T]
                low, high = zip(*intervals, strict=True) if len(staged) > 1 else (None, None)
                curves[label] = (list(range(2, values.shape[1] + 2)), (values.mean(0).tolist(), low, high))
        if not curves:
            raise ArgumentError("retention by stage", "no method with a score after every stage", STAGES)
        return figures.curves_with_band(
            curves,
            title="What is kept of earlier tasks, by stage",
            subtitle="mean over earlier tasks of the score now over the score when learnt; "
            f"bands: 95 % over runs if several{note(self.learnt())}",
            x_label="stage",
            y_label="retention",
            within=(0.0, np.inf),
        )

    def plane_figure(self) -> go.Figure:
        """Average accuracy against forgetting, one point per method with 95 % intervals over runs."""
        labels, points = self._labels(), {}
        for key, runs in self.metrics().groupby(VARIANT, sort=False):
            if runs["forgetting"].isna().any():  # no stages: nothing to forget
                continue
            spans = [
                (runs[name].mean(), *(mean_interval(runs[name].to_numpy()) if len(runs) > 1 else (None, None)))
                for name in ("forgetting", "average accuracy")
            ]
            points[labels[key]] = spans
        if not points:
            raise ArgumentError("accuracy against forgetting", "no method with a score after every stage", STAGES)
        return figures.plane(
            points,
            title="Accuracy against forgetting",
            subtitle="upper left is best; whiskers: 95 % intervals over runs if several" + note(self.learnt()),
            x_label="forgetting (peak minus final score)",
            y_label="average accuracy after the last stage",
            x_within=(-1.0, 1.0),
            y_within=(0.0, 1.0),
        )

    def beside_published(self) -> pd.DataFrame | None:
        """Average accuracy beside LX24's Table 5 (Llama-2-7b), in %; None if an order is not one of that table's.

        Columns: method, runs, ours, low, high (95 % over runs), LX24 (mean over its three orders of that length).
        """
        if not {tuple(order) for order in self.manifest["orders"]} <= set(CL_ORDERS.values()):
            return None
        eight = len(self.manifest["orders"][0]) == 8
        summary = self.summary()
        table = 100 * summary[["average accuracy", "low", "high"]].rename(columns={"average accuracy": "ours"})
        table.insert(0, "runs", summary["runs"])
        table.insert(0, "method", summary["method"])
        table["LX24"] = [PUBLISHED.get(name, (np.nan, np.nan))[eight] for name in table["method"]]
        return table

    def tables(self) -> dict[str, pd.DataFrame]:
        """Means per method, every run, every task after every stage, and the published numbers if there are any."""
        published = self.beside_published()
        tables = {
            "summary": self.summary(),
            "learnt": self.learnt(),
            "runs": self.to_frame(),
            "metrics": self.metrics(),
        }
        return tables if published is None else tables | {"published": published}

    def figures(self) -> list[go.Figure]:
        """`figure`, and what is kept by stage where a method has stages."""
        has_stages = self.metrics()["retention"].notna().any()
        return [self.figure(), *([self.retention_figure()] if has_stages else [])]

    def in_words(self) -> str:
        """Which method is best, what was never learnt, what it has over its controls, what is not on equal terms."""
        ranked = self.summary().sort_values("average accuracy", ascending=False).to_dict("records")
        best, order = ranked[0], self.manifest["orders"][0]
        label = self._labels()[best["method"], best["options"], best["lr"]]
        learnt, lasts = self.learnt(), [each[-1] for each in self.manifest["orders"]]
        kept = kept_in_words(learnt[learnt["method"] == label], best["retention"], lasts)
        scores = [
            f"**{r['method']}** {r['average accuracy']:.1%} [{max(0.0, r['low']):.1%}, {min(1.0, r['high']):.1%}] "
            f"at rate {r['lr']:.2g}"
            for r in ranked
        ]
        lines = [
            f"After {len(order)} tasks, {best['method']} has a mean score of **{best['average accuracy']:.1%}** on them"
            f"{kept}.\n",
            *never_learnt(learnt),
            f"- Average accuracy after the last stage, best first: {'; '.join(scores)}.",
        ]
        methods = set(self.methods)
        lines += [self._against(*control) for control in CONTROLS if {*control[:2]} <= methods]
        return "\n".join([*lines, *self._unequal(), *self._tuned()])

    def _against(self, method: str, control: str, what: str) -> str:
        gap = self.differences(method).set_index("method").loc[control]
        span = f"[{100 * gap['low']:.1f}, {100 * gap['high']:.1f}] over runs" if gap["runs"] > 1 else "in one run"
        negative = "" if gap["low"] > 0 else "**A negative**, no advantage shown: "
        return f"- {negative}{method} against {control} ({what}): {100 * gap['difference']:+.1f} points {span}."

    def _unequal(self) -> list[str]:
        """In what the methods compared are not on equal terms, whose loss was stuck, and how W-NCFT weighted."""
        seen: dict[str, list[str]] = {}
        for method, what in self.manifest.get("sees", {}).items():
            if what:
                seen.setdefault(what, []).append(method)
        lines = [
            f"- Not on equal terms: {' and '.join(names)} {'see' if len(names) > 1 else 'sees'} {what}; others do not."
            for what, names in seen.items()
        ]
        stuck = sorted({run["method"] for run in self.manifest["runs"] if run.get("log", {}).get("stuck")})
        if stuck:
            lines.append(f"- A loss that did not fall in some stage (stuck): {', '.join(stuck)}.")
        runs = [run for run in self.manifest["runs"] if run["method"] == "w-ncft"]
        ways = {run["settings"]["options"].get("weighting") for run in runs}
        return lines + [f"- W-NCFT weighted its neurons by {way!r}." for way in sorted(ways)]

    def _tuned(self) -> list[str]:
        """What is to be known of learning rates that were tuned, where they were (`continual_comparison`)."""
        lines = []
        edge = [method for method, tuned in self.manifest.get("tuning", {}).items() if tuned["edge"]]
        if edge:
            lines.append(
                f"- The best learning rate lies at the edge of the grid for {', '.join(edge)}: not fully tuned."
            )
        train = [task for task, split in self.manifest.get("tuned_on", {}).items() if split == "train"]
        if train:
            lines.append(
                f"- Learning rates were tuned on training examples of {', '.join(train)}: no discovery examples."
            )
        return lines

    def __repr__(self) -> str:
        orders = self.manifest["orders"]
        more = f" and {len(orders) - 1} other order(s)" if len(orders) > 1 else ""
        lines = [f"{len(self.runs())} run(s) over {', '.join(orders[0])}{more}"]
        for (key, label), row in zip(self._labels().items(), self.summary().to_dict("records"), strict=True):
            line = f"  {label:12} average accuracy {row['average accuracy']:.3f}"
            lines.append(f"{line} [{row['low']:.3f}, {row['high']:.3f}]{self._weighting(key)}")
        return "\n".join(lines)

    def _weighting(self, key: Variant) -> str:
        """How W-NCFT has weighted neurons, to be said wherever its numbers stand."""
        runs = (run for run in self.manifest["runs"] if (run["method"], run["options"]) == key[:2])
        options = next(runs)["settings"]["options"]
        return f", weighting {options['weighting']}" if "weighting" in options else ""
