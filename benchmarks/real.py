"""Both papers' tables and figures on a real model and real text, each by its name, resumable. See benchmarks/README.md.

`python benchmarks/real.py --base FOLDER --data FOLDER --out FOLDER [IDS]`: the base is a Hub id, a folder or a GGUF
file; the data has a folder of JSON lines per task. Without IDS: T1. Killed, the same command goes on where it stopped.
`--write REAL.md` then writes down all that OUT has, with pictures where Chromium is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

# threads that wait must not spin: on few cores they would take turns with whatever else runs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import real_words
import torch
from tqdm import tqdm

from neuroscope import experiments, files
from neuroscope.evaluation import prepare_task
from neuroscope.experiments.table import EXPERIMENTS
from neuroscope.masks import NeuronMask, Scores, overlap_sweep
from neuroscope.models import Model, load
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.results import Result
from neuroscope.tasks import Task
from neuroscope.training import Recipe, finetune

WORDS = 40  # of a text that are read; premises and hypotheses are not cut: pairs longer than TOKENS are left out
TOKENS = 96
FAMILIES = {
    "sst2": "sentiment", "amazon": "sentiment", "agnews": "topic", "dbpedia": "topic", "yahoo": "topic",
    "rte": "inference", "mnli": "inference", "qqp": "inference",
}  # fmt: skip
TRAIN = {"amazon": 400, "mnli": 900, "rte": 400}  # examples learnt, where not 250: the harder tasks get more
DISCOVERY = 64  # examples on which neurons are found: none of them is learnt
K = 0.10
SHARES = (0.1, 0.3, 0.5, 0.7)  # of Table 8
BACKWARD = 2.0  # passes forward that one backward costs
GENERATED = 5.0  # tokens that are read in the time in which one is generated
KEPT = "\n## Explorer"  # what stands from here on is written by hand, and stays
HEAD = """# Both papers on a real model

Every table and figure of Leng & Xiong 2025 and of Zhao, Ziser & Cohen 2024 that was measured, beside what they print of
Llama-2-7b. T1, T8 and F5 are of the model tuned on all tasks together, the others of trainings of the base."""
LEFT_HALF = "each task's neurons off, every task measured (left half)"
FEW = ["sst2", "amazon", "agnews", "dbpedia"]  # for experiments that train a model for each task


def arguments() -> argparse.Namespace:
    """The command line; the thread count is set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"of {', '.join(ROWS)}; all; or none for T1")
    parser.add_argument("--base", help="Hub id, folder, or GGUF file of the model")
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task")
    parser.add_argument("--out", type=Path, default=Path("real"), help="folder for all that is made (default: real)")
    parser.add_argument("--tasks", default="sst2,agnews,dbpedia,e2e", help="those that are tuned on")
    parser.add_argument("--tune-steps", type=int, default=100, help="of 8 examples, on all tasks together")
    parser.add_argument("--steps", type=int, default=20, help="of 8 examples, of every other training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("-n", type=int, default=48, help="test examples of each task")
    parser.add_argument("--n-random", type=int, default=3, help="random masks of each kind; 3 where all is crossed")
    parser.add_argument("--bfloat16", action="store_true", help="train in bfloat16 by autocast, weights in float32")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own)")
    parser.add_argument("--write", type=Path, help="write down what --out has, as markdown, and end")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def task_of(folder: Path) -> Task:
    """One task of the data, with discovery examples held out of its training examples."""
    learnt = TRAIN.get(folder.name, 250)
    how: dict[str, Any] = {"max_words": WORDS}
    family = FAMILIES.get(folder.name, "generation")
    if family == "inference":
        how = {"max_tokens": TOKENS, "too_long": "skip"}
    task = Task.from_jsonl(folder, train=learnt + DISCOVERY, family=family, **how)
    return replace(task, train=task.train[:learnt], discovery=task.train[learnt:])


class Lab:
    """Models, tasks, scores and masks that the experiments share: each made when first wanted, and kept in a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.tasks = {name: task_of(options.data / name) for name in options.tasks.split(",")}
        arguments = {"bf16": True, "use_cpu": not torch.cuda.is_available()} if options.bfloat16 else {}
        self.recipe = {"steps": options.steps, "batch_size": 8, "arguments": arguments}
        self.shared: dict[str, Any] = {"n": options.n, "progress": partial(tqdm, mininterval=30)}

    @cached_property
    def base(self) -> Model:
        """The model as it comes."""
        return load(self.options.base)

    @cached_property
    def tuned(self) -> Model:
        """The base tuned on all tasks together (LX24 section 4.1)."""
        folder, progress = self.out / "tuned", self.shared["progress"]
        if not folder.exists():
            recipe = Recipe.of(self.recipe | {"steps": self.options.tune_steps, "every": 40}, lr=1e-4)
            learner, making = load(self.options.base), folder.with_suffix(".making")
            how: dict[str, Any] = {"output": self.out / "tuning", "resume_from_checkpoint": True, "progress": progress}
            finetune(learner, self.tasks, None, **how, **vars(recipe))
            learner.root.save_pretrained(making)
            learner.tokenizer.save_pretrained(making)
            making.rename(folder)  # whole, or not there
        return load(folder)

    def scores(self, model: Model) -> dict[str, Scores]:
        """Of every task, on its discovery examples."""
        folder = self.out / "scores" / ("tuned" if model is self.__dict__.get("tuned") else "base")
        return cached_scores(model, self.tasks, folder, examples=DISCOVERY, progress=self.shared["progress"])

    @cached_property
    def own(self) -> dict[str, NeuronMask]:
        """The neurons of every task in the tuned model."""
        return {name: scores.top(K) for name, scores in self.scores(self.tuned).items()}

    @cached_property
    def before(self) -> dict[str, NeuronMask]:
        """The neurons of every task in the base."""
        return {name: scores.top(K) for name, scores in self.scores(self.base).items()}

    def some(self, names: Mapping[str, Any] | list[str]) -> dict[str, Task]:
        """The tasks of these names that there are."""
        return {name: self.tasks[name] for name in names if name in self.tasks}

    def labelled(self) -> dict[str, Task]:
        """Those with labels, without the one that has fewest test examples left."""
        return {name: task for name, task in self.tasks.items() if task.labels and name != "rte"}

    def tokens(self, tasks: Mapping[str, Task]) -> float:
        """Tokens of a prompt with its labels behind it, or its answer: the mean over tasks."""
        counts = []
        for task in tasks.values():
            prepared = prepare_task(self.base, task, n=min(16, self.options.n))
            read = self.base.tokenizer([e.prompt for e in prepared.examples])["input_ids"]
            ends = self.base.tokenizer(list(task.labels) or [prepared.examples[0].answer])["input_ids"]
            counts.append(sum(map(len, read)) / len(read) + sum(map(len, ends)))
        return sum(counts) / len(counts)

    @cached_property
    def judged(self) -> float:
        """What an evaluation takes, in examples run forward: the mean over tasks."""
        written = [GENERATED * task.max_new_tokens for task in self.tasks.values() if not task.labels]
        return self.options.n * (1 + sum(written) / len(self.tasks) / self.tokens(self.tasks))

    @cached_property
    def speed(self) -> float:
        """Tokens a second of a pass forward on 8 rows of 64."""
        ids = torch.randint(100, (8, 64))
        at = torch.zeros(8, 64, dtype=torch.bool)
        at[:, -1] = True
        with torch.no_grad():
            self.base.logits({"input_ids": ids}, at)
            start = time.perf_counter()
            self.base.logits({"input_ids": ids}, at)
        return ids.numel() / (time.perf_counter() - start)


@dataclass(frozen=True)
class Row:
    """One table or figure.

    Attributes:
        run: makes it.
        cost: what it takes, in examples run forward.
        words: what is published, and the comparison with that.
    """

    run: Callable[[Lab], Result]
    cost: Callable[[Lab], float]
    words: Callable[[Result], str]


def _mossa(lab: Lab) -> Any:
    tasks = lab.some([*FEW, "rte"])
    held_out = [name for name in ("rte",) if name in tasks]
    how: dict[str, Any] = {"recipe": lab.recipe, "held_out": held_out, "output": lab.out}
    return experiments.mossa(lab.base, tasks, **how, **lab.shared)


def _training(lab: Lab, runs: float) -> float:
    """Examples of so many trainings, and of one measurement after each."""
    steps = lab.options.steps * lab.recipe["batch_size"]
    return runs * (steps * (1 + BACKWARD) + lab.judged)


def _off(lab: Lab, cells: float) -> float:
    tuning = 0 if (lab.out / "tuned").exists() else lab.options.tune_steps * 8 * (1 + BACKWARD)
    return tuning + len(lab.tasks) * DISCOVERY * (1 + BACKWARD) + cells * lab.judged


def _view(name: str) -> Callable[[Lab], Result]:
    return lambda lab: getattr(_mossa(lab), name)()


def _crossed(lab: Lab) -> int:
    return len(lab.labelled())


ROWS: dict[str, Row] = {
    "T1": Row(
        lambda lab: experiments.deactivation(
            lab.tuned, lab.tasks, lab.own, n_random=lab.options.n_random, output=lab.out, **lab.shared
        ),
        lambda lab: _off(lab, len(lab.tasks) * (2 + 3 * lab.options.n_random)),
        real_words.deactivation,
    ),
    "T8": Row(
        lambda lab: overlap_sweep(lab.scores(lab.tuned), k=SHARES), lambda lab: _off(lab, 0), real_words.overlap
    ),
    "F5": Row(
        lambda lab: experiments.cross_ablation(
            lab.tuned, lab.labelled(), {name: lab.own[name] for name in lab.labelled()},
            n_random=min(3, lab.options.n_random), output=lab.out, **lab.shared,
        ),
        lambda lab: _off(lab, _crossed(lab) ** 2 * (1 + min(3, lab.options.n_random))),
        real_words.cross_ablation,
    ),
    **{
        f"Z-{figure}": Row(
            _view(view), lambda lab: _training(lab, 5) + 6 * 5 * lab.judged, partial(real_words.layers, figure)
        )
        for figure, view in {
            "F1": "segments", "F2": "by_layer", "F3": "by_cluster", "F4": "maps", "F5": "dimensions", "F7": "held_out",
        }.items()
    },
    "T2": Row(
        lambda lab: experiments.train_only(
            lab.base, lab.some(FEW), {name: lab.before[name] for name in lab.some(FEW)},
            seeds=lab.options.seeds, recipe=lab.recipe, output=lab.out, **lab.shared,
        ),
        lambda lab: _training(lab, 3 * len(lab.some(FEW)) * lab.options.seeds),
        real_words.train_only,
    ),
    "F3": Row(
        lambda lab: experiments.parameter_depth(
            lab.base, lab.some(FEW), {name: lab.before[name] for name in lab.some(FEW)},
            recipe=lab.recipe, output=lab.out, progress=lab.shared["progress"],
        ),
        lambda lab: _training(lab, len(lab.some(FEW))),
        real_words.parameter_depth,
    ),
    "T4": Row(
        lambda lab: experiments.parameter_transfer(
            lab.base, lab.some(FEW), {name: lab.before[name] for name in lab.some(FEW)},
            seeds=lab.options.seeds, recipe=lab.recipe, output=lab.out, **lab.shared,
        ),
        lambda lab: _training(lab, len(lab.some(FEW)) * lab.options.seeds) * 2,
        real_words.parameter_transfer,
    ),
    "F2": Row(
        lambda lab: experiments.proportion_sweep(
            lab.base, lab.some(FEW), held_out="amazon", k=(0.1, 0.5, 1.0), seeds=3, recipe=lab.recipe,
            scores={name: lab.scores(lab.base)[name] for name in lab.some(FEW)}, output=lab.out, **lab.shared,
        ),
        lambda lab: _training(lab, 5) + 5 * 3 * lab.judged,
        real_words.proportion_sweep,
    ),
    "T9": Row(
        lambda lab: experiments.overlap_controlled(
            lab.base, lab.some(FEW), held_out="amazon",
            masks={name: lab.before[name] for name in lab.some(FEW)},
            shares=(0.0, 0.5, 1.0), seeds=lab.options.seeds, recipe=lab.recipe, output=lab.out, **lab.shared,
        ),
        lambda lab: _training(lab, 3 * lab.options.seeds),
        real_words.overlap_controlled,
    ),
}  # fmt: skip


def main() -> None:
    """Run what is asked for; or write down what there is."""
    options = arguments()
    sections = options.out / "sections"
    if options.write:
        found = [sections / f"{id_}.md" for id_ in ROWS if (sections / f"{id_}.md").exists()]
        settings = files.read_json(options.out / "settings.json", "the settings")
        head = [HEAD, "\n".join(f"- {name}: {value}" for name, value in settings.items())]
        texts = [*head, *(path.read_text() for path in found)]
        if options.write.exists() and KEPT in (before := options.write.read_text()):
            texts.append(KEPT.strip() + before.split(KEPT)[1].rstrip())
        files.write(options.write, "\n\n".join(texts) + "\n")
        return
    if not options.base or not options.data:
        raise SystemExit("real.py: give --base and --data; see benchmarks/README.md")
    ids = list(ROWS) if options.ids == ["all"] else options.ids or ["T1"]
    if unknown := [id_ for id_ in ids if id_ not in ROWS]:
        raise SystemExit(f"real.py: no such table or figure: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    lab, settings = Lab(options), _settings(options)
    files.keep_settings(options.out / "settings.json", settings, f"measure into {options.out}")
    seconds = lab.tokens(lab.tasks) / lab.speed
    for id_ in ids:
        print(f"{id_}: about {ROWS[id_].cost(lab) * seconds / 60:.0f} min, less what {options.out} has", flush=True)
    results, texts = {}, {}
    for id_ in ids:
        start = time.perf_counter()
        result = results[id_] = ROWS[id_].run(lab)
        took = _longest(options.out / "seconds.json", id_, time.perf_counter() - start)
        texts[id_] = ROWS[id_].words(result)
        title = LEFT_HALF if id_ == "F5" else EXPERIMENTS[id_].title
        command = " ".join(["python benchmarks/real.py", *_shown(sys.argv[1:])])
        files.write(sections / f"{id_}.md", real_words.section(result, id_, title, texts[id_], took, command))
        result.save(options.out / "results" / f"{id_}.json")
        real_words.picture(result, options.out / "pictures" / f"{id_}.png")
        print(f"\n{id_} ({took / 60:.0f} min)\n{texts[id_]}\n{result.in_words()}\n", flush=True)
    print(real_words.page(results, texts, options.out, settings).resolve())


def _longest(path: Path, id_: str, seconds: float) -> float:
    """What an id took when it was measured, not when it was read from a journal."""
    known = files.read_json(path, "the seconds of each id") if path.exists() else {}
    known[id_] = max(seconds, known.get(id_, 0.0))
    files.write(path, json.dumps(known))
    return float(known[id_])


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a folder's numbers have in common."""
    names = ("tasks", "tune_steps", "steps", "seeds", "n", "n_random", "bfloat16")
    return {"base": Path(options.base).name} | {name: getattr(options, name) for name in names}


def _shown(arguments: list[str]) -> list[str]:
    """The command line without the folders of this machine."""
    names = {"--base": "BASE", "--data": "DATA", "--out": "OUT"}
    return [names.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]


if __name__ == "__main__":
    main()
