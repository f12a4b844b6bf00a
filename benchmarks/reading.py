"""Cost of `neuron_statistics`, of all neurons, against the forward passes alone; and memory at two sizes of a corpus.

`python benchmarks/reading.py --base mini` (or a Hub id, a folder, a GGUF file). A real base reads sentences out of the
standard library's docstrings; the bundled model the prompts of its tasks.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common  # noqa: F401  # so that it runs in a bare checkout
import torch

from neuroscope.models import Model, load
from neuroscope.reading import neuron_statistics
from neuroscope.reading.corpora import Corpus, sources_of
from neuroscope.reading.over_a_corpus import CHUNK
from neuroscope.reading.passes import run_passes
from neuroscope.reading.prompts import Looked
from neuroscope.tasks.mini import mini_stream

WORDS = range(6, 30)  # of a sentence


def arguments() -> argparse.Namespace:
    """The command line; the thread count is set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="mini", help="mini, a Hub id, a folder or a GGUF file")
    parser.add_argument("-n", type=int, default=2000, help="how many texts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="the peak memory of n and of 4 n texts instead")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def sentences() -> Iterator[str]:
    """English sentences, the same for a version of Python."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found = re.findall(r"[A-Z][^.!?]*[a-z][.!?](?=\s|$)", text)
                yield from (one for one in found if len(one.split()) in WORDS)


def texts_for(base: str, n: int) -> list[str]:
    """So many texts of the model's language."""
    if base == "mini":
        return [example.prompt for example in itertools.islice(mini_stream("nli-food", "train"), n)]
    found = list(itertools.islice(dict.fromkeys(sentences()), n))
    return list(itertools.islice(itertools.cycle(found), n))


def passes_alone(model: Model, texts: list[str]) -> None:
    """The same passes, in which nothing is looked at."""
    corpus = Corpus(sources_of(texts, "passes"), "test", None)
    looked = Looked.of(model, None, False, "passes")
    for chunk in corpus.chunks(model, CHUNK):
        run_passes(model, corpus.rows(model, chunk), [], looked, lambda *seen: None, asked="passes")


def cpu_seconds(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of this process alone, in turns: of one thread they do not depend on what else the machine does."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(repeats):
        for name, contender in list(contenders.items())[:: 1 if round_ % 2 else -1]:
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    """Measure, and print a table."""
    options = arguments()
    if options.memory:
        for n in (options.n, 4 * options.n):
            command = [sys.executable, __file__, "--child", "--base", options.base, "-n", str(n)]
            print(f"{n} texts: {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}")
        return
    model = load(options.base)
    texts = texts_for(options.base, options.n)
    if options.child:
        neuron_statistics(model, texts)
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")
        return
    for contender in (passes_alone, neuron_statistics):  # what is done once, such as imports
        contender(model, texts[:8])
    found = cpu_seconds(
        {"passes alone": lambda: passes_alone(model, texts), "statistics": lambda: neuron_statistics(model, texts)},
        options.repeats,
    )
    best = {name: min(seconds) for name, seconds in found.items()}
    neurons = sum(site.width for site in model.sites("hidden").values())
    print(f"{neurons:,} neurons of {options.base}, {len(texts):,} texts, {options.threads} thread(s), CPU seconds")
    for name, seconds in found.items():
        print(f"{name:14} best {best[name]:.1f} ({', '.join(f'{s:.1f}' for s in seconds)})")
    print(f"statistics / passes alone = {best['statistics'] / best['passes alone']:.3f}")


if __name__ == "__main__":
    main()
