"""How much of a text a model is best given at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from neuroscope.models.model import Model

# A layer's vectors that stay in a processor's cache are read and written several times faster: of SmolLM2-135M, batches
# of 512 tokens take 0.58 of the time of batches of 8192; of a model of 6 million parameters, 1024 tokens take 0.54.
CACHE = 16 * 2**20  # bytes
LEAST, MOST = 256, 16384  # tokens
# Each new token reads all weights, for one row as for forty: of SmolLM2-135M on a processor 96 answers of 32 tokens
# take 0.49 of the time with four times the tokens in a batch, for 0.3 GB.
GENERATING = 4


def tokens_at_once(model: Model, generates: bool = False) -> int:
    """Tokens of a batch whose size was not asked for: a power of 2.

    On a CUDA GPU as many as fit, with what a backward pass keeps of all layers, into a quarter of the memory that is
    free; elsewhere (on a processor, and where free memory is not told, as on mps) as many as keep a layer's vectors in
    a processor's cache; on a processor four times as many where the model generates.
    """
    embedding = model.embedding.weight
    vocabulary, width = embedding.shape
    hidden = model.units.get("hidden", {}).values()
    ffn = max((site.width for site in hidden), default=4 * width)
    layer = (3 * ffn + 6 * width) * embedding.element_size()  # bytes of a token's vectors in one block
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        layers = 1 + max((site.layer for site in hidden), default=0)
        tokens = free / 4 / (layer * layers + 4 * vocabulary)
    else:
        tokens = CACHE / layer
    at_once = 2 ** int(max(LEAST, min(MOST, tokens))).bit_length() // 2
    return at_once * GENERATING if generates and model.device.type == "cpu" else at_once
