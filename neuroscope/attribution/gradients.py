"""Scores from one backward pass: activation x gradient (LX24 Eq. 9), attribution patching, integrated gradients.

1. Parameters are frozen, and the first site starts the graph: below it nothing is kept or computed backward.
2. A hook on each site's vector holds `a` until the backward pass brings `g = dL/da`, and adds `a * g`, reduced over
   tokens and examples, to the site's running sum.
3. Examples do not interact, so the gradient of the batch's summed loss is each example's own gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.attribution.scoring import Scoring
from neuroscope.checks import whole
from neuroscope.models.sites import Edit, Site, edit
from neuroscope.tasks.encoding import Batch

Times = Callable[[Site, Tensor, "Tensor | None"], Tensor]


def _stream(scoring: Scoring, batch: Batch, factor: Times | None = None) -> Edit:
    """The hook of step 2, with `factor` in the place of the activation if given."""

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        h = h if h.requires_grad else h.detach().requires_grad_()
        scoring.observe(site, h[: len(batch.index)] if h.ndim == 3 else h, tokens, batch)
        # The hook must not refer to `h`, which refers to the hook: that circle would live until garbage is collected.
        left = [_again(h) if factor is None else _same(factor(site, h.detach(), tokens))]
        rows = slice(None) if h.ndim == 2 else slice(len(batch.index))

        def on_gradient(g: Tensor) -> None:
            scoring.sums.add(site, scoring.reduce(site, left.pop()()[rows] * g[rows], tokens, batch))

        h.register_hook(on_gradient)
        return _handed_on(site, h)

    return on_site


def grad_x_act(scoring: Scoring) -> None:
    """|dL/da * a| (LX24 Eq. 3, 9): the first-order effect of setting a neuron to zero."""
    stream_products(scoring, contextlib.nullcontext)


def stream_products(scoring: Scoring, forward: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Add `a * g` to the sums, one forward and one backward pass for each batch.

    Args:
        forward: the scope of the forward pass; RelP puts its own rules there.
    """
    for batch in scoring:
        with edit(scoring.sites.values(), _stream(scoring, batch)):
            with forward():
                logits = scoring.model.logits(batch.inputs, at=batch.scored)
            _backward(scoring.score(logits, batch).sum())


def attribution_patching(scoring: Scoring) -> None:
    """(a_clean - a_corrupt) dL/da_clean: the first-order effect of patching in the corrupt prompt's activation.

    Both prompts go through the model as one batch, so that nothing is cached.
    """
    for batch in scoring:
        assert batch.corrupt is not None  # encode(corrupt=True) gave it or refused
        inputs = {k: torch.cat([v, batch.corrupt[k]]) for k, v in batch.inputs.items()}

        def difference(site: Site, h: Tensor, tokens: Tensor | None, batch: Batch = batch) -> Tensor:
            n = len(batch.index)
            if h.ndim == 3:
                return h[:n] - h[n:]
            return h - _at_partner(h, tokens, batch.real.numel())

        with edit(scoring.sites.values(), _stream_pairs(scoring, batch, difference)):
            _backward(scoring.losses(batch, inputs).sum())


def _same(value: Tensor) -> Callable[[], Tensor]:
    return lambda: value


def _again(h: Tensor) -> Callable[[], Tensor]:
    """How to have `a` again in the backward pass.

    Autograd does not keep the product of a gated FFN, but its two factors: they are multiplied again.
    """
    product: Any = h.grad_fn
    if product is not None and type(product).__name__ == "MulBackward0":
        saved = [getattr(product, name, None) for name in ("_saved_self", "_saved_other")]
        if all(torch.is_tensor(s) and s.shape == h.shape and s.dtype == h.dtype for s in saved):
            del saved
            return lambda: product._saved_self * product._saved_other
    return _same(h.detach())


def _stream_pairs(scoring: Scoring, batch: Batch, factor: Times) -> Edit:
    """`_stream` over a batch of clean prompts followed by their corrupt ones: only the clean half is counted."""
    inner = batch.real.numel()

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
        if h.ndim == 3:
            return _stream(scoring, batch, factor)(site, h, tokens)
        h = h if h.requires_grad else h.detach().requires_grad_()
        index = torch.arange(len(h), device=h.device) if tokens is None else tokens
        clean = index < inner
        scoring.observe(site, h[clean], index[clean], batch)
        left = [factor(site, h.detach(), tokens)[clean]]

        def on_gradient(g: Tensor) -> None:
            scoring.sums.add(site, scoring.reduce(site, left.pop() * g[clean], index[clean], batch))

        h.register_hook(on_gradient)
        return _handed_on(site, h)

    return on_site


def _at_partner(
    h: Float[Tensor, "row coordinate"], tokens: Tensor | None, half: int
) -> Float[Tensor, "row coordinate"]:
    """For each row of flattened tokens, the row of its corrupt partner; zero where the partner skipped this expert."""
    index = torch.arange(len(h), device=h.device) if tokens is None else tokens
    dense = h.new_zeros(3 * half, h.shape[-1]).index_copy(0, index, h)
    return dense[index + half]


def integrated_gradients(scoring: Scoring, steps: int = 8) -> None:
    """Conductance of each site from zero: a times the mean of dL/da along the straight path from 0 to a.

    By site, the signed values sum to what ablating the whole site does to the loss (completeness), up to the midpoint
    rule's error; not for an expert below another mixture, whose routing switches on the way. Costs `steps` backward
    passes per site.
    """
    steps = whole(steps, "steps", 1, "give steps=8 or more")
    for batch in scoring:
        with torch.no_grad():
            scoring.losses(batch)  # of the model as it is, before a path begins
        for site in scoring.sites.values():
            _one_path(scoring, batch, site, steps)


def _one_path(scoring: Scoring, batch: Batch, site: Site, steps: int) -> None:
    """Add one site's conductance to the sums."""
    total: list[Tensor] = []
    start: list[tuple[Tensor, Tensor | None]] = []
    for step in range(steps):
        alpha = (step + 0.5) / steps

        def shrink(site: Site, h: Tensor, tokens: Tensor | None, alpha: float = alpha) -> Tensor:
            if not start:
                scoring.observe(site, h, tokens, batch)
                start.append((h.detach(), tokens))
            scaled = (alpha * h.detach()).requires_grad_()
            scaled.register_hook(lambda g: total.append(g) if not total else total.__setitem__(0, total[0] + g))
            return _handed_on(site, scaled)

        with edit([site], shrink):
            _backward(scoring.losses(batch).sum())
    if total:  # an expert that no token was routed to has no path
        activation, tokens = start[0]
        scoring.sums.add(site, scoring.reduce(site, activation * total[0] / steps, tokens, batch))


def _handed_on(site: Site, h: Tensor) -> Tensor:
    """What the model goes on with: a copy of an output, because some models write into it (Falcon's residual)."""
    return h.clone() if site.side == "output" else h


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:  # not if no token reached any of the sites
        loss.backward()
