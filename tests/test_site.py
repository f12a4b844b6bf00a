"""The site builds without a warning, has every public name, and all its links lead somewhere, on the disk alone."""

import html.parser
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import families
import nbformat
import pytest
from browser import Browser, needs_chromium

import neuroscope
from neuroscope import errors
from neuroscope.attribution import METHODS
from neuroscope.checks import VOCABULARY
from neuroscope.experiments.table import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "hooks"))
api = importlib.import_module("api")
made = importlib.import_module("made")
spec = importlib.util.spec_from_file_location("pages_of_tutorials", ROOT / "docs" / "tutorials.py")
tutorials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorials)
NAMES = api.public_names()
# what a page may load from elsewhere: nothing
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(html.parser.HTMLParser):
    """Ids, links and what else is loaded, of one page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href") is not None:
            self.links.append(attrs["href"])
        if tag in LOADS and attrs.get(LOADS[tag]) and attrs.get("rel") != "canonical":
            self.loads.append(attrs[LOADS[tag]])


def broken(folder):
    """(page, link) of every link of a built site that leads nowhere; others' addresses are looked at, not opened."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    pages.pop(folder / "404.html", None)  # is served in the place of any page: it counts from the root
    wrong = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme in ("http", "https"):
                good = re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc) and " " not in link and link not in page.loads
            elif parts.scheme in ("mailto", "data"):
                good = True
            else:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
                anchor = urllib.parse.unquote(parts.fragment)
                good = not parts.scheme and not parts.netloc and target.is_file()
                if good and anchor and target in pages:
                    good = anchor in pages[target].ids
            if not good:
                wrong.append((str(path.relative_to(folder)), link))
    return wrong


def built(folder, root=ROOT):
    """The strict build of a site, as CI runs it; with --quiet mkdocs counts no warnings."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = built(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_warning_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: planted\ntheme: mkdocs\nplugins: []\n")
    (tmp_path / "docs" / "index.md").write_text("[a page](gone.md)")
    done = built(tmp_path / "site", tmp_path)
    assert done.returncode != 0 and "strict mode" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert len(list(site.rglob("*.html"))) > 15
    assert broken(site) == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?https?:[^)]*", styles) == []


@pytest.mark.slow
def test_every_public_name_has_its_place_and_is_found_by_the_search(site):
    pages = {name.room: Page((site / "api" / f"{name.room}.html").read_text(encoding="utf-8")) for name in NAMES}
    assert [name.said for name in NAMES if name.anchor not in pages[name.room].ids] == []
    search = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert [name.said for name in NAMES if name.anchor not in search] == []


SEARCH = """(() => {
  document.querySelector("[data-md-toggle=search]").click();
  const typed = document.querySelector(".md-search__input");
  typed.focus(); typed.value = WORDS; typed.dispatchEvent(new Event("input", {bubbles: true}));
  typed.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
})()"""
FOUND = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href.split('?')[0])"


@pytest.mark.slow
@needs_chromium
def test_the_search_of_a_site_opened_from_the_disk_finds_names_in_code(site, tmp_path):
    wanted = {"faithfulness": "how-to/judge", "cross_ablation": "concepts/verdicts", "fine-tune": "how-to/train"}
    with Browser(tmp_path) as browser:
        for words, page in wanted.items():
            browser.open((site / "index.html").as_uri(), "document.readyState == 'complete'")
            browser.js(SEARCH.replace("WORDS", json.dumps(words)))
            browser.until(f"{FOUND}.length > 0")
            found = browser.js(FOUND)
            assert any(link.endswith(f"{page}.html") for link in found), (words, found)
            assert not found[0].endswith("changelog.html")
        assert browser.complaints == []


def test_the_link_checker_sees_what_is_broken(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="https://">4</a>'
        '<a href="https://example.org/x">5</a><script src="https://example.org/x.js"></script><a href="/b.html">6</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    wrong = [link for _, link in broken(tmp_path)]
    assert wrong == ["b.html#gone", "c.html", "https://", "/b.html", "https://example.org/x.js"]


def test_the_reference_lists_what_the_package_lists():
    said = {name.said for name in NAMES}
    assert {name for name in said if "." not in name} | set(api.SPACES) == set(neuroscope.__all__)
    for space in api.SPACES:
        inside = {name.split(".")[1] for name in said if name.startswith(f"{space}.")}
        assert inside == set(getattr(neuroscope, space).__all__), space


def test_the_reference_shows_each_name_once():
    shown = [path for text in api.pages().values() for path in re.findall(r"^::: (.+)$", text, re.MULTILINE)]
    origins = [api.origin(path)[0] for path in shown]
    assert [one for one in set(origins) if origins.count(one) > 1] == []
    assert {path for _, path in api.results()} < set(origins)


def named(said):
    found = neuroscope
    for part in said.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.said)
def test_every_public_name_says_what_it_is(name):
    value = named(name.said)
    if callable(value):
        assert len(inspect.getdoc(value) or "") > 30
        assert api.summary(name.path), "the reference's first page has its first sentence"


def test_the_vocabulary_has_its_page():
    page = (ROOT / "docs" / "api" / "vocabulary.md").read_text(encoding="utf-8")
    assert [name for name in VOCABULARY if f"| `{name}`" not in page and f", `{name}` |" not in page] == []


def test_the_page_of_experiments_is_their_table():
    listed = re.findall(r"^\| ([\w-]+) \| (.+?) \| .+? \| `ns\.([\w.]+)\(", made.reproduce(), re.MULTILINE)[0:]
    assert [(row, title) for row, title, _ in listed] == [(row.id, row.title) for row in EXPERIMENTS.values()]
    for row, _, call in listed:
        assert named(call) is EXPERIMENTS[row].load(), row


def test_the_table_of_families_has_every_family():
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+) \| `(\w+)` \|", page, re.MULTILINE))
    assert list(rows) == list(families.FAMILIES)
    assert " failed." in page and ", 0 failed." in page
    assert re.search(r"on \d{4}-\d\d-\d\d with torch [\d.+\w]+, transformers \d", page)


@pytest.mark.parametrize("path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_tutorial_has_its_page_as_it_is_now(path):
    page = tutorials.PAGES / f"{path.stem}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    assert tutorials.hash_of(nbformat.read(path, as_version=4)) in text, f"python docs/tutorials.py {path.stem}"
    pictures = re.findall(rf"\]\({path.stem}/([\w-]+\.webp)\)", text)
    assert len(pictures) >= 6
    assert {file.name for file in (tutorials.PAGES / path.stem).iterdir()} == set(pictures)


def test_no_page_is_of_a_tutorial_that_is_gone():
    notebooks = {path.stem for path in (ROOT / "tutorials").glob("*.ipynb")}
    assert {path.stem for path in tutorials.PAGES.glob("[0-9]*")} == notebooks


def test_the_page_of_benchmarks_has_ratios_alone():
    page = made.benchmarks()
    heads = [rows.splitlines()[0] for rows in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE)]
    assert len(heads) > 3 and "/ floor" in page
    assert [head for head in heads if re.search(r"\| (ms|s|MB)\b", head)] == []
    table = "| who | ms | time / floor | MB |\n| --- | --- | --- | --- |\n| us | 12 | 1.02 | 3 |\n"
    assert made.relative(table) == "| who | time / floor |\n| --- | --- |\n| us | 1.02 |"
    assert made.relative("| who | ms |\n| --- | --- |\n| us | 12 |\n") == ""


def test_the_gallery_has_every_real_figure_with_its_command():
    page = made.gallery()
    figures = {path.name for path in (ROOT / "assets" / "real").glob("*.png")}
    assert set(re.findall(r"assets/real/([\w-]+\.png)", page)) == figures
    assert page.count('"The command"') == page.count("\n## ")


def test_every_method_has_its_row_where_methods_are_chosen():
    page = (ROOT / "docs" / "concepts" / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(METHODS)


def test_every_family_of_errors_has_its_page():
    index = (ROOT / "docs" / "errors" / "index.md").read_text(encoding="utf-8")
    kinds = {k for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.NeuroscopeError)}
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\((\w+\.md)\)", index, re.MULTILINE))
    assert set(listed) == kinds - {"NeuroscopeError"}
    for kind, page in listed.items():
        text = (ROOT / "docs" / "errors" / page).read_text(encoding="utf-8")
        assert text.startswith(f"# {kind}: ") and "## The way out" in text
        assert f"neuroscope.errors.{kind}: " in text, "it shows one"
