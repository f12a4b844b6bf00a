"""One forward pass, and of every layer the chosen positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.errors import ModelError, TaskError
from neuroscope.models import Model
from neuroscope.models.sites import Site, edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.prompts import Batch, Encoded, batches, pad_id
from neuroscope.tasks.tokens import tokenize, tokenizer_of

Progress = Callable[..., Iterable[Any]]
At = int | Literal["last", "mean"]


class Reader:
    """One forward pass, and of every layer the chosen positions."""

    def __init__(self, model: Model, normed: bool) -> None:
        self.model, self.normed = model, normed
        self.inner = model.base.get_encoder() if model.style == "seq2seq" else model.base.base_model
        blocks = _blocks(model)
        first = Site("0", "", blocks[0], 0, 0, side="input")
        self.sites = [first, *(Site(str(i + 1), "", b, 0, i, side="output") for i, b in enumerate(blocks))]

    def __call__(self, batch: Batch, picked: Tensor) -> Float[Tensor, "layer example feature"]:
        """Residual streams; `picked` [example, pos] weighs the positions, each row sums to 1."""
        found: dict[str, Tensor] = {}
        weights = picked[batch.index.cpu(), : batch.real.shape[1]]
        place = weights.argmax(1) if bool((weights.max(1).values == 1).all()) else None

        def pick(site: Site, h: Tensor, tokens: Tensor | None) -> None:
            if site.address in found:
                raise ModelError(
                    f"the residual stream of {self.model.name}",
                    f"layer {site.address} is read twice in a pass",
                    "use a model with a block per layer",
                )
            found[site.address] = _pick(h, weights, place)

        inputs = {k: v for k, v in batch.inputs.items() if k in ("input_ids", "attention_mask")}
        with self.model.quiet(), torch.no_grad(), edit(self.sites, pick):
            last = self.inner(**inputs).last_hidden_state
        if self.normed:
            found[self.sites[-1].address] = _pick(last, weights, place)
        shapes = {tuple(h.shape) for h in found.values()}
        if len(found) != len(self.sites) or len(shapes) != 1:
            raise ModelError(
                f"the residual stream of {self.model.name}",
                f"{len(found)} of {len(self.sites)} layers, of shapes {sorted(shapes)}",
                "give normed=False, or a model whose layers are all as wide and are run in every pass",
            )
        return torch.stack([found[site.address] for site in self.sites])

    def shape(self, prompts: Mapping[str, tuple[list[Encoded], Tensor]]) -> tuple[int, int]:
        """Layers and features, by a pass of one example."""
        encoded, picked = next(iter(prompts.values()))
        batch = next(batches(encoded[:1], 1, pad_id(self.model.tokenizer), self.model.device, self.model.style))
        found = self(batch, picked[:1])
        return found.shape[0], found.shape[2]


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
        found = f"blocks {sorted(paths)}" if paths else "no numbered blocks"
        raise ModelError(f"the residual stream of {model.name}", found, "use a model with a numbered block per layer")
    return [model.base.get_submodule(paths[i]) for i in range(len(paths))]


def tokens_to_read(model: Model, task: Task, examples: Sequence[Example], at: At) -> tuple[list[Encoded], Tensor]:
    """Each prompt as token ids, and the weights [example, pos] of the positions to read."""
    asked = f"the representation at {at!r} of example {{}} of task {task.name!r}"
    tokens = tokenize(tokenizer_of(model), (e.prompt.rstrip() for e in examples))
    encoded, spans = [], []
    for i, example in enumerate(examples):
        prefix, body, suffix = tokens[example.prompt.rstrip()]
        shown = prefix + body + ([] if model.style == "causal" else suffix)
        if model.context is not None and len(shown) > model.context:
            found = f"{len(shown)} tokens, and a context of {model.context}"
            raise TaskError(asked.format(i), found, "load the task with max_words=..., or leave the example out")
        if not body or (isinstance(at, int) and not -len(body) <= at < len(body)):
            found = f"a prompt of {len(body)} tokens"
            raise TaskError(asked.format(i), found, "give a position that every prompt has, 'last' or 'mean'")
        start, stop = len(prefix), len(prefix) + len(body)
        encoded.append(Encoded(shown, [], stop - 1))
        place = stop - 1 if at == "last" else start if at == "mean" else start + at if at >= 0 else stop + at
        spans.append((place, stop if at == "mean" else place + 1))
    weights = torch.zeros(len(encoded), max(len(e.inputs) for e in encoded))
    for i, (start, stop) in enumerate(spans):
        weights[i, start:stop] = 1 / (stop - start)
    return encoded, weights


def passes(
    model: Model, prompts: tuple[list[Encoded], Tensor], size: int, progress: Progress | None, name: str
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of a task's prompts, and the weights [example of the task, pos] to average positions with."""
    encoded, weights = prompts
    found: Iterable[Batch] = batches(encoded, size, pad_id(tokenizer_of(model)), model.device, model.style)
    if progress is not None:
        found = progress(list(found), f"representations of {name}")
    return ((batch, weights) for batch in found)
