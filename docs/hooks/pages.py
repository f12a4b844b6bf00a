"""The pages that are made when the site is built, and the links from code in the text to the reference."""

import os
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import api  # noqa: E402
import assistants  # noqa: E402
import made  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402

ANCHORS = {name.said: f"api/{name.room}.md#{name.anchor}" for name in api.public_names()}
ANCHORS |= {space: f"api/{space}.md" for space in api.SPACES}
REFERENCE = set(api.pages())
CODE = re.compile(r"(?<![\[`\w])`(ns\.((?:experiments\.|interop\.|similarity\.)?\w+)[^`\n]*)`(?!`)")


def on_config(config):
    """The pages of the reference and of tutorials stand in the navigation."""
    for entry in config.nav:
        if isinstance(entry, dict) and "Tutorials" in entry:
            notebooks = sorted((api.ROOT / "docs" / "tutorials").glob("[0-9]*.md"))
            entry["Tutorials"] = ["tutorials/index.md", *(f"tutorials/{path.name}" for path in notebooks)]
    rooms = [path for path in api.pages() if path != "api/index.md"]
    config.nav = [
        {"Reference": ["api/index.md", "api/vocabulary.md", *rooms]} if entry == "reference" else entry
        for entry in config.nav
    ]
    return config


def on_files(files, config):
    """Made pages beside those that are written by hand."""
    for path, text in api.pages().items():
        files.append(File.generated(config, path, content=text))
    for path, text in made.PAGES.items():
        files.append(File.generated(config, path, content=text()))
    for picture in sorted((api.ROOT / "assets").rglob("*.png")):
        path = picture.relative_to(api.ROOT).as_posix()
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


WRITTEN = {}  # path -> Markdown of every page but the reference's


def on_post_build(config):
    """All of it as one text, for coding assistants."""
    site = Path(config.site_dir)
    pages = {page: WRITTEN[page] for page in sorted(WRITTEN)}
    (site / "llms-full.txt").write_text(assistants.full({**pages, "reference": api.as_text()}), encoding="utf-8")
    index = assistants.llms().replace("](docs/", "](").replace(".md)", ".html)")
    index = index[: index.index("## Optional")] + "## Optional\n\n- [All of it as one text](llms-full.txt)\n"
    (site / "llms.txt").write_text(index, encoding="utf-8")


def on_page_markdown(markdown, page, config, files):
    """`ns.NAME...` in a sentence or a table links to the reference."""
    here = os.path.dirname(page.file.src_uri)
    for mark, text in made.PUT_IN.items():
        markdown = markdown.replace(mark, text() if mark in markdown else "")

    if page.file.src_uri not in REFERENCE:
        WRITTEN[page.file.src_uri] = markdown

    def linked(found):
        target = ANCHORS.get(found[2])
        if target is None or target.split("#")[0] == page.file.src_uri:
            return found[0]
        return f"[`{found[1]}`]({os.path.relpath(target, here or '.')})"

    lines, fenced = [], False
    for line in markdown.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        keep = fenced or line.startswith(("    ", "#", ":::"))
        lines.append(line if keep else CODE.sub(linked, line))
    return "\n".join(lines)
