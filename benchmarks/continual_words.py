"""For benchmarks/continual.py: the estimate, tables, and sentences that are computed from the numbers."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import real_words

from neuroscope import files
from neuroscope.evaluation import AT_CHANCE
from neuroscope.statistics import mean_interval
from neuroscope.training import Recipe, WholeModel
from neuroscope.training.continual_learning import METHODS, Continual
from neuroscope.training.continual_learning.continual_result import PUBLISHED
from neuroscope.training.continual_learning.learner import Setting

REFERENCES = ("seqft", "seq-lora", "ncft-random", "ffn")
ASKED = (  # a question, the method that answers it, and the one that it is compared with
    ("Do neuron masks help at all, against training everything", "ncft", "seqft"),
    ("How much of it is leaving all but the FFNs alone", "ffn", "seqft"),
    ("How much is training few neurons instead of all in the FFNs", "ncft-random", "ffn"),
    ("How much is the choice of the neurons", "ncft", "ncft-random"),
    ("Do half of the neurons do better than a tenth", "ncft-half", "ncft"),
    ("Do neurons found in the base do better than those found in the model as it stands", "ncft-base", "ncft"),
    ("How much is leaving earlier tasks' neurons alone", "ncft-exclude", "ncft"),
    ("How much is being told which task is asked, and weighting by it", "w-ncft", "ncft"),
    ("Do masks with exclusion do better than a LoRA", "ncft-exclude", "seq-lora"),
    ("Do masks with exclusion do better than orthogonal LoRAs", "ncft-exclude", "o-lora"),
    ("Do masks with exclusion do better than some examples of earlier tasks", "ncft-exclude", "replay"),
    ("Does a LoRA of each task's own, chosen by the prompt, help", "epi", "seqft"),
    ("Does holding important weights in place help", "ewc", "seqft"),
    ("Do some examples of earlier tasks help", "replay", "seqft"),
    ("Is a LoRA of each task's own better than holding weights in place", "epi", "ewc"),
    ("Is a LoRA of each task's own better than some examples of earlier tasks", "epi", "replay"),
    ("Is holding weights in place better than some examples of earlier tasks", "ewc", "replay"),
    (
        "Does a LoRA of each task's own, chosen by the prompt, do as well as a model of each task's own",
        "epi",
        "per-task",
    ),
)
LEARNT = (  # the same, of how well each task is done right after its own stage
    ("Do masks learn more than everything does", "ncft", "seqft"),
    ("Do half of the neurons learn more than a tenth", "ncft-half", "ncft"),
    ("Do neurons found in the base learn more than those found in the model as it stands", "ncft-base", "ncft"),
    ("Do few neurons learn more than all of the FFNs do", "ncft-random", "ffn"),
    ("Does a LoRA of each task's own learn more than all of the FFNs do", "epi", "ffn"),
    ("Does a LoRA of each task's own learn more than few neurons, which are more numbers", "epi", "ncft-random"),
)
FORGOTTEN = (  # and of how much is forgotten
    ("Do masks forget more than everything does", "ncft", "seqft"),
    ("Do half of the neurons forget more than a tenth", "ncft-half", "ncft"),
)
HEADING = "## T5: tasks learnt one after another"
RATES_TRIED = 3.5  # per method, on average


def estimate(lab: Any, rates: Any) -> str:
    """Seconds of this machine for what is not finished yet, per method, from three steps and a few prompts."""
    options, tasks = lab.options, lab.tasks
    how = {"batch_size": options.batch_size, "lr": 1e-6}
    short, long = (Setting(lab.model, tasks, [], Recipe(steps=steps, **how), 0) for steps in (1, 4))
    once = _seconds(lambda: _trained(short))  # what a training takes before its first step is in both
    step = max(1e-3, _seconds(lambda: _trained(long)) - once) / 3
    asked = min(16, options.test)
    few = Setting(lab.model, tasks, [], short.recipe, 0, n=asked)
    judged = _seconds(lambda: [few.judge(task) for task in tasks]) / asked / len(tasks)  # seconds per example
    runs, n = len(lab.orders) * len(lab.seeds), len(tasks)
    tuned = options.tune_tasks or n
    lines, total = [], 0.0
    for name in lab.methods:
        method, given = lab.chosen(name)
        look = min(given.get("examples") or 0, options.discover) / options.batch_size * step
        stage = (0 if lab.trained_as(name) != name else once + options.steps * step) + look
        at_once = METHODS[method].at_once
        learning = stage * n
        judging = judged * options.test * (n if at_once else n * (n + 1) / 2)
        left = runs - lab.finished(name)
        seconds = left * (learning + judging)
        if lab.trained_as(name) == name and not rates.known(name):
            seconds += RATES_TRIED * (stage * tuned + judged * options.test * (tuned + 1) * tuned / 2)
        lines.append(f"  {name:18} {seconds / 60:6.1f} min ({left} of {runs} runs to go)")
        total += seconds
    head = (
        f"one step of {options.batch_size}: {step:.2f} s; one example judged: {1000 * judged:.0f} ms (processor time)"
    )
    return "\n".join([head, *lines, f"  {'all':18} {total / 60:6.1f} min of one core"])


def _trained(setting: Setting) -> None:
    weights = WholeModel(setting.model)
    try:
        setting.train(weights, setting.tasks)
    finally:
        weights.detach()


def _seconds(run: Any) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        joined: all methods.
        parts: by what a method is called here.
        rates, lab: of the run.
    """

    joined: Continual
    parts: Mapping[str, Continual]
    rates: Any
    lab: Any

    def gap(self, method: str, other: str, what: str = "average accuracy") -> tuple[float, float, float, int]:
        """Mean difference in a metric, paired by order and seed, its 95 % interval, their number."""
        both = [self.parts[name].metrics().set_index(["order", "seed"])[what] for name in (method, other)]
        gaps = (both[0] - both[1]).dropna().to_numpy()
        return float(gaps.mean()), *mean_interval(gaps), len(gaps)

    @property
    def heading(self) -> str:
        """Of the section: one for each base."""
        return f"{HEADING}, on {Path(self.lab.options.base).name} ({self.parameters / 1e6:.1f} million parameters)"

    @property
    def parameters(self) -> int:
        """How many numbers the base has."""
        return sum(p.numel() for p in self.lab.model.root.parameters())

    def section(self, command: str) -> str:
        """Markdown of all of it."""
        options, names = self.lab.options, [task.name for task in self.lab.tasks]
        orders = "; ".join(", ".join(order) for order in self.lab.orders)
        tuned = ", ".join(self.lab.orders[0][: options.tune_tasks])
        return "\n\n".join(
            [
                self.heading,
                f"`{command}`",
                f"The base is {Path(options.base).name}, of {self.parameters:,} parameters, opened in {options.dtype}. "
                f"Orders: {orders}. Seeds: {options.seeds}. {options.steps} steps of {options.batch_size} a task; "
                f"{options.test} test examples; the first {options.max_words} words of a text. Rates are chosen on "
                f"examples held out of the training set of {tuned}, with a seed of its own.",
                self.table(),
                "Trained and stored are numbers: at a stage, and besides the base (or instead of it) after the last "
                "one. Seconds are of the training of a whole sequence, MiB its peak beyond what was held before. LX24: "
                "Table 5, Llama-2-7b, four tasks of which one is another, in %; its rates are not printed."
                + " W-NCFT, whose seconds and MiB are those of NCFT, also keeps a vector for each task."
                * any("w-ncft" in name for name in self.parts),
                "**In words.** " + self.words(),
                f"Average accuracy minus that of {', '.join(self.references)}, in points, "
                "with 95 % intervals (Student's t) over runs of the same order and seed:",
                self.differences(),
                f"Each task right after its own stage (mean over runs; * not shown to be better than the best constant "
                f"answer), {', '.join(names)}:",
                self.learnt(),
            ]
        )  # fmt: skip

    def table(self) -> str:
        """Every method's numbers, best first."""
        rows = []
        for name, part in self.parts.items():
            row = part.summary().iloc[0]
            cost = self.parts[self.lab.trained_as(name)].summary().iloc[0]
            rate = f"{row['lr']:g}{' (edge)' if self.rates.at_edge(name) else ''}"
            span = f"{row['average accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            cells = [_cell(row[key]) for key in ("learning accuracy", "forgetting", "retention")]
            if row["base kept"] == row["base kept"]:
                cells[-1] += f" (base {row['base kept']:.3f})"
            costs = [
                f"{row['trained']:,.0f}",
                f"{row['stored']:,.0f}",
                f"{cost['seconds']:.0f}",
                f"{cost['peak_mib']:.0f}",
            ]
            published = PUBLISHED.get(name, ("",))[0]
            ranked = (-row["average accuracy"], [name, rate, span, *cells, *costs, row["sees"] or "", published])
            rows.append(ranked)
        header = ["method", "rate", "average accuracy [95 %]", "learning accuracy", "forgetting", "retention"]
        header += ["trained", "stored", "s", "MiB", "sees", "LX24"]
        return common.table(header, [row for _, row in sorted(rows, key=lambda each: each[0])])

    @property
    def references(self) -> list[str]:
        """What every method is held against; the first one, where none of the usual is there."""
        return [name for name in REFERENCES if name in self.parts] or list(self.parts)[:1]

    def differences(self) -> str:
        """Every method against every reference."""
        rows = [
            [name, *("" if name == other else _points(*self.gap(name, other)) for other in self.references)]
            for name in self.parts
        ]
        return common.table(["method", *self.references], rows)

    def learnt(self) -> str:
        """Learning accuracy by task."""
        wide: dict[str, list[str]] = {}
        tasks = [task.name for task in self.lab.tasks]
        level: dict[str, float] = {}
        for name, part in self.parts.items():
            rows = part.learnt().set_index("task")
            level |= rows["majority"].to_dict()
            wide[name] = [f"{rows.loc[t, 'learnt']:.3f}{'*' * (rows.loc[t, 'chance'] == AT_CHANCE)}" for t in tasks]
        constant = ["best constant answer", *(f"{level[t]:.3f}" for t in tasks)]
        return common.table(["method", *tasks], [constant, *([name, *cells] for name, cells in wide.items())])

    def words(self) -> str:
        """What the numbers answer."""
        lines = []
        every = {"average accuracy": ASKED, "learning accuracy": LEARNT, "forgetting": FORGOTTEN}
        for what, questions in every.items():
            for question, method, other in questions:
                if method in self.parts and other in self.parts:
                    answer = answered(question, *self.gap(method, other, what))
                    lines.append(f"- {question} ({method} against {other})? {answer}.")
        best = max(self.parts, key=lambda name: self._mean(name))
        first = (
            f"Best is {best} with {100 * self._mean(best):.1f} %. The base, untrained, has {100 * self._base():.1f} % "
            "on the same tasks."
        )
        for name, part in self.parts.items():
            by_order = part.metrics().groupby("order")["forgetting"].agg(["min", "max"]).dropna()
            if len(by_order) > 1:
                ranges = "; ".join(f"{low:.3f} to {high:.3f}" for low, high in by_order.itertuples(index=False))
                lines.append(f"- {name} forgets, by the order of the tasks, over its seeds: {ranges}.")
            if found := identified(part):
                mean, runs = float(np.mean(found)), len(found)
                lines.append(
                    f"- {name} sent {100 * mean:.1f} % of the test prompts to their own task's part ({runs} runs)."
                )
        never: dict[str, list[str]] = {}
        for name, part in self.parts.items():
            for row in part.learnt().itertuples():
                if row.chance == AT_CHANCE:
                    never.setdefault(row.task, []).append(name)
        for task, names in never.items():
            every = "every method" if len(names) == len(self.parts) else ", ".join(names)
            lines.append(f"- {task} was not shown to be learnt, so that nothing was there to forget, by {every}.")
        edges = [name for name in self.parts if self.rates.at_edge(name)]
        lines.append(f"- The best rate lies at the edge of the grid for {', '.join(edges) or 'no method'}.")
        return "\n".join([first, *lines])

    def _mean(self, name: str) -> float:
        return float(self.parts[name].summary()["average accuracy"].iloc[0])

    def _base(self) -> float:
        table = self.joined.table
        return float(table[(table["stage"] == 0) & (table["position"] > 0)]["score"].mean())

    def pictures(self, out: Path) -> None:
        """Every figure as a page, and the plane of all methods as a picture."""
        self.joined.save(out / "result.json")
        plane: Any = self.joined if len(self.parts) > 1 else None
        pages = {name: part.figure() for name, part in self.parts.items()}
        if plane is not None:
            pages |= {"plane": plane.plane_figure(), "retention": plane.retention_figure()}
        for name, figure in pages.items():
            figure.write_html(out / f"{name}.html", include_plotlyjs="directory")
        if plane is not None:
            with contextlib.suppress(subprocess.SubprocessError):  # a busy machine: the page is there
                real_words.picture(plane, out / "T5.png")


def _points(mean: float, low: float, high: float, runs: int) -> str:
    return f"{100 * mean:+.1f}" + (f" [{100 * low:.1f}, {100 * high:.1f}]" if runs > 1 else "")


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def shown(arguments: Sequence[str]) -> list[str]:
    """The command line without the folders of this machine."""
    names = {"--base": "BASE", "--data": "DATA", "--out": "OUT", "--write": "FILE"}
    return [names.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]


def answered(question: str, mean: float, low: float, high: float, runs: int) -> str:
    """What a difference and its 95 % interval answer; of one run, whose interval is NaN, nothing is shown."""
    better, worse = ("a gain", "a loss") if question.startswith("How much") else ("yes", "no, the contrary")
    said = better if low > 0 else worse if high < 0 else "**not shown**"
    over = f" [{100 * low:.1f}, {100 * high:.1f}] points over {runs} runs on the same test examples"
    return f"{said}: {100 * mean:+.1f}{over if runs > 1 else ' points, one run'}"


def identified(part: Continual) -> list[float]:
    """Of a method that tells tasks apart: the share of prompts sent to their own, after the last stage of each run."""
    runs = part.manifest["runs"]
    last = max(run["stage"] for run in runs)
    return [run["log"]["identified"] for run in runs if run["stage"] == last and "identified" in run["log"]]


def put(text: str, path: Path) -> None:
    """Put a section into a file, in the place of the one of the same heading, or at the end."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    heading = text.partition("\n")[0]
    head, _, rest = before.partition(f"{heading}\n")
    after = rest[rest.find("\n## ") :] if "\n## " in rest else ""
    files.write(path, head.rstrip("\n") + ("\n\n" if head else "") + text + "\n" + after)
