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

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from neuroscope import files
from neuroscope.checks import public
from neuroscope.comparison.hidden_states import stored
from neuroscope.comparison.hidden_states.reading import At, Progress, Reader, passes, tokens_to_read
from neuroscope.comparison.hidden_states.stored import Array, Representations
from neuroscope.errors import ArgumentError, NumericalError, TaskError, choose
from neuroscope.models import resolve
from neuroscope.tasks.prompts import Batch
from neuroscope.tasks.task import Task, check_task

__all__ = ["Representations", "representations"]

DTYPES = ("float32", "float16", "float64")
IN_MEMORY = 1 << 30  # bytes of representations beyond which they go to a file even where none was asked for


@public
def representations(
    model: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    *,
    at: At = "last",
    split: str = "test",
    n: int | None = None,
    normed: bool = True,
    batch_size: int = 16,
    dtype: str = "float32",
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
        batch_size: prompts per forward pass; the numbers do not depend on it beyond rounding.
        dtype: what is stored: "float32", "float16" or "float64".
        output: a folder to stream to, batch by batch. A run that was killed goes on where it was; a finished one is
            read. Without it, more than 1 GiB goes to a temporary folder that lives as long as what is returned.
        progress: called as `progress(batches, description)`, such as tqdm; None is silent.

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
    model = resolve(model)
    choose(dtype, DTYPES, "dtype")
    if at not in ("last", "mean") and (isinstance(at, bool) or not isinstance(at, int)):
        raise ArgumentError(f"at={at!r}", "no such position", "give 'last', 'mean', or a whole number such as -1")
    named = _named(tasks)
    settings = {"at": at, "split": split, "n": n, "normed": normed, "dtype": dtype, "batch_size": batch_size}
    data = {"tasks": {name: task.data_hash for name, task in named.items()}}
    manifest = {**model.provenance(), **data, **settings}
    if output is not None and stored.is_whole(Path(output), manifest):
        return replace(Representations.load(output), families={name: task.family for name, task in named.items()})
    examples = {name: task.split(split, n) for name, task in named.items()}
    prompts = {name: tokens_to_read(model, task, examples[name], at) for name, task in named.items()}
    reader = Reader(model, normed)
    layers, width = reader.shape(prompts)
    empty = {name: (layers, len(found), width) for name, found in examples.items()}
    about = (
        {name: [(e.prompt, e.answer) for e in found] for name, found in examples.items()},
        {name: task.family for name, task in named.items()},
        manifest | {"versions": files.versions()},
    )
    holder = None
    if output is None and sum(map(math.prod, empty.values())) * np.dtype(dtype).itemsize > IN_MEMORY:
        holder = tempfile.TemporaryDirectory(prefix="neuroscope-")
        output = holder.name
        stored.is_whole(Path(output), manifest)
    arrays: dict[str, Array] = {}
    for number, (name, shape) in enumerate(empty.items()):
        loop = passes(model, prompts[name], batch_size, progress, name)
        if output is None:
            arrays[name] = np.empty(shape, dtype)
            for batch, picked in loop:
                _fill(arrays[name], batch, reader(batch, picked), name)
        else:
            arrays[name] = _stream(Path(output), number, name, shape, dtype, loop, reader)
    if output is not None:
        Representations(arrays, *about).save(output)
    return Representations(arrays, *about, holder)


def _stream(
    folder: Path, number: int, name: str, shape: tuple[int, ...], dtype: str, loop: Iterable[Any], reader: Reader
) -> Array:
    """One task's file, written batch by batch; finished batches of an earlier run are not computed again."""
    final = folder / stored.file_name(number, name)
    if not final.exists():
        journal = files.Journal(folder / stored.JOURNAL)
        partial = final.with_name(final.name + ".partial")
        array = stored.partial_file(partial, shape, dtype, begun=any(k.startswith(f"{number}/") for k in journal.known))
        for count, (batch, picked) in enumerate(loop):

            def measure(batch: Batch = batch, picked: Tensor = picked) -> bool:
                _fill(array, batch, reader(batch, picked), name)
                array.flush()  # on disk before the journal says so
                return True

            journal.get(f"{number}/{count}", measure)
        del array
        os.replace(partial, final)
    return stored.open_array(final, shape)


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


def _named(tasks: Any) -> dict[str, Task]:
    listed = [tasks] if isinstance(tasks, Task) else list(tasks.values() if isinstance(tasks, Mapping) else tasks)
    for task in listed:
        check_task(task, "representations of tasks")
    named = {task.name: task for task in listed}
    if not listed or len(named) != len(listed):
        found = "no task" if not listed else "two tasks of one name"
        raise TaskError("representations of tasks", found, "give one or more tasks, each with a name of its own")
    return named
