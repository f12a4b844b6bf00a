"""What every result can do: become words, figures, tables, a section of a report, a file."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import importlib
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from neuroscope import files
from neuroscope.checks import all_of, public
from neuroscope.errors import ArgumentError, FileError, kind_of
from neuroscope.markup import CONFIG, TABLE_STYLE, table_html, told

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


ROWS = 24  # of a table that is printed
OTHERS = {  # formats that a result is not saved in -> what writes them
    **dict.fromkeys((".html", ".htm"), ".figure().write_html({path!r})"),
    **dict.fromkeys(
        (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp"), ".figure().write_image({path!r}) (it needs kaleido)"
    ),
    ".csv": ".to_frame().to_csv({path!r})",
    ".tsv": ".to_frame().to_csv({path!r}, sep='\\t')",
    ".xlsx": ".to_frame().to_excel({path!r}) (it needs openpyxl)",
    ".parquet": ".to_frame().to_parquet({path!r})",
    ".md": ".to_frame().to_markdown({path!r}) (it needs tabulate)",
}


def refuse_other_formats(path: str | PathLike) -> None:
    """Refuse to write JSON under the name of another format.

    Raises:
        FileError: says what writes that one.
    """
    suffix = Path(path).suffix.lower()
    if suffix in OTHERS:
        do = f"save it as JSON, with a name in .json; {OTHERS[suffix].format(path=str(path))} writes this one"
        raise FileError(f"save the result as {Path(path).name!r}", f"the name of a {suffix} file", do)


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading, also in the table of contents.
        text: paragraphs parted by blank lines; lines that start with "- " are a list; **bold** and `code`. Its first
            sentence, the verdict, is in sight, and the rest is folded.
        figures: plotly Figures, shown below the text.
        tables: (caption, frame) pairs, shown below the figures; all but the first are folded.
    """

    title: str
    text: str = ""
    figures: Sequence[go.Figure] = ()
    tables: Sequence[tuple[str, pd.DataFrame]] = ()

    def __post_init__(self) -> None:
        for i, figure in enumerate(all_of(self.figures, "figures")):
            if not hasattr(figure, "to_plotly_json"):
                raise ArgumentError(f"Section(figures[{i}])", kind_of(figure), "give figures of plotly")
        for i, pair in enumerate(all_of(self.tables, "tables")):
            named = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)
            if not named or type(pair[1]).__name__ != "DataFrame":
                do = "give pairs of a caption and a DataFrame, such as [('Scores', result.to_frame())]"
                raise ArgumentError(f"Section(tables[{i}])", kind_of(pair), do)


Section.__init__ = public(Section.__init__)  # type: ignore[method-assign]


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """A frozen table of numbers with the manifest that says where they come from, and that says itself.

    A kind of result writes `in_words` and `figure`, and `figures`, `tables` and `title` where one figure and the whole
    table are not what a report should show. Reports and notebooks show `sections`, which are made of these.

    Attributes:
        table: tidy: one row per measurement, one column per variable.
        manifest: model, data hash, seed, dtype, versions and settings behind the numbers.
    """

    table: pd.DataFrame
    manifest: dict[str, Any]

    title: ClassVar[str] = ""  # heading of the section; the name of the class if empty
    captions: ClassVar[Mapping[str, str]] = {}  # name of a table -> its caption, where the name alone says too little

    def __post_init__(self) -> None:
        if type(self.table).__name__ != "DataFrame" or not isinstance(self.manifest, dict):
            found = f"a {type(self.table).__name__} and a {type(self.manifest).__name__}"
            raise ArgumentError(f"{type(self).__name__}(table, manifest)", found, "give a DataFrame and a dict")

    def __repr__(self) -> str:
        what = ", ".join(map(str, self.table.columns))
        return f"{type(self).__name__}({len(self.table)} rows of {what}; see to_frame(), figure(), manifest)"

    def __str__(self) -> str:
        """The most telling table, cut to some rows, and under it what was found, in words.

        Of a kind that has a line of its own to show, or no words, that line.
        """
        if type(self).__repr__ is not Result.__repr__:
            return repr(self)
        try:
            words = self.in_words()
        except TypeError:  # a kind that has none
            return repr(self)
        name, table = next(iter(self.tables().items()))
        shown = table.to_string(max_rows=ROWS, index=False, float_format=lambda x: f"{x:.4g}")
        return f"{self.title or type(self).__name__}: {self.captions.get(name, name)}\n\n{shown}\n\n{words}"

    def to_frame(self) -> pd.DataFrame:
        """A copy of the tidy table."""
        return self.table.copy()

    def in_words(self) -> str:
        """What was found: sentences computed from the numbers, as text with `**bold**` and lists; negatives are marked.

        The first sentence is the verdict, in plain words: reports and notebooks show it, and fold what follows it.

        Raises:
            TypeError: a kind of result that has no words.
        """
        raise TypeError(f"{type(self).__name__} has no words; use to_frame()")

    def figure(self) -> go.Figure:
        """The result as an interactive plotly figure (never shown by itself).

        Raises:
            TypeError: a kind of result that has no figure.
        """
        raise TypeError(f"{type(self).__name__} has no figure; use to_frame()")

    def figures(self) -> list[go.Figure]:
        """Every figure that a report shows, the most telling first."""
        return [self.figure()]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table that a report shows, by name, the most telling first."""
        return {"rows": self.to_frame()}

    def sections(self) -> list[Section]:
        """What a report shows of the result: words, figures and tables."""
        tables = [(self.captions.get(name, name.capitalize()), frame) for name, frame in self.tables().items()]
        return [Section(self.title or type(self).__name__, self.in_words(), self.figures(), tables)]

    def _repr_html_(self) -> str:
        """Words, the first table and the first figure, with all that they need: for any page, also offline."""
        drawn = self.figure().to_html(full_html=False, include_plotlyjs=True, include_mathjax=False, config=CONFIG)
        return f"<div>{self._words_and_table()}{drawn}</div>"

    def _ipython_display_(self) -> None:
        """The same in a notebook, where plotly shows the figure itself, without its five megabytes for each result."""
        from IPython.display import HTML, display  # only in a notebook, which has it

        display(HTML(self._words_and_table()))
        display(self.figure())

    def _words_and_table(self) -> str:
        name, frame = next(iter(self.tables().items()))
        table = table_html(self.captions.get(name, name.capitalize()), frame)
        heading = f"<h3>{html.escape(self.title or type(self).__name__)}</h3>"
        return f"<style>{TABLE_STYLE}</style>{heading}{told(self.in_words())}{table}"

    @public
    def save(self, path: str | PathLike) -> Path:
        """Write the result as one JSON file, atomically. Numbers keep every digit; missing ones become null.

        Raises:
            FileError: a name that says another format, such as a table's or a page's.
        """
        refuse_other_formats(path)
        return files.write(path, json.dumps(self.content(), indent=1))

    def content(self) -> dict[str, Any]:
        """What a file of the result holds."""
        import pandas as pd  # heavy: only where a table is written

        return {
            "format": files.FORMAT,
            "kind": type(self).__name__,
            "module": type(self).__module__,
            "manifest": self.manifest,
            "table": {
                name: {"dtype": str(column.dtype), "values": [None if pd.isna(v) else v for v in column.tolist()]}
                for name, column in self.table.items()
            },
        }

    @classmethod
    @public
    def load(cls, path: str | PathLike) -> Self:
        """Read back what `save` wrote.

        Raises:
            FileError: the file is missing, truncated, or holds something else.
        """
        import pandas as pd  # heavy: only where a table is read

        content = content_of(path, cls.__name__)
        try:
            if not isinstance(content["manifest"], dict):
                raise TypeError("no manifest")
            columns = {n: pd.Series(c["values"], dtype=c["dtype"]) for n, c in content["table"].items()}
            return cls(table=pd.DataFrame(columns), manifest=content["manifest"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, cls.__name__, error) from None


def content_of(path: str | PathLike, kind: str) -> dict[str, Any]:
    """What a file of a kind of result holds.

    Raises:
        FileError: the file is missing, truncated, of another kind, or of a newer format.
    """
    content = files.read_json(path, kind)
    found_kind = content.get("kind") if isinstance(content, dict) else None
    form = content.get("format") if found_kind else None
    if found_kind != kind or not isinstance(form, int) or form > files.FORMAT:
        found = f"a file of kind {found_kind!r}" + (f", format {form}" if found_kind else "")
        raise FileError(f"read {kind} from {path}", found, "load it with its own class, or update")
    return content


def damaged(path: str | PathLike, kind: str, error: Exception) -> FileError:
    """The error that a file's content is not what such a result is made of."""
    found = f"a damaged file ({type(error).__name__}: {error})"
    return FileError(f"read {kind} from {path}", found, "write the file again")


@public
def load_result(path: str | PathLike) -> Result:
    """Read back any result that `save` wrote, whatever its kind.

    Raises:
        FileError: the file is missing, truncated, or no result of this package.

    Example:
        >>> import tempfile, pandas as pd
        >>> path = Path(tempfile.mkdtemp(), "numbers.json")
        >>> load_result(Result(pd.DataFrame({"score": [0.5]}), {"seed": 0}).save(path)).manifest
        {'seed': 0}
    """
    if files.path_of(path, "read a result").is_dir():
        do = "representations are read by ns.Representations.load(folder)"
        raise FileError(f"read a result from {path}", "a folder", do)
    content = files.read_json(path, "a result")
    kind, module = (content.get(key) for key in ("kind", "module")) if isinstance(content, dict) else (None, None)
    cls = None
    if str(module).startswith("neuroscope."):  # nothing else is ever imported
        with contextlib.suppress(ImportError):
            cls = getattr(importlib.import_module(str(module)), str(kind), None)
    if not (isinstance(cls, type) and issubclass(cls, Result)):
        do = "give a file that a result's save() wrote, or load it with its own class"
        raise FileError(f"read a result from {path}", f"a file of kind {kind!r}", do)
    return cls.load(path)
