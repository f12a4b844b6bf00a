"""Examples dealt out to parts, and the same examples asked in other ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from neuroscope.checks import by_text, whole
from neuroscope.errors import ArgumentError, TaskError
from neuroscope.tasks import Task, tasks_of


def number_of_parts(parts: Any, asked: str) -> int:
    """Into how many parts examples are dealt, so that they can be halved.

    Raises:
        ArgumentError: no even number from 2 up.
    """
    number = whole(parts, "parts", 2)
    if number % 2:
        raise ArgumentError(f"{asked}(parts={number})", "an odd number", "give an even one, for it is halved")
    return number


def dealt_out(name: str, n: int, parts: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every part: as many in each."""
    if n < parts:
        do = "give more discovery examples, or ask for fewer parts"
        raise TaskError(f"stability(parts={parts}): deal out the examples of task {name!r}", f"{n} examples", do)
    order = np.random.default_rng(seed).permutation(n)
    size = n // parts
    return [order[i * size : (i + 1) * size].tolist() for i in range(parts)]


def part_of(tasks: Mapping[str, Task], dealt: Mapping[str, list[list[int]]], part: int) -> Iterator[tuple[str, Task]]:
    """Every task with the examples of one part alone."""
    for name, task in tasks.items():
        discovery = task.split("discovery")
        yield name, replace(task, discovery=tuple(discovery[i] for i in dealt[name][part]))


def variants_of(variants: Any, tasks: Mapping[str, Task]) -> dict[str, dict[str, dict[str, Task]]]:
    """Variants by kind and name, each with a task for every name.

    Raises:
        ArgumentError: no nested dict.
        TaskError: a task without its counterpart, or one with another number of examples.
    """
    do = "give kind -> name -> tasks, such as {'templates': {'question': tasks}}"
    kinds: dict[str, dict[str, dict[str, Task]]] = {}
    for kind, names in by_text({} if variants is None else variants, "variants", do).items():
        kinds[kind] = {}
        for name, given in by_text(names, f"variants[{kind!r}]", do).items():
            ways = tasks_of(given, f"stability, variants[{kind!r}][{name!r}]")
            for task_name, task in tasks.items():
                here, there = len(task.split("discovery")), -1
                if task_name in ways:
                    there = len(ways[task_name].split("discovery"))
                if here != there:
                    found = "no such task" if there < 0 else f"{there} discovery examples instead of {here}"
                    asked = f"task {task_name!r} in variants[{kind!r}][{name!r}]"
                    raise TaskError(asked, found, "give the same examples, in the same order, under the same name")
            kinds[kind][name] = {task_name: ways[task_name] for task_name in tasks}
    return kinds
