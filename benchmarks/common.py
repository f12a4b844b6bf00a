"""What the benchmarks share: contenders run in turns, medians, and a table that says how it was made."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the benchmarks run in a bare checkout

Contender = Callable[[], object]


def arguments(description: str) -> argparse.Namespace:
    """The options that every script has; the thread count is set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few repetitions, for a look")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--only", help="names of contenders, comma-separated (attribution.py)")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # a measurement in a process of its own
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def in_turns(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender, `repeats` rounds of one call each, so that a busy machine slows all alike.

    One round before is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cuda = torch.cuda.is_available()
    for round_ in range(repeats + 1):
        for name, contender in list(contenders.items())[:: 1 if round_ % 2 else -1]:  # nobody is always first
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            contender()
            if cuda:
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def bridge(root: nn.Module) -> Any:
    """The model as a TransformerBridge, which changes it in place."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    from neuroscope.tasks.mini import mini_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        mini_tokenizer().save_pretrained(folder)  # TransformerLens needs one that was loaded from a folder
        tokenizer = AutoTokenizer.from_pretrained(folder)
        device = next(root.parameters()).device
        model = TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=tokenizer, device=str(device))
    return model.requires_grad_(False)


def ratio(mine: Sequence[float], base: Sequence[float]) -> str:
    """Median of the rounds' ratios, and their quartiles."""
    ratios = [m / b for m, b in zip(mine, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios * 3)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def milliseconds(seconds: Sequence[float]) -> str:
    """Median in milliseconds."""
    return f"{1000 * statistics.median(seconds):.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def heading(title: str) -> str:
    """Title, command and machine."""
    command = "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"\n### {title}\n\n`{command}`; {where}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}, load average {load}\n"
    )
