"""Weight x gradient: |sum over a neuron's parameters of w dL/dw|, example by example."""

from __future__ import annotations

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from neuroscope.attribution.scoring import Scoring
from neuroscope.distributed import has_shards
from neuroscope.errors import ModelError
from neuroscope.models import require_parameters
from neuroscope.models.sites import Rows, Site
from neuroscope.tasks.encoding import Batch


def weight_x_grad(scoring: Scoring) -> dict[str, Tensor]:
    """The first-order effect of scaling all of a neuron's weights (its rows and its column, biases included).

    Gradients of parameters are sums over a batch, so each example goes through the model alone.
    """
    require_parameters(scoring.model, "weight-x-grad")
    if has_shards(scoring.model.root):
        do = "use another method, or a model that is not sharded"
        raise ModelError("weight-x-grad", "parameters that are sharded over processes", do)
    bare = [a for a, s in scoring.sites.items() if not _rows(s)]
    if bare:
        do = "open the model in float32 or bfloat16, not quantised, or use another method or unit"
        raise ModelError("weight-x-grad", f"no parameters that belong to the neurons of {bare[0]} alone", do)
    params = {id(r.param): r.param for site in scoring.sites.values() for r in _rows(site)}
    total = {a: torch.zeros(s.width) for a, s in scoring.sites.items()}
    gradients_before = {key: p.grad for key, p in params.items()}
    try:
        for parameter in params.values():
            parameter.grad = None
            parameter.requires_grad_(True)
        for batch in scoring.watch(_singly(scoring)):
            gradients = torch.autograd.grad(scoring.losses(batch).sum(), list(params.values()), allow_unused=True)
            by_param = dict(zip(params, gradients, strict=True))
            for address, site in scoring.sites.items():
                change = sum(
                    (_per_neuron(r, by_param[id(r.param)], site) for r in _rows(site)), torch.zeros(site.width)
                )
                total[address] += -change if scoring.request.reduction == "signed" else change.abs()
    finally:
        for key, parameter in params.items():
            parameter.requires_grad_(False)
            parameter.grad = gradients_before[key]
    return total


def _rows(site: Site) -> list[Rows]:
    """All slices of parameters that hold the site's neurons."""
    return [*site.out, *(r for rows in site.ins.values() for r in rows)]


def _per_neuron(rows: Rows, gradient: Tensor | None, site: Site) -> Float[Tensor, " neuron"]:
    """The sum of weight times gradient over each neuron's entries of one parameter."""
    if gradient is None:  # an expert that no token was routed to
        return torch.zeros(site.width)
    product = (rows.view() * rows.view(gradient)).detach()
    return site.per_unit(reduce(product, "... coordinate -> coordinate", "sum")).float().cpu()


def _singly(scoring: Scoring) -> list[Batch]:
    """The examples as batches of one."""
    singles = []
    for batch in scoring.batches:
        for i in range(len(batch.index)):
            inputs = {k: v[i : i + 1] for k, v in batch.inputs.items()}
            singles.append(Batch(inputs, batch.targets[i : i + 1], batch.real[i : i + 1], batch.index[i : i + 1]))
    return singles
