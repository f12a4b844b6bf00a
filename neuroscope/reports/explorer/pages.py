"""The explorer's page: the front end and the packed numbers in one file, and such a file read back.

The style sheet and the script are named in the page's content security policy by their hashes: nothing else can run, or
be fetched, whatever a task's name or a prompt says. All texts of users are data, which the script inserts as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroscope import figures, files
from neuroscope.errors import FileError
from neuroscope.masks import NeuronMask
from neuroscope.masks.neuron_names import layer_of
from neuroscope.reports.explorer.card import plain_data
from neuroscope.reports.explorer.content import Content
from neuroscope.reports.explorer.packing import json_text, packed_bits, packed_order, packed_scores, zipped

FRONT = Path(__file__).parent / "front"
FORMAT = 1  # of what is packed; `data.js` reads this one
# in the order in which they need each other
MODULES = (
    "dom", "colours", "data", "state", "neurons", "grid", "tasks", "depth", "scatter", "texts", "list", "card",
    "matrices", "evidence", "chosen", "search", "keys", "main",
)  # fmt: skip
DATA = re.compile(r'<script type="(application/json|text/plain)" id="(head|pack-[a-z0-9-]+)">([^<]*)</script>')


def parts_of(content: Content) -> dict[str, str]:
    """The page's data by name: `head`, which is JSON, and packed arrays."""
    from neuroscope.reports.explorer.tables import table_parts

    names, packs, scales = content.names, {}, {}
    for i, name in enumerate(names):
        if name in content.scores:
            values = content.scores[name].vector().cpu().numpy()
            packs[f"score-{i}"], scales[i] = packed_scores(values)
            packs[f"order-{i}"] = packed_order(values)
        if name in content.masks:
            packs[f"mask-{i}"] = packed_bits(content.masks[name].flags().cpu().numpy())
    if content.cards:
        packs["cards"] = zipped(json_text(list(content.cards)).encode())
    widths = content.widths
    head = {
        "kind": "neuroscope explorer",
        "format": FORMAT,
        "version": files.versions().get("neuroscope", ""),
        "title": content.title,
        "unit": content.unit,
        "about": {key: str(value) for key, value in content.about.items()},
        "sites": [
            {"address": address, "layer": layer, "width": width}
            for (address, width), layer in zip(widths.items(), _layers(list(widths)), strict=True)
        ],
        "tasks": [
            {"name": name, "family": content.families.get(name, ""), "scale": scales.get(i)}
            | ({} if name not in content.masks else _of_mask(content.masks[name]))
            for i, name in enumerate(names)
        ],
        "cards": len(content.cards),
        **table_parts(content.tables, names),
        "palette": {"categories": figures.style.CATEGORIES, **figures.style.SCALES},
    }
    return {"head": json_text(head), **{f"pack-{name}": text for name, text in packs.items()}}


def _of_mask(mask: NeuronMask) -> dict[str, Any]:
    """How many neurons each site has in it, and what is known of it, where something is."""
    card = mask.card()
    known = {
        "words": [line for line in card.in_words().splitlines() if line],
        "rows": plain_data(card.table[["part", "what", "value"]].astype(str).to_numpy(), "the card of a mask"),
    }
    return {"counts": list(mask.counts().values()), "evidence": known if card.evidence else None}


def _layers(addresses: list[str]) -> list[str]:
    """What each site is called beside a neuron's index: its layer, or more where a layer has several sites."""
    layers = [str(layer_of(address)) if layer_of(address) >= 0 else address for address in addresses]
    return layers if len(set(layers)) == len(layers) else figures.style.short_names(addresses)


def page_of(parts: Mapping[str, str], title: str) -> str:
    """The page with this data."""
    style, script = (FRONT / "style.css").read_text(encoding="utf-8"), script_of(FRONT)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    kinds = {name: "application/json" if name == "head" else "text/plain" for name in parts}
    data = "\n".join(f'<script type="{kinds[name]}" id="{name}">{text}</script>' for name, text in parts.items())
    page = (FRONT / "page.html").read_text(encoding="utf-8")
    filled = {"policy": policy, "title": html.escape(title), "style": style, "data": data, "script": script}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], page)


def script_of(folder: Path) -> str:
    """The front end's modules as one: what they import from each other is there already."""
    texts = []
    for name in MODULES:
        text = (folder / f"{name}.js").read_text(encoding="utf-8")
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        texts.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return "\n".join(texts)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def read_page(path: Path) -> tuple[dict[str, str], str]:
    """The data and the title of a page that was written before.

    Raises:
        FileError: no page of an explorer, or one of another format.
    """
    asked = f"explore {path}"
    try:
        page = path.read_text(encoding="utf-8")
        parts = {name: text for _, name, text in DATA.findall(page)}
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(asked, str(error), "give the folder of a run, or a page of an explorer") from None
    if "head" not in parts:
        raise FileError(asked, "a file that is no page of an explorer", "give the folder of a run")
    try:
        head = json.loads(parts["head"])
        kind, form, title = head["kind"], head["format"], str(head["title"])
    except (ValueError, KeyError, TypeError) as error:
        found = f"damaged data ({type(error).__name__}: {error})"
        raise FileError(asked, found, "make the page again from the run's folder") from None
    if kind != "neuroscope explorer" or form != FORMAT:
        found = f"{kind!r}, format {form}, of neuroscope {head.get('version')}; this version reads {FORMAT}"
        raise FileError(asked, found, "make the page again from the run's folder, or update neuroscope")
    if not page.rstrip().endswith("</html>"):
        raise FileError(asked, "a page that was cut off", "make the page again from the run's folder")
    return parts, title
