"""Open a GGUF file, as llama.cpp uses them: its weights as plain tensors, so that the model saves and trains as any."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from neuroscope.errors import ModelError


def from_gguf(path: Path, dtype: str) -> tuple[nn.Module, Any]:
    """The model in a GGUF file, de-quantised to `dtype` ("auto": float32), and its tokenizer or None.

    Raises:
        ModelError: the package gguf is missing, or a file that is damaged or of a family that transformers cannot read.
    """
    asked = f"load model {str(path)!r}"
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(asked, "a GGUF file, which the package gguf reads", "pip install 'neuroscope[gguf]'")
    import transformers  # heavy: only when a model is loaded

    where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            **where, dtype="float32" if dtype == "auto" else dtype
        )
    except Exception as error:  # transformers and gguf raise a dozen kinds; the text is what helps
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        do = "give a whole file of a family that transformers reads from GGUF, such as llama, qwen2, gemma or phi3"
        raise ModelError(asked, found, do) from error
    # the weights are plain now; what says that they are quantised would refuse saving and training
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.config._name_or_path = ""  # the folder has no tokenizer and no configuration
    try:
        return model, transformers.AutoTokenizer.from_pretrained(**where)
    except Exception:  # a file without a tokenizer, or one that cannot be read: the user gives one
        return model, None
