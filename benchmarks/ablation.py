"""What an ablation adds to a forward pass, and what `import neuroscope` adds to `import torch`. See README.md."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attribution
import common
import torch
from torch import Tensor

from neuroscope.interop import lens_hooks
from neuroscope.interventions import ablate
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, load

LAYERS, WIDTH, FFN = 32, 256, 704


def ten_percent(model: Model) -> NeuronMask:
    """A random tenth of the hidden neurons of every site."""
    generator = torch.Generator().manual_seed(0)
    widths = {a: s.width for a, s in model.sites("hidden").items()}
    chosen = {a: torch.randperm(w, generator=generator)[: w // 10] for a, w in widths.items()}
    return NeuronMask.of(chosen, widths)


def contenders(tokens: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Forward passes without and with the ablation; each library's plain pass is the base of its own."""
    shape = (LAYERS, WIDTH, FFN)
    ids = torch.randint(attribution.VOCABULARY, tokens, generator=torch.Generator().manual_seed(1))
    model = load(attribution.random_llama(*shape))
    mask = ten_percent(model)
    plain = partial(model.root, input_ids=ids, use_cache=False)

    def entered() -> object:
        with ablate(model, mask):
            return plain()

    inside = load(attribution.random_llama(*shape))
    scope = ablate(inside, mask)  # for good: this copy of the model is for passes within a scope
    scope.__enter__()

    def within() -> object:
        assert scope  # refers to it, because a scope that is forgotten is undone
        return inside.root(input_ids=ids, use_cache=False)

    bridge = common.bridge(attribution.random_llama(*shape))
    # A Bridge numbers its neurons as the model does, so the mask holds for both.
    hooks = lens_hooks(mask)

    import nnsight

    warnings.filterwarnings("ignore", module="nnsight")
    traced = nnsight.NNsight(attribution.random_llama(*shape))
    layers = [mask[a] for a in mask]

    def trace(edits: bool) -> Tensor:
        with traced.trace(input_ids=ids, use_cache=False):
            if edits:
                for i in range(LAYERS):
                    h = traced.model.layers[i].mlp.down_proj.input
                    traced.model.layers[i].mlp.down_proj.input = h.index_fill(-1, layers[i], 0.0)
            out = traced.output.logits.save()
        return out

    return {
        "plain": plain,
        "neuroscope, within a scope": within,
        "neuroscope, a scope for each pass": entered,
        "Bridge plain": partial(bridge, ids, return_type="logits"),
        "TransformerLens Bridge fwd_hooks": partial(bridge.run_with_hooks, ids, return_type="logits", fwd_hooks=hooks),
        "nnsight trace": partial(trace, True),
    }


def ablation_rows(tokens: tuple[int, int], repeats: int) -> list[list[str]]:
    """Milliseconds per pass and milliseconds above the plain pass of the same round."""
    runs = contenders(tokens)
    with torch.no_grad():
        reference = runs["neuroscope, a scope for each pass"]().logits  # type: ignore[attr-defined]
        for name in ("TransformerLens Bridge fwd_hooks", "nnsight trace"):
            torch.testing.assert_close(runs[name](), reference, atol=1e-3, rtol=1e-3)
        within = runs["neuroscope, within a scope"]().logits  # type: ignore[attr-defined]
        torch.testing.assert_close(within, reference)
        seconds = common.in_turns(runs, repeats)
    rows = []
    for name, times in seconds.items():
        base = seconds["Bridge plain" if name.startswith("TransformerLens") else "plain"]
        added = [t - b for t, b in zip(times, base, strict=True)]
        fastest = 1000 * (min(times) - min(base))
        rows.append([name, common.milliseconds(times), common.milliseconds(added), f"{fastest:.1f}"])
    return rows


def import_rows(repeats: int) -> list[list[str]]:
    """Seconds that imports take in a fresh process."""
    code = {
        "import torch": "import torch",
        "import torch, neuroscope": "import torch, neuroscope",
        "... and its functions": "import torch, neuroscope; neuroscope.load, neuroscope.attribute, neuroscope.ablate",
    }
    seconds: dict[str, list[float]] = {name: [] for name in code}
    root = Path(__file__).resolve().parents[1]
    for _ in range(repeats):
        for name, line in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], check=True, cwd=root)
            seconds[name].append(time.perf_counter() - start)
    base = seconds["import torch"]
    return [
        [n, f"{statistics.median(t):.2f}", f"{statistics.median(a - b for a, b in zip(t, base, strict=True)):.2f}"]
        for n, t in seconds.items()
    ]


def main() -> None:
    """Print the tables."""
    options = common.arguments(__doc__ or "")
    repeats = 7 if options.quick else 31
    for tokens in ((1, 16), (1, 128)):
        title = (
            f"zero ablation of 10 % of the hidden neurons, {LAYERS} layers, d {WIDTH}, {tokens[0]} x {tokens[1]} tokens"
        )
        print(common.heading(title))
        header = ["", "ms a pass", "ms added (median of rounds)", "ms added (fastest passes)"]
        print(common.table(header, ablation_rows(tokens, repeats)), flush=True)
    print(common.heading("import"))
    print(common.table(["", "s (median)", "s beyond torch"], import_rows(7)))


if __name__ == "__main__":
    main()
