"""What an explorer shows of one neuron: plain data, of which every part but its place may be left out."""

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict

from neuroscope.arrays import json_plain
from neuroscope.errors import ArgumentError, brief, kind_of


class CardTask(TypedDict, total=False):
    """How much a task uses the neuron: `rank` 1 is the most; `sign` below 0 where it acts against the task."""

    task: Required[str]
    score: float | None
    rank: int
    sign: int


class CardText(TypedDict, total=False):
    """A text in which the neuron is active: its tokens as they are read, and the activation at each.

    `sign` is -1 among the lowest activations; `where` says what the text is, such as the task that it is from.
    """

    tokens: Required[Sequence[str]]
    activations: Required[Sequence[float | None]]
    sign: int
    where: str


class CardHistogram(TypedDict):
    """How often the activation lies between neighbouring `edges`, for each name (of a task) in `counts`."""

    edges: Sequence[float]
    counts: Mapping[str, Sequence[float]]


class CardTokens(TypedDict, total=False):
    """Tokens with numbers, the strongest first: in the direction `toward` and `away` from it; `note` says how."""

    toward: Sequence[tuple[str, float | None]]
    away: Sequence[tuple[str, float | None]]
    note: str


class CardBreak(TypedDict, total=False):
    """What a task loses without this neuron alone, beside random neurons of its layer (`random`, their mean).

    `effect` is the rise of the loss on the task's answers, in nats, unless `unit` names another; `mask_effect` that
    without the whole mask, and `share` the neuron's of it, None where the mask's is not shown to be above 0.
    """

    task: Required[str]
    effect: Required[float | None]
    low: float | None
    high: float | None
    random: float | None
    random_low: float | None
    random_high: float | None
    p: float | None
    q: float | None
    mask_effect: float | None
    share: float | None
    unit: str


class CardRank(TypedDict, total=False):
    """Between which ranks the neuron lies for a task on other examples; `share`: how often it is in the mask."""

    task: Required[str]
    low: float | None
    high: float | None
    share: float | None


class CardNear(TypedDict, total=False):
    """A neuron that is alike: its name, such as "9.431"; `by` weights, activation or tasks."""

    neuron: Required[str]
    similarity: float | None
    by: str


class ExplorerCard(TypedDict, total=False):
    """One neuron. Only `site` and `neuron` must be there; the page shows the parts that are.

    Attributes:
        site: the address of its site, such as "blocks.9.mlp.hook_post", or its layer, such as 9.
        neuron: its index there.
        width: how many neurons the site has; where nothing says it, as many as the cards need.
        notes: sentences to read first, such as that it is a sink.
        tokens: at which its activation is highest and lowest, on average.
        code: what it is -> lines to paste.
    """

    site: Required[str | int]
    neuron: Required[int]
    width: int
    notes: Sequence[str]
    tasks: Sequence[CardTask]
    masks: Sequence[str]
    texts: Sequence[CardText]
    tokens: CardTokens
    histogram: CardHistogram
    writes: CardTokens
    reads: CardTokens
    breaks: Sequence[CardBreak]
    stability: Sequence[CardRank]
    nearest: Sequence[CardNear]
    code: Mapping[str, str]


ROWS: Mapping[str, Any] = {  # parts of many rows
    "tasks": CardTask,
    "texts": CardText,
    "breaks": CardBreak,
    "stability": CardRank,
    "nearest": CardNear,
}
TOKENS = ("toward", "away")


def card_data(given: Any, asked: str) -> dict[str, Any]:
    """A card as plain data that JSON can say: numbers that are missing (NaN) become null.

    Args:
        given: an `ExplorerCard`, or an object whose `to_explorer()` gives one.
        asked: which card this is, for errors.

    Raises:
        ArgumentError: names the part that a card does not have, or that is of another form.
    """
    given = given.to_explorer() if hasattr(given, "to_explorer") else given
    if not isinstance(given, Mapping):
        raise ArgumentError(asked, kind_of(given), "give a dict with site and neuron (ExplorerCard)")
    known = ExplorerCard.__required_keys__ | ExplorerCard.__optional_keys__
    if unknown := [str(name) for name in given if name not in known]:
        raise ArgumentError(asked, f"parts {unknown}", f"a card has {', '.join(sorted(known))}")
    if missing := sorted(ExplorerCard.__required_keys__ - set(given)):
        raise ArgumentError(asked, f"no {' and no '.join(missing)}", "give the neuron's site and index")
    card: dict[str, Any] = {name: plain_data(value, f"{asked}: {name}") for name, value in given.items()}
    if isinstance(card["neuron"], bool) or not isinstance(card["neuron"], int) or card["neuron"] < 0:
        raise ArgumentError(f"{asked}: neuron", brief(card["neuron"]), "give its index, from 0")
    width = card.get("width", card["neuron"] + 1)
    if isinstance(width, bool) or not isinstance(width, int) or width <= card["neuron"]:
        do = f"give how many neurons the site has, more than {card['neuron']}"
        raise ArgumentError(f"{asked}: width", brief(width), do)
    for part, row in ROWS.items():
        required, allowed = row.__required_keys__, row.__required_keys__ | row.__optional_keys__
        for i, line in enumerate(_listed(card.get(part, []), f"{asked}: {part}")):
            if not isinstance(line, dict) or not required <= set(line) <= allowed:
                found = f"{brief(line)} at {i}"
                raise ArgumentError(f"{asked}: {part}", found, f"give dicts of {row.__name__}: {', '.join(allowed)}")
    for i, text in enumerate(card.get("texts", [])):
        tokens, activations = (_listed(text[name], f"{asked}: texts[{i}]") for name in ("tokens", "activations"))
        if len(tokens) != len(activations):
            found = f"{len(tokens)} tokens and {len(activations)} activations"
            raise ArgumentError(f"{asked}: texts[{i}]", found, "give an activation for each token")
    for part in ("tokens", "writes", "reads"):
        for side in TOKENS:
            for pair in _listed(card.get(part, {}).get(side, []), f"{asked}: {part}"):
                if not isinstance(pair, list) or len(pair) != 2:
                    raise ArgumentError(f"{asked}: {part}", brief(pair), "give pairs (token, number)")
    if "histogram" in card:
        edges, counts = card["histogram"].get("edges", []), card["histogram"].get("counts", {})
        if any(len(bars) != len(edges) - 1 for bars in counts.values()):
            raise ArgumentError(f"{asked}: histogram", f"{len(edges)} edges", "give one edge more than counts")
    return card


def plain_data(value: Any, asked: str) -> Any:
    """Texts, numbers, dicts and lists as JSON has them; NaN and what is infinite become null.

    Raises:
        ArgumentError: something else.
    """

    def refuse(other: Any) -> None:
        raise ArgumentError(asked, kind_of(other), "give texts, numbers, and lists and dicts of them")

    return json_plain(value, refuse)


def _listed(value: Any, asked: str) -> list[Any]:
    if not isinstance(value, list):
        raise ArgumentError(asked, kind_of(value), "give a list")
    return value
