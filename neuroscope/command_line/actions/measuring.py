"""`neuroscope attribute`, `ablate`, `evaluate` and `benchmark`."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.command_line.call import Answer, Call, one_of
from neuroscope.errors import ArgumentError

if TYPE_CHECKING:
    from neuroscope.masks import NeuronMask, Scores

ATTRIBUTE = "neuroscope.attribution.attributing:attribute"
DEACTIVATION = "neuroscope.experiments.t1_deactivation:deactivation"
EVALUATE = "neuroscope.evaluation.evaluating:evaluate"
ABLATE = "neuroscope.interventions.edits:ablate"
BENCHMARK = "neuroscope.experiments.benchmarking:benchmark"
TOP = 10  # neurons of each task that are shown


def score(
    call: Call, *, k: float = 0.10, output: str | None = None, text: str | None = None, option: Sequence[str] = ()
) -> Answer:
    """Scores of each task, or of one prompt.

    Args:
        k: share of all neurons in a task's mask.
        output: folder for scores/ and masks/, one file per task; by default none is written.
        text: one prompt in place of tasks, with --answer, and --foil if there is one.
        option: of the method, as name=value; several with commas between them.
    """
    from neuroscope.attribution import attribute

    how = call.of(ATTRIBUTE, "model", "tasks") | _method_options(option)
    if output is not None:
        files.writable(Path(output), "attribute")
    if text is not None and "tasks" in call.given:
        raise ArgumentError("--text with --tasks", "a prompt and tasks", "give one of them")
    tasks: Any = call.tasks() if text is None else text
    found = attribute(call.model(), tasks, progress=call.progress, **how)
    by_name: dict[str, Scores] = found if isinstance(found, dict) else {"prompt": found}
    rows: dict[str, Any] = {}
    lines: list[str] = []
    for name, scores in by_name.items():
        mask = scores.top(k)
        table = scores.to_frame().sort_values("relevance", ascending=False, kind="stable").head(TOP)
        best = [f"{layer}.{neuron}" for layer, neuron in zip(table["layer"], table["neuron"], strict=True)]
        rows[name] = {"neurons": len(mask), "of": sum(mask.widths.values()), "top": table, "manifest": scores.manifest}
        lines.append(f"{name}: {mask!r}; highest: {', '.join(best[:5])}")
        if output is not None:
            for kind, one in (("scores", scores), ("masks", mask)):
                rows[name][kind] = one.save(Path(output) / kind / f"{files.encoded(name)}.safetensors")
    lines += [f"written to {Path(output).resolve()}"] if output is not None else []
    return Answer("\n".join(lines), {"k": k, "scores": rows})


def _method_options(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in [given] if isinstance(given, str) else given:
        name, equals, value = one.partition("=")
        if not equals:
            raise ArgumentError(f"--option {one}", "no = in it", "give name=value, such as steps=8")
        try:
            found[name.strip().replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip().replace("-", "_")] = value
    return found


def switch_off(call: Call) -> Answer:
    """Tasks with nothing off, with masks off, and with random masks off."""
    from neuroscope.experiments.t1_deactivation import deactivation

    masks, tasks = call.masks(), call.tasks()
    chosen = _by_task(masks, list(tasks))
    result = deactivation(
        call.model(),
        {name: tasks[name] for name in chosen},
        chosen,
        progress=call.progress,
        **call.of(DEACTIVATION, "masks"),
    )
    return Answer(_told(result), _content(result))


def _by_task(masks: Mapping[str, NeuronMask], tasks: Sequence[str]) -> dict[str, NeuronMask]:
    """Task -> mask: the one of its name; one mask alone is for every task."""
    if len(masks) == 1:
        return dict.fromkeys(tasks, next(iter(masks.values())))
    found = {name: masks[name] for name in tasks if name in masks}
    if not found:
        do = "give files that are named as tasks, or one mask for all"
        raise ArgumentError(f"masks {', '.join(masks)}", f"none named as a task of {', '.join(tasks)}", do)
    return found


def measure(call: Call) -> Answer:
    """Tasks, each on its own, under a mask where one is given."""
    from neuroscope.evaluation import evaluate
    from neuroscope.interventions import ablate, between

    how = call.of(ABLATE, "model", "mask")
    tasks = call.tasks()
    if "mask" not in call.given and how:
        flag = call.options[next(iter(how))].flag
        raise ArgumentError(f"{flag} without --mask", "nothing that is switched off", "give --mask")
    if how.get("when") is not None:
        how["when"] = between(*how["when"])
    if how.get("data") is not None:
        how["data"] = one_of(tasks, how["data"], "task for --data")
    model = call.model()
    mask = _mask(call.given["mask"]) if "mask" in call.given else None
    results = {}
    for name, task in tasks.items():
        with contextlib.nullcontext() if mask is None else ablate(model, mask, **how):
            results[name] = evaluate(model, task, progress=call.progress, **call.of(EVALUATE, "model", "task"))
    rows = {name: _content(result) for name, result in results.items()}
    return Answer("\n".join(map(repr, results.values())), {"tasks": rows})


def _mask(given: str) -> Any:
    """A mask of a file; or neurons as they are written by hand."""
    from neuroscope.masks import NeuronMask

    if Path(given).expanduser().exists() or not all(c in "0123456789., " for c in given):
        return NeuronMask.load(given)
    return [name.strip() for name in given.split(",")]


def harness(call: Call) -> Answer:
    """Tasks of lm-evaluation-harness."""
    from neuroscope.experiments.benchmarking import benchmark
    from neuroscope.interventions import between

    given = call.of(BENCHMARK, "model", "tasks", "masks")
    masks = call.masks()
    if not call.given.get("tasks"):
        raise ArgumentError("neuroscope benchmark", "no tasks", "give --tasks, such as arc_easy,hellaswag")
    if given.get("when") is not None:
        given["when"] = between(*given["when"])
    if given.get("data") is not None:
        from neuroscope.tasks import load_tasks

        given["data"] = next(iter(load_tasks(given["data"]).values()))
    tasks = call.given["tasks"]
    listed = [tasks] if isinstance(tasks, str) else tasks
    result = benchmark(call.model(), masks, listed, progress=call.progress, **given)
    return Answer(_told(result), _content(result))


def _told(result: Any) -> str:
    """A result for a terminal: words without marks, and the first table."""
    name, table = next(iter(result.tables().items()))
    words = result.in_words().replace("**", "").replace("`", "")
    shown = table.to_string(index=False, max_rows=40, float_format=lambda x: f"{x:.3g}")
    return f"{words}\n\n{result.captions.get(name, name.capitalize())}:\n{shown}"


def _content(result: Any) -> dict[str, Any]:
    return {"words": result.in_words(), "tables": result.tables(), "manifest": result.manifest}
