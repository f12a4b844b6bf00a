"""The main job, in Python and from the command line: all is written, a second run is the first, errors are texts."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from browser import needs_chromium, opened
from safetensors import safe_open

from neuroscope import files
from neuroscope.__main__ import main
from neuroscope.attribution import attribute, stability
from neuroscope.errors import ArgumentError, FileError, TaskError
from neuroscope.experiments.f5_cross_ablation import cross_ablation
from neuroscope.experiments.t1_deactivation import deactivation
from neuroscope.figures import style
from neuroscope.masks import NeuronMask, Scores
from neuroscope.models import fingerprints, load
from neuroscope.reading import NeuronCards, activations, directions
from neuroscope.reports.cached_scores import cached_scores
from neuroscope.reports.main_job import run
from neuroscope.reports.opening import seen
from neuroscope.tasks import load_tasks
from neuroscope.tasks.mini import mini_tokenizer
from neuroscope.tasks.task import Task

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("sentiment-food", "sentiment-film", "summary-food")
QUICK = {"examples": 16, "n": 16, "n_random": 3}
TABLES = (
    "deactivation_summary",
    "deactivation_controls",
    "deactivation_runs",
    "cross_ablation_verdicts",
    "cross_ablation_runs",
)
TABLES += ("overlap_pairs", "overlap_sweep_pairs", "depth_sites")
TABLES += ("stability_reliability", "stability_masks")
TABLES += ("faithfulness_summary", "faithfulness_sizes", "faithfulness_runs")


@pytest.fixture(scope="module")
def tasks():
    every = load_tasks("mini", train=4, discovery=16, test=16)
    return {name: every[name] for name in NAMES}


def small_model(seed=0):
    words = mini_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(vocab_size=len(words), initializer_range=0.3, **size)
        root = transformers.LlamaForCausalLM(config)
    return load(root, tokenizer=words)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def first(model, tasks, tmp_path_factory):
    return run(model, tasks, output=tmp_path_factory.mktemp("first"), **QUICK)


def forwards(model):
    count = []
    hook = lambda module, args: count.append(1)  # noqa: E731
    hook.__module__ = "torch.counting"  # one of the tests' own would be taken for an intervention
    return count, model.root.register_forward_pre_hook(hook)


def read(path):
    """A file's bytes; of safetensors, whose header is in no fixed order, what it holds."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {k: file.get_tensor(k).tobytes() for k in file.keys()}  # noqa: SIM118


def content(folder):
    """What every file holds."""
    return {str(p.relative_to(folder)): read(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_everything_is_written(model, tasks, first):
    out = first.parent
    expected = {"report.html", "explorer.html", "journal.jsonl", "stability.json", "settings/run.json"}
    expected |= {"strongest.json"}
    expected |= {f"{kind}/{name}.safetensors" for kind in ("scores", "masks") for name in NAMES}
    expected |= {f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")}
    assert set(content(out)) == expected
    assert first == out / "report.html"
    masks = {}
    for name, task in tasks.items():
        scores = Scores.load(out / "scores" / f"{name}.safetensors")
        masks[name] = NeuronMask.load(out / "masks" / f"{name}.safetensors")
        assert scores == attribute(model, task, examples=16)
        assert masks[name] == scores.top(0.10)
    off = deactivation(model, tasks, masks, n_random=3, n=16)
    crossed = cross_ablation(model, tasks, masks, n_random=3, n=16)
    tables = {"deactivation_summary": off.summary(), "deactivation_runs": off.table}
    tables |= {"cross_ablation_verdicts": crossed.verdicts(), "cross_ablation_runs": crossed.table}
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_parquet(out / "tables" / f"{name}.parquet"), table, check_dtype=False)
        again = pd.read_csv(out / "tables" / f"{name}.csv")
        assert list(again.columns) == list(table.columns)
        numbers = table.select_dtypes(float).columns
        np.testing.assert_allclose(again[numbers], table[numbers])
    page = first.read_text()
    own = int((crossed.verdicts()["verdict"] == "specific").sum())
    assert f"<strong>{own} of {len(crossed.standings.others)}</strong>" in page
    total = off.summary().set_index("name").loc[off.standings.mean]
    assert f"<strong>{total['original']:.1%}</strong> to <strong>{total['off']:.1%}</strong>" in page
    not_shown = page.split("<h2>What was not shown</h2>")[1].split("</section>")[0]
    for result in (off, crossed):
        for line in [line for line in result.in_words().splitlines() if "**A negative**" in line]:
            assert html.escape(line.split(": ", 1)[1].replace("**", "")) in not_shown
    for title in (
        "Switching neurons off",
        "Are the neurons their task&#x27;s own?",
        "Overlap of the masks",
        "How many neurons carry a task",
        "Depth and relevance",
    ):
        assert f"<h2>{title}</h2>" in page
    for name in NAMES:
        assert name in page
    assert model.fingerprint() in page


def test_it_opens_with_what_was_found_in_a_few_sentences(first):
    page = first.read_text()
    header = page.split("</header>")[0]
    assert 4 <= header.count("<li>") <= 6
    assert header.index("better than the best constant answer") < header.index("Switching off a task")
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles[:3] == ["What the model can do", "The neurons that matter most", "What was not shown"]
    negatives = page.split("<h2>What was not shown</h2>")[1].split("</section>")[0].count("<tr>") - 1
    assert f"<strong>{negatives} findings</strong>" in header and negatives > 1


def test_the_ten_neurons_that_matter_most_to_each_task(model, tasks, first):
    out, section = first.parent, first.read_text().split("<h2>The neurons that matter most</h2>")[1]
    section = section.split("</section>")[0]
    cards = NeuronCards.load(out / "strongest.json")
    links = re.findall(r'<a href="explorer\.html#task=([\w-]+)&amp;neuron=([\d.]+)">([\d.]+)</a>', section)
    for name in NAMES:
        scores = Scores.load(out / "scores" / f"{name}.safetensors").to_frame()
        best = scores.sort_values("relevance", ascending=False, kind="stable").head(10)
        names = [f"{r.layer}.{r.neuron}" for r in best.itertuples()]
        assert [(task, words) for task, _, words in links if task == name] == [(name, one) for one in names]
        assert set(names) <= set(cards.neurons)
    assert all(neuron == words for _, neuron, words in links) and len(links) == 30
    (name, neuron, _), row = links[0], section.split("<tr>")[2]
    acts = activations(model, tasks, neuron, n=16)
    at = int(np.abs(acts.values[:, 0]).argmax())
    assert f"<mark>{html.escape(acts.table['token'][at])}</mark>" in row
    assert f">{acts.values[at, 0]:.4g}</td>" in row and f">{acts.table['task'][at]}</td>" in row
    toward = directions(model, neuron, texts=[e.prompt for t in tasks.values() for e in t.test[:8]]).writes(neuron)
    assert html.escape(" · ".join(map(seen, toward["name"][:4]))) in row
    explorer = (out / "explorer.html").read_text()
    assert f'"cards":{len(cards)}' in explorer


def test_neurons_that_cannot_be_read_are_left_out_with_the_reason(model, tasks, first, tmp_path, monkeypatch):
    def refuses(*args, **kwargs):
        raise ArgumentError("read <b>", "nothing to read", "give something")

    out = shutil.copytree(first.parent, tmp_path / "again")
    (out / "strongest.json").unlink()
    monkeypatch.setattr("neuroscope.reports.main_job.cards_of_strongest", refuses)
    page = run(model, tasks, output=out, **QUICK).read_text()
    assert "<strong>not be read</strong>: read &lt;b&gt;, nothing to read." in page
    assert not (out / "strongest.json").exists()


def test_colours_mean_the_same_in_every_figure(first):
    page, decoder = first.read_text(), json.JSONDecoder()
    found: dict[str, set[str]] = {}
    for start in re.finditer(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page):
        for trace in decoder.raw_decode(page[start.end() :])[0]:
            mark = (trace.get("marker") or {}).get("color") or (trace.get("line") or {}).get("color")
            for meaning in ("random", "own neurons off", "the mask off", "original", "nothing off"):
                if meaning in (trace.get("name") or "") and isinstance(mark, str):
                    found.setdefault(meaning, set()).add(mark)
                    break
    assert found["own neurons off"] | found["the mask off"] == {style.OWN_OFF}
    assert found["original"] | found["nothing off"] == {style.MEASURED}
    greys = {*style.RANDOM.values(), *(style.fade(colour, 0.45) for colour in style.RANDOM.values())}
    assert found["random"] <= greys
    assert not {style.OWN_OFF, style.OWN_ALONE, style.MEASURED, style.BEFORE} & set(style.CATEGORIES)


def test_a_second_run_is_the_first_and_runs_nothing(model, tasks, first):
    before = content(first.parent)
    count, handle = forwards(model)
    try:
        run(model, tasks, output=first.parent, **QUICK)
        assert count == []
        assert content(first.parent) == before
    finally:
        handle.remove()


def test_the_masks_files_and_the_report_have_their_cards(model, tasks, first):
    out = first.parent
    masks = {name: NeuronMask.load(out / "masks" / f"{name}.safetensors") for name in NAMES}
    off = deactivation(model, tasks, masks, n_random=3, n=16)
    crossed = cross_ablation(model, tasks, masks, n_random=3, n=16)
    stable = stability(model, tasks, k=(0.1,), parts=8, examples=16)
    page = first.read_text()
    for name, mask in masks.items():
        card = mask.card()
        expected = {**crossed.about(mask), **off.about(mask), **stable.about(mask)}
        assert {part: card.evidence[part] for part in expected} == expected
        assert card.unknown == [part for part in card.unknown if part not in expected] and "minimal" in card.evidence
        for text in card.table["value"]:
            assert html.escape(text) in page
        assert f"<summary>Evidence card: {name}</summary>" in page
    ceiling = stable.ceiling(0.1)
    for (a, b), pair in pd.read_csv(out / "tables" / "overlap_pairs.csv").set_index(["a", "b"]).iterrows():
        assert pair["ceiling"] == pytest.approx(np.sqrt(ceiling[a] * ceiling[b]))


def test_a_card_keeps_the_day_on_which_it_was_measured(model, tasks, first, tmp_path, monkeypatch):
    shutil.copytree(first.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(files, "today", lambda: "2999-12-31")
    run(model, tasks, output=tmp_path, **QUICK)
    assert content(tmp_path) == content(first.parent)
    (tmp_path / "masks" / f"{NAMES[0]}.safetensors").unlink()
    run(model, tasks, output=tmp_path, **QUICK)
    days = {
        name: NeuronMask.load(tmp_path / "masks" / f"{name}.safetensors").evidence["verdict"]["measured"]
        for name in NAMES
    }
    assert days[NAMES[0]] == "2999-12-31" and len(set(days.values())) == 2


def test_how_far_masks_replicate_can_be_left_out(model, tasks, tmp_path):
    few = {NAMES[0]: dataclasses.replace(tasks[NAMES[0]], discovery=tasks[NAMES[0]].discovery[:6])}
    for i, (given, parts) in enumerate(((tasks, None), (few, 8), (few, 6))):
        page = run(model, given, output=tmp_path / str(i), parts=parts, sizes=None, **QUICK).read_text()
        is_there = parts == 6
        assert (tmp_path / str(i) / "stability.json").exists() == is_there == ("<h2>How far masks" in page)
        mask = NeuronMask.load(tmp_path / str(i) / "masks" / f"{NAMES[0]}.safetensors")
        assert ("stability" in mask.evidence) == is_there
        assert ("not measured: ns.stability(model, tasks, k=[0.1])" in page) == (not is_there)


def test_damaged_scores_are_computed_again(model, tasks, first, tmp_path):
    shutil.copytree(first.parent, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "scores" / f"{NAMES[0]}.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    run(model, tasks, output=tmp_path, **QUICK)
    assert content(tmp_path) == content(first.parent)


@pytest.mark.filterwarnings("ignore:.*are eligible")  # fewer than asked for, of so few tokens
def test_lape_sees_all_tasks_at_once(model, tasks, tmp_path):
    path = run(model, tasks, output=tmp_path, method="lape", **QUICK)
    expected = attribute(model, tasks, method="lape", examples=16)
    for name in NAMES:
        assert Scores.load(tmp_path / "scores" / f"{name}.safetensors") == expected[name]
    assert "lape" in path.read_text()
    before, (count, handle) = content(tmp_path), forwards(model)
    try:
        run(model, tasks, output=tmp_path, method="lape", **QUICK)
        assert count == []
        assert content(tmp_path) == before
        two = {name: tasks[name] for name in NAMES[:2]}
        with pytest.raises(FileError, match="together"):  # scores depend on the company
            cached_scores(model, two, tmp_path / "scores", method="lape", examples=16)
        assert count == []
    finally:
        handle.remove()


def test_a_stopped_run_goes_on(model, tasks, first, tmp_path):
    def stops(items, desc, **unit):
        for i, item in enumerate(items):
            if desc == "cross-ablation" and i == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(model, tasks, output=tmp_path, progress=stops, **QUICK)
    assert not (tmp_path / "report.html").exists()
    _, handle = forwards(model)
    seen = []
    try:
        run(model, tasks, output=tmp_path, progress=lambda x, desc, **unit: seen.append(desc) or x, **QUICK)
    finally:
        handle.remove()
    assert seen == ["cross-ablation", "faithfulness", "activations"]  # what was finished is not shown again
    assert content(tmp_path) == content(first.parent)


def test_the_weights_are_read_once_for_the_fingerprint(model, tasks, tmp_path, monkeypatch):
    readings, real = [], fingerprints.read_weights
    monkeypatch.setattr(fingerprints, "read_weights", lambda root: readings.append(1) or real(root))
    run(model, tasks, output=tmp_path, **QUICK)
    assert len(readings) == 1


def test_one_task_alone(model, tasks, tmp_path):
    path = run(model, tasks[NAMES[0]], output=tmp_path, **QUICK)
    page = path.read_text()
    assert "<h2>Overlap" not in page and "their task&#x27;s own?" not in page and "<h2>Switching neurons off" in page
    assert {p.name for p in (tmp_path / "masks").iterdir()} == {f"{NAMES[0]}.safetensors"}


def test_mistakes_are_found_before_the_first_forward_pass(model, tasks, tmp_path):
    count, handle = forwards(model)
    empty = {"empty": Task("empty", train=tasks[NAMES[0]].train, labels=tasks[NAMES[0]].labels)}
    (tmp_path / "file").write_text("x")
    try:
        for kind, text, given in (
            (ArgumentError, "not a share", {"k": 0}),
            (ArgumentError, "not a share", {"k": 1.5}),
            (ArgumentError, "not a share", {"k": "a"}),
            (ArgumentError, "an odd number", {"parts": 3}),
            (ArgumentError, "parts=0", {"parts": 0}),
            (ArgumentError, "not growing shares", {"sizes": (0.5, 0.1)}),
            (ArgumentError, "fewer do not tell", {"n_random": 2}),
            (ArgumentError, "did you mean 'grad-x-act'", {"method": "grad-x-act2"}),
            (ArgumentError, "log-odds", {"objective": "losss"}),
            (ArgumentError, "hidden", {"unit": "neuron"}),
            (ArgumentError, "no task", {"tasks": {}}),
            (ArgumentError, "a str in place of a task", {"tasks": {"a": "b"}}),
            (ArgumentError, "no such file or folder", {"tasks": "nothing"}),
            (TaskError, "the test examples of task 'empty'", {"tasks": empty}),
            (ArgumentError, "not a whole number from 1 up", {"n": 0}),
            (ArgumentError, "not a whole number from 1 up", {"examples": 0}),
        ):
            with pytest.raises(kind, match=text):
                run(model, **{"tasks": tasks, "output": tmp_path / "out"} | QUICK | given)
            assert not list(tmp_path.glob("out/*"))
        assert count == []
        with pytest.raises(ArgumentError, match="a file"):
            run(model, tasks, output=tmp_path / "file", **QUICK)
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def folders(model, tasks, tmp_path_factory):
    """A saved model, and a folder of tasks."""
    root = tmp_path_factory.mktemp("folders")
    model.root.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    for name in NAMES[:2]:
        for split in ("train", "test"):
            examples = tasks[name].split("discovery" if split == "train" else "test")
            rows = [{"text": e.prompt, "label": e.answer} for e in examples]
            files.write(root / "tasks" / name / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    return root


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "neuroscope", *map(str, arguments)], capture_output=True, text=True)


def test_the_command_line_ends_with_the_path(folders):
    done = command(
        "run", "--model", folders / "model", "--tasks", folders / "tasks", "--output", folders / "out",
        "--examples", 8, "--n", 8, "--n-random", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folders / 'out' / 'report.html'}\n"
    assert (folders / "out" / "report.html").stat().st_size > 1_000_000
    assert "LlamaForCausalLM" in done.stderr
    assert re.search(r"done in \d+ s", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_command_line_says_what_is_wrong(folders, capsys):
    model = str(folders / "model")
    for code, arguments, text in (
        (1, ["--model", "no/such-model"], "load model 'no/such-model'"),
        (1, ["--model", str(folders / "tasks")], "load model"),
        (2, ["--model", model, "--k", "2"], "give a share in (0, 1]"),
        (2, ["--model", model, "--tasks", "sst3"], "did you mean sst2"),
        (1, ["--model", model, "--tasks", model], "no folder with .jsonl files"),
        (2, ["--model", model, "--method", "magic"], "no such method"),
        (2, ["--model", model, "--dtype", "float99"], "dtype"),
    ):
        assert main(["run", "--output", str(folders / "bad"), *arguments]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert text in err
        assert "neuroscope: " in err
        assert "found:" in err
        assert "do: " in err
    assert not (folders / "bad").exists()
    done = command("run", "--k", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "give a share in (0, 1]" in done.stderr
    done = command("report", folders / "tasks")
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "asked", "do"),
    [
        ("run --n-random 1", "--n-random 1", "give 3 or more"),
        ("run --k 2", "--k 2.0", "give a share"),
        ("run --n 0", "--n 0", "give 1 or more\n"),
        ("run --batch-size 0", "--batch-size 0", "give 1 or more\n"),
        ("run --tune-steps 0", "--tune-steps 0", "give 1 or more"),
        ("run --tune-batch-size 0", "--tune-batch-size 0", "give 1 or more\n"),
        ("run --method foo", "--method foo", "choose from grad-x-act"),
        ("run --tasks sst3", "--tasks sst3", "did you mean sst2"),
        ("run --too-long x --tasks mini", "--too-long x", "choose from error"),
        ("run --system x --tasks mini", "--system", "give --chat: only a chat"),
        ("run --shots -1 --tasks mini", "--shots -1", "give how many\n"),
        ("reproduce T2 --seeds 1", "T2: --seeds", "give 3 seeds or more"),
        ("reproduce T1 --steps 3", "T1: --steps", "it has --k, --n-random, --examples, --n\n"),
        ("reproduce T4 --held-out x", "T4: --held-out", "it has --k, --seeds, --n-random"),
        ("reproduce T5 --methods foo", "--methods foo", "choose from ncft"),
        ("reproduce T2 --lr -1", "--lr -1.0", "give more than 0"),
    ],
)
def test_errors_are_in_the_words_of_the_command_line(tmp_path, capsys, arguments, asked, do):
    assert main([*arguments.split(), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"neuroscope: {asked}\n  found: ") and do in said
    assert not re.search(r"\w=", said)


def test_limits_are_in_the_help(capsys):
    for command, *said in (
        ("run", "random masks of each kind, 3 at least", "mask, 1 at most"),
        ("reproduce", "3 at least for T2, F2, T4, F5, F6, T9", "3 at least, for T1, F3, T4, CPR"),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(one in text for one in said)


def test_ctrl_c_is_no_traceback(folders, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroscope.reports.main_job.run", stop)
    assert main(["run", "--model", str(folders / "model"), "--output", str(folders / "bad")]) == 130
    assert "goes on from what is in its folder" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    for arguments, expected in (
        (["--help"], ["run"]),
        (["reproduce", "--help"], ["T1, T2", "--held-out", "--n-random"]),
        (["run", "--help"], ["--model", "--tasks", "--k", "--n-random", "(default: 0.1)"]),
    ):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in expected)
    for arguments in ([], ["run", "--kk", "1"], ["run", "--k", "x"]):
        assert main(arguments) == 2


@pytest.mark.parametrize(
    "arguments", [["--help"], ["reproduce", "--help"], ["reproduce", "--list"], ["reproduce", "T99"]]
)
def test_the_command_line_is_light_until_it_works(arguments):
    heavy = ["torch", "transformers", "pandas", "plotly", "scipy"]
    code = f"""
import contextlib, sys
from neuroscope.__main__ import main
with contextlib.suppress(SystemExit):
    main({arguments})
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The main job on the bundled model: what `make demo` runs, on fewer examples, masks and sizes."""
    return run(output=tmp_path_factory.mktemp("demo"), examples=96, n=32, n_random=3, sizes=(0.01,))


@pytest.mark.slow
def test_on_the_bundled_model_neurons_are_their_tasks_own(demo):
    folder = demo.parent
    off = pd.read_parquet(folder / "tables" / "deactivation_summary.parquet").set_index("name").loc["mean (all)"]
    assert off["original"] >= 0.95
    assert off["loss_random_layer"] <= 0.04
    assert off["loss_off"] >= 0.40
    masks = {p.stem: NeuronMask.load(p) for p in (folder / "masks").iterdir()}
    assert len(masks) == 12
    assert {len(m) for m in masks.values()} == {205}  # 10 % of 4 x 512
    pairs = [(a.split("-")[0] == b.split("-")[0], masks[a].jaccard(masks[b])) for a in masks for b in masks if a < b]
    within, across = ([j for same, j in pairs if same is kind] for kind in (True, False))
    assert (len(within), len(across)) == (6, 60)
    assert np.mean(within) >= 2 * np.mean(across)
    verdicts = pd.read_parquet(folder / "tables" / "cross_ablation_verdicts.parquet").set_index("task")
    assert verdicts["verdict"].isin(["specific", "selective"]).sum() >= 5
    # what breaks sentiment, paraphrase and inference here breaks the others of these too
    assert verdicts["verdict"].isin(["shared", "general"]).sum() >= 3
    summary = verdicts.loc[
        ["summary-food", "summary-film"]
    ]  # no other family's neurons break them; theirs break others
    assert (summary["verdict"] == "selective").all() and (summary["column_low"] > 0).all()
    assert (summary["row_low"] < 0).all()


@pytest.mark.slow
@needs_chromium
def test_a_browser_draws_the_whole_report(demo, tmp_path):
    body, drawn, errors = opened(demo, tmp_path)
    figures = demo.read_text(encoding="utf-8").count('class="plotly-graph-div"')
    assert len(drawn) == body.count("js-plotly-plot") == figures >= 10
    assert errors == []
    explorer = demo.parent / re.search(r'<a href="(explorer\.html)">', body)[1]
    assert explorer.stat().st_size < 1e7
    body, _, errors = opened(explorer, tmp_path)
    assert body.count('id="neuron-') == 60 and errors == []
