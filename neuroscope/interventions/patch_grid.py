"""Activation patching as a grid: where in the model is the difference between two prompts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope import figures, files
from neuroscope.checks import Progress, public
from neuroscope.distributed import has_shards, shared_out
from neuroscope.errors import ArgumentError, ModelError, NumericalError, TaskError, choose
from neuroscope.interventions.patch_pairs import Alike, pairs_of
from neuroscope.models import Model, Unit, resolve
from neuroscope.models.sites import Edit, Site, edit
from neuroscope.results import Result
from neuroscope.statistics import bootstrap_interval
from neuroscope.tasks import Task
from neuroscope.tasks.tokens import tokenizer_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

By = Literal["layer", "position", "site"]
Direction = Literal["denoising", "noising"]
HALF = 0.5  # of the difference: what a place must move to be named


@dataclass(frozen=True)
class Cell:
    """A place to patch: its row and column in the grid, its sites, and the position (None: all)."""

    row: str
    column: str
    sites: Sequence[Site]
    position: int | None = None


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

    Example:
        >>> import neuroscope as ns
        >>> task = ns.load_tasks("mini", train=4, discovery=8, test=4)["sentiment-food"]
        >>> found = ns.patch_sweep("mini", task)  # 1: all of the difference comes back
        >>> found.table[["row", "column", "recovered", "n"]].round(1)
               row  column  recovered  n
        0  layer 0  output        1.0  8
        1  layer 1  output        0.2  8
        2  layer 2  output        0.1  8
        3  layer 3  output        0.2  8
    """
    choose(by, ("layer", "position", "site"), "by")
    choose(direction, ("denoising", "noising"), "direction")
    model = resolve(model)
    pairs = pairs_of(model, clean, corrupt, answers, examples)
    if by == "position" and len(pairs.lengths) > 1:
        raise TaskError("patch by position", f"prompts of {pairs.lengths} tokens", "give prompts of one length")
    cells = _cells(model, by, unit, max(pairs.lengths))
    recovered = np.full((len(cells), len(pairs)), np.nan)
    with model.quiet(), torch.no_grad():
        for alike in pairs.alike(model):
            recovered[:, alike.index] = _recovered(model, alike, cells, direction, progress)
    if by == "position":
        cells = _named_by_token(cells, tokenizer_of(model).convert_ids_to_tokens(pairs.encoded[0].inputs), len(pairs))
    manifest = {
        **model.provenance(),
        "by": by,
        "direction": direction,
        "unit": unit,
        "pairs": len(pairs),
        "task": pairs.task.name,
        "versions": files.versions(),
    }
    return PatchSweep(_table(cells, recovered), manifest)


def _table(cells: list[Cell], recovered: Float[np.ndarray, "cell pair"]) -> pd.DataFrame:
    """Means over pairs, with their intervals."""
    import pandas as pd  # heavy: only for tables

    rows = []
    for cell, values in zip(cells, recovered, strict=True):
        low, high = bootstrap_interval(values) if len(values) > 1 else (np.nan, np.nan)
        interval = {"low": low, "high": high, "n": len(values)}
        rows.append({"row": cell.row, "column": cell.column, "recovered": values.mean()} | interval)
    return pd.DataFrame(rows)


def _named_by_token(cells: list[Cell], tokens: Sequence[str], n_pairs: int) -> list[Cell]:
    """Columns named by position, and by the token there if it is that of the only pair."""
    if n_pairs > 1:
        return cells
    return [replace(cell, column=f"{cell.position} {tokens[cell.position or 0]}") for cell in cells]


def _cells(model: Model, by: By, unit: Unit, length: int) -> list[Cell]:
    """The cells of the grid, row by row.

    Raises:
        ModelError: no place of that unit that every token reaches.
    """
    if by == "site":
        kinds: dict[str, Unit] = {"FFN neurons": "hidden", "FFN output": "output", "attention heads": "head"}
        reached = {label: model.sites(u) for label, u in kinds.items() if u not in model.problems}
        return [Cell(row, label, s) for label, sites in reached.items() for row, s in _by_block(sites).items()]
    blocks = _by_block(model.sites(unit))
    if not blocks:
        found = f"only experts for unit={unit!r}, which some tokens do not reach"
        raise ModelError("patch_sweep", found, "use unit='output' or unit='head'")
    if by == "layer":
        return [Cell(row, unit, sites) for row, sites in blocks.items()]
    shown = {row: sites for row, sites in blocks.items() if not row.startswith("decoder_")}  # who read the prompt
    return [Cell(row, str(p), sites, p) for row, sites in shown.items() for p in range(length)]


def _by_block(sites: Mapping[str, Site]) -> dict[str, list[Site]]:
    """The sites that every token reaches, by the name of their block."""
    blocks: dict[str, list[Site]] = {}
    for address, site in sites.items():
        if site.expert is None:  # an expert's neurons exist at some tokens only
            blocks.setdefault(address.split(".")[0].replace("blocks", "layer") + f" {site.layer}", []).append(site)
    return blocks


def _recovered(
    model: Model, alike: Alike, cells: list[Cell], direction: Direction, progress: Progress | None
) -> Float[np.ndarray, "cell pair"]:
    """The share of each pair's logit difference that patching each cell moves."""
    batch = alike.batch
    assert batch.corrupt is not None  # encode(corrupt=True) gave it or refused
    source, run = (batch.inputs, batch.corrupt) if direction == "denoising" else (batch.corrupt, batch.inputs)

    def difference(inputs: dict[str, Tensor]) -> Float[Tensor, " pair"]:
        logits = model.logits(inputs, alike.at).float()
        return (logits.gather(1, alike.right[:, None]) - logits.gather(1, alike.wrong[:, None])).squeeze(1)

    cache: dict[str, Tensor] = {}
    every = {site.address: site for cell in cells for site in cell.sites}
    with edit(every.values(), lambda site, h, tokens: cache.__setitem__(site.address, h.clone())):
        from_source = difference(source)
    baseline = difference(run)
    span = from_source - baseline
    _require_difference(span, alike.index)

    def moved(cell: Cell) -> Float[np.ndarray, " pair"]:
        with edit(cell.sites, _patch_from(cache, cell.position, len(batch.index))):
            return ((difference(run) - baseline) / span).cpu().numpy()

    runs = {str(number): partial(moved, cell) for number, cell in enumerate(cells)}
    return np.stack(list(shared_out("patch", runs, progress, has_shards(model.root)).values()))


def _require_difference(span: Float[Tensor, " pair"], index: list[int]) -> None:
    """Refuse pairs whose clean and corrupt runs do not differ, or overflow."""
    if not bool(span.isfinite().all()):
        found = f"{span.tolist()} in pairs {index}"
        raise NumericalError("the logit difference of patch_sweep", found, "load the model in float32 or bfloat16")
    none = span.abs() < 1e-6
    if bool(none.any()):
        found = f"pair {index[int(none.nonzero()[0, 0])]} has the same logit difference clean and corrupt"
        raise ArgumentError("patch_sweep", found, "leave that pair out: there is nothing to locate")


def _patch_from(cache: Mapping[str, Tensor], position: int | None, n_pairs: int) -> Edit:
    """The edit that gives a site its cached vector, at one position or at all."""

    def patched(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        cached = cache[site.address]
        if position is None:
            return cached.clone()  # some models write into their vectors
        shape = (n_pairs, -1, h.shape[-1])  # some models flatten tokens
        new = h.reshape(shape).clone()
        new[:, position] = cached.reshape(shape)[:, position]
        return new.reshape(h.shape)

    return patched
