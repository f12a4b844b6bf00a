"""Open a Hugging Face model (plain, PEFT-wrapped, or under nnsight): its style, tokenizer and sites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.models.discovery import Reader, discover
from neuroscope.models.experts import expert_sites, untapped
from neuroscope.models.model import Backend, Model, Problems, Style, Units, check_finite, quiet
from neuroscope.models.sites import Rows, Site, Unit

PROBE = 4  # tokens of the input that discovery runs on
# Output projections by name, for models whose graph cannot be walked (quantised linears); the last part of the path.
NAMED = re.compile(
    r"(mlp|ffn|feed_forward|DenseReluDense|layers\.\d+|h\.\d+|layer\.\d+\.output)\."
    r"(down_proj|c_proj|dense_4h_to_h|fc2|fc_out|wo|w2|lin2|dense)$"
)


def open_hugging_face(
    root: Any, tokenizer: Any = None, backend: Backend = "hugging_face", original: Any = None
) -> Model:
    """Find a model's sites, and check that it can be run.

    Args:
        root: the torch model.
        tokenizer: its tokenizer (None: the one saved with it, if any).
        backend: how the model was given.
        original: the object that the user opened (None: `root`).
    """
    refuse_prompt_learning(root)
    base: Any = root.get_base_model() if hasattr(root, "get_base_model") else root
    style = style_of(base)
    with torch.inference_mode(False), quiet(root):
        check_finite(root, probe(base, style))
    units, problems = find_sites(root)
    return Model(
        name=getattr(base.config, "_name_or_path", "") or type(base).__name__,
        backend=backend,
        style=style,
        root=root,
        tokenizer=tokenizer if tokenizer is not None else find_tokenizer(base),
        original=root if original is None else original,
        units=units,
        problems=problems,
        find=partial(find_sites, root),
    )


def find_sites(root: Any) -> tuple[Units, Problems]:
    """The sites of every unit by address, and the error of each unit out of reach, by one tiny forward pass."""
    base: Any = root.get_base_model() if hasattr(root, "get_base_model") else root
    with torch.inference_mode(False), quiet(root):  # discovery needs the autograd graph
        readers = discover(root, probe(base, style_of(base)))
    return sites_by_unit(root, base, readers)


def sites_by_unit(
    root: nn.Module, base: Any, readers: list[Reader]
) -> tuple[dict[Unit, dict[str, Site]], dict[Unit, ModelError]]:
    """The sites of every unit by address, from the linears that read neurons; and the error of a unit out of reach."""
    separate = [r.path for r in readers if re.search(r"experts\.\d+\.", r.path)]
    readers = [r for r in readers if r.path not in separate and "vision" not in r.path]
    ffns = [r for r in readers if not r.heads]
    walked = {address(r.path, base, "") for r in ffns}
    ffns += [r for r in _by_name(root) if address(r.path, base, "") not in walked]
    units: dict[Unit, dict[str, Site]] = {
        "hidden": in_order([_hidden(r, base) for r in ffns] + expert_sites(root)),
        "output": in_order([_output(r, base) for r in ffns if "expert" not in r.path] + _mixture_outputs(root, base)),
        "head": in_order([_head(r, base) for r in readers if r.heads]),
    }
    return units, _problems(base, units, untapped(root), separate)


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
    if any(not p.is_floating_point() for p in base.parameters()):
        return "none that could be recognised, and quantised weights", "open the model in float32 or bfloat16"
    if unit == "head":
        return "none that could be recognised", "use unit='hidden' or unit='output'"
    found = "none that could be recognised: no block has a linear layer that reads what a non-linearity gives"
    do = "write the block's last map as a torch.nn.Linear that reads the neurons, in place of a Conv1d or an einsum"
    return found, do


def refuse_prompt_learning(root: Any) -> None:
    """Refuse prompt, p- and prefix tuning: they put positions of their own before a text's, where no text is."""
    config: Any = getattr(root, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        found = f"{str(config.peft_type).partition('.')[2].lower()} of PEFT, whose virtual tokens are before every text"
        do = "open the model without it (model.get_base_model()), or tune with LoRA"
        raise ModelError(f"open a {type(root).__name__}", found, do)


def style_of(base: Any) -> Style:
    """ "causal", "seq2seq" or "masked", by the model's head."""
    config, name = getattr(base, "config", None), type(base).__name__
    if config is not None and getattr(config, "is_encoder_decoder", False) and base.get_output_embeddings() is not None:
        return "seq2seq"
    heads = " ".join(kind.__name__ for kind in type(base).__mro__)  # a subclass may have any name
    if re.search(r"MaskedLM\b", heads):
        return "masked"
    if config is not None and re.search(r"(CausalLM|LMHeadModel|ConditionalGeneration)\b", heads):
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


def _place(reader: Reader, base: Any, suffix: str) -> dict[str, Any]:
    name, layer = address(reader.path, base, suffix)
    return {"address": name, "layer": layer, "path": reader.path.removeprefix("base_model.model.")}


def _outermost(path: str, base: Any) -> tuple[str, Any]:
    """The linear at this path, or the wrapper around it (LoRA's), whose output has all the parts."""
    parts = path.removeprefix("base_model.model.").split(".")
    outside = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    return next((p, m) for p in outside if hasattr(m := base.get_submodule(p), "weight"))


def _hidden(reader: Reader, base: Any) -> Site:
    mlp = "mlp.shared_expert" if "shared_expert" in reader.path else "mlp"
    gate = None
    if reader.gate:
        path, module = _outermost(reader.gate[0], base)
        # of these rows only `start` is used: the columns of the output that hold the gate
        rows = Rows(module.weight, 0, reader.width, start=reader.gate[2])
        place = _place(reader, base, f"{mlp}.hook_pre")
        gate = Site(**place | {"path": path}, module=module, width=reader.width, side="output", out=(rows,))
    place = _place(reader, base, f"{mlp}.hook_post")
    return Site(**place, module=reader.module, width=reader.width, out=reader.weight, ins=reader.ins, gate=gate)


def _output(reader: Reader, base: Any) -> Site:
    rows: list[Rows] = []
    for r in reader.weight:
        side = 1 - r.dim
        rows.append(Rows(r.param, side, r.param.shape[side]))
    bias = getattr(reader.module, "bias", None)
    width = rows[0].n if rows else reader.module.out_features
    rows = [r for r in rows if r.n == width]  # a LoRA factor that reads the same input has no output unit
    if rows:
        rows += [Rows(p, 0, width) for name, p in reader.module.named_parameters() if name.startswith("lora_B.")]
        rows += [Rows(bias, 0, width)] if bias is not None else []
    place = _place(reader, base, "mlp.out.hook_out")
    return Site(**place, module=reader.module, width=width, unit="output", side="output", out=tuple(rows))


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
                "this architecture has two FFNs in one block; please report it",
            )
        named[site.address] = site
    return named
