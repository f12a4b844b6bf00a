"""`neuroscope doctor`: what the installation has, what is wrong with it, and what to do."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from neuroscope.command_line.call import Answer, Call, quiet_where_nobody_watches

OK, ADVICE, BROKEN = "ok", "advice", "broken"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LEAST_MEMORY = 2e9  # bytes: torch and the bundled model take one
SPEC = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([\w.*+!]+)")
WITHOUT = "not installed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at.
        state: "ok"; "advice", where something optional is missing; "broken".
        found: what was there.
        do: the way out; empty where there is nothing to do.
    """

    what: str
    state: str
    found: str
    do: str = ""


def doctor(call: Call) -> Answer:
    """Every finding; the exit code is 1 where something is broken."""
    del call
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _extras,
        _devices,
        _memory,
        _places,
        _model,
    )
    findings: list[Finding] = []
    for look in looks:
        try:
            findings += look()
        except Exception as error:  # whatever is wrong with the machine is what is looked for
            name = look.__name__.strip("_")
            findings.append(Finding(name, BROKEN, f"{type(error).__name__}: {error}", "see the message"))
    broken = [one for one in findings if one.state == BROKEN]
    lines = [f"{one.state:7} {one.what}: {one.found}" + f"\n        do: {one.do}" * bool(one.do) for one in findings]
    lines.append("all is well" if not broken else f"{len(broken)} broken: {', '.join(one.what for one in broken)}")
    return Answer("\n".join(lines), {"findings": [asdict(one) for one in findings]}, int(bool(broken)))


def allowed(version: str, specifier: str) -> bool:
    """Whether a version is within a specifier such as ">=1.1,<2"; numbers alone are compared.

    Example:
        >>> allowed("2.6.0+cpu", ">=2.6"), allowed("2.0", ">=1.1,<2"), allowed("4.3.1", "~=4.3")
        (True, False, True)
    """
    have = _numbers(version)

    def holds(sign: str, text: str) -> bool:
        bound = _numbers(text)
        width = max(len(have), len(bound))
        a, b = (numbers + (0,) * (width - len(numbers)) for numbers in (have, bound))
        if sign == "~=":
            return a >= b and have[: len(bound) - 1] == bound[:-1]
        if text.endswith(".*"):
            return (have[: len(bound)] == bound) == (sign == "==")
        signs = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}
        return signs[sign]

    return all(holds(sign, text) for sign, text in SPEC.findall(specifier))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", version.partition("+")[0])[0].split(".") if part)  # type: ignore[index]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = str(metadata.metadata("neuroscope")["Requires-Python"] or "")
    good = allowed(version, wanted)
    yield Finding("python", OK if good else BROKEN, f"{version}, of {wanted}", "" if good else f"install {wanted}")


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(package, specifier, extra) of all that neuroscope asks for."""
    for line in metadata.requires("neuroscope") or []:
        head, _, marker = line.partition(";")
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        name = re.match(r"[\w.-]+", head.strip())
        if name:
            yield name[0], head.strip()[len(name[0]) :].strip(), extra[1] if extra else ""


def _packages() -> Iterator[Finding]:
    for name, wanted, extra in _requirements():
        if extra:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, BROKEN, WITHOUT, f"pip install '{name}{wanted}'")
            continue
        good = allowed(version, wanted)
        do = "" if good else f"pip install '{name}{wanted}'"
        yield Finding(name, OK if good else BROKEN, f"{version}, of {wanted or 'any'}", do)


def _extras() -> Iterator[Finding]:
    uses = {"lm-eval": "neuroscope benchmark", "images": "figures as images", "gguf": ".gguf files"}
    uses |= {"torchao": "int8 and int4 weights", "trl": "an SFTTrainer of neurons", "argcomplete": "tab completion"}
    for name, wanted, extra in _requirements():
        if extra not in uses:
            continue
        do = f"for {uses[extra]}: pip install 'neuroscope[{extra}]'"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(f"{name} (optional)", ADVICE, WITHOUT, do)
            continue
        good = allowed(version, wanted)
        yield Finding(f"{name} (optional)", OK if good else ADVICE, f"{version}, of {wanted}", "" if good else do)
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    has_kaleido = importlib.util.find_spec("kaleido") is not None
    do = "kaleido writes images with it: install chromium, or run plotly_get_chrome" if has_kaleido else ""
    yield Finding("browser", OK if browser else ADVICE, browser or "no chromium, chrome or edge in PATH",
                  "" if browser else do or "install chromium to make images of figures")  # fmt: skip


def _devices() -> Iterator[Finding]:
    import torch

    set_by = os.environ.get("OMP_NUM_THREADS")
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    few = threads > cores
    found = f"{threads} of {cores} cores" + f" (OMP_NUM_THREADS={set_by})" * bool(set_by)
    yield Finding("threads", ADVICE if few else OK, found, "set OMP_NUM_THREADS to the cores there are" if few else "")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        has_driver = shutil.which("nvidia-smi") is not None
        found = f"none (torch built {f'for CUDA {built}' if built else 'without CUDA'})"
        do = "there is a driver: install a torch that is built for its CUDA" if has_driver and not built else ""
        yield Finding("CUDA", ADVICE if do else OK, found, do)
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        yield Finding(f"CUDA device {i}", OK, f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")


def _memory() -> Iterator[Finding]:
    free = available_memory()
    if free is None:
        yield Finding("memory", OK, "unknown on this system")
        return
    low = free < LEAST_MEMORY
    do = "end other programs; torch and the bundled model take about 1 GB" if low else ""
    yield Finding("memory", ADVICE if low else OK, f"{free / 1e9:.1f} GB free", do)


def available_memory() -> float | None:
    """Bytes that a program could have now; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _places() -> Iterator[Finding]:
    here = Path.cwd()
    good = os.access(here, os.W_OK | os.X_OK)
    free = shutil.disk_usage(here).free / 1e9
    do = "" if good else "go to a folder that can be written to, or give --output"
    yield Finding(
        "this folder", OK if good else BROKEN, f"{here}, {free:.1f} GB free{'' if good else ', read-only'}", do
    )
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    there = next(path for path in (Path(home), *Path(home).parents) if path.exists())
    good = os.access(there, os.W_OK | os.X_OK)
    do = "" if good else "set HF_HOME to a folder that can be written to, to load models of the Hub"
    yield Finding("Hub cache", OK if good else ADVICE, f"{home}{'' if good else ', read-only'}", do)
    if os.environ.get("HF_HUB_OFFLINE"):
        yield Finding("Hub", OK, "offline (HF_HUB_OFFLINE): models come from the cache and from folders")


def _model() -> Iterator[Finding]:
    from neuroscope.evaluation import evaluate
    from neuroscope.models import load
    from neuroscope.tasks import load_tasks

    with quiet_where_nobody_watches():
        model = load("mini")
    score = evaluate(model, load_tasks("mini")["sentiment-food"], n=32).score
    good = score > 0.8  # it has 0.97 of them right
    do = "" if good else "install neuroscope and torch anew: the same numbers cannot be expected here"
    yield Finding("bundled model", OK if good else BROKEN, f"opens, {score:.0%} of 32 examples right", do)
