"""Scores from backward passes: activation x gradient (LX24 Eq. 9), integrated gradients.

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
from torch import Tensor

from neuroscope.attribution.scoring import Scoring
from neuroscope.models.sites import Edit, Site, edit
from neuroscope.tasks.encoding import Batch


def _stream(scoring: Scoring, batch: Batch) -> Edit:
    """The hook of step 2."""

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        h = h if h.requires_grad else h.detach().requires_grad_()
        scoring.observe(site, h, tokens, batch)
        # The hook must not refer to `h`, which refers to the hook: that circle would live until garbage is collected.
        left = [_again(h)]

        def on_gradient(g: Tensor) -> None:
            scoring.sums.add(site, scoring.reduce(site, left.pop()() * g, tokens, batch))

        h.register_hook(on_gradient)
        return handed_on(site, h)

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
            backward(scoring.score(logits, batch).sum())


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


def integrated_gradients(scoring: Scoring, steps: int = 8) -> None:
    """Layer integrated gradients from zero: a times the mean of dL/da along the straight path from 0 to a.

    The path is that of the site's own vector, all else following from it (Sundararajan et al. 2017, arXiv 1703.01365,
    with the site as the input). It is not conductance, whose path is in the model's input; see
    `attribution_patching(steps=...)` for such a path.

    By site, the signed values sum to what ablating the whole site does to the loss (completeness), up to the midpoint
    rule's error; not for an expert below another mixture, whose routing switches on the way. Costs `steps` backward
    passes per site.
    """
    for batch in scoring:
        with torch.no_grad():
            scoring.losses(batch)  # of the model as it is, before a path begins
        for site in scoring.sites.values():
            _one_path(scoring, batch, site, steps)


def _one_path(scoring: Scoring, batch: Batch, site: Site, steps: int) -> None:
    """Add one site's integrated gradients to the sums."""
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
            return handed_on(site, scaled)

        with edit([site], shrink):
            backward(scoring.losses(batch).sum())
    if total:  # an expert that no token was routed to has no path
        activation, tokens = start[0]
        scoring.sums.add(site, scoring.reduce(site, activation * total[0] / steps, tokens, batch))


def handed_on(site: Site, h: Tensor) -> Tensor:
    """What the model goes on with: a copy of an output, because some models write into it (Falcon's residual)."""
    return h.clone() if site.side == "output" else h


def backward(loss: Tensor) -> None:
    """The backward pass, if there is anything to go back to."""
    if loss.requires_grad:  # not if no token reached any of the sites
        loss.backward()
