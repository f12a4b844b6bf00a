"""Model: an opened model, the same for every backend."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuroscope.distributed import has_shards
from neuroscope.errors import ModelError, NumericalError, choose
from neuroscope.models.fingerprints import fingerprint, forget, read_once, tokenizer_digest
from neuroscope.models.head import head_at
from neuroscope.models.packed import packed_names
from neuroscope.models.passes import telling
from neuroscope.models.running import (
    embedding_of,
    fitting,
    logits_of,
    refuse_without_data,
    rows_of_positions,
    with_room,
)
from neuroscope.models.sites import Site, Unit, live, unedited
from neuroscope.models.structure import parts, same

UNITS: tuple[Unit, ...] = get_args(Unit)
Style = Literal["causal", "seq2seq", "masked"]
Backend = Literal["hugging_face", "transformer_bridge", "nnsight", "checkpoint"]
Units = Mapping[Unit, Mapping[str, Site]]
Problems = Mapping[Unit, ModelError]


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An opened model and where its neurons are. Every public function takes one, or anything that can be opened.

    Attributes:
        name: Hub id, folder, or class name.
        backend: "hugging_face", "transformer_bridge" or "nnsight"; "checkpoint" for one without weights.
        style: "causal", "seq2seq" or "masked".
        root: the torch model, called with Hugging Face keyword arguments.
        tokenizer: its tokenizer, or None.
        has_parameters: False on a TransformerBridge, whose parameters are not the model's own.
        original: the object that the user opened.
        units: the sites of each unit by address, in forward order.
        problems: the error of each unit that cannot be reached.
        find: finds `units` and `problems` again; None for a model without weights.
        parts: the modules and parameters that they were found in.

    Example:
        >>> import neuroscope as ns
        >>> model = ns.load("mini")
        >>> model.style, {unit: sum(site.width for site in model.sites(unit).values()) for unit in ("hidden", "head")}
        ('causal', {'hidden': 2048, 'head': 16})
    """

    name: str
    backend: Backend
    style: Style
    root: Any
    tokenizer: Any
    original: Any
    units: Units
    problems: Problems = field(default_factory=dict)
    has_parameters: bool = True
    find: Callable[[], tuple[Units, Problems]] | None = None
    parts: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", parts(self.root))

    def renewed(self) -> Model:
        """The model itself, its sites found again if the network was changed (a layer replaced, LoRA added or merged).

        Raises:
            ModelError: a part that was compiled.
        """
        now = parts(self.root)
        if same(now, self.parts):
            return self
        if self.find is not None and not has_shards(self.root):  # the modules of a sharded model are still its own
            try:
                refuse_without_data(self.root)
                with unedited():
                    units, problems = self.find()
            except ModelError as error:
                units, problems = {unit: {} for unit in UNITS}, dict.fromkeys(UNITS, error)
            except Exception as error:  # a network that cannot be run raises whatever its layers raise
                found = f"a network that was changed since, and cannot be run: {str(error)[:200]}"
                broken = ModelError(
                    f"find the neurons of {self.name}", found, "undo the change, or load the model anew"
                )
                units, problems = {unit: {} for unit in UNITS}, dict.fromkeys(UNITS, broken)
            object.__setattr__(self, "units", units)
            object.__setattr__(self, "problems", problems)
        object.__setattr__(self, "parts", now)
        return self

    def sites(self, unit: str = "hidden") -> Mapping[str, Site]:
        """Sites by address, in forward order.

        Raises:
            ModelError: the model's neurons of this unit cannot be reached; the text says what to do.
        """
        known: Unit = choose(unit, UNITS, "unit")
        self.renewed()
        if known in self.problems:
            raise self.problems[known]
        return self.units[known]

    @property
    def config(self) -> Any:
        """The Hugging Face configuration; None of a module that has none."""
        return getattr(self.base, "config", None)

    @property
    def base(self) -> Any:
        """The model under any PEFT wrapper."""
        return self.root.get_base_model() if hasattr(self.root, "get_base_model") else self.root

    @property
    def embedding(self) -> Any:
        """The embedding of its tokens."""
        return embedding_of(self.base)

    @property
    def device(self) -> torch.device:
        """Where inputs go.

        Raises:
            ModelError: weights without data, put on torch's meta device or offloaded since.
        """
        device = embedding_of(self.base).weight.device
        if device.type == "meta" and self.backend != "checkpoint":
            refuse_without_data(self.root)
        return device

    @property
    def trunk(self) -> Any:
        """What is below the head, and gives the last hidden state: the encoder, or the whole stack.

        Raises:
            ModelError: a module of one's own, in which nothing has that name.
        """
        trunk = self.base.get_encoder() if self.style == "seq2seq" else getattr(self.base, "base_model", None)
        if trunk is None:
            found = f"a {type(self.base).__name__} in which nothing is called base_model"
            do = "give it a property base_model, whose forward returns an object with last_hidden_state; "
            do += "ns.representations(..., normed=False) needs none"
            raise ModelError(f"the last hidden state of {self.name}", found, do)
        return trunk

    @property
    def context(self) -> int | None:
        """The longest input in tokens, by the configuration, else by a table of positions; None without limit."""
        config = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "block_size"):
            limit = getattr(config, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit - self._first_position
        return self._rows_of_positions

    @functools.cached_property
    def _rows_of_positions(self) -> int | None:
        if self.backend == "checkpoint" or has_shards(self.root):
            return None
        with unedited(), self.quiet():
            return rows_of_positions(self.root, self.base, self.style)

    @property
    def short(self) -> int | None:
        """The longest row that runs at LongRoPE's short frequencies; None of a model whose frequencies are the same.

        transformers takes them from the longest row of a batch, so no batch may have rows on both sides.
        """
        config = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        found = getattr(config, "rope_parameters", None) or {}
        kinds = [found, *(part for part in found.values() if isinstance(part, dict))]
        limits = [k["original_max_position_embeddings"] for k in kinds if k.get("rope_type") == "longrope"]
        return min(limits, default=None)

    @functools.cached_property
    def _first_position(self) -> int:
        """The position of the first token: after the padding's where there is one, as in RoBERTa and its kin."""
        places = [m for n, m in self.base.named_modules() if n.endswith(("position_embeddings", "embed_positions"))]
        padding = next((getattr(m, "padding_idx", None) for m in places if hasattr(m, "weight")), None)
        return 0 if padding is None else padding + 1

    def check_ids(self, largest: int) -> None:
        """Refuse a token id that the model has no embedding for.

        Raises:
            ModelError: a vocabulary smaller than the tokenizer's.
        """
        size = embedding_of(self.base).weight.shape[0]
        if largest >= size:
            found = f"token {largest} of a text, where the model's vocabulary has {size}"
            do = "give the model's own tokenizer, or model.resize_token_embeddings(len(tokenizer))"
            raise ModelError(f"run {self.name}", found, do)

    def logits(
        self, inputs: dict[str, Tensor], at: Bool[Tensor, "row pos"] | None = None, answers: bool = True
    ) -> Float[Tensor, "batch pos vocab"] | Float[Tensor, "wanted vocab"]:
        """One forward pass: every position's logits; or only those `at` some, row by row.

        The output head is then run on the hidden states at these positions alone, so that no others' logits are ever
        made. The logits are where the inputs are, also of a model on several devices.

        Args:
            inputs: keyword arguments of the model.
            at: True where logits are wanted (of a decoder's positions for seq2seq); rows beyond its last have none.
            answers: whether these predict answers, so that a row's prompt ends with the first of them.
        """
        device = inputs["input_ids"].device
        self.check_ids(int(inputs["input_ids"].max()))
        tells = telling(inputs.get("attention_mask"), at if answers else None)
        inputs = fitting(self.base, inputs)
        takes = inspect.signature(self.base.forward).parameters
        settings: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
        room = with_room(self.base, next(iter(inputs.values())).shape[1])
        with room, tells, contextlib.nullcontext() if at is None else head_at(self.base, at) as was_called:
            logits = logits_of(self.root(**inputs, **settings))
        if at is None:
            return logits.to(device)
        if was_called and logits.shape[:2] == (1, was_called[0]):
            return logits[0].to(device)
        return logits[: len(at)][at.to(logits.device)].to(device)

    @torch.no_grad()
    def generate(
        self, input_ids: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"], max_new_tokens: int
    ) -> Int[Tensor, "batch new"]:
        """Greedy continuation of left-padded prompts; only the new tokens, padded after the end.

        Raises:
            NumericalError: logits that are not finite.
        """
        from transformers import GenerationConfig, LogitsProcessorList  # heavy: only where a model is run

        if self.style == "masked":
            raise ModelError(
                f"generate with {self.name}", "a masked language model", "use a classification task, or a causal model"
            )
        with _generating:
            settings = getattr(self.base, "generation_config", None)
        if settings is None:
            found = f"a {type(self.base).__name__} without generation_config, which does not generate"
            raise ModelError(f"generate with {self.name}", found, "use a classification task, or add GenerationMixin")
        eos = (
            settings.eos_token_id
            if settings.eos_token_id is not None
            else getattr(self.tokenizer, "eos_token_id", None)
        )
        first_eos = eos[0] if isinstance(eos, list) else eos
        self.check_ids(int(input_ids.max()))
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=eos,
            pad_token_id=settings.pad_token_id if settings.pad_token_id is not None else first_eos,
            decoder_start_token_id=settings.decoder_start_token_id,
        )
        # the model's own settings would stand in for whatever these leave open, such as a penalty for repetition
        with _generating:  # one thread at a time, or another one would restore these
            self.base.generation_config = config
            try:
                out = self.root.generate(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([self._finite]),
                )
            finally:
                self.base.generation_config = settings
        return out[:, 1:] if self.style == "seq2seq" else out[:, input_ids.shape[1] :]

    def _finite(self, input_ids: Tensor, logits: Float[Tensor, "batch vocabulary"]) -> Tensor:
        if not logits.max(-1).values.isfinite().all():
            found = f"a logit that is not finite at token {input_ids.shape[1]}"
            do = "look for overflow (float16 weights, a scaled or patched activation), or load the model in float32"
            raise NumericalError(f"generate with {self.name}", found, do)
        return logits

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """Evaluation mode and frozen parameters in the scope; every mode and `requires_grad` is restored on exit."""
        return quiet(self.root)

    def unchanged(self) -> contextlib.AbstractContextManager[None]:
        """A scope in which the weights are read for the fingerprint once, and again only after training or merging.

        For functions that pass over the model several times. Scopes nest: an inner one does nothing.
        """
        return read_once(self.root)

    def weights_changed(self) -> None:
        """Say within `unchanged` that weights were trained: torch does not count what a fused optimizer writes."""
        forget(self.root)

    def fingerprint(self) -> str:
        """16 digits that change with the architecture or with any weight, or with how much an adapter counts."""
        return fingerprint(self.root)

    def identity(self) -> dict[str, Any]:
        """What tells one measured model from another: weights, configuration, tokenizer, dtype, and what is live."""
        return identity_of(self.provenance())

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of the model."""
        return {
            "model": self.name,
            "revision": getattr(self.config, "_commit_hash", None),
            "fingerprint": self.fingerprint(),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "backend": self.backend,
            "dtype": str(next(self.root.parameters()).dtype).removeprefix("torch."),
            "interventions": live(self.root),
        }

    def __repr__(self) -> str:
        how = f"on {embedding_of(self.base).weight.device}{', quantised' * bool(packed_names(self.root))}"
        lines = [f"Model({self.name}: {type(self.base).__name__}, {self.style}, {self.backend}, {how})"]
        for unit in UNITS:
            if unit in self.problems:
                lines.append(f"  {unit:7} {self.problems[unit].found}")
                continue
            sites = list(self.units[unit].values())
            total = sum(s.width for s in sites)
            span = f", {sites[0].address} .. {sites[-1].address}" if sites else ""
            lines.append(f"  {unit:7} {total:,} neurons at {len(sites)} sites{span}")
        return "\n".join(lines)


def identity_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What of a provenance tells one measured model from another."""
    return {key: provenance[key] for key in ("fingerprint", "tokenizer", "dtype", "interventions")}


@contextlib.contextmanager
def quiet(root: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters in the scope; every mode and `requires_grad` is restored on exit.

    Of scopes that overlap, as those of two threads do, the last one restores what the first one found.
    """
    modules = {mode: [m for m in root.modules() if m.training is mode] for mode in (True, False)}
    mine = _Found(modules[True], modules[False], [p for p in root.parameters() if p.requires_grad])
    with _lock:
        scopes = _quiet.setdefault(root, [])
        scopes.append(mine)
    try:
        mine.set(False)
        yield
    finally:
        with _lock:
            i = next(i for i, scope in enumerate(scopes) if scope is mine)
            del scopes[i]
            if i < len(scopes):
                scopes[i].take(mine)
            else:
                mine.set(True)


@dataclass(eq=False)
class _Found:
    """What a quiet scope found: modules in training mode, modules in evaluation mode, and parameters to be trained."""

    training: list[nn.Module]
    evaluating: list[nn.Module]
    parameters: list[nn.Parameter]

    def set(self, on: bool) -> None:
        for module in self.evaluating:
            module.training = False
        for module in self.training:
            module.training = on
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def take(self, other: _Found) -> None:
        self.training += other.training
        self.parameters += other.parameters


_quiet: WeakKeyDictionary[nn.Module, list[_Found]] = WeakKeyDictionary()
_lock = threading.Lock()
_generating = threading.RLock()
