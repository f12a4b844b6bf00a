"""Change neurons while the model runs: ablate, patch, scale, add. Scoped, nestable, undone on exit, live in `generate`.

Every intervention is a function of a site's vector given to `sites.edit`. None of them depends on what else is in the
batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, MaskError, ModelError, choose
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.models.lens import hooks_for
from neuroscope.models.nnsight import trace_lines
from neuroscope.models.sites import Site, edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.prompts import Batch, batches, encode, pad_id
from neuroscope.tasks.task import check_task
from neuroscope.tasks.tokens import decoder_start, tokenize, tokenizer_of

Scope = contextlib.AbstractContextManager[None]
VALUES = ("zero", "mean", "resample")
PASSES = 32  # examples per forward pass where activations are collected


def _within(
    model: Model, mask: NeuronMask, asked: str, change: Callable[[Site, Tensor, Tensor], Tensor | None]
) -> Scope:
    """A scope in which `change(site, h, coordinates)` gives the new vector at every site that has a chosen neuron."""
    sites = {a: s for a, s in _sites(model, mask, asked).items() if len(mask[a])}
    chosen = {id(s): s.coordinates(mask[a]) for a, s in sites.items()}

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
        coordinates = chosen[id(site)]
        if coordinates.device != h.device:
            coordinates = chosen[id(site)] = coordinates.to(h.device)
        return change(site, h, coordinates)

    return edit(sites.values(), on_site)


def _sites(model: Model, mask: NeuronMask, asked: str) -> Mapping[str, Site]:
    """The sites of the model that the mask is over, which must be those it was made for."""
    _is_mask(mask, asked)
    sites = model.sites(mask.unit)
    mask.fits(sites, asked)
    return sites


def _is_mask(mask: Any, asked: str) -> None:
    if not isinstance(mask, NeuronMask):
        raise ArgumentError(asked, f"a {type(mask).__name__} for a mask", "give a NeuronMask, such as scores.top(0.10)")


def _number(value: Any, asked: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(asked, f"{value!r}, which is no number", "give a number") from None


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
            examples it was scored on, or of `data`; "resample": its activation at one token of an example of `data`,
            both drawn by `seed`: the same token for all neurons, so that the state is one that occurs.
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
    _sites(model, mask, asked)
    if isinstance(value, str):
        choose(value, VALUES, "value")
    if value == "zero":
        return _silenced(model, mask, asked)
    if not isinstance(value, str):
        constant = _number(value, asked)
        return _within(model, mask, asked, lambda s, h, c: h.index_fill(-1, c, constant))
    targets = _targets(model, mask, value, data, examples, seed, asked)

    def fill(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        target = targets[site.address].to(h)
        return h.index_copy(-1, coordinates, target[coordinates].expand(*h.shape[:-1], -1).contiguous())

    return _within(model, mask, asked, fill)


def _silenced(model: Model, mask: NeuronMask, asked: str) -> Scope:
    """Zero by multiplication: a third of the cost of filling, which copies the vector and then writes into the copy."""
    dtype = next(model.root.parameters()).dtype
    with torch.inference_mode(False):  # else a later backward pass through the scope would refuse these
        keeps = {
            id(s): torch.ones(s.width * s.group, dtype=dtype).index_fill(0, s.coordinates(mask[a]), 0).to(model.device)
            for a, s in _sites(model, mask, asked).items()
            if len(mask[a])
        }

    def silence(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        keep = keeps[id(site)]
        if keep.dtype != h.dtype or keep.device != h.device:
            keep = keeps[id(site)] = keep.to(h)
        return h * keep

    return _within(model, mask, asked, silence)


def _targets(
    model: Model, mask: NeuronMask, value: str, data: Task | None, examples: int | None, seed: int, asked: str
) -> Mapping[str, Float[Tensor, " coordinate"]]:
    if data is not None:
        check_task(data, asked)
        return _sample(model, mask, data, examples, seed) if value == "resample" else _mean(model, mask, data, examples)
    means = mask.means or {}
    if value == "mean" and all(a in means for a, neurons in mask.items() if len(neurons)):
        return means
    found = "no data" + (", and a mask that carries no means" if value == "mean" else "")
    raise ArgumentError(asked, found, "give data=, a task whose discovery examples supply the activations")


def _passes(model: Model, task: Task, examples: Sequence[Example]) -> list[Batch]:
    encoded = encode(model, task, examples)
    return list(batches(encoded, PASSES, pad_id(tokenizer_of(model)), model.device, model.style))


def _mean(model: Model, mask: NeuronMask, task: Task, examples: int | None) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    count: dict[str, float] = {}

    def collect(batch: Batch, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        real = batch.real_at(site.address, h, tokens).flatten()
        total[site.address] = total.get(site.address, 0) + torch.mv(h.flatten(0, -2).float().T, real.float())
        count[site.address] = count.get(site.address, 0.0) + float(real.sum())

    _run(model, mask, _passes(model, task, task.split("discovery", examples)), collect)
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
    chosen = task.split("discovery", examples)
    generator = torch.Generator().manual_seed(seed)
    example = chosen[int(torch.randint(len(chosen), (1,), generator=generator))]
    drawn = float(torch.rand((), generator=generator))
    sample: dict[str, Tensor] = {}

    def collect(batch: Batch, site: Site, h: Tensor, tokens: Tensor | None) -> None:
        rows = h.flatten(0, -2)  # of one example: its tokens, without padding
        sample[site.address] = rows[int(drawn * len(rows))].clone()

    _run(model, mask, _passes(model, task, [example]), collect)
    return sample


def _run(model: Model, mask: NeuronMask, passes: Sequence[Batch], collect: Callable[..., None]) -> None:
    wanted = [s for a, s in _sites(model, mask, "collect activations").items() if len(mask[a])]
    with model.quiet(), torch.no_grad():
        for batch in passes:
            with edit(wanted, partial(collect, batch)):
                model.logits(batch.inputs, keep=batch.keep)


@public
def scale(model: Any, mask: NeuronMask, factor: float) -> Scope:
    """Multiply chosen neurons by a factor within a scope."""
    model, factor = resolve(model), _number(factor, f"scale by {factor!r}")

    def times(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) * factor)

    return _within(model, mask, f"scale by {factor}", times)


@public
def add(model: Any, mask: NeuronMask, amount: float | Mapping[str, Tensor]) -> Scope:
    """Add to chosen neurons within a scope.

    Args:
        amount: one number, or a tensor by address with one number per coordinate of the site (as `scores.means` has).
    """
    model, asked = resolve(model), "add to neurons"
    sites = _sites(model, mask, asked)
    if isinstance(amount, Mapping):
        for address in (a for a in mask if len(mask[a])):
            width = sites[address].width * sites[address].group
            shape = tuple(amount[address].shape) if address in amount else "nothing"
            if shape != (width,):
                found = f"{shape} for {address}, which has {width} coordinates"
                raise ArgumentError(asked, found, "give one number per coordinate for every site of the mask")
    else:
        amount = _number(amount, asked)

    def plus(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        term = amount[site.address].to(h)[coordinates] if isinstance(amount, Mapping) else amount
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) + term)

    return _within(model, mask, asked, plus)


@public
def patch(
    model: Any,
    mask: NeuronMask,
    *,
    source: Mapping[str, Tensor] | Batch | Tensor | str | Sequence[str],
    positions: Sequence[int] | None = None,
) -> Scope:
    """Give chosen neurons the activations of another run, within a scope (activation patching).

    Args:
        source: prompts, the model's inputs (token ids, a dict with `input_ids`, or a `Batch`), or cached activations:
            address -> `[batch, pos, coordinate]`. The source is run at the call, not at entry. A source of one example
            is given to every example; otherwise batch and length must be those of the run that is patched.
        positions: token positions to patch (None: all); negative ones count from the end.

    While generating, the pass over the prompt is patched, and the single-token steps after it are left alone.

    Raises:
        ArgumentError: source and run differ in shape, a position is outside, or prompts of different lengths.
        ModelError: neurons of experts, which exist at some tokens only; or prompts for the neurons of a decoder.
    """
    model, asked = resolve(model), "patch"
    sites = _sites(model, mask, asked)
    if any(s.expert is not None and len(mask[a]) for a, s in sites.items()):
        raise ModelError(asked, "neurons of experts, which exist at some tokens only", "patch unit='output' or 'head'")
    cached = _cached(model, mask, source)
    length = [0]  # of the run that is patched, for models that flatten tokens

    def replace(site: Site, h: Tensor, coordinates: Tensor) -> Tensor | None:
        given = cached[site.address].to(h)
        run = h if h.ndim == 3 else h.unflatten(0, (-1, length[0]))
        if run.shape[1] == 1 < given.shape[1]:
            return None  # a generation step
        if run.shape[1] != given.shape[1] or given.shape[0] not in (1, run.shape[0]):
            found = f"source {tuple(given.shape[:2])}, run {tuple(run.shape[:2])} [batch, pos]"
            do = "give one prompt, or as many as the run has, all of the same number of tokens"
            raise ArgumentError(f"patch at {site.address}", found, do)
        at = _positions(positions, run.shape[1], h.device)
        new = run.clone()
        rows = torch.arange(len(run), device=h.device)[:, None, None]
        values = given[:, at[:, None], coordinates[None]]
        new[rows, at[None, :, None], coordinates] = values.expand(len(run), -1, -1)
        return new.reshape(h.shape)

    return _noting_length(model, length, _within(model, mask, asked, replace))


@contextlib.contextmanager
def _noting_length(model: Model, length: list[int], scope: Scope) -> Iterator[None]:
    """`scope`, in which `length[0]` is the number of tokens that the model is being shown."""

    def note(module: Any, args: Any, embedded: Tensor) -> None:
        length[0] = embedded.shape[-2]

    handle = model.base.get_input_embeddings().register_forward_hook(note)
    try:
        with scope:
            yield
    finally:
        handle.remove()


def _positions(positions: Sequence[int] | None, length: int, device: torch.device) -> Tensor:
    if positions is None:
        return torch.arange(length, device=device)
    outside = [p for p in positions if not -length <= p < length]
    if outside:
        raise ArgumentError(f"position {outside[0]}", f"a run of {length} tokens", f"give {-length} to {length - 1}")
    return torch.tensor([p % length for p in positions], dtype=torch.long, device=device)


def _cached(model: Model, mask: NeuronMask, source: Any) -> Mapping[str, Tensor]:
    """The activations of the source at every site that has a chosen neuron, `[batch, pos, coordinate]`."""
    wanted = {a: s for a, s in model.sites(mask.unit).items() if len(mask[a])}
    if isinstance(source, Mapping) and "input_ids" not in source:
        for address, site in wanted.items():
            found = tuple(source[address].shape) if address in source else "none"
            if found == "none" or len(found) != 3 or found[-1] != site.width * site.group:
                do = f"give every site of the mask its [batch, pos, {site.width * site.group}] activations"
                raise MaskError("patch from cached activations", f"{found} for {address}", do)
        return source
    inputs = _inputs(model, source, wanted)
    cache: dict[str, Tensor] = {}

    def keep(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        copy = h.detach().clone()  # some models write into their vectors
        cache[site.address] = copy if h.ndim == 3 else copy.unflatten(0, (len(inputs["input_ids"]), -1))

    with model.quiet(), torch.no_grad(), edit(wanted.values(), keep):
        model.logits(inputs)
    return cache


def _inputs(model: Model, source: Any, wanted: Mapping[str, Site]) -> dict[str, Tensor]:
    """The source as keyword arguments of the model."""
    if isinstance(source, Batch):
        source = source.inputs
    if isinstance(source, Tensor):
        source = {"input_ids": source}
    texts = [source] if isinstance(source, str) else source
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        pieces = tokenize(tokenizer_of(model), texts)
        ids = [[*p.prefix, *p.body, *p.suffix] for p in (pieces[text] for text in texts)]
        lengths = sorted({len(row) for row in ids})
        if len(lengths) != 1 or lengths[0] == 0:
            raise ArgumentError("patch(source=prompts)", f"prompts of {lengths} tokens", "give prompts of one length")
        if model.context is not None and lengths[0] > model.context:
            found = f"a context of {model.context}"
            raise ArgumentError(f"patch(source=a prompt of {lengths[0]} tokens)", found, "give a shorter one")
        source = {"input_ids": torch.tensor(ids)}
    if not isinstance(source, Mapping):
        raise ArgumentError("patch(source=...)", f"a {type(source).__name__}", "give prompts, inputs or activations")
    inputs = {k: v.to(model.device) for k, v in source.items() if torch.is_tensor(v)}
    if model.style == "seq2seq" and "decoder_input_ids" not in inputs:
        decoding = [a for a in wanted if a.startswith("decoder_")]
        if decoding:
            found = f"no decoder_input_ids for {decoding[0]}"
            raise ModelError("patch(source=...)", found, "give a dict with decoder_input_ids, or a Batch")
        inputs["decoder_input_ids"] = torch.full((len(inputs["input_ids"]), 1), decoder_start(model))
        inputs["decoder_input_ids"] = inputs["decoder_input_ids"].to(model.device)
    return inputs


@public
def lens_hooks(mask: NeuronMask, *, value: float = 0.0) -> list[tuple[str, Callable[[Tensor, Any], Tensor]]]:
    """TransformerLens `fwd_hooks` that set a mask's neurons to a value: for `bridge.run_with_hooks(fwd_hooks=...)`."""
    _is_mask(mask, "lens_hooks")
    expert = next((a for a, neurons in mask.items() if ".experts." in a and len(neurons)), None)
    if expert:
        do = "use ns.ablate(bridge, mask)"
        raise ModelError("lens_hooks for a neuron of an expert", f"{expert}, which TransformerLens does not know", do)
    return hooks_for(mask, _number(value, "lens_hooks"))


@public
def nnsight_code(model: Any, mask: NeuronMask, *, value: float = 0.0, variable: str = "model") -> str:
    """The lines of an nnsight trace that set a mask's neurons to a value, for runs where hooks cannot travel.

    Put them into `with model.trace(prompt, remote=True):`. `variable` is what the nnsight model is called there.
    """
    model = resolve(model)
    _sites(model, mask, "nnsight_code")
    return trace_lines(model, mask, mask.unit, _number(value, "nnsight_code"), variable)
