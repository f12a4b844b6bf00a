"""The report: escaped, complete, without a network, and drawn by a real browser."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from browser import needs_chromium, opened
from plotly.offline import get_plotlyjs

from neuroscope import figures
from neuroscope.errors import ArgumentError
from neuroscope.markup import ROWS, TABLE_STYLE, Link, Quote, lead_and_rest, markup, told
from neuroscope.reports.page import CARTESIAN, write_report
from neuroscope.results import Section

NASTY = "<script>alert('x')</script> & </script>"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each kind of tag."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every tag is closed where it should be

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag and text]


def some_figures():
    names = ["sentiment-food", "sentiment-film", NASTY]
    return [
        figures.heatmap(np.eye(3), names, names, title=f"Heat {NASTY}", colour_label="J"),
        figures.bars_with_band(names, {"a": ([1, 2, 3], None, None)}, title="Bars", value_label="%"),
        figures.distribution({n: [3.0, 2.0, 1.0] for n in names}, title="Ranks", k=0.3),
        figures.curves_with_band({"c": ([1, 2], ([1, 2], [0, 1], [2, 3]))}, title="C", x_label="k", y_label="J"),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    table = pd.DataFrame({"task": [f"t{i}" for i in range(ROWS + 5)], "score": np.linspace(0, 1, ROWS + 5)})
    first, *others = some_figures()
    sections = [
        Section(f"One {NASTY}", "**Bold** and `a < b`\n\n- item\n- other", [first], [("All tasks", table)]),
        Section("Two", NASTY, others),
        Section("Three", "no figure"),
    ]
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    manifest = {"model": "mini", "note": NASTY, "shape": (1, 2), "dtype": np.dtype("float32")}
    assert write_report(path, title=f"R {NASTY}", intro="Intro", sections=sections, manifest=manifest) == path
    return path


@pytest.fixture(scope="module")
def page(report):
    html = report.read_text(encoding="utf-8")
    plotly = CARTESIAN.read_text(encoding="utf-8")
    assert html.count(plotly) == 1 and len(html) < 1.7e6 < len(get_plotlyjs()) / 2
    return Page(html.replace(plotly, ""))


def test_text_is_escaped(page):
    assert page.text("h1") == [f"R {NASTY}"] == page.text("title")
    assert page.text("h2") == [f"One {NASTY}", "Two", "Three"]
    assert NASTY in page.text("p")
    assert '"note": "' + NASTY in page.text("pre")[0] and '"float32"' in page.text("pre")[0]
    assert not any("alert(" in text and "newPlot" not in text for text in page.text("script"))


def test_contents_lead_to_sections(page):
    targets = [a["href"].removeprefix("#") for a in page.all("a")]
    assert targets == [s["id"] for s in page.all("section")] == ["section-1", "section-2", "section-3"]
    assert page.text("a") == page.text("h2")


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "base", "object")
        assert "src" not in attributes and attributes.get("href", "#")[0] == "#"
    assert not re.search(r"url\(|@import", "".join(page.text("style")))
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "http" not in policy
    drawing = [text for text in page.text("script") if "newPlot" in text]
    assert len(drawing) == 4
    for text in drawing:
        assert not re.search(r"https?:", text)
        assert '"showSendToCloud": false' in text


def test_long_tables_are_cut_and_say_so(page):
    assert page.text("figcaption") == [f"All tasks (first {ROWS} of {ROWS + 5} rows)"]
    assert len(page.all("tr")) == ROWS + 1
    assert page.text("td")[:4] == ["t0", "0", "t1", f"{1 / (ROWS + 4):.4g}"]


def test_cells_and_index(tmp_path):
    frame = pd.DataFrame({"n": [1, 2], "x": [np.nan, 1234567.0], "ok": [True, False]}, index=["a", "b"])
    section = Section("s", tables=[("c", frame)])
    page = Page(write_report(tmp_path / "r.html", title="t", sections=[section]).read_text(encoding="utf-8"))
    assert page.text("td") == ["a", "1", "\u2013", "True", "b", "2", "1.235e+06", "False"]
    assert page.text("th") == ["n", "x", "ok"]
    assert not page.all("script")  # plotly.js only where there is a figure


def test_cells_that_lead_somewhere_or_quote(tmp_path):
    link = Link(NASTY, "a b.html", 'task=x&neuron=1.2"')
    frame = pd.DataFrame({"a": [link], "b": [Link("c", "c.html")], "q": [Quote("so ", NASTY, " <i>")]})
    written = write_report(tmp_path / "r.html", title="t", sections=[Section("s", tables=[("c", frame)])])
    page = Page(written.read_text(encoding="utf-8"))
    assert page.all("a")[1:] == [{"href": 'a%20b.html#task=x&neuron=1.2"'}, {"href": "c.html"}]
    assert page.text("a")[1:] == [NASTY, "c"] and page.text("mark") == [NASTY]
    assert page.text("bdi") == ["so", "<i>"] and not page.all("i") and not page.all("script")
    assert [str(cell) for cell in frame.iloc[0]] == [NASTY, "c", f"so «{NASTY}» <i>"]


def test_same_content_same_bytes(report, tmp_path):
    sections = [Section("s", figures=[go.Figure(go.Bar(y=[1]))])]
    paths = [write_report(tmp_path / name, title="t", sections=sections) for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.html", "b.html"}  # no partial file is left


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("a\nb\n\nc", "<p>a b</p>\n<p>c</p>"),
        ("see:\n- x\n- y\nend", "<p>see:</p>\n<ul><li>x</li><li>y</li></ul>\n<p>end</p>"),
        ("`**a**` **b**", "<p><code>**a**</code> <strong>b</strong></p>"),
        ("<b>", "<p>&lt;b&gt;</p>"),
        ("2 * 3 ** 4", "<p>2 * 3 ** 4</p>"),
    ],
)
def test_markup(text, html):
    assert (markup(text) if text else "") == html


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        ("It is **0.5** of all (q < 0.05). More.", "It is **0.5** of all (q < 0.05)."),
        ("**A. Bold**: one. Two", "**A. Bold**: one."),
        ("- First.\n- Second.", "First."),
        ("No end\n\nnext", "No end"),
        ("Of two models:\n- one", "Of two models:"),
        ("Alone", "Alone"),
        ("", ""),
    ],
)
def test_the_first_sentence_leads(text, lead):
    first, rest = lead_and_rest(text)
    assert first == lead and f"{first}{rest}".replace(" ", "") in text.replace("\n", "").replace(" ", "")


def test_what_follows_the_first_sentence_is_folded_and_its_negatives_are_counted():
    text = "It is so. By **0.5**.\n- **A negative**: not in a.\n- **A negative**: not in b."
    lead, rest = told(text).split("<details><summary>More, with 2 negatives</summary>")
    assert lead == "<p>It is so.</p>" and rest.count("<li>") == 2 and rest.startswith("<p>By <strong>")
    assert told("It is so.") == "<p>It is so.</p>" and ">More<" in told("It is so. Why not?")


def test_refusals(tmp_path):
    with pytest.raises(ArgumentError, match="section 0 of a report"):
        write_report(tmp_path / "r.html", title="t", sections=[("title", "text")])
    with pytest.raises(ArgumentError, match="did you mean 'sections'"):
        write_report(tmp_path / "r.html", title="t", section=[])


def test_links_lead_to_files_beside_the_page(tmp_path):
    path = write_report(tmp_path / "r.html", title="t", links={f"See {NASTY}": "a b.html"})
    page = Page(path.read_text(encoding="utf-8"))
    assert page.all("a") == [{"href": "a%20b.html"}] and page.text("a") == [f"See {NASTY}"]
    for wrong in ("../a.html", "/a.html", "", 3):
        with pytest.raises(ArgumentError, match="links"):
            write_report(tmp_path / "r.html", title="t", links={"See": wrong})


def test_a_figure_with_other_axes_brings_the_whole_library(tmp_path):
    section = Section("s", figures=[go.Figure(go.Surface(z=[[1, 2], [3, 4]]))])
    assert get_plotlyjs() in write_report(tmp_path / "r.html", title="t", sections=[section]).read_text("utf-8")


def test_the_part_of_plotly_is_of_the_installed_version():
    version = re.search(r"plotly\.js (?:\(cartesian - minified\) )?v([\d.]+)", get_plotlyjs()[:200])[1]
    assert f"(cartesian - minified) v{version}" in CARTESIAN.read_text(encoding="utf-8")[:200]


@needs_chromium
def test_a_browser_draws_every_figure(report, tmp_path):
    body, drawn, errors = opened(report, tmp_path)
    assert drawn == ["section-1-figure-1", "section-2-figure-1", "section-2-figure-2", "section-2-figure-3"]
    assert len(re.findall(r'<svg class="main-svg"[^>]*style="background', body)) == len(drawn)
    assert 'class="trace bars"' in body and 'class="trace scatter' in body and 'class="hm"' in body
    assert errors == []


WIDE = pd.DataFrame({"task": [f"task-{i}" for i in range(20)]} | {f"column_{i}": [0.5] * 20 for i in range(30)})
PROBE = """<script>
addEventListener("load", () => document.body.append(JSON.stringify([...document.querySelectorAll("section")].map(s => {
  const scroll = s.querySelector(".ns-scroll"), cue = getComputedStyle(s.querySelector("figcaption"), "::after");
  scroll.scrollLeft = 200;
  const first = scroll.querySelector("td").getBoundingClientRect().left - scroll.getBoundingClientRect().left;
  const edge = getComputedStyle(scroll).backgroundAttachment, name = cue.animationName + " " + cue.animationTimeline;
  return [scroll.scrollWidth > scroll.clientWidth, Math.round(first), edge, name, cue.visibility];
})) + " page " + (document.documentElement.scrollWidth - innerWidth)));
</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [1300, 600])
def test_a_wide_table_scrolls_and_shows_it_and_its_first_column_stays(tmp_path, width):
    sections = [Section("wide", tables=[("c", WIDE)]), Section("narrow", tables=[("c", WIDE[["task", "column_0"]])])]
    path = write_report(tmp_path / "wide.html", title="t", sections=sections)
    path.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    body, _, errors = opened(path, tmp_path / "profile", width)
    edge = "local, local, scroll, scroll, scroll"
    wide, narrow = json.loads(re.search(r"\[\[.*\]\]", body).group())
    assert wide[:3] == [True, 0, edge] and narrow[:3] == [False, 0, edge] and narrow[-1] == "hidden"
    keyframes, timeline = wide[3].split()  # visible from the first frame on, which a headless page may not reach
    assert f"@keyframes {keyframes} {{ from, 95% {{ visibility: visible" in path.read_text() and timeline in TABLE_STYLE
    assert int(body.split(" page ")[-1].split("<")[0]) <= 0  # the page itself does not scroll sideways
    assert errors == []
