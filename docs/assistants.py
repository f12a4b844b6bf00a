"""Write what coding assistants read, from the docs: AGENTS.md, llms.txt, and a skill with its reference.

    python docs/assistants.py

`tests/test_assistants.py` compares. The site gets `llms-full.txt` when it is built (docs/hooks/pages.py).
"""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SUMMARY = (
    "Which neurons of a language model does a task use, are they its own, and what happens without them? Scores, "
    "masks, ablation, random controls, verdicts, fine-tuning of chosen neurons, and comparison of layers, on any model "
    "of transformers, TransformerLens or nnsight."
)
WHEN = (
    "Find, ablate, judge, read and fine-tune neurons of language models with the Python package neuroscope (import "
    "neuroscope as ns). Use when code imports neuroscope, or when the question is which neurons a task uses, whether "
    "they are its own, or what happens without them."
)
ONWARD = """Recipes that run are in `docs/how-to/`; `llms.txt` lists all pages; `skills/neuroscope/SKILL.md` is a skill.

## Working on it

```bash
make setup                                     # the environment, in .venv
.venv/bin/python -m pytest tests/test_masks.py # one file of tests; the whole suite takes long
make lint types                                # ruff and mypy
make docs                                      # the site, warnings as errors
```

One function (or file) and one row add a thing:
"""
QUIET = (
    "- Files stay under 400 lines; the library never prints, sets no global state, and its tests never use the network."
)


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rules() -> str:
    """The rules, as the concepts have them."""
    return re.search(r"^- .*", read("concepts/rules.md"), re.MULTILINE | re.DOTALL)[0].strip()


def title_of(text: str) -> str:
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1]


def first_words(text: str) -> str:
    """The first sentence of a page."""
    body = re.sub(r"^(<!--.*-->|#.*)$", "", text, flags=re.MULTILINE).strip()
    paragraph = " ".join(body.split("\n\n")[0].split()).replace("**", "")
    paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    if paragraph.startswith(("```", "|", "=", "- ")):
        return ""
    sentence = re.match(r".*?[.:](?= |$)", paragraph)
    return (sentence[0] if sentence else paragraph).rstrip(":")


def sections() -> list[tuple[str, list[str]]]:
    """Title and pages of every part of the site that is written by hand or committed."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    found = []
    for entry in nav:
        if entry == "reference":
            found.append(("Reference", ["api/vocabulary.md"]))
        elif isinstance(entry, dict):
            ((title, pages),) = entry.items()
            pages = [pages] if isinstance(pages, str) else pages
            if title == "Tutorials":
                pages = [*pages, *(f"tutorials/{path.name}" for path in sorted((DOCS / "tutorials").glob("[0-9]*.md")))]
            found.append((title, [page for page in pages if (DOCS / page).exists()]))
    return found


def recipes() -> list[str]:
    """The pages of recipes."""
    return [page for title, pages in sections() if title == "How to" for page in pages if "index" not in page]


def llms() -> str:
    """The index of the docs, as llmstxt.org has it."""
    lines = ["# neuroscope", "", f"> {SUMMARY}", "", rules(), ""]
    for title, pages in sections():
        lines += [f"## {title}", ""]
        for page in pages:
            text = read(page)
            headings = re.findall(r"^## (.+)$", outside_code(text), re.MULTILINE) if page in recipes() else []
            about = "; ".join(heading[0].lower() + heading[1:] for heading in headings) or first_words(text)
            lines.append(f"- [{title_of(text)}](docs/{page})" + (f": {about}" if about else ""))
        lines.append("")
    lines += ["## Optional", "", "- [Contributing](CONTRIBUTING.md): one row registers a thing."]
    lines += ["- [Changes](CHANGELOG.md)", ""]
    return "\n".join(lines)


def agents() -> str:
    """How to work in this repository, and with the package."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.search(r"^\| a \| the function.*?(?=\n\n)", contributing, re.MULTILINE | re.DOTALL)[0]
    house = re.search(r"^## The house\n.*?(?=\n## )", contributing, re.MULTILINE | re.DOTALL)[0]
    expected = re.search(r"^## What is expected\n.*?(?=\n`make lint)", contributing, re.MULTILINE | re.DOTALL)[0]
    return "\n".join(
        [
            "<!-- written by docs/assistants.py from CONTRIBUTING.md and the docs -->",
            "",
            "# For coding assistants",
            "",
            SUMMARY,
            "",
            "## Using it",
            "",
            rules(),
            "",
            ONWARD,
            table,
            "",
            expected.strip(),
            QUIET,
            "",
            house.strip(),
            "",
        ]
    )


def how_to() -> str:
    """All recipes on one page."""
    parts = ["<!-- written by docs/assistants.py from docs/how-to/ -->", "# Recipes"]
    for page in recipes():
        text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", read(page))
        parts.append(re.sub(r"^(#+) ", r"#\1 ", outside_code(text), flags=re.MULTILINE).replace("\0", "#").strip())
    return "\n\n".join(parts) + "\n"


def outside_code(text: str) -> str:
    """A text whose comments in code are marked, so that they are not taken for headings."""
    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        lines.append(re.sub(r"^#", "\0", line) if fenced else line)
    return "\n".join(lines)


def skill() -> str:
    """A skill: when to use it, the rules, the first steps, and where each recipe is."""
    code = re.search(r"```python\n.*?```", read("index.md"), re.DOTALL)[0]
    vocabulary = re.search(r"^\| argument .*?(?=\n\n)", read("api/vocabulary.md"), re.MULTILINE | re.DOTALL)[0]
    methods = re.search(r"^\| method .*?(?=\n\n)", read("concepts/methods.md"), re.MULTILINE | re.DOTALL)[0]
    errors = re.search(r"^\| family .*?(?=\n\n)", read("errors/index.md"), re.MULTILINE | re.DOTALL)[0]
    errors = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", errors)
    headings = []
    for page in recipes():
        text = outside_code(read(page))
        names = re.findall(r"^## (.+)$", text, re.MULTILINE)
        headings.append(f"- {title_of(text)}: " + "; ".join(name[0].lower() + name[1:] for name in names) + ".")
    return "\n".join(
        [
            "---",
            "name: neuroscope",
            f"description: {WHEN}",
            "---",
            "",
            "<!-- written by docs/assistants.py from the docs -->",
            "",
            "# neuroscope",
            "",
            SUMMARY,
            "",
            "## Rules",
            "",
            rules(),
            "",
            "## First steps",
            "",
            code,
            "",
            "## Arguments mean the same everywhere",
            "",
            vocabulary,
            "",
            "## Methods of `ns.attribute(..., method=)`",
            "",
            methods,
            "",
            "## Recipes",
            "",
            "`references/how-to.md` has code that runs for each of these:",
            "",
            *headings,
            "",
            "## Errors",
            "",
            errors,
            "",
        ]
    )


def full(pages: dict[str, str]) -> str:
    """All pages as one text, for llms-full.txt.

    Args:
        pages: path -> Markdown.
    """
    texts = [f"<!-- {path} -->\n\n{text.strip()}" for path, text in pages.items()]
    return "\n\n".join([f"# neuroscope\n\n> {SUMMARY}", *texts]) + "\n"


FILES = {
    "AGENTS.md": agents,
    "llms.txt": llms,
    "skills/neuroscope/SKILL.md": skill,
    "skills/neuroscope/references/how-to.md": how_to,
}


def main() -> None:
    for name, text in FILES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
