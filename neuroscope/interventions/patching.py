"""Activation patching: give chosen neurons the activations of another run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroscope.arrays import array_of
from neuroscope.checks import public, texts_of
from neuroscope.errors import ArgumentError, MaskError, ModelError, kind_of
from neuroscope.interventions.mask_sites import MaskSites, Scope, When
from neuroscope.interventions.where import At, Range, positions_of, where_of
from neuroscope.models import Model
from neuroscope.models.sites import Site
from neuroscope.tasks.encoding import Batch
from neuroscope.tasks.tokens import decoder_start, tokenize, tokenizer_of


@public
def patch(
    model: Any,
    mask: Any,
    *,
    source: Mapping[str, Tensor] | Batch | Tensor | str | Sequence[str],
    positions: int | Sequence[int] | None = None,
    at: At | None = None,
    when: Range | None = None,
) -> Scope:
    """Give chosen neurons the activations of another run, within a scope (activation patching).

    Args:
        model, mask: as of `ablate`.
        source: prompts, the model's inputs (token ids, a dict with `input_ids`, or a `Batch`), or cached activations:
            address -> `[batch, pos, coordinate]`. The source is run at the call, not at entry. A source of one example
            is given to every example; otherwise batch and length must be those of the run that is patched.
        positions: token positions to patch (None: all); negative ones count from the end. Padding counts.
        at: at which tokens, in place of `positions`, as of `ablate`; but for "generated", which no source has.
        when: only where a neuron's own activation lies in this range, `between(lo, hi)`.

    While generating, the pass over the prompt is patched; the steps that go on from its cache are left alone.

    Raises:
        ArgumentError: source and run differ in shape, a position is outside, prompts of different lengths, or
            `positions` and `at` together.
        MaskError: the mask is of another model.
        ModelError: neurons of experts, which exist at some tokens only; or prompts for the neurons of a decoder.

    Example:
        >>> import neuroscope as ns
        >>> model, good, bad = ns.load("mini"), "sentiment the curry was good =>", "sentiment the curry was bad =>"
        >>> with ns.patch(model, "2.17", source=bad):
        ...     patched = ns.activations(model, good, "2.17").to_frame()["2.17"]
        >>> patched.equals(ns.activations(model, bad, "2.17").to_frame()["2.17"])
        True
    """
    places = MaskSites.find(model, mask, "patch")
    if any(site.expert is not None for site in places.sites.values()):
        found = "neurons of experts, which exist at some tokens only"
        raise ModelError("patch", found, "patch unit='output' or 'head'")
    if at is not None and positions is not None:
        raise ArgumentError("patch(positions=..., at=...)", "both", "give one: at counts from the first real token")
    where = where_of(places, at, when, "patch")
    if at == "generated":
        raise ArgumentError(
            "patch(at='generated')", "tokens that no source has", "give at='answer', 'prompt' or 'last'"
        )
    cached = _cached(places, source)
    if positions is not None:
        positions = positions_of(positions, "patch(positions)")
        if isinstance(source, Batch | Mapping):
            inputs: Any = source.inputs if isinstance(source, Batch) else source
            for address in places.sites:
                _refuse_padding(positions, inputs, address)
    seen = _Seen()

    def replace(site: Site, h: Tensor, coordinates: Tensor) -> Tensor | None:
        if seen.goes_on:
            return None
        source_h = cached[site.address].to(h)
        run = h if h.ndim == 3 else h.unflatten(0, (-1, seen.length))
        (examples, length), (rows_run, length_run) = source_h.shape[:2], run.shape[:2]
        if length != length_run:
            do = "run prompts of as many tokens as the source has, or change the source, so that positions match"
            raise _unlike(site, f"a source of {length} tokens, and a run of {length_run}", do)
        if examples not in (1, rows_run):
            do = "give a source of one example, or of as many as the run has"
            raise _unlike(site, f"a source of {examples} examples, and a run of {rows_run}", do)
        at = _positions(positions, run.shape[1], h.device)
        _refuse_padding(positions, seen.masks, site.address)
        new = run.clone()
        rows = torch.arange(len(run), device=h.device)[:, None, None]
        values = source_h[:, at[:, None], coordinates[None]]
        new[rows, at[None, :, None], coordinates] = values.expand(len(run), -1, -1)
        return new.reshape(h.shape)

    return places.changed(replace, "patch", where, cached, [seen], positions)


def _unlike(site: Site, found: str, do: str) -> ArgumentError:
    return ArgumentError(f"patch(source=...) at {site.address}", found, do)


@dataclass
class _Seen:
    """What the run that is patched looks like: its number of tokens, and whether it goes on from a cache."""

    length: int = 0
    goes_on: bool = False
    has_begun: bool = False  # since the scope was entered
    masks: Mapping[str, Any] = field(default_factory=dict)
    by_position: ClassVar[bool] = True

    def looks(self, model: Model) -> Iterator[tuple[nn.Module, When, Callable[..., None]]]:
        """After the embedding, and around the model; PEFT generates by the model under it."""
        self.has_begun = False
        yield model.embedding, "after", self.embedded
        for module in {id(m): m for m in (model.root, model.base)}.values():
            yield module, "before", self.begins
            yield module, "end", self.ends

    def embedded(self, module: Any, args: Any, output: Tensor) -> None:
        """After the embedding."""
        self.length = output.shape[-2]

    def begins(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before the model."""
        cache: Any = kwargs.get("past_key_values")
        self.goes_on = cache is not None and cache.get_seq_length() > 0
        if self.goes_on and not self.has_begun:
            found = f"a run that goes on from a cache of {cache.get_seq_length()} tokens, made outside of the scope"
            raise ArgumentError("patch", found, "run the prompt within the scope, or without past_key_values")
        self.has_begun, self.masks = True, kwargs

    def ends(self, *passed: Any) -> None:
        """After the model, also after an error."""
        self.goes_on, self.masks = False, {}


def _positions(positions: Sequence[int] | None, length: int, device: torch.device) -> Tensor:
    """The positions counted from the start."""
    if positions is None:
        return torch.arange(length, device=device)
    outside = [p for p in positions if not -length <= p < length]
    if outside:
        do = f"give {-length} to {length - 1}"
        raise ArgumentError(f"patch(positions=...): position {outside[0]}", f"a run of {length} tokens", do)
    return torch.tensor([p % length for p in positions], dtype=torch.long, device=device)


def _refuse_padding(positions: Sequence[int] | None, inputs: Mapping[str, Any], address: str) -> None:
    """Refuse positions that are counted from an end of the prompts at which some are padded."""
    mask = inputs.get("decoder_attention_mask" if address.startswith("decoder_") else "attention_mask")
    if not positions or not isinstance(mask, Tensor) or mask.ndim != 2:
        return
    for ends, side, count in ((min(positions) < 0, -1, "the end"), (max(positions) >= 0, 0, "the beginning")):
        if ends and not bool(mask[:, side].all()):
            do = "pad at the other side, count from the other end, or run prompts of one length"
            raise ArgumentError(f"patch(positions={list(positions)})", f"prompts that are padded at {count}", do)


def _cached(places: MaskSites, source: Any) -> Mapping[str, Float[Tensor, "batch pos coordinate"]]:
    """The activations of the source at every site that has a chosen neuron."""
    if isinstance(source, Mapping) and "input_ids" not in source:
        cached: dict[str, Tensor] = {}
        for address, site in places.sites.items():
            values = array_of(source[address], f"patch(source[{address!r}])") if address in source else torch.zeros(())
            shape = tuple(values.shape)
            if len(shape) != 3 or shape[-1] != site.width * site.group or values.dtype == torch.bool:
                do = f"give every site of the mask its [batch, pos, {site.width * site.group}] activations"
                raise MaskError("patch(source=cached activations)", f"{shape or 'none'} for {address}", do)
            cached[address] = values
        return cached
    inputs = _inputs(places.model, source, places.sites)
    cache: dict[str, Tensor] = {}

    def keep(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        copy = h.detach().clone()  # some models write into their vectors
        cache[site.address] = copy if h.ndim == 3 else copy.unflatten(0, (len(inputs["input_ids"]), -1))

    places.observe(inputs, keep)
    return cache


def _inputs(model: Model, source: Any, wanted: Mapping[str, Site]) -> dict[str, Tensor]:
    """The source as keyword arguments of the model."""
    if isinstance(source, Batch):
        source = source.inputs
    if isinstance(source, Tensor):
        source = {"input_ids": source}
    prompts = [source] if isinstance(source, str) else source
    if isinstance(prompts, Sequence) and all(isinstance(text, str) for text in prompts):
        source = {"input_ids": _prompt_ids(model, texts_of(prompts, "patch(source)"))}
    if not isinstance(source, Mapping):
        raise ArgumentError("patch(source=...)", kind_of(source), "give prompts, inputs or activations")
    inputs = {k: array_of(v, f"patch(source[{k!r}])").to(model.device) for k, v in source.items() if torch.is_tensor(v)}
    ids = inputs.get("input_ids")
    if ids is None or ids.ndim != 2 or ids.numel() == 0 or ids.dtype not in (torch.int64, torch.int32):
        found = "no input_ids" if ids is None else f"input_ids of {str(ids.dtype)[6:]} and shape {tuple(ids.shape)}"
        raise ArgumentError("patch(source=...)", found, "give token ids as whole numbers [batch, pos], or prompts")
    if model.style == "seq2seq" and "decoder_input_ids" not in inputs:
        decoding = [a for a in wanted if a.startswith("decoder_")]
        if decoding:
            found = f"no decoder_input_ids for {decoding[0]}"
            raise ModelError("patch(source=...)", found, "give a dict with decoder_input_ids, or a Batch")
        inputs["decoder_input_ids"] = torch.full((len(inputs["input_ids"]), 1), decoder_start(model))
        inputs["decoder_input_ids"] = inputs["decoder_input_ids"].to(model.device)
    return inputs


def _prompt_ids(model: Model, prompts: Sequence[str]) -> Int[Tensor, "prompt token"]:
    """Prompts of one length as token ids, with the special tokens that the tokenizer puts around a text."""
    pieces = tokenize(tokenizer_of(model), prompts)
    ids = [[*p.prefix, *p.body, *p.suffix] for p in (pieces[text] for text in prompts)]
    lengths = sorted({len(row) for row in ids})
    if len(lengths) != 1 or lengths[0] == 0:
        found = f"prompts of {' and '.join(map(str, lengths))} tokens" if any(lengths) else "no tokens"
        raise ArgumentError("patch(source=prompts)", found, "give one prompt, or prompts of as many tokens each")
    if model.context is not None and lengths[0] > model.context:
        found = f"a context of {model.context} tokens"
        raise ArgumentError(f"patch(source=a prompt of {lengths[0]} tokens)", found, "give a shorter one")
    return torch.tensor(ids)
