"""`generate`: what a model goes on with after prompts, under whatever interventions are live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from neuroscope.checks import Progress, all_of, public, watched
from neuroscope.errors import ArgumentError, TaskError, kind_of, shown
from neuroscope.evaluation.writing import stop_ids, written
from neuroscope.models import Model, resolve
from neuroscope.tasks.encoding import Encoded, batches_for, encode_prompts
from neuroscope.tasks.one_prompt import is_prompt, task_of_prompt
from neuroscope.tasks.prompts import closing_ids

Message = Mapping[str, str]
NONE = "none"  # the answer of a task has to be some text; it is not read


@overload
def generate(
    model: Any,
    prompts: str,
    max_new_tokens: int = 20,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> str: ...
@overload
def generate(
    model: Any,
    prompts: Sequence[Message],
    max_new_tokens: int = 20,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> str: ...
@overload
def generate(
    model: Any,
    prompts: Sequence[str] | Sequence[Sequence[Message]],
    max_new_tokens: int = 20,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[str]: ...
@public
def generate(
    model: Any,
    prompts: Any,
    max_new_tokens: int = 20,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> str | list[str]:
    """What a model writes after prompts, greedily, under whatever interventions are live.

    Args:
        model: anything that `neuroscope.load` opens, or a model from transformers, TransformerLens or nnsight.
        prompts: a text, or the messages of a chat, which are shown in the template of the model's tokenizer; or several
            of these.
        max_new_tokens: how long what follows may become; it ends before the end-of-text token.
        batch_size: prompts per forward pass; None: as many as the model runs best at once. It does not change the
            texts.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Returns:
        What follows the prompt, with the space that it begins with; of several prompts a list, in their order.

    Raises:
        ArgumentError: no prompt, one that is neither a text nor messages, messages in another order, a prompt of no
            tokens, or one that leaves the model's context no room for `max_new_tokens`.
        ModelError: a masked model, one that does not generate, or a chat without a template.
        NumericalError: logits that are not finite.

    Example:
        >>> import neuroscope as ns
        >>> model, tasks = ns.load("mini"), ns.load_tasks("mini", train=4, discovery=16, test=4)
        >>> prompts = [tasks["summary-food"].test[0].prompt, tasks["question-food"].test[0].prompt]
        >>> prompts
        ['summarize with stew square rare bread soup =>', 'question cook ordered cheese on wednesday answer cheese =>']
        >>> ns.generate(model, prompts)
        [' stew bread soup', ' what did cook order ?']
        >>> with ns.ablate(model, ns.attribute(model, tasks["summary-food"]).top(0.1)):
        ...     ns.generate(model, prompts)
        [' burger stew soup', ' what did cook order ?']
    """
    one = is_prompt(prompts)
    asked = [prompts] if one else _several(prompts)
    model = resolve(model)
    encoded: list[Encoded] = []
    stops = stop_ids(model)
    for i, prompt in enumerate(asked):
        task = replace(task_of_prompt(prompt, NONE), max_new_tokens=max_new_tokens)
        try:
            encoded += encode_prompts(model, task, task.discovery)
        except TaskError as error:
            do = "give it some text, a shorter one, or ask for fewer new tokens"
            raise ArgumentError(f"prompts{'' if one else [i]}: {error.asked}", error.found, do) from error
        stops |= closing_ids(model, task)
    side: Literal["right", "left"] = "right" if model.style == "seq2seq" else "left"
    batches = list(batches_for(model, encoded, batch_size, side, max_new_tokens))
    texts = [""] * len(encoded)
    for i, ids in written(model, watched(batches, progress, "generate"), max_new_tokens, stops):
        texts[i] = _text(model, encoded[i].inputs, ids)
    return texts[0] if one else texts


def _several(prompts: Any) -> list[Any]:
    do = "give a text, messages such as [{'role': 'user', 'content': ...}], or a list of either"
    if isinstance(prompts, bytes | bytearray | Mapping | set | frozenset) or not hasattr(prompts, "__iter__"):
        raise ArgumentError(shown("prompts", prompts), kind_of(prompts), do)
    listed = all_of(prompts, "prompts")
    if not listed:
        raise ArgumentError("prompts=[]", "no prompt", "give one or more")
    for i, prompt in enumerate(listed):
        if not is_prompt(prompt):
            raise ArgumentError(f"prompts[{i}]", kind_of(prompt), do)
    return listed


def _text(model: Model, prompt: list[int], new: list[int]) -> str:
    """The new tokens as a text: some tokenizers drop the space of a text's first token, so the prompt is read too."""

    def read(ids: list[int]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True))

    if model.style == "seq2seq":
        return read(new)
    before, whole = read(prompt), read(prompt + new)
    return whole.removeprefix(before) if whole.startswith(before) else read(new)
