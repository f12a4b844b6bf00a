"""Scoring every label of a classification task while the prompt goes through the model once.

The labels after one prompt are a tree of tokens, which begins with the prompt: labels that begin alike share nodes, and
a label's last token is predicted by a node and is none itself. Two ways to lay a tree out:

- One row of all its nodes. Each sees the nodes before it on its own branch alone (a mask of `[row, 1, pos, pos]`), at
  the position that it has there. So every prompt and every label is computed once.
- A row for each branch, the labels on it sharing the row: for models whose masks or positions cannot be set. Of an
  encoder-decoder model these are the decoder's rows; those of one prompt are neighbours, so that the encoder need read
  it once.

Labels of one token make a tree without branches, which is the prompt as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import LongTensor, Tensor

from neuroscope.tasks.encoding import Batch, Encoded


@dataclass(frozen=True)
class Scored:
    """A label in a row.

    Attributes:
        slot: which cell of the flat [examples, labels] table.
        tokens: the label's tokens.
        places: the position in the row that predicts each of them.
    """

    slot: int
    tokens: list[int]
    places: list[int]


@dataclass(frozen=True)
class Candidates:
    """The labels that one batch scores.

    Attributes:
        at: True at the positions whose logits are needed.
        slot: [candidates] which cell of the flat [examples, labels] table.
        place: [candidates, tokens] which of the logits at these positions predicts the token.
        token: [candidates, tokens] id; -1 beyond the label's end.
    """

    at: Bool[Tensor, "row pos"]
    slot: LongTensor
    place: LongTensor
    token: LongTensor


def rows_of(
    labels: Sequence[Sequence[Encoded]], style: str, one_row: bool, short: int | None = None
) -> tuple[list[Encoded], list[list[Scored]]]:
    """The rows to run, and the labels that each of them scores. `labels` is [labels][examples].

    Args:
        one_row: lay every prompt's labels out in one row (causal models only).
        short: `Model.short`: labels that make a prompt longer share no row with those that do not.
    """
    rows: list[Encoded] = []
    members: list[list[Scored]] = []
    for example, options in enumerate(zip(*labels, strict=True)):
        first = example * len(labels)
        every = [(first + i, item) for i, item in enumerate(options)]
        sides = [
            [o for o in every if (short is not None and len(o[1].inputs) > short) is side] for side in (False, True)
        ]
        for side in filter(None, sides):
            for row, scored in [_tree(side)] if one_row else _branches(side, style):
                rows.append(row)
                members.append(scored)
    return rows, members


def _tree(options: Sequence[tuple[int, Encoded]]) -> tuple[Encoded, list[Scored]]:
    """The labels of one prompt as one row: a node after its parent, and after whatever its elder siblings have below.

    Where no label branches off, the row is the longest label's, as it is.
    """
    children: list[dict[int, int]] = [{}]  # of each node, in the order of their making; 0 is before the first token
    paths: list[list[int]] = []
    for _, item in options:
        node, path = 0, []
        for token in item.inputs:
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
            node = children[node][token]
            path.append(node)
        paths.append(path)
    tokens, depth, end = [0] * len(children), [-1] * len(children), [0] * len(children)
    order: list[int] = []
    place = [0] * len(children)
    left = [(0, False)]
    while left:  # the tree is as deep as a prompt is long: no recursion
        node, is_done = left.pop()
        if is_done:
            end[node] = len(order)
            continue
        if node:
            place[node] = len(order)
            order.append(node)
        left.append((node, True))
        for token, child in reversed(children[node].items()):
            tokens[child], depth[child] = token, depth[node] + 1
            left.append((child, False))
    scored = [
        Scored(slot, item.answer, [place[path[item.first + k]] for k in range(len(item.answer))])
        for (slot, item), path in zip(options, paths, strict=True)
    ]
    row = Encoded([tokens[n] for n in order], [], 0)
    if any(len(c) > 1 for c in children):
        row = replace(row, depth=[depth[n] for n in order], end=[end[n] for n in order])
    return row, scored


def _branches(options: Sequence[tuple[int, Encoded]], style: str) -> list[tuple[Encoded, list[Scored]]]:
    """The labels of one prompt in as few rows without branches as they fit into."""
    rows: list[tuple[Encoded, list[Scored]]] = []
    for slot, item in sorted(options, key=lambda option: -len(option[1].answer)):  # the longest covers most
        members = next((members for row, members in rows if _covers(row, item, style)), None)
        if members is None:
            members = []
            rows.append((item, members))
        members.append(Scored(slot, item.answer, [item.first + k for k in range(len(item.answer))]))
    return rows


def prompts_of(members: Sequence[Sequence[Scored]], labels: int) -> list[list[int]]:
    """The rows of each example, which has so many labels; `members` is by row, as `rows_of` gives it."""
    return [[*rows] for _, rows in groupby(range(len(members)), lambda row: members[row][0].slot // labels)]


def _covers(row: Encoded, item: Encoded, style: str) -> bool:
    """Whether the logits of `row` at `item`'s answer positions are those that `item` alone would give."""
    if style == "causal":  # later tokens change nothing at earlier positions
        return row.inputs[: len(item.inputs)] == item.inputs
    if style == "seq2seq":
        return row.inputs == item.inputs and row.decoder[: len(item.decoder)] == item.decoder
    return row.inputs == item.inputs


def candidates_of(batch: Batch, members: list[list[Scored]]) -> Candidates:
    """The labels that the rows of one batch score; `members` is by row, as `rows_of` gives it."""
    entries = [(row, scored) for row, i in enumerate(batch.index.tolist()) for scored in members[i]]
    at = torch.zeros_like(batch.targets, dtype=torch.bool)
    for row, scored in entries:
        at[row, scored.places] = True
    number = at.flatten().cumsum(0).view_as(at) - 1
    width = max(len(scored.tokens) for _, scored in entries)
    place, token = torch.zeros(len(entries), width, dtype=torch.long), torch.full((len(entries), width), -1)
    for i, (row, scored) in enumerate(entries):
        place[i, : len(scored.tokens)] = number[row, scored.places]
        token[i, : len(scored.tokens)] = torch.tensor(scored.tokens)
    slot = torch.tensor([scored.slot for _, scored in entries])
    return Candidates(at, slot, place, token)  # type: ignore[arg-type]


def score(logits: Float[Tensor, "wanted vocab"], candidates: Candidates) -> Float[Tensor, " candidate"]:
    """Summed log-likelihood of each label's tokens, from the logits at the candidates' positions."""
    place, token = candidates.place.to(logits.device), candidates.token.to(logits.device)
    chosen = logits[place, token.clamp(min=0)]
    total = logits.logsumexp(-1)[place]
    return torch.where(token >= 0, chosen - total, 0.0).sum(-1)


def rank_labels(loglik: Float[Tensor, "example label"], lengths: Int[Tensor, "*example label"]) -> LongTensor:
    """The label of each example that ranks first, by log-likelihood over length; of equals the first.

    Args:
        loglik: summed log-likelihood (nats) of each label's tokens.
        lengths: 1, or each label's number of tokens or characters.

    Returns:
        [examples] index of the chosen label.

    Example:
        >>> import torch
        >>> rank_labels(torch.tensor([[-3.0, -4.0]]), torch.tensor([1, 2]))  # -3 and -2 per token
        tensor([1])
    """
    return (loglik / lengths).argmax(-1)  # type: ignore[return-value]
