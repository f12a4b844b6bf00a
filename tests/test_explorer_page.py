"""The explorer: packed numbers, refusals, and a page that a real browser shows, answers on, and shares."""

import base64
import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import re
import sys
import time
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Browser, needs_chromium

import neuroscope as ns
from neuroscope import files
from neuroscope.__main__ import main
from neuroscope.errors import ArgumentError, FileError, MaskError
from neuroscope.experiments.f5_cross_ablation import CrossAblation
from neuroscope.masks.evidence import evidence_of
from neuroscope.reports.explorer import packing, pages
from neuroscope.reports.explorer.content import Content
from neuroscope.statistics import benjamini_hochberg

SCRIPT = "<script>document.title='taken'</script ><img src=x onerror=\"document.title='taken'\">"
NAMES = [f"alpha {SCRIPT}", "beta \"quoted\" & 'single' 😀", "שלום עולם", "delta"]
FAMILIES = dict(zip(NAMES, ["one", "one", "two", "two"], strict=True))
WIDTH, LAYERS = 40, 3
WIDTHS = {f"blocks.{layer}.mlp.hook_post": WIDTH for layer in range(LAYERS)}
PLANTED = "1.7"
WHOLE = "document.body?.dataset.state === 'whole'"


def scores_of(values, names=NAMES, widths=WIDTHS):
    """Scores by name of an array, tasks by neurons."""
    sizes = list(widths.values())
    parts = [torch.as_tensor(row).split(sizes) for row in values]
    return {
        n: ns.Scores(dict(zip(widths, p, strict=True)), widths, "hidden", {"method": "planted"})
        for n, p in zip(names, parts, strict=True)
    }


def planted_values():
    values = np.random.default_rng(0).normal(size=(len(NAMES), LAYERS * WIDTH)).astype(np.float32)
    values[0, WIDTH + 7] = 9.0
    return values


def crossed_of(names=NAMES, families=FAMILIES):
    """Every mask breaks its own task, by 50 points, that of its family by 20, and nothing else."""
    rows = []
    for source, target in itertools.product(names, names):
        effect = 0.5 if source == target else 0.2 if families[source] == families[target] else 0.0
        p = 1e-6 if effect else 0.8
        rows.append(
            {"source": source, "target": target, "source_family": families[source], "target_family": families[target]}
            | {"score": 0.9 - effect, "original": 0.95, "control": 0.9, "effect": effect, "low": effect - 0.05}
            | {"high": effect + 0.05, "margin": 0.05, "p": p, "majority": 0.5, "uniform": 0.5, "p_majority": 1e-9}
        )
    table = pd.DataFrame(rows)
    return CrossAblation(
        table.assign(q=benjamini_hochberg(table["p"].to_numpy())), {"n_random": 3, "n": 10, "match": "layer"}
    )


def card(site=1, neuron=7):
    """Every part, with hostile texts in each that has some."""
    return {
        "site": site,
        "neuron": neuron,
        "notes": [f"A note {SCRIPT}"],
        "tasks": [{"task": NAMES[0], "score": 9.0, "rank": 1, "sign": 1}],
        "masks": [NAMES[0], "a mask of elsewhere"],
        "texts": [
            {"tokens": ["a", " 😀", " Fox ", SCRIPT, " שלום"], "activations": [0, 1, 2.5, math.nan, -4]},
            {"tokens": ["low", " end"], "activations": [-0.5, -3.0], "sign": -1, "where": NAMES[2]},
        ],
        "histogram": {"edges": [-3, 0, 3], "counts": {NAMES[0]: [1, 5], "elsewhere": [2, 2]}},
        "writes": {"toward": [(" ‮fox", 2.0), (SCRIPT, 1.5)], "away": [(" dog", -2.0)], "note": "with a frozen norm"},
        "tokens": {"toward": [(" cat", 2.0)], "away": [(SCRIPT, -3.0)]},
        "reads": {"toward": [(" cat", 1.0)]},
        "breaks": [
            {"task": NAMES[0], "effect": 0.3, "low": 0.2, "high": 0.4, "random": 0.01, "random_high": 0.02, "q": 0.001,
             "mask_effect": 0.6, "share": 0.5},
            {"task": "elsewhere", "effect": 0.1, "mask_effect": -0.02, "share": math.nan},
            {"task": "unknown", "effect": None},
        ],
        "stability": [{"task": NAMES[0], "low": 2.325, "high": 1014.675, "share": 0.98},
                      {"task": "elsewhere", "low": math.nan, "high": 9}],
        "nearest": [{"neuron": "0.3", "similarity": 0.8, "by": "weights"}, {"neuron": "77.1"}],
        "code": {"another tool": "tool.off('1.7')"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    scores = scores_of(planted_values())
    masks = {name: s.top(0.1) for name, s in scores.items()}
    known = evidence_of("stability", {}, NAMES[0], k=0.1, ceiling=0.75, chance=0.05, examples=64, half=0.8, full=0.9)
    masks[NAMES[0]] = replace(masks[NAMES[0]], evidence=known)
    return {
        "scores": scores,
        "masks": masks,
        "overlap": ns.overlap(masks, families=FAMILIES),
        "crossed": crossed_of(),
        "cards": [card(), {"site": "blocks.0.mlp.hook_post", "neuron": 3}],
    }


@pytest.fixture(scope="module")
def page(parts, tmp_path_factory):
    return ns.explore(**parts, title=f"A page {SCRIPT}").save(tmp_path_factory.mktemp("page") / "explorer.html")


LONG = [f"{kind}-{subject}" for kind in ("sentiment", "natural-language-inference") for subject in
        ("food", "film", "books", "travel", "politics", "sport")]  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A page of twelve tasks with long names that differ at their ends."""
    values = np.random.default_rng(1).normal(size=(len(LONG), LAYERS * WIDTH)).astype(np.float32) ** 2
    scores = scores_of(values, LONG)
    masks = {name: s.top(0.3) for name, s in scores.items()}
    crossed = crossed_of(LONG, dict.fromkeys(LONG, "one"))
    content = ns.explore(scores=scores, masks=masks, overlap=ns.overlap(masks), crossed=crossed)
    return content.save(tmp_path_factory.mktemp("many") / "many.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as driven:
        yield driven


@pytest.fixture
def shown(browser, page):
    """The browser with the page opened anew, wide; the page has complained of nothing at the end."""
    browser.events.clear()
    browser.size(1440, 900)
    browser.open(page.as_uri(), WHOLE)
    yield browser
    assert browser.complaints == []


def text(browser, selector):
    return browser.js(f"document.querySelector({json.dumps(selector)})?.textContent")


def texts(browser, selector):
    return browser.js(
        f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent).map(e => e.textContent)"
    )


def view(browser):
    """What is looked at, as a reader sees it."""
    wanted = "Object.fromEntries([...document.querySelectorAll('#filters select')].map(s => [s.id, s.value]))"
    rows = texts(browser, "#panel-list .neuron .name")
    marked = texts(browser, "#panel-overlap td.on, #panel-crossed td.on")
    return browser.js(wanted) | {
        "card": text(browser, "#h-card"),
        "rows": rows,
        "set": text(browser, "#panel-chosen .body"),
        "marked": marked,
    }


def fragment(browser):
    return unquote(browser.js("location.hash"))


# --- numbers ---


def unpacked(packed):
    return gzip.decompress(base64.b64decode(packed))


@pytest.mark.parametrize("size", [1e-12, 1.0, 3e9])
def test_packed_scores_keep_eleven_bits_of_numbers_of_every_size(size):
    values = size * np.random.default_rng(0).normal(size=999) * 10.0 ** np.random.default_rng(1).integers(-6, 1, 999)
    values[5] = np.nan
    text, scale = packing.packed_scores(values)
    high, low = np.frombuffer(unpacked(text), np.uint8).reshape(2, -1)
    back = (high.astype(np.uint16) << 8 | low).view(np.float16).astype(float) * scale
    assert np.isnan(back[5]) and np.isnan(back).sum() == 1
    error = np.abs(back - values) / np.abs(values)
    assert np.nanmax(error[np.abs(values) > 1e-8 * np.nanmax(np.abs(values))]) <= 2.0**-11


def test_the_order_of_the_most_relevant_is_that_of_the_scores_as_they_were():
    values = np.float32(1) + np.arange(9000, dtype=np.float32)[::-1] * np.float32(1e-6)  # one number in half precision
    values[17] = values[3]
    order = np.frombuffer(unpacked(packing.packed_order(values)), "<u4")
    assert list(order) == list(np.lexsort((np.arange(len(values)), -values))[: packing.EXACT])
    assert list(np.frombuffer(unpacked(packing.packed_order([np.nan, 2.0, 3.0])), "<u4")) == [2, 1, 0]


def test_bits():
    flags = np.random.default_rng(0).random(77) < 0.5
    bits = np.frombuffer(unpacked(packing.packed_bits(flags)), np.uint8)
    assert [bool(bits[i >> 3] >> (i & 7) & 1) for i in range(77)] == flags.tolist()


def test_the_page_lets_nothing_run_or_be_fetched_but_what_is_its_own(page):
    html = page.read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    for tag, rule in (('script type="module"', "script-src"), ("style", "style-src")):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag.split()[0]}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    shell = re.sub(r"<(script|style|title)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|\ssrc=|<img", shell)
    for source in pages.FRONT.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|https?:", source.read_text()
        ), source


def test_every_module_is_in_the_page_once_and_after_what_it_needs():
    assert sorted(pages.MODULES) == sorted(path.stem for path in pages.FRONT.glob("*.js"))
    for i, name in enumerate(pages.MODULES):
        needed = re.findall(r'^import .* from "\./(\w+)\.js";$', (pages.FRONT / f"{name}.js").read_text(), re.MULTILINE)
        assert set(needed) <= set(pages.MODULES[:i]), name
    script = pages.script_of(pages.FRONT)
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)


def test_same_content_same_bytes(parts, page, tmp_path):
    again = ns.explore(**parts, title=f"A page {SCRIPT}").save(tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes()


# --- the folder of a run, other versions, what cannot be shown ---


@pytest.fixture
def folder(parts, tmp_path):
    """What a run leaves, without the run."""
    out = tmp_path / "report"
    (out / "settings").mkdir(parents=True)
    (out / "tables").mkdir()
    (out / "settings" / "run.json").write_text(json.dumps({"order": NAMES, "unit": "hidden", "k": 0.1}))
    for name in NAMES:
        parts["scores"][name].save(out / "scores" / f"{files.encoded(name)}.safetensors")
        parts["masks"][name].save(out / "masks" / f"{files.encoded(name)}.safetensors")
    parts["overlap"].table.to_parquet(out / "tables" / "overlap_pairs.parquet")
    parts["crossed"].table.to_parquet(out / "tables" / "cross_ablation_runs.parquet")
    parts["crossed"].verdicts().to_parquet(out / "tables" / "cross_ablation_verdicts.parquet")
    return out


def head(explorer):
    return json.loads(explorer.parts["head"])


def test_a_runs_folder_gives_what_its_parts_give(folder, parts):
    (folder / "report.html").write_text("a report")
    found, given = ns.explore(folder), ns.explore(**parts)
    assert head(found)["crossed"] == head(given)["crossed"] and head(found)["overlap"] == head(given)["overlap"]
    assert head(found)["tasks"] == head(given)["tasks"] and head(found)["verdicts"] == head(given)["verdicts"]
    assert {name: p for name, p in given.parts.items() if name not in ("head", "pack-cards")} == {
        n: p for n, p in found.parts.items() if n != "head"
    }
    assert ns.explore(str(folder / "report.html")).parts == found.parts
    scores = {name: dataclasses.replace(s, manifest={"method": "relp"}) for name, s in parts["scores"].items()}
    assert head(ns.explore(folder, scores=scores))["about"] == {"method": "relp"}  # not the run's
    own = ns.explore(folder, cards=parts["cards"], title="Mine")
    assert own.title == "Mine" and own.parts["pack-cards"] == given.parts["pack-cards"]


def test_cards_saved_in_the_folder_are_shown(folder, parts):
    path = folder / "cards.json"
    path.write_text(
        json.dumps({"kind": "NeuronCards", "cards": [{"name": PLANTED, "site": 1, "neuron": 7, "notes": ["n"]}]})
    )
    given = ns.explore(**parts | {"cards": [{"site": 1, "neuron": 7, "notes": ["n"]}]})
    assert ns.explore(folder).parts["pack-cards"] == given.parts["pack-cards"]
    of_run = [{"site": "blocks.1.mlp.hook_post", "neuron": 7}, {"site": 0, "neuron": 3, "notes": ["of the run"]}]
    (folder / "strongest.json").write_text(json.dumps({"kind": "NeuronCards", "cards": of_run}))
    both = ns.explore(**parts | {"cards": [{"site": 1, "neuron": 7, "notes": ["n"]}, of_run[1]]})
    assert ns.explore(folder).parts["pack-cards"] == both.parts["pack-cards"]  # of one neuron, the card saved here
    (folder / "strongest.json").unlink()
    path.write_text(json.dumps({"cards": "none"}))
    with pytest.raises(FileError, match="no list of cards"):
        ns.explore(folder)


def test_a_killed_run_shows_what_it_has(folder):
    for path in [*folder.glob("tables/*"), *folder.glob("masks/*"), sorted(folder.glob("scores/*"))[0]]:
        path.unlink()
    assert len(head(ns.explore(folder))["tasks"]) == len(NAMES) - 1


def test_the_command_line_writes_beside_the_report(folder, capsys):
    assert main(["explore", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'explorer.html'}\n"
    assert main(["explore", str(folder), "--output", str(folder / "other.html")]) == 0
    assert (folder / "other.html").read_bytes() == (folder / "explorer.html").read_bytes()
    assert main(["explore", str(folder / "scores")]) == 1
    assert "no settings" in capsys.readouterr().err


def test_a_page_can_be_brought_up_to_date(page, tmp_path):
    old = tmp_path / "old.html"
    old.write_text(page.read_text("utf-8").replace("</style>", "/* of yesterday */</style>"))
    assert ns.explore(old).save(tmp_path / "new.html").read_bytes() == page.read_bytes()
    with pytest.raises(FileError, match=r"(?s)the name of a \.json file.*\.html"):
        ns.explore(old).save(tmp_path / "new.json")
    with pytest.raises(ArgumentError, match="and title"):
        ns.explore(old, title="Mine")


def test_refusals_of_folders_and_files(folder, page, tmp_path):
    with pytest.raises(FileError, match="nothing there"):
        ns.explore(tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"no settings/run.json, but .*safetensors"):
        ns.explore(folder / "scores")
    (tmp_path / "other.html").write_text("<p>a page</p>")
    with pytest.raises(FileError, match="no page of an explorer"):
        ns.explore(tmp_path / "other.html")
    (tmp_path / "half.html").write_text(page.read_text("utf-8").rpartition('<script type="text/plain"')[0])
    with pytest.raises(FileError, match="cut off"):
        ns.explore(tmp_path / "half.html")
    (tmp_path / "later.html").write_text(page.read_text("utf-8").replace('"format":1', '"format":2'))
    with pytest.raises(FileError, match=r"format 2, of neuroscope .*; this version reads 1"):
        ns.explore(tmp_path / "later.html")
    runs = folder / "tables" / "cross_ablation_runs.parquet"
    pd.read_parquet(runs).drop(columns=["low", "q"]).to_parquet(runs)
    with pytest.raises(FileError, match="a table of crossed without low, q"):
        ns.explore(folder)
    runs.write_text("damaged")
    with pytest.raises(FileError, match="cross_ablation_runs"):
        ns.explore(folder)
    for path in folder.glob("scores/*"):
        path.unlink()
    with pytest.raises(FileError, match="no scores yet"):
        ns.explore(folder)
    (folder / "settings" / "run.json").write_text("[]")
    with pytest.raises(FileError, match="no order of tasks"):
        ns.explore(folder)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"site": None}, "an address or a layer"),
        ({"site": 9}, "0 sites in layer 9"),
        ({"neuron": WIDTH}, "the site has 40"),
        ({"neuron": -1}, "neuron"),
        ({"neuron": 3, "width": 3}, "more than 3"),
        ({"colour": "red"}, "parts ..colour"),
        ({"tasks": [{"score": 1.0}]}, "CardTask"),
        ({"texts": [{"tokens": ["a"], "activations": []}]}, "1 tokens and 0 activations"),
        ({"writes": {"toward": ["fox"]}}, "pairs"),
        ({"histogram": {"edges": [0, 1], "counts": {"a": [1, 2]}}}, "one edge more"),
        ({"notes": [object()]}, "an object"),
        ({"breaks": "all"}, "a str"),
    ],
)
def test_cards_that_are_none(parts, change, error):
    with pytest.raises((ArgumentError, MaskError), match=error):
        ns.explore(**parts | {"cards": [card() | change]})


def test_refusals_of_parts(parts):
    narrow = dict.fromkeys(WIDTHS, 3)
    with pytest.raises(MaskError, match="the mask of 'delta' over 3 sites of 3"):
        ns.explore(scores=parts["scores"], masks={"delta": ns.NeuronMask.of({1: [2]}, narrow)})
    with pytest.raises(ArgumentError, match="nothing to show"):
        ns.explore()
    with pytest.raises(ArgumentError, match=r"ns\.overlap"):
        ns.explore(scores=parts["scores"], overlap=parts["crossed"])
    with pytest.raises(ArgumentError, match="cards once"):
        ns.explore([card()], cards=[card()])


def test_a_mask_in_json(tmp_path):
    mask = ns.NeuronMask.of({0: [3, 1], 2: [39]}, WIDTHS, manifest={"task": "t"})
    content = {"kind": "NeuronMask", "format": 1, "unit": "hidden", "widths": WIDTHS, "manifest": {"task": "t"}}
    content["neurons"] = {address: list(map(int, indices)) for address, indices in mask.items()}
    path = tmp_path / "mask.json"
    path.write_text("\n " + json.dumps(content))
    read = ns.NeuronMask.load(path)
    assert read == mask and read.manifest == mask.manifest
    path.write_text(json.dumps(content), encoding="utf-8-sig")  # as some editors save it
    assert ns.NeuronMask.load(path) == mask
    for change, error in [
        ({"format": 99}, "format 99"),
        ({"kind": "Scores"}, "kind 'Scores'"),
        ({"neurons": {"blocks.0.mlp.hook_post": [40]}}, "neuron 40; the site has 40"),
        ({"widths": []}, "widths"),
    ]:
        path.write_text(json.dumps(content | change))
        with pytest.raises(FileError, match=error):
            ns.NeuronMask.load(path)
    path.write_text(json.dumps(content)[:-9])
    with pytest.raises(FileError, match="not JSON"):
        ns.NeuronMask.load(path)


# --- in a browser ---


@needs_chromium
def test_every_panel_draws(shown):
    assert len(texts(shown, "#panel-tasks [role=option]")) == len(NAMES)
    assert len(texts(shown, "#panel-depth td[role=gridcell]")) == len(NAMES) * LAYERS
    assert len(texts(shown, "#panel-list .neuron")) == 60
    for panel in ("overlap", "crossed"):
        assert len(texts(shown, f"#panel-{panel} td[role=gridcell]")) == len(NAMES) ** 2
    assert "Choose a neuron" in text(shown, "#panel-card")
    colours = shown.js(
        "(() => { const c = document.querySelector('.canvases canvas'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const s = new Set(); for (let i = 0; i < d.length; i += 4)"
        " if (d[i + 3] === 255) s.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]); return [...s]; })()"
    )
    assert len(colours) > 3  # axes, neurons, those in the mask
    assert shown.js("document.title") == f"A page {SCRIPT}"


@needs_chromium
def test_the_list_is_in_the_order_of_the_scores_and_the_card_says_the_rank(shown):
    values = planted_values()
    order = np.argsort(-values[0], kind="stable")
    assert texts(shown, "#panel-list .neuron .name") == [f"{i // WIDTH}.{i % WIDTH}" for i in order[:60]]
    shown.click("#panel-list .neuron")
    ranks = [int((row > row[order[0]]).sum()) + 1 for row in values]
    assert [int(found) for found in texts(shown, "#panel-card .ranked")[: len(NAMES)]] == ranks


@needs_chromium
def test_clicks_change_every_panel(shown):
    shown.click("#task-3")
    assert text(shown, "#task-3[aria-selected=true] .name") == NAMES[3]
    assert shown.js("document.getElementById('filter-task').value") == "3"
    order = np.argsort(-planted_values()[3], kind="stable")
    assert texts(shown, "#panel-list .neuron .name")[0] == f"{order[0] // WIDTH}.{order[0] % WIDTH}"
    assert text(shown, "#panel-depth tr.on th") == NAMES[3] == text(shown, "#panel-crossed tr.on th")
    shown.click("#panel-depth tbody tr:nth-child(1) td:nth-of-type(2)")
    assert text(shown, "#task-0[aria-selected=true] .name") == NAMES[0]
    names = texts(shown, "#panel-list .neuron .name")
    assert len(names) == WIDTH and names[0] == PLANTED and all(name.startswith("1.") for name in names)
    shown.click("#panel-list .neuron")
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"
    for part in (
        "Score by task",
        "Texts",
        "What breaks without it",
        "What it writes",
        "What it reads",
        "Activation by task",
    ):
        assert part in texts(shown, "#panel-card h3")
    parts = "[...document.querySelectorAll('#panel-card .part')].find(e => e.textContent.startsWith('{}'))"
    cells = "[..." + parts + ".querySelectorAll('tbody td:{}')].map(e => e.textContent)"
    assert shown.js(cells.format("What breaks", "last-child")) == ["50\u00a0%", "–", "–"]
    said = "No share where the mask's effect is not shown to be above 0: elsewhere (\u22120.02)."
    assert said in shown.js(parts.format("What breaks") + ".textContent")
    assert shown.js(cells.format("Does its rank last", "nth-of-type(1)")) == ["2 to 1,015", "–"]
    shown.click("#panel-card .near button")
    assert text(shown, "#h-card") == "Neuron 0.3"
    assert "What it writes" not in texts(shown, "#panel-card h3")
    assert f"task={NAMES[0]}".replace(" ", "+") in fragment(shown) and "neuron=0.3" in fragment(shown)


@needs_chromium
def test_what_is_known_of_a_mask_is_shown_with_its_task(shown, parts):
    card = parts["masks"][NAMES[0]].card()
    assert text(shown, "#h-evidence") == f"What is known of the mask of {NAMES[0]}"
    words = [line.removeprefix("- ").replace("**", "") for line in card.in_words().splitlines() if line]
    assert texts(shown, "#panel-evidence .body > p") == words
    shown.click("#panel-evidence summary")
    assert texts(shown, "#panel-evidence tr td:last-child") == [str(value) for value in card.table["value"]]
    shown.key("ArrowDown")
    assert not shown.js("document.getElementById('panel-evidence').offsetParent")


@needs_chromium
def test_matrices_and_verdicts_are_linked_both_ways(shown):
    shown.click("#panel-overlap tbody tr:nth-child(1) td:nth-of-type(2)")
    where = "(cell => [cell.dataset.row, cell.dataset.column])(document.querySelector('#panel-{} td.on'))"
    assert shown.js(where.format("crossed")) == ["0", "1"]
    assert "20 points" in text(shown, "#panel-crossed .words") and "share" in text(shown, "#panel-overlap .words")
    shown.click("#panel-crossed tbody tr:nth-child(3) td:nth-of-type(4)")
    assert shown.js(where.format("overlap")) == ["2", "3"]
    shown.click("#panel-overlap tbody tr:nth-child(3) td:nth-of-type(4)")  # once more: no pair
    assert "Choose a cell" in text(shown, "#panel-overlap .words") and "with=" not in fragment(shown)
    shown.click("#panel-crossed tbody tr:nth-child(3) td:nth-of-type(4)")
    shown.click("#panel-overlap .words button")
    both = set(texts(shown, "#panel-list .neuron .name"))
    masks = [scores.top(0.1) for scores in scores_of(planted_values()).values()]
    assert both == {f"{row.layer}.{row.neuron}" for row in (masks[2] & masks[3]).to_frame().itertuples()}
    verdicts = crossed_of().verdicts().groupby("verdict").size()
    shown.click("#panel-crossed .words .buttons button")
    (chosen,) = texts(shown, "#panel-crossed .words [aria-pressed=true]")
    name, count = chosen.split(": ")
    assert int(count) == verdicts[name] == len(texts(shown, "#panel-tasks [role=option]"))


@needs_chromium
def test_keys(shown):
    shown.key("/")
    assert shown.js("document.activeElement.id") == "search"
    shown.write(PLANTED)
    shown.key("Enter")
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"
    following = texts(shown, "#panel-list .neuron .name")[1]
    shown.key("ArrowRight")
    assert text(shown, "#h-card") == f"Neuron {following}"
    shown.key("ArrowLeft", "ArrowDown")
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"
    assert shown.js("document.querySelector('#panel-tasks [aria-selected=true]').id") == "task-1"
    shown.key(".", ".")
    assert {name.split(".")[0] for name in texts(shown, "#panel-list .neuron .name")} == {"1"}
    shown.key("m")
    assert shown.js("document.getElementById('filter-inside').value") == "mask"
    shown.key("s")
    assert text(shown, "#panel-chosen b") == "1"
    shown.key("Escape", "Escape")
    assert text(shown, "#h-card") == "Neuron" and "layer" not in fragment(shown)
    shown.key("?")
    assert shown.js("document.getElementById('help').hidden") is False
    shown.key("Escape")
    assert shown.js("document.getElementById('help').hidden") is True


@needs_chromium
def test_panels_are_gone_through_by_keys_and_show_where_one_is(shown):
    shown.js("document.querySelector('#panel-depth td[tabindex=\"0\"]').focus()")
    shown.key("ArrowDown", "ArrowRight", "Enter")
    assert shown.js("[document.activeElement.dataset.row, document.activeElement.dataset.column]") == ["1", "1"]
    outline = "(style => style.outlineStyle + ' ' + style.outlineWidth)(getComputedStyle(document.activeElement))"
    assert shown.js(outline) == "solid 2px"
    assert shown.js(
        "[document.getElementById('filter-task').value, document.getElementById('filter-layer').value]"
    ) == ["1", "1"]
    shown.js("document.querySelector('#panel-list [role=listbox]').focus()")
    shown.key("ArrowDown", "ArrowDown")
    assert text(shown, "#h-card") == f"Neuron {texts(shown, '#panel-list .neuron .name')[1]}"
    reached = json.dumps("button, select, input, [tabindex='0']")
    nameless = "e => !e.getAttribute('aria-label') && !e.textContent.trim() && !e.closest('label')"
    assert shown.js(f"[...document.querySelectorAll({reached})].filter({nameless}).length") == 0
    for _ in range(12):
        shown.key("Tab")
        outline = "(style => style.outlineStyle + ' ' + style.outlineWidth)(getComputedStyle(document.activeElement))"
    assert shown.js(outline) == "solid 2px"


SEARCHES = [  # what is written, a line that is found, the neuron that Enter leads to
    (PLANTED, PLANTED, PLANTED),
    ("L0 n3", "0.3", "0.3"),
    ("FOX", "Fox", PLANTED),
    ("1.400", "There is no neuron 1.400: layer 1 has 1.0 to 1.39.", None),
    ("7.1", "There is no layer 7: there are 0 to 2.", None),
    ("L9", "There is no layer 9: there are 0 to 2.", None),
    ("frozen? no", "Nothing is called so", None),
]


@needs_chromium
def test_search(shown):
    for asked, found, neuron in SEARCHES:
        shown.key("Escape", "/")
        shown.write(asked)
        assert any(found in line for line in texts(shown, "#found [role=option]")), asked
        shown.key("Enter", "Escape") if neuron is None else shown.key("Enter")
        assert text(shown, "#h-card") == (f"Neuron {neuron}" if neuron else "Neuron"), asked
        assert shown.js("document.getElementById('found').hidden")
    for asked in ("1", "L1", "1.", "layer 1", "Blocks.1.mlp.hook_post"):
        shown.key("Escape", "Escape", "/")
        shown.write(asked)
        assert texts(shown, "#found [role=option]")[0] == "layer1", asked
        shown.key("Enter")
        assert shown.js("document.getElementById('filter-layer').value") == "1", asked
    shown.key("/")
    shown.write("שלום")
    assert shown.js("document.getElementById('search').getAttribute('aria-activedescendant')") == "found-0"
    shown.key("ArrowDown", "Enter")  # the first is the task, the second a text
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"
    shown.key("/")
    shown.write("שלום")
    shown.key("Enter")
    assert text(shown, "#panel-tasks [aria-selected=true] .name") == NAMES[2]


def canvas(browser):
    """Left, top, width and height of the plotted area, in the window."""
    left, right, top, bottom = map(
        int,
        re.search(r"\[LEFT, RIGHT, TOP, BOTTOM\] = \[([\d, ]+)\]", (pages.FRONT / "scatter.js").read_text())[1].split(
            ","
        ),
    )
    browser.middle(".canvases")
    x, y, width, height = browser.js(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.canvases').getBoundingClientRect())"
    )
    return x + left, y + top, width - left - right, height - top - bottom


@needs_chromium
def test_a_point_among_the_scores_is_named_and_chosen(shown):
    x, y, width, height = canvas(shown)
    column = width / LAYERS
    at = x + (1 + 0.08 + 0.84 * 7.5 / WIDTH) * column
    named = {}
    for down in range(0, int(height), 6):
        shown.ask("Input.dispatchMouseEvent", type="mouseMoved", x=at, y=y + down)
        if not shown.js("document.getElementById('tip').hidden"):
            named.setdefault(text(shown, "#tip").split(" ")[0], down)
    assert next(iter(named)) == PLANTED  # the largest of all is the first from above
    shown.click_at(at, y + named[PLANTED] + 6)
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"


@needs_chromium
def test_arrows_go_through_the_scores_and_with_shift_into_the_set(shown):
    values = planted_values()[0].reshape(LAYERS, WIDTH)
    heights = np.arcsinh(values / 1e-3)  # of the logarithmic scale, whose unit is four decades below the largest, 9
    shown.js("document.querySelector('.canvases [tabindex]').focus()")
    shown.key("ArrowUp")
    assert text(shown, "#h-card") == f"Neuron {PLANTED}"  # the first is the largest
    down = np.argsort(-values[1])[1:3]
    shown.key("ArrowDown", "ArrowDown")
    assert text(shown, "#h-card") == f"Neuron 1.{down[1]}"
    shown.key("ArrowUp")
    assert text(shown, "#h-card") == f"Neuron 1.{down[0]}"
    right = np.abs(heights[2] - heights[1, down[0]]).argmin()
    shown.key("ArrowRight", shift=True)
    assert text(shown, "#h-card") == f"Neuron 2.{right}"
    assert text(shown, "#message").startswith(f"2.{right} · score") and "2 neurons in the set" in text(
        shown, "#message"
    )
    shown.key("ArrowRight")  # there is no layer further
    left = np.abs(heights[1] - heights[2, right]).argmin()
    shown.key("ArrowLeft", shift=True)
    assert text(shown, "#h-card") == f"Neuron 1.{left}"
    shown.js("navigator.clipboard.writeText = text => { globalThis.copied = text; return Promise.resolve(); }")
    shown.click("#copy-json")
    chosen = {address: set(found) for address, found in json.loads(shown.js("copied"))["neurons"].items() if found}
    one, two = list(WIDTHS)[1:]
    assert chosen == {one: {int(down[0]), int(left)}, two: {int(right)}}
    shown.key("?")
    assert "with any arrow" in text(shown, "#help")


@needs_chromium
def test_arrows_pass_by_equal_scores_one_by_one(browser, tmp_path):
    (address,) = widths = {"blocks.0.mlp.hook_post": 6}
    values = torch.tensor([0, 2, 0, 0, 1, torch.nan])
    scores = {"t": ns.Scores({address: values}, widths, "hidden", {"method": "planted", "n_scored": 5})}
    browser.size(390, 844)
    browser.open(ns.explore(scores=scores).save(tmp_path / "equal.html").as_uri() + "#neuron=0.4", WHOLE)
    browser.js("document.querySelector('.canvases [tabindex]').focus()")
    before, passed = browser.js("scrollY"), []
    for key in ["ArrowDown"] * 4 + ["ArrowUp"] * 5:
        browser.key(key)
        passed.append(text(browser, "#h-card").removeprefix("Neuron 0."))
    assert passed == list("023320411") and browser.js("scrollY") == before


@needs_chromium
def test_what_is_drawn_around_becomes_a_mask(shown, tmp_path):
    x, y, width, height = canvas(shown)
    shown.drag((x + width / LAYERS, y + 1), (x + 2 * width / LAYERS, y + height))
    assert text(shown, "#panel-chosen b") == str(WIDTH)
    shown.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    shown.click("#download")
    path = tmp_path / "mask.json"
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    mask = ns.NeuronMask.load(path)
    assert mask == ns.NeuronMask.of({1: range(WIDTH)}, WIDTHS) and mask.manifest["task"] == NAMES[0]
    shown.js("navigator.clipboard.writeText = text => { globalThis.copied = text; return Promise.resolve(); }")
    shown.click("#copy-json")
    assert json.loads(shown.js("copied")) == json.loads(path.read_text())
    shown.click("#copy-python")
    assert eval(shown.js("copied").removeprefix("mask = "), {"ns": ns, "model": mask}) == mask
    shown.click("#clear")
    assert not shown.js("document.getElementById('panel-chosen').offsetParent")


@needs_chromium
def test_a_set_is_not_said_to_be_found_as_the_scores_were(browser, tmp_path):
    about = {"model": "org/other", "fingerprint": "f", "method": "relp", "examples": 256, "k": 0.07}
    content = Content("A title", scores=scores_of(planted_values()), about=about)
    html = pages.page_of(pages.parts_of(content), content.title)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    browser.open((tmp_path / "page.html").as_uri() + "#neuron=1.3", WHOLE)
    assert "masks of the top 7\u00a0%" in text(browser, "#about")
    browser.key("s")
    browser.js("navigator.clipboard.writeText = text => { globalThis.copied = text; return Promise.resolve(); }")
    browser.click("#copy-json")
    (tmp_path / "mask.json").write_text(browser.js("copied"))
    mask = ns.NeuronMask.load(tmp_path / "mask.json")
    assert mask.manifest == {
        "model": "org/other", "fingerprint": "f", "task": NAMES[0], "made": "by hand, in the explorer",
    }  # fmt: skip
    assert "relp" not in str(mask.card()) and "the mask was made by hand" in str(mask.card())


@needs_chromium
def test_a_shared_address_gives_the_view_back(shown, page):
    before = view(shown)
    shown.click("#panel-overlap tbody tr:nth-child(3) td:nth-of-type(2)")
    shown.click("#panel-depth tbody tr:nth-child(3) td:nth-of-type(3)")
    shown.key("m")
    shown.click("#panel-list .neuron")
    shown.key("s", "ArrowRight", "s")
    shown.click("#panel-scatter button")  # the scale
    view_then, address = view(shown), shown.js("location.href")
    shown.open(page.as_uri(), WHOLE)
    assert view(shown) == before != view_then
    shown.open(address, WHOLE)
    assert view(shown) == view_then
    assert text(shown, "#panel-scatter button") == "Logarithmic scale"
    unknown = "#task=nobody&layer=99&neuron=1.4000&set=%F0%9F%98%80&inside=out&sign=x&verdict=fine&scale=&with"
    shown.open(page.as_uri() + unknown, WHOLE)
    assert view(shown) == before  # what is not there is left, and named
    assert text(shown, "#message").split(". ") == [
        "There is no task nobody here", "There is no layer 99: there are 0 to 2",
        f"There is no neuron 1.4000: layer 1 has 1.0 to 1.{WIDTH - 1}", "There is no sign x here",
        "There is no inside out here", "There is no verdict fine here.",
    ]  # fmt: skip
    shown.open(page.as_uri() + "#sign=+&layer=L1&neuron=fox", WHOLE)
    assert view(shown)["filter-sign"] == "+" and {name.split(".")[0] for name in view(shown)["rows"]} == {"1"}
    assert text(shown, "#message") == "There is no neuron fox here."


@needs_chromium
def test_a_sign_in_the_address_of_a_page_without_signs_is_ignored_and_said_to_be(browser, many):
    ignored = "These scores have no sign: the address's sign is ignored."
    browser.open(many.as_uri() + "#sign=-&verdict=fine", WHOLE)
    assert text(browser, "#message") == f"There is no verdict fine here. {ignored}"
    assert view(browser)["filter-sign"] == "" and len(view(browser)["rows"]) == 60 and "sign" not in fragment(browser)
    browser.js("location.hash = 'sign=-&layer=1'")
    browser.until("document.getElementById('filter-layer').value === '1'")
    assert text(browser, "#message") == ignored and len(view(browser)["rows"]) == WIDTH


@needs_chromium
def test_an_address_that_a_set_does_not_fit_into_is_copied_without_it_and_says_so(browser, tmp_path):
    count = 9000  # a letter each at least, of which an address takes 6,000
    scores = scores_of(np.linspace(1, 2, count)[None], ["one"], {"blocks.0.mlp.hook_post": count})
    page = ns.explore(scores=scores).save(tmp_path / "page.html")
    browser.size(1440, 900)
    browser.open(page.as_uri(), WHOLE)
    browser.js("navigator.clipboard.writeText = text => { globalThis.copied = text; return Promise.resolve(); }")
    browser.click("#link")
    assert text(browser, "#message") == "The address of this view is copied"
    x, y, width, height = canvas(browser)
    browser.drag((x + 1, y + 1), (x + width - 1, y + height - 1))
    assert text(browser, "#panel-chosen b") == f"{count:,}"
    browser.click("#link")
    said = "The address of this view is copied, without the set: 9,000 neurons do not fit into an address."
    assert text(browser, "#message").startswith(said) and "set=" not in browser.js("copied")
    assert browser.complaints == []


@needs_chromium
def test_hostile_texts_are_text(shown):
    scripts = shown.js("document.scripts.length")
    shown.open(shown.js("location.href.split('#')[0]") + f"#neuron={PLANTED}", WHOLE)
    assert shown.js("[document.scripts.length, document.images.length]") == [scripts, 0]
    assert texts(shown, "#panel-tasks .name") == NAMES and text(shown, "h1") == f"A page {SCRIPT}"
    assert text(shown, "#panel-card .note") == f"A note {SCRIPT}"
    assert text(shown, "#panel-card .heat") == f"a 😀 Fox {SCRIPT} שלום"
    assert SCRIPT in texts(shown, "#panel-card .tokens .token")
    assert texts(shown, "#panel-card .texts .facts") == ["2.5", f"\u22123 · {NAMES[2]}"]  # of the sign it is shown for
    assert text(shown, "#panel-list .snippet b") == " Fox "
    shown.key("/")
    shown.write("<script>")
    assert any("<script>" in line for line in texts(shown, "#found [role=option]"))
    assert shown.js("document.title") == f"A page {SCRIPT}"
    assert shown.js("getComputedStyle(document.querySelector('#panel-tasks bdi')).unicodeBidi") == "isolate"


@needs_chromium
@pytest.mark.parametrize(
    "given",
    [("scores",), ("masks",), ("cards",), ("scores", "cards"), ("masks", "overlap"), ("crossed", "scores")],
    ids="+".join,
)
def test_a_page_of_some_parts_is_whole(browser, parts, given, tmp_path):
    browser.events.clear()
    path = ns.explore(**{name: parts[name] for name in given}).save(tmp_path / "some.html")
    browser.open(path.as_uri() + f"#neuron={PLANTED}", WHOLE)
    assert text(browser, "#h-card") == f"Neuron {PLANTED}" and text(browser, "#panel-card .part")
    browser.key("ArrowRight", "ArrowDown", ".", "m", "s", "Escape")
    assert browser.complaints == []


@needs_chromium
def test_several_sites_in_a_layer_and_neurons_that_were_not_scored(browser, tmp_path):
    widths = {"blocks.0.attn": 3, "blocks.0.linear": 4}
    values = np.float32([[1, 2, np.nan, 4, np.nan, 6, 7]])
    (scores,) = scores_of(np.nan_to_num(values), ["t"], widths).values()
    parts = dict(zip(widths, torch.from_numpy(values[0]).split([3, 4]), strict=True))
    scores = ns.Scores(parts, widths, "hidden", {**scores.manifest, "n_scored": 5})
    path = ns.explore(scores={"t": scores}).save(tmp_path / "sites.html")
    browser.events.clear()
    browser.size(1440, 900)
    browser.open(path.as_uri() + "#neuron=attn.2", WHOLE)
    assert text(browser, "#h-card") == "Neuron attn.2" and texts(browser, "#panel-card .numbers td")[:2] == ["–", "–"]
    assert texts(browser, "#panel-list .neuron .name")[:5] == ["linear.3", "linear.2", "linear.0", "attn.1", "attn.0"]
    browser.key("/")
    browser.write("linear.3")
    browser.key("Enter")
    assert text(browser, "#h-card") == "Neuron linear.3" and "blocks.0.linear" in text(browser, "#panel-card pre")
    assert browser.complaints == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 900, 1440])
def test_nothing_is_wider_than_the_window(browser, page, width, dark):
    browser.events.clear()
    browser.size(width, 900, dark, touch=width < 500)
    browser.open(page.as_uri() + f"#neuron={PLANTED}&layer=1", WHOLE)
    assert browser.js("document.documentElement.scrollWidth - innerWidth") <= 0
    names = ["Tasks", "Masks over depth", "Scores by layer", "Mask", "Neurons", "Card", "Overlap of the masks"]
    assert texts(browser, "#contents button") == ([*names, "Whose neurons break which task"] if width < 500 else [])
    ground = [int(part) for part in re.findall(r"\d+", browser.js("getComputedStyle(document.body).backgroundColor"))]
    assert (sum(ground) < 200) is dark
    browser.click("#theme")
    assert browser.js("getComputedStyle(document.body).backgroundColor") != f"rgb({', '.join(map(str, ground))})"
    assert browser.complaints == []


def place(browser, selector):
    """Where an element stands in the window: its top and its end."""
    return browser.js(
        f"(b => [b.top, b.bottom])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )


@needs_chromium
@pytest.mark.parametrize("width", [390, 900])
def test_a_choice_leaves_the_page_where_it_is_and_a_neuron_brings_its_card(browser, page, many, width):
    browser.size(width, 844, touch=width < 500)
    browser.open(page.as_uri(), WHOLE)

    def moved(selector):
        """By how much a click moves the panel that it is in, in pixels."""
        where, panel = browser.middle(selector), selector.split()[0]
        (before, _), _, (after, _) = place(browser, panel), browser.click_at(*where), place(browser, panel)
        return abs(after - before)

    assert moved("#panel-overlap tbody tr:nth-child(2) td:nth-of-type(3)") < 1 and "with=" in fragment(browser)
    assert moved("#panel-depth tbody tr:nth-child(1) td:nth-of-type(2)") < 1
    moved("#panel-list .neuron")
    assert text(browser, "#h-card") == f"Neuron {PLANTED}"
    seen = "document.elementFromPoint(b.left + 9, b.top + 9)?.id === 'h-card'"  # nothing lies over it
    heading = f"(b => {seen})(document.getElementById('h-card').getBoundingClientRect())"
    assert browser.js(heading)
    assert moved("#panel-card .buttons button:nth-child(2)") < 1  # the next one: the card is in view
    browser.js(f"location.hash = 'neuron={PLANTED}'")
    browser.until(f"document.getElementById('h-card').textContent === 'Neuron {PLANTED}'")
    assert moved("#panel-card .near button") > 99 and browser.js(heading)  # from its end to its beginning
    browser.open(many.as_uri(), WHOLE)
    assert moved("#panel-overlap tbody tr:nth-child(12) td:nth-of-type(3)") < 1
    (top, end), (least, most) = place(browser, "#task-11"), place(browser, "#panel-tasks .list")
    assert least <= top and end <= most + 1  # it is seen in its list


@needs_chromium
@pytest.mark.parametrize(("height", "most"), [(900, 0.7), (640, 0.6)])
def test_a_card_has_most_of_a_window_and_the_list_many_rows(browser, page, height, most):
    browser.size(1440 if height > 800 else 1280, height)
    browser.open(page.as_uri() + f"#neuron={PLANTED}", WHOLE)
    top, end = place(browser, "#panel-card")
    assert (end - top) > most * height and end <= height
    (top, end), (row, second) = place(browser, "#panel-list .list"), place(browser, "#panel-list .neuron:nth-child(2)")
    assert (end - top) / (second - row) > 5
    below, tasks = place(browser, "#panel-list")[0], place(browser, "#panel-tasks")[1]
    assert tasks < below < tasks + 20
    browser.js("scrollTo(0, 1e6)")
    (top, end) = place(browser, "#panel-card")
    assert top > 0 and (end - top) > most * height  # it stays beside what is read
    assert place(browser, "#panel-list")[0] >= place(browser, "#panel-tasks")[1]


@needs_chromium
@pytest.mark.parametrize("width", [390, 900])
def test_names_are_told_apart_where_there_is_little_room(browser, many, page, width):
    browser.size(width, 844, touch=width < 500)
    browser.open(many.as_uri(), WHOLE)
    for panel in ("depth", "overlap", "crossed"):
        edges = f"""[...document.querySelectorAll('#panel-{panel} tbody th')].map(th => [
            th, th.querySelector('.swatch'), th.querySelector('.cut span:last-child'),
        ].map(e => (b => [b.left, b.right])(e.getBoundingClientRect())))"""
        for (left, right), (first, _), (start, last) in browser.js(edges):
            assert left <= first and start < last <= right + 1  # the square and the end of the name are in it
    ends = [name[name.rindex("-") :] for name in LONG]
    assert texts(browser, "#panel-depth tbody .cut span:last-child") == ends
    assert texts(browser, "#panel-depth tbody th") == LONG
    high = "[...document.querySelectorAll('.slanted thead .cut')].map(e => e.offsetHeight).every(h => h && h <= 9 * 16)"
    assert browser.js(high)
    assert text(browser, "#panel-crossed .corner") == "off\u00a0↓ measured\u00a0→"
    browser.open(page.as_uri(), WHOLE)
    assert texts(browser, "#panel-depth tbody th") == NAMES  # whole, whatever is in them


@needs_chromium
def test_tasks_that_share_a_colour_have_numbers_in_their_squares(browser, many, parts, tmp_path):
    numbers = "[...document.querySelectorAll('#panel-list .neuron:first-child .swatch')].map(e => e.dataset.number)"
    browser.size(1440, 900)
    browser.open(many.as_uri(), WHOLE)
    first = np.argmax(np.random.default_rng(1).normal(size=(len(LONG), LAYERS * WIDTH)).astype(np.float32)[0] ** 2)
    (neuron,) = texts(browser, "#panel-list .neuron:first-child .name")
    assert neuron == f"{first // WIDTH}.{first % WIDTH}"
    marks = (
        browser.js("document.querySelector('#panel-list .marks').title").removeprefix("in the masks of ").split(", ")
    )
    assert browser.js(numbers) == [str(LONG.index(name) + 1) for name in marks] and len(marks) > 1
    of_tasks = "[...document.querySelectorAll('#panel-tasks .swatch')].map(e => e.dataset.number)"
    assert browser.js(of_tasks) == [str(i + 1) for i in range(len(LONG))]
    browser.open(ns.explore(masks=parts["masks"]).save(tmp_path / "four.html").as_uri(), WHOLE)
    assert browser.js(of_tasks) == [None] * len(NAMES)  # each has a colour of its own


@needs_chromium
def test_data_of_another_version_are_refused_in_words(browser, page, tmp_path):
    path = tmp_path / "later.html"
    path.write_text(page.read_text("utf-8").replace('"format":1', '"format":7'))
    browser.open(path.as_uri(), "document.body?.dataset.state === 'failed'")
    assert "This page shows format 1, and holds format 7" in text(browser, "[role=alert]")


def work(browser):
    """Seconds that the page's thread has worked, whatever else the machine does."""
    return next(m["value"] for m in browser.ask("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")


def large_cards(values, names):
    """A card with every part for each layer's neuron that scores highest for a task."""
    text = {"tokens": [" word"] * 60, "activations": list(np.linspace(-1, 3, 60))}
    ends = {"toward": [(" near", 2.0)] * 10, "away": [(" far", -2.0)] * 10}
    breaks = [{"task": name, "effect": 0.3, "low": 0.2, "high": 0.4, "random": 0.01, "q": 0.001} for name in names]
    every = {
        "texts": [text] * 10, "tokens": ends, "writes": ends, "reads": ends, "breaks": breaks,
        "histogram": {"edges": list(range(31)), "counts": {name: [1] * 30 for name in names}},
    }  # fmt: skip
    highest = values.reshape(len(names), 32, -1).argmax(2)
    chosen = sorted({(layer, int(neuron)) for row in highest for layer, neuron in enumerate(row)})
    return [{"site": layer, "neuron": neuron, **every} for layer, neuron in chosen]


LARGE = {f"blocks.{layer}.mlp.hook_post": 11008 for layer in range(32)}


@pytest.mark.slow
@needs_chromium
def test_a_large_model_opens_and_answers_at_once(browser, tmp_path, capsys):
    """12 tasks of 32 x 11,008 neurons. Bounds are of its own work: others share the machine."""
    values = np.random.default_rng(0).standard_t(3, size=(12, 32 * 11008)).astype(np.float32) ** 2
    scores = scores_of(values, [f"task {i}" for i in range(12)], LARGE)
    masks, cards = {name: s.top(0.1) for name, s in scores.items()}, large_cards(values, list(scores))
    path = ns.explore(scores=scores, masks=masks, cards=cards).save(tmp_path / "large.html")
    size = path.stat().st_size / 1e6
    browser.events.clear()
    browser.size(1440, 900)
    browser.ask("Performance.enable", timeDomain="threadTicks")
    start, worked = time.perf_counter(), work(browser)
    browser.open(path.as_uri(), "['open', 'whole'].includes(document.body?.dataset.state)")
    opened, opening = time.perf_counter() - start, work(browser) - worked
    browser.until(WHOLE)
    clicks = {}
    for selector in ("#task-5", "#panel-depth td[data-row='5'][data-column='20']", "#panel-list .neuron", "#task-6"):
        where, worked = browser.middle(selector), work(browser)
        start = time.perf_counter()
        browser.click_at(*where)
        browser.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # it is painted
        clicks[selector] = (1000 * (time.perf_counter() - start), 1000 * (work(browser) - worked))
    assert text(browser, "#task-6[aria-selected=true]")
    assert {"Texts", "What breaks without it", "Activation by task"} <= set(texts(browser, "#panel-card h3"))
    seldom = int(np.argsort(-values[6])[200_000])  # beyond those whose order is kept
    browser.open(f"{path.as_uri()}#task=task+6&neuron={seldom // 11008}.{seldom % 11008}", WHOLE)
    packed = (
        values.astype(np.float64) / (values.max(axis=1, keepdims=True).astype(np.float64) / packing.LARGEST)
    ).astype(np.float16)
    ranks = [int((row > row[seldom]).sum()) + 1 for row in packed]
    assert [int(rank.replace(",", "")) for rank in texts(browser, "#panel-card .ranked")] == ranks
    browser.size(390, 800, touch=True)
    browser.open(f"{path.as_uri()}#layer=30", WHOLE)
    edges = "(e => [e.left, e.right])(document.querySelector('#panel-depth {}').getBoundingClientRect())"
    (left, right), (_, names), (_, end) = (browser.js(edges.format(e)) for e in ("th.on", "tbody th", ".scroll"))
    assert names <= left and right <= end  # the layer is seen, beside the names of the tasks
    with capsys.disabled():
        said = ", ".join(f"{wall:.0f} ms ({own:.0f} of work) {selector}" for selector, (wall, own) in clicks.items())
        sys.stdout.write(
            f"\nlarge explorer: {size:.1f} MB, opened in {opened:.2f} s ({opening:.2f} of work); clicks: {said}\n"
        )
    assert size < 30 and opening < 3 and max(own for _, own in clicks.values()) < 200
    assert browser.complaints == []
