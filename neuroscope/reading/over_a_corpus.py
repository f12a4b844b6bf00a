"""Statistics of all neurons of a model in one pass over a corpus, in memory that does not grow with it.

1. The corpus is read in chunks (`corpora`); each becomes tokens, then batches by length.
2. While a batch passes, each site's vector is added to its tally (`tallies`) and dropped.
3. Processes share the chunks, and their tallies are merged at the end. With a folder, a process notes its tally there
   about once a minute, and goes on from it when it is started again.
4. The texts that the tallies refer to are read once more, for what they say.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.checks import Progress, public, watched, whole
from neuroscope.errors import ArgumentError, FileError
from neuroscope.masks.neuron_names import layer_of, names_of_sites
from neuroscope.models import Model, Unit, resolve
from neuroscope.reading.corpora import Corpus, sources_of
from neuroscope.reading.passes import Pass, run_passes
from neuroscope.reading.prompts import DECODER, At, Looked, refuse_nothing
from neuroscope.reading.sinks import Begun
from neuroscope.reading.statistics_result import Extremes, NeuronStatistics, ReadText
from neuroscope.reading.tallies import SAMPLE, SAMPLE_BYTES, Sample, Tallies, Tally
from neuroscope.reading.tokens_by_neurons import Split
from neuroscope.tasks.tokens import words_of

if TYPE_CHECKING:
    import pandas as pd

ASKED = "neuron_statistics"
ROUNDING = 1e-5  # of the squared mean: a variance below it is lost in sums of single precision
CHUNK = 256  # texts that are read at a time
EVERY = 60.0  # seconds between notes of a tally
MOST = 4 * 2**30  # bytes of the tallies of one process
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@public
def neuron_statistics(
    model: Any,
    corpus: Any,
    *,
    count: int = 10,
    at: At | None = None,
    skip_first: bool = False,
    unit: Unit = "hidden",
    split: Split = "test",
    n: int | None = None,
    batch_size: int | None = None,
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> NeuronStatistics:
    """Every neuron of a model over a corpus, in one pass: the texts at which it is most active, and its statistics.

    No matrix of tokens x all neurons is kept beyond a batch: memory does not grow with the corpus. Under an initialised
    torch.distributed process group, processes share the texts; every process must make the same call.

    Args:
        model: anything that can be opened.
        corpus: a file, of JSON lines (`{"text": ...}` or plain strings) or of one text a line; or texts, a Task, Tasks;
            or a dict of these by name, whose means stand side by side. Lines that are no texts are left out, counted
            and named; texts longer than the model's context are cut at their end, and counted.
        count: how many texts are kept of each neuron and sign.
        at, skip_first, unit: as of `activations`.
        split: of tasks: "test", "train" or "discovery".
        n: at most how many texts of each source; all if None.
        batch_size: texts per forward pass, chosen by their tokens if None; the numbers do not depend on it beyond
            rounding.
        output: a folder: a run that was killed goes on where it was; a finished one is read.
        progress: called as `progress(chunks, desc=...)`, such as tqdm; None is silent.

    Returns:
        `NeuronStatistics`: a row per neuron in `to_frame()`, `top("11.1229")`, `sinks`, `layers()`, `figure()`,
        `save(path)`.

    Raises:
        ArgumentError, TaskError: a corpus or tokens that are none.
        FileError: a file that cannot be read; `output` holds another run.
        NumericalError: an activation that is not finite.

    Example:
        >>> import neuroscope as ns
        >>> found = ns.neuron_statistics("mini", ["sentiment the curry was good =>"])
        >>> found.top("2.17")[["sign", "rank", "token"]].to_dict("records")
        [{'sign': '+', 'rank': 0, 'token': '=>'}]
    """
    count = whole(count, "count", 1, "give how many texts to keep, such as 10", 1000)
    sources = sources_of(corpus, ASKED)
    model = resolve(model)
    looked = Looked.of(model, at, skip_first, ASKED)
    _refuse_too_much(sum(site.width for site in model.sites(unit).values()), count, len(sources))
    settings: dict[str, Any] = {
        "at": looked.at,
        "skip_first": skip_first,
        "unit": unit,
        "split": split,
        "n": n,
        "count": count,
    }
    settings |= {"corpus": {source.name: source.identity(model) for source in sources}}
    whole_model = distributed.has_shards(model.root)
    run = Run(model, Corpus(sources, split, n), looked, count, unit, batch_size, progress, whole_model)
    alike = {name: repr(value) for name, value in settings.items()}
    with model.unchanged(), distributed.together(ASKED, alike, model.fingerprint()):
        kept = None if output is None else _Kept.of(Path(output), settings | model.identity())
        if kept is not None and kept.result.exists():
            return NeuronStatistics.load(kept.result)
        run.go(kept)
        tallies, about = run.of_all()
        if not about["texts"]:
            run.corpus.refuse_broken(ASKED)
        refuse_nothing(about["tokens"], at, ASKED)
        manifest = {**settings, **about, **model.provenance(), "versions": files.versions()}
        result = _result(model, run, tallies, json.loads(json.dumps(manifest, default=repr)))
        if kept is not None and distributed.world()[0] == 0:
            result.save(kept.result)
            kept.clean()
        distributed.exchanged({})  # the others wait for the file
    return result


def _refuse_too_much(neurons: int, count: int, sources: int) -> None:
    """Refuse buffers that hardly fit: of every neuron the texts of both signs, sums, and a sample for quantiles."""
    fixed = neurons * 8 * (4 + sources) + min(4 * SAMPLE * neurons, SAMPLE_BYTES)
    needed, of_one = fixed + 24 * count * neurons, 24 * neurons  # value, text and position in four bytes each
    if needed > MOST:
        room = max(1, (MOST - fixed) // of_one)
        found = f"{needed / 2**30:.1f} GiB for {count} texts of {neurons:,} neurons and both signs"
        raise ArgumentError(f"{ASKED}(count={count})", found, f"give count={room} or fewer")


@dataclass(frozen=True)
class _Kept:
    """The folder that a run resumes from: its settings, each process's tally, and the result."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any]) -> _Kept:
        """Note what the folder is for, or refuse one that is for something else."""
        files.writable(folder, ASKED)
        rank, size = distributed.world()
        if rank == 0:
            asked = f"{ASKED}(output={str(folder)!r})"
            files.keep_settings(folder / "settings" / f"{ASKED}.json", {**settings, "processes": size}, asked)
        distributed.exchanged({})  # the others wait for it
        return cls(folder)

    @property
    def result(self) -> Path:
        """The finished result."""
        return self.folder / f"{ASKED}.json"

    @property
    def state(self) -> Path:
        """This process's tally."""
        return self.folder / f"{ASKED}-{distributed.world()[0]}.safetensors"

    def clean(self) -> None:
        """Take the tallies away that are no longer needed."""
        for path in self.folder.glob(f"{ASKED}-*.safetensors"):
            path.unlink()


@dataclass
class Run:
    """One process's part of a pass over a corpus."""

    model: Model
    corpus: Corpus
    looked: Looked
    count: int
    unit: Unit
    batch_size: int | None
    progress: Progress | None
    whole: bool
    done: int = 0  # chunks, of all processes
    texts: int = 0
    tokens: int = 0
    begun: dict[str, Begun] = field(default_factory=lambda: {"": Begun(), DECODER: Begun()})  # by stack

    def __post_init__(self) -> None:
        names = [source.name for source in self.corpus.sources]
        self.tallies = Tallies.of(self.model.sites(self.unit), names, self.count, f"{ASKED} of {self.model.name}")

    def go(self, kept: _Kept | None) -> None:
        """All chunks that are this process's and not done."""
        if kept is not None and kept.state.exists():
            self._resume(kept.state)
        rank, size = (0, 1) if self.whole else distributed.world()
        before, noted = self.done, time.monotonic()
        chunks = self.corpus.chunks(self.model, CHUNK)
        for i, chunk in enumerate(watched(chunks, self.progress, ASKED)):
            if i % size == rank and i >= before:
                self._read(self.corpus.rows(self.model, chunk))
            self.done = max(self.done, i + 1)
            if kept is not None and time.monotonic() - noted > EVERY:
                self._note(kept.state)
                noted = time.monotonic()

    def _read(self, rows: Sequence[Any]) -> None:
        if not rows:
            return
        order = {source.name: i for i, source in enumerate(self.corpus.sources)}
        of_row = torch.tensor([order[row.task] for row in rows]), torch.tensor([row.text for row in rows])

        def begins(done: Pass) -> None:
            index = done.batch.index.cpu()
            self.tokens += sum(int(tokens.looked.sum()) for tokens in done.tokens.values())
            self.tallies.begins(done, of_row[0][index], of_row[1][index])

        self.texts += len(rows)
        self.begun[""] += Begun.of(row.encoded.inputs for row in rows)
        self.begun[DECODER] += Begun.of(row.encoded.decoder for row in rows)
        run_passes(
            self.model, rows, self.tallies.sites.values(), self.looked, self.tallies.look, asked=ASKED,
            batch_size=self.batch_size, begins=begins,
        )  # fmt: skip

    def of_all(self) -> tuple[dict[str, Tally], dict[str, Any]]:
        """The tallies of all processes together, and what a manifest says of the texts."""
        part = (self.tallies.by_site, self.tallies.samples, self.texts, self.tokens, self.corpus.odd, self.begun)
        every = {"": part} if self.whole else distributed.exchanged({str(distributed.world()[0]): part})
        tallies, samples = reduce(_merged, ((tallies, samples) for tallies, samples, *_ in every.values()))
        texts, tokens = sum(one[2] for one in every.values()), sum(one[3] for one in every.values())
        self.corpus.odd = {name: sum(one[4][name] for one in every.values()) for name in self.corpus.odd}
        self.begun = {stack: reduce(add, (one[5][stack] for one in every.values())) for stack in self.begun}
        sample = max(int((s.keys < torch.iinfo(torch.int64).max).sum()) for s in samples.values())
        return tallies, {"texts": texts, "tokens": tokens, "sample": sample, **self.corpus.in_manifest()}

    def _note(self, path: Path) -> None:
        from safetensors.torch import save_file  # only where a file is written

        tensors = {
            f"{a}/{name}": v.contiguous() for a, t in self.tallies.by_site.items() for name, v in vars(t).items()
        }
        tensors |= {f"sample/{stack}": s.keys for stack, s in self.tallies.samples.items()}
        about = {"done": self.done, "texts": self.texts, "tokens": self.tokens, "odd": self.corpus.odd}
        about["begun"] = {stack: [[*one.firsts.items()], one.tokens] for stack, one in self.begun.items()}
        metadata = {"neuroscope": json.dumps(about)}
        files.write(path, lambda partial: save_file(tensors, partial, metadata))

    def _resume(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open  # only where a file is read

        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["neuroscope"])
                for address, tally in self.tallies.by_site.items():
                    for name in vars(tally):
                        setattr(tally, name, file.get_tensor(f"{address}/{name}"))
                for stack in self.tallies.samples:
                    self.tallies.samples[stack] = Sample(file.get_tensor(f"sample/{stack}"))
            self.done, self.texts, self.tokens = about["done"], about["texts"], about["tokens"]
            self.corpus.odd = about["odd"]
            self.begun = {stack: Begun(Counter(dict(map(tuple, f))), n) for stack, (f, n) in about["begun"].items()}
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FileError(f"go on from {path}", str(error)[:200], "delete the file, to begin anew") from None


_Part = tuple[dict[str, Tally], dict[str, Sample]]


def _merged(a: _Part, b: _Part) -> _Part:
    """Two processes' tallies as one."""
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    samples = {}
    for stack in a[1]:
        keys = torch.cat([a[1][stack].keys, b[1][stack].keys])
        n = len(a[1][stack].keys)
        order = keys.argsort(stable=True)[:n]
        kept[stack] = order[order < n], order[order >= n] - n
        samples[stack] = Sample(torch.cat([a[1][stack].keys[kept[stack][0]], b[1][stack].keys[kept[stack][1]]]))
    from_sites = {address: stack_of_tally(address, kept) for address in a[0]}
    return {address: tally.merged(b[0][address], from_sites[address]) for address, tally in a[0].items()}, samples


def stack_of_tally(address: str, kept: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The kept places of the stack that a site is in."""
    return next(places for stack, places in sorted(kept.items(), reverse=True) if address.startswith(stack))


def _result(
    model: Model, run: Run, tallies: Mapping[str, Tally], manifest: dict[str, Any]
) -> NeuronStatistics:  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    names, corpus = names_of_sites(list(tallies)), run.corpus
    sources = [source.name for source in corpus.sources]
    of_stack = {stack: (one, one.tells(model.tokenizer)) for stack, one in run.begun.items()}
    begun = {address: of_stack[DECODER if address.startswith(DECODER) else ""] for address in tallies}
    table = pd.concat([_table(a, names[a], t, sources, *begun[a]) for a, t in tallies.items()], ignore_index=True)
    joined = {
        name: torch.cat([getattr(t, name) for t in tallies.values()], 2).numpy()
        for name in ("value", "text", "position")
    }
    value = joined["value"] * np.array([1, -1], dtype=np.float32)[:, None, None]
    extremes = Extremes(np.where(joined["text"] >= 0, value, np.nan), joined["text"], joined["position"])
    wanted = set(np.unique(joined["text"]).tolist()) - {-1}
    told = corpus.told(model, wanted, CHUNK)
    shown = {number: (row.encoded.inputs, row.encoded.decoder) for number, (_, row) in told.items()}
    words = words_of(model.tokenizer, [i for read in shown.values() for ids in read for i in ids])
    texts = {
        number: ReadText(row.task, place, row.prompt, *(tuple(words[i] for i in ids) for ids in shown[number]))
        for number, (place, row) in told.items()
    }
    return NeuronStatistics(table, manifest, extremes, texts)


def _table(address: str, called: str, tally: Tally, sources: Sequence[str], begun: Begun, tells: bool) -> pd.DataFrame:
    """A row per neuron of a site."""
    import pandas as pd  # heavy: only where a table is made

    tokens, width = int(tally.tokens.sum()), tally.value.shape[2]
    squares, first, size, above = tally.moments.numpy()
    sums, by_source = tally.sums.numpy(), tally.tokens.numpy()
    ends = [np.where(tally.text[sign, 0] >= 0, (1, -1)[sign] * tally.value[sign, 0].numpy(), np.nan) for sign in (0, 1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(0) / tokens
        variance = squares / tokens - mean**2
        drowned = (variance < ROUNDING * mean**2) & (mean != 0)  # of sums in single precision nothing is left of it
        columns = {
            "name": [f"{called}.{i}" for i in range(width)],
            "address": [address] * width,
            "layer": layer_of(address),
            "neuron": np.arange(width),
            "tokens": tokens,
            "mean": mean,
            "sd": np.where(drowned, np.nan, np.sqrt(np.maximum(variance, 0.0))),
            "min": ends[1],
            "max": ends[0],
            "density": above / tokens,
        }
        columns |= {f"q{round(100 * q):02d}": values for q, values in _quantiles(tally.sample).items()}
        columns |= {"first_share": first / size, "sink": begun.has_sink(first / size) & tells}
        if len(sources) > 1:
            means = sums / by_source[:, None]
            columns |= {f"mean {name}": means[i] for i, name in enumerate(sources)}
    return pd.DataFrame(columns)


def _quantiles(sample: Tensor) -> dict[float, np.ndarray]:
    """Of every neuron, over the tokens that the site saw; between two of them linearly, as numpy has it."""
    seen = np.sort(np.ascontiguousarray(sample[~sample[:, 0].isnan()].T.numpy()), axis=1)
    if not seen.shape[1]:
        return dict.fromkeys(QUANTILES, np.full(len(seen), np.nan))
    found = {}
    for q in QUANTILES:
        place = q * (seen.shape[1] - 1)
        low, part = int(place), np.float32(place - int(place))
        found[q] = seen[:, low] + part * (seen[:, min(low + 1, seen.shape[1] - 1)] - seen[:, low])
    return found
