"""The first step of LX24's protocol (§4.1): tune the whole model on all tasks together, before neurons are looked for.

1. Every task is judged on its test examples.
2. Every parameter is trained on the training examples of all tasks, mixed (`finetune` with `mask=None`), with
   checkpoints, from which a killed run goes on.
3. The tuned model is kept as a Hugging Face folder, and its weights are read from there, now and at later calls.
4. Every task is judged again; when the scope ends, the model has its own weights back.

A model is tuned on training examples, its neurons are found on discovery examples, and it is judged on test examples.
Where a task has no discovery examples, its training examples stand in for them (`Task.split`): then neurons are found
on what the model has learnt, which `found_on_training` names.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope import distributed, figures
from neuroscope.checks import Progress, plain
from neuroscope.errors import FileError, ModelError, naming
from neuroscope.evaluation import CONSTANT
from neuroscope.experiments.judging import Judge
from neuroscope.experiments.standings import LEVEL, Standings
from neuroscope.markup import NEGATIVE
from neuroscope.models import Model, load, require_parameters
from neuroscope.models.packed import refuse_packed
from neuroscope.results import Result
from neuroscope.tasks import Task
from neuroscope.training import Recipe, WholeModel, finetune
from neuroscope.training.recipe import FINETUNE_LR

if TYPE_CHECKING:
    import plotly.graph_objects as go

TUNED = "tuned"  # in the output folder: the tuned model
CHECKPOINTS = "tuning"  # there too, until the model is tuned
SEED = 0


@dataclass(frozen=True, repr=False)
class Tuning(Result):
    """Every task before and after the model was tuned on all of them together; one row per task.

    Columns: task, kind, metric, n, before, before_low, before_high, after, after_low, after_high (scores in [0, 1] with
    their 95 % intervals over test examples), majority, uniform and p_majority (the best constant answer,
    guessing, and whether the score after is above: `evaluation.constant`).
    """

    title = "Tuning on all tasks together"
    captions: ClassVar[Mapping[str, str]] = {"rows": "Scores before and after tuning"}

    @property
    def standings(self) -> Standings:
        """Which tasks the tuned model is above chance at."""
        return Standings(self.table.assign(score=self.table["after"]), "after tuning")

    def in_words(self) -> str:
        """The mean score before and after, where tuning made a task worse or left it at chance, and what was learnt."""
        table, recipe = self.table, self.manifest["recipe"]
        before, after = table["before"].mean(), table["after"].mean()
        long = f"{recipe['steps']} steps" if recipe["steps"] is not None else f"{recipe['epochs']:g} epochs in steps"
        long += f" of {recipe['batch_size']} examples, learning rate {recipe['lr']:g}"
        lines = [
            f"Tuned on all tasks together ({len(table)} tasks, {long}), the model goes from a mean score of "
            f"**{before:.1%}** to **{after:.1%}**.\n",
            "- All its weights were trained, and all that follows is about the tuned model.",
        ]
        lines += self.standings.why()
        worse = table.loc[table["after"] < table["before"], "task"]
        if len(worse):
            lines.append(f"- {NEGATIVE}: the tuned model is worse than before at {', '.join(worse)}.")
        if self.manifest["found_on_training"]:
            names = ", ".join(self.manifest["found_on_training"])
            lines.append(f"- Without discovery examples, neurons were found on the examples tuned on in {names}.")
        if self.manifest["seen"]:
            lines.append(f"- **{self.manifest['seen']}** of the test prompts are among the prompts tuned on.")
        return "\n".join(lines)

    def figure(self) -> go.Figure:
        """Bars per task, before and after."""
        names = self.table["task"].tolist()
        level, about = self.standings.bars(names)
        series = {
            when: tuple(100 * self.table[column] for column in (when, f"{when}_low", f"{when}_high"))
            for when in ("before", "after")
        }
        return figures.bars_with_band(
            names,
            series,
            title="Before and after tuning on all tasks together",
            subtitle="whiskers: 95 % over test examples" + self.standings.note(),
            value_label="score, %",
            within=(0.0, 100.0),
            mark=level,
            mark_label=CONSTANT,
            colours={"before": figures.style.BEFORE, "after": figures.style.MEASURED},
            hover={CONSTANT: about},
        )


def recipe_of_tuning(tune: Recipe | Mapping[str, Any] | bool | None) -> Recipe | None:
    """How a model is to be tuned; None: it is not. True is the default recipe.

    Raises:
        ArgumentError: no recipe.
    """
    given: Any = plain(tune)
    if given is None or given is False:
        return None
    with naming("tune"):
        return Recipe.of(None if given is True else given, lr=FINETUNE_LR)


def check_tunable(model: Model) -> None:
    """Refuse a model that cannot be tuned, or whose tuned weights no Hugging Face folder could hold.

    Raises:
        ModelError: a TransformerBridge, quantised weights, or a module of one's own.
    """
    asked, do = f"tune {model.name}", "tune it yourself with ns.finetune(model, tasks, None), and run without tune"
    require_parameters(model, asked)
    refuse_packed(model.root, asked)
    if not hasattr(model.root, "save_pretrained"):
        raise ModelError(asked, f"a {type(model.root).__name__}, which has no save_pretrained to keep it by", do)


@contextlib.contextmanager
def tuned(
    model: Model,
    tasks: Mapping[str, Task],
    recipe: Recipe,
    folder: Path,
    *,
    n: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Tuning]:
    """A scope in which the model has the weights that tuning on all the tasks gives it; after it, its own to the bit.

    Args:
        folder: keeps the tuned model, in `tuned/`; what is there is taken, and trained no more.
        n: test examples that each task is judged on before and after.
    """
    before = _scores(model, tasks, n, batch_size, folder, progress, "before tuning")
    base = model.fingerprint()
    if not (folder / TUNED).exists():
        _train(model, tasks, recipe, folder, progress)
    weights = _reload(model, folder / TUNED)
    try:
        after = _scores(model, tasks, n, batch_size, folder, progress, "after tuning")
        yield _compared(model, tasks, before, after, {"base": base, "recipe": recipe.settings(), "seed": SEED})
    finally:
        weights.detach()


def _scores(
    model: Model,
    tasks: Mapping[str, Task],
    n: int | None,
    batch_size: int | None,
    folder: Path,
    progress: Progress | None,
    desc: str,
) -> Judge:
    judge = Judge(model, tasks, n, batch_size, folder)
    judge.measure([(name, None) for name in tasks], progress, desc)
    return judge


def _train(model: Model, tasks: Mapping[str, Task], recipe: Recipe, folder: Path, progress: Progress | None) -> None:
    """Train, and keep the tuned model; the model has its own weights back, and the checkpoints are gone."""
    how: Any = {**vars(recipe), "seed": SEED, "progress": progress}
    weights = finetune(model, tasks, None, output=folder / CHECKPOINTS, resume_from_checkpoint=True, **how)
    try:
        with distributed.together("keep the tuned model"):
            if distributed.has_shards(model.root) or distributed.world()[0] == 0:
                weights.export(folder / TUNED)
            distributed.exchanged({})  # the others wait for the folder
    finally:
        weights.detach()
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _reload(model: Model, kept: Path) -> WholeModel:
    """Put the kept weights into the model."""
    saved = dict(load(kept).root.named_parameters())
    weights = WholeModel(model)
    try:
        for name, parameter in model.root.named_parameters():
            if name not in saved or saved[name].shape != parameter.shape:
                do = "delete that folder, to tune again"
                raise FileError(f"take the tuned model in {kept}", f"no weights for {name}", do)
            distributed.fill(parameter, saved[name])
    except BaseException:
        weights.detach()
        raise
    return weights


def _compared(
    model: Model, tasks: Mapping[str, Task], before: Judge, after: Judge, manifest: Mapping[str, Any]
) -> Tuning:
    import pandas as pd  # heavy: only for tables

    rows = []
    for name, task in tasks.items():
        row: dict[str, Any] = {"task": name, "kind": task.kind, "metric": task.metric}
        for when, judge in (("before", before), ("after", after)):
            measured = judge.row(name, judge(name))
            row |= {"n": measured["n"], when: measured["score"]}
            row |= {f"{when}_{end}": measured[end] for end in ("low", "high")}
        rows.append(row | {column: measured[column] for column in LEVEL})  # of the tuned model
    learnt = {e.prompt for task in tasks.values() for e in task.split("train")}
    tested = [e.prompt for prepared in after.prepared.values() for e in prepared.examples]
    manifest = {
        **model.provenance(),
        **manifest,
        "data_hash": {name: task.data_hash for name, task in tasks.items()},
        "found_on_training": [name for name, task in tasks.items() if not task.discovery],
        "seen": sum(prompt in learnt for prompt in tested),
    }
    return Tuning(pd.DataFrame(rows), manifest)
