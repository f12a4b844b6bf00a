"""What is asked of `attribute`, as one frozen value that is checked when it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from neuroscope.attribution.objectives import OBJECTIVES, Measure, Objective
from neuroscope.attribution.reductions import SIGNED
from neuroscope.checks import Progress, flag
from neuroscope.errors import ArgumentError, choose, suggest
from neuroscope.models import UNITS, Model, Unit

Split = Literal["train", "discovery", "test"]
Sign = Literal["both", "+", "-"]


@dataclass(frozen=True)
class Method:
    """A way to score neurons: a row of `METHODS`.

    Attributes:
        name: what users call it.
        run: called with a `Scoring` and the method's own options; returns sums over examples by address, or adds to
            `scoring.sums`.
        reductions: those it can do, the default first.
        corrupt: whether each example needs its corrupt prompt.
        together: whether it scores all tasks at once (then it is called with a dict of `Scoring`s by task).
        additive: whether what it returns are sums over this process's examples, which `attribute` adds up over
            processes; otherwise the method has seen to that.
        partial: whether it may leave neurons without a score, as NaN.
        by_token: whether its scores are sums over tokens, which `Scoring.reduce` is given.
        checks: by option, what makes its value the one that the method is given and manifests name, or refuses it.
    """

    name: str
    run: Callable[..., Any]
    reductions: tuple[str, ...]
    corrupt: bool = False
    together: bool = False
    additive: bool = True
    partial: bool = False
    by_token: bool = False
    checks: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict, hash=False)

    @property
    def options(self) -> dict[str, Any]:
        """The method's own keyword arguments, with their defaults (`inspect.Parameter.empty`: it must be given)."""
        return {name: p.default for name, p in list(inspect.signature(self.run).parameters.items())[1:]}


@dataclass(frozen=True)
class Request:
    """How neurons are to be scored; the arguments of `attribute` that are neither model nor task.

    A sign is a matter of the signed reduction: `sign="+"` is `reduction="signed"`, and `sign="-"` is minus that.

    Raises:
        ArgumentError: an unknown objective, reduction, unit, split, sign or option, or a sign where there is none.
    """

    method: Method
    objective: Objective | Measure = "loss"
    reduction: str = ""  # the method's default if empty
    unit: Unit = "hidden"
    examples: int | None = None
    split: Split = "discovery"
    batch_size: int | None = None
    seed: int = 0
    progress: Progress | None = field(default=None, compare=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    sign: Sign = "both"
    skip_first: bool = False
    of_prompt: bool = False  # of one prompt, whose tokens are told apart where the method can

    def __post_init__(self) -> None:
        if not self.of_prompt or not callable(self.objective):
            if callable(self.objective):
                do = "give one prompt, ns.attribute(model, 'The capital of France is', objective=...), or a name"
                raise ArgumentError("objective=a function", "tasks in place of one prompt", do)
            choose(self.objective, OBJECTIVES, "objective")
        if flag(self.skip_first, "skip_first") and not self.method.by_token:
            do = "leave skip_first out, or take a method whose scores are sums over tokens, such as 'grad-x-act'"
            raise ArgumentError(f"skip_first=True with method={self.method.name!r}", "scores that are no such sums", do)
        signed = not self._sign_is_free() or (self.of_prompt and SIGNED in self.method.reductions)
        default = SIGNED if signed else self.method.reductions[0]
        reduction = choose(self.reduction or default, self.method.reductions, "reduction")
        object.__setattr__(self, "reduction", reduction)
        if reduction == SIGNED and self.sign == "both":
            object.__setattr__(self, "sign", "+")
        choose(self.unit, UNITS, "unit")
        choose(self.split, ("train", "discovery", "test"), "split")
        unknown = next((name for name in self.options if name not in self.method.options), None)
        if unknown is not None:
            fields = [name for name in inspect.signature(Request).parameters if name not in ("options", "of_prompt")]
            known = ["model", "tasks", "answer", "foil", *fields, *self.method.options]
            asked = f"attribute(method={self.method.name!r}, {unknown}=...)"
            raise ArgumentError(asked, "no such option", suggest(unknown, known))
        options = self.method.options | dict(self.options)
        missing = [name for name, value in options.items() if value is inspect.Parameter.empty]
        if missing:
            asked = f"attribute(method={self.method.name!r})"
            raise ArgumentError(asked, f"no {missing[0]}", f"give {missing[0]}=...: see the method's description")
        checks = self.method.checks
        object.__setattr__(self, "options", {n: checks[n](v) if n in checks else v for n, v in options.items()})

    def _sign_is_free(self) -> bool:
        """Whether no sign is asked for.

        Raises:
            ArgumentError: an unknown sign, or one that the method or the reduction does not have.
        """
        if choose(self.sign, get_args(Sign), "sign") == "both":
            return True
        asked = f"sign={self.sign!r} with"
        if SIGNED not in self.method.reductions:
            found = "scores that are no change of a loss, so that none helps or hurts"
            do = 'leave sign out, or take a method that has reduction="signed", such as "grad-x-act" or "exact"'
            raise ArgumentError(f"{asked} method={self.method.name!r}", found, do)
        if self.reduction not in ("", SIGNED):
            found = "a reduction that takes absolute values before the examples are added up"
            raise ArgumentError(f"{asked} reduction={self.reduction!r}", found, "leave one of the two out")
        return False

    @property
    def identity(self) -> tuple[object, ...]:
        """What changes the scores, as values whose `repr` says all there is to say."""
        options = {name: _told(value) for name, value in self.options.items()}
        settings = self.objective_name, self.reduction, self.unit, self.examples, self.split, self.seed, self.sign
        return self.method.name, *settings, self.skip_first, options

    @property
    def objective_name(self) -> str:
        """What the objective is called."""
        return self.objective if isinstance(self.objective, str) else getattr(self.objective, "__name__", "a function")

    def in_manifest(self) -> dict[str, Any]:
        """What the manifest of scores says of the request."""
        plain = (int, float, str, type(None))
        options = {k: v if isinstance(v, plain) else repr(_named(v)) for k, v in self.options.items()}
        return {
            "method": self.method.name,
            "objective": self.objective_name,
            "reduction": self.reduction,
            "sign": self.sign,
            "split": self.split,
            "seed": self.seed,
            "options": options,
            **({"skip_first": True} if self.skip_first else {}),
        }


def _named(value: Any) -> Any:
    """A model by what tells it from others, anything else as it is."""
    return {"name": value.name, **value.identity()} if isinstance(value, Model) else value


def _told(value: Any) -> Any:
    """A value of which `repr` says all there is to say."""
    return _named(value) if isinstance(value, Model) else getattr(value, "identity", value)
