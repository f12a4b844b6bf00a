"""Attribution patching: what it does to put one run's activation into the other, to first order.

With M the objective and one clean and one corrupt prompt of as many tokens:

- noising: (a_corrupt - a_clean) dM/da at the clean prompt, what the corrupt activation does to the clean run;
- denoising: (a_clean - a_corrupt) dM/da at the corrupt prompt, what the clean activation does to the corrupt run
  (Nanda 2023; Kramár et al. 2024, arXiv 2403.00745).

1. Both prompts go through the model as one batch, first those of the run that is patched: nothing is cached.
2. A hook on each site's vector holds a_clean - a_corrupt until the backward pass brings the gradient of the first half.
3. With several steps (EAP-IG, Hanna et al. 2024, arXiv 2403.17806) the gradient is the mean of those at
   z = z_source + k/steps (z_patched - z_source), k = 1 ... steps, z being the prompts' token embeddings. The last of
   them is the patched run itself, so that one step is attribution patching.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuroscope.attribution.gradients import backward, handed_on
from neuroscope.attribution.scoring import Scoring
from neuroscope.checks import whole
from neuroscope.errors import choose
from neuroscope.models import Model
from neuroscope.models.sites import Edit, Site, edit
from neuroscope.tasks.encoding import Batch

Direction = Literal["noising", "denoising"]  # as in `patch_sweep`


def direction_of(direction: object) -> str:
    """A direction of patching that there is."""
    return choose(direction, ("noising", "denoising"), "direction")


def steps_of(steps: Any) -> int:
    """A number of steps of a path."""
    return whole(steps, "steps", 1, "give steps=8 or more")


def attribution_patching(scoring: Scoring, direction: Direction = "noising", steps: int = 1) -> None:
    """(a_clean - a_corrupt) dM/da; signed it is minus that: positive where the clean activation helps the answer.

    So signed scores are, to first order, how much the objective rises by noising, and how much it falls by denoising.

    Args:
        direction: "noising" takes the gradient at the clean prompt, "denoising" at the corrupt one.
        steps: gradients on the way there from the other prompt, in the embeddings of tokens; 1: only at the end.
    """
    for batch in scoring:
        assert batch.corrupt is not None  # encode(corrupt=True) gave it or refused
        patched, source = batch.inputs, batch.corrupt
        if direction == "denoising":
            patched, source = source, patched
        inputs = {k: torch.cat([v, source[k]]) for k, v in patched.items()}
        differences: dict[str, Tensor] = {}  # a_clean - a_corrupt by address, kept where the path has more steps
        products: dict[str, Tensor] = {}
        for step in range(steps, 0, -1):  # the end of the path first: there activations are the runs' own
            on_site = _one_step(scoring, batch, direction, differences, products, steps)
            moved = _on_the_way(scoring.model, len(batch.index), step / steps)
            with moved, edit(scoring.sites.values(), on_site):
                backward(scoring.losses(batch, inputs).sum())
        for address, product in products.items():
            scoring.sums.add(scoring.sites[address], scoring.reduce(scoring.sites[address], product, None, batch))


def _one_step(
    scoring: Scoring,
    batch: Batch,
    direction: Direction,
    differences: dict[str, Tensor],
    products: dict[str, Tensor],
    steps: int,
) -> Edit:
    """The hook of step 2; of several steps it adds to `products`, of one to the sums."""
    n, inner = len(batch.index), batch.real.numel()
    sign = 1 if direction == "noising" else -1

    def on_site(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        h = h if h.requires_grad else h.detach().requires_grad_()
        a = h.detach()
        first: Any = slice(n)
        second: Any = slice(n, None)
        where = None
        if h.ndim == 2:  # rows of tokens, of an expert only some
            index = torch.arange(len(h), device=h.device) if tokens is None else tokens
            first, second = index < inner, index >= inner
            where = index[first]
        at_end = site.address not in differences
        if at_end:
            clean = first if sign > 0 else second
            clean_tokens = None if where is None else index[clean] % inner
            scoring.observe(site, a[clean], clean_tokens, batch)
        if steps == 1:
            left = [sign * (a[first] - (a[second] if where is None else _of_partners(a, index, inner)[first]))]

            def on_gradient(g: Tensor) -> None:
                scoring.sums.add(site, scoring.reduce(site, left.pop() * g[first], where, batch))
        else:
            if at_end:
                dense = a if where is None else a.new_zeros(2 * inner, a.shape[-1]).index_copy(0, index, a)
                differences[site.address] = sign * (dense[: len(dense) // 2] - dense[len(dense) // 2 :])

            def on_gradient(g: Tensor) -> None:
                difference = differences[site.address]
                product = (difference if where is None else difference[where]) * g[first] / steps
                if where is not None:
                    product = torch.zeros_like(difference).index_copy(0, where, product)
                known = products.get(site.address)
                products[site.address] = product if known is None else known.add_(product)

        h.register_hook(on_gradient)
        return handed_on(site, h)

    return on_site


def _of_partners(h: Float[Tensor, "row coordinate"], index: Tensor, half: int) -> Float[Tensor, "row coordinate"]:
    """For each row of flattened tokens, that of its partner in the other half; zero where that skipped this expert."""
    dense = h.new_zeros(3 * half, h.shape[-1]).index_copy(0, index, h)
    return dense[index + half]


@contextlib.contextmanager
def _on_the_way(model: Model, n: int, share: float) -> Iterator[None]:
    """In the scope, the first `n` rows' embeddings are moved to this share of the way from their partners to them."""

    def move(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.cat([output[n:] + share * (output[:n] - output[n:]), output[n:]])

    table = model.embedding.weight  # an encoder and a decoder may have a module each for one table
    handles = []
    try:
        for module in model.root.modules() if share < 1 else ():
            if isinstance(module, nn.Embedding) and module.weight is table:
                handles.append(module.register_forward_hook(move))
        yield
    finally:
        for handle in handles:
            handle.remove()
