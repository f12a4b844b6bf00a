"""What every result can do: words, figures, tables, sections, notebooks, files."""

import importlib
import pkgutil
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import pytest
from browser import needs_chromium, opened

import neuroscope
from neuroscope import figures
from neuroscope.errors import FileError
from neuroscope.results import Result, Section


@dataclass(frozen=True, repr=False)
class Lengths(Result):
    """Lengths of words."""

    title = "Lengths of words"
    captions = {"rows": "Letters in each word"}  # noqa: RUF012

    def in_words(self):
        return f"- The longest has **{self.table['length'].max()}** letters."

    def figure(self):
        names = list(self.table["word"])
        series = {"letters": (list(self.table["length"]), None, None)}
        return figures.bars_with_band(names, series, title="Letters", value_label="letters")


LENGTHS = Lengths(pd.DataFrame({"word": ["a", "<script>alert(1)</script>"], "length": [1, 25]}), {"seed": 0})


def every_result():
    for module in pkgutil.walk_packages(neuroscope.__path__, "neuroscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = []
    waiting = [Result]
    while waiting:
        kinds = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("neuroscope.")]
        found += kinds
        waiting += kinds
    return found


@pytest.mark.parametrize("kind", every_result(), ids=lambda kind: kind.__name__)
def test_every_result_says_itself(kind):
    assert kind.in_words is not Result.in_words and kind.figure is not Result.figure
    assert kind.title and kind.title[0].isupper() and kind.__doc__ and kind.figure.__doc__ and kind.in_words.__doc__


def test_a_section_is_made_of_words_figures_and_tables():
    (section,) = LENGTHS.sections()
    assert isinstance(section, Section) and section.title == "Lengths of words"
    assert section.text == LENGTHS.in_words() and len(section.figures) == 1
    ((caption, frame),) = section.tables
    assert caption == "Letters in each word" and frame.equals(LENGTHS.to_frame())


def test_what_is_printed_is_a_table_and_words():
    text = str(LENGTHS)
    title, _, *table, _, words = text.splitlines()
    assert title == "Lengths of words: Letters in each word" and words == LENGTHS.in_words()
    assert [line.split() for line in table] == [["word", "length"], ["a", "1"], ["<script>alert(1)</script>", "25"]]
    many = Lengths(pd.DataFrame({"word": ["a"] * 1000, "length": range(1000)}), {})
    assert len(str(many).splitlines()) < 40 and str(many).endswith(many.in_words())
    assert repr(LENGTHS).startswith("Lengths(2 rows of word, length") and "\n" not in repr(LENGTHS)
    bare = Result(pd.DataFrame({"a": [1]}), {})
    assert str(bare) == repr(bare)  # it has no words
    own = type("Own", (Lengths,), {"__repr__": lambda self: "a line of its own"})(LENGTHS.table, {})
    assert str(own) == "a line of its own"


def test_a_result_without_words_or_figure_says_what_it_has():
    bare = Result(pd.DataFrame({"a": [1]}), {})
    for call in (bare.in_words, bare.figure):
        with pytest.raises(TypeError, match=r"use to_frame\(\)"):
            call()


def test_hostile_names_stay_text():
    page = LENGTHS._repr_html_()
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page and "<strong>25</strong>" in page
    assert "<td><script>" not in page


def test_a_notebook_shows_words_and_table_and_then_the_figure(monkeypatch):
    shown = []
    display = SimpleNamespace(HTML=lambda text: ("html", text), display=shown.append)
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", display)
    LENGTHS._ipython_display_()
    (kind, text), figure = shown
    assert kind == "html" and "<h3>Lengths of words</h3>" in text and "Letters in each word" in text
    assert figure.layout.title.text == "<b>Letters</b>" and len(text) < 5000


@needs_chromium
@pytest.mark.slow
def test_a_page_without_a_network_shows_the_figure(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><html><body>{LENGTHS._repr_html_()}</body></html>")
    body, _, errors = opened(page, tmp_path / "profile")
    assert "js-plotly-plot" in body and errors == []


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("lengths.html", "figure().write_html"),
        ("lengths.CSV", "to_frame().to_csv"),
        ("lengths.tsv", "to_frame().to_csv"),
        ("lengths.png", "figure().write_image"),
        ("lengths.svg", "figure().write_image"),
        ("lengths.parquet", "to_frame().to_parquet"),
        ("lengths.xlsx", "to_frame().to_excel"),
    ],
)
def test_json_is_not_written_under_another_formats_name(name, writes, tmp_path):
    with pytest.raises(FileError) as told:
        LENGTHS.save(tmp_path / name)
    assert f".{writes}({str(tmp_path / name)!r}" in told.value.do and list(tmp_path.iterdir()) == []
    assert LENGTHS.save(tmp_path / "lengths.json").exists()
