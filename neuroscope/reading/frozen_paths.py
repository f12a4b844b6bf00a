"""What a neuron writes into the logits by itself: the straight way from it to the unembedding, at typical inputs.

1. The model reads texts. At the neuron's site its vector becomes the start of the graph; what later FFNs and all
   attention write is taken as it is, constant. Only the residual stream is left, with the norms that it passes.
2. The scale of these norms is frozen at what it is for each token: they divide by a constant (relp's rule of
   normalisation). Each norm's mean is still taken off, and its weights multiply.
3. The derivative of the head's input by one unit of activation, the mean over tokens, goes through the head without its
   bias. Tokens' logits are told from their mean, as a softmax tells them.

With a norm alone at the end this is `W_U diag(gamma) (w_out - mean(w_out)) E[1 / scale]` (logit lens of a direction). A
norm behind the FFN (Gemma 2), one after every sum (BERT), weights of a router (experts), and a non-linearity before the
head (BERT), which is taken as straight at each token, are on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuroscope.attribution.relp import relevance_rules
from neuroscope.errors import ModelError, NumericalError
from neuroscope.models import Model
from neuroscope.models.sites import Site, edit
from neuroscope.reading.passes import one_position
from neuroscope.tasks.encoding import Batch, Encoded, batches_for

TOKENS = 256  # that the norms' scales are taken at


def typical(rows: Sequence[Encoded]) -> list[Encoded]:
    """Some of the rows, evenly over all, with about `TOKENS` tokens together."""
    sizes = [len(row.decoder) or len(row.inputs) for row in rows]
    keep = max(1, min(len(rows), round(TOKENS * len(rows) / max(1, sum(sizes)))))
    return [rows[i * len(rows) // keep] for i in range(keep)]


def head_of(model: Model) -> nn.Module:
    """The unembedding.

    Raises:
        ModelError: a module of one's own that does not say which it is.
    """
    find = getattr(model.base, "get_output_embeddings", None)
    head = None if find is None else find()
    if not isinstance(head, nn.Module):
        do = "give it a method get_output_embeddings() that returns the module of its output head"
        raise ModelError(f"what neurons of {model.name} write", "no module that is known as its head", do)
    return head


def written(
    model: Model, site: Site, directions: Float[Tensor, "direction coordinate"], rows: Sequence[Encoded]
) -> Float[Tensor, "direction vocabulary"]:
    """Logits per unit of activation along directions of a site's vector, less their mean over tokens.

    NaN where the way to the head leads through attention (of an encoder's neurons to a decoder's head), or no token of
    the rows is seen by the site (of an expert).
    """
    head: Any = head_of(model)
    total = torch.zeros(len(directions), 0)
    seen = 0
    with torch.inference_mode(False), torch.enable_grad(), model.quiet():
        for batch in batches_for(model, rows):
            found, tokens = _at_the_head(model, site, directions, batch, head)
            if tokens:
                total = found if not seen else total + found
                seen += tokens
    with torch.no_grad():
        if not seen:
            return torch.full((len(directions), len(model.embedding.weight)), torch.nan)
        mean = (total / seen).to(next(model.root.parameters()).dtype)
        logits = (head.forward(mean) - head.forward(torch.zeros_like(mean[:1]))).float().cpu()
        if not torch.isfinite(logits).all():
            do = "open the model in float32 or bfloat16 (not float16)"
            raise NumericalError(f"what neurons at {site.address} write", "logits that are not finite", do)
        return logits - logits.mean(-1, keepdim=True)


def _at_the_head(
    model: Model, site: Site, directions: Tensor, batch: Batch, head: nn.Module
) -> tuple[Float[Tensor, "direction model"], int]:
    """Sums over a batch's tokens of the derivative of the head's input, and how many tokens the site sees."""
    start: list[Tensor] = []
    given: list[Tensor] = []

    def begin(at: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        start[:] = [h.detach().clone().requires_grad_()]
        places[:] = [tokens]
        return start[0]

    places: list[Tensor | None] = []
    handle = head.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        with relevance_rules(model.root, ["normalisation"]), _only_the_stream(model, site), edit([site], begin):
            model.logits(batch.inputs, one_position(batch), answers=False)
    finally:
        handle.remove()
    if not given:
        found = "a head that is not called as a module"
        raise ModelError(f"what neurons of {model.name} write", found, "have its forward call its output head")
    if not start or not given[0].requires_grad:
        return torch.zeros(len(directions), 0), 0
    is_decoder = "decoder_attention_mask" in batch.inputs
    real = batch.inputs["decoder_attention_mask"].bool() if is_decoder else batch.real
    first = (real.cumsum(1) == 1) & real
    usual = real & ~first if bool((real & ~first).any()) else real  # first tokens are unlike all others
    x = given[0]
    u = torch.zeros_like(x, requires_grad=True)
    (back,) = torch.autograd.grad(x, start[0], u, create_graph=True, materialize_grads=True)
    if not back.requires_grad:
        return torch.zeros(len(directions), 0), 0
    moved = []
    for direction in directions.to(back):
        (forth,) = torch.autograd.grad((back @ direction).sum(), u, retain_graph=True)
        moved.append(forth[usual.to(forth.device)].float().sum(0).cpu())
    flat = usual.flatten()
    tokens = flat if places[0] is None else flat[places[0].to(flat.device)]
    return torch.stack(moved), int(tokens.sum())


@contextlib.contextmanager
def _only_the_stream(model: Model, site: Site) -> Iterator[None]:
    """A scope in which what attention and the other blocks' FFNs write is constant."""
    block = _block(site)
    attention = [s for s in model.sites("head").values() if s.address != site.address]
    ffns = [s for s in model.sites("output").values() if s.address != site.address]
    if site.unit == "hidden":  # whose own FFN's output is on its way
        ffns = [s for s in ffns if _block(s) != block]
    with edit([*attention, *ffns], lambda at, h, tokens: h.detach()):
        yield


def _block(site: Site) -> list[str]:
    return site.address.split(".")[:2]
