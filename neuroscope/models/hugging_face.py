"""Open a Hugging Face model (plain, PEFT-wrapped, or under nnsight): its style, tokenizer and sites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from neuroscope.errors import ModelError
from neuroscope.models.discovery import Reader, discover
from neuroscope.models.experts import expert_sites, untapped
from neuroscope.models.layouts import sized
from neuroscope.models.model import Backend, Model, Problems, Style, Units, quiet
from neuroscope.models.named import HOW, named_readers
from neuroscope.models.packed import packed_names
from neuroscope.models.running import check, probe, runs
from neuroscope.models.sites import Rows, Site, Unit

# Output projections by name, for models whose graph cannot be walked (fused kernels); the last part of the path.
NAMED = re.compile(
    r"(mlp|ffn|feed_forward|DenseReluDense|layers\.\d+|h\.\d+|layer\.\d+\.output)\."
    r"(down_proj|c_proj|dense_4h_to_h|fc2|fc_out|wo|w2|lin2|dense)$"
)


def open_hugging_face(
    root: Any, tokenizer: Any = None, backend: Backend = "hugging_face", original: Any = None, named: Any = None
) -> Model:
    """Find a model's sites, and check that it can be run.

    Args:
        root: the torch model.
        tokenizer: its tokenizer (None: the one saved with it, if any).
        backend: how the model was given.
        original: the object that the user opened (None: `root`).
        named: modules by unit that the user named.
    """
    refuse_prompt_learning(root)
    base: Any = root.get_base_model() if hasattr(root, "get_base_model") else root
    style = style_of(base)
    with torch.inference_mode(False), quiet(root):
        check(root, base, style)
    find = partial(find_sites, root, named)
    with runs(f"find the neurons of a {type(base).__name__}"):
        units, problems = find()
    return Model(
        name=getattr(getattr(base, "config", None), "_name_or_path", "") or type(base).__name__,
        backend=backend,
        style=style,
        root=root,
        tokenizer=tokenizer if tokenizer is not None else find_tokenizer(base),
        original=root if original is None else original,
        units=units,
        problems=problems,
        find=find,
    )


def find_sites(root: Any, named: Any = None) -> tuple[Units, Problems]:
    """The sites of every unit by address, and the error of each unit out of reach, by one tiny forward pass."""
    base: Any = root.get_base_model() if hasattr(root, "get_base_model") else root
    with torch.inference_mode(False), quiet(root):  # discovery needs the autograd graph
        inputs = probe(base, style_of(base))
        readers = discover(root, inputs)
        by_hand = {} if named is None else named_readers(base, named, inputs)
    return sites_by_unit(root, base, readers, by_hand)


def sites_by_unit(
    root: nn.Module, base: Any, readers: list[Reader], named: Mapping[str, list[Reader]] = MappingProxyType({})
) -> tuple[dict[Unit, dict[str, Site]], dict[Unit, ModelError]]:
    """The sites of every unit by address, from the linears that read neurons; and the error of a unit out of reach."""
    separate = [r.path for r in readers if re.search(r"experts\.\d+\.", r.path)]
    readers = [r for r in readers if r.path not in separate and "vision" not in r.path]
    ffns = [r for r in readers if not r.heads]
    walked = {address(r.path, base, "") for r in ffns}
    ffns += [r for r in _by_name(root) if address(r.path, base, "") not in walked]
    experts, mixtures, closed = expert_sites(root), _mixture_outputs(root, base), untapped(root)
    if "hidden" in named:  # as discovery knows them where it does
        known = {r.path.removeprefix("base_model.model."): r for r in ffns}
        ffns = [replace(known.get(r.path, r), layer=r.layer) if r.side == "input" else r for r in named["hidden"]]
        experts, mixtures, closed, separate = [], [], [], []
    outputs = [_output(r, base) for r in ffns if "expert" not in r.path and r.side == "input"] + mixtures
    units: dict[Unit, dict[str, Site]] = {
        "hidden": in_order([_hidden(r, base) for r in ffns] + experts),
        "output": in_order([_named_output(r, base) for r in named["output"]] if "output" in named else outputs),
        "head": in_order([_head(r, base) for r in readers if r.heads]),
    }
    return units, _problems(base, units, closed, separate)


def _problems(
    base: Any, units: dict[Unit, dict[str, Site]], closed: list[str], separate: list[str]
) -> dict[Unit, ModelError]:
    """The error of every unit that cannot be reached: none recognised, or experts that cannot be hooked."""
    asked = f"the {{}} of {type(base).__name__}"
    names: dict[Unit, str] = {"hidden": "FFN neurons", "output": "FFN outputs", "head": "attention heads"}
    problems = {
        unit: ModelError(asked.format(what), *_why(base, unit)) for unit, what in names.items() if not units[unit]
    }
    if closed:
        problems["hidden"] = ModelError(
            asked.format("FFN neurons"),
            f"experts that are not tapped ({closed[0]} and {len(closed) - 1} more)",
            "call ns.interop.tap_experts(model) first: it gives every expert a hook point of its own",
        )
    if separate:
        problems["hidden"] = ModelError(
            asked.format("FFN neurons"),
            f"experts as modules of their own ({separate[0]}), which only some tokens reach",
            "use transformers' own class for this model (stacked experts), then ns.interop.tap_experts(model)",
        )
    return problems


def _why(base: Any, unit: Unit) -> tuple[str, str]:
    """Why no neurons were recognised, and what to do."""
    if packed_names(base):
        return "none that could be recognised, and quantised weights", "open the model in float32 or bfloat16"
    if unit == "head":
        return "none that could be recognised", "use unit='hidden' or unit='output'"
    found = "none that could be recognised: no block has a linear layer that reads what a non-linearity gives"
    do = f"name them: ns.load(model, sites=...); {HOW}"
    return found, do


def refuse_prompt_learning(root: Any) -> None:
    """Refuse prompt, p- and prefix tuning: they put positions of their own before a text's, where no text is."""
    config: Any = getattr(root, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        found = f"{str(config.peft_type).partition('.')[2].lower()} of PEFT, whose virtual tokens are before every text"
        do = "open the model without it (model.get_base_model()), or tune with LoRA"
        raise ModelError(f"open a {type(root).__name__}", found, do)


def style_of(base: Any) -> Style:
    """ "causal", "seq2seq" or "masked", by the model's head. A module of one's own is causal, which `check` tries."""
    has_head = hasattr(base, "get_output_embeddings") and base.get_output_embeddings() is not None
    if has_head and base.config.is_encoder_decoder:
        return "seq2seq"
    heads = " ".join(kind.__name__ for kind in type(base).__mro__)  # a subclass may have any name
    if re.search(r"MaskedLM\b", heads):
        return "masked"
    is_own = not type(base).__module__.startswith("transformers.")
    if has_head or is_own or re.search(r"(CausalLM|LMHeadModel|ConditionalGeneration)\b", heads):
        return "causal"
    do = "open it with transformers.AutoModelForCausalLM (or ...Seq2SeqLM, ...MaskedLM)"
    raise ModelError(f"open a {type(base).__name__}", "no language-model head", do)


def architecture(config: Any) -> Any:
    """The transformers class that a configuration names, if it has a language-model head; else the causal one.

    Of a configuration whose layers differ in size (`layouts`), one that builds them so.
    """
    import transformers  # heavy: only when a model is loaded by name

    kind: Any = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0], None)
    if kind is None or not hasattr(kind, "from_pretrained") or kind.__name__.endswith("Model"):
        kind = kind if kind is not None and "LMHead" in kind.__name__ else transformers.AutoModelForCausalLM
    return sized(kind, config)


def find_tokenizer(base: Any) -> Any:
    """The tokenizer that was saved with the model, or None."""
    path = getattr(getattr(base, "config", None), "_name_or_path", "")
    return saved_tokenizer(path) if path else None


def saved_tokenizer(path: str, **kwargs: Any) -> Any:
    """The tokenizer under a Hub id or in a folder, or None.

    Where there are no files, transformers makes up a tokenizer of special tokens alone for some families: that is none.
    """
    from transformers import AutoTokenizer  # heavy: only when a model is opened

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
    except (OSError, ValueError):
        return None
    ordinary = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    return tokenizer if len(ordinary) > 1 else None  # T5's has a word boundary


def address(path: str, base: Any, suffix: str, layer: int | None = None) -> tuple[str, int]:
    """TransformerLens' name for a place in a block, and the block's index."""
    inside = path.removeprefix("base_model.model.")
    if layer is None:
        index = re.search(r"(?:^|\.)(\d+)\.", inside)
        assert index is not None  # discovery only looks inside numbered blocks
        layer = int(index[1])
    stack = "blocks"
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        stack = ("decoder_" if ".decoder." in "." + inside else "encoder_") + stack
    return f"{stack}.{layer}.{suffix}", layer


def _place(reader: Reader, base: Any, suffix: str) -> dict[str, Any]:
    name, layer = address(reader.path, base, suffix, reader.layer)
    path = reader.path.removeprefix("base_model.model.")
    return {"address": name, "layer": layer, "path": path, "channels_first": reader.channels_first}


def _outermost(path: str, base: Any) -> tuple[str, Any]:
    """The linear at this path, or the wrapper around it (LoRA's), whose output has all the parts."""
    parts = path.removeprefix("base_model.model.").split(".")
    outside = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    found = ((p, m) for p in outside if hasattr(m := base.get_submodule(p), "weight"))
    return next(found, (outside[-1], base.get_submodule(outside[-1])))  # quantised ones may have none


def _hidden(reader: Reader, base: Any) -> Site:
    mlp = "mlp.shared_expert" if "shared_expert" in reader.path else "mlp"
    gate = None
    if reader.gate:
        path, module = _outermost(reader.gate[0], base)
    if reader.gate and hasattr(module, "weight"):
        # of these rows only `start` is used: the columns of the output that hold the gate
        rows = Rows(module.weight, 0, reader.width, start=reader.gate[2])
        place = _place(reader, base, f"{mlp}.hook_pre")
        gate = Site(**place | {"path": path}, module=module, width=reader.width, side="output", out=(rows,))
    place = _place(reader, base, f"{mlp}.hook_post")
    return Site(
        **place,
        module=reader.module,
        width=reader.width,
        side=reader.side,
        out=reader.weight,
        ins=reader.ins,
        gate=gate,
    )


def _output(reader: Reader, base: Any) -> Site:
    rows: list[Rows] = []
    for r in reader.weight:
        side = 1 - r.dim
        rows.append(Rows(r.param, side, r.param.shape[side]))
    bias = getattr(reader.module, "bias", None)
    m = reader.module
    width = rows[0].n if rows else m.out_channels if hasattr(m, "out_channels") else m.out_features
    rows = [r for r in rows if r.n == width]  # a LoRA factor that reads the same input has no output unit
    if rows:
        rows += [Rows(p, 0, width) for name, p in reader.module.named_parameters() if name.startswith("lora_B.")]
        rows += [Rows(bias, 0, width)] if bias is not None else []
    place = _place(reader, base, "mlp.out.hook_out")
    return Site(**place, module=reader.module, width=width, unit="output", side="output", out=tuple(rows))


def _named_output(reader: Reader, base: Any) -> Site:
    place = _place(reader, base, "mlp.out.hook_out")
    return Site(**place, module=reader.module, width=reader.width, unit="output", side=reader.side)


def _head(reader: Reader, base: Any) -> Site:
    cross = re.search(r"EncDec|encoder_attn|cross", reader.path, re.IGNORECASE)
    stack = address(reader.path, base, "")[0]
    part = ("cross_attn" if cross else "self_attn") if stack.startswith("decoder_") else "attn"
    place, group = _place(reader, base, f"{part}.hook_z"), reader.width // reader.heads
    return Site(**place, module=reader.module, width=reader.heads, unit="head", group=group, out=reader.weight)


def _mixture_outputs(root: nn.Module, base: Any) -> list[Site]:
    """The output of each mixture as a whole: the block's FFN output."""
    sites = []
    for path, module in root.named_modules():
        if path.endswith(".experts") and "down_proj" in module._parameters:
            parent = path.removesuffix(".experts")
            name, layer = address(path, base, "mlp.hook_out")
            width = module.down_proj.shape[2 if module.is_transposed else 1]
            block = root.get_submodule(parent)
            sites.append(Site(name, parent.removeprefix("base_model.model."), block, width, layer, "output", "output"))
    return sites


def _by_name(root: nn.Module) -> list[Reader]:
    """Output projections by their names, for blocks whose graph cannot be walked.

    Without parameters: for interventions and gradients of activations only.
    """
    readers = []
    for path, module in root.named_modules():
        if NAMED.search(path) and hasattr(module, "in_features") and "vision" not in path:
            readers.append(Reader(path, module, (), module.in_features))
    return readers


def in_order(sites: Iterable[Site]) -> dict[str, Site]:
    """Sites by address, in forward order."""
    stacks = ("encoder_blocks", "blocks", "decoder_blocks")
    order = sorted(sites, key=lambda s: (stacks.index(s.address.split(".")[0]), s.layer))
    named: dict[str, Site] = {}
    for site in order:
        if site.address in named:
            if named[site.address].module is site.module:
                found = f"{site.path} in more than one block: one layer, run several times in a pass"
                do = "give each block a layer of its own, such as copy.deepcopy(blocks[0].mlp); ALBERT has none"
                raise ModelError(f"name the site {site.address}", found, do)
            raise ModelError(
                f"name the site {site.path}",
                f"{site.address} is {named[site.address].path} already",
                "two FFNs in one block: name those of each, ns.load(model, sites=...)",
            )
        named[site.address] = site
    return named
