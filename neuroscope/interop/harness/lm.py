"""A model of ours as a model of lm-evaluation-harness: its HFLM, under a mask or not, registered as "neuroscope"."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from neuroscope import files
from neuroscope.checks import public, seed_of
from neuroscope.errors import ArgumentError, ModelError, suggest
from neuroscope.interop.harness.aside import aside, require
from neuroscope.interventions import ablate
from neuroscope.interventions.edits import Value
from neuroscope.interventions.where import At, Range
from neuroscope.masks import NeuronMask, check_mask, mask_for
from neuroscope.models import Model, load, resolve
from neuroscope.models.memory import tokens_at_once
from neuroscope.models.passes import telling
from neuroscope.models.sites import needs_whole_passes
from neuroscope.tasks.tokens import tokenizer_of

AUTO = "auto"  # batches by tokens
STYLES = ("causal", "seq2seq")
# of HFLM's arguments, those that have a meaning for a model that is opened already
OPTIONS: tuple[str, ...] = (
    "truncation",
    "logits_cache",
    "max_length",
    "softmax_dtype",
    "mixed_precision_dtype",
    "add_bos_token",
)
OPTIONS += ("prefix_token_id", "think_end_token", "enable_thinking", "chat_template_args")


def lm_class(asked: str) -> Any:
    """The class `NeuroscopeLM`, which stands in lm_eval's table of models as "neuroscope" from the first call on.

    Raises:
        NeuroscopeError: lm_eval is not installed.
    """
    require(asked)
    return _lm_class()


@functools.cache
def _lm_class() -> Any:
    from lm_eval.api.registry import register_model  # an extra, and heavy
    from lm_eval.models.huggingface import HFLM

    @register_model("neuroscope")
    class NeuroscopeLM(HFLM):  # type: ignore[misc]
        """lm_eval's HFLM on a model that `ns.load` opens, with a mask's neurons off while it runs.

        What HFLM would change of a model is not changed: its tokenizer is a copy, its weights are not tied anew, and
        modes are restored after each run.

        Args:
            pretrained: what `ns.load` opens.
            mask: the file of a mask, or a mask; None for the model as it is.
            value: what its neurons become, as of `ns.ablate`, but for "corrupt".
            at, when: at which tokens, and in which range of activations, as of `ns.ablate`; an answer is what is
                scored or generated after a request's context.
            control: the seed of a random mask of the same size in each layer, which takes the mask's place.
            batch_size: rows at a time, or "auto": as many as the model runs best.
            max_batch_size: at most so many of "auto".
            device: as of `ns.load`; "cuda" where there is none is the processor.
            dtype, revision, tokenizer, device_map: as of `ns.load`.
            options: of HFLM, those in `OPTIONS`.
        """

        def __init__(
            self,
            pretrained: Any,
            *,
            mask: Any = None,
            value: Value | float = "zero",
            at: At | None = None,
            when: Range | None = None,
            control: int | None = None,
            batch_size: int | str = 1,
            max_batch_size: int | None = None,
            device: Any = None,
            dtype: Any = AUTO,
            revision: str | None = None,
            tokenizer: Any = None,
            device_map: Any = None,
            **options: Any,
        ) -> None:
            unknown = [name for name in options if name not in OPTIONS]
            if unknown:
                known = [
                    "pretrained",
                    "mask",
                    "value",
                    "at",
                    "when",
                    "control",
                    "device",
                    "dtype",
                    "revision",
                    "tokenizer",
                ]
                do = suggest(unknown[0], [*known, "device_map", *OPTIONS])
                raise ArgumentError(f"the model 'neuroscope' with {unknown[0]}=...", "no such argument", do)
            if str(device).startswith("cuda") and not torch.cuda.is_available():
                device = None  # what the harness' command asks for by itself, and does without as well
            opened = {"device": device, "revision": revision, "tokenizer": tokenizer, "device_map": device_map}
            self.opened = load(pretrained, dtype=dtype, **opened)
            self.neurons = _mask_of(mask, control)
            self.off: Any = contextlib.nullcontext()
            named = next((name for name, where in (("at", at), ("when", when)) if where is not None), None)
            if self.neurons is None and named is not None:
                do = f"give the mask whose neurons are ablated there, or leave out {named}"
                raise ArgumentError(f"the model 'neuroscope' with {named}=...", "no mask", do)
            if self.neurons is not None:
                refuse_corrupt(value, "the model 'neuroscope'")
                self.off = ablate(self.opened, self.neurons, value=value, at=at, when=when)
            root, words = _root_and_tokenizer(self.opened)
            self.is_made = False
            super().__init__(
                pretrained=root, backend=self.opened.style, tokenizer=words, batch_size=batch_size,
                max_batch_size=max_batch_size, **options,
            )  # fmt: skip
            self.is_made = True

        @property
        def model(self) -> Any:
            """The torch model; nothing while HFLM is made, which would set its mode and tie its weights."""
            return self._model if self.is_made else None

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> Any:
            """As HFLM does; under an edit at some tokens, those together whose contexts end at the same place.

            They have rows of one length, without padding, and are told where the context ends.
            """
            with self.opened.quiet(), self.off:
                if not needs_whole_passes(self.opened.root) or self.opened.style != "causal":
                    return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
                found: dict[int, Any] = {}
                for (length, first), places in _by_boundary(requests, self.max_length).items():
                    at = torch.zeros(1, length, dtype=torch.bool).index_fill(1, torch.tensor([first]), True)
                    with telling(None, at):
                        same = super()._loglikelihood_tokens([requests[i] for i in places], disable_tqdm, override_bs)
                    found |= dict(zip(places, same, strict=True))
                return [found[i] for i in range(len(requests))]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            """Texts that greedy decoding, or what the task asks for, gives after each request's."""
            asked: Any = self.batch_size_per_gpu  # type: ignore[has-type]
            if asked == AUTO:
                new = max(request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests)
                self.batch_size_per_gpu = self._rows(new + max(len(self.tok_encode(r.args[0])) for r in requests))
            try:
                with self.opened.quiet(), self.off:
                    return super().generate_until(requests, disable_tqdm=disable_tqdm)
            finally:
                self.batch_size_per_gpu = asked

        def _batch_scheduler(self, pos: int, requests: Sequence[Any]) -> int:
            return self._detect_batch_size(requests, pos)

        def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
            """Rows at a time under "auto", where HFLM would try: requests come longest first."""
            if not requests:
                return self._rows(self.max_length)
            _, context, continuation = requests[pos]
            return self._rows(len(context) + len(continuation))

        def _rows(self, length: int) -> int:
            rows = max(1, tokens_at_once(self.opened) // min(max(1, length), self.max_length))
            return min(rows, self.max_batch_size or rows)

    return NeuroscopeLM


def _by_boundary(requests: Sequence[Any], most: int) -> dict[tuple[int, int], list[int]]:
    """Places of requests by the length of their rows, and where in it the first token is predicted."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, (_, context, answer) in enumerate(requests):
        length = min(len(context) + len(answer) - 1, most)  # HFLM cuts what is too long from the left
        found.setdefault((length, max(0, length - len(answer))), []).append(i)
    return found


def refuse_corrupt(value: Any, asked: str) -> None:
    """Refuse values of corrupt prompts, which the harness' documents do not have.

    Raises:
        ArgumentError: they are asked for.
    """
    if isinstance(value, str) and value == "corrupt":
        do = "give 'zero', 'mean', 'resample' or a number; or judge a Task of pairs: ns.faithfulness, ns.evaluate"
        found = "documents of lm-evaluation-harness, which have no corrupt prompts"
        raise ArgumentError(f"{asked} with value='corrupt'", found, do)


def lm_of(model: Model, batch_size: int | None, asked: str) -> Any:
    """An opened model as lm_eval takes models; without a `batch_size`, batches are cut by tokens."""
    with aside():  # it warns of models that are open already
        return lm_class(asked)(model, batch_size=AUTO if batch_size is None else batch_size)


@public
def harness_model(
    model: Any,
    mask: NeuronMask | None = None,
    *,
    value: Value | float = "zero",
    at: At | None = None,
    when: Range | None = None,
    batch_size: int | None = None,
) -> Any:
    """A model as lm-evaluation-harness takes models: for `lm_eval.simple_evaluate(model=..., tasks=[...])`.

    Args:
        model: anything that can be opened, if it is a model of transformers (or such a model traced by nnsight).
        mask: neurons that are off whenever lm_eval runs the model. Interventions that are live act as well.
        value: what they become, as of `ns.ablate`, but for "corrupt"; "mean" is that of the examples the mask was found
            on.
        at, when: at which tokens, and in which range of activations, as of `ns.ablate`; a request's context is the
            prompt, and the answer what is scored after it.
        batch_size: rows at a time; None: as many as the model runs best.

    Returns:
        An `lm_eval.api.model.LM`. From now on lm_eval also knows the name "neuroscope".

    Raises:
        NeuroscopeError: lm_eval is not installed.
        ModelError: no model of transformers, a masked language model, or one without a tokenizer.
        MaskError: the mask is of another model.

    Example:
        >>> lm = harness_model(model, mask)  # doctest: +SKIP
        >>> lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"])["results"]  # doctest: +SKIP
    """
    opened = resolve(model)
    mask = None if mask is None else mask_for(opened, mask, "harness_model(mask)")
    with aside():
        made = lm_class("harness_model")
        size = AUTO if batch_size is None else batch_size
        return made(opened, mask=mask, value=value, at=at, when=when, batch_size=size)


def _mask_of(mask: Any, control: Any) -> NeuronMask | None:
    """The mask of a file, or the random one in its place."""
    if mask is None:
        if control is not None:
            do = "give the mask that the random one is to be like"
            raise ArgumentError(f"the model 'neuroscope' with control={control!r}", "no mask", do)
        return None
    if isinstance(mask, str | PathLike):
        mask = NeuronMask.load(files.path_of(mask, "the mask of the model 'neuroscope'"))
    check_mask(mask, "the mask of the model 'neuroscope'")
    return mask if control is None else mask.random_like(seed=seed_of(control, "control"), match="layer")


def _root_and_tokenizer(model: Model) -> tuple[nn.Module, Any]:
    """The torch model that HFLM runs, and a tokenizer of its own.

    Raises:
        ModelError: what HFLM cannot run.
    """
    from transformers import PreTrainedModel  # heavy: only where a model is run

    asked = f"run lm-evaluation-harness on {model.name}"
    if not isinstance(model.base, PreTrainedModel):
        found, do = f"a {type(model.base).__name__}", "open the model of transformers itself"
        raise ModelError(asked, f"{found}, and it runs models of transformers", do)
    if model.style not in STYLES:
        raise ModelError(asked, f"a {model.style} language model", "give a causal one, or an encoder with a decoder")
    return model.root, copy.deepcopy(tokenizer_of(model))
