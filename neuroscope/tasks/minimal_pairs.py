"""Folders of minimal pairs, in the format of Han, Andreas, Fedorenko & de Varda 2026 (repository LLM_Modularity).

1. `data/<family>/<task>.json` is a list of rows: clean_problem, corrupted_problem, clean_correct, clean_incorrect,
   corrupted_correct, corrupted_incorrect. The right answer to one prompt is the wrong one to the other. Further fields
   are not read.
2. `config/<family>/config.json`, where there is one, names the tasks and their files (path), and says how a prompt is
   shown: prefix, problem, concatenation, and after a space suffix, in which {correct_answer} and {incorrect_answer} are
   the row's own. With force_base_evaluation it is shown as it is, otherwise as a user's turn in a chat.
3. A row that is no pair is left out, counted and named. Rows that share a prompt, clean or corrupt, stay in one split.

There the neurons are found and judged on the same rows, all of them; here on different ones. There the chat has an
empty system message; here it has none, or the template's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope import files
from neuroscope.checks import finite, flag, whole
from neuroscope.errors import ArgumentError, FileError, suggest
from neuroscope.tasks.example import Example
from neuroscope.tasks.rows import check_sizes
from neuroscope.tasks.shots import key_of
from neuroscope.tasks.task import Task

FIELDS = ("clean_problem", "corrupted_problem", "clean_correct", "clean_incorrect", "corrupted_correct")
CONFIG = "config.json"
TEMPLATE = ("prefix", "concatenation", "suffix")
FEW = 3  # rows left out that are named one by one
OWN = ("train", "discovery", "test", "seed", "holdout", "chat", "shots")
PASSED = ("system", "max_tokens", "too_long", "separator", "ranking")  # fields of Task


def has_minimal_pairs(place: Path) -> bool:
    """Whether a folder holds such tasks: it is the repository, its `data`, or one family of it."""
    return bool(_files(place)) and _looks_like_pairs(next(iter(_files(place))))


def read_minimal_pairs(place: Path, **options: Any) -> list[Task]:
    """Every task of the folder, with kind "pairs"; see `load_tasks`.

    Args:
        options: train, discovery, test (at most so many examples of each split), seed (of the shuffle), holdout (share
            of the rows for the test split, 0.5), chat (None: as the configuration says, and False without one), shots,
            and system, max_tokens, too_long, separator, ranking of `Task`.

    Raises:
        FileError: a file that cannot be read, or that has no pair; a configuration that names a missing file.
    """
    known = (*OWN, *PASSED)
    for name in options:
        if name not in known:
            raise ArgumentError(f"load_tasks({name}=...)", "no such option of minimal pairs", suggest(name, known))
    listed = list(_listed(place))
    names = [name for _, name, _, _ in listed]
    tasks = []
    for family, name, path, how in listed:
        unique = name if names.count(name) == 1 else f"{family}/{name}"
        tasks.append(_task(unique, family, path, how, options))
    return tasks


def _files(place: Path) -> list[Path]:
    root = place / "data" if (place / "data").is_dir() else place
    found = [path for path in sorted(root.glob("*.json")) if path.name != CONFIG]
    return found or [path for path in sorted(root.glob("*/*.json")) if path.name != CONFIG]


def _looks_like_pairs(path: Path) -> bool:
    """Whether the file begins like a list of rows with the fields."""
    try:
        start = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    return start.lstrip()[:1] == "[" and "clean_problem" in start


def _listed(place: Path) -> Iterator[tuple[str, str, Path, Mapping[str, Any]]]:
    """Family, name, file and configuration of each task, as the configurations list them, then those of no list."""
    by_family: dict[Path, list[Path]] = {}
    for path in _files(place):
        by_family.setdefault(path.parent, []).append(path)
    for folder, paths in by_family.items():
        config = _config(folder)
        for name, how in config.items():
            file = how.get("path", f"{name}.json") if isinstance(how, dict) else None
            if not isinstance(file, str) or folder / file not in paths:
                found = f"{file!r}, which is not in {folder}" if isinstance(file, str) else f"{how!r}"
                raise FileError(f"the file of task {name!r} in {_config_path(folder)}", found, "correct its path")
            yield folder.name, name, folder / file, how
        known = {folder / how.get("path", f"{name}.json") for name, how in config.items()}
        yield from ((folder.name, path.stem, path, {}) for path in paths if path not in known)


def _config_path(folder: Path) -> Path:
    return folder.parent.parent / "config" / folder.name / CONFIG


def _config(folder: Path) -> dict[str, Any]:
    path = _config_path(folder)
    if not path.is_file():
        return {}
    config = files.read_json(path, "the configuration of tasks")
    if not isinstance(config, dict):
        raise FileError(f"the configuration {path}", f"a {type(config).__name__}", "write {name of a task: {...}}")
    return config


def _task(name: str, family: str, path: Path, how: Mapping[str, Any], options: Mapping[str, Any]) -> Task:
    sizes = check_sizes(**{split: options.get(split) for split in ("train", "discovery", "test")})
    asked, is_base = options.get("chat"), bool(how.get("force_base_evaluation", not how))
    chat = not is_base if asked is None else flag(asked, "chat")
    examples = _examples(path, how)
    # an answer that goes on with the prompt's text has its space with it, or goes on within a word
    goes_on = is_base and (bool(how) or any(example.answer[:1].isspace() for example in examples))
    separator = "" if goes_on and not chat else " "
    rng = np.random.default_rng(whole(options.get("seed", 0), "seed", 0))
    share = finite(options.get("holdout", 0.5), "holdout")
    if not 0 <= share < 1:
        raise ArgumentError(f"holdout={share!r}", "no share of the rows", "give 0 <= holdout < 1, such as 0.5")
    rest, test = _parted(examples, share, rng)
    discovery: Sequence[Example] = ()
    if sizes["discovery"] is not None:
        discovery, rest = rest[: sizes["discovery"]], rest[sizes["discovery"] :]
    fields = {"separator": separator, **{field: options[field] for field in PASSED if field in options}}
    splits: dict[str, Any] = {"train": rest[: sizes["train"]], "discovery": discovery, "test": test[: sizes["test"]]}
    task = Task(name, **splits, kind="pairs", family=family, chat=chat, source=str(path), **fields)
    return task.with_shots(options.get("shots", 0), options.get("seed", 0))


def _examples(path: Path, how: Mapping[str, Any]) -> list[Example]:
    """The pairs of a file, its broken rows left out with a warning."""
    rows = files.read_json(path, "minimal pairs")
    if not isinstance(rows, list):
        raise FileError(f"minimal pairs in {path}", f"a {type(rows).__name__}", "write a list of rows")
    kept, broken = [], {}
    for number, row in enumerate(rows):
        why = _broken(row)
        if why:
            broken[number] = why
        else:
            kept.append(_example(row, how))
    first = "; ".join(f"row {number}: {why}" for number, why in list(broken.items())[:FEW])
    if not kept:
        found = f"{len(rows)} rows, none of them a pair{': ' * bool(first)}{first}"
        raise FileError(f"minimal pairs in {path}", found, f"give rows with {', '.join(FIELDS)}")
    if broken:
        more = f", and {len(broken) - FEW} more" if len(broken) > FEW else ""
        warnings.warn(f"{len(broken)} of {len(rows)} rows of {path} are left out: {first}{more}", stacklevel=6)
    return kept


def _broken(row: Any) -> str:
    """Why a row is no pair; empty if it is one."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, not an object"
    missing = [name for name in FIELDS if name not in row]
    if missing:
        return f"no {', '.join(missing)}"
    odd = [name for name in FIELDS if not isinstance(row[name], str | int) or str(row[name]).strip() == ""]
    if odd:
        return f"{row[odd[0]]!r} as {odd[0]}"
    if row["clean_problem"] == row["corrupted_problem"]:
        return "one prompt, twice"
    if str(row["clean_correct"]) == str(row["clean_incorrect"]):
        return f"{row['clean_correct']!r} as right and as wrong answer"
    if str(row["corrupted_correct"]) != str(row["clean_incorrect"]):
        return f"{row['corrupted_correct']!r} as right answer to the corrupt prompt, not {row['clean_incorrect']!r}"
    return ""


def _example(row: Mapping[str, Any], how: Mapping[str, Any]) -> Example:
    right, wrong = str(row["clean_correct"]), str(row["clean_incorrect"])
    return Example(
        _shown(str(row["clean_problem"]), how, right, wrong),
        right,
        corrupt=_shown(str(row["corrupted_problem"]), how, wrong, right),
        corrupt_answer=wrong,
    )


def _shown(problem: str, how: Mapping[str, Any], right: str, wrong: str) -> str:
    prefix, concatenation, suffix = (str(how.get(part) or "") for part in TEMPLATE)
    suffix = suffix.replace("{correct_answer}", right).replace("{incorrect_answer}", wrong)
    return prefix + problem + concatenation + (f" {suffix}" if suffix else "")


def _parted(examples: Sequence[Example], share: float, rng: np.random.Generator) -> tuple[list[Example], list[Example]]:
    """The examples shuffled, and a share of them as test examples; none of these shares a prompt with the rest."""
    leader: dict[str, str] = {}

    def group(prompt: str) -> str:
        while leader.setdefault(prompt, prompt) != prompt:
            prompt = leader[prompt]
        return prompt

    for example in examples:
        leader[group(key_of(example))] = group(str(example.corrupt).strip())
    groups: dict[str, list[Example]] = {}
    for i in rng.permutation(len(examples)):
        groups.setdefault(group(key_of(examples[i])), []).append(examples[i])
    wanted, rest, test = round(share * len(examples)), list[Example](), list[Example]()
    every = [*groups.values()]
    for members in (every[i] for i in rng.permutation(len(every))):  # by chance: large ones first would fill the test
        (test if len(test) + len(members) <= wanted else rest).extend(members)
    order = [rng.permutation(len(part)) for part in (rest, test)]
    return [rest[i] for i in order[0]], [test[i] for i in order[1]]
