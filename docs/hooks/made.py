"""Pages that are read off the package and off measured figures, so that they say what these say."""

import ast
import importlib
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ABSOLUTE = re.compile(r"\bms\b|\bs\b|\bMB\b|\bMiB\b|\bminutes?\b|\bseconds\b")  # units that are of one machine and day
RELATIVE = re.compile(r"/ |ratio|Spearman|required|quartiles")


def reproduce() -> str:
    """The papers' tables and figures by ID, out of the table that the command line reads."""
    sys.path.insert(0, str(ROOT))
    try:
        table = importlib.import_module("neuroscope.experiments.table")
    finally:
        sys.path.remove(str(ROOT))
    rows = []
    for row in table.EXPERIMENTS.values():
        name = row.function.partition(":")[2]
        call = f"ns.{name}" if name in ("overlap_sweep", "faithfulness") else f"ns.experiments.{name}"
        part = f"{call}(...)" + (f".{row.part}()" if row.part else "")
        rows.append(f"| {row.id} | {row.title} | {row.citation} | `{part}` |")
    return "\n".join(
        [
            "# The papers' tables and figures\n",
            "`neuroscope reproduce ID` runs one of them and writes a report; `neuroscope reproduce --list` prints this "
            "list. Those that train take minutes on the bundled model. What was found on a real model is in "
            "[the gallery](gallery.md).\n",
            "| ID | what it shows | source | call |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def gallery() -> str:
    """The figures that were measured on a real model, each with its words and its command."""
    text = (ROOT / "benchmarks" / "REAL.md").read_text(encoding="utf-8")
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    parts = [head.replace("# Both papers on a real model", "# Gallery: both papers on a real model").strip()]
    parts.append("All tables behind these figures are in `benchmarks/REAL.md`.")
    for section in sections:
        title, _, body = section.partition("\n")
        pictures = re.findall(r"!\[[^\]]*\]\(\.\./assets/real/[^)]+\)", body)
        if not pictures:
            continue
        command = re.search(r"`(python benchmarks/[^`]+)`", body) or re.search(r"```bash\n(.*?)\n```", body, re.DOTALL)
        beside = re.search(r"\*\*Beside the paper\.\*\*.*?(?=\n\n)", body, re.DOTALL)
        words = re.search(r"\*\*In words\.\*\*.*?(?=\n\n)", body, re.DOTALL)
        parts += [f"## {title}", *(picture.replace("../assets/", "assets/") for picture in pictures)]
        parts += [found[0] for found in (words, beside) if found]
        if command:
            parts.append(f'??? note "The command"\n\n    ```bash\n{textwrap.indent(command[1], "    ")}\n    ```')
    return "\n\n".join(parts) + "\n"


def benchmarks() -> str:
    """Ratios of benchmarks/RESULTS.md; times and sizes of one machine and day are left out."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    parts = [
        "# Benchmarks",
        "Ratios, with quartiles where they were measured: contenders run in turns within one process, and every ratio "
        "is that of the same round, so that a busy machine slows all alike. The times behind them are in "
        "`benchmarks/RESULTS.md`; `make bench` measures them again.",
    ]
    for section in re.split(r"^(?=#{1,3} )", text, flags=re.MULTILINE):
        title = section.partition("\n")[0].lstrip("# ")
        tables = [found for found in map(relative, re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)) if found]
        if tables:
            command = re.search(r"`python benchmarks/[^`]+`", section)
            parts.append(f"## {'Aims' if title == 'Results' else title[0].upper() + title[1:]}")
            parts += [*([command[0]] if command else []), *tables]
    return "\n\n".join(parts) + "\n"


def relative(table: str) -> str:
    """A table without the columns (of aims: rows) that are in units of time or size; "" if no ratio is left."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().splitlines()]
    head, body = rows[0], [row for row in rows[2:] if len(row) == len(rows[0])]
    keep = [i for i, name in enumerate(head) if not ABSOLUTE.search(name) or "/" in name]
    if "required" in head:
        body = [row for row in body if not re.search(r", s$|\bms\b|MiB|\bMB\b", row[0])]
    if len(keep) < 2 or not any(RELATIVE.search(head[i]) for i in keep) or not body:
        return ""
    lines = [[row[i] for i in keep] for row in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def changelog() -> str:
    """The file, which has a word of everything, and so comes after other pages in the search."""
    return "---\nsearch:\n  boost: 0.1\n---\n\n" + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def verdict_rules() -> str:
    """The rules of verdicts, as the docstring of `crossed.verdicts` has them."""
    tree = ast.parse((ROOT / "neuroscope" / "experiments" / "f5_cross_ablation.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "verdicts":
            text = (ast.get_docstring(node) or "").split("\n\n", 1)[1]
            return textwrap.dedent(re.split(r"^(?:Args|Returns|Raises|Example):", text, flags=re.MULTILINE)[0]).strip()
    raise LookupError("neuroscope/experiments/f5_cross_ablation.py has no verdicts()")


def tutorials() -> str:
    """A line for every tutorial: its title, and its first sentence."""
    lines = []
    for path in sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines)


PAGES = {"reproduce.md": reproduce, "gallery.md": gallery, "benchmarks.md": benchmarks, "changelog.md": changelog}
PUT_IN = {"{{ verdict rules }}": verdict_rules, "{{ tutorials }}": tutorials}
