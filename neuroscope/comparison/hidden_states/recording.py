"""The residual stream of every example at every layer (ZZC24: at the last prompt token).

1. Each prompt is tokenized on its own, without the answer, as the model's style has it (an encoder sees its closing
   special tokens). Positions count the tokens of the prompt's text; special tokens around it are shown, not counted.
2. One forward pass per batch, without the LM head. Layer 0 is what enters the first block (the embedding, with
   positions where they are added there), layer l is the output of block l.
3. The last layer is read after the final norm, as in Hugging Face's `hidden_states[-1]` (`normed=False`: before it).
   Models without a final norm (BERT) have one reading only.
4. The chosen position, or the mean, is taken on the device, so that no pass holds every position of every layer.

Of an encoder-decoder model, the encoder's stream. A TransformerBridge in compatibility mode has centred and folded
weights, so its stream differs from the original's by more than rounding.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.checks import Progress, public
from neuroscope.comparison.hidden_states import folder
from neuroscope.comparison.hidden_states.by_task import Representations
from neuroscope.comparison.hidden_states.folder import Array
from neuroscope.comparison.hidden_states.reading import At, Prompts, Reader, passes, prompts_of
from neuroscope.errors import NumericalError
from neuroscope.models import Model, resolve
from neuroscope.tasks import Task, tasks_of
from neuroscope.tasks.encoding import Batch
from neuroscope.tasks.prompts import fitting, how_asked, template_of

ASKED = "representations of tasks"
IN_MEMORY = 1 << 30  # bytes of representations beyond which they go to a file even where none was asked for
Split = Literal["test", "train", "discovery"]
Dtype = Literal["float32", "float16", "float64"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read of every prompt, and how it is stored; checked when made."""

    at: At
    split: Split
    n: int | None
    normed: bool
    dtype: Dtype
    batch_size: int | None


@public
def representations(
    model: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    *,
    at: At = "last",
    split: Split = "test",
    n: int | None = None,
    normed: bool = True,
    batch_size: int | None = None,
    dtype: Dtype = "float32",
    output: str | PathLike | None = None,
    progress: Progress | None = None,
) -> Representations:
    """The residual stream at every layer, embedding included, of every example of every task (ZZC24).

    Args:
        model: anything that can be opened.
        tasks: whose prompts to read.
        at: "last" for the prompt's last token; "mean" over the prompt's tokens; or a position among them, from the
            start (0 is the first) or, negative, from the end (-1 is the last).
        split: of the tasks: "test", "train" or "discovery".
        n: how many examples of each task, all if None.
        normed: whether the last layer is read after the model's final norm, as in Hugging Face's `hidden_states[-1]`.
        batch_size: prompts per forward pass, chosen by their tokens if None; the numbers do not depend on it beyond
            rounding.
        dtype: what is stored: "float32", "float16" or "float64".
        output: a folder to stream to, batch by batch. A run that was killed goes on where it was; a finished one is
            read. Without it, more than 1 GiB goes to a temporary folder that lives as long as what is returned.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Returns:
        `Representations`: task -> array [layer, example, feature], examples in the task's order.

    Raises:
        TaskError: no examples, a prompt of no tokens or longer than the context, or a position that it does not have.
        ModelError: a model whose blocks cannot be read one by one.
        NumericalError: an activation that is not finite; it names task, layer and example.
        FileError: `output` holds another run.

    Example:
        >>> from neuroscope.tasks import load_tasks
        >>> representations("mini", load_tasks("mini")["nli-food"], n=3)["nli-food"].shape
        (5, 3, 128)
    """
    how = Reading(at, split, n, normed, dtype, batch_size)
    return _recorded(resolve(model), tasks_of(tasks, ASKED), how, None if output is None else Path(output), progress)


def _recorded(
    model: Model, tasks: Mapping[str, Task], how: Reading, output: Path | None, progress: Progress | None
) -> Representations:
    families = {name: task.family for name, task in tasks.items()}
    manifest = {**model.provenance(), "tasks": {name: t.data_hash for name, t in tasks.items()}}
    templates = {name: said for name, task in tasks.items() for said in template_of(model, task).values()}
    manifest |= {"template": templates} if templates else {}
    manifest |= {name: value for name, value in dataclasses.asdict(how).items() if name != "batch_size"}
    if output is not None and folder.is_finished(output, manifest):
        return dataclasses.replace(Representations.load(output), families=families)
    given = {name: task.split(how.split, how.n) for name, task in tasks.items()}
    kept = {name: fitting(model, task, given[name]) for name, task in tasks.items()}
    examples = {name: tuple(places.values()) for name, places in kept.items()}
    prompts = {name: prompts_of(model, task, examples[name], how.at) for name, task in tasks.items()}
    reader = Reader(model, how.normed)
    layers, width = reader.shape(next(iter(prompts.values())))
    jobs = [
        Job(number, name, prompts[name], (layers, len(listed), width))
        for number, (name, listed) in enumerate(examples.items())
    ]
    temporary = None
    if output is None and sum(math.prod(job.shape) for job in jobs) * np.dtype(how.dtype).itemsize > IN_MEMORY:
        with distributed.together(ASKED):
            if distributed.world()[0] == 0:
                temporary = tempfile.TemporaryDirectory(prefix="neuroscope-")
            output = Path(distributed.exchanged({"folder": temporary.name} if temporary else {})["folder"])
        folder.is_finished(output, manifest)  # notes what it is for
    journal = None if output is None else files.Journal(output / folder.JOURNAL)
    cells: dict[str, Any] = {job.name: partial(_array, reader, job, how, output, journal, progress) for job in jobs}
    arrays = distributed.shared_out(ASKED, cells, None, distributed.has_shards(model.root))
    if output is not None:
        paths = {job.name: output / folder.file_name(job.number, job.name) for job in jobs}
        arrays = {job.name: folder.open_array(paths[job.name], job.shape) for job in jobs}
    texts = {name: [(e.prompt, e.answer) for e in listed] for name, listed in examples.items()}
    cuts = {name: [item.cut for item in part.encoded] for name, part in prompts.items()}
    asked = {name: how_asked(model, t, len(given[name]), kept[name], cuts[name]) for name, t in tasks.items()}
    manifest |= {"asked": {name: said for name, said in asked.items() if said}, "versions": files.versions()}
    done = Representations(arrays, texts, families, manifest, temporary)
    if output is not None:
        with distributed.together(ASKED):
            if distributed.world()[0] == 0:
                done.save(output)
            distributed.exchanged({})  # the others wait for it
    return done


@dataclasses.dataclass(frozen=True)
class Job:
    """One task's prompts, and the shape of what they become: [layer, example, feature]."""

    number: int
    name: str
    prompts: Prompts
    shape: tuple[int, int, int]


def _array(
    reader: Reader, job: Job, how: Reading, output: Path | None, journal: files.Journal | None,
    progress: Progress | None,
) -> Array | None:  # fmt: skip
    """One task's array in memory, or None: streamed to its file."""
    loop = passes(reader.model, job.prompts, how.batch_size, progress, job.name)
    if output is not None and journal is not None:
        _stream(reader, job, how, output, journal, loop)
        return None
    array = np.empty(job.shape, how.dtype)
    for batch in loop:
        _fill(array, batch, reader(batch, job.prompts.weights), job.name)
    return array


def _stream(
    reader: Reader, job: Job, how: Reading, output: Path, journal: files.Journal, loop: Iterable[Batch]
) -> None:
    """One task's file, written batch by batch; finished batches of an earlier run are not computed again."""
    final = output / folder.file_name(job.number, job.name)
    if not final.exists():
        path = final.with_name(final.name + ".partial")
        begun = any(key.startswith(f"{job.number}/") for key in journal.known)
        array = folder.partial_file(path, job.shape, how.dtype, begun=begun)
        for batch in loop:

            def measure(batch: Batch = batch) -> bool:
                _fill(array, batch, reader(batch, job.prompts.weights), job.name)
                array.flush()  # on disk before the journal says so
                return True

            journal.get(f"{job.number}/{files.digest(batch.index.tolist())}", measure)  # however batches are cut
        del array
        os.replace(path, final)


def _fill(array: Array, batch: Batch, values: Tensor, task: str) -> None:
    index = batch.index.cpu().numpy()
    with np.errstate(over="ignore"):  # an overflow of float16 is found below
        block = values.numpy().astype(array.dtype)
    bad = np.argwhere(~np.isfinite(block).all(-1))
    if len(bad):
        layer, row = bad[0]
        found = f"not finite at layer {layer} of example {index[row]}"
        do = "open the model in float32 or bfloat16" + (", or dtype='float32'" if array.dtype == np.float16 else "")
        raise NumericalError(f"representations of task {task!r}", found, do)
    array[:, index] = block
