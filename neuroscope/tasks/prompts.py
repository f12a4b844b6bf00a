"""What a model is shown of a prompt: behind the task's shots, in the tokenizer's chat template, and not too long.

1. `shown` makes the whole text. Without a chat: each shot's prompt, separator and answer, with empty lines between
   (as lm-evaluation-harness does), then the prompt. In a chat: the system message, each shot as a turn of the user and
   one of the assistant, the prompt as a turn of the user, and whatever the template asks for an answer with.
2. `ends` asks the template what stands between that and an answer (nothing, or Llama 2's space), and what closes it.
3. The text of a chat is tokenized as it is: the template has written the special tokens. Line breaks at its end stay,
   spaces move to the answer.
4. `trims` counts the tokens beyond the limit, and where they are cut: at the left end of the example's own text. Start
   token, system message, shots and templates stay: the chat's, and what the task's own has before its first field and
   after its last. The limit leaves room for the longest of the task's answers, so that
   all of its labels are asked for by the same tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.errors import ModelError, TaskError
from neuroscope.tasks.example import Example
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import Pieces, end_ids, tokenize, tokenizer_of

if TYPE_CHECKING:
    from neuroscope.models import Model

BETWEEN = "\n\n"  # between shots that are no chat
# To templates that ask for the day: Llama 3's own default, so that prompts are the same tomorrow.
DAY = (
    "{% macro strftime_now(format) %}{{ {'%Y-%m-%d': '2024-07-26'}.get(format, '26 Jul 2024') }}{% endmacro %}{{ '' }}"
)
SLACK = 2  # tokens: the end of a text, and a line break that an answer begins with
SOME = "x"  # a text to find out what stands around any


def shown(tokenizer: Any, task: Task, prompts: Sequence[str]) -> list[str]:
    """The whole text that the model is shown of each prompt.

    Raises:
        ModelError: the task is a chat, and the tokenizer has no template, or one that refuses or drops a message.
    """
    if not task.chat:
        before = "".join(f"{s.prompt}{task.separator}{s.answer}{BETWEEN}" for s in task.shots)
        return [before + prompt for prompt in prompts]
    return [_rendered(tokenizer, task, prompt) for prompt in prompts]


def answer_in(task: Task, text: str) -> str:
    """The answer in what a model goes on with: after shots that are no chat it may go on with a next one."""
    text = text.strip()
    return text.partition(BETWEEN)[0].strip() if task.shots and not task.chat else text


def ends(tokenizer: Any, task: Task) -> tuple[str, str]:
    """What stands between a prompt and its answer, and what closes the answer (of a chat; else an empty text)."""
    if not task.chat:
        return task.separator, ""
    before, whole = _rendered(tokenizer, task, SOME), _rendered(tokenizer, task, SOME, "answer")
    if not whole.startswith(before):
        return "", ""
    joint, answer, end = whole[len(before) :].partition("answer")
    return (joint, end.strip()) if answer else ("", "")


def closing_ids(model: Model, task: Task) -> set[int]:
    """The token that closes an answer in a chat, if one does."""
    closing = ends(tokenizer_of(model), task)[1]
    ids = end_ids(model.tokenizer, bool(closing), closing)
    return set(ids) if len(ids) == 1 else set()


def _rendered(tokenizer: Any, task: Task, prompt: str, answer: str | None = None) -> str:
    turns = [("system", task.system)] if task.system else []
    for shot in task.shots:
        turns += [("user", shot.prompt), ("assistant", shot.answer)]
    turns += [("user", prompt)] + ([] if answer is None else [("assistant", answer)])
    asked = f"the prompts of task {task.name!r} as a chat"
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        do = "use the tokenizer of an instruct model, set its chat_template, or give plain texts, without chat=True"
        raise ModelError(asked, "a tokenizer without a chat template", do)
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        how = {"chat_template": DAY + tokenizer.get_chat_template()} if "strftime_now" in str(template) else {}
        how |= {"tokenize": False, "enable_thinking": False}  # an answer follows at once
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=answer is None, **how)
    except Exception as error:  # a template is a program of somebody else's
        plain = "repair tokenizer.chat_template, or give plain texts, without chat=True"
        do = "give no system message" if task.system else plain
        raise ModelError(asked, f"a template that refuses them: {type(error).__name__}: {error}", do) from None
    if task.system.strip() not in text:
        raise ModelError(asked, "a template that drops the system message", "put it into the prompts, not into system=")
    return str(text)


def without_end(task: Task, text: str) -> str:
    """The text without the whitespace at its end that moves to the answer; of a chat only spaces do."""
    return text.rstrip(" ") if task.chat else text.rstrip()


def tokenized(tokenizer: Any, task: Task, texts: Sequence[str]) -> dict[str, Pieces]:
    """Texts in pieces; those of a chat have no special tokens but those that they are written with."""
    return tokenize(tokenizer, texts, special=not task.chat)


def prompt_pieces(model: Model, task: Task, examples: Sequence[Example]) -> list[tuple[Pieces, int]]:
    """The tokens that the model is shown of each example's prompt alone, and how many were left out of it."""
    tokens, answers = _pieces(model, task, [example.prompt for example in examples]), [e.answer for e in examples]
    cuts = trims(model, task, tokens, answers)
    return [
        (Pieces(prefix, trimmed(body, cut), suffix), len(cut))
        for (prefix, body, suffix), cut in zip(tokens, cuts, strict=True)
    ]


def _pieces(model: Model, task: Task, prompts: Sequence[str]) -> list[Pieces]:
    texts = shown(tokenizer_of(model), task, prompts)
    texts = [without_end(task, text) for text in texts]
    tokens = tokenized(model.tokenizer, task, texts)
    return [tokens[text] for text in texts]


def trims(model: Model, task: Task, prompts: Sequence[Pieces], answers: Sequence[str]) -> list[range]:
    """Which tokens of each prompt's body are left out: none where it fits.

    Raises:
        TaskError: a prompt that is too long, where the task does not cut; or where cutting all of it is not enough.
    """
    beyond = _beyond(model, task, prompts, answers)
    if not any(beyond):
        return [range(0)] * len(prompts)
    if task.when_too_long != "cut":
        i = next(i for i, excess in enumerate(beyond) if excess)
        raise _too_long(
            task, prompts[i], beyond[i], f"example {i}", "give the task too_long='cut' or 'skip', or more max_tokens"
        )
    around = _pieces(model, task, [SOME.join(_around(task))])[0].body
    cuts = []
    for i, (pieces, excess) in enumerate(zip(prompts, beyond, strict=True)):
        start, stop = _own(pieces.body, around)
        if excess and start + excess >= stop:
            do = "give it fewer shots, a shorter template or more max_tokens, or use a model with a longer context"
            raise _too_long(task, pieces, excess, f"{stop - start} of them its own, in example {i}", do)
        cuts.append(range(start, start + excess))
    return cuts


def _around(task: Task) -> tuple[str, str]:
    """What the task's template has before its first field, and after its last."""
    pieces = [*Formatter().parse(task.prompt)]
    fields = [i for i, (_, name, *_) in enumerate(pieces) if name is not None]
    if not fields:
        return "", ""
    before, after = pieces[: fields[0] + 1], pieces[fields[-1] + 1 :]
    return "".join(text for text, *_ in before), "".join(text for text, *_ in after)


def _too_long(task: Task, pieces: Pieces, excess: int, where: str, do: str) -> TaskError:
    length = sum(map(len, pieces))
    asked = f"a prompt of {length} tokens, {where} of task {task.name!r}"
    return TaskError(asked, f"room for {max(0, length - excess)}", do)


def trimmed(body: list[int], cut: range) -> list[int]:
    """The tokens without those that are cut."""
    return body[: cut.start] + body[cut.stop :]


def _own(body: list[int], around: list[int]) -> tuple[int, int]:
    """Where a prompt's own tokens start and stop; `around` has the same before and behind other ones."""
    most = min(len(body), len(around))
    start = next((i for i in range(most) if body[i] != around[i]), most)
    behind = next((i for i in range(most - start) if body[-1 - i] != around[-1 - i]), most - start)
    return start, len(body) - behind


def _beyond(model: Model, task: Task, prompts: Sequence[Pieces], answers: Sequence[str]) -> list[int]:
    """How many tokens each prompt has beyond the limit."""
    room: list[int | None] = [task.max_tokens] * len(prompts)
    if model.context is not None and task.when_too_long != "error":  # else it is refused with its own answer
        kept = _kept_free(model, task, answers)
        most = model.context if task.max_tokens is None else task.max_tokens
        room = [min(most, model.context - free) for free in kept]
    lengths = [len(p.prefix) + len(p.body) + (0 if model.style == "causal" else len(p.suffix)) for p in prompts]
    return [0 if most is None else max(0, length - most) for length, most in zip(lengths, room, strict=True)]


def _kept_free(model: Model, task: Task, answers: Sequence[str]) -> list[int]:
    """Tokens behind each prompt that are the answer's: of the longest label, or of its own and of what is generated."""
    if model.style == "seq2seq":
        return [0] * len(answers)
    joint, _ = ends(model.tokenizer, task)
    texts = [joint + answer for answer in task.labels or answers]
    count = {text: len(pieces.body) + SLACK for text, pieces in tokenized(model.tokenizer, task, texts).items()}
    if task.labels:
        return [max(count.values())] * len(answers)
    return [max(task.max_new_tokens, count[text]) for text in texts]


def fitting(model: Model, task: Task, examples: Sequence[Example]) -> dict[int, Example]:
    """The examples by their places; without those that are too long, where the task skips them. A warning tells them.

    Raises:
        TaskError: none fits.
    """
    places = dict(enumerate(examples))
    if task.when_too_long != "skip":
        return places
    prompts = _pieces(model, task, [example.prompt for example in examples])
    beyond = _beyond(model, task, prompts, [example.answer for example in examples])
    kept = {i: example for i, example in places.items() if not beyond[i]}
    if len(kept) == len(places):
        return places
    if not kept:
        least = min(places, key=lambda i: beyond[i])
        raise _too_long(
            task, prompts[least], beyond[least], f"the shortest of {len(places)}", "give the task too_long='cut'"
        )
    first = next(i for i in places if beyond[i])
    found = f"{len(places) - len(kept)} of {len(places)} examples of task {task.name!r} are too long and are skipped"
    warnings.warn(f"{found}: the first is example {first}, of {len(prompts[first].body)} tokens", stacklevel=3)
    return kept


def template_of(model: Model, task: Task) -> dict[str, str]:
    """What a manifest says of the chat template: digits that change with it; nothing of a task that is no chat."""
    return {"template": files.digest(shown(tokenizer_of(model), task, [SOME]))} if task.chat else {}


def hash_of(model: Model, task: Task) -> str:
    """Digits that change with a task's data and, of a chat, with the template that it is shown in."""
    return " ".join((task.data_hash, *template_of(model, task).values()))


def how_asked(model: Model, task: Task, given: int, kept: Collection[int], cuts: Iterable[int]) -> dict[str, Any]:
    """What a manifest says of how prompts were shown: nothing where they were shown as they are.

    There is a warning where all of them are cut, or some that no template tells an instruction in.

    Args:
        given: how many examples there were.
        kept: the places of those that were not skipped.
        cuts: how many tokens were left out of each of them.
    """
    cuts = [cut > 0 for cut in cuts]
    if any(cuts) and (all(cuts) or not any(_around(task))):
        found = f"{sum(cuts)} of {len(cuts)} prompts of task {task.name!r} are cut at the beginning of their text"
        do = "put what must stay into the template (prompt='Is this ...: {text}') or system=, or give more max_tokens"
        warnings.warn(f"{found}: {do}", stacklevel=3)
    said = {"chat": task.chat, "system": task.system, "shots": len(task.shots), "max_tokens": task.max_tokens}
    said |= {"cut": sum(cuts), "skipped": sorted({*range(given)} - {*kept})}
    said = {name: value for name, value in said.items() if value}
    return template_of(model, task) | ({"prompts": said} if said else {})
