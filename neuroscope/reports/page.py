"""One self-contained HTML file out of texts, figures and tables, readable without a network.

plotly.js is embedded once, and only the part of it that draws the page's figures where there is one (`plotly/`: the
traces with two axes, a third of the whole; taken from the npm package plotly.js-cartesian-dist-min). A content
security policy in the page forbids every request, so nothing can be fetched even by mistake. The same content gives the
same bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neuroscope import files
from neuroscope.checks import all_of, by_text, public
from neuroscope.errors import ArgumentError, brief
from neuroscope.markup import TABLE_STYLE, figure_html, fold, markup, table_html, told
from neuroscope.results import Section

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


CARTESIAN = Path(__file__).parent / "plotly" / "plotly-cartesian.min.js"
IN_CARTESIAN = {"bar", "box", "contour", "heatmap", "histogram", "histogram2d", "histogram2dcontour", "image", "pie"}
IN_CARTESIAN |= {"scatter", "scatterternary", "violin"}


@public
def write_report(
    path: str | PathLike[str],
    *,
    title: str,
    intro: str = "",
    sections: Sequence[Section] = (),
    links: Mapping[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write one offline HTML page, atomically.

    Args:
        path: the file to write; folders on the way are made.
        title: of the page.
        intro: text above the first section, marked up as in `Section`.
        sections: in reading order.
        links: words -> the name of a file beside the page, shown below the intro.
        manifest: what the numbers depend on; shown folded at the end.

    Returns:
        The path written.

    Raises:
        ArgumentError: something in `sections` is not a Section.

    Example:
        >>> import tempfile
        >>> section = Section("What was asked", "**One** question.")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_report(f"{folder}/report.html", title="Notes", sections=[section])
        ...     page.name, "<strong>One</strong>" in page.read_text(encoding="utf-8")
        ('report.html', True)
    """
    sections = all_of(sections, "sections")
    for i, section in enumerate(sections):
        if not isinstance(section, Section):
            raise ArgumentError(f"section {i} of a report", type(section).__name__, "give neuroscope.results.Section")
    ids = [f"section-{i}" for i in range(1, len(sections) + 1)]
    entries = "".join(f'<li><a href="#{i}">{html.escape(s.title)}</a></li>' for i, s in zip(ids, sections, strict=True))
    parts = {
        "title": html.escape(title),
        "policy": POLICY,
        "style": STYLE + TABLE_STYLE,
        "plotly": _plotly({trace.type for section in sections for figure in section.figures for trace in figure.data}),
        "contents": f'<nav aria-label="Contents"><p>Contents</p><ol>{entries}</ol></nav>' if sections else "",
        "intro": markup(intro) + _links(links),
        "sections": "\n".join(_section(i, section) for i, section in zip(ids, sections, strict=True)),
        "manifest": _manifest(manifest),
    }
    return files.write(path, PAGE.format_map(parts))


def _links(links: Mapping[str, str] | None) -> str:
    given = {} if links is None else by_text(links, "links", "give a dict words -> name of a file beside the page")
    for words, name in given.items():
        if not isinstance(name, str) or not name or name != Path(name).name:
            raise ArgumentError(f"links[{words!r}]", brief(name), "give the name of a file in the page's own folder")
    return "".join(f'<p><a href="{quote(name)}">{html.escape(words)}</a></p>' for words, name in given.items())


def _plotly(traces: set[str]) -> str:
    if not traces:
        return ""
    if traces <= IN_CARTESIAN:
        return f"<script>{CARTESIAN.read_text(encoding='utf-8')}</script>"
    from plotly.offline import get_plotlyjs  # 5 MB of text: only for figures of a reader's own

    return f"<script>{get_plotlyjs()}</script>"


def _section(anchor: str, section: Section) -> str:
    drawn = [figure_html(figure, f"{anchor}-figure-{i}") for i, figure in enumerate(section.figures, 1)]
    tables = [table_html(*table) for table in section.tables[:1]]
    tables += [fold(caption, table_html(caption, frame)) for caption, frame in section.tables[1:]]
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return "\n".join([f'<section id="{anchor}">', heading, told(section.text), *drawn, *tables, "</section>"])


def _manifest(manifest: Mapping[str, Any] | None) -> str:
    if manifest is None:
        return ""
    text = html.escape(json.dumps(dict(manifest), indent=2, default=_said, ensure_ascii=False))
    return fold("How these numbers were made", f"<pre>{text}</pre>")


def _said(value: Any) -> str:
    """What JSON has no word for."""
    try:
        return str(value)
    except Exception:  # somebody else's object
        return brief(value)


STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #e4e7eb; --accent: #0072b2; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: #f5f7fa; line-height: 1.6;
  font: 16px/1.6 Inter, "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
.page { display: grid; grid-template-columns: 15rem minmax(0, 62rem); gap: 2.5rem; justify-content: center;
  padding: 2.5rem 1.5rem 4rem; }
header { grid-column: 1 / -1; max-width: 79.5rem; border-bottom: 3px solid var(--accent); padding-bottom: .5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .5rem; }
p, ul { max-width: 46rem; margin: 0 0 .9rem; }
nav { position: sticky; top: 1.5rem; align-self: start; max-height: calc(100vh - 3rem); overflow-y: auto;
  font-size: .92rem; }
nav p { margin: 0 0 .4rem; color: var(--soft); font-size: .8rem; text-transform: uppercase; letter-spacing: .08em; }
nav ol { margin: 0; padding: 0 0 0 1.7rem; }
nav li { margin: .3rem 0; color: var(--soft); }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { background: white; border: 1px solid var(--line); border-radius: 8px; padding: 1.5rem 1.75rem;
  margin: 0 0 1.5rem;
  scroll-margin-top: 1rem; }
figure.plot { margin: 1rem 0; overflow-x: auto; }
figure.plot > div { min-width: 40rem; }
code { background: #eef2f6; border-radius: 3px; padding: .05em .3em; font-size: .9em; }
main > details { background: white; border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1.75rem; }
section details { margin: 0 0 .9rem; }
details[open] > summary { margin-bottom: .5rem; }
section > p:first-of-type { font-size: 1.08rem; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.45; }
@media (max-width: 1150px) { .page { grid-template-columns: minmax(0, 1fr); gap: 1rem; padding: 1.25rem .75rem; }
  nav { position: static; max-height: none; } section { padding: 1rem; } }
@media (max-width: 46rem) { figure.plot::before { content: "scroll for the whole figure \\2192"; position: sticky;
  left: 0; color: var(--soft); font-size: .88rem; } }
@media print { body { background: white; } nav { display: none; } .page { display: block; }
  .ns-scroll { max-height: none; } details::details-content { content-visibility: visible; }
  section { border: 0; break-inside: avoid-page; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
{plotly}
</head>
<body>
<div class="page">
<header><h1>{title}</h1>
{intro}</header>
{contents}
<main>
{sections}
{manifest}
</main>
</div>
</body>
</html>
"""
