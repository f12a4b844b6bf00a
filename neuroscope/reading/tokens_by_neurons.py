"""Activations of chosen neurons on prompts: tokens x neurons, of which nothing else is ever held.

1. Prompts and tasks become rows of tokens (`prompts`), which the processes of a group share.
2. One forward pass per batch. At each site the mask's coordinates are taken of the tokens that are looked at.
3. Rows are put back into the order of the texts. A neuron that does not see a token has no value there (NaN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.checks import Progress, public
from neuroscope.errors import ArgumentError
from neuroscope.masks import NeuronMask, mask_for
from neuroscope.masks.neuron_names import names_of
from neuroscope.models import Model, Unit, resolve
from neuroscope.models.sites import Site
from neuroscope.reading.activations_result import COLUMNS, Activations
from neuroscope.reading.passes import Pass, Seen, refuse_non_finite, run_passes
from neuroscope.reading.prompts import (
    DECODER,
    At,
    Chat,
    Looked,
    Row,
    chats_and_groups,
    parts_of,
    refuse_nothing,
    rows_of,
)
from neuroscope.reading.sinks import Begun
from neuroscope.tasks import Task
from neuroscope.tasks.encoding import mind_unknown_tokens
from neuroscope.tasks.prompts import hash_of
from neuroscope.tasks.tokens import unknown_in, words_of

Split = Literal["test", "train", "discovery"]
ASKED = "activations"
MOST = 2**30  # bytes of activations


@public
def activations(
    model: Any,
    prompts: Any,
    mask: Any = None,
    *,
    at: At | None = None,
    skip_first: bool = False,
    unit: Unit = "hidden",
    split: Split = "test",
    n: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Read chosen neurons on prompts: one number per token and neuron.

    Of a head the number is the sum of its coordinates. What is live on the model, such as `ablate`, acts.

    Args:
        model: anything that can be opened.
        prompts: a text, texts, a Task, Tasks, or a dict of these by name; or the messages of a chat
            ({"role": ..., "content": ...}), in the tokenizer's chat template. Of a task each prompt is shown with its
            answer (without the answer's last token, which is predicted and not read), and so is a chat that ends with
            the assistant's message.
        mask: which neurons: a NeuronMask, or neurons as people write them: "11.1229", ["11.1229", "3.40"],
            {11: [1229]}, and all else that `NeuronMask.of` takes; None: all of the model, where they fit into a
            gigabyte.
        at: at which tokens, as of `ablate`: "last" of the prompt, "prompt", "answer", or positions such as [0, -1] of
            the prompt, where 0 is the first token of all; None: all of them.
        skip_first: leave each row's first token out, where some neurons are extreme whatever the text says.
        unit: what neurons are that are written by hand: "hidden", "output" or "head".
        split: of tasks: "test", "train" or "discovery".
        n: at most how many texts of each task; all if None.
        batch_size: texts per forward pass, chosen by their tokens if None; the numbers do not depend on it beyond
            rounding.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Returns:
        `Activations`: `to_frame()` has a row per token and a column per neuron; `top(20)`, `by_token()`,
        `histogram(tasks)`, `summary()`, `sinks`, `to_probe("yes")`, `figure()`, `save(path)`.

    Raises:
        ArgumentError, TaskError: prompts or tokens that are none, or more numbers than a gigabyte.
        MaskError: neurons that the model does not have; the error names the nearest.
        NumericalError: an activation that is not finite.

    Example:
        >>> import neuroscope as ns
        >>> acts = ns.activations("mini", "sentiment the curry was good =>", "2.17")
        >>> acts.to_frame()[["token", "2.17"]].round(1)
               token  2.17
        0        <s>   0.1
        1  sentiment   0.0
        2        the   0.1
        3      curry   0.2
        4        was   0.0
        5       good   0.0
        6         =>   0.3
    """
    groups = chats_and_groups(prompts, ASKED)
    model = resolve(model)
    if mask is None:
        widths = {a: s.width for a, s in model.sites(unit).items()}
        mask = NeuronMask({a: torch.arange(w) for a, w in widths.items()}, widths, unit)
    mask = mask_for(model, mask, ASKED, unit)
    looked = Looked.of(model, at, skip_first, ASKED)
    rows = rows_of(model, groups, split, n)
    _refuse_too_much(rows, mask)
    columns = Columns.of(mask, model.sites(mask.unit))
    alike = (mask.identity, model.fingerprint(), at, skip_first, [(row.task, row.encoded) for row in rows])
    whole = distributed.has_shards(model.root)
    with distributed.together(ASKED, *alike):
        mine = list(range(len(rows))) if whole else _my_part(rows)
        found = Found(model, rows, mine, columns)
        run_passes(
            model, [rows[i] for i in mine], columns.sites, looked, found.look, asked=ASKED, batch_size=batch_size,
            progress=progress, ends=found.ends,
        )  # fmt: skip
        parts = [found.part()] if whole else _exchanged(found.part())
    positions = list(looked.at) if isinstance(looked.at, tuple) else looked.at
    about: dict[str, Any] = {"at": positions, "skip_first": skip_first}
    about |= {"unit": mask.unit, "split": split, "n": n, "mask": mask.identity}
    about |= {"prompts": {name: _told(model, group) for name, group in groups.items()}}
    manifest = {**about, **model.provenance(), "versions": files.versions()}
    return _result(model, rows, parts, mask, manifest, at)


def _told(model: Model, group: Any) -> str:
    if isinstance(group, Chat):
        return f"{hash_of(model, group.task)}, {'' if group.answered else 'un'}answered"
    return hash_of(model, group) if isinstance(group, Task) else files.digest(*group)


def _my_part(rows: Sequence[Row]) -> list[int]:
    """This process's rows: all processes have about as many tokens."""
    return distributed.my_part(sorted(range(len(rows)), key=lambda i: -len(rows[i].encoded.inputs)))


def _exchanged(part: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    rank, size = distributed.world()
    every = distributed.exchanged({str(rank): part})
    return [every[str(i)] for i in range(size)]


def _refuse_too_much(rows: Sequence[Row], mask: NeuronMask) -> None:
    tokens = sum(len(row.encoded.inputs) + len(row.encoded.decoder) for row in rows)
    if 4 * tokens * len(mask) > MOST:
        found = f"{len(mask):,} neurons at {tokens:,} tokens, {4 * tokens * len(mask) / 2**30:.1f} GiB"
        do = "name fewer neurons, give n= or fewer prompts, or take ns.neuron_statistics, which keeps no such matrix"
        raise ArgumentError(ASKED, found, do)


@dataclass(frozen=True)
class Columns:
    """Where each site's neurons are among all that are read.

    Attributes:
        sites: those that have one.
        neurons: by address, which of the site's.
        start: by address, the column of the first.
        count: of all.
    """

    sites: list[Site]
    neurons: dict[str, Tensor]
    start: dict[str, int]
    count: int

    @classmethod
    def of(cls, mask: NeuronMask, sites: Any) -> Columns:
        """Of a mask, in forward order."""
        chosen = {a: indices for a, indices in mask.items() if len(indices)}
        start, count = {}, 0
        for address, indices in chosen.items():
            start[address] = count
            count += len(indices)
        return cls([sites[a] for a in chosen], chosen, start, count)


@dataclass
class Found:
    """What the passes of one process find: a block per batch and stack.

    Attributes:
        model: that reads.
        rows: of all processes.
        mine: the places of those that are read here.
        columns: where neurons go.
        blocks: by stack, of the pass that is running: values [token, neuron], and where each flat token's row is.
        done: of finished passes: place of the text, position, id, part, and values of every token that was read.
        mass: absolute activation of every neuron: [on first tokens, on all].
    """

    model: Model
    rows: Sequence[Row]
    mine: Sequence[int]
    columns: Columns
    blocks: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    done: list[dict[str, np.ndarray]] = field(default_factory=list)
    mass: np.ndarray | None = None

    def look(self, done: Pass, site: Site, seen: Seen) -> None:
        """Take a site's neurons at the tokens that are looked at."""
        stack, tokens = _stack(site), done.of(site)
        indices = self.columns.neurons[site.address]
        x = seen.h[:, indices.to(seen.h.device)].float().cpu()
        refuse_non_finite(x[seen.at(tokens.real).cpu()], site.address, f"{ASKED} of {self.model.name}")
        if stack not in self.blocks:
            flat = tokens.looked.flatten().cpu()
            empty = torch.full((int(flat.sum()), self.columns.count), torch.nan)
            self.blocks[stack] = empty, flat.cumsum(0) - 1
        block, place = self.blocks[stack]
        rows = seen.at(tokens.looked).cpu()
        start = self.columns.start[site.address]
        where = place if seen.index is None else place[seen.index.cpu()]
        block[where[rows], start : start + len(indices)] = x[rows]
        size = x.abs().double()
        if self.mass is None:
            self.mass = np.zeros((2, self.columns.count))
        for i, flags in enumerate((tokens.first, tokens.real)):
            self.mass[i, start : start + len(indices)] += size[seen.at(flags).cpu()].sum(0).numpy()

    def ends(self, done: Pass) -> None:
        """Note what a pass showed."""
        batch = done.batch
        answers = parts_of(batch)
        for stack, tokens in done.tokens.items():
            looked = tokens.looked.cpu()
            block = self.blocks.pop(stack, (torch.full((int(looked.sum()), self.columns.count), torch.nan),))[0]
            row, place = (i.numpy() for i in looked.nonzero(as_tuple=True))
            ids = batch.inputs["decoder_input_ids" if stack else "input_ids"].cpu()[looked].numpy()
            position = (tokens.real.cpu().cumsum(1) - 1)[looked].numpy()
            part = np.full(len(ids), 2) if stack else answers[row, place].astype(int)
            text = np.asarray(self.mine)[batch.index.cpu().numpy()[row]]
            self.done.append({"text": text, "position": position, "id": ids, "part": part, "values": block.numpy()})

    def part(self) -> dict[str, np.ndarray]:
        """All that was found."""
        mass = np.zeros((2, self.columns.count)) if self.mass is None else self.mass
        names = ("text", "position", "id", "part", "values")
        empty = {**dict.fromkeys(names[:4], np.zeros(0, int)), "values": np.zeros((0, self.columns.count), np.float32)}
        joined = {name: np.concatenate([block[name] for block in [empty, *self.done]]) for name in names}
        return {**joined, "mass": mass}


def _stack(site: Site) -> str:
    return DECODER if site.address.startswith(DECODER) else ""


def _sinks(
    model: Model, rows: Sequence[Row], addresses: Sequence[str], names: Sequence[str], shares: Mapping[str, float]
) -> dict[str, list[str]]:
    """Neurons that are active at first tokens: sinks, and those of which these texts do not tell."""
    found: dict[str, list[str]] = {"sinks": [], "perhaps_sinks": []}
    for of_decoder in (False, True):
        begun = Begun.of(row.encoded.decoder if of_decoder else row.encoded.inputs for row in rows)
        kind = "sinks" if begun.tells(model.tokenizer) else "perhaps_sinks"
        mine = [n for a, n in zip(addresses, names, strict=True) if a.startswith(DECODER) == of_decoder and n in shares]
        flags = begun.has_sink([shares[name] for name in mine])
        found[kind] += [name for name, flag in zip(mine, flags, strict=True) if flag]
    return {kind: told for kind, told in found.items() if told}


PARTS = ("prompt", "answer", "decoder")


def _result(
    model: Model, rows: Sequence[Row], parts: Sequence[dict[str, np.ndarray]], mask: NeuronMask,
    manifest: dict[str, Any], at: Any,
) -> Activations:  # fmt: skip
    import pandas as pd  # heavy: only where a table is made

    found = {name: np.concatenate([part[name] for part in parts]) for name in ("text", "position", "id", "part")}
    values = np.concatenate([part["values"] for part in parts])
    only = [site for site in model.sites(mask.unit) if len(mask[site])]
    if not any(address.startswith(DECODER) for address in only):  # no neuron sees a token of the decoder
        kept = found["part"] != PARTS.index("decoder")
        found, values = {name: column[kept] for name, column in found.items()}, values[kept]
    order = np.lexsort((found["position"], found["part"] == PARTS.index("decoder"), found["text"]))
    found, values = {name: column[order] for name, column in found.items()}, values[order]
    refuse_nothing(len(values), at, ASKED)
    first, whole = np.sum([part["mass"] for part in parts], axis=0)
    names = names_of(mask)
    shown = [row.encoded.inputs for row in rows]
    if unknown := unknown_in(model.tokenizer, (i for ids in shown for i in ids)):
        manifest["unknown"] = unknown
        mind_unknown_tokens(model, "the texts", [row.encoded for row in rows])
    words = words_of(model.tokenizer, [*found["id"].tolist(), *(i for ids in shown for i in ids)])
    about = {
        "task": [rows[i].task for i in found["text"]],
        "text": [rows[i].text for i in found["text"]],
        "position": found["position"],
        "part": [PARTS[i] for i in found["part"]],
        "token": [words[i] for i in found["id"].tolist()],
        "id": found["id"],
    }
    assert tuple(about) == COLUMNS
    table = pd.concat([pd.DataFrame(about), pd.DataFrame(values, columns=names)], axis=1)
    texts: dict[str, list[Any]] = {}
    for row, ids in zip(rows, shown, strict=True):
        texts.setdefault(row.task, []).append((row.prompt, row.label, tuple(words[i] for i in ids)))
    shares = {name: float(a / b) for name, a, b in zip(names, first, whole, strict=True) if b > 0}
    manifest |= _sinks(model, rows, [address for address, chosen in mask.items() for _ in chosen], names, shares)
    return Activations(table, manifest, texts, shares)
