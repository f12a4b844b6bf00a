"""Activations as every measure takes them: examples in rows, in float64, finite, and not all the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuroscope.arrays import lost_meaning
from neuroscope.checks import by_text
from neuroscope.errors import ArgumentError, NumericalError, kind_of

FEWEST = 4  # examples: the unbiased HSIC divides by n - 3
NOT_FINITE = "non-finite activations"
CONSTANT = "constant activations (zero variance)"
ADVICE = {
    NOT_FINITE: "leave those examples out knowingly, or find out where they come from",
    CONSTANT: "all examples are the same there: nothing can be compared",
}


class Examples(NamedTuple):
    """Activations of one layer.

    Attributes:
        values: [example, feature], float64, as given (not centred).
        eps: of the type that they came in: what their last digit is worth.
    """

    values: Float[Tensor, "n d"]
    eps: float

    @property
    def centred(self) -> Float[Tensor, "n d"]:
        """Every feature's mean over the examples taken away."""
        return self.values - self.values.mean(0)


def examples(x: Any, what: str) -> Examples:
    """Check activations and make a float64 copy of them.

    Raises:
        ArgumentError: not two-dimensional, not real numbers, or fewer than four examples.
        NumericalError: not finite, or constant over all examples.
    """
    return checked(as_examples(x, what), what)


def as_examples(x: Any, what: str) -> Examples:
    """A float64 copy on the same device; its numbers are not looked at."""
    values = as_batch(x, what)
    if len(values) < FEWEST:
        raise ArgumentError(what, f"{len(values)} examples", f"give {FEWEST} examples or more")
    return Examples(values, _eps(x))


def as_batch(x: Any, what: str) -> Float[Tensor, "n d"]:
    """A float64 copy, [example, feature]; any number of examples but none."""
    values = real(x, what)
    if isinstance(values, Tensor):
        values = values.detach().to("cpu" if values.device.type == "mps" else values.device, torch.float64)
    else:
        values = torch.from_numpy(np.array(values, dtype=np.float64))  # copied: a file mapped for reading is not shared
    if values.ndim != 2 or 0 in values.shape:
        raise ArgumentError(what, f"activations of shape {tuple(values.shape)}", "give [example, feature]")
    return values


def real(x: Any, what: str) -> Any:
    """An array of real numbers: of torch as it is, anything else as numpy's; of a mapped file, nothing is read."""
    do = "give an array of real numbers"
    if isinstance(x, Mapping):
        raise ArgumentError(what, "a mapping", "compare(a, b) and dimensions(a) take task -> [layer, example, feature]")
    try:
        array = x if isinstance(x, Tensor) else np.asanyarray(x)
    except Exception as error:  # rows of different lengths, tensors on a GPU, or somebody else's object
        raise ArgumentError(what, str(error), do) from None
    if array.is_complex() if isinstance(array, Tensor) else array.dtype.kind not in "fiub":
        raise ArgumentError(what, f"activations of type {array.dtype} ({kind_of(x)})", do)
    problem = lost_meaning(array)
    if problem:
        raise ArgumentError(what, *problem)
    return array


def names_of(reps: Any, asked: str) -> list[str]:
    """The tasks of a mapping task -> activations."""
    do = "give a mapping task -> array [layer, example, feature], as Representations are"
    try:
        names = list(by_text(reps, "task", do))
    except ArgumentError as error:
        raise ArgumentError(asked, error.found, error.do) from None
    if not names:
        raise ArgumentError(asked, "no tasks", do)
    return names


def shape(array: Any, what: str) -> tuple[int, int, int]:
    """Layers, examples and features of a task."""
    sizes = tuple(real(array, what).shape)
    if len(sizes) != 3 or 0 in sizes:
        raise ArgumentError(what, f"shape {sizes}", "give [layer, example, feature]")
    layers, n, width = sizes
    if n < FEWEST:
        raise ArgumentError(what, f"{n} examples", f"give {FEWEST} examples or more")
    return layers, n, width


def _eps(x: Any) -> float:
    if isinstance(x, Tensor):
        return float(torch.finfo(x.dtype if x.dtype.is_floating_point else torch.float64).eps)
    dtype = np.asarray(x).dtype
    return float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)


def checked(x: Examples, what: str) -> Examples:
    """Refuse numbers that cannot be compared."""
    mean, largest = x.values.mean(0), (x.values - x.values.mean(0)).abs().max()
    problem = fault(mean, float(largest))
    if problem:
        raise NumericalError(what, problem, ADVICE[problem])
    return x


def fault(mean: Float[Tensor, " d"], largest: float) -> str:
    """What is wrong with activations of this mean and this largest difference from it; "" if nothing is."""
    if not (bool(torch.isfinite(mean).all()) and np.isfinite(largest)):
        return NOT_FINITE
    rounding = 8 * torch.finfo(torch.float64).eps * float(mean.abs().max())
    return CONSTANT if largest <= rounding else ""


def pair(x: Any, y: Any, what: str) -> tuple[Examples, Examples]:
    """Two arrays over the same examples."""
    first, second = examples(x, f"{what}, x"), examples(y, f"{what}, y")
    same_examples(len(first.values), len(second.values), what)
    if first.values.device != second.values.device:
        second = second._replace(values=second.values.to(first.values.device))
    return first, second


def same_examples(n: int, m: int, what: str) -> None:
    """Refuse to compare different numbers of examples."""
    if n != m:
        raise ArgumentError(what, f"{n} and {m} examples", "give the same examples in the same order")
