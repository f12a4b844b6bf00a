"""A model's fingerprint: digits that change with what its logits follow from; and a scope that reads the weights once.

That is weights and buffers (of tables of positions, which follow from the configuration, frequencies that were changed
alone), packed weights of quantised layers, the configuration without names, paths and what changes no logit, the kinds
of modules, what switches or scales adapters, of this package or of PEFT, and a `forward` that somebody replaced. Of
modules of one's own also their attributes that are numbers, texts, tuples or dataclasses of these, or functions; but
for what `forward` itself writes (a counter), lists and dicts (which may be caches), names, paths and devices.

Not read: attributes of transformers' and torch's own modules beyond what these print of themselves, the code of a
class, and tensors that are plain attributes.

Of each weight and buffer, 64 evenly spaced entries and two sums of its bits read as integers are taken, one of them
weighted by place: sums of integers are the same on every device and in every order, but take a reading of all
weights. Within `read_once` a reading is kept and given again as long as the parameters are the same tensors, have not
been written to, and have the same 64 entries: what torch notices of a change (not every optimizer tells it) and what
the entries show of one. Packed weights are read again each time: nothing tells of a change in them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import functools
import hashlib
import inspect
import itertools
import json
import numbers
import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from neuroscope.distributed import gathered, has_shards
from neuroscope.models.packed import settings_of, stored
from neuroscope.models.sites import HOUSE, is_foreign
from neuroscope.models.structure import SLOT

ENTRIES = 64
CHUNK = {"cpu": 1 << 18}  # weights added at a time: those that stay in a processor's cache take a tenth of the time
MANY = 1 << 22  # elsewhere
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a weight
MOVING = ("dynamic", "longrope")  # kinds of rotary frequencies that are exchanged in a forward pass
TABLES = ("Rotary", "Sinusoid")  # in the names of modules whose buffers follow from the configuration, or grow
# what a configuration says beside what the logits follow from: where it is from, names, tokens, dropout, outputs
BESIDE = re.compile(
    r"_|transformers_version$|architectures$|auto_map$|(torch_)?dtype$|quantization_config$|use_cache$|return_dict"
    r"|output_(attentions|hidden_states|router_logits|scores)$|(?!decoder_start_).*token_id$|.*dropout|.*drop$"
    r"|id2label$|label2id$|problem_type$|tie_|task_specific_params$|name_or_path$|.*_path$"
    r"|vocab_size$|torchscript$|gradient_checkpointing$|.*initializer|chunk_size_feed_forward$"
)
BESIDE_OWN = re.compile(r"training$|(.*_)?(path|device|cached?|name)$")  # the same of attributes, in addition
LIBRARIES = (
    *HOUSE,
    "transformer_lens.",
    "nnsight.",
    "bitsandbytes.",
    "torchao.",
)  # whose modules follow from configuration and weights

_readings: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()  # of the models within `read_once`
_numbers: Any = WeakIdKeyDictionary()  # a number for each tensor that is alive: Python uses the ids of dead ones again
_next_number = itertools.count()


@contextlib.contextmanager
def read_once(root: nn.Module) -> Iterator[None]:
    """A scope in which the weights are read again only after a change; within it, an inner one does nothing."""
    outermost = root not in _readings
    if outermost:
        _readings[root] = {}
    try:
        yield
    finally:
        if outermost:
            del _readings[root]


def forget(root: nn.Module) -> None:
    """Have the weights read again: for what writes them in ways that torch does not count, as fused optimizers do."""
    if root in _readings:
        _readings[root].clear()


def fingerprint(root: nn.Module) -> str:
    """16 digits that change with the architecture or with any weight, or with how much an adapter counts."""
    known = _readings.get(root)
    if known is None or has_shards(root):  # every process of a sharded model takes part in each reading
        return read_weights(root)
    state = _state(root)
    if state not in known:
        known[state] = read_weights(root)
    return known[state]


def read_weights(root: nn.Module) -> str:
    """The fingerprint, from a reading of all weights."""
    digits = hashlib.sha256()
    for name, tensor in _tensors(root):
        flat = gathered(tensor).flatten()
        digits.update(f"{name.replace('._original_component', '')}{tuple(tensor.shape)}".encode())
        digits.update(_entries(flat))
        if flat.element_size() in INTEGERS and not flat.is_complex():
            digits.update(str(_sums(flat.view(INTEGERS[flat.element_size()]))).encode())
    for note in _notes(root):
        digits.update(note.encode())
    return digits.hexdigest()[:16]


def _tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and the packed weights of quantised layers."""
    for name, parameter in root.named_parameters():
        yield from stored(name, parameter)
    for path, module in root.named_modules():
        is_table = any(word in type(module).__name__ for word in TABLES)
        if not is_table or _is_own(module):
            yield from ((f"{path}.{name}", b) for name, b in module._buffers.items() if b is not None)
        elif getattr(module, "rope_type", None) not in MOVING:
            yield from ((f"{path}.{name}", b) for name, b in _changed_frequencies(module))
        if type(module)._save_to_state_dict is not nn.Module._save_to_state_dict:
            saved: dict[str, Any] = {}
            module._save_to_state_dict(saved, f"{path}.", False)
            known = {id(t) for t in (*module._parameters.values(), *module._buffers.values())}
            for name, value in saved.items():
                parts = value if isinstance(value, tuple) else (value,)
                yield from ((name, _plain(t)) for t in parts if isinstance(t, Tensor) and id(t) not in known)


def _changed_frequencies(table: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The rotary frequencies that are not those that the table was made with."""
    for name, buffer in table._buffers.items():
        made = table._buffers.get(name.replace("inv_freq", "original_inv_freq"))
        if name.endswith("inv_freq") and buffer is not None and made is not None and not torch.equal(buffer, made):
            yield name, buffer


def _plain(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if tensor.is_quantized else tensor.detach()


def _sums(bits: Tensor) -> tuple[int, int]:
    """The sum of the bits, and one in which each counts by its place: it tells weights that changed places."""
    chunk = min(CHUNK.get(bits.device.type, MANY), bits.numel())
    place = torch.arange(1, chunk + 1, device=bits.device)
    plain = by_place = 0
    for start in range(0, bits.numel(), max(1, chunk)):
        part = bits[start : start + chunk].long()
        total = int(part.sum())
        plain += total
        by_place += int((part * place[: len(part)]).sum()) + start * total  # each modulo 2**64
    return plain % 2**64, by_place % 2**64


def _state(root: nn.Module) -> str:
    """What tells, without a reading of all weights, whether they are those that were read."""
    digits = hashlib.sha256()
    for name, tensor in _tensors(root):
        number = _numbers.setdefault(tensor, None)
        if number is None:
            number = _numbers[tensor] = next(_next_number)
        written = "" if tensor.is_inference() else tensor._version  # torch counts what it writes
        digits.update(f"{name} {number} {written} {tensor.data_ptr()} {tuple(tensor.shape)}".encode())
        digits.update(_entries(tensor.detach().flatten()))
    for note in _notes(root):
        digits.update(note.encode())
    return digits.hexdigest()


def _entries(flat: Tensor) -> bytes:
    """Some entries of a parameter, evenly spaced."""
    return flat[:: max(1, flat.numel() // ENTRIES)].float().cpu().numpy().tobytes()


def _notes(root: nn.Module) -> Iterator[str]:
    """What no tensor shows: the configuration, the kinds of modules, and what switches or scales an adapter."""
    config: Any = getattr(root, "config", None)
    if hasattr(config, "to_dict"):
        yield json.dumps(_told(config.to_dict()), sort_keys=True, default=str)
    yield from (f"{name} {how}" for name, parameter in root.named_parameters() if (how := settings_of(parameter)))
    for name, module in root.named_modules():
        kind = type(module).__name__.removeprefix("FSDP")
        if kind not in ("Dropout", "Identity"):  # which of the two stands there follows from the dropout
            said = "" if module._modules.keys() - {SLOT} else module.extra_repr()  # an epsilon, the kind of a GELU
            yield f"{name.replace('._original_component', '')} {kind} {said}"
        if isinstance(getattr(module, "disable_adapters", None), bool):  # a layer of PEFT; of a whole model, a method
            told = {
                key: getattr(module, key, None) for key in ("active_adapters", "disable_adapters", "merged_adapters")
            }
            further = {key: getattr(module, key, None) for key in getattr(module, "other_param_names", ())}
            told |= {key: value for key, value in further.items() if isinstance(value, dict)}
            yield f"{name} {json.dumps(told, sort_keys=True, default=str)}"
        replaced = vars(module).get("forward", type(module).forward)
        if _is_own(module):
            kind_of: Any = type(module)
            settings = {key: value for key, value in vars(module).items() if key not in _written(kind_of)}
            said = {key: part for key, value in settings.items() if (part := _read(key, value)) is not None}
            yield f"{name} {json.dumps(said, sort_keys=True, default=str)}"
            replaced = vars(module).get("forward")
        if replaced is not None and is_foreign(replaced):
            yield f"{name} forward {_told_function(replaced)}"
        note = getattr(module, "note", "")
        if note and isinstance(note, str):
            yield f"{name} {note}"


def _is_own(module: nn.Module) -> bool:
    """Whether the module is no library's."""
    return not type(module).__module__.startswith(LIBRARIES)


def _read(name: str, value: Any) -> Any:
    """What is said of an attribute of a module of one's own; None of what is not read."""
    if BESIDE.match(name) or BESIDE_OWN.match(name):
        return None
    if isinstance(value, numbers.Number | str):
        return value
    if isinstance(value, tuple):
        parts = [_read("", part) for part in value]
        return None if None in parts else parts
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "to_dict"):
        return {key: part for key, of in vars(value).items() if (part := _read(key, of)) is not None}
    return _told_function(value) if inspect.isroutine(value) or isinstance(value, functools.partial) else None


def _told_function(function: Any) -> str:
    """Name and code of a function, the same in every process."""
    bound = ""
    while isinstance(function, functools.partial):
        bound += repr([part for part in (*function.args, *function.keywords.items()) if _read("", part) is not None])
        function = function.func
    code = getattr(function, "__code__", None)
    told = "" if code is None else repr((code.co_code, [c for c in code.co_consts if not hasattr(c, "co_code")]))
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return f"{where} {bound} {hashlib.sha256(told.encode()).hexdigest()}"


@functools.cache
def _written(kind: type) -> frozenset[str]:
    """The attributes that a class's forward writes, and what it calls of the class: state, not settings."""
    left, seen, written = ["forward"], set(), set()
    while left:
        name = left.pop()
        code = getattr(inspect.getattr_static(kind, name, None), "__code__", None)
        if code is None or name in seen:
            continue
        seen.add(name)
        written |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
        left += code.co_names
    return frozenset(written)


def tokenizer_digest(tokenizer: Any) -> str:
    """16 digits that change with how texts become tokens: vocabulary, merges, special tokens and where they stand."""
    if tokenizer is None:
        return "none"
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        said = repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())))
    else:
        text = fast.to_str()
        said = text[text.index('"added_tokens"') :]  # after truncation and padding, which are not used here
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _told(value: Any) -> Any:
    """A configuration, and those within it, without what is beside the logits."""
    if isinstance(value, dict):
        return {str(key): _told(part) for key, part in value.items() if not BESIDE.match(str(key))}
    return [_told(part) for part in value] if isinstance(value, list | tuple) else value
