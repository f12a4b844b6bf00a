"""The pages that are made when the site is built, and the links from code in the text to the reference."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api
from mkdocs.structure.files import File

ANCHORS = {name.said: f"api/{name.room}.md#{name.anchor}" for name in api.public_names()}
ANCHORS |= {space: f"api/{space}.md" for space in api.SPACES}
FENCE = re.compile(r"^(```|~~~|    ).*", re.MULTILINE)
CODE = re.compile(r"(?<![\[`\w])`(ns\.((?:experiments\.|interop\.|similarity\.)?\w+)[^`\n]*)`(?!`)")


def on_config(config):
    """The reference's pages stand in the navigation."""
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
    return files


def on_page_markdown(markdown, page, config, files):
    """`ns.NAME...` in a sentence or a table links to the reference."""
    here = os.path.dirname(page.file.src_uri)

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
