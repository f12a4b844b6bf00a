"""Open a Hugging Face model (plain, PEFT-wrapped, or under nnsight): its style, tokenizer and sites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.models.experts import expert_sites, untapped
from neuroscope.models.model import Model, Style, check_finite, quiet
from neuroscope.models.sites import Found, Rows, Site, discover

PROBE = 4  # tokens of the input that discovery runs on
# Output projections by name, for models whose graph cannot be walked (quantised linears); the last part of the path.
NAMED = re.compile(
    r"(mlp|ffn|feed_forward|DenseReluDense|layers\.\d+|h\.\d+|layer\.\d+\.output)\."
    r"(down_proj|c_proj|dense_4h_to_h|fc2|fc_out|wo|w2|lin2|dense)$"
)


def open_hugging_face(root: Any, tokenizer: Any = None, backend: str = "hugging_face", original: Any = None) -> Model:
    """Find a model's sites, and check that it can be run."""
    base: Any = root.get_base_model() if hasattr(root, "get_base_model") else root
    style = style_of(base)
    with torch.inference_mode(False), quiet(root):  # discovery needs the autograd graph
        inputs = probe(base, style)
        check_finite(root, inputs)
        found = discover(root, inputs)
    units, problems = sites_by_unit(root, base, found)
    return Model(
        name=getattr(base.config, "_name_or_path", "") or type(base).__name__,
        backend=backend,
        style=style,
        root=root,
        tokenizer=tokenizer if tokenizer is not None else find_tokenizer(base),
        original=root if original is None else original,
        units=units,
        problems=problems,
    )


def sites_by_unit(
    root: nn.Module, base: Any, found: list[Found]
) -> tuple[dict[str, dict[str, Site]], dict[str, ModelError]]:
    """The sites of every unit by address, from what discovery found; and what is out of reach, with its error."""
    separate = [f.path for f in found if re.search(r"experts\.\d+\.", f.path)]
    found = [f for f in found if f.path not in separate and "vision" not in f.path]
    ffns = [f for f in found if not f.heads]
    walked = {address(f.path, base, "") for f in ffns}
    ffns += [f for f in _by_name(root) if address(f.path, base, "") not in walked]
    experts = expert_sites(root)
    hidden = in_order([_hidden(f, base) for f in ffns] + experts)
    units = {
        "hidden": hidden,
        "output": in_order([_output(f, base) for f in ffns if "expert" not in f.path] + _mixture_outputs(root, base)),
        "head": in_order([_head(f, base) for f in found if f.heads]),
    }
    return units, _problems(base, units, untapped(root), separate)


def _problems(base: Any, units: dict, closed: list[str], separate: list[str]) -> dict[str, ModelError]:
    asked = f"the {{}} of {type(base).__name__}"
    problems = {
        unit: ModelError(
            asked.format(what), "none that could be recognised", "open the model in float32 or bfloat16, not quantised"
        )
        for unit, what in (("hidden", "FFN neurons"), ("output", "FFN outputs"), ("head", "attention heads"))
        if not units[unit]
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


def style_of(base: Any) -> Style:
    """ "causal", "seq2seq" or "masked", by the model's head."""
    config, name = getattr(base, "config", None), type(base).__name__
    if config is not None and getattr(config, "is_encoder_decoder", False) and base.get_output_embeddings() is not None:
        return "seq2seq"
    if name.endswith("MaskedLM"):
        return "masked"
    if config is not None and re.search(r"(CausalLM|LMHeadModel|ConditionalGeneration)$", name):
        return "causal"
    raise ModelError(
        f"open a {name}",
        "no language-model head" if config is not None else "a torch module without a Hugging Face configuration",
        "open it with transformers.AutoModelForCausalLM (or ...Seq2SeqLM, ...MaskedLM)",
    )


def architecture(config: Any) -> Any:
    """The transformers class that a configuration names, if it has a language-model head; else the causal one."""
    import transformers  # heavy: only when a model is loaded by name

    kind = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0], None)
    if kind is None or not hasattr(kind, "from_pretrained") or kind.__name__.endswith("Model"):
        return kind if kind is not None and "LMHead" in kind.__name__ else transformers.AutoModelForCausalLM
    return kind


def probe(base: Any, style: Style) -> dict[str, Tensor]:
    """A tiny input for the model."""
    device = base.get_input_embeddings().weight.device
    ids = torch.arange(PROBE, device=device)[None] % base.get_input_embeddings().num_embeddings
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids} if style == "seq2seq" else {})


def find_tokenizer(base: Any) -> Any:
    """The tokenizer that was saved with the model, or None."""
    path = getattr(base.config, "_name_or_path", "")
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


def address(path: str, base: Any, suffix: str) -> tuple[str, int]:
    """TransformerLens' name for a place in a block, and the block's index."""
    inside = path.removeprefix("base_model.model.")
    index = re.search(r"\.(\d+)\.", inside)
    assert index is not None  # discovery only looks inside numbered blocks
    stack = "blocks"
    if base.config.is_encoder_decoder:
        stack = ("decoder_" if ".decoder." in "." + inside else "encoder_") + stack
    return f"{stack}.{index[1]}.{suffix}", int(index[1])


def _place(found: Found, base: Any, suffix: str) -> dict[str, Any]:
    name, layer = address(found.path, base, suffix)
    return {"address": name, "layer": layer, "path": found.path.removeprefix("base_model.model.")}


def _outermost(path: str, base: Any) -> tuple[str, Any]:
    """The linear at this path, or the wrapper around it (LoRA's), whose output has all the parts."""
    parts = path.removeprefix("base_model.model.").split(".")
    outside = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    return next((p, m) for p in outside if hasattr(m := base.get_submodule(p), "weight"))


def _hidden(found: Found, base: Any) -> Site:
    mlp = "mlp.shared_expert" if "shared_expert" in found.path else "mlp"
    gate = None
    if found.gate:
        path, module = _outermost(found.gate[0], base)
        start = found.gate[2]
        rows = Rows(
            module.weight, 0, found.width, start
        )  # only `start` is used: the columns of the output that hold the gate
        place = _place(found, base, f"{mlp}.hook_pre")
        gate = Site(**place | {"path": path}, module=module, width=found.width, side="output", out=(rows,))
    place = _place(found, base, f"{mlp}.hook_post")
    return Site(**place, module=found.module, width=found.width, out=found.weight, ins=found.ins, gate=gate)


def _output(found: Found, base: Any) -> Site:
    rows: list[Rows] = []
    for r in found.weight:
        side = 1 - r.dim
        rows.append(Rows(r.param, side, r.param.shape[side]))
    bias = getattr(found.module, "bias", None)
    width = rows[0].n if rows else found.module.out_features
    rows = [r for r in rows if r.n == width]  # a LoRA factor that reads the same input has no output unit
    if rows:
        rows += [Rows(p, 0, width) for name, p in found.module.named_parameters() if name.startswith("lora_B.")]
        rows += [Rows(bias, 0, width)] if bias is not None else []
    place = _place(found, base, "mlp.out.hook_out")
    return Site(**place, module=found.module, width=width, unit="output", side="output", out=tuple(rows))


def _head(found: Found, base: Any) -> Site:
    cross = re.search(r"EncDec|encoder_attn|cross", found.path, re.IGNORECASE)
    stack = address(found.path, base, "")[0]
    part = ("cross_attn" if cross else "self_attn") if stack.startswith("decoder_") else "attn"
    place, group = _place(found, base, f"{part}.hook_z"), found.width // found.heads
    return Site(**place, module=found.module, width=found.heads, unit="head", group=group, out=found.weight)


def _mixture_outputs(root: nn.Module, base: Any) -> list[Site]:
    """The output of each mixture as a whole: the block's FFN output."""
    found = []
    for path, module in root.named_modules():
        if path.endswith(".experts") and "down_proj" in module._parameters:
            parent = path.removesuffix(".experts")
            name, layer = address(path, base, "mlp.hook_out")
            width = module.down_proj.shape[2 if module.is_transposed else 1]
            block = root.get_submodule(parent)
            found.append(Site(name, parent.removeprefix("base_model.model."), block, width, layer, "output", "output"))
    return found


def _by_name(root: nn.Module) -> list[Found]:
    """Output projections by their names, for blocks whose graph cannot be walked.

    Without parameters: for interventions and gradients of activations only.
    """
    found = []
    for path, module in root.named_modules():
        if NAMED.search(path) and hasattr(module, "in_features") and "vision" not in path:
            found.append(Found(path, module, (), module.in_features))
    return found


def in_order(sites: Iterable[Site]) -> dict[str, Site]:
    """Sites by address, in forward order."""
    stacks = ("encoder_blocks", "blocks", "decoder_blocks")
    order = sorted(sites, key=lambda s: (stacks.index(s.address.split(".")[0]), s.layer))
    named: dict[str, Site] = {}
    for site in order:
        if site.address in named:
            raise ModelError(
                f"name the site {site.path}",
                f"{site.address} is {named[site.address].path} already",
                "this architecture has two FFNs in one block; please report it",
            )
        named[site.address] = site
    return named
