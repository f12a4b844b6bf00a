"""Continual: the scores of every task after every stage, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from neuroscope import figures
from neuroscope.checks import public
from neuroscope.errors import ArgumentError
from neuroscope.results import Result
from neuroscope.training.continual_learning.metrics import METRICS, Matrix, retention

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

VARIANT = ["method", "options", "lr"]
RUN = [*VARIANT, "order", "seed"]  # what tells one run of a sequence from another
STAGES = "run a method with stages: any but joint"

Variant = tuple[str, str, float]  # method, options, learning rate


@dataclass(frozen=True, repr=False)
class Continual(Result):
    """Runs of methods over sequences of tasks.

    Attributes:
        table: one row per run, stage and task: method, options (text: those that are not its defaults), lr, order
            (its number), seed, stage (0: the base), learnt (the stage's task), task, position (of the task in the
            order, from 1; 0: the base could do it already), score, low, high (95 % bootstrap interval over examples),
            se (standard error over examples), n, trained (parameters trained at the stage), seconds, peak_mib (memory
            beyond what was held before the stage).
        manifest: model, tasks with data hashes, orders, settings, the log of every stage, versions.
    """

    @classmethod
    @public
    def join(cls, results: Sequence[Continual]) -> Continual:
        """Several results as one, to compare methods on the same model and tasks.

        Raises:
            ArgumentError: none, of different models, tasks or orders, or with a run twice.
        """
        import pandas as pd  # heavy: only where tables are made

        if not results:
            raise ArgumentError("join results", "none", "give one or more")
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
        return cls(table, {**first, "runs": runs})

    @property
    def methods(self) -> list[str]:
        """What the methods are called: by name, with options and learning rate where a method has several of them."""
        return list(self._labels().values())

    def _labels(self) -> dict[Variant, str]:
        keys = list(dict.fromkeys(self.table[VARIANT].itertuples(index=False, name=None)))
        found = {}
        for method, options, lr in keys:
            own = [key for key in keys if key[0] == method]
            several = [len({key[i] for key in own}) > 1 for i in (1, 2)]
            more = [text for text, wanted in zip((options, f"{lr:g}"), several, strict=True) if wanted and text]
            found[method, options, lr] = " ".join([method, *more])
        return found

    def runs(self) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
        """(method, options, lr, order, seed) and the rows of each run."""
        return list(self.table.groupby(RUN, sort=False))

    def metrics(self) -> pd.DataFrame:
        """One row per run: every number of `METRICS`, the interval of the average accuracy, and the costs.

        low, high: the average accuracy's 95 % interval over test examples (normal; the scores of the tasks are
        independent). base: the mean score on the tasks that the base could do before. base kept: that after the last
        stage, over that before. trained: parameters trained at the last stage.
        """
        import pandas as pd  # heavy: only where tables are made

        rows = []
        for key, run in self.runs():
            a = matrix(run)
            row = dict(zip(RUN, key, strict=True)) | {name: metric(a) for name, metric in METRICS.items()}
            last = run[(run["stage"] == run["stage"].max()) & (run["position"] > 0)]
            error = stats.norm.ppf(0.975) * float(np.sqrt((last["se"] ** 2).sum())) / len(last)
            row |= {"low": max(0.0, row["average accuracy"] - error), "high": min(1.0, row["average accuracy"] + error)}
            known = run[run["position"] == 0].groupby("stage")["score"].mean()
            row["base"] = known.get(0, np.nan)
            row["base kept"] = known.iloc[-1] / known.loc[0] if len(known) and known.loc[0] > 0 else np.nan
            stages = run[run["stage"] > 0].groupby("stage")[["trained", "seconds", "peak_mib"]].first()
            row |= {"trained": int(stages["trained"].iloc[-1]), "seconds": float(stages["seconds"].sum())}
            rows.append(row | {"peak_mib": float(stages["peak_mib"].max())})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row per method, options and learning rate: means over runs, with the average accuracy's 95 % interval.

        The interval is Student's t over runs (orders and seeds); of a single run, the one over test examples.
        """
        import pandas as pd  # heavy: only where tables are made

        rows = []
        for key, runs in self.metrics().groupby(VARIANT, sort=False):
            means = runs[[*METRICS, "base", "base kept", "trained", "seconds", "peak_mib"]].mean(skipna=False)
            low, high = float(runs["low"].iloc[0]), float(runs["high"].iloc[0])
            if len(runs) > 1:
                low, high = np.clip(t_interval(runs["average accuracy"].to_numpy()), 0.0, 1.0)  # where scores are
            named = dict(zip(VARIANT, key, strict=True))
            rows.append(named | {"runs": len(runs), **means, "low": low, "high": high})
        return pd.DataFrame(rows)

    def differences(self, reference: str) -> pd.DataFrame:
        """How much more a method's average accuracy is than every other's on the same orders and seeds.

        One row per other method: mean difference (reference - method), its 95 % Student's t interval over runs (NaN
        for a single run), and the number of runs.

        Raises:
            ArgumentError: a method that is not one of `methods`.
        """
        import pandas as pd  # heavy: only where tables are made

        if reference not in self.methods:
            raise ArgumentError(f"differences({reference!r})", f"runs of {', '.join(self.methods)}", "name one of them")
        labels = self._labels()
        scores = {
            labels[key]: runs.set_index(["order", "seed"])["average accuracy"]
            for key, runs in self.metrics().groupby(VARIANT, sort=False)
        }
        rows = []
        for method, other in scores.items():
            if method != reference:
                gap = (scores[reference] - other).dropna().to_numpy()
                low, high = t_interval(gap) if len(gap) > 1 else (np.nan, np.nan)
                mean = gap.mean() if len(gap) else np.nan
                rows.append({"method": method, "difference": mean, "low": low, "high": high, "runs": len(gap)})
        return pd.DataFrame(rows)

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
            raise ArgumentError(f"runs of {method!r}", f"runs of {', '.join(self.methods)}", "name one of them")
        key = next(key for key, label in self._labels().items() if method in (None, label))
        return self.table[(self.table[VARIANT] == key).all(axis=1)]

    def figure(self, method: str | None = None, order: int = 0) -> go.Figure:
        """The accuracy matrix of one method, mean over seeds; for several methods, accuracy against forgetting."""
        if method is None and len(self.methods) > 1:
            return self.plane_figure()
        wide = self.matrix(method, order)
        runs = self._of(method)
        runs = runs[(runs["order"] == order) & (runs["position"] > 0)]
        span = runs.groupby(["learnt", "task"])[["low", "high"]].mean()
        hover = [
            [
                f"<b>{task}</b> after {stage}<br>{value:.3f} [{span.loc[(stage, task), 'low']:.3f}, "
                f"{span.loc[(stage, task), 'high']:.3f}] over examples"
                for task, value in row.items()
            ]
            for stage, row in wide.iterrows()
        ]
        name = method or self.methods[0]
        lr = runs["lr"].iloc[0]
        return figures.heatmap(
            wide.to_numpy(),
            [str(task) for task in wide.columns],
            [str(stage) for stage in wide.index],
            title=f"Scores after every stage: {name}",
            subtitle=f"mean over {runs['seed'].nunique()} seed(s), order {order}, learning rate {lr:g}"
            + self._weighting((runs["method"].iloc[0], runs["options"].iloc[0], lr)),
            colour_label="score",
            x_label="task measured",
            y_label="after learning",
            hover=hover,
            text=[[f"{value:.2f}" for value in row] for row in wide.to_numpy()],
            limits=(0.0, 1.0),
        )

    def retention_figure(self) -> go.Figure:
        """Retention (LX24, Eq. 5, Figure 4) after every stage, one curve per method; the band is over runs."""
        curves = {}
        for variant, label in self._labels().items():
            own = [matrix(run) for key, run in self.runs() if key[:3] == variant]
            kept = [retention(a) for a in own if not np.isnan(a).any()]
            if kept:
                values = np.array(kept)[:, 1:]
                low, high = (
                    zip(*(t_interval(column) for column in values.T), strict=True) if len(kept) > 1 else (None,) * 2
                )
                curves[label] = (list(range(2, values.shape[1] + 2)), (values.mean(0).tolist(), low, high))
        if not curves:
            raise ArgumentError("retention by stage", "no method with a score after every stage", STAGES)
        return figures.curves_with_band(
            curves,
            title="What is kept of earlier tasks, by stage",
            subtitle="mean over earlier tasks of the score now over the score when learnt; bands: 95 % over runs",
            x_label="stage",
            y_label="retention",
        )

    def plane_figure(self) -> go.Figure:
        """Average accuracy against forgetting, one point per method with 95 % intervals over runs."""
        labels, points = self._labels(), {}
        for key, runs in self.metrics().groupby(VARIANT, sort=False):
            if runs["forgetting"].isna().any():  # no stages: nothing to forget
                continue
            spans = [
                (runs[name].mean(), *(t_interval(runs[name].to_numpy()) if len(runs) > 1 else (None, None)))
                for name in ("forgetting", "average accuracy")
            ]
            points[labels[key]] = spans
        if not points:
            raise ArgumentError("accuracy against forgetting", "no method with a score after every stage", STAGES)
        return figures.plane(
            points,
            title="Accuracy against forgetting",
            subtitle="whiskers: 95 % intervals over orders and seeds; upper left is best",
            x_label="forgetting (peak minus final score)",
            y_label="average accuracy after the last stage",
        )

    def __repr__(self) -> str:
        orders = self.manifest["orders"]
        more = f" and {len(orders) - 1} other order(s)" if len(orders) > 1 else ""
        lines = [f"{len(self.runs())} run(s) over {', '.join(orders[0])}{more}"]
        for (key, label), row in zip(self._labels().items(), self.summary().to_dict("records"), strict=True):
            about = f"  {label:12} average accuracy {row['average accuracy']:.3f}"
            lines.append(f"{about} [{row['low']:.3f}, {row['high']:.3f}]{self._weighting(key)}")
        return "\n".join(lines)

    def _weighting(self, key: Variant) -> str:
        """How W-NCFT has weighted neurons, to be said wherever its numbers stand."""
        runs = (run for run in self.manifest["runs"] if (run["method"], run["options"]) == key[:2])
        options = next(runs)["settings"]["options"]
        return f", weighting {options['weighting']}" if "weighting" in options else ""


def matrix(run: pd.DataFrame) -> Matrix:
    """a[i, j] of one run, without the base's row; NaN where a method has no such stage."""
    own = run[run["position"] > 0]
    wide = own.pivot(index="stage", columns="position", values="score")
    stages = range(1, wide.shape[1] + 1)
    return wide.reindex(index=stages, columns=stages).to_numpy(dtype=float)


def t_interval(values: Any) -> tuple[float, float]:
    """95 % interval of the mean of a few runs (Student's t); NaN where one of them is NaN."""
    values = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
