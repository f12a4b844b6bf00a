"""Ablate, scale and add to neurons while the model runs. Scoped, nestable, undone on exit, live in `generate`.

Every intervention is a function of a site's vector given to `sites.edit`. None of them depends on what else is in the
batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neuroscope.arrays import array_of
from neuroscope.checks import finite, public
from neuroscope.errors import ArgumentError, choose
from neuroscope.interventions.corrupt_prompts import corrupt_prompts
from neuroscope.interventions.corrupt_run import corrupted
from neuroscope.interventions.mask_sites import MaskSites, Scope, Where
from neuroscope.interventions.replacements import ByAddress, mean_activations, one_tokens_activations
from neuroscope.interventions.where import At, Range, where_of
from neuroscope.models.sites import Site
from neuroscope.tasks.task import Task, check_task

Value = Literal["zero", "mean", "resample", "corrupt"]
VALUES = get_args(Value)


@public
def ablate(
    model: Any,
    mask: Any,
    *,
    value: Value | float = "zero",
    data: Task | None = None,
    examples: int | None = 256,
    seed: int = 0,
    at: At | None = None,
    when: Range | None = None,
) -> Scope:
    """Switch neurons off within a scope (LX24 §4.1).

    Args:
        model: anything that can be opened.
        mask: which neurons: a NeuronMask, or neurons written by hand: "11.1229", {11: [1229]} (`NeuronMask.of`).
        value: what they become. "zero"; a number; "mean": the neuron's mean activation over the real tokens of the
            examples it was scored on (with this model), or of `data`; "resample": its activation at one token of an
            example of `data`, both drawn by `seed`: the same token for all neurons, so that the state is one that
            occurs; "corrupt": its activation at the same token where the prompt is replaced by its pair,
            `Example.corrupt` of `data`, which must have as many tokens, and all that follows is the same, also what is
            generated: that of the model without interventions.
        data: a task whose discovery examples give the mean or the sample; of "corrupt", the task whose prompts are run.
        examples: at most how many of them.
        seed: of the draw.
        at: at which tokens, of a causal model (None: all). "prompt"; "last": the prompt's last token; "answer": the
            tokens of an answer that is scored, as `evaluate` and `attribute` do; "generated": those that generation
            made and, where an answer is scored, its tokens. Numbers: positions in the prompt, from 0 at its first
            token, negative ones from its end; padding counts for nothing. In a pass that you run yourself, tokens are
            the prompt's; but generated where they follow a cache, and an answer's from the first with a label on.
            An answer's last token is never an input, so that nothing can be done at it.
        when: only where a neuron's own activation lies in this range, `between(lo, hi)` (arXiv 2502.06809): what it is
            when this scope's turn comes.

    Raises:
        MaskError: the mask is of another model; the text names both shapes.
        ArgumentError: an unknown value, no data to take it from, or an unknown `at`; and when the model is run, tokens
            that a pass lacks, or that cannot be known.
        TaskError: of "corrupt", a task none of whose examples has a corrupt prompt of as many tokens; and when the
            model is run, a prompt that is not the task's, or that has none.
        ModelError: `at` for a model that is not causal, or `when` for heads, which have several numbers.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=8, test=16)["nli-food"]
        >>> mask = ns.attribute(model, task).top(0.10)
        >>> with ns.ablate(model, mask):
        ...     off = ns.evaluate(model, task).score
        >>> off < ns.evaluate(model, task).score
        True
    """
    asked = f"ablate(value={value!r})"
    if data is not None:
        check_task(data, "ablate(data)")
    places = MaskSites.find(model, mask, asked)
    where = where_of(places, at, when, "ablate")
    if not isinstance(value, str):
        constant = finite(value, "ablate(value)", "give 'zero', 'mean', 'resample', 'corrupt' or a number")
        return places.changed(lambda site, h, coordinates: h.index_fill(-1, coordinates, constant), asked, where)
    if choose(value, VALUES, "value") == "zero":
        return _silenced(places, asked, where)
    if value == "corrupt":
        if data is None:
            raise ArgumentError(asked, "no data", "give data=, the task whose prompts are run, with their corrupt ones")
        return corrupted(places, corrupt_prompts(places.model, data), where, data.data_hash)
    becomes = _replacement(places, value, data, examples, seed, asked)

    def fill(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        replacement = becomes[site.address].to(h)
        return h.index_copy(-1, coordinates, replacement[coordinates].expand(*h.shape[:-1], -1).contiguous())

    return places.changed(fill, asked, where, {address: becomes[address] for address in places.sites})


def _silenced(places: MaskSites, asked: str, where: Where | None) -> Scope:
    """Zero by multiplication: a third of the cost of filling, which copies the vector and then writes into the copy."""
    model = places.model
    dtype = next(model.root.parameters()).dtype
    with torch.inference_mode(False):  # else a later backward pass through the scope would refuse these
        keeps = {
            a: torch.ones(s.width * s.group, dtype=dtype).index_fill(0, places.coordinates[a], 0).to(model.device)
            for a, s in places.sites.items()
        }

    def silence(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        keep = keeps[site.address]
        if keep.dtype != h.dtype or keep.device != h.device:
            keep = keeps[site.address] = keep.to(h)
        return h * keep

    return places.changed(silence, asked, where)


def _replacement(
    places: MaskSites, value: str, data: Task | None, examples: int | None, seed: int, asked: str
) -> ByAddress:
    """What each coordinate becomes under "mean" and "resample"."""
    if data is not None:
        if value == "resample":
            return one_tokens_activations(places, data, examples, seed)
        return mean_activations(places, data, examples)
    means = places.mask.means or {}
    if value == "mean" and all(a in means for a in places.sites):
        whose = places.mask.manifest.get("fingerprint")
        if whose is not None and whose != places.model.fingerprint():
            found = f"means of another model ({whose}) than {places.model.name}, or of this one before it was changed"
            raise ArgumentError(asked, found, "give data=, a task whose discovery examples supply the activations")
        return means
    found = "no data" + (", and a mask that carries no means" if value == "mean" else "")
    raise ArgumentError(asked, found, "give data=, a task whose discovery examples supply the activations")


@public
def scale(model: Any, mask: Any, factor: float, *, at: At | None = None, when: Range | None = None) -> Scope:
    """Multiply chosen neurons by a factor within a scope.

    Args:
        model, mask: as of `ablate`.
        factor: 1 changes nothing, 0 switches off.
        at, when: at which tokens, and in which range of activations, as of `ablate`.

    Raises:
        MaskError: the mask is of another model.
        ArgumentError: no mask, or a factor that is no finite number.

    Example:
        >>> import neuroscope as ns
        >>> model, prompt = ns.load("mini"), "sentiment the curry was good =>"
        >>> before = ns.activations(model, prompt, "2.17").to_frame()["2.17"]
        >>> with ns.scale(model, "2.17", 0.5):
        ...     after = ns.activations(model, prompt, "2.17").to_frame()["2.17"]
        >>> (after / before).round(3).tolist()
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    factor = finite(factor, "scale(factor)")

    def times(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) * factor)

    asked = f"scale by {factor}"
    places = MaskSites.find(model, mask, asked)
    return places.changed(times, asked, where_of(places, at, when, "scale"))


@public
def add(
    model: Any,
    mask: Any,
    amount: float | Mapping[str, Tensor],
    *,
    at: At | None = None,
    when: Range | None = None,
) -> Scope:
    """Add to chosen neurons within a scope.

    Args:
        model, mask: as of `ablate`.
        amount: one number, or a tensor by address with one number per coordinate of the site (as `scores.means` has).
        at, when: at which tokens, and in which range of activations, as of `ablate`.

    What is added at every token is a constant in the residual stream: `add(...).to_gguf(path)` writes it as a control
    vector for llama.cpp.

    Raises:
        MaskError: the mask is of another model.
        ArgumentError: no mask, or an amount that is no finite number and does not fit the mask's sites.

    Example:
        >>> import neuroscope as ns
        >>> model, prompt = ns.load("mini"), "sentiment the curry was good =>"
        >>> before = ns.activations(model, prompt, "2.17").to_frame()["2.17"]
        >>> with ns.add(model, "2.17", 3.0, at="last"):
        ...     after = ns.activations(model, prompt, "2.17").to_frame()["2.17"]
        >>> (after - before).round(3).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0]
    """
    asked = "add(amount)"
    places = MaskSites.find(model, mask, asked)
    where = where_of(places, at, when, "add")
    if not isinstance(amount, Mapping):
        number = finite(amount, "add(amount)", "give a number, or a tensor by address")
        each = {a: torch.full(c.shape, number) for a, c in places.coordinates.items()}
        return places.changed(
            lambda s, h, c: h.index_copy(-1, c, h.index_select(-1, c) + number), f"add {number}", where, added=each
        )
    terms: dict[str, Tensor] = {}
    for address, site in places.sites.items():
        width = site.width * site.group
        values = array_of(amount[address], f"add(amount[{address!r}])") if address in amount else None
        if values is None or values.shape != (width,) or values.dtype == torch.bool:
            found = (
                f"{'nothing' if values is None else tuple(values.shape)} for {address}, which has {width} coordinates"
            )
            raise ArgumentError(asked, found, "give one number per coordinate for every site of the mask")
        if not bool(torch.isfinite(values).all()):
            raise ArgumentError(f"add(amount[{address!r}])", "a number that is not finite", "give finite numbers")
        terms[address] = values

    def plus(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        more = terms[site.address].to(h)[coordinates]
        return h.index_copy(-1, coordinates, h.index_select(-1, coordinates) + more)

    each = {a: values[places.coordinates[a].to(values.device)] for a, values in terms.items()}
    return places.changed(plus, "add", where, terms, added=each)
