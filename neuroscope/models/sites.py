"""Where a model's neurons are, and the one primitive that edits them.

A *site* is a vector of neurons at one place of a model: the input of an FFN's output projection (hidden neurons), that
projection's output (output units), or the input of attention's output projection (heads). Dense sites are found by
running a tiny input once and walking the autograd graph back from every linear layer, with no table of families:

1. from a linear's input, go back through point-wise operations;
2. if every path ends in a matrix product with a parameter, and a non-linearity lies on the way, the linear reads FFN
   neurons, and those parameters are the neurons' input weights (gate, up) with their orientation and fused chunk;
3. if the way back is only reshapes and ends in attention, the linear reads heads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

POINTWISE = re.compile(
    r"(Mul|Add|Sub|Div|Pow|Neg|Exp|Clamp\w*|Hardtanh|Minimum|Maximum|Where|Silu\w*|Ge[Ll][Uu]\w*|Relu\w*|LeakyRelu|Elu|Tanh"
    r"|Sigmoid|Erf|Softplus|Mish|ToCopy|Clone|View|UnsafeView|Reshape\w*|Alias|Split\w*|Slice|Select|Unsqueeze|Squeeze"
    r"|NativeDropout)Backward\d*$"
)
LINEAR_IN_X = re.compile(r"Mul|Add|Sub|Div|Copy|Clone|View|Reshape|Alias|Split|Slice|Select|queeze|Dropout")
PRODUCT = re.compile(r"(Mm|Addmm|Linear)Backward0$")
RESHAPE = re.compile(r"(View|UnsafeView|Reshape\w*|Transpose|Permute|Clone|Alias|ToCopy)Backward\d*$")
AFTER_SOFTMAX = re.compile(r"(View|UnsafeView|Reshape\w*|Clone|Alias|ToCopy|Slice|Expand|NativeDropout)Backward\d*$")
FLIP = re.compile(r"(T|Transpose|Permute)Backward0$")


@dataclass(frozen=True)
class Rows:
    """The slice of a parameter that holds each neuron's weights: neuron j is `select(dim, start + step * j)`.

    `lead` indexes the leading dimensions first (the expert of a stacked parameter).
    """

    param: nn.Parameter
    dim: int
    n: int
    start: int = 0
    step: int = 1
    lead: tuple[int, ...] = ()

    def view(self, like: Tensor | None = None) -> Float[Tensor, "... neuron"]:
        """The neurons' entries of the parameter, or of a tensor shaped like it (its gradient), neurons last."""
        tensor = self.param if like is None else like
        tensor = tensor[self.lead] if self.lead else tensor
        last = tensor.movedim(self.dim - len(self.lead), -1)
        return last[..., self.start : self.start + self.step * self.n : self.step]


@dataclass(frozen=True, eq=False)
class Site:
    """One vector of neurons.

    Attributes:
        address: TransformerLens name, the same on every backend, such as `blocks.3.mlp.hook_post`.
        path: dotted path of the module in the Hugging Face model, such as `model.layers.3.mlp.down_proj`.
        module: the module that is hooked.
        width: number of neurons.
        layer: index of the block.
        unit: "hidden", "output" or "head".
        side: whether the vector is the module's "input" or its "output".
        group: coordinates per neuron: 1, or the head dimension.
        out: rows of the output projection, one per neuron; empty where parameters are not reachable.
        ins: rows of the input projections by role ("gate", "up", "in", and each with ".bias").
        gate: the site of the non-linearity's input, for scores that ask whether a gated neuron is open.
        expert: index of the expert, in a mixture.
    """

    address: str
    path: str
    module: nn.Module = field(repr=False)
    width: int
    layer: int
    unit: str = "hidden"
    side: str = "input"
    group: int = 1
    out: tuple[Rows, ...] = field(default=(), repr=False)
    ins: dict[str, tuple[Rows, ...]] = field(default_factory=dict, repr=False)
    gate: Site | None = field(default=None, repr=False)
    expert: int | None = None

    @property
    def nnsight_path(self) -> str:
        """The same place as an expression on an nnsight model: `model.layers[3].mlp.down_proj.input`."""
        # nnsight calls a submodule `E_output` where `output` would hide its own attribute (BERT has such)
        path = re.sub(r"(?<=\.)(inputs?|output|source)(?=\.|$)", r"E_\1", self.path)
        return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path) + f".{self.side}"

    def per_unit(self, x: Float[Tensor, "... coordinate"]) -> Float[Tensor, "... neuron"]:
        """Sum a quantity over the coordinates of each neuron (nothing to do unless a neuron is a head)."""
        return x if self.group == 1 else x.unflatten(-1, (self.width, self.group)).sum(-1)

    def coordinates(self, neurons: Int[Tensor, " chosen"]) -> Int[Tensor, " coordinate"]:
        """The coordinates of the vector that belong to these neurons."""
        if self.group == 1:
            return neurons
        return (neurons[:, None] * self.group + torch.arange(self.group, device=neurons.device)).flatten()


Edit = Callable[[Site, Tensor, "Tensor | None"], "Tensor | None"]
LEVEL: ContextVar[int] = ContextVar("level", default=0)  # edits made at another level rest


@contextlib.contextmanager
def unedited() -> Iterator[None]:
    """A scope in which the edits around it rest, so that a model is opened as it is inside an intervention too."""
    token = LEVEL.set(LEVEL.get() + 1)
    try:
        yield
    finally:
        LEVEL.reset(token)


class edit(contextlib.AbstractContextManager[None]):
    """Run `function` on every site's vector in each forward pass within the scope. Everything else is built on this.

    Args:
        sites: where.
        function: called as `function(site, h, tokens)`; `h` is `[batch, pos, coordinate]`, or `[token, coordinate]` in
            models that flatten tokens, then with `tokens` the flat indices of the rows (None: all, in order). It
            returns the new vector, or None to leave `h` as it is.

    The hooks are gone on exit, also after an error. A scope can be entered again, and within itself.
    """

    def __init__(self, sites: Iterable[Site], function: Edit) -> None:
        self._sites, self._function = tuple(sites), function
        self._entered: list[list[Any]] = []

    def __enter__(self) -> None:
        handles: list[Any] = []
        self._entered.append(handles)
        try:
            for site in self._sites:
                handles.append(_hook(site, self._function))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: Any) -> None:
        for handle in self._entered.pop():
            handle.remove()


def _hook(site: Site, live: Edit) -> Any:
    level = LEVEL.get()

    def function(site: Site, h: Tensor, tokens: Tensor | None) -> Tensor | None:
        return live(site, h, tokens) if LEVEL.get() == level else None

    def on_input(module: nn.Module, args: tuple) -> tuple | None:
        new = function(site, args[0], args[1] if site.expert is not None else None)
        return None if new is None else (new, *args[1:])

    def on_output(module: nn.Module, args: tuple, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        new = function(site, h, None)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

    if site.side == "input":
        return site.module.register_forward_pre_hook(on_input)
    return site.module.register_forward_hook(on_output)


@dataclass(frozen=True)
class Found:
    """A linear layer that reads neurons or heads, as the graph shows it."""

    path: str
    module: Any
    weight: tuple[Rows, ...]
    width: int
    ins: dict[str, tuple[Rows, ...]] = field(default_factory=dict)
    gate: tuple[str, Any, int] | None = None  # path, module, first column of the non-linearity's input
    heads: int = 0


def discover(root: nn.Module, inputs: dict[str, Tensor]) -> list[Found]:
    """Find the linears of a model that read FFN neurons or attention heads, by one tiny forward pass.

    Args:
        root: any torch model.
        inputs: keyword arguments of its forward; a few tokens are enough.

    Parameters' `requires_grad` and the model's hooks are as before on return, also after an error.
    """
    outermost: dict[Any, tuple[str, nn.Module, int]] = {}  # LoRA and other wrappers come before what they wrap
    readers: dict[Any, list[tuple[nn.Module, nn.Parameter]]] = {}
    producers: dict[int, tuple[str, nn.Module]] = {}

    def note(path: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            if args and torch.is_tensor(args[0]) and args[0].grad_fn is not None:
                if hasattr(module, "weight"):
                    outermost.setdefault(args[0].grad_fn, (path, module, args[0].shape[-1]))
                weight = module._parameters.get("weight")
                if weight is not None and weight.ndim == 2:
                    readers.setdefault(args[0].grad_fn, []).append((module, weight))
                    producers.setdefault(id(weight), (path, module))

        return hook

    before = [(p, p.requires_grad) for p in root.parameters()]
    handles = [m.register_forward_pre_hook(note(n)) for n, m in root.named_modules() if re.search(r"\.\d+\.", n)]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            output = root(**inputs)  # held, so that no grad_fn is freed and its identity reused
            found = [_classify(fn, outermost[fn], readers[fn], producers) for fn in readers if fn in outermost]
        del output
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)
    return [f for f in found if f is not None]


def _classify(fn: Any, place: tuple, linears: list, producers: dict) -> Found | None:
    path, module, width = place
    weight = tuple(Rows(w, 0 if hasattr(m, "nf") else 1, width) for m, w in linears if width in w.shape)
    sources = _sources(fn)
    if sources and any(s.nonlinear for s in sources):
        ins, gate = _input_rows(sources, width, producers)
        return Found(path, module, weight, width, ins, gate) if ins else None
    heads = _heads(fn, width)
    return Found(path, module, weight, width, heads=heads) if heads else None


@dataclass(frozen=True)
class Source:
    """A parameter that a vector was multiplied by, at the end of a walk back through the graph."""

    param: nn.Parameter
    dim: int
    nonlinear: bool
    chunk: int


def _sources(fn: Any, nonlinear: bool = False, chunk: int = 0, seen: dict | None = None) -> list[Source] | None:
    """The parameters behind a vector, or None if anything but point-wise operations lies between."""
    seen = {} if seen is None else seen
    name = type(fn).__name__
    if PRODUCT.match(name):
        return _operands(fn, name.startswith("Linear"), nonlinear, chunk)
    if not POINTWISE.match(name):
        return None
    found: list[Source] = []
    for parent, output_index in fn.next_functions:
        passed = nonlinear or not LINEAR_IN_X.search(name)
        if parent is None or seen.get((parent, output_index), -1) >= passed:
            continue
        seen[parent, output_index] = passed
        is_split = type(parent).__name__.startswith("Split")
        sources = _sources(parent, passed, output_index if is_split else chunk, seen)
        if sources is None:
            return None
        found += sources
    return found


def _operands(fn: Any, is_linear: bool, nonlinear: bool, chunk: int) -> list[Source]:
    found = []
    for parent, _ in fn.next_functions:
        flipped = is_linear
        while FLIP.match(type(parent).__name__):
            parent, flipped = parent.next_functions[0][0], True
        if type(parent).__name__ == "AccumulateGrad":
            param = parent.variable
            found.append(Source(param, 0 if flipped or param.ndim == 1 else 1, nonlinear, chunk))
    return found


def _input_rows(sources: list[Source], width: int, producers: dict) -> tuple[dict, tuple | None]:
    """Name the input projections: the one behind the non-linearity is the gate, if there is another."""
    groups: dict[tuple[int, int], Source] = {}
    for s in sources:
        known = groups.get((id(s.param), s.chunk))
        groups[id(s.param), s.chunk] = s if known is None or s.nonlinear else known
    groups = {key: s for key, s in groups.items() if s.param.shape[s.dim] % width == 0}  # else a LoRA factor
    gated = not all(s.nonlinear for s in groups.values())
    ins: dict[str, tuple[Rows, ...]] = {}
    gate = None
    for s in groups.values():
        role = "in" if not gated else "gate" if s.nonlinear else "up"
        if s.nonlinear and id(s.param) in producers:
            gate = (*producers[id(s.param)], s.chunk * width)
        role += ".bias" if s.param.ndim == 1 else ""
        ins[role] = (*ins.get(role, ()), Rows(s.param, s.dim, width, s.chunk * width))
    return ins, gate


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
    pattern = fn.next_functions[0][0]
    while pattern is not None and AFTER_SOFTMAX.match(type(pattern).__name__):
        pattern = pattern.next_functions[0][0]
    return pattern is not None and "Softmax" in type(pattern).__name__
