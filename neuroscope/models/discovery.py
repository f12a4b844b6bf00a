"""Find where a model's neurons are, with no table of families: a tiny input is run once, and the autograd graph is
walked back from every linear layer.

1. From a linear's input, go back through point-wise operations.
2. If every path ends in a matrix product with a parameter, and a non-linearity lies on the way, the linear reads FFN
   neurons, and those parameters are the neurons' input weights (gate, up) with their orientation and fused chunk.
3. If the way back is only reshapes and ends in attention, the linear reads heads.

The output of a linear with packed (quantised) weights ends a way as a matrix product does, whatever it computes inside;
neurons that such a layer reads or makes are found, without weights.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuroscope.models.packed import is_packed, is_packed_linear
from neuroscope.models.sites import Rows, Side

POINTWISE = re.compile(
    r"(Mul|Add|Sub|Div|Pow|Neg|Exp|Clamp\w*|Hardtanh|Minimum|Maximum|Where|Silu\w*|Ge[Ll][Uu]\w*|Relu\w*|LeakyRelu|Elu|Tanh"
    r"|Sigmoid|Erf|Softplus|Mish|ToCopy|Clone|View|UnsafeView|Reshape\w*|Alias|Split\w*|Slice|Select|Unsqueeze|Squeeze"
    r"|NativeDropout)Backward\d*$"
)
LINEAR_IN_X = re.compile(r"Mul|Add|Sub|Div|Copy|Clone|View|Reshape|Alias|Split|Slice|Select|queeze|Dropout")
NORM = re.compile(
    r"(NativeLayerNorm|FusedRmsNorm|RmsNorm|Pow|Mean|Rsqrt|Sqrt|Expand)Backward\d*$"
)  # on the way of neurons
PRODUCT = re.compile(r"(Mm|Addmm|Linear|Convolution)Backward0$")
RESHAPE = re.compile(r"(View|UnsafeView|Reshape\w*|Transpose|Permute|Clone|Alias|ToCopy)Backward\d*$")
AFTER_SOFTMAX = re.compile(r"(View|UnsafeView|Reshape\w*|Clone|Alias|ToCopy|Slice|Expand|NativeDropout)Backward\d*$")
FLIP = re.compile(r"(T|Transpose|Permute)Backward0$")


@dataclass(frozen=True)
class Reader:
    """A linear layer that reads neurons or heads, as the graph shows it."""

    path: str
    module: Any
    weight: tuple[Rows, ...]
    width: int
    ins: dict[str, tuple[Rows, ...]] = field(default_factory=dict)
    gate: tuple[str, Any, int] | None = None  # path, module, first column of the non-linearity's input
    heads: int = 0
    layer: int | None = None  # None: the first number in the path
    side: Side = "input"
    channels_first: bool = False


def discover(root: nn.Module, inputs: dict[str, Tensor]) -> list[Reader]:
    """Find the linears of a model that read FFN neurons or attention heads, by one tiny forward pass.

    Args:
        root: any torch model.
        inputs: keyword arguments of its forward; a few tokens are enough.

    Parameters' `requires_grad` and the model's hooks are as before on return, also after an error.
    """
    outermost: dict[Any, tuple[str, nn.Module, int]] = {}  # LoRA and other wrappers come before what they wrap
    linears: dict[Any, list[tuple[nn.Module, nn.Parameter | None]]] = {}
    producers: dict[int, tuple[str, nn.Module]] = {}
    made: Made = {}
    here = threading.get_ident()

    def note(path: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            if threading.get_ident() != here:  # a forward pass of another thread
                return
            if args and torch.is_tensor(args[0]) and args[0].grad_fn is not None:
                is_conv, is_opaque = _is_pointwise_conv(module), is_packed_linear(module)
                if hasattr(module, "weight") or is_opaque:
                    outermost.setdefault(args[0].grad_fn, (path, module, args[0].shape[-2 if is_conv else -1]))
                weight = module._parameters.get("weight")
                if is_conv:  # on activations alone: its weight has a dimension more than what is trained and compared
                    linears.setdefault(args[0].grad_fn, [])
                elif is_opaque:
                    linears.setdefault(args[0].grad_fn, []).append((module, None))
                elif weight is not None and weight.ndim == 2:
                    linears.setdefault(args[0].grad_fn, []).append((module, weight))
                    producers.setdefault(id(weight), (path, module))

        return hook

    def note_output(path: str) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if threading.get_ident() == here and torch.is_tensor(output) and output.grad_fn is not None:
                made[output.grad_fn] = (path, module)

        return hook

    before = [(p, p.requires_grad) for p in root.parameters()]
    inside = [(n, m) for n, m in root.named_modules() if re.search(r"(^|\.)\d+\.", n)]
    handles = [m.register_forward_pre_hook(note(n)) for n, m in inside]
    handles += [m.register_forward_hook(note_output(n)) for n, m in inside if is_packed_linear(m)]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(not is_packed(parameter))
        with torch.enable_grad():
            output = root(**inputs)  # held, so that no grad_fn is freed and its identity reused
            readers = [_classify(fn, outermost[fn], linears[fn], producers, made) for fn in linears if fn in outermost]
        del output
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)
    return [reader for reader in readers if reader is not None]


def _is_pointwise_conv(module: nn.Module) -> bool:
    """Whether it is a linear layer written as a convolution, on [batch, neuron, pos]."""
    return isinstance(module, nn.Conv1d) and module.kernel_size == (1,) and module.groups == 1


def _classify(fn: Any, place: tuple, linears: list, producers: dict, made: Made) -> Reader | None:
    """What kind of neurons the linears read whose input `fn` made, if any."""
    path, module, width = place
    is_conv = _is_pointwise_conv(module)
    plain = all(w is not None for _, w in linears)
    weight = tuple(Rows(w, 0 if hasattr(m, "nf") else 1, width) for m, w in linears if plain and width in w.shape)
    sources = _sources(fn, made)
    if sources and any(s.nonlinear for s in sources):
        inputs = _inputs(sources, width)
        if not inputs:
            return None
        if is_conv:
            return Reader(path, module, (), width, channels_first=True)
        gate = _gate(inputs, width, producers)
        if not plain or any(s.param is None for s in inputs):  # some of a neuron's weights are not its weights
            return Reader(path, module, (), width, gate=gate)
        return Reader(path, module, weight, width, _input_rows(inputs, width), gate)
    normed = _sources(fn, made, through=NORM)  # neurons that are normed: none has input weights that are its alone
    if normed and any(s.nonlinear for s in normed):
        return Reader(path, module, weight, width, channels_first=is_conv)
    heads = _heads(fn, width)
    return Reader(path, module, weight, width, heads=heads, channels_first=is_conv) if heads else None


@dataclass(frozen=True)
class Source:
    """A parameter that a vector was multiplied by, at the end of a walk back through the graph.

    Of a layer of packed weights there is the layer instead.
    """

    param: nn.Parameter | None
    dim: int
    nonlinear: bool
    chunk: int
    layer: tuple[str, Any] | None = None  # path, module

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from other sources: the parameter, and the chunk of it."""
        return id(self.layer[1] if self.layer else self.param), self.chunk

    @property
    def size(self) -> int:
        """The length of the vector."""
        if self.param is not None:
            return self.param.shape[self.dim]
        assert self.layer is not None
        return self.layer[1].out_features


Made = dict[Any, tuple[str, nn.Module]]  # the node of an output -> path and module of the packed linear that made it


def _sources(
    fn: Any,
    made: Made,
    nonlinear: bool = False,
    chunk: int = 0,
    seen: dict | None = None,
    through: re.Pattern | None = None,
) -> list[Source] | None:
    """The parameters behind a vector, or None if anything but point-wise operations lies between.

    Those that `through` matches may lie between as well, and are no non-linearity.
    """
    seen = {} if seen is None else seen
    if fn in made:
        return [Source(None, 0, nonlinear, chunk, made[fn])]
    name = type(fn).__name__
    if name.startswith("Convolution") and (fn._saved_groups > 1 or fn._saved_weight.shape[2:] != (1,)):
        return None
    if PRODUCT.match(name):
        return _operands(fn, name.startswith("Linear"), nonlinear, chunk)
    is_norm = through is not None and bool(through.match(name))
    if not POINTWISE.match(name) and not is_norm:
        return None
    leaves: list[Source] = []
    for parent, output_index in fn.next_functions:
        passed = nonlinear or not (is_norm or LINEAR_IN_X.search(name))
        if parent is None or seen.get((parent, output_index), -1) >= passed:
            continue
        seen[parent, output_index] = passed
        is_split = type(parent).__name__.startswith("Split")
        if through is not None and type(parent).__name__ == "AccumulateGrad":
            continue  # the norm's own weights
        sources = _sources(parent, made, passed, output_index if is_split else chunk, seen, through)
        if sources is None:
            return None
        leaves += sources
    return leaves


def _operands(fn: Any, is_linear: bool, nonlinear: bool, chunk: int) -> list[Source]:
    """The parameters among the factors of a matrix product, or of a convolution that is one."""
    sources = []
    is_linear = is_linear or type(fn).__name__.startswith("Convolution")
    for parent, _ in fn.next_functions:
        flipped = is_linear
        while FLIP.match(type(parent).__name__):
            parent, flipped = parent.next_functions[0][0], True
        if type(parent).__name__ == "AccumulateGrad":
            param = parent.variable
            sources.append(Source(param, 0 if flipped or param.ndim == 1 else 1, nonlinear, chunk))
    return sources


def _inputs(sources: list[Source], width: int) -> list[Source]:
    """The input projections among the sources, each once."""
    known: dict[tuple[int, int], Source] = {}
    for s in sources:
        known[s.key] = s if s.key not in known or s.nonlinear else known[s.key]
    return [s for s in known.values() if s.size % width == 0]  # else a LoRA factor


def _gate(inputs: list[Source], width: int, producers: dict) -> tuple[str, Any, int] | None:
    """The projection behind the non-linearity: path, module, first column."""
    gate = None
    for s in inputs:
        path, module = producers.get(id(s.param), s.layer) or ("", None)
        if s.nonlinear and module is not None:
            gate = (path, module, s.chunk * width)
    return gate


def _input_rows(inputs: list[Source], width: int) -> dict[str, tuple[Rows, ...]]:
    """Name the input projections: the one behind the non-linearity is the gate, if there is another."""
    gated = not all(s.nonlinear for s in inputs)
    ins: dict[str, tuple[Rows, ...]] = {}
    for s in inputs:
        assert s.param is not None
        role = "in" if not gated else "gate" if s.nonlinear else "up"
        role += ".bias" if s.param.ndim == 1 else ""
        ins[role] = (*ins.get(role, ()), Rows(s.param, s.dim, width, s.chunk * width))
    return ins


def _heads(fn: Any, width: int) -> int:
    """The number of heads if the vector is attention's output reshaped, else 0."""
    while RESHAPE.match(type(fn).__name__):
        fn = fn.next_functions[0][0]
    name = type(fn).__name__
    is_attention = bool(re.search(r"Attention|Attn", name)) or (name == "BmmBackward0" and _reads_softmax(fn))
    if not is_attention:
        return 0
    d_head = fn._input_metadata[0].shape[-1]
    return width // d_head if width % d_head == 0 else 0


def _reads_softmax(fn: Any) -> bool:
    """Whether the first factor of a batched matrix product is a softmax: an attention pattern."""
    pattern = fn.next_functions[0][0]
    while pattern is not None and AFTER_SOFTMAX.match(type(pattern).__name__):
        pattern = pattern.next_functions[0][0]
    return pattern is not None and "Softmax" in type(pattern).__name__
