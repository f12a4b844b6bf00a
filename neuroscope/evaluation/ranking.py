"""Scoring every label of a classification task in as few rows as possible.

A causal model or decoder that reads `prompt + a b` has also scored every label that begins there (`a`, or another first
token `c`): such labels share one row, so that labels of one token cost one row per example in every style.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

from neuroscope.tasks.encoding import Batch, Encoded


@dataclass(frozen=True)
class Candidates:
    """The labels that one batch scores.

    Attributes:
        slot: [candidates] which cell of the flat [examples, labels] table.
        row: [candidates] row of the batch.
        position: [candidates, tokens] place among the batch's kept logits.
        token: [candidates, tokens] id; -1 beyond the label's end.
    """

    slot: LongTensor
    row: LongTensor
    position: LongTensor
    token: LongTensor


def share_rows(labels: list[list[Encoded]], style: str) -> tuple[list[Encoded], list[list[tuple[int, Encoded]]]]:
    """The rows to run, and the (slot, label) pairs that each of them scores. `labels` is [labels][examples]."""
    rows: list[Encoded] = []
    members: list[list[tuple[int, Encoded]]] = []
    for example, options in enumerate(zip(*labels, strict=True)):
        first = len(rows)  # of this example
        for label in sorted(range(len(options)), key=lambda i: -len(options[i].answer)):  # the longest covers most
            item = options[label]
            at = next((i for i in range(first, len(rows)) if _covers(rows[i], item, style)), len(rows))
            if at == len(rows):
                rows.append(item)
                members.append([])
            members[at].append((example * len(labels) + label, item))
    return rows, members


def _covers(row: Encoded, item: Encoded, style: str) -> bool:
    """Whether the logits of `row` at `item`'s answer positions are those that `item` alone would give."""
    if style == "causal":  # later tokens change nothing at earlier positions
        return row.inputs[: len(item.inputs)] == item.inputs
    if style == "seq2seq":
        return row.inputs == item.inputs and row.decoder[: len(item.decoder)] == item.decoder
    return row.inputs == item.inputs


def candidates_of(batch: Batch, members: list[list[tuple[int, Encoded]]]) -> Candidates:
    """The labels that the rows of one batch score; `members` is by row, as `share_rows` gives it."""
    place = {position: i for i, position in enumerate(batch.keep.tolist())}
    entries = [(slot, row, item) for row, i in enumerate(batch.index.tolist()) for slot, item in members[i]]
    width = max(len(item.answer) for _, _, item in entries)
    position, token = torch.zeros(len(entries), width, dtype=torch.long), torch.full((len(entries), width), -1)
    for i, (_, _, item) in enumerate(entries):
        length = len(item.answer)
        position[i, :length] = torch.tensor([place[item.first + k] for k in range(length)])
        token[i, :length] = torch.tensor(item.answer)
    slot, row = (torch.tensor([entry[k] for entry in entries]) for k in (0, 1))
    return Candidates(slot, row, position, token)  # type: ignore[arg-type]


def score(logits: Tensor, candidates: Candidates) -> Tensor:
    """[candidates] summed log-likelihood, from logits [rows, kept, vocabulary]."""
    place = {name: getattr(candidates, name).to(logits.device) for name in ("row", "position", "token")}
    row, told = place["row"][:, None], place["token"] >= 0
    chosen = logits[row, place["position"], place["token"].clamp(min=0)]
    total = logits.logsumexp(-1)[row, place["position"]]
    return torch.where(told, chosen - total, 0.0).sum(-1)


def rank_labels(loglik: Tensor, lengths: Tensor) -> LongTensor:
    """The likeliest label of each example, by log-likelihood per token; of equals the first.

    Args:
        loglik: [examples, labels] summed log-likelihood (nats) of each label's tokens.
        lengths: [labels] or [examples, labels] number of tokens.

    Returns:
        [examples] index of the chosen label.

    Example:
        >>> import torch
        >>> rank_labels(torch.tensor([[-3.0, -4.0]]), torch.tensor([1, 2]))  # -3 and -2 per token
        tensor([1])
    """
    return (loglik / lengths).argmax(-1)  # type: ignore[return-value]
