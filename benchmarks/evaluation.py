"""What judging a model costs, against the least it can cost and against lm-evaluation-harness. See README.md.

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

from neuroscope.evaluation import evaluate, label_loglik, prepare_task
from neuroscope.evaluation.ranking import rows_of
from neuroscope.models import Model, load
from neuroscope.tasks import Task, load_tasks
from neuroscope.tasks.encoding import encode_prompts

SIZES = (1, 8, 32)  # batch sizes that others are tried with, on the first few prompts: the fastest one counts
FEW = 32  # prompts
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
    """Each prompt alone, with its labels' own tokens behind it, and the head where a token is scored: nothing else.

    Texts are tokenized before. No hooks, no masks, no padding, no comparison of what comes out. For generation: greedy
    decoding of all prompts in batches of the size that is fastest, by transformers itself.
    """

    def __init__(self, model: Model, task: Task, n: int) -> None:
        self.model, self.task = model, task
        examples = task.split("test", n)
        if task.kind == "generation":
            self.prompts = [item.inputs for item in encode_prompts(model, task, examples)]
            self.size = min(SIZES, key=lambda size: _seconds(partial(self.generate, size, FEW)))
            return
        rows, members = rows_of(prepare_task(model, task, n=n).labels, model.style, one_row=True)
        self.rows = [torch.tensor([row.inputs]) for row in rows]
        self.places = [sorted({p for scored in row for p in scored.places}) for row in members]

    def __call__(self) -> None:
        if self.task.kind == "generation":
            self.generate(self.size)
            return
        root, head = self.model.root, self.model.root.get_output_embeddings()
        with torch.no_grad():
            for row, places in zip(self.rows, self.places, strict=True):
                head(root.base_model(input_ids=row, use_cache=False).last_hidden_state[:, places]).logsumexp(-1)

    def generate(self, size: int, first: int | None = None) -> None:
        pad = self.model.tokenizer.pad_token_id or self.model.tokenizer.eos_token_id
        prompts = sorted(self.prompts[:first], key=len)
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            longest = max(map(len, part))
            ids = torch.tensor([[pad] * (longest - len(p)) + p for p in part])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
            self.model.root.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.task.max_new_tokens, do_sample=False
            )


class Harness:
    """lm-evaluation-harness' HFLM on the same model, prompts and labels."""

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
            return HFLM(pretrained=model.root, tokenizer=model.tokenizer, batch_size=size, device="cpu")

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
        apart = "-"
        if task.labels:
            theirs = torch.tensor([loglik for loglik, _ in runs["lm-eval HFLM"]()]).view(-1, len(task.labels))
            ours = label_loglik(model, prepare_task(model, task, n=options.n))
            apart = f"{(ours - theirs).abs().max():.1e}"
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
    header = ["task", "", "ms", "time / floor (quartiles)", "MB above the model", "log-likelihoods apart, nats"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
