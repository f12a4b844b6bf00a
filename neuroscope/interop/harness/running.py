"""Tasks of lm-evaluation-harness: found, loaded and run as its own command does, without a trace.

1. A name is looked up among the harness' tasks, groups and tags; a path is the yaml file of a task, or a folder of
   them. Groups and tags are the tasks in them.
2. Requests are made as by `lm_eval.simple_evaluate`, with its seeds, and tell a task from others: what is asked of the
   model, and how it is judged.
3. `lm_eval.evaluate` runs them, and the outcome of each document is read from its samples. Metrics that are a mean over
   documents are kept; others, such as F1 or perplexity, have no outcome of a document, and are named.

The harness logs, prints and seeds the global generators: `aside` keeps its warnings, and restores all else.
"""

from __future__ import annotations

import difflib
import functools
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroscope import files
from neuroscope.checks import all_of
from neuroscope.errors import ArgumentError, FileError, NeuroscopeError, NumericalError, TaskError, kind_of, shown
from neuroscope.interop.harness.aside import OTHERS, aside, require

Source = str | Path  # a name, or a path
NEAR = 5  # names that an error offers
KEY = re.compile(r"^[\"']?(?:task|group)[\"']?[ \t]*:[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)
TAGS = re.compile(r"^[\"']?tag[\"']?[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)


class Right(NamedTuple):
    """Of a document of a multiple choice: the numbers of the right choices, and all choices."""

    numbers: tuple[int, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HarnessTask:
    """A task of the harness, ready to be run.

    Attributes:
        name: the harness' own.
        task: its object.
        limit: the first so many documents are judged; None: all.
        n: how many documents that is.
        shots: solved examples before each.
        identity: digits that change with what is asked of a model, and how it is judged.
        rights: of each document; none where nothing is chosen.
        metrics: those that are a mean over documents -> whether higher is better.
    """

    name: str
    task: Any
    limit: int | None
    n: int
    shots: int
    identity: str
    rights: tuple[Right, ...]
    metrics: Mapping[str, bool]


def version() -> str:
    """Of lm_eval."""
    return metadata.version("lm_eval")


def load_harness_tasks(
    sources: Iterable[Source],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    asked: str = "benchmark",
) -> dict[str, HarnessTask]:
    """Tasks by name, their data loaded and their requests made once.

    Args:
        sources: what `sources_of` makes of names and paths.
        limit: the first so many documents of each; None: all.
        num_fewshot: solved examples before each; None: as the task has it.

    Raises:
        NeuroscopeError: lm_eval is not installed.
        ArgumentError: an unknown name (the text has those near it), or a task that is named twice.
        TaskError: a task that cannot be loaded, or not be run here.
    """
    require(asked)
    with aside():
        found: dict[str, Any] = {}
        for source in sources:
            more = _found(source, asked)
            twice = found.keys() & more.keys()
            if twice:
                raise ArgumentError(f"{asked}(tasks=...)", f"the task {sorted(twice)[0]!r} twice", "name it once")
            found |= more
        return {name: _prepared(name, task, limit, num_fewshot) for name, task in found.items()}


def measure(lm: Any, task: HarnessTask) -> dict[str, Any]:
    """Run a task on a model of lm_eval.

    Returns:
        outcomes: metric -> one number for each document, in their order ("exact_match,strict" of the filter "strict");
        left_out: metrics that have none; warned: what the harness warned of.

    Raises:
        TaskError: the task cannot be run on this model, or has no metric that is a mean over documents.
        NumericalError: an outcome that is not finite.
    """
    from lm_eval.evaluator import evaluate  # an extra, and heavy

    asked, chosen = f"run {task.name} of lm-evaluation-harness", {"tasks": {task.name: task.task}}
    with aside() as warned:
        task.task.set_fewshot_seed(OTHERS)
        try:
            found = evaluate(lm=lm, task_dict=chosen, limit=task.limit, bootstrap_iters=0, log_samples=True)
        except (AssertionError, ValueError) as error:
            if isinstance(error, NeuroscopeError):
                raise
            text = " ".join(str(error).split())[:300]
            do = "ask the task for less (max_gen_toks, num_fewshot), or take another model"
            raise TaskError(asked, f"{type(error).__name__}: {text}", do) from error
    series: dict[str, list[Any]] = {}
    for sample in found["samples"][task.name]:
        for metric in sample["metrics"]:
            name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            series.setdefault(name, []).append(sample[metric])
    outcomes = {
        name: [float(value) for value in values]
        for name, values in series.items()
        if metric_of(name) in task.metrics and len(values) == task.n and all(map(_is_number, values))
    }
    for name, values in outcomes.items():
        if not np.isfinite(values).all():
            found_, do = f"an outcome of {name} that is not finite", "look for overflow, or ablate fewer neurons"
            raise NumericalError(asked, found_, do)
    if not outcomes:
        found_ = f"{', '.join(series)}: none of them is a mean over documents"
        raise TaskError(f"compare masks on {task.name}", found_, "take a task with acc, exact_match or the like")
    return {"outcomes": outcomes, "left_out": [name for name in series if name not in outcomes], "warned": warned}


def metric_of(name: str) -> str:
    """A metric without the filter that its answers went through."""
    return name.partition(",")[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | np.bool_)


def sources_of(tasks: Any, asked: str) -> list[Source]:
    """Names of tasks, groups or tags, and paths of yaml files or of folders of them, each once.

    A text is a path if it has a separator or ends in .yaml.

    Raises:
        ArgumentError: anything else, or nothing.
    """
    do = "give names of lm-evaluation-harness, such as ['arc_easy'], or paths of yaml files or folders"
    several = isinstance(tasks, Iterable) and not isinstance(tasks, str | PathLike | Mapping)
    listed = all_of(tasks, f"{asked}(tasks") if several else [tasks]
    wrong = [one for one in listed if not isinstance(one, str | PathLike)]
    if wrong or not listed:
        raise ArgumentError(f"{asked}(tasks=...)", kind_of(wrong[0]) if wrong else "no task", do)
    return list(dict.fromkeys(_source(one, asked) for one in listed))


def _source(one: str | PathLike, asked: str) -> Source:
    if isinstance(one, str) and "/" not in one and "\\" not in one and not one.endswith(".yaml"):
        return one
    return files.path_of(one, f"{asked}(tasks={fspath(one)!r})").absolute()


def _found(source: Source, asked: str) -> dict[str, Any]:
    """The harness' objects of the tasks that a name or a path stands for."""
    from lm_eval.tasks import TaskManager  # an extra, and heavy

    if isinstance(source, str):
        known = _known_names()
        if source not in known:
            near = difflib.get_close_matches(source, known, n=NEAR, cutoff=0.5)
            do = (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + "`lm_eval ls tasks` shows all"
            raise ArgumentError(shown(f"{asked}(tasks", source) + ")", f"no such task in lm_eval {version()}", do)
        names, manager = [source], _every_task()
    elif source.is_dir():
        manager = TaskManager(include_path=str(source), include_defaults=False)
        names = manager.all_subtasks
        if not names:
            raise TaskError(f"tasks of lm-evaluation-harness in {source}", "no yaml file of a task", "check the path")
    elif source.is_file():
        names, manager = [str(source)], TaskManager(include_defaults=False)
    else:
        raise FileError(f"tasks of lm-evaluation-harness in {source}", "no such file or folder", "check the path")
    try:
        return dict(manager.load(names)["tasks"])
    except Exception as error:  # yaml, datasets and the Hub raise a dozen kinds; the text is what helps
        text, do = " ".join(str(error).split())[:300], "check its file, and that this machine reaches its data"
        name = source if isinstance(source, str) else str(source)
        raise TaskError(f"load {name} of lm-evaluation-harness", f"{type(error).__name__}: {text}", do) from error


@functools.cache
def _every_task() -> Any:
    """The harness' index of all its own tasks: fourteen thousand files, so it is made once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@functools.cache
def _known_names() -> frozenset[str]:
    """Names of that index by the lines of its files, for a tenth of its cost: a misspelt name is refused at once."""
    import lm_eval.tasks

    return names_in(Path(lm_eval.tasks.__file__).parent)


def names_in(folder: Path) -> frozenset[str]:
    """Names of tasks, groups and tags in a folder's yaml files, and in what they include, of any ending or none."""
    found: set[str] = set()
    for path in (p for p in folder.rglob("*") if "yaml" in p.name or not p.suffix):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found.update(KEY.findall(text))
        for tags in TAGS.findall(text):
            found.update(re.findall(r"[^\s\"',\[\]#]+", re.sub(r"(^|\n)[ \t]*- ", r"\1", tags)))
    return frozenset(found)


def _prepared(name: str, task: Any, limit: int | None, num_fewshot: int | None) -> HarnessTask:
    """A task set as `lm_eval.simple_evaluate` sets it, its requests made once to tell it from others."""
    from lm_eval.api.metrics import mean

    asked = f"run {name} of lm-evaluation-harness"
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(asked, "a task that runs code which the model writes", "run it with lm_eval itself")
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(asked, "a task with images or sounds", "take a task of texts")
    own = task.get_config("num_fewshot")
    if num_fewshot and own == 0:  # lm_eval would ignore it
        do = "leave num_fewshot out, or change num_fewshot in the task's file"
        raise TaskError(f"{asked} with num_fewshot={num_fewshot}", "a task that is always asked without examples", do)
    shots = num_fewshot if num_fewshot is not None else own or 0
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(OTHERS)
    try:
        task.build_all_requests(limit=limit, rank=0, world_size=1)
    except Exception as error:  # the task's own code and templates run here
        text, do = " ".join(str(error).split())[:300], "check the task's file, or leave num_fewshot and limit out"
        raise TaskError(f"{asked} with {num_fewshot=}, {limit=}", f"{type(error).__name__}: {text}", do) from error
    requests = [(request.request_type, request.args, request.doc) for request in task.instances]
    aggregations, better = task.aggregation(), task.higher_is_better()
    metrics = {metric: bool(better.get(metric, True)) for metric, how in aggregations.items() if how is mean}
    identity = files.digest(version(), requests, sorted(task.dump_config().items(), key=str))
    docs = [doc for _, doc in task.doc_iterator(limit=limit)]
    return HarnessTask(name, task, limit, len(docs), shots, identity, tuple(_rights(task, docs)), metrics)


def _rights(task: Any, docs: Iterable[Any]) -> Iterator[Right]:
    """Which choices are right, as `process_results` of the harness has it."""
    if task.OUTPUT_TYPE != "multiple_choice" or not hasattr(task, "doc_to_choice"):
        return
    for doc in docs:
        choices = tuple(map(str, task.doc_to_choice(doc)))
        gold = task.doc_to_text(doc) if getattr(task, "multiple_input", False) else task.doc_to_target(doc)
        golds = gold if isinstance(gold, list) else [gold]
        golds = [choices.index(g) if isinstance(g, str) and g in choices else g for g in golds]
        yield Right(tuple(g for g in golds if isinstance(g, int) and 0 <= g < len(choices)), choices)
