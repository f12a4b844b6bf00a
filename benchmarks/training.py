"""A training step on chosen neurons against full fine-tuning, LoRA, masked gradients, and the floor: time and memory.

And what it gains where few tokens are answers, as in any task: `finetune` makes logits at the scored positions alone.

The floor is a forward pass and the backward pass of activations alone, which every method needs that trains something
in the first layer. All contenders take the same batch through the same loop: forward, loss, backward, AdamW.
"""

from __future__ import annotations

import gc
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from neuroscope.masks import NeuronMask
from neuroscope.models import Model, load
from neuroscope.models.head import head_at
from neuroscope.tasks.encoding import UNSCORED
from neuroscope.training import NeuronAdapter, every_ffn
from neuroscope.training.trainer import answer_loss

LAYERS, WIDTH, FFN, VOCABULARY = 6, 512, 1408, 6000  # 25M parameters
EXAMPLES, LENGTH = 8, 128
SMOLLM2 = (30, 576, 1536, 49152)  # the same of SmolLM2-135M, whose head is a fifth of the model
PROMPTS = 4, 77  # rows and tokens, of which the last two of a row are answers
LARGE = (2, 256, 704, 262144)  # a vocabulary as large as Gemma 3's, on a small model
LARGE_PROMPTS = 8, 125
Step = Callable[[], object]


def llama(layers: int = LAYERS, width: int = WIDTH, ffn: int = FFN, vocabulary: int = VOCABULARY) -> Model:
    """A Llama with random weights, the same on every machine."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=LENGTH, tie_word_embeddings=vocabulary != VOCABULARY,
    )  # fmt: skip
    return load(transformers.LlamaForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu").eval())


def batch(model: Model) -> dict[str, Tensor]:
    """Every token is a target."""
    ids = torch.randint(VOCABULARY, (EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def loop(root: nn.Module, parameters: Sequence[nn.Parameter], inputs: dict[str, Tensor]) -> tuple[Step, Any]:
    """One step of AdamW on some parameters, all others frozen; and the optimizer."""
    root.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> None:
        root(**inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, optimizer


def full(model: Model) -> tuple[Step, Any]:
    return loop(model.root, list(model.root.parameters()), batch(model))


def lora(model: Model) -> tuple[Step, Any]:
    """Rank 8 on all linear layers but the head."""
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    root: Any = peft.get_peft_model(model.root, config)
    return loop(root, [p for p in root.parameters() if p.requires_grad], batch(model))


def neurons(share: float, first: int, model: Model) -> tuple[Step, Any]:
    """Random neurons trained, and nothing else."""
    adapter = NeuronAdapter(model, random_share(model, share, first))
    return loop(model.root, adapter.parameters(), batch(model))


def random_share(model: Model, share: float, first: int = 0) -> NeuronMask:
    """Random neurons, the given share of every layer from the given one on."""
    every = every_ffn(model)
    chosen = {a: torch.arange(round(share * w)) for layer, (a, w) in enumerate(every.widths.items()) if layer >= first}
    return NeuronMask.of(chosen, every.widths).random_like(seed=0)


def masked_gradients(share: float, model: Model) -> tuple[Step, Any]:
    """The usual way: whole FFN matrices are trained, hooks set the gradients of all other neurons to zero."""
    parameters = []
    for site in model.sites("hidden").values():
        keep = torch.randperm(site.width, generator=torch.Generator().manual_seed(0))[: round(share * site.width)]
        for rows in [*site.out, *(r for role in site.ins.values() for r in role)]:
            flags = torch.zeros(rows.param.shape[rows.dim], device=rows.param.device)
            flags[rows.start + rows.step * keep] = 1.0
            flags = flags[:, None] if rows.dim == 0 else flags[None]
            rows.param.register_hook(lambda gradient, flags=flags: gradient * flags)
            parameters.append(rows.param)
    return loop(model.root, parameters, batch(model))


def floor(model: Model) -> tuple[Step, Any]:
    """Forward, and the backward pass of activations alone, from the embeddings on."""
    inputs = batch(model)
    model.root.requires_grad_(False)

    def step() -> None:
        embedded = model.root.get_input_embeddings()(inputs["input_ids"]).requires_grad_(True)
        model.root(
            inputs_embeds=embedded, attention_mask=inputs["attention_mask"], labels=inputs["labels"], use_cache=False
        ).loss.backward()

    return step, None


CONTENDERS: dict[str, Callable[[Model], tuple[Step, Any]]] = {
    "full fine-tuning": full,
    "LoRA r = 8, all linears (peft)": lora,
    "masked gradients, k = 10 %": partial(masked_gradients, 0.10),
    "neuroscope, k = 10 %": partial(neurons, 0.10, 0),
    "neuroscope, k = 1 %": partial(neurons, 0.01, 0),
    "neuroscope, k = 10 %, upper half only": partial(neurons, 0.10, LAYERS // 2),
    "floor": floor,
}


def answer_steps(model: Model, rows: int, length: int, check: bool = True) -> tuple[dict[str, Step], NeuronAdapter]:
    """A step on a tenth of the neurons where the last two tokens of a row are scored, by where logits are made."""
    adapter, root = NeuronAdapter(model, random_share(model, 0.10)), model.root
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-5)
    size = min(VOCABULARY, model.embedding.weight.shape[0])
    ids = torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(1)).to(model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = ids.masked_fill(torch.arange(length, device=ids.device) < length - 2, UNSCORED)
    scored = functional.pad(labels[:, 1:] != UNSCORED, (0, 1))

    def everywhere() -> Tensor:
        return root(**inputs, labels=labels, use_cache=False).loss

    def alone() -> Tensor:  # as `NeuronTrainer` does
        with head_at(model.base, scored):
            return answer_loss(root(**inputs, use_cache=False), labels)

    def step(loss: Callable[[], Tensor]) -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if check:
        torch.testing.assert_close(alone(), everywhere().to(torch.float32), rtol=1e-2, atol=1e-3)
    return {
        "logits at all positions": partial(step, everywhere),
        "logits at scored ones": partial(step, alone),
    }, adapter


def state_bytes(optimizer: Any) -> int:
    """Bytes of the gradients and of the optimizer's moments, after a step."""
    if optimizer is None:
        return 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [v for p in parameters for v in optimizer.state[p].values() if torch.is_tensor(v) and v.numel() > 1]
    return sum(t.numel() * t.element_size() for t in [*parameters, *moments])  # a gradient is as large as its weight


def peak(name: str) -> None:
    """In a process of its own: print the peak MB above the loaded model (the kernel's high-water mark)."""
    if name in CONTENDERS:
        step, _ = CONTENDERS[name](llama())
    else:
        step = answer_steps(llama(*LARGE), *LARGE_PROMPTS, check=False)[0][name]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    for _ in range(2):  # the moments come with the first
        step()
    print("peak", _status("VmHWM") - before)


def _status(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def memory(name: str, options: Any) -> float:
    """Median over processes of the peak."""
    command = [sys.executable, __file__, "--threads", str(options.threads), "--child", name]
    runs = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("peak")[-1])
        for _ in range(1 if options.quick else 3)
    ]
    return statistics.median(runs)


def main() -> None:
    """Print the table."""
    options = common.arguments(__doc__ or "")
    if options.child:
        peak(options.child)
        return
    made = {name: contender(llama()) for name, contender in CONTENDERS.items()}
    seconds = common.in_turns({name: step for name, (step, _) in made.items()}, 3 if options.quick else 9)
    held = {name: state_bytes(optimizer) for name, (_, optimizer) in made.items()}
    del made
    cuda = torch.cuda.is_available()
    mb = dict.fromkeys(CONTENDERS, float("nan")) if cuda else {name: memory(name, options) for name in CONTENDERS}
    print(common.heading(f"a training step, random Llama of 25M, {EXAMPLES} x {LENGTH} tokens"))
    header = ["", "ms", "time / full (quartiles)", "time / LoRA", "time / floor", "gradients + Adam, MB", "/ full"]
    rows = [
        [
            name,
            common.milliseconds(seconds[name]),
            common.ratio(seconds[name], seconds["full fine-tuning"]),
            common.ratio(seconds[name], seconds["LoRA r = 8, all linears (peft)"]),
            common.ratio(seconds[name], seconds["floor"]),
            f"{held[name] / 1e6:.1f}",
            f"{held[name] / held['full fine-tuning']:.3f}",
            f"{mb[name]:.0f}",
            f"{mb[name] / mb['full fine-tuning']:.2f}",
        ]
        for name in CONTENDERS
    ]
    print(common.table([*header, "peak MB above the model", "/ full"], rows), flush=True)
    steps, _ = answer_steps(llama(*SMOLLM2), *PROMPTS)
    times = common.in_turns(steps, 3 if options.quick else 9)
    print(
        common.heading(
            "a training step, k = 10 %, random Llama of SmolLM2-135M's shape, {} x {} tokens".format(*PROMPTS)
        )
    )
    print(common.table(["", "ms", "time / all positions (quartiles)"], answer_rows(times)), flush=True)
    if not cuda:
        shape = "{} x {} tokens, vocabulary of {:,}".format(*LARGE_PROMPTS, LARGE[-1])
        print(common.heading(f"memory of a training step, k = 10 %, {shape}"))
        rows = [[name, f"{memory(name, options):,.0f}"] for name in times]
        print(common.table(["", "peak MB above the model"], rows))


def answer_rows(times: dict[str, list[float]]) -> list[list[str]]:
    """What a step takes, by where logits are made."""
    base = times["logits at all positions"]
    return [[name, common.milliseconds(mine), common.ratio(mine, base)] for name, mine in times.items()]


if __name__ == "__main__":
    main()
