"""Exact ablation, one neuron at a time: |L(a_j = 0) - L| (LX24 Eq. 2), the ground truth the other scores are judged by.

1. A clean pass records, for each site, the output of every module that ends before the site (of nested ones the
   outermost), and the site's own vector: all the work below the neuron, which does not depend on it.
2. Many neurons go through the model as one large batch, each copy with its own neuron at zero. Recorded modules return
   what was recorded, and the module around the site goes to the site's module at once; only what is above is computed.
3. In the last block only the answer's tokens matter above attention, so its FFN is run on these alone.

A replay without any neuron off must reproduce the clean loss. Where it does not, step 3 is left out (an FFN that mixes
tokens), then steps 1 and 2: whole passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroscope.attribution.scoring import Scoring
from neuroscope.checks import whole
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.masks import NeuronMask, is_one_mask, mask_for
from neuroscope.models.encoder import over_tensors
from neuroscope.models.sites import Site, edit, needs_whole_passes
from neuroscope.tasks.encoding import UNSCORED, Batch

ROWS = 4096  # tokens in one large batch: enough to keep the processor busy, little enough to stay in its cache
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Plan:
    """What a replay need not compute.

    Attributes:
        outputs: recorded outputs by module, in the order of its calls.
        carrier: the outermost module around the site's module that returns its output as it is; None to run all.
        inputs: the arguments of the site's module.
        result: the carrier's output, and
        part: in it, the output of the site's module.
        ffn: the last block's FFN, to be run on the answers' tokens only; None to run it on all.
    """

    outputs: dict[nn.Module, list[Any]] = field(default_factory=dict)
    carrier: nn.Module | None = None
    inputs: tuple = ()
    result: Any = None
    part: Any = None
    ffn: nn.Module | None = None


def exact(scoring: Scoring, neurons: Any = None) -> dict[str, Tensor]:
    """The change of the loss when one neuron is set to zero.

    Args:
        neurons: which to measure: a mask, a number of neurons drawn at random, or None for all.

    Returns:
        Relevance by address, NaN for neurons that were not chosen.
    """
    chosen = _chosen(scoring, neurons)
    total = {a: torch.full((s.width,), torch.nan) for a, s in scoring.sites.items()}
    for address, indices in chosen.items():
        total[address][indices] = 0.0

    def add(site: Site, part: Int[Tensor, " n"], batch: Batch, change: Float[Tensor, "n example"]) -> None:
        per_neuron = change if scoring.request.reduction == "signed" else change.abs()
        total[site.address][part] += per_neuron.sum(1).cpu()

    changes(scoring, chosen, add)
    return total


def changes(
    scoring: Scoring,
    chosen: Mapping[str, Int[Tensor, " chosen"]],
    see: Callable[[Site, Tensor, Batch, Tensor], None],
) -> None:
    """Show `see` the change of each example's loss when one neuron is set to zero, [neuron, example], part by part.

    Args:
        chosen: the neurons by address.
        see: called as `see(site, neurons, batch, change)`.

    Raises:
        ModelError: a model in half precision.
    """
    dtype = next(scoring.model.root.parameters()).dtype
    if dtype.itemsize < 4:
        raise ModelError(
            f"exact ablation in {str(dtype).removeprefix('torch.')}",
            "differences of losses that are smaller than its rounding",
            "load the model with dtype=torch.float32",
        )
    work = [(b, s) for b in scoring.batches for s in scoring.sites.values() if len(chosen[s.address])]
    with torch.no_grad():
        for batch, site in scoring.watch(work):
            clean, plan = cheapest_plan(scoring, batch, site)
            size = max(1, ROWS // batch.real.numel())
            for part in chosen[site.address].split(size):
                change = _replay(scoring, batch, site, plan, part, len(part)).view(len(part), -1) - clean
                see(site, part, batch, change)


def _chosen(scoring: Scoring, neurons: Any) -> dict[str, Int[Tensor, " chosen"]]:
    """The neurons to measure, by address."""
    widths = {a: s.width for a, s in scoring.sites.items()}
    if neurons is None:
        return {a: torch.arange(width) for a, width in widths.items()}
    asked = "exact ablation of a mask's neurons"
    if is_one_mask(neurons) and not isinstance(neurons, NeuronMask):
        neurons = mask_for(scoring.model, neurons, asked, scoring.request.unit, "neurons")
    if isinstance(neurons, NeuronMask):
        neurons.fits(scoring.sites, asked)  # of the unit that is scored
        return dict(neurons)
    total, do = sum(widths.values()), "give a number, a mask, or None"
    if whole(neurons, "neurons", 1, do) > total:
        raise ArgumentError(f"neurons={neurons!r}", f"not a number from 1 to {total}", do)
    generator = torch.Generator().manual_seed(scoring.request.seed)
    flags = torch.zeros(total, dtype=torch.bool)
    flags[torch.randperm(total, generator=generator)[:neurons]] = True
    parts = flags.split(list(widths.values()))
    return {a: part.nonzero().flatten() for a, part in zip(widths, parts, strict=True)}


def cheapest_plan(scoring: Scoring, batch: Batch, site: Site) -> tuple[Float[Tensor, " example"], Plan]:
    """The clean losses, and the cheapest plan that reproduces them: the whole pass, where an edit must see that."""
    with edit([site], lambda s, h, t: scoring.observe(s, h, t, batch)):
        clean, plan = record(scoring, batch, site)
    if needs_whole_passes(scoring.model.root):
        return clean, Plan()
    for candidate in (replace(plan, ffn=last_ffn(scoring, site, plan)), plan):
        if torch.allclose(_replay(scoring, batch, site, candidate, None, 1), clean, rtol=1e-4, atol=1e-5):
            return clean, candidate
    return clean, Plan()


def record(scoring: Scoring, batch: Batch, site: Site) -> tuple[Float[Tensor, " example"], Plan]:
    """Step 1: the clean losses, and what was recorded on the way."""
    finished: list[list[tuple[nn.Module, Any]]] = [[]]  # one level per module that is running
    outputs: dict[nn.Module, list[Any]] = {}
    fields: dict[str, Any] = {}
    reached = False

    def begin(module: nn.Module, args: tuple) -> None:
        if not reached:
            finished.append([])
            if module is site.module:
                fields["inputs"] = args

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        if not reached:
            finished.pop()  # what ran inside is covered by the module itself
            finished[-1].append((module, output))
        if module is site.module:
            fields.setdefault("part", output)
        elif "part" in fields and _holds(output, fields["part"]) and site.module in set(module.modules()):
            fields.update(carrier=module, result=output)

    def stop(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        nonlocal reached
        if not reached:
            reached = True
            # inside a mixture rows are an expert's tokens, which are not tiled: it is computed again as a whole
            for level in finished if site.expert is None else finished[:-2]:
                for module, output in level:
                    outputs.setdefault(module, []).append(output)

    handles: list[Any] = []
    root = scoring.model.root
    try:
        with edit([site], stop):
            for module in root.modules():
                if module is not root and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                    # before the user's hooks, which run again in a replay
                    handles.append(module.register_forward_pre_hook(begin, prepend=True))
                    handles.append(module.register_forward_hook(end, prepend=True))
            clean = scoring.losses(batch)
    finally:
        for handle in handles:
            handle.remove()
    return clean, Plan(outputs, **fields) if reached else Plan()


def _holds(output: Any, part: Any) -> bool:
    return output is part or (isinstance(output, tuple) and any(x is part for x in output))


def last_ffn(scoring: Scoring, site: Site, plan: Plan) -> nn.Module | None:
    """The outermost module around the last block's FFN neurons that is smaller than a block, if step 3 can use it."""
    sites = list(scoring.model.units["hidden"].values())
    if not sites or any(s.expert is not None for s in sites):
        return None
    path = next(name for name, m in scoring.model.root.named_modules() if m is sites[-1].module).split(".")
    block = max((i for i, part in enumerate(path) if part.isdigit()), default=len(path) - 2)
    ffn = scoring.model.root.get_submodule(".".join(path[: block + 2]))
    parts = set(ffn.modules())
    if any(m._forward_hooks or m._forward_pre_hooks for m in parts):  # a hook may want to see all the tokens
        return None
    if site.module in parts and not (plan.carrier is ffn and site.side == "input"):
        return None  # what was recorded inside has all the tokens
    return ffn


def _replay(
    scoring: Scoring, batch: Batch, site: Site, plan: Plan, off: Int[Tensor, " n"] | None, n: int
) -> Float[Tensor, " n*example"]:
    """Losses of `n` copies of the batch, copy i with neuron `off[i]` at zero."""
    inputs = {k: v.repeat(n, 1) for k, v in batch.inputs.items()}
    one = plan.carrier is not None and site.side == "input"  # the site's module is given one copy

    def silence(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        keep = torch.ones(n, h.shape[-1], dtype=h.dtype, device=h.device)
        for i, neuron in enumerate(off if off is not None else []):
            keep[i, site.coordinates(neuron[None])] = 0
        if tokens is not None:
            return h * keep[tokens // batch.real.numel()]
        copies = h[None] if one else h.unflatten(0, (n, -1))
        return (copies * keep.view(n, *[1] * (copies.ndim - 2), -1)).flatten(0, 1)

    with _swapped(_forwards(scoring, batch, site, plan, n)), edit([site], silence):
        return scoring.losses(batch, inputs, n)


def _forwards(scoring: Scoring, batch: Batch, site: Site, plan: Plan, n: int) -> dict[nn.Module, Forward]:
    """What modules do in a replay, in the place of their own forward."""
    scored = batch.targets != UNSCORED
    rows = scored.flatten().nonzero().flatten()
    examples, tokens = len(batch.index), batch.real.numel()

    def answers(x: Any, copies: int) -> Any:
        fits = torch.is_tensor(x) and x.ndim == 3 and x.shape[:2] == (copies * examples, scored.shape[1])
        if not fits:
            return x
        return rearrange(x, "(copy example) pos model -> copy (example pos) model", copy=copies)[:, rows.to(x.device)]

    def tile(x: Tensor) -> Tensor:  # a copy also if n is 1: some models write into their vectors
        return x.repeat(n, *[1] * (x.ndim - 1)) if x.ndim and len(x) in (examples, tokens) else x.clone()

    forwards: dict[nn.Module, Forward] = {}
    for module, outputs in plan.outputs.items():
        forwards[module] = _in_turn(module, [lambda *args, y=y, **kwargs: over_tensors(y, tile) for y in outputs])
    if plan.carrier is not None:
        inputs = tuple(answers(x, 1) if plan.ffn is plan.carrier else x for x in plan.inputs)

        def carry(*args: Any, **kwargs: Any) -> Any:
            part = site.module(*inputs)
            return (
                part
                if plan.result is plan.part
                else tuple(part if x is plan.part else over_tensors(x, tile) for x in plan.result)
            )

        forwards[plan.carrier] = _in_turn(plan.carrier, [carry])
    if plan.ffn is not None:
        on_all = forwards.get(plan.ffn, plan.ffn.forward)

        def on_answers(*args: Any, **kwargs: Any) -> Any:
            out = on_all(*(answers(x, n) for x in args), **kwargs)
            if not torch.is_tensor(out) or out.shape[:2] != (n, len(rows)):
                return out
            all_tokens = out.new_zeros(n, scored.numel(), out.shape[-1]).index_copy_(1, rows.to(out.device), out)
            return all_tokens.view(n * examples, -1, out.shape[-1])

        forwards[plan.ffn] = on_answers
    return forwards


def _in_turn(module: nn.Module, answers: list[Forward]) -> Forward:
    """A forward that answers the first calls from a list, and then as the module itself."""
    left, itself = iter(answers), module.forward
    return lambda *args, **kwargs: next(left, itself)(*args, **kwargs)


@contextlib.contextmanager
def _swapped(forwards: dict[nn.Module, Forward]) -> Iterator[None]:
    """In the scope, these modules run these functions in the place of their own forward; their hooks stay."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward_before in before.items():
            if forward_before is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward_before
