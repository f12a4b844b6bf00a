"""How much each neuron matters to a task: one call, a literal table of methods."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.attribution.activations import activation, chance, lape
from neuroscope.attribution.exact import exact
from neuroscope.attribution.gradients import attribution_patching, grad_x_act, integrated_gradients
from neuroscope.attribution.relp import relp
from neuroscope.attribution.setup import OBJECTIVES, REDUCTIONS, Progress, Setup
from neuroscope.attribution.weights import weight_x_grad
from neuroscope.checks import public
from neuroscope.errors import ArgumentError, choose, suggest
from neuroscope.masks import Scores
from neuroscope.models import Model, resolve
from neuroscope.tasks.prompts import batches, encode, pad_id
from neuroscope.tasks.task import Task, check_task

__all__ = ["METHODS", "OBJECTIVES", "Method", "attribute"]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        run: called with a `Setup` and the method's own options; returns sums over examples, or adds to `setup.sums`.
        reductions: those it can do, the default first.
        corrupt: whether each example needs its corrupt prompt.
        together: whether it sees all tasks at once (then it is called with a dict of setups).
        additive: whether what it returns are sums over this process's examples, which `attribute` adds up over
            processes; otherwise the method has seen to that.
    """

    run: Callable[..., Any]
    reductions: tuple[str, ...]
    corrupt: bool = False
    together: bool = False
    additive: bool = True

    @property
    def options(self) -> list[str]:
        """The method's own keyword arguments."""
        return list(inspect.signature(self.run).parameters)[1:]


METHODS: dict[str, Method] = {
    "grad-x-act": Method(lambda setup: grad_x_act(setup), tuple(REDUCTIONS)),
    "integrated-gradients": Method(integrated_gradients, tuple(REDUCTIONS)),
    "attribution-patching": Method(attribution_patching, tuple(REDUCTIONS), corrupt=True),
    "relp": Method(relp, tuple(REDUCTIONS)),
    "weight-x-grad": Method(weight_x_grad, ("abs_of_sum", "signed")),
    "activation": Method(activation, ("mean_abs",), additive=False),
    "lape": Method(lape, ("entropy",), together=True, additive=False),
    "random": Method(chance, ("none",), additive=False),
    "exact": Method(exact, ("abs_of_sum", "signed")),
}


@overload
def attribute(model: Any, task: Task, **kwargs: Any) -> Scores: ...
@overload
def attribute(model: Any, task: Mapping[str, Task], **kwargs: Any) -> dict[str, Scores]: ...
@public
def attribute(
    model: Any,
    task: Task | Mapping[str, Task],
    *,
    method: str = "grad-x-act",
    objective: str = "loss",
    reduction: str | None = None,
    unit: str = "hidden",
    examples: int | None = None,
    split: str = "discovery",
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Scores | dict[str, Scores]:
    """Score every neuron of a model for a task (LX24 §3.1, Eq. 2, 3, 9).

    The scored quantity is a loss, the mean over an example's *answer* tokens (prompt and padding are not scored):
    cross-entropy in nats, or minus log-odds, which does not saturate where the model is certain.

    Under an initialised torch.distributed process group, each process takes its share of the examples, and all return
    the scores of the whole; every process must make the same call.

    Args:
        model: anything that can be opened.
        task: a task, or a dict of tasks (then the result is a dict).
        method: "grad-x-act" (LX24), "integrated-gradients" (option `steps`), "attribution-patching" (needs corrupt
            prompts), "relp", "weight-x-grad", "activation", "lape" (needs a dict of tasks; option `quantile`),
            "random", or "exact" (option `neurons`: a mask or a number to sample).
        objective: "loss" (LX24) or "log-odds".
        reduction: over tokens and examples. "abs_of_sum" (default): |sum over an example's tokens|, mean over examples:
            the first-order effect of ablating the neuron at every token. "sum_of_abs": sum over tokens of absolute
            values, mean over examples. "signed": minus the sum, mean over examples: positive where removing the neuron
            would raise the loss, so the neuron helps.
        unit: "hidden" (FFN neurons), "output" (FFN output units) or "head" (attention heads).
        examples: how many (None: all) of the split.
        split: neurons are found on "discovery" examples and judged on "test" ones.
        batch_size: examples per forward pass; it does not change the result but to rounding.
        seed: for what is random ("random", sampled "exact").
        progress: called as `progress(iterable, desc=, unit=)`; `tqdm` fits.

    Returns:
        `Scores`: address -> float tensor `[width]`, with the method, reduction, number of examples and tokens, model
        and data in its manifest.

    Raises:
        ArgumentError: unknown method, objective, reduction, unit or option.
        ModelError, TaskError: what the model or the task cannot do; the text says what to do.
        NumericalError: a loss or a score that is not finite.

    Example:
        >>> scores = attribute("mini", load_tasks("mini")["sentiment-food"], examples=8)  # doctest: +SKIP
        >>> scores.top(0.10)  # doctest: +SKIP
        NeuronMask(205 of 2,048 hidden neurons for sentiment-food, 10.0%)
    """
    entry = METHODS[choose(method, METHODS, "method")]
    choose(objective, OBJECTIVES, "objective")
    reduction = choose(reduction or entry.reductions[0], entry.reductions, "reduction")
    for name in options:
        if name not in entry.options:
            known = [*inspect.signature(attribute).parameters, *entry.options]
            raise ArgumentError(f"attribute(method={method!r}, {name}=...)", "no such option", suggest(name, known))
    model = resolve(model)
    several = isinstance(task, Mapping)
    for one in task.values() if isinstance(task, Mapping) else [task]:
        check_task(one, "attribute")
    if several and not task:
        raise ArgumentError("attribute(model, {})", "no task", "give a task, or a dict with one task or more")
    if entry.together and not several:
        raise ArgumentError(f"method={method!r} on one task", "a score between tasks", "give a dict of tasks")
    tasks = dict(task) if isinstance(task, Mapping) else {task.name: task}
    settings = (method, objective, reduction, unit, examples, split, seed, options)
    with (
        torch.inference_mode(False), torch.enable_grad(), model.quiet(),  # the caller may stand in no_grad()
        _with_others(model, tasks, settings),
    ):  # fmt: skip
        setups = {
            name: _setup(model, t, entry, objective, reduction, unit, examples, split, batch_size, seed, progress)
            for name, t in tasks.items()
        }
        values = _values(entry, setups, options)
        means = {name: setup.means() for name, setup in setups.items()}
    scores = {
        name: _scores(setup, values[name], means[name], method, entry.together, options, split)
        for name, setup in setups.items()
    }
    return scores if several else scores[next(iter(scores))]


@contextlib.contextmanager
def _with_others(model: Model, tasks: Mapping[str, Task], settings: tuple) -> Iterator[None]:
    """A scope in which the processes of a group share the examples, if there is one."""
    with contextlib.ExitStack() as stack:
        if distributed.has_shards(model.root):  # a pass needs every process: each does all of them
            stack.enter_context(distributed.apart())
        elif distributed.world()[1] > 1:
            *others, options = settings
            given = {name: getattr(value, "identity", value) for name, value in options.items()}
            about = (*others, given, model.fingerprint(), {name: task.data_hash for name, task in tasks.items()})
            stack.enter_context(distributed.together(f"attribute(method={settings[0]!r})", *about))
        yield


def _setup(
    model: Model, task: Task, entry: Method, objective: str, reduction: str, unit: str, examples: int | None,
    split: str, batch_size: int, seed: int, progress: Progress | None,
) -> Setup:  # fmt: skip
    chosen = task.split(split, examples)
    encoded = encode(model, task, chosen, corrupt=entry.corrupt)
    longest = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].inputs))
    own = distributed.share(longest)  # the processes' shares have about as many tokens
    part = [encoded[i] for i in own] if len(own) < len(encoded) else encoded
    cut = list(batches(part, batch_size, pad_id(model.tokenizer), model.device, model.style))
    if part is not encoded:
        cut = [replace(b, index=torch.tensor(own).to(b.index)[b.index]) for b in cut]
    counts = len(encoded), sum(len(item.answer) for item in encoded)
    return Setup(model, task, model.sites(unit), cut, objective, reduction, seed, progress, counts)


def _values(entry: Method, setups: dict[str, Setup], options: dict) -> dict[str, dict[str, Tensor]]:
    """What the method finds for each task, over the examples of all processes."""
    if entry.together:
        return entry.run(setups, **options)
    values = {}
    for name, setup in setups.items():
        found = entry.run(setup, **options)
        found = setup.sums.relevance if found is None else found
        values[name] = setup.total(found) if entry.additive else found
    return values


def _scores(
    setup: Setup, sums: dict[str, Tensor], means: dict[str, Tensor], method: str, averaged: bool, options: dict,
    split: str,
) -> Scores:  # fmt: skip
    n = 1 if averaged else setup.n_examples
    relevance = {
        a: (sums[a].detach().float().cpu() / n if a in sums else torch.zeros(s.width)) for a, s in setup.sites.items()
    }
    n_scored = sum(int((~torch.isnan(v)).sum()) for v in relevance.values())
    manifest = {
        "method": method,
        "objective": setup.objective,
        "reduction": setup.reduction,
        "task": setup.task.name,
        "data_hash": setup.task.data_hash,
        "split": split,
        "examples": setup.n_examples,
        "tokens": setup.n_tokens,
        "seed": setup.seed,
        "options": {k: v if isinstance(v, (int, float, str)) else repr(v) for k, v in options.items()},
        **setup.model.provenance(),
        "versions": files.versions(),
    }
    if method == "exact" and n_scored < sum(len(v) for v in relevance.values()):
        manifest["n_scored"] = n_scored
    widths = {a: s.width for a, s in setup.sites.items()}
    return Scores(relevance, widths, next(iter(setup.sites.values())).unit, manifest, means or None)
