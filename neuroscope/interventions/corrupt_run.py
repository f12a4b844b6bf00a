"""Give neurons the values that they have where a corrupt prompt stands in the prompt's place.

1. Before each pass of the model, the prompt of every row is looked up among a task's; its corrupt prompt, of as many
   tokens, is put in its place, and what follows it (an answer's tokens, generated ones) is left as it is.
2. The model is run on that, as it is without interventions, and the neurons' values are kept.
3. In the pass itself the neurons take these values, token by token.

In generation each step runs both: the corrupt run goes on from a cache of its own, with the tokens that were generated.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuroscope.errors import ArgumentError, ModelError
from neuroscope.interventions.corrupt_prompts import ASKED, CorruptPrompts
from neuroscope.interventions.mask_sites import MaskSites, Scope, When, Where
from neuroscope.models import Model
from neuroscope.models.nnsight import outside_traces
from neuroscope.models.passes import layout_of
from neuroscope.models.sites import Site, edit, unedited


def corrupted(places: MaskSites, prompts: CorruptPrompts, where: Where | None, more: Any) -> Scope:
    """A scope in which a mask's neurons take the values of the corrupt prompts.

    Args:
        places: where the mask's neurons are.
        prompts: of the task that is run.
        where: at which tokens, and in which range of activations; None: everywhere.
        more: what tells the prompts from others.

    Raises:
        ModelError: neurons of experts, which exist at some tokens only.
    """
    if any(site.expert is not None for site in places.sites.values()):
        found = "neurons of experts, which exist at some tokens only"
        raise ModelError(ASKED, found, "ablate unit='output' or 'head', or use 'zero' or 'mean'")
    beside = _CorruptRun(places, prompts)

    def fill(site: Site, h: Tensor, coordinates: Tensor) -> Tensor:
        return h.index_copy(-1, coordinates, beside.values_at(site, h))

    return places.changed(fill, ASKED, where, watchers=[beside], more=more)


@dataclass
class _CorruptRun:
    """The run on corrupt prompts beside a pass.

    Attributes:
        values: by site, the chosen coordinates in that run; of the pass that is running.
        cache: what the corrupt run's next step goes on from.
        encoded: what the encoder made of the corrupt prompts, where it is run by itself.
        inside: modules that are running, outermost first.
    """

    places: MaskSites
    prompts: CorruptPrompts
    values: dict[str, Tensor] = field(default_factory=dict)
    cache: Any = None
    encoded: Any = None
    inside: list[Any] = field(default_factory=list)
    by_position: ClassVar[bool] = True

    def looks(self, model: Model) -> Iterator[tuple[nn.Module, When, Callable[..., None]]]:
        """Around the model; and around its trunk and its encoder, which some run alone."""
        self.leaves()
        modules = [model.root, model.base, getattr(model.base, "base_model", None)]
        if model.style == "seq2seq":
            modules.append(model.base.get_encoder())
        for module in {id(m): m for m in modules if isinstance(m, nn.Module)}.values():
            yield module, "before", self.begins
            yield module, "end", self.ends

    def leaves(self) -> None:
        """As the scope ends: nothing of its passes is kept."""
        self.values, self.cache, self.encoded, self.inside = {}, None, None, []

    def begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the outermost of the modules: the corrupt run."""
        self.inside.append(module)
        if len(self.inside) > 1:
            return
        given = self._instead(module, args, kwargs)
        kept: dict[str, Tensor] = {}

        def keep(site: Site, h: Tensor, tokens: Tensor | None) -> None:
            kept[site.address] = h.detach()[..., self.places.coordinates[site.address].to(h.device)]

        model = self.places.model
        with unedited(), outside_traces(model), model.quiet(), torch.no_grad(), edit(self.places.sites.values(), keep):
            output = module(**given)
        self.values = kept
        if model.style == "seq2seq" and module is model.base.get_encoder():
            self.encoded = output
        else:
            own = given.get("past_key_values")
            self.cache = getattr(output, "past_key_values", None) if own is None else own

    def ends(self, module: nn.Module, *passed: Any) -> None:
        """After it, also after an error."""
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
        if not self.inside:
            self.values = {}

    def values_at(self, site: Site, h: Tensor) -> Tensor:
        """What the chosen coordinates become at a site."""
        values = self.values.get(site.address)
        if values is None:
            found = f"{site.address} run outside of a pass of the model, as gradient checkpointing runs it again"
            raise ModelError(ASKED, found, "run the model itself, and without gradient checkpointing")
        if values.shape[:-1] != h.shape[:-1]:
            found = f"{tuple(h.shape[:-1])} tokens at {site.address}, and {tuple(values.shape[:-1])} in the corrupt run"
            raise ModelError(ASKED, found, "run whole passes of the model within the scope")
        return values.to(h)

    def _instead(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the corrupt run is given in place of what the pass is given."""
        names = [n for n, p in inspect.signature(module.forward).parameters.items() if p.kind is not p.VAR_POSITIONAL]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        _refuse_beams()
        if given.get("encoder_outputs") is not None:
            if self.encoded is None or len(self.encoded[0]) != len(given["encoder_outputs"][0]):
                found = "a decoder that is run on what the encoder made outside of the scope, or on some of it twice"
                raise ModelError(ASKED, found, "run the encoder within the scope too, without beams")
            given["encoder_outputs"] = self.encoded
        elif not past:
            name = _tokens_in(given)
            given[name] = self._swapped(module, given[name], given, kwargs, args)
        if past:
            given["past_key_values"] = self._own_cache(past)
        elif cache is not None:
            given["past_key_values"] = copy.deepcopy(cache)
        return given

    def _own_cache(self, past: int) -> Any:
        """The corrupt run's cache of so many tokens; what is beyond was taken back, as assisted generation does."""
        known = 0 if self.cache is None else int(self.cache.get_seq_length())
        if known < past:
            found = f"a run that goes on from a cache of {past} tokens, made outside of the scope"
            raise ArgumentError(ASKED, found, "run the prompt within the scope, or without past_key_values")
        if known > past:
            self.cache.crop(past)
        return self.cache

    def _swapped(
        self, module: nn.Module, ids: Tensor, given: Mapping[str, Any], kwargs: dict[str, Any], args: tuple[Any, ...]
    ) -> Tensor:
        """The token ids with the corrupt prompts in their places."""
        mask = given.get("attention_mask")
        real = torch.ones_like(ids) if mask is None or mask.shape != ids.shape else mask
        most = [ids.shape[1]] * len(ids)
        if self.places.model.style == "causal":
            most = layout_of(module, args, kwargs).prompt.tolist()
        new = ids.clone()
        for row, at, longest in zip(range(len(ids)), real.bool(), most, strict=True):
            columns = at.nonzero()[:, 0]
            corrupt = self.prompts.of(ids[row, columns].tolist(), int(longest))
            new[row, columns[: len(corrupt)]] = torch.tensor(corrupt).to(ids)
        return new


def _tokens_in(given: Mapping[str, Any]) -> str:
    """By which name a pass is given its tokens."""
    if given.get("input_ids") is not None:
        return "input_ids"
    if given.get("inputs_embeds") is not None:
        raise ModelError(ASKED, "a pass that is given inputs_embeds, of which no prompt can be told", "give input_ids")
    return next(name for name, value in given.items() if torch.is_tensor(value))  # a module of one's own


def _refuse_beams() -> None:
    """Refuse beam search, which exchanges rows between steps in its own cache alone."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "generate" and frame.f_globals.get("__name__", "").startswith("transformers."):
            beams = getattr(frame.f_locals.get("generation_config"), "num_beams", None)
            if beams not in (1, None):
                raise ModelError(ASKED, f"{beams} beams, which change places", "generate with num_beams=1")
        frame = frame.f_back
