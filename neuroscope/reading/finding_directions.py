"""`directions`: the tokens that neurons write and read, and the neurons that are like them by weights.

1. Writes: logits per unit of activation by the straight way through the norms (`frozen_paths`).
2. Reads: every token's embedding through the norm before the FFN (`normed_inputs`), times the neuron's rows of the gate
   and up projections (or of the one input projection); biases are left out.
3. Of a head there are as many directions as it has dimensions. The one that it copies most of is shown: the first
   singular vectors of its value-output map (Elhage et al. 2021, W_O W_V). It reads along one, and writes the other.
4. Nearest neurons: cosines of weights (`similar_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroscope import files
from neuroscope.checks import Progress, public, watched, whole
from neuroscope.comparison.parameters.sources import Source, open_source
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.evaluation import prepare_neutral
from neuroscope.masks import mask_for
from neuroscope.masks.neuron_names import names_of_sites
from neuroscope.models import Model, Unit, resolve
from neuroscope.models.sites import Site
from neuroscope.reading.directions_result import Directions
from neuroscope.reading.frozen_paths import typical, written
from neuroscope.reading.normed_inputs import embedded, norm_before, value_matrix
from neuroscope.reading.prompts import encode_texts
from neuroscope.reading.similar_weights import nearest_by_weights
from neuroscope.tasks.encoding import Encoded
from neuroscope.tasks.tokens import tokenizer_of, words_of

ASKED = "directions"
Row = dict[str, Any]


@public
def directions(
    model: Any,
    mask: Any,
    *,
    texts: Sequence[str] | None = None,
    count: int = 10,
    unit: Unit = "hidden",
    progress: Progress | None = None,
) -> Directions:
    """Which tokens neurons write and read, and which neurons are nearest to them by weights.

    What is *written* is the neuron's output direction by the straight way to the logits: through the norms, their
    scales **frozen at typical inputs**, and the unembedding. It is an approximation: what later layers make of it is
    left out, and with a large activation the scale would change. A gated neuron that is negative writes the opposite.

    What is *read* are the gate and up rows (of an ungated FFN the input rows) times the normed embeddings, each token
    by itself: in later layers a neuron reads what earlier ones wrote, which this does not show.

    Args:
        model: anything that can be opened, with parameters of its own.
        mask: which neurons: a NeuronMask, or neurons as people write them, such as "11.1229".
        texts: typical inputs; None: the model's own neutral texts, as in `neutral_loss`.
        count: how many tokens toward and away, and how many nearest neurons.
        unit: what neurons are that are written by hand: "hidden", "output" or "head". Of a head, its value-output map's
            first direction.
        progress: called as `progress(layers, desc=...)`, such as tqdm; None is silent.

    Returns:
        `Directions`: `writes("11.1229")`, `reads(...)`, `nearest(...)`, `to_frame()`, `figure()`, `save(path)`.

    Raises:
        ArgumentError: an empty list of texts.
        MaskError: neurons that the model does not have; the error names the nearest.
        ModelError: parameters out of reach (a TransformerBridge, a PEFT wrapper, quantised weights), a live adapter, a
            model without a head, or without neutral texts.

    Example:
        >>> found = directions("mini", "2.17", texts=["sentiment the curry was good => yes"])
        >>> len(found.writes("2.17")), found.reads("2.17")["part"].unique().tolist()
        (20, ['gate', 'up'])
    """
    import pandas as pd  # heavy: only where a table is made

    count = whole(count, "count", 1)
    source = open_source(resolve(model), ASKED)
    model = source.model
    mask = mask_for(model, mask, ASKED, unit)
    rows, about = _typical(model, texts)
    sites = model.sites(mask.unit)
    tokens = min(len(model.embedding.weight), len(tokenizer_of(model)))
    names = names_of_sites(list(mask))
    chosen = {address: neurons for address, neurons in mask.items() if len(neurons)}
    table: list[Row] = []
    for address, neurons in watched(list(chosen.items()), progress, ASKED):
        for name, parts in _of_site(source, sites[address], neurons, rows, tokens).items():
            for part, values in parts.items():
                table += _ends(f"{names[address]}.{name}", part, values, count)
    words = words_of(model.tokenizer, [row["id"] for row in table])
    table = [{**row, "name": words[row["id"]]} for row in table]
    near = {} if mask.unit == "output" else nearest_by_weights(source, sites, chosen, count, ASKED, progress)
    for by, found in near.items():
        for (address, neuron), others in found.items():
            for rank, ((home, other), cosine) in enumerate(others):
                row = {"neuron": f"{names[address]}.{neuron}", "part": f"nearest by {by}", "side": "toward"}
                table.append({**row, "rank": rank, "name": f"{names[home]}.{other}", "value": cosine})
    frame = pd.DataFrame(table, columns=["neuron", "part", "side", "rank", "name", "id", "value"])
    order = {f"{names[a]}.{i}": n for n, (a, i) in enumerate((a, i) for a, v in chosen.items() for i in v.tolist())}
    frame = frame.assign(order=frame["neuron"].map(order)).sort_values("order", kind="stable").drop(columns="order")
    frame["id"] = frame["id"].astype("Int64")
    manifest = {**source.origin, "unit": mask.unit, "mask": mask.identity, "neurons": list(order), "count": count}
    manifest |= {"texts": about, "tokens": tokens, "versions": files.versions()}
    return Directions(frame.reset_index(drop=True), manifest)


def _typical(model: Model, texts: Sequence[str] | None) -> tuple[list[Encoded], dict[str, Any]]:
    if texts is None:
        neutral = prepare_neutral(model)
        return typical(neutral.rows), neutral.manifest()
    if not texts:
        do = "give typical texts, or None for the model's own neutral ones"
        raise ArgumentError(f"{ASKED}(texts=[])", "no text", do)
    rows = encode_texts(model, texts, f"{ASKED}(texts)")
    return typical(rows), {"texts": "given", "n": len(texts), "hash": files.digest(*texts)}


def _of_site(
    source: Source, site: Site, neurons: Int[Tensor, " chosen"], rows: Sequence[Encoded], tokens: int
) -> dict[int, dict[str, Float[Tensor, " token"]]]:
    """By neuron and part, a number per token of the vocabulary."""
    if site.unit == "head":
        return {head: _of_head(source, site, head, rows, tokens) for head in neurons.tolist()}
    along = torch.zeros(len(neurons), site.width).scatter_(1, neurons[:, None], 1.0)
    parts = {"writes": written(source.model, site, along, rows)[:, :tokens]}
    if site.unit == "hidden":
        parts |= _reads(source, site, neurons, tokens)
    return {neuron: {p: values[i] for p, values in parts.items()} for i, neuron in enumerate(neurons.tolist())}


def _reads(
    source: Source, site: Site, neurons: Int[Tensor, " chosen"], tokens: int
) -> dict[str, Float[Tensor, "neuron token"]]:
    """By role, what each token by itself gives the neuron."""
    width = source.model.embedding.weight.shape[1]
    reading: dict[str, Tensor] = {}
    for role, listed in site.ins.items():
        read = [source.read(rows, neurons, slice(None)).float().cpu() for rows in listed]
        fitting = [entries for entries in read if entries.shape[1] == width]  # no bias
        if fitting and not role.endswith(".bias"):
            reading["input" if role == "in" else role] = torch.stack(fitting).sum(0)
    if not reading:
        return {}
    norm = norm_before(source.model, site)
    parts: dict[str, list[Tensor]] = {role: [] for role in reading}
    for x in embedded(source.model, norm, tokens):
        for role, rows in reading.items():
            parts[role].append(rows @ x.T)
    return {role: torch.cat(values, 1) for role, values in parts.items()}


def _of_head(
    source: Source, site: Site, head: int, rows: Sequence[Encoded], tokens: int
) -> dict[str, Float[Tensor, " token"]]:
    """Of the first direction of a head's value-output map: what it writes, and what it reads (positive at its peak)."""
    model = source.model
    coordinates = site.coordinates(torch.tensor([head]))
    values, norm = value_matrix(model, site, coordinates)  # [coordinate, model]
    if not site.out:
        do = "open the model in float32 or bfloat16, not quantised"
        raise ModelError(ASKED, f"{site.address}, whose parameters are out of reach", do)
    out = source.read(site.out[0], coordinates, slice(None)).float().cpu()  # [coordinate, model]
    q_in, r_in = torch.linalg.qr(values.T)
    _, r_out = torch.linalg.qr(out.T)
    read = q_in @ torch.linalg.svd(r_out @ r_in.T).Vh[0]  # W_O W_V = out^T values = Q_out (r_out r_in^T) Q_in^T
    reads = torch.cat([x @ read for x in embedded(model, norm, tokens)])
    sign = 1.0 if float(reads.max()) >= -float(reads.min()) else -1.0
    along = torch.zeros(1, site.width * site.group)
    along[0, coordinates] = sign * (values @ read)
    return {"writes": written(model, site, along, rows)[0, :tokens], "value": sign * reads}


def _ends(name: str, part: str, values: Float[Tensor, " token"], count: int) -> list[Row]:
    """Rows of the tokens with the greatest and the least numbers; none where there are no numbers."""
    if bool(torch.isnan(values).any()):
        return []
    rows = []
    for side, signed in (("toward", values), ("away", -values)):
        for rank, token in enumerate(torch.argsort(signed, descending=True, stable=True)[:count].tolist()):
            about = {"neuron": name, "part": part, "side": side, "rank": rank}
            rows.append({**about, "id": token, "value": float(values[token])})
    return rows
