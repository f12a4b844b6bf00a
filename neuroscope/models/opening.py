"""Open any model: a name, a Hugging Face or PEFT model, a TransformerBridge, an nnsight model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, ModelError, choose
from neuroscope.models.experts import tap
from neuroscope.models.hugging_face import architecture, open_hugging_face, saved_tokenizer
from neuroscope.models.lens import open_bridge
from neuroscope.models.model import Model
from neuroscope.models.nnsight import open_nnsight
from neuroscope.models.sites import unedited
from neuroscope.models.structure import parts

PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path | None:
    """The folder of a bundled model, in a checkout or in an installed package; None if there is none of that name."""
    for folder in (PACKAGE / "assets" / name, PACKAGE.parent / "assets" / name):
        if (folder / "config.json").is_file():
            return folder
    return None


@public
def load(
    model: Any,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    device_map: Any = None,
) -> Model:
    """Open a model and check it.

    Args:
        model: "mini" (bundled), a Hub id, a local folder, or a model object of any supported kind.
        tokenizer: for a model object that does not know its own.
        revision: of the Hub repository.
        dtype: of the weights, for a model loaded by name.
        device: where to put a model loaded by name (None: the processor, also where there is a GPU).
        device_map: as in transformers, for models beyond one device.

    Returns:
        A `Model`; its repr says what was found. `model.original` is the object itself.

    Raises:
        ModelError: nothing to load under that name, or a model that cannot be opened.

    Example:
        >>> model = load("mini")
        >>> model.style, len(model.sites("hidden")), len(model.sites("head"))
        ('causal', 4, 4)
    """
    if not isinstance(model, (str, Path)):
        options = {"revision": revision, "device": device, "device_map": device_map}
        asked = [name for name, value in options.items() if value is not None] + ["dtype"] * (dtype != "auto")
        if asked:
            found = "a model that is loaded already"
            raise ArgumentError(f"load(model, {asked[0]}=...)", found, "change the model itself")
        if isinstance(model, Model) and tokenizer is not None:
            return replace(model.renewed(), tokenizer=tokenizer)
        return resolve(model, tokenizer)
    loaded, saved_with_it = _from_pretrained(str(bundled(str(model)) or model), revision, dtype, device_map)
    if device is not None:
        _move(loaded, device)
    tap(loaded)
    opened = open_hugging_face(loaded.eval(), tokenizer if tokenizer is not None else saved_with_it)
    return replace(opened, name=str(model))


def _from_pretrained(name: str, revision: str | None, dtype: Any, device_map: Any) -> tuple[nn.Module, Any]:
    """The model of a Hub id or folder, and its tokenizer or None."""
    import transformers  # heavy: only when a model is loaded by name

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ModelError(f"load model {name!r}", "no such folder", "give the folder that holds config.json")
    if isinstance(dtype, str) and dtype != "auto":
        names = ("float32", "bfloat16", "float16", "float64")
        choose(dtype.removeprefix("torch."), names, "dtype")
    kwargs = {"revision": revision} if revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **kwargs)
        kind = architecture(config)
        loading: Any = kind.from_pretrained(
            name, dtype=dtype, device_map=device_map, output_loading_info=True, **kwargs
        )
    except Exception as error:  # transformers, safetensors and the Hub raise a dozen kinds; the text is what helps
        text = " ".join(str(error).split())
        raise ModelError(
            f"load model {name!r}",
            f"{type(error).__name__}: {text[:300]}",
            "give 'mini', a Hub id that this machine can reach, or a local folder with config.json and safetensors",
        ) from error
    model, report = loading
    if report["missing_keys"]:
        raise ModelError(
            f"load model {name!r} as {kind.__name__}",
            f"no weights for {sorted(report['missing_keys'])[0]}, which would be random",
            "give a checkpoint with its language-model head",
        )
    return model, saved_tokenizer(name, **kwargs)


def _move(model: nn.Module, device: str | torch.device) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by how the device is missing
        found = str(error).partition("\n")[0]
        raise ModelError(f"put the model on device {str(device)!r}", found, "give cpu, cuda, mps, ...") from None


def resolve(model: Any, tokenizer: Any = None) -> Model:
    """Open anything that can be opened. A `Model` is looked through for changes, and returned itself."""
    if isinstance(model, Model):
        return model.renewed()
    if isinstance(model, (str, Path)):
        return load(str(model))
    with unedited():  # interventions that are live do not change what is found
        return _open(model, tokenizer)


def _open(model: Any, tokenizer: Any) -> Model:
    made_by = {base.__module__.split(".")[0] for base in type(model).__mro__}
    root = model if isinstance(model, nn.Module) else getattr(model, "_module", None)
    if isinstance(root, nn.Module):
        parts(root)  # refuses what is compiled
    if "transformer_lens" in made_by:
        return open_bridge(model, tokenizer)
    if "nnsight" in made_by:
        return open_nnsight(model, tokenizer)
    if isinstance(model, nn.Module):
        return open_hugging_face(model, tokenizer)
    raise ModelError(
        f"open a {type(model).__name__}",
        "not a model",
        "give 'mini', a Hub id, a folder, a Hugging Face or PEFT model, a TransformerBridge or an nnsight model",
    )
