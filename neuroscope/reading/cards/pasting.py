"""Code to paste: the neuron switched off by this package, by a TransformerLens hook, and in an nnsight trace."""

from __future__ import annotations

import json
import textwrap

import torch

from neuroscope.interop import nnsight_code
from neuroscope.reading.cards.subject import Place, Subject, among


def code_for(subject: Subject, place: Place) -> dict[str, str]:
    """What it is -> lines to paste; an expert has a hook point in this package alone.

    Of the names in them, `model` is this package's or nnsight's model, `bridge` TransformerLens', and `text` a prompt.
    """
    address, neuron = place
    unit = "" if subject.mask.unit == "hidden" else f", unit={json.dumps(subject.mask.unit)}"
    lines = {
        "neuroscope": f"import neuroscope as ns\n\nmodel = ns.load({json.dumps(subject.model.name)})\n"
        f"neuron = ns.NeuronMask.of({{{json.dumps(address)}: [{neuron}]}}, model{unit})\n"
        "with ns.ablate(model, neuron):\n    print(ns.evaluate(model, task))"
    }
    if ".experts." in address:
        return lines
    index = f":, :, {neuron}" if address.endswith("hook_z") else f"..., {neuron}"  # [batch, pos, head, d_head]
    lines["TransformerLens"] = (
        f"def off(activation, hook):\n    activation[{index}] = 0\n    return activation\n\n"
        f"logits = bridge.run_with_hooks(text, fwd_hooks=[({json.dumps(address)}, off)])"
    )
    inside = nnsight_code(subject.model, among(subject.mask, {address: torch.tensor([neuron])}))
    inside += "logits = model.output.logits.save()\n"
    lines["nnsight"] = "with model.trace(text):\n" + textwrap.indent(inside.rstrip("\n"), "    ")
    return lines
