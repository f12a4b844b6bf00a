"""`generate`: what a model goes on with after prompts, under whatever interventions are live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from neuroscope.checks import Progress, all_of, public, text_of, watched, whole
from neuroscope.errors import ArgumentError, ModelError, kind_of, shown
from neuroscope.evaluation.writing import batches_to_continue, stop_ids, until, written
from neuroscope.models import Model, resolve
from neuroscope.tasks.encoding import Encoded, mind_unknown_tokens
from neuroscope.tasks.one_prompt import is_prompt, task_of_prompt
from neuroscope.tasks.prompts import closing_ids
from neuroscope.tasks.prompts import shown as texts_shown
from neuroscope.tasks.tokens import tokenize, tokenizer_of

Message = Mapping[str, str]
NONE = "none"  # the answer of a task has to be some text; it is not read


@overload
def generate(
    model: Any,
    prompts: str | Sequence[Message],
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
        prompts: a text, shown just as it is; or the messages of a chat, shown in the template of the model's tokenizer;
            or several of these.
        max_new_tokens: how long what follows may become. It ends before the end-of-text token, in a chat also before
            what the template closes an answer with.
        batch_size: prompts per forward pass; None: as many as the model runs best at once. It does not change the
            texts.
        progress: called as `progress(batches, desc=...)`, such as tqdm; None is silent.

    Returns:
        What follows the prompt, with the space that it begins with (of an encoder-decoder model, the decoder's text);
        of several prompts a list, in their order.

    Raises:
        ArgumentError: no prompt, one that is neither a text nor messages, messages in another order, a prompt of no
            tokens, or one that leaves the model's context no room for `max_new_tokens`.
        ModelError: a model without a tokenizer, a masked one, one that does not generate; a chat without a template.
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
    if model.style == "masked":
        found = "a masked language model, which does not go on with a text"
        raise ModelError(f"generate with {model.name}", found, "use a causal model, or ns.evaluate a task with labels")
    new = whole(max_new_tokens, "max_new_tokens", 1)
    rows = [_read(model, prompt, new, "prompts" if one else f"prompts[{i}]") for i, prompt in enumerate(asked)]
    encoded = [Encoded(row.ids, [], len(row.ids) - 1) for row in rows]
    model.check_ids(max(i for row in rows for i in row.ids))
    mind_unknown_tokens(model, "the prompts", encoded)
    batches = list(batches_to_continue(model, encoded, new, batch_size))
    made = written(model, watched(batches, progress, "generate"), new)
    texts = [_text(model, row.ids, until(made[i], row.stops)) for i, row in enumerate(rows)]
    return texts[0] if one else texts


@dataclass(frozen=True)
class _Prompt:
    """What the model is shown, and what ends its answer."""

    ids: list[int]
    stops: set[int]


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


def _read(model: Model, prompt: Any, new: int, name: str) -> _Prompt:
    """One prompt as tokens, just as it is written: what follows depends on a space at its end."""
    tokenizer, stops = tokenizer_of(model), stop_ids(model)
    if isinstance(prompt, str):
        text, special = text_of(prompt, name), True
    else:
        try:
            task = task_of_prompt(prompt, NONE)
        except ArgumentError as error:
            raise ArgumentError(f"{name}: {error.asked}", error.found, error.do) from None
        (text,), special = texts_shown(tokenizer, task, [task.discovery[0].prompt]), False
        stops = stops | closing_ids(model, task)
    prefix, body, suffix = tokenize(tokenizer, [text], special=special)[text]
    ids = prefix + body + (suffix if model.style == "seq2seq" else [])
    if not ids:
        raise ArgumentError(f"{name}={text!r:.60}", "no tokens", "give it some text")
    longest = max(len(ids), 1 + new) if model.style == "seq2seq" else len(ids) + new
    if model.context is not None and longest > model.context:
        found = f"{len(ids)} tokens and {new} new ones, for a context of {model.context}"
        raise ArgumentError(f"{name}={text!r:.60}", found, "give a shorter prompt, or fewer max_new_tokens")
    return _Prompt(ids, stops)


def _text(model: Model, prompt: list[int], new: list[int]) -> str:
    """The new tokens as a text: some tokenizers drop the space of a text's first token, so the prompt is read too."""

    def read(ids: list[int]) -> str:
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(model.tokenizer.decode(ids, **how))

    before, both = ("", read(new)) if model.style == "seq2seq" else (read(prompt), read(prompt + new))
    return both[len(before) :] if both.startswith(before) else read(new)
