"""Cost of grad-x-act and of exact ablation, against floors and against other libraries. See README.md."""

from __future__ import annotations

import gc
import importlib
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neuroscope.attribution import METHODS, Request
from neuroscope.attribution.gradients import grad_x_act
from neuroscope.attribution.scoring import Scoring
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, bundled, load
from neuroscope.models.sites import edit
from neuroscope.tasks.encoding import Batch, batches_for, encode
from neuroscope.tasks.mini import CONTEXT, mini_tasks, mini_tokenizer
from neuroscope.tasks.mini_words import vocabulary
from neuroscope.tasks.task import Task

EXAMPLES, LENGTH, VOCABULARY = 8, 128, 8000
SHAPES = {  # layers, d_model, d_ffn
    "34M: 8 layers, d 512, ffn 1408": (8, 512, 1408),
    "32 layers, d 256, ffn 704": (32, 256, 704),
}


def random_llama(layers: int, width: int, ffn: int) -> nn.Module:
    """A Llama with random weights, the same on every machine."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=8, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def make_scoring(model: Model) -> Scoring:
    """What `attribute` hands to its methods: one batch, every next token an answer token, all logits needed."""
    size = min(VOCABULARY, model.embedding.weight.shape[0])
    ids = torch.randint(size, (EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    whole = torch.ones_like(ids)
    batch = Batch({"input_ids": ids, "attention_mask": whole}, targets, whole.bool(), torch.arange(EXAMPLES))
    return Scoring(model, Task("benchmark"), model.sites("hidden"), [batch], Request(METHODS["grad-x-act"]))


def floor(scoring: Scoring) -> None:
    """Forward and backward of activations only: parameters frozen, the graph starts at the first site, no hook else."""
    first = next(iter(scoring.sites.values()))
    with edit([first], lambda site, h, tokens: h.detach().requires_grad_()):
        loss = scoring.losses(scoring.batches[0]).sum()
    loss.backward()


def forward_only(scoring: Scoring) -> None:
    """One forward pass without a graph."""
    with torch.no_grad():
        scoring.losses(scoring.batches[0])


def ours(scoring: Scoring) -> None:
    """The code that `attribute(method="grad-x-act")` runs per batch."""
    scoring.sums.relevance.clear()
    grad_x_act(scoring)


def cached(scoring: Scoring) -> dict[str, Tensor]:
    """Keep every site's vector and its gradient, multiply afterwards: run_with_cache with backward hooks."""
    kept: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def keep(site: Any, h: Tensor, tokens: Any) -> Tensor:
        h = h if h.requires_grad else h.detach().requires_grad_()
        h.register_hook(lambda g: gradients.__setitem__(site.address, g.clone()))
        kept[site.address] = h.detach().clone()
        return h

    with edit(scoring.sites.values(), keep):
        loss = scoring.losses(scoring.batches[0]).sum()
    loss.backward()
    return {a: (kept[a] * gradients[a]).sum(1).abs().sum(0) for a in kept}


def kept(batch: Batch) -> Tensor:
    """[kept] positions at which any example of the batch is scored; transformers can leave out the others."""
    return batch.scored.any(0).nonzero().flatten()


def captum(scoring: Scoring) -> list[Tensor]:
    """captum's LayerGradientXActivation, one layer after another, from the embeddings (ids have no gradient)."""
    from captum.attr import LayerGradientXActivation

    root, found = scoring.model.root, []
    embeddings = root.get_input_embeddings()(scoring.batches[0].inputs["input_ids"])
    for site in scoring.sites.values():
        method = LayerGradientXActivation(_embedded(scoring), site.module)
        found.append(method.attribute(embeddings, attribute_to_layer_input=True).sum(1).abs().sum(0))
    return found


def _embedded(scoring: Scoring) -> Callable[[Tensor], Tensor]:
    batch = scoring.batches[0]

    def losses(embeddings: Tensor) -> Tensor:
        mask = batch.inputs["attention_mask"]
        keep = kept(batch)
        logits = scoring.model.root(inputs_embeds=embeddings, attention_mask=mask, logits_to_keep=keep).logits
        return scoring.score(logits[batch.scored[:, keep]], batch)

    return losses


def transformer_lens(scoring: Scoring) -> Callable[[], object]:
    """TransformerLens hooks on a Bridge, with the same sum of a * g."""
    model = common.bridge(scoring.model.root)
    batch = scoring.batches[0]
    total: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}

    def forward_hook(h: Tensor, hook: Any) -> Tensor:
        h = h if h.requires_grad else h.detach().requires_grad_()
        kept[hook.name] = h.detach()
        return h

    def backward_hook(g: Tensor, hook: Any) -> None:
        value = (kept.pop(hook.name) * g).sum(1).abs().sum(0)
        total[hook.name] = value

    def chosen(name: str) -> bool:
        return name.endswith("mlp.out.hook_in")

    def run() -> object:
        with model.hooks(fwd_hooks=[(chosen, forward_hook)], bwd_hooks=[(chosen, backward_hook)]):
            logits = model(batch.inputs["input_ids"], return_type="logits")
            scoring.score(logits[batch.scored], batch).sum().backward()
        assert total
        return dict(total)

    return run


def nnsight(scoring: Scoring) -> Callable[[], object]:
    """An nnsight trace, with the same sum of a * g."""
    import nnsight as library

    warnings.filterwarnings("ignore", module="nnsight")
    model = library.NNsight(scoring.model.root)
    batch = scoring.batches[0]
    layers = len(model.model.layers)

    def run() -> object:
        total = []
        with model.trace(**batch.inputs, use_cache=False, logits_to_keep=kept(batch)):
            vectors = []
            for i in range(layers):
                h = model.model.layers[i].mlp.down_proj.input
                if i == 0:
                    h = h.detach().requires_grad_()
                    model.model.layers[i].mlp.down_proj.input = h
                vectors.append(h)
            loss = scoring.score(model.output.logits[batch.scored[:, kept(batch)]], batch).sum()
            with loss.backward():
                for h in reversed(vectors):
                    total.append((h.detach() * h.grad).sum(1).abs().sum(0))
        assert total
        return total

    return run


# each is given a scoring of its own model and returns what is timed
CONTENDERS: dict[str, Callable[[Scoring], Callable[[], object]]] = {
    "floor": lambda scoring: partial(floor, scoring),
    "forward only": lambda scoring: partial(forward_only, scoring),
    "neuroscope": lambda scoring: partial(ours, scoring),
    "TransformerLens Bridge hooks": transformer_lens,
    "nnsight trace": nnsight,
    "all activations and gradients cached": lambda scoring: partial(cached, scoring),
    "captum, layer by layer": lambda scoring: partial(captum, scoring),
}


def peak(name: str, shape: str) -> None:
    """In a process of its own: print how many MB the contender's peak lies above the loaded model, and above nothing.

    This is the kernel's high-water mark, started afresh. (ru_maxrss is inherited from the parent process.)
    """
    contender = CONTENDERS[name](make_scoring(load(random_llama(*SHAPES[shape]))))
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # start the high-water mark afresh
    before = status("VmRSS")
    contender()
    print("peak", status("VmHWM") - before, status("VmHWM"))


def status(key: str) -> float:
    """A size of this process in MB, as the kernel counts it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def memory(name: str, shape: str, options: Any) -> tuple[float, float]:
    """Peak MB above the loaded model, and of the whole process; medians of several processes."""
    command = [sys.executable, __file__, "--threads", str(options.threads), "--child", f"{name}|{shape}"]
    runs = []
    for _ in range(1 if options.quick else 3):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(tuple(map(float, out.split("peak")[-1].split())))
    above, whole = (statistics.median(values) for values in zip(*runs, strict=True))
    return above, whole


def gradient_rows(shape: str, options: Any) -> list[list[str]]:
    """A row per contender. The Bridge changes the model it is given, so each has one of its own, of equal weights."""
    names = options.only.split(",") if options.only else list(CONTENDERS)
    if SHAPES[shape][0] >= 32:  # captum takes a pass per layer
        names = [name for name in names if "captum" not in name]
    runs = {name: CONTENDERS[name](make_scoring(load(random_llama(*SHAPES[shape])))) for name in names}
    seconds = common.in_turns(runs, 3 if options.quick else 9)
    mb = {name: memory(name, shape, options) for name in names}
    return [
        [
            name,
            common.milliseconds(seconds[name]),
            common.ratio(seconds[name], seconds["floor"]),
            f"{mb[name][0]:.0f}",
            f"{mb[name][0] / mb['floor'][0]:.2f}",
            f"{mb[name][1] / mb['floor'][1]:.2f}",
        ]
        for name in names
    ]


def mini() -> Model:
    """The bundled model, or its shape with random weights."""
    if bundled("mini"):
        return load("mini")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    return load(transformers.LlamaForCausalLM(config).eval(), tokenizer=mini_tokenizer())


def exact_rows(options: Any) -> list[list[str]]:
    """Exact ablation of evenly spaced neurons of every site, and the same with one whole forward pass per neuron."""
    module = importlib.import_module("neuroscope.attribution.exact")
    model, rows = mini(), []
    tasks = mini_tasks(train=1, discovery=32, test=1)
    for task_name in ("sentiment-food", "nli-food", "summary-food"):
        for examples in (8, 32):
            task = tasks[task_name]
            encoded = encode(model, task, task.split("discovery", examples))
            cut = list(batches_for(model, encoded, examples))
            scoring = Scoring(model, task, model.sites("hidden"), cut, Request(METHODS["exact"], reduction="signed"))
            widths = {a: s.width for a, s in scoring.sites.items()}
            mask = NeuronMask.of({a: range(0, w, 16 if options.quick else 8) for a, w in widths.items()}, widths)
            runs = {"whole": partial(one_by_one, scoring, mask), "exact": partial(module.exact, scoring, mask)}
            with model.quiet():
                seconds = common.in_turns(runs, 2 if options.quick else 5)
                work = {name: _flops(run) for name, run in runs.items()}
            per_neuron = {name: common.milliseconds([s / len(mask) for s in times]) for name, times in seconds.items()}
            shape = "x".join(map(str, cut[0].real.shape))
            speed = common.ratio(seconds["whole"], seconds["exact"])
            operations = f"{work['whole'] / work['exact']:.2f}"
            rows.append([task_name, shape, str(len(mask)), per_neuron["whole"], per_neuron["exact"], speed, operations])
    return rows


def one_by_one(scoring: Scoring, mask: NeuronMask) -> None:
    """One whole forward pass per neuron, with a hook that sets it to zero."""
    with torch.no_grad():
        for address, neurons in mask.items():
            for neuron in neurons:
                with edit([scoring.sites[address]], lambda s, h, t, neuron=neuron: h.index_fill(-1, neuron, 0.0)):
                    scoring.losses(scoring.batches[0])


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main() -> None:
    """Print the tables."""
    options = common.arguments(__doc__ or "")
    if options.child:
        peak(*options.child.split("|"))
        return
    for shape in SHAPES:
        print(common.heading(f"activation x gradient, random Llama of {shape}, {EXAMPLES} x {LENGTH} tokens"))
        header = ["", "ms", "time / floor (quartiles)", "MB above the model", "/ floor", "whole process / floor"]
        print(common.table(header, gradient_rows(shape, options)), flush=True)
    if options.only:
        return
    print(common.heading("exact ablation on the mini model, against one whole forward pass per neuron"))
    header = ["task", "tokens", "neurons", "whole pass, ms a neuron", "exact, ms a neuron", "time ratio (quartiles)"]
    print(common.table([*header, "operations ratio"], exact_rows(options)))


if __name__ == "__main__":
    main()
