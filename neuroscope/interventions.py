"""Change neurons while the model runs: ablate, patch, scale, add. Scoped, nestable, undone on exit, live in `generate`.

Every intervention is a function of a site's vector given to `sites.edit`. None of them depends on what else is in the
batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.errors import ArgumentError, MaskError, ModelError, choose, public
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.models.lens import hooks_for
from neuroscope.models.nnsight import trace_lines
from neuroscope.sites import Site, edit
from neuroscope.tasks.prompts import Batch, batches, encode, pad_id
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import tokenizer_of

Scope = contextlib.AbstractContextManager[None]
VALUES = ("zero", "mean", "resample")
PASSES = 32  # examples per forward pass where activations are collected


def _within(
    model: Model, mask: NeuronMask, asked: str, change: Callable[[Site, Tensor, Tensor], Tensor | None]
) -> Scope:
    """A scope in which `change(site, h, coordinates)` gives the new vector at every site that has a chosen neuron."""
    if not isinstance(mask, NeuronMask):
        raise ArgumentError(asked, f"a {type(mask).__name__} for a mask", "give a NeuronMask, such as scores.top(0.10)")
    sites = model.sites(mask.unit)
    mask.fits(sites, asked)
    chosen = {id(sites[a]): sites[a].coordinates(neurons) for a, neurons in mask.items() if len(neurons)}

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
        coordinates = chosen[id(site)]
        if coordinates.device != h.device:
            coordinates = chosen[id(site)] = coordinates.to(h.device)
        return change(site, h, coordinates)

    return edit([s for s in sites.values() if id(s) in chosen], on_site)


@public
def ablate(
    model: Any,
    mask: NeuronMask,
    *,
    value: str | float = "zero",
    data: Task | None = None,
    examples: int | None = 256,
    seed: int = 0,
) -> Scope:
    """Switch neurons off within a scope (LX24 §4.1).

    Args:
        model: anything that can be opened.
        mask: which neurons.
        value: what they become. "zero"; a number; "mean": the neuron's mean activation over the real tokens of the
            examples it was scored on, or of `data`; "resample": its activation at one token, drawn by `seed`, of
            another example, of `data`: the same token for all neurons, so that the state is one that occurs.
        data: a task whose discovery examples give the mean or the sample.
        examples: at most how many of them.
        seed: of the draw.

    Raises:
        MaskError: the mask is of another model; the text names both shapes.
        ArgumentError: an unknown value, or no data to take it from.

    Example:
        >>> model = load("mini")  # doctest: +SKIP
        >>> with ablate(model, mask):  # doctest: +SKIP
        ...     evaluate(model, task)
    """
    model = resolve(model)
    asked = f"ablate(value={value!r})"
    if isinstance(value, str):
        choose(value, VALUES, "value")
    constant = 0.0 if value == "zero" else value
    if not isinstance(constant, str):
        return _within(model, mask, asked, lambda s, h, c: h.index_fill(-1, c, float(constant)))
    targets = _targets(model, mask, constant, data, examples, seed, asked)

    def fill(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        target = targets[site.address].to(h)
        return h.index_copy(-1, coordinates, target[coordinates].expand(*h.shape[:-1], -1).contiguous())

    return _within(model, mask, asked, fill)


def _targets(
    model: Model, mask: NeuronMask, value: str, data: Task | None, examples: int | None, seed: int, asked: str
) -> Mapping[str, Float[Tensor, " coordinate"]]:
    if data is not None:
        return _sample(model, mask, data, examples, seed) if value == "resample" else _mean(model, mask, data, examples)
    if value == "mean" and mask.means is not None:
        return mask.means
    found = "no data" + (", and a mask that carries no means" if value == "mean" else "")
    raise ArgumentError(asked, found, "give data=, a task whose discovery examples supply the activations")


def _passes(model: Model, task: Task, examples: int | None) -> list[Batch]:
    encoded = encode(model, task, task.split("discovery")[:examples])
    return list(batches(encoded, PASSES, pad_id(tokenizer_of(model)), model.device, model.style))


def _mean(model: Model, mask: NeuronMask, task: Task, examples: int | None) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    count: dict[str, float] = {}

    def collect(batch: Batch, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        real = batch.real_at(site.address, h, tokens).flatten()
        total[site.address] = total.get(site.address, 0) + torch.mv(h.flatten(0, -2).float().T, real.float())
        count[site.address] = count.get(site.address, 0.0) + float(real.sum())

    _run(model, mask, _passes(model, task, examples), collect)
    missing = [a for a, neurons in mask.items() if len(neurons) and not count.get(a)]
    if missing:
        raise ArgumentError(
            f"the mean activation at {missing[0]}", f"no token of {task.name!r} reaches it", "give more data"
        )
    return {a: t / count[a] for a, t in total.items()}


def _sample(model: Model, mask: NeuronMask, task: Task, examples: int | None, seed: int) -> dict[str, Tensor]:
    experts = [a for a, s in model.sites(mask.unit).items() if s.expert is not None and len(mask[a])]
    if experts:
        raise ModelError(
            "ablate(value='resample')", f"{experts[0]}, which a drawn token may not reach", "use 'zero' or 'mean'"
        )
    passes = _passes(model, task, examples)
    generator = torch.Generator().manual_seed(seed)
    batch = passes[int(torch.randint(len(passes), (1,), generator=generator))]
    example = int(torch.randint(len(batch.index), (1,), generator=generator))
    drawn = torch.rand((), generator=generator)
    sample: dict[str, Tensor] = {}

    def collect(batch: Batch, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        real = batch.real_at(site.address, h, tokens).reshape(len(batch.index), -1)[example].nonzero().flatten()
        position = int(real[int(drawn * len(real))])
        sample[site.address] = h.reshape(len(batch.index), -1, h.shape[-1])[example, position].clone()

    _run(model, mask, [batch], collect)
    return sample


def _run(model: Model, mask: NeuronMask, passes: Sequence[Batch], collect: Callable[..., None]) -> None:
    sites = model.sites(mask.unit)
    mask.fits(sites, "collect activations")
    wanted = [sites[a] for a, neurons in mask.items() if len(neurons)]
    with model.quiet(), torch.no_grad():
        for batch in passes:
            with edit(wanted, lambda s, h, t, b=batch: collect(b, s, h, t)):
                model.logits(batch.inputs, keep=batch.keep)


@public
def scale(model: Any, mask: NeuronMask, factor: float) -> Scope:
    """Multiply chosen neurons by a factor within a scope."""
    model, factor = resolve(model), float(factor)

    def times(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) * factor)

    return _within(model, mask, f"scale by {factor}", times)


@public
def add(model: Any, mask: NeuronMask, amount: float | Mapping[str, Tensor]) -> Scope:
    """Add to chosen neurons within a scope.

    Args:
        amount: one number, or a tensor by address with one number per coordinate of the site (as `scores.means` has).
    """
    model = resolve(model)
    if isinstance(amount, Mapping):
        missing = [a for a, neurons in mask.items() if len(neurons) and a not in amount]
        if missing:
            raise ArgumentError(
                "add(amount={...})", f"no entry for {missing[0]}", "give one for every site of the mask"
            )

    def plus(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        term: Any = amount
        if isinstance(amount, Mapping):
            term = amount[site.address].to(h)[coordinates]
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) + term)

    return _within(model, mask, "add to neurons", plus)


@public
def patch(
    model: Any,
    mask: NeuronMask,
    *,
    source: Mapping[str, Tensor] | Batch | str | Sequence[str],
    positions: Sequence[int] | None = None,
) -> Scope:
    """Give chosen neurons the activations of another run, within a scope (activation patching).

    Args:
        source: prompts, the model's inputs (a dict with `input_ids`, or a `Batch`), or cached activations: address ->
            `[batch, pos, coordinate]`. The source is run at the call, not at entry. A source of one example is given to
            every example; otherwise batch and length must be those of the run that is patched.
        positions: token positions to patch (None: all); negative ones count from the end.

    While generating, the pass over the prompt is patched, and the single-token steps after it are left alone.

    Raises:
        ArgumentError: source and run differ in shape, or a position is outside.
        ModelError: neurons of experts, which exist at some tokens only.
    """
    model = resolve(model)
    sites = model.sites(mask.unit)
    if any(sites[a].expert is not None for a, neurons in mask.items() if a in sites and len(neurons)):
        raise ModelError(
            "patch", "neurons of experts, which exist at some tokens only", "patch unit='output' or 'head'"
        )
    cached = _cached(model, mask, source)

    def replace(site: Site, h: Tensor, coordinates: Tensor) -> Tensor | None:
        given = cached[site.address].to(h)
        run = h if h.ndim == 3 else h.unflatten(0, (-1, given.shape[1]))
        if run.shape[1] == 1 < given.shape[1]:
            return None  # a generation step
        if run.shape[1] != given.shape[1] or given.shape[0] not in (1, run.shape[0]):
            found = f"source {tuple(given.shape[:2])}, run {tuple(run.shape[:2])} [batch, pos]"
            raise ArgumentError(f"patch at {site.address}", found, "give prompts of the same number of tokens")
        at = _positions(positions, run.shape[1], h.device)
        new = run.clone()
        rows = torch.arange(len(run), device=h.device)[:, None, None]
        values = given[:, at[:, None], coordinates[None]]
        new[rows, at[None, :, None], coordinates] = values.expand(len(run), -1, -1)
        return new.view_as(h)

    return _within(model, mask, "patch", replace)


def _positions(positions: Sequence[int] | None, length: int, device: torch.device) -> Tensor:
    if positions is None:
        return torch.arange(length, device=device)
    outside = [p for p in positions if not -length <= p < length]
    if outside:
        raise ArgumentError(f"position {outside[0]}", f"a run of {length} tokens", f"give {-length} to {length - 1}")
    return torch.tensor([p % length for p in positions], device=device)


def _cached(model: Model, mask: NeuronMask, source: Any) -> Mapping[str, Tensor]:
    wanted = [a for a, neurons in mask.items() if len(neurons)]
    if isinstance(source, Mapping) and "input_ids" not in source:
        missing = [a for a in wanted if a not in source]
        if missing:
            raise MaskError("patch from cached activations", f"none for {missing[0]}", "cache every site of the mask")
        return source
    inputs = source.inputs if isinstance(source, Batch) else source
    if isinstance(inputs, (str, Sequence)):
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        inputs = dict(tokenizer_of(model)(texts, return_tensors="pt", padding=len(texts) > 1))
        inputs.pop("token_type_ids", None)
    inputs = {k: v.to(model.device) for k, v in inputs.items()}
    cache: dict[str, Tensor] = {}

    def keep(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        cache[site.address] = h.detach() if h.ndim == 3 else h.detach().unflatten(0, (len(inputs["input_ids"]), -1))

    sites = model.sites(mask.unit)
    mask.fits(sites, "patch")
    with model.quiet(), torch.no_grad(), edit([sites[a] for a in wanted], keep):
        model.root(**inputs)
    return cache


@public
def lens_hooks(mask: NeuronMask, *, value: float = 0.0) -> list[tuple[str, Callable[[Tensor, Any], Tensor]]]:
    """TransformerLens `fwd_hooks` that set a mask's neurons to a value: for `bridge.run_with_hooks(fwd_hooks=...)`."""
    return hooks_for(mask, value)


@public
def nnsight_code(model: Any, mask: NeuronMask, *, value: float = 0.0, variable: str = "model") -> str:
    """The lines of an nnsight trace that set a mask's neurons to a value, for runs where hooks cannot travel.

    Put them into `with model.trace(prompt, remote=True):`. `variable` is what the nnsight model is called there.
    """
    model = resolve(model)
    mask.fits(model.sites(mask.unit), "nnsight_code")
    return trace_lines(model, mask, mask.unit, value, variable)
