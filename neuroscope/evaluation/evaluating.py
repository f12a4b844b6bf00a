"""`evaluate`: how well a model does a task, with its interval and its figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from neuroscope import figures, files
from neuroscope.checks import Progress, public
from neuroscope.evaluation.constant import CONSTANT, Constant, Standing, standing
from neuroscope.evaluation.engine import Outcomes, outcomes_of, predict, prepare_task
from neuroscope.markup import NOTHING
from neuroscope.models import resolve
from neuroscope.results import Result
from neuroscope.statistics import score_interval
from neuroscope.tasks import Task
from neuroscope.tasks.metrics import METRICS
from neuroscope.tasks.task import check_task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Split = Literal["test", "train", "discovery"]
METRIC_NAMES = {"accuracy": "accuracy", "exact": "exact match", "rouge-l": "ROUGE-L"}
ONE_PASS = "all in one pass over the prompt"
ALL = "all examples"
FEW = 12  # right answers of pairs, up to which each is told of by itself
BINS = 10  # of the distribution of outcomes


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """A model's outcomes on one split of one task.

    Attributes:
        table: one row per example: task, example (index in the split), prompt, answer, prediction, outcome in [0, 1].
        manifest: task, data_hash, model, revision, fingerprint, backend, dtype, n, split, kind, metric, seed, versions;
            constant (the best constant answer, its score, and that of guessing: `evaluation.Constant`; None where
            there is no such level); seen
            (examples of the test split whose prompts are training prompts too) and ambiguous (prompts of a
            classification task with several right answers); of a chat its template, and prompts (how they were asked,
            how many were cut, and which examples were skipped) of a task that says more than its examples.
    """

    title = "How well the model does the task"
    captions: ClassVar[Mapping[str, str]] = {
        "by_answer": "Score by right answer",
        "overall": "Score beside the best constant answer and guessing",
        "examples": "Every example",
    }

    @property
    def outcomes(self) -> Outcomes:
        """[examples] outcome of each example, in [0, 1]."""
        return np.asarray(self.table["outcome"], dtype=float)

    @property
    def score(self) -> float:
        """Mean outcome: the accuracy, or the mean ROUGE-L."""
        return float(self.outcomes.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the score, over examples (`statistics.score_interval`)."""
        return score_interval(self.outcomes, seed=self.manifest["seed"])

    @property
    def constant(self) -> Constant:
        """What always giving the best constant answer, and guessing, would score; NaN where answers are generated."""
        return Constant(**(self.manifest.get("constant") or {}))

    @property
    def chance(self) -> Standing:
        """Whether the score is "above" the best constant answer, "at chance", or there is "no test" (generation).

        Above: p < 0.05 in a one-sided exact binomial test of the right answers (`evaluation.constant`). Nothing can be
        concluded from what is done to a model at a task at which it is at chance.
        """
        return standing(self.constant.p(self.outcomes))

    def overall(self) -> pd.DataFrame:
        """One row: n, score, low, high (95 %), majority, uniform, p_majority, chance, constant (the answer)."""
        import pandas as pd  # heavy: only where a table is made

        low, high = self.interval
        row: dict[str, Any] = {"n": len(self.outcomes), "score": self.score, "low": low, "high": high}
        row |= self.constant.columns(self.outcomes) | {"chance": self.chance, "constant": self.constant.answer}
        return pd.DataFrame([row])

    def by_answer(self) -> pd.DataFrame:
        """Of each right answer, in alphabetical order: examples, score with its 95 % interval, commonest error.

        The error is the commonest answer that got less than the full outcome; empty where there is none.
        """
        import pandas as pd  # heavy: only where a table is made

        rows = []
        for answer, examples in self.table.groupby("answer"):
            outcomes = examples["outcome"].to_numpy(dtype=float)
            low, high = score_interval(outcomes, seed=self.manifest["seed"])
            wrong = Counter(examples.loc[outcomes < 1, "prediction"]).most_common(1)
            row = {"answer": answer, "examples": len(outcomes), "score": outcomes.mean(), "low": low, "high": high}
            rows.append(row | {"commonest error": wrong[0][0] if wrong else ""})
        return pd.DataFrame(rows)

    @property
    def _by_answer_is_told(self) -> bool:
        """Whether there are few right answers: pairs may have as many as examples."""
        return self.manifest.get("kind") != "pairs" or self.table["answer"].nunique() <= FEW

    def in_words(self) -> str:
        """Score and interval, and how it compares with always giving the commonest answer."""
        task, metric, n = (self.manifest[key] for key in ("task", "metric", "n"))
        low, high = self.interval
        score = f"{METRIC_NAMES[metric]} {self.score:.1%} (95 % interval {low:.1%} to {high:.1%})"
        lead = f"On {n} {self.manifest['split']} example(s) of {task} the model reaches **{score}**"
        if not self.constant.known:
            full, none = int((self.outcomes == 1).sum()), int((self.outcomes == 0).sum())
            lead = f"{lead}. Of these, {full} answer(s) get the full score, and {none} get none."
            lead += " Generated answers have no level of chance to test that against."
            return "\n\n".join([lead, *_doubts(self.manifest)])
        constant, p = self.constant, self.constant.p(self.outcomes)
        lines = [
            f"- {row['answer']}: {row['score']:.0%} of {row['examples']}"
            + (f", most often taken for {row['commonest error']}" if row["commonest error"] else "")
            for row in self.by_answer().to_dict("records")
        ]
        always = (
            f"always answering {constant.answer}, which would be right in {constant.majority:.1%} (one-sided binomial "
            f"test, p = {p:.2g}; guessing: {constant.uniform:.1%})"
        )
        if self.chance == "above":
            lead += f", which is more than {always}."
        else:
            lead = f"**A negative**: {lead[0].lower()}{lead[1:]}, which is not shown to be better than {always}."
            lead += f"\n\n{NOTHING} about this task from this model: " + (
                "every example has the same answer, so that no score can be better; give examples of other answers."
                if constant.majority == 1
                else "first tune it on the task (longer, if it was), try another prompt or `ranking`, or judge more of "
                "its examples."
            )
        lead = "\n\n".join([lead, *_doubts(self.manifest)])
        if not self._by_answer_is_told:
            return lead
        return "\n".join([lead, "", "By right answer:", "", *lines])

    def figure(self) -> go.Figure:
        """The score, of all and by right answer (classification), or the distribution of outcomes (generation).

        The dashed line is the best constant answer's.
        """
        metric = METRIC_NAMES[self.manifest["metric"]]
        title = f"{self.manifest['task']}: {metric} {self.score:.1%}"
        low, high = self.interval
        subtitle = f"95 % interval {low:.1%} to {high:.1%}, {self.manifest['n']} {self.manifest['split']} examples"
        if self.constant.known:
            rows, constant = self.by_answer(), self.constant
            rows = rows if self._by_answer_is_told else rows[:0]
            ends = {"score": self.score, "low": low, "high": high}
            score, lows, highs = ([100 * end, *(100 * rows[name])] for name, end in ends.items())
            hover = f"always {constant.answer}<br>guessing: {100 * constant.uniform:.4g}<br>the model is {self.chance}"
            return figures.bars_with_band(
                [ALL, *rows["answer"]],
                {"score": (score, lows, highs)},
                title=title,
                subtitle=subtitle + ("" if self.chance == "above" else "; at chance: nothing can be concluded"),
                value_label=f"{metric}, %",
                mark=[100 * constant.majority, *[np.nan] * len(rows)],
                mark_label=CONSTANT,
                hover={
                    "score": [f"{n} examples" for n in [self.manifest["n"], *rows["examples"]]],
                    CONSTANT: [hover, *[""] * len(rows)],
                },
            )
        counts, edges = np.histogram(self.outcomes, bins=BINS, range=(0.0, 1.0))
        names = [f"{a:.1f} to {b:.1f}" for a, b in pairwise(edges)]
        shares = (100 * counts / counts.sum()).tolist()
        return figures.bars_with_band(
            names, {metric: (shares, None, None)}, title=title, subtitle=subtitle, value_label="examples, %"
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Of all and by right answer (classification), and every example."""
        by_answer = {"by_answer": self.by_answer()} if self.constant.known else {}
        return by_answer | {"overall": self.overall(), "examples": self.to_frame()}

    def __repr__(self) -> str:
        low, high = self.interval
        task, metric, n = (self.manifest[key] for key in ("task", "metric", "n"))
        return f"{task}: {metric} {self.score:.2f} [{low:.2f}, {high:.2f}], n = {n}"


def _doubts(manifest: Mapping[str, Any]) -> list[str]:
    """What about the data makes the score less than it seems."""
    seen, ambiguous = manifest.get("seen", 0), manifest.get("ambiguous", 0)
    skipped = len(manifest.get("prompts", {}).get("skipped", ()))
    return [
        *([f"**{skipped}** example(s) were too long for the model and are left out."] if skipped else []),
        *([f"**{seen}** of the test prompts are training prompts as well."] if seen else []),
        *([f"**{ambiguous}** prompt(s) have more than one right answer: nobody gets all right."] if ambiguous else []),
    ]


@public
def evaluate(
    model: Any,
    task: Task,
    split: Split = "test",
    n: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge a model on a task, under whatever interventions are live.

    Classification ranks the task's labels by their log-likelihood after the prompt (`task.ranking`), and pairs each
    example's answer beside its own wrong one, of which equal ones count as wrong. Generation decodes greedily, stops at
    the end-of-text token, strips whitespace, and compares with the references by the task's metric.

    Args:
        model: anything that `neuroscope.load` opens, or a model from transformers, TransformerLens or nnsight.
        split: "test", "train" or "discovery".
        n: the first n examples; all if None.
        batch_size: examples per forward pass; None: as many as the model runs best at once. It does not change the
            result.
        seed: of the interval of outcomes that are neither right nor wrong, which is a bootstrap.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Raises:
        TaskError: the split is empty, or a prompt does not fit the model's context.
        NumericalError: the model gave a label a log-likelihood that is not finite.

    Example:
        >>> import neuroscope as ns
        >>> task = ns.load_tasks("mini", train=4, discovery=4, test=16)["sentiment-food"]
        >>> ns.evaluate("mini", task)
        sentiment-food: accuracy 1.00 [0.81, 1.00], n = 16
    """
    import pandas as pd  # heavy: only where a table is made

    check_task(task, "evaluate")
    model = resolve(model)
    prepared = prepare_task(model, task, split, n, batch_size)
    predictions = predict(model, prepared, progress)
    outcomes = outcomes_of(task, prepared.examples, predictions)
    table = pd.DataFrame(
        {
            "task": task.name,
            "example": prepared.index,
            "prompt": [example.prompt for example in prepared.examples],
            "answer": [example.answer for example in prepared.examples],
            "prediction": predictions,
            "outcome": outcomes,
        }
    )
    answers = {(example.prompt, example.answer) for example in prepared.examples}
    learnt = {example.prompt for example in task.train if split == "test"}
    manifest = {
        "task": task.name,
        "data_hash": task.data_hash,
        **model.provenance(),
        "n": len(outcomes),
        "split": split,
        "kind": task.kind,
        "metric": task.metric,
        "constant": vars(prepared.constant) if prepared.constant.known else None,
        "ranking": task.ranking if prepared.labels else "none",
        "seen": sum(example.prompt in learnt for example in prepared.examples),
        "ambiguous": sum(count > 1 for count in Counter(p for p, _ in answers).values()) if task.labels else 0,
        "labels": (prepared.against_one_row(model) or ONE_PASS) if prepared.labels else "none",
        **prepared.asked,
        "judged_by": str(METRICS[task.metric].__doc__).partition("\n")[0],
        "seed": seed,
        "versions": files.versions(),
    }
    return Evaluation(table, manifest)
