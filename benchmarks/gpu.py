"""All comparisons on a CUDA device: a random Llama of 7B's shape in bfloat16, and a real model if given.

`python benchmarks/gpu.py [--base FOLDER --data FOLDER]` needs no network. With `--tiny --device cpu` it runs on a toy
shape, in seconds. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ablation
import attribution
import common
import evaluation
import torch
import training
import transformers
from torch import nn

from neuroscope.evaluation import evaluate, prepare_task
from neuroscope.interop import lens_hooks
from neuroscope.interventions import ablate
from neuroscope.models import Model, load
from neuroscope.tasks import Example, Task
from neuroscope.tasks.mini import mini_tokenizer
from neuroscope.tasks.mini_words import vocabulary

SEVEN_B = (32, 4096, 11008, 32, 32000)  # layers, d_model, d_ffn, heads, vocabulary: Llama-2-7B's
QUICK, TINY = (4, *SEVEN_B[1:]), (2, 64, 176, 4, 1000)
HEADER = ["", "", "ms", "time / first (quartiles), or ms added", "GB above the model (/ first)", "answers apart"]
Rows = list[list[str]]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="Hub id or folder of a real model, measured too")
    parser.add_argument("--data", type=Path, help="folder with a folder of JSON lines per task; else the bundled tasks")
    parser.add_argument("--tasks", help="names, comma-separated (default: sst2,dbpedia,e2e, or three bundled ones)")
    parser.add_argument("-n", type=int, default=64, help="examples of each task")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="four layers and few repetitions, for a look")
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to see that it all runs")
    parser.add_argument("--alone", action="store_true", help="leave out other libraries")
    options = parser.parse_args()
    options.tasks = options.tasks or ("sst2,dbpedia,e2e" if options.data else "nli-food,question-food,summary-food")
    if options.tiny:
        options.n = min(options.n, 4)
    return options


def random_llama(shape: tuple[int, ...], device: str) -> nn.Module:
    """A Llama built on the device, in bfloat16; normal weights of standard deviation 0.02."""
    layers, width, ffn, heads, size = shape
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=2048, dtype=torch.bfloat16,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0) if "norm" in name else parameter.data.normal_(0, 0.02, generator=generator)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)  # its buffers were on meta too
    return model.eval().requires_grad_(False)


def random_tasks(n: int, words: int, new: int) -> list[Task]:
    """Random prompts with two labels of a token, with 14 of up to four tokens, and to go on from."""
    chance, known = random.Random(0), [word for word in vocabulary() if not word.startswith("<")]

    def text(length: int) -> str:
        return " ".join(chance.sample(known, length))

    many = tuple(text(1 + i % 4) for i in range(14))

    def task(name: str, labels: tuple[str, ...], answer: str) -> Task:
        examples = [Example(text(words), answer) for _ in range(n)]
        return Task(name, train=examples, test=examples, labels=labels, max_new_tokens=new)

    return [task("2 labels", (known[0], known[1]), known[0]), task("14 labels", many, many[0]), task("text", (), "a")]


def peak_gb(device: str, run: Callable[[], object]) -> float:
    """GB that a call needs at its peak above what was held before (of a processor: the kernel's high-water mark)."""
    gc.collect()
    if torch.device(device).type != "cuda":
        Path("/proc/self/clear_refs").write_text("5")
        before = attribution.status("VmRSS")
        run()
        return (attribution.status("VmHWM") - before) / 2**10
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def compared(what: str, runs: dict[str, Callable[[], Any]], options: Any, apart: dict[str, str] | None = None) -> Rows:
    """A row for each contender, beside the first."""
    seconds = common.in_turns(runs, options.repeats)
    gb = {name: peak_gb(options.device, run) for name, run in runs.items()}
    base = next(iter(runs))
    return [
        [
            what,
            name,
            common.milliseconds(times),
            common.ratio(times, seconds[base]),
            f"{gb[name]:.2f} ({gb[name] / gb[base] if gb[base] > 0 else float('nan'):.2f})",
            (apart or {}).get(name, ""),
        ]
        for name, times in seconds.items()
    ]


def judged(model: Model, task: Task, options: Any) -> Rows:
    """Evaluation by labels, or generation, against the floor and, where installed, lm-evaluation-harness."""
    n = min(options.n, len(task.test))
    runs: dict[str, Callable[[], Any]] = {
        "floor": evaluation.Floor(model, task, n),
        "neuroscope": lambda: evaluate(model, task, n=n),
    }
    apart = {}
    if has("lm_eval", options):
        runs["lm-eval HFLM"] = evaluation.Harness(model, task, n)
        apart["lm-eval HFLM"] = evaluation.differing(model, prepare_task(model, task, n=n), runs["lm-eval HFLM"]())
    return compared(f"{'evaluate' if task.labels else 'generate'} {task.name}", runs, options, apart)


def has(library: str, options: Any) -> bool:
    """Whether another library is measured too."""
    return not options.alone and importlib.util.find_spec(library) is not None


def attributed(model: Model, options: Any) -> Rows:
    """Activation x gradient of one batch."""
    scoring = attribution.make_scoring(model)
    passes: dict[str, Callable[[], Any]] = {
        "floor": partial(attribution.floor, scoring),
        "neuroscope grad-x-act": partial(attribution.ours, scoring),
        "all cached": partial(attribution.cached, scoring),
    }
    return compared("attribution", passes, options)


def attributed_by_nnsight(model: Model, options: Any) -> Rows:
    """The same by an nnsight trace; this changes the model."""
    if not has("nnsight", options):
        return []
    scoring = attribution.make_scoring(model)
    passes = {"floor": partial(attribution.floor, scoring), "nnsight trace, a * g": attribution.nnsight(scoring)}
    return compared("attribution", passes, options)


@torch.no_grad()
def ablated(model: Model, options: Any) -> Rows:
    """What an ablation of 10 % adds to a pass over one row."""
    plain = partial(model.root, input_ids=a_row(model), use_cache=False)
    mask = ablation.ten_percent(model)

    def run() -> None:
        with ablate(model, mask):
            plain()

    return added({"one pass": plain, "ablation of 10 %": run}, options)


@torch.no_grad()
def ablated_on_a_bridge(model: Model, options: Any) -> Rows:
    """The same by TransformerLens' hooks; this changes the model."""
    if not has("transformer_lens", options):
        return []
    ids, hooks = a_row(model), lens_hooks(ablation.ten_percent(model))
    bridge = common.bridge(model.root)
    hooked = partial(bridge.run_with_hooks, ids, return_type="logits", fwd_hooks=hooks)
    return added({"Bridge, one pass": partial(bridge, ids, return_type="logits"), "Bridge, fwd_hooks": hooked}, options)


def a_row(model: Model) -> torch.Tensor:
    """128 tokens."""
    return attribution.make_scoring(model).batches[0].inputs["input_ids"][:1]


def added(runs: dict[str, Callable[[], Any]], options: Any) -> Rows:
    """Rows of a plain pass and of what a hooked one adds."""
    (base, name), times = runs, common.in_turns(runs, options.repeats)
    more = [1000 * (a - b) for a, b in zip(times[name], times[base], strict=True)]
    gb = peak_gb(options.device, runs[name])
    return [
        ["ablation", base, common.milliseconds(times[base]), "", "", ""],
        ["ablation", name, common.milliseconds(times[name]), f"+ {statistics.median(more):.2f} ms", f"{gb:.2f}", ""],
    ]


def trained(model: Model, options: Any) -> Rows:
    """A training step on 10 % of the neurons, with logits at all positions and at scored ones."""
    steps, adapter = training.answer_steps(model, 16, 77)
    rows = compared("a training step", steps, options)
    adapter.detach()
    return rows


def measured(model: Model, tasks: list[Task], options: Any) -> Rows:
    """All of it; the last changes the model."""
    rows = attributed(model, options) + ablated(model, options)
    for task in tasks:
        rows += judged(model, task, options)
    return rows + trained(model, options) + attributed_by_nnsight(model, options)


def main() -> None:
    """Print a table for each model."""
    options = arguments()
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device on this machine, nothing measured")
        return
    shape = TINY if options.tiny else QUICK if options.quick else SEVEN_B
    options.repeats = 1 if options.tiny else 3 if options.quick else 9
    if options.base:
        model = load(options.base, device=options.device)
        tasks = [*evaluation.tasks_named(options).values()]
        rows = measured(model, tasks, options)
        print(common.heading(f"{Path(options.base).name}, {options.n} examples a task"))
        print(common.table(HEADER, rows), flush=True)
        del model
    model = load(random_llama(shape, options.device), tokenizer=mini_tokenizer())
    rows = measured(model, random_tasks(options.n, *((20, 3) if options.tiny else (100, 32))), options)
    del model
    rows += ablated_on_a_bridge(load(random_llama(shape, options.device)), options)
    layers, width, ffn, *_ = shape
    print(
        common.heading(f"random Llama of {layers} layers, d {width}, ffn {ffn}, bfloat16, {options.n} examples a task")
    )
    print(common.table(HEADER, rows))


if __name__ == "__main__":
    main()
