"""For benchmarks/real.py: what is published beside what was measured, in sentences computed from the numbers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from neuroscope.reports.page import write_report
from neuroscope.results import Result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE = (900, 620)  # of a picture, in pixels
ROWS_SHOWN = 40
T1 = {"classification": (0.877, 0.848, 0.760), "generation": (0.456, 0.423, 0.320)}
T2 = {"classification": (0.533, 0.548, 0.832), "generation": (0.198, 0.225, 0.370)}
T8 = {0.1: 0.208, 0.3: 0.539, 0.5: 0.845, 0.7: 0.962}  # between the classification tasks
AGREES = {True: "agrees in sign", False: "**does not agree**"}  # how sure that is, the tests below say


def _by_kind(result: Any, published: Mapping[str, tuple[float, float, float]]) -> Iterator[tuple[Any, ...]]:
    """Of each kind of task: its name, the published numbers, the means over tasks not at chance, and their names."""
    rows = result.summary().set_index("name")
    kinds = result.table.groupby("task")["kind"].first()
    for kind, numbers in published.items():
        names = [name for name in kinds.index[kinds == kind] if rows.loc[name, "chance"] != "at chance"]
        if names:
            yield kind.capitalize(), numbers, rows.loc[names].select_dtypes("number").mean(), ", ".join(names)


def deactivation(result: Any) -> str:
    """Table 1: original, random off, own off."""
    lines = []
    for kind, (original, random, own), ours, names in _by_kind(result, T1):
        lost, by_chance, layers = (ours["original"] - ours[off] for off in ("off", "random-uniform", "random-layer"))
        lines.append(
            f"{kind}, Llama-2-7b: {original:.1%} as it is, {random:.1%} with random neurons off, "
            f"{own:.1%} with the task's own off: {100 * (original - own):.1f} points lost, "
            f"{100 * (original - random):.1f} by chance. Here, over {names}: {ours['original']:.1%}, "
            f"{ours['random-uniform']:.1%}, {ours['off']:.1%}: "
            f"{100 * lost:.1f} and {100 * by_chance:.1f} points. That own neurons break more than random ones "
            f"{AGREES[bool(lost > by_chance)]}; but {100 * layers:.1f} points are lost to random neurons **of the same "
            "layers**, a control that the paper does not have."
        )
    return "\n\n".join(lines)


def train_only(result: Any) -> str:
    """Table 2: zero-shot, random neurons trained, own neurons trained."""
    lines = []
    for kind, (zero, random, own), ours, names in _by_kind(result, T2):
        lines.append(
            f"{kind}, Llama-2-7b: {zero:.1%} untrained, {random:.1%} with random neurons trained, "
            f"{own:.1%} with the task's own trained. Here, over {names}: {ours['zero-shot']:.1%}, "
            f"{ours['random-uniform']:.1%} (same layers: {ours['random-layer']:.1%}), {ours['task']:.1%}. That "
            "training random neurons does next to nothing (at most 5 points) "
            f"{AGREES[bool(ours['random-uniform'] - ours['zero-shot'] <= 0.05)]}; that own neurons learn more than "
            f"random ones {AGREES[bool(ours['task'] > ours['random-uniform'])]}."
        )
    return "\n\n".join(lines)


def overlap(result: Any) -> str:
    """Table 8: overlap by the size of the masks."""
    means = result.table.groupby("k")[["jaccard", "chance_uniform", "chance_layer"]].mean()
    cells = [
        f"{k:.0%}: {published:.1%} there, {means.loc[k, 'jaccard']:.1%} here (chance "
        f"{means.loc[k, 'chance_uniform']:.1%}, "
        f"in the same layers {means.loc[k, 'chance_layer']:.1%})"
        for k, published in T8.items()
        if k in means.index
    ]
    rises = bool((np.diff(means["jaccard"]) > 0).all())
    return (
        "Of the unions of training and of test tasks on Llama-2-7b; here the mean over pairs of tasks, all kinds. "
        f"{'; '.join(cells)}. That overlap rises with size {AGREES[rises]}, as chance alone makes it."
    )


def cross_ablation(result: Any) -> str:
    """Figure 5, left half: whose neurons break whom."""
    matrix = result.matrix.to_numpy()
    own = [bool(matrix[i, i] == matrix[:, i].max()) for i in range(len(matrix))]
    return (
        "On Llama-2-7b a task falls most where its own neurons are off (the diagonal), in "
        "most tasks. Here that is so in "
        f"{sum(own)} of {len(own)}: that it is so in most {AGREES[2 * sum(own) > len(own)]}."
    )


def layers(figure: str, result: Any) -> str:
    """The figures of Zhao, Ziser & Cohen."""
    published = {
        "F1": "Three segments on Llama-2-7b: shared layers 1 to 9, transition 10 to 15, refinement 16 to 32.",
        "F2": "On Llama-2-7b the multi-task model is nearer to the models tuned on one task "
        "than the pre-trained one is, "
        "from the middle layers on.",
        "F3": "Tasks of one cluster have like curves on Llama-2-7b; the gain differs by cluster.",
        "F4": "On Llama-2-7b tasks of one cluster come together in the middle layers, most in the multi-task model.",
        "F5": "On Llama-2-7b the pre-trained model's representations need more components in the upper layers than the "
        "multi-task model's.",
        "F7": "On Llama-2-7b what the multi-task model gains in the middle layers reaches tasks held out.",
    }[figure]
    rows = result.table
    if figure != "F2" or "model" not in rows:
        return published + " The words below say what was found here."
    wide = rows.pivot_table(index="layer", columns="model", values="mean" if "mean" in rows else "median")
    multi, pre = (wide[next(name for name in wide if word in name)] for word in ("multi", "pre-trained"))
    upper = (multi - pre)[multi.index > multi.index.max() / 2].mean()
    return published + (
        f" Here the multi-task model's CKA is {upper:+.3f} beside the pre-trained one's in the "
        "upper half of the layers: "
        f"that it is nearer {AGREES[bool(upper > 0)]}."
    )


def parameter_depth(result: Any) -> str:
    """Figure 3: similarity by layer."""
    return (
        "On Llama-2-7b the similarity of tasks' neurons by their parameters changes with the "
        "layer. The words below say how "
        "it does here, beside random masks of the same layers."
    )


def parameter_transfer(result: Any) -> str:
    """Table 4: similarity against transfer."""
    rows = result.summary()
    best = rows[(rows["view"] == "all") & rows["r"].notna()]
    if best.empty:
        return "On Llama-2-7b up to r = 0.79 over six models ([-0.06, 0.98]). Here no correlation is defined."
    top = best.loc[best["r"].abs().idxmax()]
    return (
        "On Llama-2-7b up to r = 0.79 over six models, whose 95 % interval is [-0.06, 0.98]. Here the largest is "
        f"{top['statistic']} {top['r']:+.2f} over {int(top['n'])} (q = {top['q']:.2g}, "
        f"{top['test']}): that similar neurons "
        "predict transfer "
        f"{AGREES[bool(top['q'] < 0.05 and top['r'] > 0)] if np.isfinite(top['q']) else 'cannot be told'}."
    )


def proportion_sweep(result: Any) -> str:
    """Figure 2: by the share of neurons trained."""
    rows, lines = result.summary(), []
    for domain, name in (("in", "specialization"), ("out", "generalization")):
        cells = rows[rows["domain"] == domain].sort_values("k")
        if len(cells):
            best = cells.loc[cells["task"].idxmax()]
            said = ", ".join(f"{r.task:.1%} at {r.k:.0%}" for r in cells.itertuples())
            lines.append(f"{name}: {said} (untrained {cells['zero-shot'].iloc[0]:.1%}; best at {best['k']:.0%})")
    return (
        "On Llama-2-7b specialization rises with the share of neurons trained, and generalization is best below all of "
        f"them. Here {'; '.join(lines)}."
    )


def overlap_controlled(result: Any) -> str:
    """Tables 9 to 11: a preset share of the trained neurons in the test task's mask."""
    rows = result.summary().groupby("share")["score"].mean()
    rises = bool(rows.loc[rows.index.max()] > rows.loc[rows.index.min()])
    said = ", ".join(f"{score:.1%} at {share:.0%}" for share, score in rows.items())
    return (
        "On Llama-2-7b the held-out task gains with the share of the trained neurons that "
        "lies in its mask. Here it scores "
        f"{said}: that {AGREES[rises]}, interval and trend below."
    )


def section(result: Result, id_: str, title: str, compared: str, seconds: float, command: str) -> str:
    """Markdown of one table or figure."""
    tables = []
    for frame in list(result.tables().values())[:1]:
        shown = frame.head(ROWS_SHOWN)
        tables.append(
            common.table([str(c) for c in shown.columns], [[_cell(v) for v in row] for row in shown.to_numpy()])
        )
        if len(frame) > len(shown):
            tables.append(f"({len(frame) - len(shown)} more rows)")
    return "\n\n".join(
        [f"## {id_}: {title}", f"`{command}`, {seconds / 60:.0f} min.", f"![{title}](../assets/real/{id_}.png)",
         f"**Beside the paper.** {compared}", f"**In words.** {result.in_words()}", *tables]
    )  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.3f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def page(results: Mapping[str, Result], texts: Mapping[str, str], out: Path, settings: Mapping[str, Any]) -> Path:
    """One report of what was made."""
    sections = [part for result in results.values() for part in result.sections()]
    intro = "\n\n".join(f"**{id_}** beside the paper. {text}" for id_, text in texts.items())
    return write_report(
        out / "report.html",
        title=f"Both papers on {settings['base']}",
        intro=intro,
        sections=sections,
        manifest=settings,
    )


def picture(result: Result, path: Path) -> None:
    """The result's first figure as PNG, where there is a Chromium."""
    if CHROMIUM is None:
        return
    width, height = SIZE
    figure = result.figures()[0]
    height = int(figure.layout.height or height)
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "figure.html"
        html.write_text(
            figure.to_html(
                include_plotlyjs=True,
                config={"displayModeBar": False},
                default_width=f"{width - 20}px",
                default_height=f"{height}px",
            )
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        command: Sequence[str] = [
            CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={folder}/profile", f"--window-size={width},{height + 20}", "--virtual-time-budget=20000",
            f"--screenshot={path.resolve()}", html.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, timeout=120, check=True)
