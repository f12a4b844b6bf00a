"""Run the notebooks of tutorials/, and write each as a page with its outputs and static pictures.

    python docs/tutorials.py [NAME ...]

Needs the extra dev, and chromium for the pictures. A page says at its top the hash of its notebook, which
`tests/test_site.py` compares.
"""

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from PIL import Image
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "tutorials"
PLOTLY = "application/vnd.plotly.v1+json"
WIDTH, SCALE, QUALITY = 860, 1.6, 82
DRAW = f"""
async function draw(figure, into) {{
    const height = figure.layout.height || 450;
    into.textContent = await Plotly.toImage(figure, {{format: "png", width: {WIDTH}, height, scale: {SCALE}}});
}}
"""
LINES = 60  # of a printed output, the rest of which is left out


def hash_of(notebook) -> str:
    """Of all that a notebook says and does."""
    said = "\0".join(cell.source for cell in notebook.cells)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def pictures(figures: dict[Path, dict]) -> None:
    """Write figures of plotly as pictures, all drawn by one browser."""
    drawing = "".join(
        f"""<pre></pre><script>draw({json.dumps(figure)}, document.querySelectorAll("pre")[{i}])</script>"""
        for i, figure in enumerate(figures.values())
    )
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder, "figures.html")
        html.write_text(f"<html><body><script>{get_plotlyjs()}</script><script>{DRAW}</script>{drawing}</body></html>")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--virtual-time-budget=60000", "--dump-dom", html.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    drawn = re.findall(r"<pre>data:image/png;base64,([^<]*)</pre>", done.stdout)
    if len(drawn) < len(figures):
        raise RuntimeError(f"{len(drawn)} of {len(figures)} figures were drawn: {done.stderr[-2000:]}")
    for path, data in zip(figures, drawn, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)


def title_of(figure: dict) -> str:
    """What a figure shows, for those who cannot see it."""
    title = figure["layout"].get("title") or {}
    text = title if isinstance(title, str) else title.get("text", "")
    return re.sub(r"<br>.*|<[^>]+>|[\[\]]", "", text, flags=re.DOTALL).strip() or "figure"


def shown(outputs, folder: Path, number: int, figures: dict[Path, dict]) -> list[str]:
    """Markdown of a cell's outputs; its figures are put among `figures`."""
    parts = []
    for i, output in enumerate(outputs):
        data = output.get("data", {})
        if PLOTLY in data:
            path = folder / f"{number:02}-{i}.webp"
            figures[path] = {key: data[PLOTLY][key] for key in ("data", "layout")}
            parts.append(f"![{title_of(figures[path])}]({folder.name}/{path.name})")
        elif "<table" in data.get("text/html", "") and "<script" not in data["text/html"]:
            tables = re.findall(r"<table.*?</table>", re.sub(r"\n\s*", "", data["text/html"]))
            parts += [f'<div class="output">{table}</div>' for table in tables]
        else:
            text = output.get("text") or data.get("text/plain", "")
            lines = text.rstrip().splitlines()
            rest = [f"... ({len(lines) - LINES} more lines)"] if len(lines) > LINES else []
            if lines:
                parts.append("\n".join(["```{ .text .output }", *lines[:LINES], *rest, "```"]))
    return parts


def joined(outputs) -> list:
    """A cell's outputs, with what was printed in several goes as one."""
    parts = []
    for output in outputs:
        name = output.get("name")
        if parts and name and name == parts[-1].get("name"):
            parts[-1] = {**parts[-1], "text": parts[-1]["text"] + output["text"]}
        elif name != "stderr":  # progress bars and the like
            parts.append(output)
    return parts


def page(path: Path) -> str:
    """Run a notebook; its page, with its pictures beside it."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = str(ROOT)
    nbclient.NotebookClient(notebook, timeout=3000, kernel_name="python3").execute()
    folder = PAGES / path.stem
    for old in folder.glob("*.webp"):
        old.unlink()
    figures: dict[Path, dict] = {}
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts += [f"```python\n{cell.source}\n```", *shown(joined(cell.outputs), folder, number, figures)]
    pictures(figures)
    parts.append(f"<!-- written by docs/tutorials.py from tutorials/{path.name}, {hash_of(notebook)} -->")
    return "\n\n".join(parts) + "\n"


def main(names: list[str]) -> None:
    """Write the pages of the notebooks that have changed, or of those that are named."""
    PAGES.mkdir(exist_ok=True)
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        target = PAGES / f"{path.stem}.md"
        known = hash_of(nbformat.read(path, as_version=4))
        if (names and path.stem not in names) or (not names and target.exists() and known in target.read_text()):
            continue
        target.write_text(page(path), encoding="utf-8")
        print(target.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
