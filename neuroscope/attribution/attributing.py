"""How much each neuron matters to a task: from the call to scores, whatever the method."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from neuroscope import distributed, files
from neuroscope.attribution.methods import METHODS
from neuroscope.attribution.objectives import Measure, Objective, needs_foil
from neuroscope.attribution.request import Request, Sign, Split
from neuroscope.attribution.scoring import CERTAIN, Scoring
from neuroscope.checks import Progress, public
from neuroscope.errors import ArgumentError, ByName, choose, kind_of
from neuroscope.masks import Scores
from neuroscope.models import Model, Unit, resolve
from neuroscope.models.running import refuse_without_gradients
from neuroscope.tasks import Task, tasks_of
from neuroscope.tasks.encoding import batches_for, encode
from neuroscope.tasks.foils import first_token, foils
from neuroscope.tasks.one_prompt import is_prompt, mind_missing_space, task_of_prompt, whole_prompt
from neuroscope.tasks.prompts import fitting, how_asked

ByAddress = Mapping[str, Tensor]


@overload
def attribute(model: Any, tasks: Task | str, **kwargs: Any) -> Scores: ...
@overload
def attribute(model: Any, tasks: Sequence[Task] | Mapping[str, Task], **kwargs: Any) -> dict[str, Scores]: ...
@public
def attribute(
    model: Any,
    tasks: Task | Sequence[Task] | Mapping[str, Task] | str | Sequence[Mapping[str, str]],
    *,
    answer: str | None = None,
    foil: str | None = None,
    method: str = "grad-x-act",
    objective: Objective | Measure = "loss",
    reduction: str | None = None,
    unit: Unit = "hidden",
    examples: int | None = 256,
    split: Split = "discovery",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    sign: Sign = "both",
    skip_first: bool = False,
    **options: Any,
) -> Scores | dict[str, Scores]:
    """Score every neuron of a model for a task (LX24 §3.1, Eq. 2, 3, 9), or for one prompt.

    The scored quantity is a loss, the mean over an example's *answer* tokens (prompt and padding are not scored):
    cross-entropy in nats; or minus log-odds, which does not saturate where the model is certain; or minus the
    difference of two logits, the answer's and a foil's, at the first token, as in `patch_sweep`.

    Under an initialised torch.distributed process group, each process takes its share of the examples, and all return
    the scores of the whole; every process must make the same call.

    Args:
        model: anything that can be opened.
        tasks: a Task, or a sequence or a mapping of them (then the result is a dict); or one prompt: a text, or the
            messages of a chat ({"role": ..., "content": ...}), which the tokenizer's chat template shows.
        answer: of one prompt, the text that should follow, with the space that it begins with, such as " Paris"
            (a warning says where it seems forgotten).
        foil: of one prompt, another answer, such as " London": the objective is then "logit-difference".
        method: "grad-x-act" (LX24), "integrated-gradients" (option `steps`), "attribution-patching" (needs corrupt
            prompts; options `direction`, "noising" or "denoising", and `steps`: from 2 up it is EAP-IG), "relp" (option
            `rules`: "all", "authors", which leaves attention patterns their gradients, or names of rules),
            "weight-x-grad", "activation", "lape" (needs two tasks or more; option `quantile`), "selectivity" (as well),
            "change" (option `base`: the model before it was tuned), "contrast" (needs corrupt prompts), "random", or
            "exact" (option `neurons`: a mask or a number to sample).
        objective: "loss" (LX24), "log-odds" or "logit-difference" (the foil is an example's `corrupt_answer`, or else
            the other one of two labels). Of one prompt without an answer, any function of its logits
            [position, vocabulary] that gives one number, of which more is better.
        reduction: over tokens and examples. "abs_of_sum" (default): |sum over an example's tokens|, mean over examples:
            the first-order effect of ablating the neuron at every token. "sum_of_abs": sum over tokens of absolute
            values, mean over examples. "signed": minus the sum, mean over examples: positive where removing the neuron
            would raise the loss, so the neuron helps. Of one prompt "signed" is the default.
        unit: "hidden" (FFN neurons), "output" (FFN output units) or "head" (attention heads).
        examples: at most how many of the split (None: all).
        split: neurons are found on "discovery" examples and judged on "test" ones.
        batch_size: examples per forward pass (None: by their tokens); it does not change the result but to rounding.
        seed: for what is random ("random", sampled "exact").
        progress: called as `progress(iterable, desc=...)`; `tqdm` fits.
        sign: "both" is the reduction's own: an absolute value counts neurons that help and those that hurt (LX24
            Eq. 3). "+" scores by how much removing the neuron would raise the mean loss (it helps; this is
            `reduction="signed"`), "-" by how much it would lower it (it hurts): minus the scores of "+". Only for
            methods whose scores are a change of a loss.
        skip_first: leave out what neurons do at each row's first token, where some are extreme whatever the text says;
            for methods whose scores are sums over tokens.

    Warns:
        UserWarning: the model is certain of half of the examples or more, under the objective "loss": rounding is 1 %
            of their gradients or more.

    Returns:
        `Scores`: address -> float tensor `[width]`, with the method, reduction, number of examples and tokens, model
        and data in its manifest. Of one prompt, `scores.by_token()` says where in it neurons act.

    Raises:
        ArgumentError: unknown method, objective, reduction, unit, split, sign or option; a sign of scores that have
            none; no tasks; or a prompt without an answer, or with a foil that is the answer.
        ModelError, TaskError: what the model or the task cannot do; the text says what to do.
        NumericalError: a loss or a score that is not finite.

    Example:
        >>> import neuroscope as ns
        >>> task = ns.load_tasks("mini", train=4, discovery=8, test=4)["sentiment-food"]
        >>> scores = ns.attribute("mini", task)
        >>> scores.top(0.10)
        NeuronMask(205 of 2,048 hidden neurons for sentiment-food, 10.0%)
    """
    row, of_prompt = METHODS[choose(method, METHODS, "method")], is_prompt(tasks)
    if of_prompt:
        objective, split = _objective_of_prompt(tasks, answer, foil, objective), "discovery"
    elif answer is not None or foil is not None:
        given = f"attribute({'foil' if answer is None else 'answer'}=...)"
        raise ArgumentError(
            given, kind_of(tasks), "give one prompt, a text; the examples of tasks have their own answers"
        )
    request = Request(
        row, objective, reduction or "", unit, examples, split, batch_size, seed, progress, options, sign, skip_first,
        of_prompt,
    )  # fmt: skip
    if of_prompt:
        prompt, tasks = tasks, task_of_prompt(tasks, "none" if callable(objective) else answer, foil)
    by_name, model = tasks_of(tasks, "attribute"), resolve(model)
    if of_prompt and answer is not None:
        mind_missing_space(model, prompt, answer)
    scores = scores_of_tasks(model, by_name, request)
    return scores[next(iter(scores))] if isinstance(tasks, Task) else scores


def _objective_of_prompt(prompt: Any, answer: Any, foil: Any, objective: Any) -> Any:
    """The objective of one prompt.

    Raises:
        ArgumentError: neither an answer nor a function; both; or a foil that the objective has no use for.
    """
    if callable(objective):
        if answer is not None or foil is not None:
            raise ArgumentError("attribute(answer=..., objective=a function)", "both", "give one of the two")
        return objective
    if answer is None:
        do = "give answer=' Paris', with its space, or objective=, a function of the logits"
        if isinstance(prompt, str) and len(prompt.split()) == 1:  # a name rather than a prompt
            do = f"if a task is meant, give load_tasks({prompt.strip()!r}); to score a prompt, {do}"
        else:
            do += "; or tasks, such as load_tasks('mini')"
        raise ArgumentError("attribute(a prompt, answer=None)", "no answer", do)
    if foil is None:
        return objective
    if objective == "log-odds":
        raise ArgumentError("attribute(foil=..., objective='log-odds')", "both", "give one of the two")
    return "logit-difference"


def scores_of_tasks(model: Model, tasks: Mapping[str, Task], request: Request) -> dict[str, Scores]:
    """Run the method on every task, or on all of them together."""
    with (
        torch.inference_mode(False), torch.enable_grad(),  # the caller may stand in no_grad()
        model.quiet(), model.unchanged(), _with_others(model, tasks, request),
    ):  # fmt: skip
        scorings = {name: scoring_of(model, task, request) for name, task in tasks.items()}
        sums = _sums(scorings, request)
        names = list(tasks)
        found = ByName({name: _scores(scoring, sums[name], names) for name, scoring in scorings.items()})
    for scores in found.values():
        _tell_of_certainty(scores.manifest)
    return found


def _tell_of_certainty(manifest: Mapping[str, Any]) -> None:
    """Warn where the objective saturates at half of the examples or more."""
    certain, examples = manifest.get("certain", 0), manifest["examples"]
    if 2 * certain >= examples:
        text = (
            f"the model is certain of {manifest['task']!r}: its loss is {manifest['objective_mean']:.1e} nats, and "
            f"below {CERTAIN:.0e} at {certain} of {examples} examples, where rounding is 1 % of the gradient or more"
        )
        warnings.warn(f'{text}: objective="log-odds" does not saturate', stacklevel=5)


@contextlib.contextmanager
def _with_others(model: Model, tasks: Mapping[str, Task], request: Request) -> Iterator[None]:
    """A scope in which the processes of a group share the examples, if there is one."""
    with contextlib.ExitStack() as stack:
        if distributed.has_shards(model.root):  # a pass needs every process: each does all of them
            stack.enter_context(distributed.apart())
        elif distributed.world()[1] > 1:
            alike = (*request.identity, model.fingerprint(), {name: task.data_hash for name, task in tasks.items()})
            stack.enter_context(distributed.together(f"attribute(method={request.method.name!r})", *alike))
        yield


def scoring_of(model: Model, task: Task, request: Request) -> Scoring:
    """The task's examples in batches; where processes share them, this process's part."""
    if request.method.additive and not request.method.partial:  # the others take no gradient
        refuse_without_gradients(model.root, f"attribute(method={request.method.name!r})")
    given = task.split(request.split, request.examples)
    chosen = fitting(model, task, given)
    if callable(request.objective):
        encoded = [whole_prompt(model, task)]
    else:
        encoded = encode(model, task, list(chosen.values()), corrupt=request.method.corrupt)
    asked = how_asked(model, task, len(given), chosen, (item.cut for item in encoded))
    others = foils(model, task, list(chosen.values()), encoded) if needs_foil(request.objective) else None
    encoded = encoded if others is None else [first_token(item, model.style) for item in encoded]
    longest = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].inputs))
    mine = distributed.my_part(longest)  # the processes' shares have about as many tokens
    part = [encoded[i] for i in mine] if len(mine) < len(encoded) else encoded
    cut = list(batches_for(model, part, request.batch_size))
    if part is not encoded:
        cut = [replace(b, index=torch.tensor(mine).to(b.index)[b.index]) for b in cut]
    counts = len(encoded), sum(len(item.answer) for item in encoded)
    return Scoring(model, task, model.sites(request.unit), cut, request, counts, asked, others)


def _sums(scorings: dict[str, Scoring], request: Request) -> Mapping[str, ByAddress]:
    """What the method gives for each task: sums over the examples of all processes."""
    method = request.method
    if method.together:
        return method.run(scorings, **request.options)
    sums = {}
    for name, scoring in scorings.items():
        returned = method.run(scoring, **request.options)
        returned = scoring.sums.relevance if returned is None else returned
        sums[name] = scoring.total(returned) if method.additive else returned
    return sums


def _scores(scoring: Scoring, sums: ByAddress, together: list[str]) -> Scores:
    """Means over examples, with where they come from."""
    request, model, task = scoring.request, scoring.model, scoring.task
    n = (1 if request.method.together else scoring.n_examples) * (-1 if request.sign == "-" else 1)
    relevance = {
        a: sums[a].detach().float().cpu() / n if a in sums else torch.zeros(s.width) for a, s in scoring.sites.items()
    }
    manifest = {
        **request.in_manifest(),
        **({"together": together} if request.method.together else {}),
        "task": task.name,
        "data_hash": task.data_hash,
        "examples": scoring.n_examples,
        "tokens": scoring.n_tokens,
        **scoring.certainty(),
        **scoring.asked,
        **model.provenance(),
        "versions": files.versions(),
    }
    n_scored = sum(int((~torch.isnan(v)).sum()) for v in relevance.values())
    if request.method.partial and n_scored < sum(len(v) for v in relevance.values()):
        manifest["n_scored"] = n_scored
    widths = {a: s.width for a, s in scoring.sites.items()}
    effects = None
    if request.of_prompt and request.method.by_token:
        effects, manifest["shown"] = scoring.effects(), scoring.shown()
    alone = scoring.total(scoring.sums.first)
    first = {a: alone[a].detach().float().cpu() / n if a in alone else torch.zeros(w) for a, w in widths.items()}
    means, norms = scoring.means() or None, scoring.norms() or None
    return Scores(relevance, widths, request.unit, manifest, means, norms, effects, first if alone else None)
