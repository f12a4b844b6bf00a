"""One forward pass, and of every layer the chosen positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.checks import Progress, watched
from neuroscope.errors import ModelError, TaskError
from neuroscope.models import Model
from neuroscope.models.sites import Site, edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import Batch, Encoded, batches_for
from neuroscope.tasks.prompts import prompt_pieces

At = int | Literal["last", "mean"]


class Reader:
    """One forward pass, and of every layer the chosen positions."""

    def __init__(self, model: Model, normed: bool) -> None:
        self.model, self.normed = model, normed
        self.inner = model.trunk if normed or hasattr(model.base, "base_model") else None
        blocks = _blocks(model)
        first = Site("0", "", blocks[0], 0, 0, side="input")
        self.sites = [first, *(Site(str(i + 1), "", b, 0, i, side="output") for i, b in enumerate(blocks))]

    def __call__(self, batch: Batch, positions: Float[Tensor, "example pos"]) -> Float[Tensor, "layer example feature"]:
        """Residual streams; `positions` weighs those of all prompts of the task, each row sums to 1."""
        streams: dict[str, Tensor] = {}
        weights = positions[batch.index.cpu(), : batch.real.shape[1]]
        place = weights.argmax(1) if bool((weights.max(1).values == 1).all()) else None

        def pick(site: Site, h: Tensor, tokens: Tensor | None) -> None:
            if site.address in streams:
                raise ModelError(
                    f"the residual stream of {self.model.name}",
                    f"layer {site.address} is read twice in a pass",
                    "use a model with a block per layer",
                )
            streams[site.address] = _pick(h, weights, place)

        inputs = {k: v for k, v in batch.inputs.items() if k in ("input_ids", "attention_mask")}
        self.model.check_ids(int(inputs["input_ids"].max()))
        with self.model.quiet(), torch.no_grad(), edit(self.sites, pick):
            last = self.model.logits(inputs) if self.inner is None else self.inner(**inputs).last_hidden_state
        if self.normed:
            streams[self.sites[-1].address] = _pick(last, weights, place)
        shapes = {tuple(h.shape) for h in streams.values()}
        if len(streams) != len(self.sites) or len(shapes) != 1:
            raise ModelError(
                f"the residual stream of {self.model.name}",
                f"{len(streams)} of {len(self.sites)} layers, of shapes {sorted(shapes)}",
                "give normed=False, or a model whose layers are all as wide and are run in every pass",
            )
        return torch.stack([streams[site.address] for site in self.sites])

    def shape(self, prompts: Prompts) -> tuple[int, int]:
        """Layers and features, by a pass of one example."""
        first = prompts.encoded[:1]
        batch = next(batches_for(self.model, first, 1))
        stream = self(batch, prompts.weights[:1])
        return stream.shape[0], stream.shape[2]


def _pick(h: Tensor, weights: Tensor, place: Tensor | None) -> Tensor:
    """The weighted mean over positions, [example, feature]; what stands at the other positions does not matter."""
    if place is not None:  # one position each: no arithmetic, so no rounding
        return _exact(h[torch.arange(len(h), device=h.device), place.to(h.device)]).cpu()
    weights = weights.to(h.device)[..., None]
    return torch.where(weights > 0, _exact(h), 0.0).mul(weights).sum(1).cpu()


def _exact(h: Tensor) -> Tensor:
    return h if h.dtype == torch.float64 else h.float()


def _blocks(model: Model) -> list[torch.nn.Module]:
    """The blocks of the stack that reads the prompt, in order."""
    stack = "encoder_blocks" if model.style == "seq2seq" else "blocks"
    paths: dict[int, str] = {}
    for sites in model.units.values():
        for site in sites.values():
            numbered = re.match(r"(.*?\.\d+)(\.|$)", site.path)
            if numbered and site.address.split(".")[0] == stack:
                paths.setdefault(site.layer, numbered[1])
    if not paths or sorted(paths) != list(range(len(paths))):
        reasons = "; ".join(dict.fromkeys(" ".join(problem.found.split()) for problem in model.problems.values()))
        found = f"blocks {sorted(paths)}" if paths else f"no numbered blocks ({reasons})"
        raise ModelError(f"the residual stream of {model.name}", found, "use a model with a numbered block per layer")
    return [model.base.get_submodule(paths[i]) for i in range(len(paths))]


@dataclass(frozen=True)
class Prompts:
    """A task's prompts as token ids, and the weights [example, pos] of the positions to read; each row sums to 1."""

    encoded: list[Encoded]
    weights: Float[Tensor, "example pos"]


def prompts_of(model: Model, task: Task, examples: Sequence[Example], at: At) -> Prompts:
    """The examples' prompts as the model's style shows them, and the positions of each that are read."""
    asked = f"the representation at {at!r} of example {{}} of task {task.name!r}"
    encoded, spans = [], []
    for i, ((prefix, body, suffix), cut) in enumerate(prompt_pieces(model, task, examples)):
        shown = prefix + body + ([] if model.style == "causal" else suffix)
        if model.context is not None and len(shown) > model.context:
            found = f"{len(shown)} tokens, and a context of {model.context}"
            do = "give the task too_long='cut' or 'skip', or load it with max_words=..."
            raise TaskError(asked.format(i), found, do)
        if not body or (isinstance(at, int) and not -len(body) <= at < len(body)):
            found = f"a prompt of {len(body)} tokens"
            raise TaskError(asked.format(i), found, "give a position that every prompt has, 'last' or 'mean'")
        encoded.append(Encoded(shown, [], len(prefix) + len(body) - 1, cut=cut))
        spans.append(_positions(len(body), at, len(prefix)))
    weights = torch.zeros(len(encoded), max(len(e.inputs) for e in encoded))
    for i, (start, stop) in enumerate(spans):
        weights[i, start:stop] = 1 / (stop - start)
    return Prompts(encoded, weights)


def _positions(count: int, at: At, first: int) -> tuple[int, int]:
    """Where the positions to read start and stop, of `count` tokens of text that start at `first`."""
    if at == "mean":
        return first, first + count
    place = range(first, first + count)[-1 if at == "last" else at]
    return place, place + 1


def passes(
    model: Model, prompts: Prompts, batch_size: int | None, progress: Progress | None, name: str
) -> Iterable[Batch]:
    """Batches of a task's prompts."""
    cut = batches_for(model, prompts.encoded, batch_size)
    return watched(list(cut), progress, f"representations of {name}")
