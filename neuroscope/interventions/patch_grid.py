"""Activation patching as a grid: where in the model is the difference between two prompts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope import figures, files
from neuroscope.checks import Progress, public, watched
from neuroscope.errors import ArgumentError, ModelError, NumericalError, TaskError, choose
from neuroscope.models import Model, Unit, resolve
from neuroscope.models.sites import Site, edit
from neuroscope.results import Result
from neuroscope.statistics import bootstrap_interval
from neuroscope.tasks import Example, Task
from neuroscope.tasks.prompts import Batch, Encoded, batches, encode, pad_id
from neuroscope.tasks.tokens import tokenizer_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

By = Literal["layer", "position", "site"]
Direction = Literal["denoising", "noising"]
Cell = tuple[str, str, list[Site], int | None]  # row, column, sites, position
HALF = 0.5  # of the difference: what a place must move to be named


@dataclass(frozen=True, repr=False)
class PatchSweep(Result):
    """One row per cell of the grid.

    Columns: row, column, recovered (share of the difference between clean and corrupt that patching this place moves:
    0 nothing, 1 all of it), low and high (95 % bootstrap interval over pairs; NaN for fewer than two pairs), n.
    """

    title = "Activation patching"
    captions: ClassVar[Mapping[str, str]] = {"places": "Share of the logit difference that each place moves"}

    def in_words(self) -> str:
        """Which place moves most of the difference, and how many others move at least half of it."""
        kind, verb = ("clean", "restore") if self.manifest["direction"] == "denoising" else ("corrupt", "destroy")
        pairs = self.manifest["pairs"]
        ranked = self.table.sort_values("recovered", ascending=False, kind="stable").to_dict("records")
        first, others = ranked[0], [row for row in ranked[1:] if row["recovered"] >= HALF]
        text = (
            f"Over {pairs} pair{'s' * (pairs > 1)} of prompts, the {kind} activation that {verb}s most of the logit "
            f"difference is that of **{_place(first)}**: {_share(first)} of it."
        )
        if first["recovered"] < HALF:
            return f"{text}\n\n- **A negative**: no single place {verb}s half of the difference."
        if others:
            text += f"\n\n- {len(others)} of the {len(ranked) - 1} other places {verb} half of it or more, "
            text += f"first of them {_place(others[0])} ({_share(others[0])})."
        return text

    def tables(self) -> dict[str, pd.DataFrame]:
        """The cells of the grid."""
        return {"places": self.to_frame()}

    def figure(self) -> go.Figure:
        """The grid as a heatmap, layers from bottom to top."""
        rows, columns = list(self.table["row"].unique()), list(self.table["column"].unique())
        cells = {(r.row, r.column): r for r in self.table.itertuples()}
        restored = "restored by the clean" if self.manifest["direction"] == "denoising" else "destroyed by the corrupt"
        return figures.heatmap(
            [[cells[r, c].recovered if (r, c) in cells else np.nan for c in columns] for r in rows],
            columns,
            rows,
            title=f"Activation patching by {self.manifest['by']} ({self.manifest['direction']})",
            subtitle=f"share of the logit difference that is {restored} activation; {self.manifest['pairs']} pairs",
            colour_label="share",
            x_label="token" if self.manifest["by"] == "position" else "",
            y_label="place",
            hover=[[_hover(cells[r, c]) if (r, c) in cells else "" for c in columns] for r in rows],
            scale="diverging",
            origin="bottom",
        )


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['row']}, {row['column']}"


def _share(row: Mapping[str, Any]) -> str:
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:.0%}, {row['high']:.0%}]"
    return f"{row['recovered']:.0%}{interval}"


def _hover(cell: Any) -> str:
    span = "" if np.isnan(cell.low) else f" [{cell.low:.2f}, {cell.high:.2f}]"
    return f"<b>{cell.row}</b>, {cell.column}<br>{cell.recovered:.3f}{span}, n = {cell.n}"


@public
def patch_sweep(
    model: Any,
    clean: Task | str | Sequence[str],
    corrupt: str | Sequence[str] | None = None,
    *,
    answers: tuple[str, str] | Sequence[tuple[str, str]] | None = None,
    by: By = "layer",
    direction: Direction = "denoising",
    unit: Unit = "output",
    examples: int | None = 64,
    progress: Progress | None = None,
) -> PatchSweep:
    """Patch one place at a time from one run into the other, and measure how much of the difference moves.

    The measure is the logit difference m = logit(clean answer) - logit(corrupt answer) at the first answer token.
    Denoising runs the corrupt prompt with clean activations: (m - m_corrupt) / (m_clean - m_corrupt); noising runs the
    clean prompt with corrupt ones: (m_clean - m) / (m_clean - m_corrupt).

    Args:
        clean: prompts, or a task whose examples carry corrupt prompts and answers.
        corrupt: prompts of the same numbers of tokens (not for a task).
        answers: (clean answer, corrupt answer), one pair for all prompts or one each (not for a task). A space is put
            before them.
        by: "layer" (all positions, one row per block), "position" (block x token; prompts of one length), or "site"
            (block x kind of place: FFN neurons, FFN output, attention heads).
        unit: what is patched in "layer" and "position": "output" (FFN output), "hidden" or "head".
        examples: at most how many pairs.

    Raises:
        TaskError: prompts of different lengths, or clean and corrupt answers that begin with the same token.
        ArgumentError: an unknown mode, or pairs that the model does not tell apart.
        ModelError: no place of that unit that every token reaches.
        NumericalError: a logit difference that is not finite.
    """
    import pandas as pd  # heavy: only for tables

    choose(by, ("layer", "position", "site"), "by")
    choose(direction, ("denoising", "noising"), "direction")
    model = resolve(model)
    task, pairs = _pairs(clean, corrupt, answers, examples)
    encoded = [_first_token(e, model.style) for e in encode(model, task, pairs, corrupt=True)]
    others = encode(model, task, pairs, [p.corrupt_answer or "" for p in pairs])
    wrong = torch.tensor([e.answer[0] for e in others], device=model.device)
    right = torch.tensor([e.answer[0] for e in encoded], device=model.device)
    if bool((wrong == right).any()):
        i = int((wrong == right).nonzero()[0, 0])
        found = f"{pairs[i].answer!r} and {pairs[i].corrupt_answer!r} begin with the same token"
        raise TaskError(f"tell the answers of pair {i} apart", found, "choose answers that differ in the first token")
    lengths = {len(e.inputs) for e in encoded}
    if by == "position" and len(lengths) > 1:
        raise TaskError("patch by position", f"prompts of {sorted(lengths)} tokens", "give prompts of one length")
    # one batch of each length: the first answer token of every pair in it is predicted at one position
    groups: dict[tuple[int, int], list[int]] = {}
    for i, e in enumerate(encoded):
        groups.setdefault((len(e.inputs), e.first), []).append(i)
    cells = _cells(model, by, unit, max(lengths))
    moved = np.full((len(cells), len(pairs)), np.nan)
    with model.quiet(), torch.no_grad():
        for (_, first), index in groups.items():
            alike = [encoded[i] for i in index]
            batch = next(batches(alike, len(index), pad_id(tokenizer_of(model)), model.device, model.style))
            order = [index[j] for j in batch.index.tolist()]
            moved[:, order] = _sweep(model, batch, first, right[order], wrong[order], cells, direction, progress, order)
    rows = []
    for (row, column, _, _), values in zip(cells, moved, strict=True):
        low, high = bootstrap_interval(values) if len(pairs) > 1 else (np.nan, np.nan)
        rows.append(
            {"row": row, "column": column, "recovered": values.mean(), "low": low, "high": high, "n": len(pairs)}
        )
    if by == "position":
        tokens = tokenizer_of(model).convert_ids_to_tokens(encoded[0].inputs)
        names = {str(i): f"{i} {token}" if len(pairs) == 1 else str(i) for i, token in enumerate(tokens)}
        rows = [r | {"column": names[r["column"]]} for r in rows]
    about = {"by": by, "direction": direction, "unit": unit, "pairs": len(pairs), "task": task.name}
    return PatchSweep(pd.DataFrame(rows), model.provenance() | about | {"versions": files.versions()})


def _first_token(encoded: Encoded, style: str) -> Encoded:
    """What is shown to predict the answer's first token: of a longer answer, no token is an input."""
    if style == "masked":  # there its length is part of the question
        return encoded
    if style == "seq2seq":
        return replace(encoded, answer=encoded.answer[:1], decoder=encoded.decoder[:1])
    end = encoded.first + 1
    return replace(encoded, inputs=encoded.inputs[:end], corrupt=encoded.corrupt[:end], answer=encoded.answer[:1])


def _pairs(clean: Any, corrupt: Any, answers: Any, examples: int | None) -> tuple[Task, list[Example]]:
    if isinstance(clean, Task):
        if corrupt is not None or answers is not None:
            raise ArgumentError("patch_sweep(task, corrupt)", "a task and prompts", "give one of the two")
        chosen = clean.split("discovery", examples)
        pairs = [e for e in chosen if e.corrupt is not None and e.corrupt_answer is not None]
        if not pairs:
            raise TaskError(
                f"pairs of task {clean.name!r}", "no example with a corrupt prompt", "give Example(corrupt=...)"
            )
        return clean, pairs
    if corrupt is None or answers is None:
        raise ArgumentError(
            "patch_sweep(clean prompts)", "no corrupt prompts or no answers", "give corrupt= and answers="
        )
    clean, corrupt = ([x] if isinstance(x, str) else list(x) for x in (clean, corrupt))
    one = len(answers) == 2 and all(isinstance(a, str) for a in answers)
    each = [tuple(answers)] * len(clean) if one else [() if isinstance(pair, str) else tuple(pair) for pair in answers]
    if any(len(pair) != 2 or not all(isinstance(a, str) for a in pair) for pair in each):
        raise ArgumentError("patch_sweep(answers=...)", f"{answers!r}", "give (clean answer, corrupt answer)")
    if not len(clean) == len(corrupt) == len(each) or not clean:
        raise ArgumentError(
            "patch_sweep", f"{len(clean)} clean, {len(corrupt)} corrupt prompts, {len(each)} answers", "pair them"
        )
    pairs = [
        Example(a, right, corrupt=b, corrupt_answer=wrong)
        for a, b, (right, wrong) in zip(clean, corrupt, each, strict=True)
    ]
    task = Task("prompts", discovery=pairs, kind="generation")
    return task, list(task.split("discovery", examples))


def _cells(model: Model, by: By, unit: Unit, length: int) -> list[Cell]:
    """Rows, columns, sites and position of every cell."""
    if by == "site":
        kinds = {"FFN neurons": "hidden", "FFN output": "output", "attention heads": "head"}
        found = {label: model.sites(u) for label, u in kinds.items() if u not in model.problems}
        return [(row, label, sites, None) for label, all_ in found.items() for row, sites in _by_block(all_).items()]
    blocks = _by_block(model.sites(unit))
    if not blocks:
        found_there = f"only experts for unit={unit!r}, which some tokens do not reach"
        raise ModelError("patch_sweep", found_there, "use unit='output' or unit='head'")
    if by == "layer":
        return [(row, unit, sites, None) for row, sites in blocks.items()]
    shown = {row: sites for row, sites in blocks.items() if not row.startswith("decoder_")}  # who read the prompt
    return [(row, str(p), sites, p) for row, sites in shown.items() for p in range(length)]


def _by_block(sites: Mapping[str, Site]) -> dict[str, list[Site]]:
    blocks: dict[str, list[Site]] = {}
    for address, site in sites.items():
        if site.expert is None:  # an expert's neurons exist at some tokens only
            blocks.setdefault(address.split(".")[0].replace("blocks", "layer") + f" {site.layer}", []).append(site)
    return blocks


def _sweep(
    model: Model, batch: Batch, first: int, right: Tensor, wrong: Tensor, cells: list[Cell], direction: Direction,
    progress: Progress | None, order: list[int],
) -> Float[np.ndarray, "cell pair"]:  # fmt: skip
    assert batch.corrupt is not None  # encode(corrupt=True) gave it or refused
    source, run = (batch.inputs, batch.corrupt) if direction == "denoising" else (batch.corrupt, batch.inputs)
    at = torch.tensor([first], device=model.device)

    def difference(inputs: dict[str, Tensor]) -> Tensor:
        logits = model.logits(inputs, keep=at)[:, 0].float()
        return (logits.gather(1, right[:, None]) - logits.gather(1, wrong[:, None])).squeeze(1)

    cache: dict[int, Tensor] = {}
    every = {id(s): s for _, _, sites, _ in cells for s in sites}
    with edit(every.values(), lambda s, h, t: cache.__setitem__(id(s), h.clone())):
        from_source = difference(source)
    baseline = difference(run)
    span = from_source - baseline
    if not bool(span.isfinite().all()):
        found = f"{span.tolist()} in pairs {order}"
        raise NumericalError("the logit difference of patch_sweep", found, "load the model in float32 or bfloat16")
    if bool((span.abs() < 1e-6).any()):
        found = (
            f"pair {order[int((span.abs() < 1e-6).nonzero()[0, 0])]} has the same logit difference clean and corrupt"
        )
        raise ArgumentError("patch_sweep", found, "leave that pair out: there is nothing to locate")
    moved = []
    for _, _, sites, position in watched(cells, progress, "patch"):

        def replace(site: Site, h: Tensor, tokens: Tensor | None, position: int | None = position) -> Tensor:
            given = cache[id(site)]
            if position is None:
                return given.clone()  # some models write into their vectors
            shape = (len(batch.index), -1, h.shape[-1])  # some models flatten tokens
            new = h.reshape(shape).clone()
            new[:, position] = given.reshape(shape)[:, position]
            return new.reshape(h.shape)

        with edit(sites, replace):
            moved.append(((difference(run) - baseline) / span).cpu().numpy())
    return np.stack(moved)
