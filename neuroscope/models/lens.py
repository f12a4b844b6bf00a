"""Open a TransformerLens `TransformerBridge`: its sites are TransformerLens' own HookPoints, by their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuroscope.errors import ModelError
from neuroscope.models.experts import expert_sites, untapped
from neuroscope.models.hugging_face import find_tokenizer, in_order, style_of
from neuroscope.models.model import Model, Problems, Units, quiet
from neuroscope.models.running import check, probe
from neuroscope.models.sites import Site, Unit, edit

# unit -> what an address looks like; where there is a second name, it must be the same HookPoint under that
# name, because on a mixture TransformerLens' mlp.hook_post is the block's output, not neurons
HOOKS: dict[Unit, list[tuple[str, str | None]]] = {
    "hidden": [(r"(mlp|mlp\.shared_expert)\.hook_post", r"\1.out.hook_in")],
    "output": [(r"mlp\.out\.hook_out", None), (r"mlp\.hook_out", None)],
    "head": [(r"(?:self_|cross_)?attn\.hook_z", None)],
}


def open_bridge(bridge: Any, tokenizer: Any = None) -> Model:
    """Find the HookPoints that carry neurons, and check that they fire (in compatibility mode too)."""
    root = bridge.original_model
    style = style_of(root)
    with quiet(root):
        check(root, root, style)
    units, problems = find_hook_points(bridge)
    return Model(
        name=getattr(root.config, "_name_or_path", "") or bridge.cfg.model_name,
        backend="transformer_bridge",
        style=style,
        root=root,
        tokenizer=next((t for t in (tokenizer, find_tokenizer(root), bridge.tokenizer) if t is not None), None),
        original=bridge,
        units=units,
        problems=problems,
        has_parameters=False,
        find=partial(find_hook_points, bridge),
    )


def find_hook_points(bridge: Any) -> tuple[Units, Problems]:
    """The sites of every unit by address, and the error of each unit out of reach, by one tiny forward pass."""
    root = bridge.original_model
    candidates = {unit: _candidates(bridge, unit) for unit in HOOKS}
    every = [s for sites in candidates.values() for site in sites for s in (site, site.gate) if s is not None]
    widths: dict[str, int] = {}

    def measure(site: Site, h: Tensor, tokens: Tensor | None) -> None:
        widths[site.address] = h.shape[-1]

    with torch.no_grad(), quiet(root), edit(every, measure):
        root(**probe(root, style_of(root)))
    units = {unit: _fired(sites, widths, root.config) for unit, sites in candidates.items()}
    units["hidden"] = in_order([*units["hidden"].values(), *expert_sites(root)])
    return units, _problems(units, root)


def _candidates(bridge: Any, unit: Unit) -> list[Site]:
    hooks: dict[str, nn.Module] = bridge.hook_dict
    paths = {id(m): p for p, m in bridge.original_model.named_modules()}
    sites: dict[str, Site] = {}
    for pattern, same_as in HOOKS[unit]:
        for name, hook in hooks.items():
            match = re.fullmatch(rf"((?:encoder_|decoder_)?blocks\.(\d+))\.({pattern})", name)
            if match is None or (same_as and hooks.get(f"{match[1]}.{re.sub(pattern, same_as, match[3])}") is not hook):
                continue
            path = _hugging_face_path(paths.get(id(hook), name), bridge.original_model)
            site = Site(name, path, hook, 0, int(match[2]), unit, "output" if unit == "output" else "input")
            before = name.replace("hook_post", "hook_pre")  # the input of the non-linearity; of a gated FFN, the gate
            if unit == "hidden" and before in hooks:
                site = replace(site, gate=Site(before, path, hooks[before], 0, int(match[2]), side="output"))
            # attention has several kinds in a block; an FFN's output is its projection's, or the mixture's as a whole
            sites.setdefault(match[1] if unit == "output" else name, site)
    return list(sites.values())


def _hugging_face_path(path: str, root: nn.Module) -> str:
    """The path of the component that owns a HookPoint, as it is called in the Hugging Face model."""
    owner = path.rpartition(".")[0]
    own_name = getattr(root.get_submodule(owner), "name", None) or owner  # TransformerLens renames some: c_proj to o
    return ".".join([*owner.split(".")[:-1], own_name.split(".")[-1]]).replace("._original_component", "")


def _fired(sites: list[Site], widths: Mapping[str, int], config: Any) -> dict[str, Site]:
    heads = getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", None) or config.n_head
    fired = []
    for s in sites:
        if s.address in widths:
            width = heads if s.unit == "head" else widths[s.address]
            gate = s.gate and widths.get(s.gate.address) == width and replace(s.gate, width=width)
            fired.append(replace(s, width=width, group=widths[s.address] // width, gate=gate or None))
    return in_order(fired)


def _problems(units: dict[Unit, dict[str, Site]], root: nn.Module) -> dict[Unit, ModelError]:
    problems = {}
    for unit, sites in units.items():
        if not sites:
            problems[unit] = ModelError(
                f"the {unit} neurons of a TransformerBridge",
                "no HookPoint of that kind fires",
                "open the Hugging Face model itself",
            )
    closed = untapped(root)
    if closed:
        problems["hidden"] = ModelError(
            "the FFN neurons of a TransformerBridge",
            f"experts that are not tapped ({closed[0]} and {len(closed) - 1} more)",
            "call ns.interop.tap_experts(model) first",
        )
    return problems
