"""Open any model: a name, a Hugging Face or PEFT model, a TransformerBridge, an nnsight model."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from neuroscope.checks import public
from neuroscope.errors import ArgumentError, ModelError, choose, kind_of, shown
from neuroscope.models.experts import tap
from neuroscope.models.gguf import from_gguf
from neuroscope.models.hugging_face import architecture, open_hugging_face, saved_tokenizer
from neuroscope.models.lens import open_bridge
from neuroscope.models.model import Model
from neuroscope.models.nnsight import open_nnsight
from neuroscope.models.sites import unedited
from neuroscope.models.structure import parts

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = ("mini",)
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


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
    quantization_config: Any = None,
    sites: Mapping[str, Any] | None = None,
) -> Model:
    """Open a model and check it.

    Args:
        model: "mini" (bundled), a Hub id, a local folder, a .gguf file (de-quantised, to save and train as any), or a
            model object of any supported kind.
        tokenizer: for a model object that does not know its own; also its name, its folder or a `tokenizers.Tokenizer`.
        revision: of the Hub repository.
        dtype: of the weights, for a model loaded by name.
        device: where to put a model loaded by name (None: the processor, also where there is a GPU).
        device_map: as in transformers, for models beyond one device.
        quantization_config: as in transformers, such as `TorchAoConfig(Int8WeightOnlyConfig())` or
            `BitsAndBytesConfig(load_in_8bit=True)`. A quantised model, also one that is given as an object, is read,
            changed and scored by its activations as any; what needs its weights one by one refuses it.
        sites: where neurons are, by unit, for a model in which they are not found. A name with `{layer}` is that of the
            module whose input is the FFN's neurons in each block; so is a list of names, one per block. With
            `(name, "output")` they are the module's output: an activation function's, before an einsum. What is named
            is tried once, and read and changed as any neuron; weights are only known of linear layers.

    A module of one's own is called with the token ids (and `attention_mask`, where its forward takes one), and returns
    logits `[batch, pos, vocabulary]`: alone, first in a tuple, or as `.logits`.

    Returns:
        A `Model`; its repr says what was found. `model.original` is the object itself.

    Raises:
        ModelError: nothing to load under that name, or a model that cannot be opened.
        ArgumentError: sites that are not in the model, or something that is no tokenizer or no configuration.

    Example:
        >>> model = load("mini")
        >>> model.style, len(model.sites("hidden")), len(model.sites("head"))
        ('causal', 4, 4)
        >>> named = load(model.root, sites={"hidden": "model.layers.{layer}.mlp.down_proj"})
        >>> list(named.sites()) == list(model.sites())
        True
    """
    tokenizer = tokenizer_like(tokenizer)
    dtype = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    choose(dtype, DTYPES, "dtype")
    _check_quantisation(quantization_config)
    if not isinstance(model, (str, Path)):
        options: dict[str, Any] = {"revision": revision, "device": device, "device_map": device_map}
        options["quantization_config"] = quantization_config
        asked = [name for name, value in options.items() if value is not None] + ["dtype"] * (dtype != "auto")
        if asked:
            found = "a model that is loaded already"
            raise ArgumentError(f"load(model, {asked[0]}=...)", found, "change the model itself")
        if isinstance(model, Model) and sites is not None:
            given = model.tokenizer if tokenizer is None else tokenizer
            return replace(resolve(model.original, given, sites), name=model.name)
        if isinstance(model, Model) and tokenizer is not None:
            return replace(model.renewed(), tokenizer=tokenizer)
        return resolve(model, tokenizer, sites)
    if device is not None:
        check_device(device)  # before the weights are read
    options = {"revision": revision, "device_map": device_map, "quantization_config": quantization_config}
    loaded, saved_with_it = _from_pretrained(
        place_of(model), dtype, {name: value for name, value in options.items() if value is not None}
    )
    if device is not None:
        _move(loaded, device)
    tap(loaded)
    opened = open_hugging_face(loaded.eval(), saved_with_it if tokenizer is None else tokenizer, named=sites)
    return replace(opened, name=str(model))


def _check_quantisation(config: Any) -> None:
    """Refuse what is no configuration of transformers: an object or a dict that says `quant_method`."""
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    if config is not None and not isinstance(method, str):
        do = "give transformers' TorchAoConfig, BitsAndBytesConfig or another, or a dict with 'quant_method'"
        raise ArgumentError(shown("quantization_config", config), kind_of(config), do)


def place_of(model: str | Path) -> str:
    """The folder, GGUF file or Hub id of a model's name.

    Raises:
        ModelError: a file, a folder that does not exist, or a bundled name misspelt.
    """
    name, asked = str(model), f"load model {str(model)!r}"
    own = bundled(name)
    path = Path(name).expanduser()
    if own is not None:
        if (path / "config.json").is_file() and not path.samefile(own):
            warnings.warn(f"{asked}: the bundled one; the folder of that name here is './{name}'", stacklevel=4)
        return str(own)
    if path.is_dir():
        return str(path)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(asked, "no such file", "give the path of a GGUF file that is there")
        return str(path)
    if path.is_file():
        raise ModelError(asked, "a file", "give the folder that holds config.json, or a .gguf file")
    if name.startswith((".", "/", "~")):
        raise ModelError(asked, "no such folder", "give the folder that holds config.json")
    near = difflib.get_close_matches(name.lower(), BUNDLED, n=1, cutoff=0.7)
    if near:  # at once: the Hub may be out of reach
        raise ModelError(asked, "no such folder, and not a bundled model", f"did you mean {near[0]!r}?")
    return name


def tokenizer_like(tokenizer: Any) -> Any:
    """A tokenizer of transformers, loaded where its name is given, put around one of the tokenizers library.

    Raises:
        ArgumentError: anything else.
    """
    if isinstance(tokenizer, (str, PathLike)):
        where = str(bundled(str(tokenizer)) or Path(tokenizer).expanduser())
        loaded = saved_tokenizer(where)
        if loaded is None:
            do = "give a Hub id or folder that has one, such as 'gpt2', or the tokenizer itself"
            raise ArgumentError(f"tokenizer={str(tokenizer)!r}", "no tokenizer under that name", do)
        return loaded
    if type(tokenizer).__module__.split(".")[0] == "tokenizers":
        from transformers import PreTrainedTokenizerFast  # heavy: only when a model is opened

        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "eos_token_id")):
        do = "give a tokenizer of transformers, such as AutoTokenizer.from_pretrained(...), or its name"
        raise ArgumentError(shown("tokenizer", tokenizer), kind_of(tokenizer), do)
    return tokenizer


def _from_pretrained(name: str, dtype: Any, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """The model of a Hub id or folder, and its tokenizer or None; options are those that were given."""
    import transformers  # heavy: only when a model is loaded by name

    kwargs = {"revision": options["revision"]} if options.get("revision") else {}
    if name.lower().endswith(".gguf"):
        for option in options:
            found = "a GGUF file, which is read whole and as plain weights onto the processor"
            raise ArgumentError(f"load({name!r}, {option}=...)", found, "leave it out; device= moves the model")
        return from_gguf(Path(name), dtype)
    try:
        config = transformers.AutoConfig.from_pretrained(name, **kwargs)
        kind = architecture(config)
        loading: Any = kind.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
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


def check_device(device: str | torch.device) -> None:
    """Refuse the name of a device that torch does not know.

    Raises:
        ModelError: no such device.
    """
    _put(lambda: torch.device(device), device)


def _move(model: nn.Module, device: str | torch.device) -> None:
    _put(lambda: model.to(device), device)


def _put(what: Callable[[], Any], device: str | torch.device) -> None:
    try:
        what()
    except (RuntimeError, AssertionError, ValueError) as error:  # by how the device is missing, and by quantisers
        found = str(error).partition("\n")[0]
        raise ModelError(f"put the model on device {str(device)!r}", found, "give cpu, cuda, mps, ...") from None


def resolve(model: Any, tokenizer: Any = None, sites: Mapping[str, Any] | None = None) -> Model:
    """Open anything that can be opened. A `Model` is looked through for changes, and returned itself."""
    if isinstance(model, Model):
        return model.renewed()
    if isinstance(model, (str, Path)):
        return load(str(model))
    with unedited():  # interventions that are live do not change what is found
        return _open(model, tokenizer, sites)


def _open(model: Any, tokenizer: Any, sites: Mapping[str, Any] | None) -> Model:
    made_by = {base.__module__.split(".")[0] for base in type(model).__mro__}
    root = model if isinstance(model, nn.Module) else getattr(model, "_module", None)
    if isinstance(root, nn.Module):
        parts(root)  # refuses what is compiled
    if "transformer_lens" in made_by:
        if sites is not None:
            found = "a TransformerBridge, whose HookPoints have names already"
            raise ModelError("load(bridge, sites=...)", found, "open the Hugging Face model itself")
        return open_bridge(model, tokenizer)
    if "nnsight" in made_by:
        return open_nnsight(model, tokenizer, sites)
    inside = _inside(model)
    if isinstance(model, nn.Module) and inside is None:
        return open_hugging_face(model, tokenizer, named=sites)
    do = "give 'mini', a Hub id, a folder, a torch, Hugging Face or PEFT model, a TransformerBridge or an nnsight model"
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    raise ModelError(f"open {name}", f"{kind_of(model)}, not a model", f"open {inside}" if inside else do)


def _inside(model: Any) -> str | None:
    """What to open in the place of something that holds or makes a model."""
    if isinstance(model, type):
        return f"a model: {model.__name__}.from_pretrained(...)" if issubclass(model, nn.Module) else None
    if isinstance(model, (tuple, list)) and any(isinstance(part, nn.Module) for part in model):
        return "the model alone: ns.load(model, tokenizer=tokenizer)"
    is_wrapper = isinstance(model, (nn.DataParallel, DistributedDataParallel, AveragedModel))
    if is_wrapper or not isinstance(model, nn.Module):
        for name in ("module", "model"):
            if isinstance(getattr(model, name, None), nn.Module):
                return f"its .{name}"
    return None


def require_parameters(model: Model, asked: str) -> None:
    """Refuse a model whose own parameters are out of reach."""
    if not model.has_parameters:
        raise ModelError(
            asked,
            "a TransformerBridge, which splits and rewrites the weights",
            "open the Hugging Face model itself (before it is booted into a Bridge), or another method",
        )
