"""What pruning gains: size of the saved folder and time of passes and generation, against the model as it is.

`python benchmarks/pruning.py --base FOLDER` (mini, a Hub id, a folder, a GGUF file; by default a random Llama of 42M).
Random neurons of every layer go: which ones makes no difference to size and time. Times are processor seconds of this
process, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import torch
import transformers

from neuroscope.masks import NeuronMask
from neuroscope.models import Model, load
from neuroscope.removal import prune

SHARES = (0.1, 0.25, 0.5, 0.75)


def arguments() -> argparse.Namespace:
    """The command line; the thread count is set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="mini, a Hub id, a folder or a GGUF file; by default a random Llama of 42M")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--new", type=int, default=32, help="tokens to generate")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def opened(base: str | None) -> Model:
    """The model."""
    if base is not None:
        return load(base)
    size = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(0)
    return load(transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=16000, **size)).eval())


def without(model: Model, share: float) -> Model:
    """The model without a random share of every layer's neurons."""
    generator = torch.Generator().manual_seed(0)
    sites = model.sites("hidden")
    gone = {a: torch.randperm(s.width, generator=generator)[: round(share * s.width)] for a, s in sites.items()}
    return prune(model, NeuronMask.of(gone, model))


def megabytes(root: Any) -> float:
    """Of the weights' files, as saved."""
    with TemporaryDirectory() as folder:
        root.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6


def cpu_seconds(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of this process alone, in turns; one round before is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(repeats + 1):
        for name, contender in list(contenders.items())[:: 1 if round_ % 2 else -1]:
            start = time.process_time()
            contender()
            if round_:
                seconds[name].append(time.process_time() - start)
    return seconds


@torch.no_grad()
def main() -> None:
    """Measure, and print a table."""
    options = arguments()
    whole = opened(options.base)
    models = {0.0: whole, **{share: without(whole, share) for share in SHARES}}
    ids = torch.randint(
        3, min(1000, whole.embedding.weight.shape[0]), (8, 128), generator=torch.Generator().manual_seed(1)
    )
    ids = ids[:, : min(128, whole.context or 128)]
    room = ids.shape[1] if whole.context is None else whole.context
    short = ids[:1, : max(1, min(16, room - options.new))]
    settings = transformers.GenerationConfig(do_sample=False, max_new_tokens=options.new, min_new_tokens=options.new)
    settings.pad_token_id = 0
    passes = {f"{share:g}": lambda model=model: model.root(ids) for share, model in models.items()}
    makes = {
        f"{share:g}": lambda model=model: model.root.generate(short, generation_config=settings)
        for share, model in models.items()
    }
    passed, made = cpu_seconds(passes, options.repeats), cpu_seconds(makes, options.repeats)
    sizes = {f"{share:g}": megabytes(model.root) for share, model in models.items()}
    counts = {f"{share:g}": sum(p.numel() for p in model.root.parameters()) for share, model in models.items()}
    print(common.heading(f"pruning of {whole.name}, a pass of {tuple(ids.shape)} tokens, {options.new} generated"))
    rows = []
    for name in passes:
        size = [f"{counts[name] / counts['0']:.3f}", f"{sizes[name]:.1f}", f"{sizes[name] / sizes['0']:.3f}"]
        speed = [f"{1000 * min(passed[name]):.1f}", common.ratio(passed[name], passed["0"])]
        speed += [f"{1000 * min(made[name]):.1f}", common.ratio(made[name], made["0"])]
        rows.append([f"{float(name):.0%}", *size, *speed])
    header = ["neurons gone", "parameters", "MB", "/ whole", "pass, CPU ms", "/ whole", "generation, CPU ms", "/ whole"]
    print(common.table(header, rows))


if __name__ == "__main__":
    main()
