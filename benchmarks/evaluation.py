"""What judging a model costs, by labels or by generation, against the least it can cost and lm-evaluation-harness.

On a real model: `python benchmarks/evaluation.py --base FOLDER --data FOLDER --tasks sst2,agnews,dbpedia,rte,e2e`,
where the second FOLDER has a folder of JSON lines per task. Without these: the bundled model and its tasks.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attribution
import common
import torch
import transformers
from torch import Tensor

from neuroscope.evaluation import Prepared, evaluate, label_loglik, predict, prepare_task
from neuroscope.evaluation.ranking import rows_of
from neuroscope.models import Model, load
from neuroscope.tasks import Task, load_tasks

SIZES = (1, 8, 32)  # batch sizes that others are tried with, on the first few requests: the fastest one counts
FEW = 32  # requests
WORDS = 150  # of a text that are read


def arguments() -> argparse.Namespace:
    """The command line; the thread count is set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task; else the bundled tasks")
    parser.add_argument("--base", default="mini", help="Hub id or folder of the model (default: the bundled one)")
    parser.add_argument("--tasks", default="nli-food,question-food,summary-food")
    parser.add_argument("-n", type=int, default=32, help="examples of each task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two rounds, for a look")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def tasks_named(options: argparse.Namespace) -> dict[str, Task]:
    """The tasks that were asked for."""
    tasks = load_tasks("mini") if options.data is None else load_tasks(options.data, max_words=WORDS)
    return {name: tasks[name] for name in options.tasks.split(",")}


class Floor:
    """The bare model on texts that were tokenized before: no hooks, no padding masks of trees, no comparison.

    Labels: each prompt alone, with its labels' own tokens behind it, and the head where a token is scored. Generation:
    `evaluate`'s own batches, the prompts once, then one new token a row at a time with a cache until all have ended.
    """

    def __init__(self, model: Model, task: Task, n: int) -> None:
        self.model, self.task = model, task
        self.trunk, self.head = model.root.base_model, model.root.get_output_embeddings()
        prepared = prepare_task(model, task, n=n)
        self.prompts = [batch.inputs for batch in prepared.prompts]
        rows, members = rows_of(prepared.labels, model.style, one_row=True)
        self.rows = [torch.tensor([row.inputs], device=model.device) for row in rows]
        self.places = [sorted({p for scored in row for p in scored.places}) for row in members]

    @torch.no_grad()
    def __call__(self) -> None:
        for inputs in self.prompts:
            self.generate(inputs["input_ids"], inputs["attention_mask"])
        for row, places in zip(self.rows, self.places, strict=True):
            self.head(self.trunk(input_ids=row, use_cache=False).last_hidden_state[:, places]).logsumexp(-1)

    def generate(self, ids: Tensor, mask: Tensor) -> None:
        """Greedily, as many tokens as the task allows."""
        end = torch.tensor(self.model.tokenizer.eos_token_id, device=ids.device)
        cache = transformers.DynamicCache(config=self.model.config)
        place, ended = (mask.cumsum(1) - 1).clamp(min=0), torch.zeros_like(ids[:, 0], dtype=torch.bool)
        for _ in range(self.task.max_new_tokens):
            hidden = self.trunk(ids, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True)
            ids = self.head(hidden.last_hidden_state[:, -1:]).argmax(-1)
            mask, place = torch.cat([mask, torch.ones_like(ids)], 1), place[:, -1:] + 1
            ended |= ids[:, 0] == end
            if bool(ended.all()):
                break


class Harness:
    """lm-evaluation-harness' HFLM on the same model, prompts and labels; it generates in batches as large as ours."""

    def __init__(self, model: Model, task: Task, n: int) -> None:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        examples = task.split("test", n)
        kind = "generate_until" if task.kind == "generation" else "loglikelihood"
        self.kind = kind
        if task.kind == "generation":
            until = {"until": [], "max_gen_toks": task.max_new_tokens, "do_sample": False}
            given: list[tuple[Any, ...]] = [(e.prompt, until) for e in examples]
        else:
            given = [(e.prompt, task.separator + label) for e in examples for label in task.labels]
        self.requests = [Instance(kind, {}, pair, i) for i, pair in enumerate(given)]

        def build(size: int) -> Any:
            return HFLM(pretrained=model.root, tokenizer=model.tokenizer, batch_size=size, device=str(model.device))

        if task.kind == "generation":
            self.lm = build(max(len(batch.index) for batch in prepare_task(model, task, n=n).prompts))
        else:
            self.lm = min(map(build, SIZES), key=lambda lm: _seconds(partial(self.run, lm, FEW)))

    def __call__(self) -> list[Any]:
        return self.run(self.lm)

    def run(self, lm: Any, first: int | None = None) -> list[Any]:
        return getattr(lm, self.kind)(self.requests[:first], disable_tqdm=True)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def contenders(model: Model, task: Task, n: int) -> dict[str, Callable[[], Any]]:
    """What is timed; what is ours is the whole call, from text to table."""
    return {
        "floor": Floor(model, task, n),
        "neuroscope": lambda: evaluate(model, task, n=n),
        "lm-eval HFLM": Harness(model, task, n),
    }


def memory(name: str, task: str) -> float:
    """Peak MB above the loaded model, in a process of its own."""
    command = [sys.executable, *sys.argv, "--child", f"{name}|{task}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(out.split("peak")[-1])


def peak(options: argparse.Namespace, name: str, task: str) -> None:
    """Print how many MB a contender's peak lies above the loaded model; see `attribution.peak`."""
    model, chosen = load(options.base), tasks_named(options)[task]
    run = {
        "floor": lambda: Floor(model, chosen, options.n),
        "neuroscope": lambda: lambda: evaluate(model, chosen, n=options.n),
        "lm-eval HFLM": lambda: Harness(model, chosen, options.n),
    }[name]()
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = attribution.status("VmRSS")
    run()
    print("peak", attribution.status("VmHWM") - before)


def differing(model: Model, prepared: Prepared, theirs: list[Any]) -> str:
    """How far the answers lie from lm-evaluation-harness'."""
    labels = prepared.task.labels
    if labels:
        loglik = torch.tensor([loglik for loglik, _ in theirs]).view(-1, len(labels))
        return f"{(label_loglik(model, prepared) - loglik).abs().max():.1e} nats"
    ours = predict(model, prepared)
    return f"{sum(a.strip() != b.strip() for a, b in zip(ours, theirs, strict=True))} of {len(ours)} texts"


def main() -> None:
    """Print a table."""
    options = arguments()
    if options.child:
        peak(options, *options.child.split("|"))
        return
    model, rows = load(options.base), []
    for name, task in tasks_named(options).items():
        runs = contenders(model, task, options.n)
        seconds = common.in_turns(runs, 2 if options.quick else options.rounds)
        theirs = runs["lm-eval HFLM"]()
        apart = differing(model, prepare_task(model, task, n=options.n), theirs)
        for who, times in seconds.items():
            rows.append(
                [
                    f"{name} ({len(task.labels) or 'no'} labels)",
                    who,
                    common.milliseconds(times),
                    common.ratio(times, seconds["floor"]),
                    f"{memory(who, name):.0f}",
                    apart if who == "lm-eval HFLM" else "",
                ]
            )
            print("|", " | ".join(rows[-1]), "|", file=sys.stderr, flush=True)
    print(common.heading(f"evaluation of {options.n} examples a task, {Path(options.base).name}"))
    header = ["task", "", "ms", "time / floor (quartiles)", "MB above the model", "answers apart"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
