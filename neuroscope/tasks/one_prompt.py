"""One prompt with its answer as a task of one example: a text, or the messages of a chat."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuroscope.checks import text_of
from neuroscope.errors import ArgumentError, kind_of
from neuroscope.tasks.encoding import Encoded
from neuroscope.tasks.example import Example, Turns
from neuroscope.tasks.prompts import prompt_pieces
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import decoder_start

if TYPE_CHECKING:
    from neuroscope.models import Model

NAME = "prompt"
SPACES = ("\u0120", "\u2581")  # what a space is in the words of byte-level tokenizers, and of sentencepiece
ENDS = tuple(".,:;?!)")  # after which a space comes, besides letters and digits
DO = "give [{'role': 'user', 'content': ...}], with a system message or earlier turns before it"


def is_prompt(value: Any) -> bool:
    """Whether a value is one prompt: a text, or messages."""
    is_messages = isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)
    return isinstance(value, str) or is_messages


def task_of_prompt(prompt: Any, answer: Any, foil: Any = None) -> Task:
    """A task whose one discovery example is the prompt.

    Args:
        prompt: a text; or messages, of which the last is the user's: they are shown in the tokenizer's chat template.
        answer: the text that should follow, with the space that it begins with (in a chat the template says that).
        foil: another answer to compare it with.

    Raises:
        ArgumentError: an answer of no text, a foil equal to the answer, or messages in another order.

    Example:
        >>> task_of_prompt("The capital of France is", " Paris", " London").discovery[0].corrupt_answer
        ' London'
    """
    answer = text_of(answer, "answer")
    if not answer.strip():
        raise ArgumentError(f"answer={answer!r}", "no text", "give the text that should follow, such as ' Paris'")
    if foil is not None and text_of(foil, "foil").strip() == answer.strip():
        raise ArgumentError(f"foil={foil!r}", "the answer itself", "give another answer, such as ' London'")
    text, chat = (prompt, {}) if isinstance(prompt, str) else _of_messages(prompt)
    if chat:  # whose template says what stands before an answer
        answer, foil = answer.lstrip(" "), None if foil is None else foil.lstrip(" ")
    example = Example(text_of(text, "prompt"), answer, corrupt_answer=foil)
    return Task(NAME, discovery=[example], separator="", kind="generation", **chat)


def mind_missing_space(model: Model, prompt: Any, answer: str) -> None:
    """Warn of an answer without its space, after a prompt that ends with none: "is" and "Paris" make "isParis".

    Only where the tokenizer has words that begin with a space (as those of GPT-2 and Llama), and this is one.
    """
    if not isinstance(prompt, str) or model.style != "causal" or model.tokenizer is None:
        return
    if not answer[:1].isalnum() or not (prompt[-1:].isalnum() or prompt[-1:] in ENDS):
        return
    ids = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    first = str(model.tokenizer.convert_ids_to_tokens(ids)[0]) if ids else ""
    if first[:1] in SPACES and first[1:2].isalnum():
        text = f"the answer {answer!r} is scored without a space before it, as {(prompt + answer)[-24:]!r}"
        warnings.warn(f"{text}: write answer={' ' + answer!r}", stacklevel=4)


def _of_messages(messages: Any) -> tuple[str, dict[str, Any]]:
    """The last message of the user, and what is before it as fields of a task."""
    turns = [(_part(m, "role", i), _part(m, "content", i)) for i, m in enumerate(messages)]
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if [role for role, _ in turns] != expected or len(turns) % 2 == 0:
        raise ArgumentError("prompt: messages", f"roles {[role for role, _ in turns]}", DO)
    before = Turns(Example(user, said) for (_, user), (_, said) in zip(turns[:-1:2], turns[1::2], strict=True))
    return turns[-1][1], {"chat": True, "system": system, "shots": before}


def _part(message: Mapping[str, Any], name: str, i: int) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise ArgumentError(f"prompt: message {i}", f"{kind_of(value)} for its {name}", DO)
    return text_of(value, f"prompt: message {i}, {name}")


def whole_prompt(model: Model, task: Task) -> Encoded:
    """The prompt alone, of which every position's logits are wanted; of an encoder and decoder the first one's."""
    (((prefix, body, suffix), cut),) = prompt_pieces(model, task, task.discovery)
    shown = prefix + body + ([] if model.style == "causal" else suffix)
    if not shown:
        raise ArgumentError("prompt", "no tokens", "give it some text")
    if model.style == "seq2seq":
        start = [decoder_start(model)]
        return Encoded(shown, start, 0, start, cut=cut)
    return Encoded(shown, shown, 0, cut=cut)
