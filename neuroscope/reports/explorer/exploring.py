"""`explore`: what a run found, as one page to look through and to share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope import files
from neuroscope.checks import by_text, public
from neuroscope.errors import ArgumentError, FileError, kind_of
from neuroscope.experiments.f5_cross_ablation import CrossAblation
from neuroscope.masks import NeuronMask, Scores
from neuroscope.masks.neuron_mask import masks_of
from neuroscope.masks.overlap_results import Overlap
from neuroscope.masks.scores import scores_of
from neuroscope.reports.explorer.content import SETTINGS, Content, about_of, cards_of, content_of_run
from neuroscope.reports.explorer.pages import page_of, parts_of, read_page

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Task neurons"


@dataclass(frozen=True, repr=False)
class Explorer:
    """A page that is ready to be written.

    Attributes:
        title: of the page.
        parts: its data as text, by name; see `pages`.
    """

    title: str
    parts: Mapping[str, str]

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write one HTML file, atomically, that any browser of 2023 or later opens without a network.

        Returns:
            The path written.

        Raises:
            FileError: the file cannot be written, or the path is named as one of another format.
        """
        asked = "save an explorer"
        suffix = files.path_of(path, asked).suffix.lower()
        if suffix not in ("", ".html", ".htm"):
            raise FileError(f"{asked} as {Path(path).name!r}", f"the name of a {suffix} file", "give a name in .html")
        return files.write(path, page_of(self.parts, self.title))

    def __repr__(self) -> str:
        size = sum(map(len, self.parts.values())) / 1e6
        return f"Explorer({self.title!r}, {size:.1f} MB of data; write it with .save('explorer.html'))"


@public
def explore(
    run: Any = None,
    *,
    scores: Mapping[str, Scores] | None = None,
    masks: Mapping[str, NeuronMask] | None = None,
    overlap: Overlap | None = None,
    crossed: CrossAblation | None = None,
    cards: Any = None,
    families: Mapping[str, str] | None = None,
    title: str = "",
) -> Explorer:
    """One offline page on what was found: tasks, their masks over depth, layers, neurons and their cards.

    Choose a task, a layer, a neuron, by mouse or by keys (`?` lists them); everything else on the page follows. Draw
    around neurons to make a mask of them, which `NeuronMask.load` reads. The address of the page holds the view:
    whoever has the file can be sent it.

    Args:
        run: the folder that `run` wrote, or the path of its report; cards that were saved there as `cards.json` are
            shown too. Or a page of an explorer, to be given this version's front end; or cards. What else is given
            stands in place of the folder's own.
        scores: name of a task -> scores.
        masks: name of a task -> mask.
        overlap: of the masks.
        crossed: the result of `cross_ablation`.
        cards: of single neurons: what `neurons` gives, or a list of dicts as `ExplorerCard` says
            (`neuroscope.reports.explorer.card`).
        families: name of a task -> family; tasks of one family have one colour.
        title: of the page.

    Returns:
        An object with `.save("explorer.html")`.

    Raises:
        ArgumentError: nothing to show, or something else than the keywords say.
        FileError: a folder that is of no run, or a file of another version.
        MaskError: scores, masks or cards of different models.

    Example:
        >>> import tempfile, torch
        >>> scores = {"colours": Scores({"blocks.0": torch.tensor([0.1, 2.0, 0.3])}, {"blocks.0": 3})}
        >>> page = explore(scores=scores, masks={"colours": scores["colours"].top(0.34)}, title="Two colours")
        >>> page.save(Path(tempfile.mkdtemp(), "explorer.html")).stat().st_size < 200_000
        True
    """
    given: dict[str, Any] = {
        "scores": None if scores is None else scores_of(scores, "explore"),
        "masks": None if masks is None else masks_of(masks, "explore"),
        "cards": None if cards is None else cards_of(cards),
        "families": None if families is None else _families(families),
        "tables": _tables(overlap, crossed),
        "title": title,
    }
    given = {name: value for name, value in given.items() if value}
    content = Content(title=TITLE)
    if isinstance(run, str | PathLike):
        path = files.path_of(run, "explore(run)")
        is_file = path.is_file()
        if is_file and not (path.parent / SETTINGS).exists():
            return _again(path, given)
        content = content_of_run(path.parent if is_file else path)
    elif run is not None:
        if "cards" in given:
            raise ArgumentError("explore(run, cards=...)", f"{kind_of(run)} and cards", "give cards once")
        given["cards"] = cards_of(run)
    given["tables"] = {**content.tables, **given.get("tables", {})}
    given.setdefault("families", {**content.families, **_families_of(overlap, crossed)})
    if not content.about or "scores" in given:  # the numbers shown are theirs, not the run's
        known = [*(scores or {}).values(), *(masks or {}).values(), cards, run]
        manifests = [found for one in known if isinstance(found := getattr(one, "manifest", None), Mapping)]
        given["about"] = about_of(manifests[0]) if manifests else {}
    content = replace(content, **given).of_one_model()
    return Explorer(content.title, parts_of(content))


def _again(path: Path, given: Mapping[str, Any]) -> Explorer:
    """A page that was written before, with this version's front end."""
    if given:
        found = f"{path}, a page, and {', '.join(given)}"
        raise ArgumentError("explore(run)", found, "give the folder of the run, whose parts others can replace")
    parts, title = read_page(path)
    return Explorer(title, parts)


def _tables(overlap: Overlap | None, crossed: CrossAblation | None) -> dict[str, pd.DataFrame]:
    tables = {}
    if overlap is not None:
        if not isinstance(overlap, Overlap):
            raise ArgumentError("explore(overlap)", kind_of(overlap), "give what ns.overlap(masks) gives")
        tables["overlap"] = overlap.to_frame()
    if crossed is not None:
        if not isinstance(crossed, CrossAblation):
            raise ArgumentError("explore(crossed)", kind_of(crossed), "give what ns.cross_ablation gives")
        tables |= {"crossed": crossed.to_frame(), "verdicts": crossed.verdicts()}
    return tables


def _families_of(overlap: Overlap | None, crossed: CrossAblation | None) -> dict[str, str]:
    families = dict((overlap.families if overlap is not None else None) or {})
    if crossed is not None:
        families |= dict(zip(crossed.table["source"], crossed.table["source_family"], strict=True))
    return families


def _families(families: Any) -> dict[str, str]:
    do = "give a dict name of a task -> family"
    read = by_text(families, "families", do)
    if wrong := [name for name, family in read.items() if not isinstance(family, str)]:
        raise ArgumentError("explore(families)", f"{kind_of(read[wrong[0]])} for {wrong[0]!r}", do)
    return read
