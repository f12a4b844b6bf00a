"""Train weights in the subspace that is orthogonal to their large singular directions, on peft's layers (OSF).

Nayak et al. 2026 (ICLR), "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning".

1. Every linear layer but the LM head is decomposed, W = U S V^T, with singular values in falling order. The first
   `preserved` share of the smaller side, W_high, is frozen; U_low, S_low and V_low of the others are trained.
2. The gradients of U_low and V_low are projected onto what is orthogonal to U_high and V_high:
   dU - U_high U_high^T dU, and dV - dV V_high^T V_high (with peft's layout of V as rows).
3. `merge` writes W_high + U_low S_low V_low into the weights; the next task decomposes anew.

As in peft, the gradients are projected, and not the steps that AdamW makes of them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from peft import OSFConfig, inject_adapter_in_model
from peft.tuners.osf.layer import OSFLayer
from torch import nn

from neuroscope.checks import share
from neuroscope.errors import FileError, ModelError
from neuroscope.masks import read_safetensors
from neuroscope.models import Model, resolve
from neuroscope.training.lora_layers import linears, plain, refuse
from neuroscope.training.saving import guard, unguard, write_tensors
from neuroscope.training.trainable import PREFIX, training_only

NAME = f"{PREFIX}subspace"


class SubspaceAdapter:
    """The trainable small singular directions of every linear layer but the LM head, until `detach`.

    Args:
        model: anything that can be opened, with parameters of its own, of torch's own linear layers.
        preserved: share of the smaller side of each matrix whose singular directions are frozen, below 1.

    Raises:
        ModelError: the layers cannot be wrapped.
    """

    def __init__(self, model: Any, preserved: float = 0.5, *, manifest: Mapping[str, Any] | None = None) -> None:
        self.model: Model = resolve(model)
        self.preserved = share(preserved, "preserved")
        self.manifest = dict(manifest or {})
        asked = f"put a subspace on {self.model.name}"
        refuse(self.model, asked)
        with plain(self.model.root):
            self.base = self.model.fingerprint()
        self._places = _inject(self.model.root, self.preserved, asked)
        guard(self.model.root)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters: U_low, S_low and V_low of every layer."""
        return list(self._named().values())

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())

    @property
    def identity(self) -> str:
        """The share that is preserved."""
        return f"subspace-{self.preserved:g}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A scope in which these parameters require gradients and nothing else does."""
        with training_only(self.model.root, self.parameters()):
            yield

    @torch.no_grad()
    def merge(self) -> None:
        """Write what was trained into the model's own weights, for good, and take the rest off."""
        for _, _, _, layer in self._places:
            weight = layer.base_layer.weight
            weight.copy_(weight + layer.get_delta_weight(NAME))
        self.detach()

    def detach(self) -> None:
        """Take it off the model: every module is where it was before."""
        for _, parent, child, layer in self._places:
            layer._detach_hooks()
            parent._modules[child] = layer.base_layer
        self._places = []
        unguard(self.model.root)

    def save(self, path: str | PathLike) -> Path:
        """Write the trained numbers and the manifest as one safetensors file, atomically."""
        tensors = {key: p.detach().cpu().clone() for key, p in self._named().items()}
        settings = {"base": self.base, "preserved": self.preserved}
        return write_tensors(path, "SubspaceAdapter", tensors, self.manifest | settings, root=self.model.root)

    @torch.no_grad()
    def restore(self, path: str | PathLike) -> None:
        """Overwrite the trained numbers with those of a file that was saved for the same base."""
        tensors, _, manifest = read_safetensors(path, "SubspaceAdapter")
        asked = f"put the subspace {path} on {self.model.name}"
        if manifest.get("base") != self.base:
            found = f"a base of fingerprint {manifest.get('base')}; this model is {self.base}"
            raise ModelError(asked, found, "open the model it was trained on, of the same revision and dtype")
        for key, parameter in self._named().items():
            if key not in tensors or tensors[key].shape != parameter.shape:
                raise FileError(asked, f"no {key} of shape {tuple(parameter.shape)}", "the file is damaged; save again")
            parameter.copy_(tensors[key])

    def _named(self) -> dict[str, nn.Parameter]:
        return {
            f"{path}.{name}": parameter
            for path, _, _, layer in self._places
            for name, parameter in layer.osf_svd_params[NAME].items()
        }


def _inject(root: Any, preserved: float, asked: str) -> list[tuple[str, nn.Module, str, Any]]:
    """Let peft wrap the layers: path, parent, the child's name and peft's layer of each."""
    paths = linears(root, asked)
    modules = dict(root.named_modules())
    for path in paths:
        weight = modules[path].weight
        if hasattr(modules[path], "nf"):  # GPT-2's, whose weights are [inputs, outputs]
            raise ModelError(asked, f"{path}, which is no torch.nn.Linear", "open a model with linear layers of torch")
        if not 0 < int(preserved * min(weight.shape)) < min(weight.shape):  # as peft rounds it
            found = f"preserved={preserved}, which leaves nothing of {path} to {'train' if preserved > 0.5 else 'keep'}"
            raise ModelError(asked, found, "give a share between, such as 0.5")
    required = [(p, p.requires_grad) for p in root.parameters()]
    try:
        with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
            inject_adapter_in_model(OSFConfig(effective_rank=preserved, target_modules=paths), root, NAME)
    finally:
        vars(root).pop("peft_config", None)
        for parameter, flag in required:
            parameter.requires_grad_(flag)
    return [
        (f"{path}.{child}" if path else child, parent, child, module)
        for path, parent in root.named_modules()
        for child, module in list(parent._modules.items())
        if isinstance(module, OSFLayer)
    ]
