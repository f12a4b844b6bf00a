"""Try the extras of pyproject.toml one by one, beside nothing but the base install: what `make extras` does.

Each is put into an environment of its own that sees the base's packages, and the tests that need it must pass there and
be skipped by none; before that, its package must be missing from the base.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT.joinpath(".extras")
IMAGE = "import plotly.graph_objects as g; g.Figure(g.Bar(y=[1, 2])).write_image({path!r})"
PYTEST = ["-m", "pytest", "-ra", "--tb=short"]
CHECKS = {  # extra -> the module it brings, and what is run with it
    "gguf": ("gguf", [*PYTEST, "tests/test_gguf.py"]),
    "torchao": ("torchao", [*PYTEST, "tests/test_quantised.py"]),
    "images": ("kaleido", ["-c", IMAGE.format(path=str(HERE / "figure.png"))]),
    "argcomplete": ("argcomplete", [*PYTEST, "tests/test_command_line.py", "-k", "shell_completes"]),
    "lm-eval": ("lm_eval", [*PYTEST, "tests/test_harness.py"]),
    "trl": ("trl", [*PYTEST, "tests/test_finetune.py", "-k", "trl"]),
    "bench": ("pytest_benchmark", [*PYTEST, "benchmarks/test_speed.py"]),
    "docs": ("mkdocs", ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(HERE / "site")]),
}


def run(python, *words):
    """Whether a command of a Python succeeds, and what it says."""
    done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def environment(extra):
    """A Python with the base's packages and the extra's."""
    folder = HERE / extra
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    base = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    (site / "base.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n", encoding="utf-8")
    python = str(folder / "bin" / "python")
    pip = ["-m", "pip", "install", "--quiet", "--no-compile", "--constraint", "constraints.txt", "--editable"]
    good, said = run(python, *pip, f".[{extra}]")
    if not good:
        raise SystemExit(f"{extra}: cannot be installed: {said}")
    return python


def main():
    """Every extra; which fail."""
    failed = []
    for extra, (module, words) in CHECKS.items():
        there, _ = run(sys.executable, "-c", f"import {module}")
        good, said = run(environment(extra), *words)
        if there:
            good, said = False, f"{module} is in the base install already: nothing is tried"
        elif words[:2] == PYTEST[:2]:
            good = good and "passed" in last(said) and "skipped" not in last(said)
        sys.stdout.write(f"{extra}: {'works' if good else 'FAILS'}: {said if not good else last(said)}\n")
        sys.stdout.flush()
        failed += [] if good else [extra]
    if failed:
        raise SystemExit(f"fail: {', '.join(failed)}")


def last(said):
    """The last line of an output, if there is one."""
    return said.splitlines()[-1] if said else "no output"


if __name__ == "__main__":
    main()
