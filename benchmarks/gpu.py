"""The comparisons on a CUDA device: a 7B-shaped Llama with random bfloat16 weights. Needs no network. See README.md."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from functools import partial

import ablation
import attribution
import common
import torch
import transformers
from torch import nn

from neuroscope.interop import lens_hooks
from neuroscope.interventions import ablate
from neuroscope.models import load

LAYERS, WIDTH, FFN, HEADS, VOCABULARY = 32, 4096, 11008, 32, 32000


def random_llama(layers: int) -> nn.Module:
    """Llama-2-7B's shape, built on the device; normal weights of standard deviation 0.02."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=layers,
        num_attention_heads=HEADS, max_position_embeddings=2048, dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0) if "norm" in name else parameter.data.normal_(0, 0.02, generator=generator)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to("cuda")  # its buffers were on meta too
    return model.eval().requires_grad_(False)


def peak_gb(run: Callable[[], object]) -> float:
    """GB that a call needs at its peak above what was allocated before."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def main() -> None:
    """Print one table."""
    options = common.arguments(__doc__ or "")
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device on this machine, nothing measured")
        return
    layers, repeats = (4, 3) if options.quick else (LAYERS, 15)
    model = load(random_llama(layers))
    scoring, rows = attribution.make_scoring(model), []
    ids = scoring.batches[0].inputs["input_ids"]

    passes = {name: partial(function, scoring) for name, function in (
        ("floor", attribution.floor), ("neuroscope grad-x-act", attribution.ours), ("all cached", attribution.cached),
    )}  # fmt: skip
    passes["nnsight trace, a * g"] = attribution.nnsight(scoring)
    seconds = common.in_turns(passes, repeats)
    memory = {name: peak_gb(run) for name, run in passes.items()}
    for name, times in seconds.items():
        gb = f"{memory[name]:.2f} ({memory[name] / memory['floor']:.2f})"
        rows.append([name, common.milliseconds(times), common.ratio(times, seconds["floor"]), gb])

    mask = ablation.ten_percent(model)
    plain = partial(model.root, input_ids=ids[:1], use_cache=False)

    def ablated() -> None:
        with ablate(model, mask):
            plain()

    with torch.no_grad():
        times = common.in_turns({"one pass": plain, "ablation of 10 %": ablated}, repeats)
        rows += added(times, "one pass", "ablation of 10 %", peak_gb(ablated))
        bridge = common.bridge(model.root)  # last: it changes the model
        hooks = lens_hooks(mask)
        hooked = partial(bridge.run_with_hooks, ids[:1], return_type="logits", fwd_hooks=hooks)
        runs = {"Bridge, one pass": partial(bridge, ids[:1], return_type="logits"), "Bridge, fwd_hooks": hooked}
        rows += added(common.in_turns(runs, repeats), *runs, peak_gb(hooked))
    print(common.heading(f"random Llama of {layers} layers, d {WIDTH}, ffn {FFN}, bfloat16"))
    print(common.table(["", "ms", "time / floor (quartiles), or ms added", "GB above the model (/ floor)"], rows))


def added(seconds: dict[str, list[float]], base: str, name: str, gb: float) -> list[list[str]]:
    """Rows of a plain pass and of what a hooked one adds."""
    more = [1000 * (a - b) for a, b in zip(seconds[name], seconds[base], strict=True)]
    return [
        [base, common.milliseconds(seconds[base]), "", ""],
        [name, common.milliseconds(seconds[name]), f"+ {statistics.median(more):.2f} ms", f"{gb:.2f}"],
    ]


if __name__ == "__main__":
    main()
