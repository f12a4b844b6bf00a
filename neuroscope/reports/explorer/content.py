"""What an explorer shows, checked to be of one model: from a run's folder, or as it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neuroscope import files
from neuroscope.errors import ArgumentError, FileError, MaskError, NeuroscopeError, brief, kind_of
from neuroscope.masks import NeuronMask, Scores
from neuroscope.masks.by_hand import address_of
from neuroscope.masks.per_neuron import shape
from neuroscope.reports.explorer.card import card_data

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", Scores, NeuronMask)
ORIGIN = ("model", "revision", "method", "objective", "reduction", "examples", "dtype", "fingerprint", "version")
COLUMNS = {  # of each table that is read: what the page needs of it
    "overlap": ("a", "b", "shared", "jaccard", "chance_layer", "q"),
    "crossed": ("source", "target", "score", "original", "control", "effect", "low", "high", "q"),
    "verdicts": ("task", "verdict", "effect", "low", "high", "q"),
    "deactivation": ("name", "original", "random-layer", "off", "q", "chance"),
}
IN_A_RUN = {"overlap": "overlap_pairs", "crossed": "cross_ablation_runs", "verdicts": "cross_ablation_verdicts"}
IN_A_RUN |= {"deactivation": "deactivation_summary"}
SETTINGS = Path("settings", "run.json")
CARDS = "cards.json"  # in a run's folder, where somebody saved some: a result with plain cards in it
STRONGEST = "strongest.json"  # there too: those that the run made of each task's strongest neurons


@dataclass(frozen=True)
class Content:
    """Everything by the names of tasks. What is not known is empty or None.

    Attributes:
        tables: those of `COLUMNS` that are there.
        cards: of single neurons, as `card_data` gives them; `site` is an address.
        about: where the numbers come from.
    """

    title: str = ""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    masks: Mapping[str, NeuronMask] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    cards: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the tasks, in the order given."""
        pairs = [("overlap", "a"), ("overlap", "b"), ("crossed", "source"), ("crossed", "target")]
        others = [name for table, column in pairs if table in self.tables for name in self.tables[table][column]]
        cards = [line["task"] for card in self.cards for line in card.get("tasks", [])]
        return list(dict.fromkeys([*self.scores, *self.masks, *others, *cards]))

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of every site; where there are only cards, of theirs, as many as they say or need."""
        for per_neuron in (*self.scores.values(), *self.masks.values()):
            return dict(per_neuron.widths)
        widths: dict[str, int] = {}
        for card in self.cards:
            site, needed = str(card["site"]), card.get("width", card["neuron"] + 1)
            widths[site] = max(widths.get(site, 0), needed)
        return {site: widths[site] for site in sorted(widths, key=_by_numbers)}

    @property
    def unit(self) -> str:
        """Of what a neuron is here."""
        return next((one.unit for one in (*self.scores.values(), *self.masks.values())), "hidden")

    def of_one_model(self) -> Content:
        """The same, with the cards' sites as addresses; of two cards of one neuron the first.

        Raises:
            ArgumentError: there is nothing to show.
            MaskError: scores, masks or cards of different models, or a card of a neuron that they do not have.
        """
        every: dict[str, Scores | NeuronMask] = {f"scores of {name!r}": one for name, one in self.scores.items()}
        every |= {f"the mask of {name!r}": one for name, one in self.masks.items()}
        if not every and not self.cards:
            do = "give the folder of a run, or scores=, masks= or cards="
            raise ArgumentError("explore()", "nothing to show: no scores, masks or cards", do)
        for name, one in every.items():
            if (dict(one.widths), one.unit) != (self.widths, self.unit):
                found = f"{next(iter(every))} over {shape(self.widths)}, {name} over {shape(one.widths)}"
                raise MaskError("explore(): scores and masks of one model", found, "find them on one model")
        placed: dict[tuple[str, int], Mapping[str, Any]] = {}
        widths = dict(self.widths) if every else {}
        for card in map(self._placed, self.cards):
            site = card["site"]
            if "width" in card and widths.setdefault(site, card["width"]) != card["width"]:
                found = f"a site of {card['width']} neurons, which has {widths[site]} elsewhere"
                raise MaskError(
                    f"explore(): card of neuron {card['neuron']} at {site}", found, "give cards of one model"
                )
            placed.setdefault((site, card["neuron"]), card)
        return replace(self, cards=list(placed.values()))

    def _placed(self, card: Mapping[str, Any]) -> Mapping[str, Any]:
        widths = self.widths if self.scores or self.masks else {}
        if not widths:
            return {**card, "site": str(card["site"])}
        try:
            address = address_of(card["site"], widths)
        except MaskError as error:
            raise MaskError(f"explore(): card of neuron {card['neuron']}", error.found, error.do) from None
        if card["neuron"] >= widths[address]:
            found = f"neuron {card['neuron']}; the site has {widths[address]}"
            raise MaskError(f"explore(): card at {address}", found, f"use 0 to {widths[address] - 1}")
        return {**card, "site": address}


def content_of_run(folder: Path) -> Content:
    """What `run` left in its folder, also where it has not come to the end.

    Raises:
        FileError: no folder of a run, one without scores yet, or files of another version.
    """
    asked, do = f"explore {folder}", "give the folder that ns.run or `neuroscope run` wrote"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise FileError(asked, found, do)
    if not (folder / SETTINGS).is_file():
        held = sorted(path.name for path in folder.iterdir())[:6]
        raise FileError(asked, f"no {SETTINGS}, but {', '.join(held) or 'no file'}", do)
    settings = files.read_json(folder / SETTINGS, "the settings of a run")
    order = settings.get("order") if isinstance(settings, dict) else None
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise FileError(asked, f"no order of tasks in {SETTINGS}", "the file is of another version, or damaged")
    scores = _found(folder / "scores", order, Scores)
    if not scores:
        raise FileError(asked, "no scores yet", "let the run come to its end: the same command goes on where it was")
    tables = {name: table for name, file in IN_A_RUN.items() if (table := _table(folder / "tables" / file)) is not None}
    for name, table in tables.items():
        require_columns(table, name, asked)
    crossed = tables.get("crossed")
    families = {} if crossed is None else dict(zip(crossed["source"], crossed.get("source_family", ""), strict=True))
    first = next(iter(scores.values())).manifest
    about = about_of(first) | {"k": settings.get("k")}
    about |= {"tune": settings["tune"]} if settings.get("tune") else {}
    title = f"Task neurons of {Path(str(first.get('model', 'a model'))).name}"
    masks = _found(folder / "masks", order, NeuronMask)
    cards = [*_saved_cards(folder / CARDS), *_saved_cards(folder / STRONGEST)]
    return Content(title, scores, masks, families, tables, cards, about)


def require_columns(table: pd.DataFrame, name: str, asked: str) -> None:
    """Refuse a table without what the page needs of it."""
    if missing := [column for column in COLUMNS[name] if column not in table]:
        do = "make it again with this version of neuroscope"
        raise FileError(asked, f"a table of {name} without {', '.join(missing)}", do)


def _by_numbers(site: str) -> tuple[list[int], str]:
    """blocks.9 before blocks.10."""
    return [int(part) for part in site.split(".") if part.isdigit()], site


def _saved_cards(path: Path) -> Sequence[Mapping[str, Any]]:
    if not path.exists():
        return ()
    content = files.read_json(path, "cards")
    cards = content.get("cards") if isinstance(content, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise FileError(f"read cards from {path}", "no list of cards", "save what ns.neurons gives, or take it away")
    return cards_of([{part: value for part, value in card.items() if part != "name"} for card in cards])


def about_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Of a manifest, what the page says of where the numbers come from."""
    return {key: manifest[key] for key in ORIGIN if manifest.get(key) is not None}


def _found(folder: Path, names: Iterable[str], kind: type[T]) -> dict[str, T]:
    """Of each name, what is in the folder."""
    paths = {name: folder / f"{files.encoded(name)}.safetensors" for name in names}
    return {name: kind.load(path) for name, path in paths.items() if path.exists()}


def _table(path: Path) -> pd.DataFrame | None:
    import pandas as pd  # heavy: only where a table is read

    path = path.with_suffix(".parquet")
    if not path.exists():
        return None
    try:
        return pd.read_parquet(path)
    except Exception as error:  # of pyarrow, in several kinds
        raise FileError(f"read {path}", brief(str(error)), "run the same command again: it writes the tables") from None


def cards_of(cards: Any) -> list[dict[str, Any]]:
    """Cards as plain data: of a sequence, a mapping's values, or an object with `to_explorer()` that gives them.

    Raises:
        ArgumentError: something else, or a card that is none.
    """
    given = cards.to_explorer() if hasattr(cards, "to_explorer") else cards
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ArgumentError("explore(cards)", kind_of(given), "give a list of cards, such as ns.neurons(...) has")
    try:
        return [card_data(card, f"explore(cards[{i}])") for i, card in enumerate(given)]
    except NeuroscopeError:
        raise
    except Exception as error:  # somebody else's object
        raise ArgumentError("explore(cards)", brief(str(error)), "give a list of dicts (ExplorerCard)") from None
