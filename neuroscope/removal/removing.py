"""Take a mask's neurons out of a model: a smaller model with the logits of the ablated one (Siam et al. 2026).

1. The mask's neurons are parted into those that go and those that stay without effect (`shares`).
2. Of every parameter that holds weights of theirs, a smaller one is made (`cuts`, `head_cuts`), and the model is copied
   with these in the place of its own. Nothing of the model itself is written.
3. The copy is run on a few tokens, beside the model with the mask's neurons off: a family whose code cannot do with
   fewer is refused there.
4. The configuration says the new sizes: its own setting where all layers have as many, else `models.layouts`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuroscope.checks import public
from neuroscope.errors import MaskError, ModelError
from neuroscope.masks import NeuronMask, mask_for
from neuroscope.models import Model, load, resolve
from neuroscope.models.layouts import LAYOUT, say_sizes
from neuroscope.models.model import quiet
from neuroscope.models.running import logits_of, probe
from neuroscope.models.sites import Site, edit, unedited
from neuroscope.models.structure import SLOT
from neuroscope.removal.cuts import Cuts, cut_hidden
from neuroscope.removal.head_cuts import cut_heads, groups_of
from neuroscope.removal.pruned_model import PrunedModel
from neuroscope.removal.shares import Parting, part
from neuroscope.training.trainable import refuse_loras

CLOSE = 1e-4  # of the largest logit: how far rounding may move one
WIDTHS = ("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


@public
def prune(model: Any, mask: Any, *, pad: bool = False) -> PrunedModel:
    """Take neurons, or attention heads, out of a model: a smaller one, with the logits of the model without them.

    Args:
        model: anything that can be opened, with parameters of its own. It is left as it is; the new model is a copy.
        mask: hidden neurons or heads: a NeuronMask, such as `~scores.top(0.5)`, or written by hand (`NeuronMask.of`).
        pad: give all layers one size, that of the largest, with neurons of zero: then every program that reads Hugging
            Face folders can open what is saved. Without it each layer has the size that it needs, and where they
            differ `ns.load` opens the folder, transformers' own classes do not.

    Returns:
        A `PrunedModel`: `.root` is the plain transformers model, `.save_pretrained(folder)` saves it with its
        tokenizer, `.in_words()` says what is left, `.renumbered(mask)` takes other masks along.

    Of heads that share a key-value head (grouped queries) only whole groups go; others of the mask stay and write
    nothing. A layer all of whose neurons are in the mask keeps one, which writes nothing; a warning says so.

    Raises:
        MaskError: a mask of another model, an empty one, or one of all neurons; or one of output units.
        ModelError: neurons of experts, weights that are out of reach (a TransformerBridge, layers that nnsight has
            wrapped: open the Hugging Face model itself; quantised or shared weights, a PEFT wrapper), an adapter on
            the model, or a family whose code does not allow it.

    Example:
        >>> model = load("mini")
        >>> small = prune(model, {0: range(400), 3: range(100)})
        >>> [site.width for site in small.sites().values()], small.is_plain
        ([112, 512, 512, 412], False)
        >>> small.root.generate(torch.tensor([[1, 5]]), max_new_tokens=2, do_sample=False).shape
        torch.Size([1, 4])
    """
    model = resolve(model)
    asked = f"prune {model.name}"
    mask = mask_for(model, mask, asked)
    if mask.unit == "output":
        found = "a mask of FFN outputs, which are dimensions that all layers share"
        raise MaskError(asked, found, "give hidden neurons or heads, or switch them off: ns.ablate(model, mask)")
    if not len(mask):
        raise MaskError(asked, "no neuron in the mask", "give a mask with at least one neuron")
    refuse_loras(model, asked)
    if any(SLOT in module._modules for module in model.root.modules()):
        do = "call its detach() first; what is merged stays merged"
        raise ModelError(asked, "an adapter on the model", do)
    is_head = mask.unit == "head"
    parting = part(mask, groups_of(model, mask, asked) if is_head else {}, pad, asked)
    if is_head:
        cuts = cut_heads(model, parting.gone, parting.silent, asked)
    else:
        cuts = cut_hidden(model, parting.mask(parting.gone, mask), parting.mask(parting.silent, mask), asked)
    root = _copied(model.root, cuts)
    _check_same(model, mask, root, asked)
    kept = {a: _others(parting.gone[a], width) for a, width in mask.widths.items()}
    is_plain = _configure(model, root, cuts, {a: len(k) for a, k in kept.items()}, is_head)
    _warn(parting, mask, asked)
    return _opened(model, root, mask, kept, (sum(map(len, parting.silent.values())), _why(parting, pad)), is_plain)


def _copied(root: nn.Module, cuts: Cuts) -> Any:
    """A copy of the model with smaller parameters in the place of those that are cut; no others are copied twice."""
    memo: dict[int, Any] = dict(cuts.parameters())
    small: Any = copy.deepcopy(root, memo)
    for module in small.modules():
        if hasattr(module, "weight"):
            say_sizes(module)
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.grad = None
    for path, numbers in cuts.settings.items():
        for name, number in numbers.items():
            setattr(small.get_submodule(path), name, number)
    return small


def _others(gone: Tensor, width: int) -> Tensor:
    every = torch.arange(width)
    return every[~torch.isin(every, gone)]


def _check_same(model: Model, mask: NeuronMask, small: nn.Module, asked: str) -> None:
    """Refuse a model that does not run, or whose logits are not those of the model with the mask's neurons off."""
    sites = {a: s for a, s in model.sites(mask.unit).items() if len(mask[a])}

    def off(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor:
        return h.index_fill(-1, site.coordinates(mask[site.address]).to(h.device), 0)

    do = "switch them off where they are: ns.ablate(model, mask)"
    with unedited(), torch.no_grad(), quiet(model.root), quiet(small):
        inputs = probe(model.base, model.style)
        with edit(sites.values(), off):
            ablated = logits_of(model.root(**inputs))
        try:
            logits = logits_of(small(**inputs)).to(ablated)
        except Exception as error:  # a family's own code, given layers that it was not written for
            found = (
                f"a {type(small).__name__}, whose code does not run with fewer: {' '.join(str(error).split())[:160]}"
            )
            raise ModelError(asked, found, do) from error
    apart = float((logits - ablated).abs().max())
    if not apart <= max(CLOSE, 8 * torch.finfo(ablated.dtype).eps) * float(ablated.abs().max()):
        found = f"a {type(small).__name__} that then gives other logits than the ablated one, by {apart:.2g}"
        raise ModelError(asked, found, do)


def _configure(model: Model, small: Any, cuts: Cuts, kept: Mapping[str, int], is_head: bool) -> bool:
    """Let the configuration say the sizes; whether transformers' own classes build the model from it."""
    config = getattr(small, "config", None)
    if config is None:
        return False
    sites = model.sites("head" if is_head else "hidden")
    for changes in _ways(_text(config), sites, kept, is_head):
        tried = copy.deepcopy(config)
        if _set(tried, changes) and _builds(small, tried, cuts):
            _set(config, changes)  # which the layers hold
            return True
    setattr(config, LAYOUT, _layout(model, small, cuts))
    return False


def _text(config: Any) -> Any:
    """The part of a configuration that is about text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _set(config: Any, changes: Mapping[str, int]) -> bool:
    """Let a configuration say sizes, and nothing else of them; whether it takes them."""
    vars(config).pop(LAYOUT, None)
    try:
        for name, value in changes.items():
            setattr(_text(config), name, value)
    except Exception:  # a configuration may refuse a value in any way
        return False
    return True


def _ways(config: Any, sites: Mapping[str, Site], kept: Mapping[str, int], is_head: bool) -> Iterator[dict[str, int]]:
    """Settings that may say the new sizes, where all layers have one."""
    sizes, widths = set(kept.values()), {site.width for site in sites.values()}
    if len(sizes) > 1 or len(widths) > 1:
        return
    size, width = sizes.pop(), widths.pop()
    if is_head:
        changes = {name: size for name in HEADS if getattr(config, name, None) == width}
        shared = getattr(config, "num_key_value_heads", None)
        if isinstance(shared, int):
            changes["num_key_value_heads"] = size * shared // width
        yield changes | {"head_dim": next(iter(sites.values())).group}
    else:
        is_unset = hasattr(config, "n_inner") and config.n_inner is None  # GPT-2: four times as wide
        changes = {name: size for name in WIDTHS if getattr(config, name, None) == width}
        yield changes | ({"n_inner": size} if is_unset else {})


def _builds(small: Any, config: Any, cuts: Cuts) -> bool:
    """Whether the model's class builds, from the configuration, parameters of these shapes and modules alike."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            twin = type(small)(config)
    except Exception:  # a family's own code, given sizes that do not fit each other
        return False
    shapes = {name: p.shape for name, p in twin.named_parameters()}
    same = shapes == {name: p.shape for name, p in small.named_parameters()}
    numbers = ((path, name, n) for path, each in cuts.settings.items() for name, n in each.items())
    return same and all(getattr(twin.get_submodule(path), name) == n for path, name, n in numbers)


def _layout(model: Model, small: Any, cuts: Cuts) -> dict[str, Any]:
    """What the configuration says of layers of different sizes, with what it said before."""
    before = getattr(model.config, LAYOUT, None) or {"shapes": {}, "settings": {}}
    old = dict(model.root.named_parameters(remove_duplicate=False))
    new = dict(small.named_parameters(remove_duplicate=False))
    names = [name for name in new if new[name].shape != old[name].shape or name in before["shapes"]]
    settings = {path: {**before["settings"].get(path, {}), **numbers} for path, numbers in cuts.settings.items()}
    return {"shapes": {name: list(new[name].shape) for name in names}, "settings": before["settings"] | settings}


def _why(parting: Parting, pad: bool) -> str:
    if not any(map(len, parting.silent.values())):
        return ""
    if pad:
        return "all layers have one size"
    return "a layer keeps one" if parting.emptied else "other heads of their groups are kept"


def _warn(parting: Parting, mask: NeuronMask, asked: str) -> None:
    if parting.emptied:
        what = "group of heads" if mask.unit == "head" else "neuron"
        names = ", ".join(parting.emptied[:3]) + (", ..." if len(parting.emptied) > 3 else "")
        text = f"{asked}: the mask has all of {names}; one {what} stays there, with output weights of zero"
        warnings.warn(text, stacklevel=4)


def _opened(
    model: Model, root: Any, mask: NeuronMask, kept: Mapping[str, Tensor], silent: tuple[int, str], is_plain: bool
) -> PrunedModel:
    named = model.find.args[1] if isinstance(model.find, partial) and len(model.find.args) > 1 else None
    opened = load(root, tokenizer=model.tokenizer, sites=named)
    fields = {**vars(opened), "name": f"{model.name}, pruned"}
    known = {name: fields[name] for name in Model.__dataclass_fields__}
    before = sum(p.numel() for p in model.root.parameters())
    return PrunedModel(**known, taken=mask, kept=kept, silent=silent, is_plain=is_plain, parameters_before=before)
