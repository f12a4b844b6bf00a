"""`neuroscope load` and `neuroscope tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuroscope.command_line.call import Answer, Call

if TYPE_CHECKING:
    from neuroscope.tasks import Task


def open_model(call: Call) -> Answer:
    """A model, and where its neurons are."""
    from neuroscope.models import UNITS

    model = call.model()
    units: dict[str, Any] = {}
    for unit in UNITS:
        if unit in model.problems:
            units[unit] = {"problem": model.problems[unit].found}
            continue
        sites = model.sites(unit)
        units[unit] = {"neurons": sum(site.width for site in sites.values())}
        units[unit]["sites"] = {address: site.width for address, site in sites.items()}
    size = sum(parameter.numel() for parameter in model.root.parameters())
    about = {"parameters": size, "style": model.style, "units": units, **model.provenance()}
    return Answer(f"{model!r}\n  {size:,} parameters", about)


def show_tasks(call: Call, *, known: bool = False) -> Answer:
    """Tasks, and what is in them.

    Args:
        known: every name that can be given, and end.
    """
    if known:
        return _known()
    tasks = call.tasks()
    rows = [_about(task) for task in tasks.values()]
    widest = max(len(name) for name in tasks)
    lines = []
    for row in rows:
        counts = ", ".join(f"{row[split]} {split}" for split in ("train", "discovery", "test"))
        labels = ", ".join(row["labels"][:6]) + ", ..." * (len(row["labels"]) > 6)
        lines.append(f"{row['name']:{widest}}  {row['kind']}, {counts}" + f"; {labels}" * bool(labels))
    first = rows[0]["example"]
    lines.append(f"\nan example of {rows[0]['name']}: {first['prompt']!r} -> {first['answer']!r}" if first else "")
    return Answer("\n".join(lines).rstrip(), {"tasks": rows})


def _about(task: Task) -> dict[str, Any]:
    example = next((one for split in (task.test, task.train, task.discovery) for one in split), None)
    return {
        "name": task.name,
        "kind": task.kind,
        "family": task.family,
        "domain": task.domain,
        "metric": task.metric,
        "labels": list(task.labels),
        "train": len(task.train),
        "discovery": len(task.discovery),
        "test": len(task.test),
        "example": None if example is None else {"prompt": example.prompt, "answer": example.answer},
        "data_hash": task.data_hash,
    }


def _known() -> Answer:
    from neuroscope.tasks.catalogue import CATALOGUE, GROUPS
    from neuroscope.tasks.loaders import BUNDLED, SUITE_OF

    suites = {suite: [name for name, of in SUITE_OF.items() if of == suite] for suite in BUNDLED}
    lines = [f"{suite} (bundled): {', '.join(names)}" for suite, names in suites.items()]
    lines += [f"{group} (of the catalogue): {', '.join(names)}" for group, names in GROUPS.items()]
    grouped = {name for names in GROUPS.values() for name in names}
    lines += [f"catalogue: {', '.join(rest)}"] if (rest := [name for name in CATALOGUE if name not in grouped]) else []
    groups = {group: list(names) for group, names in GROUPS.items()}
    return Answer("\n".join(lines), {"bundled": suites, "groups": groups, "catalogue": list(CATALOGUE)})
