"""Code in Markdown pages, as a reader would run it: a page's blocks one after the other, in one session."""

import doctest
import linecache
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<why>not run: [^\n]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<kind>python|pycon)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(path):
    """(kind, code, line, why it is not run or "") of every block of Python on a page."""
    text = Path(path).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        indent = found["indent"]
        code = "\n".join(line.removeprefix(indent) for line in found["code"].splitlines()) + "\n"
        yield found["kind"], code, text[: found.start("code")].count("\n") + 1, found["why"] or ""


def run(path, namespace=None):
    """Run every block of a page that is to be run, in one namespace, which is returned."""
    namespace = {} if namespace is None else namespace
    namespace.setdefault("__name__", "page")
    for kind, code, line, why in blocks(path):
        if why:
            continue
        where = f"{Path(path).name}, line {line}"
        if kind == "python":
            source = "\n" * (line - 1) + code
            linecache.cache[where] = (len(source), None, source.splitlines(True), where)  # nnsight reads its own block
            exec(compile(source, where, "exec"), namespace)
        else:
            # one text of what is typed and what is shown: errors with all their lines
            test = doctest.DocTestParser().get_doctest(code, namespace, where, str(path), line - 1)
            runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
            said = []
            runner.run(test, out=said.append, clear_globs=False)
            assert not runner.failures, f"{where}:\n{''.join(said)}"
            namespace.update(test.globs)
    return namespace
