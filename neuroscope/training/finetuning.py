"""Fine-tune only a mask's neurons (NCFT, LX24 §4.2), on Hugging Face's Trainer.

1. The tasks' training examples are encoded as prompt, answer and end-of-text token; the last two are scored.
2. A `NeuronAdapter` on the mask's neurons is what the optimizer sees; `mask=None` trains every parameter instead.
3. A fraction of the examples, held out, can stop the training early; the best state is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from neuroscope import files
from neuroscope.checks import public
from neuroscope.distributed import whole
from neuroscope.errors import ArgumentError, FileError, NumericalError, suggest
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.tasks.prompts import Encoded, encode, pad_id
from neuroscope.tasks.task import Task
from neuroscope.tasks.tokens import tokenizer_of
from neuroscope.training.adapter import NeuronAdapter
from neuroscope.training.processes import check_shards, divide, shards_elsewhere
from neuroscope.training.trainer import (
    NeuronTrainer,
    Progress,
    Watch,
    collate,
    is_complete,
    last_checkpoint,
    refuse_other_run,
    untouched,
)
from neuroscope.training.whole import WholeModel

Tasks = Task | Sequence[Task] | Mapping[str, Task]
RECIPE: dict[str, Any] = {
    "steps": None, "epochs": 3, "lr": 3e-4, "batch_size": 16, "weight_decay": 0.0, "seed": 0, "dev": 0.0, "patience": 3,
    "every": None,
}  # fmt: skip
OWN = {  # TrainingArguments that `finetune` has under a name of its own: given twice, the run's record would be wrong
    "output_dir": "output", "max_steps": "steps", "num_train_epochs": "epochs", "learning_rate": "lr",
    "weight_decay": "weight_decay", "seed": "seed",
}  # fmt: skip
GLOBAL = ("full_determinism", "tf32")  # TrainingArguments that set switches of torch for the whole process
LOGS, CHECKS = 50, 10  # per run: entries of the loss curve; checkpoints and judgements of the held-out examples


class Trainable(Protocol):
    """A handle on what is trained: a `NeuronAdapter`, a `WholeModel`, or LoRA."""

    model: Model
    base: str
    manifest: dict[str, Any]

    @property
    def identity(self) -> str | None:
        """What tells it from another handle of its kind on the same base."""

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """A scope in which they alone require gradients."""

    def save(self, path: str | PathLike) -> Path:
        """Write them to a file."""

    def restore(self, path: str | PathLike) -> None:
        """Read them back."""

    def detach(self) -> None:
        """Leave the base as it was."""


@public
def finetune(
    model: Any,
    tasks: Tasks,
    mask: NeuronMask | Literal["ffn"] | None,
    *,
    steps: int | None = None,
    epochs: float = 3,
    lr: float = 3e-4,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    seed: int = 0,
    dev: float = 0.0,
    patience: int = 3,
    every: int | None = None,
    output: str | PathLike | None = None,
    resume_from_checkpoint: bool | str | PathLike = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> NeuronAdapter | WholeModel:
    """Fine-tune a mask's neurons on one or several tasks, and nothing else.

    Started by torchrun or `accelerate launch`, the processes share each batch (DDP), or the model too (FSDP2, with
    `arguments={"fsdp": True}`: then the model stays sharded, and every process must call `save`, `merge` and the like).

    Args:
        model: anything that can be opened, with parameters of its own.
        tasks: whose training examples to learn, mixed.
        mask: hidden neurons or output units; "ffn": all hidden neurons; None: every parameter of the model.
        steps: optimizer steps; if None, as many as `epochs` takes.
        lr: the peak learning rate. An adapter wants one several times higher than the whole model.
        batch_size: examples per step, of all processes together.
        weight_decay: of AdamW. It pulls the neurons towards the base model (for `mask=None`: weights towards zero).
        seed: of dropout, of the order of the examples, and of the choice of those held out.
        dev: fraction of the training examples to hold out. Training stops early when their loss has not improved for
            `patience` judgements, and the best state is what is returned.
        every: steps between checkpoints, and between judgements of the held-out examples; a tenth of the run if None.
        output: folder for checkpoints, which hold what is trained and the optimizer's state; none are kept if None.
        resume_from_checkpoint: a checkpoint's folder, or True for the latest complete one in `output`, if there is any.
            The rest of the run equals the uninterrupted one, given the same arguments.
        arguments: further `transformers.TrainingArguments` by name, such as `{"optim": "sgd", "warmup_steps": 100,
            "gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine", "activation_checkpointing": True}`.
        progress: called as `progress(steps, description)`, such as tqdm; None is silent.

    Returns:
        The adapter, live on the model; `.manifest["history"]` has the losses. For `mask=None`, a `WholeModel`: the
        model has the trained weights, and `.unmerge()` puts the base's back.

    Raises:
        TaskError: a task has no training examples, or one that does not fit the model's context.
        MaskError: the mask is of a model of another shape, or empty. (A mask may be used on a fine-tuned model: the
            weights it was found on are not compared.)
        ModelError: the model's parameters cannot be trained here; the text says why.
        FileError: a checkpoint that is damaged, or of another run.
        NumericalError: the training diverged; the model is as it was before.
    """
    model = resolve(model)
    recipe = {"steps": steps, "epochs": epochs, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay}
    recipe |= {"seed": seed, "dev": dev, "patience": patience, "every": every}
    tasks = _listed(tasks)
    check_recipe(f"finetune {model.name}", recipe)
    for task in tasks:
        task.split("train")
    adapter = WholeModel(model) if mask is None else NeuronAdapter(model, every_ffn(model) if mask == "ffn" else mask)
    train(adapter, tasks, recipe, output, resume_from_checkpoint, arguments, progress)
    return adapter


def train(
    adapter: Trainable,
    tasks: Tasks,
    recipe: Mapping[str, Any],
    output: str | PathLike | None = None,
    resume_from_checkpoint: bool | str | PathLike = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Train what a handle holds, in place; what `finetune` does once it has made the handle.

    Args:
        adapter: detached if the training fails.
        recipe: those of `RECIPE` that differ from it.
        penalty: a scalar that is added to the loss of every step.
    """
    model, tasks = adapter.model, _listed(tasks)
    asked = f"finetune {model.name}"
    settings = {**RECIPE, **recipe}
    held: list[Encoded] = []
    try:
        check_recipe(asked, settings)
        check_arguments(asked, arguments)
        encoded = [item for task in tasks for item in _encoded(model, task)]
        learnt, held = _split(encoded, settings["dev"], settings["seed"])
        run = {
            "base": adapter.base,
            "mask": adapter.identity,
            "tasks": [task.data_hash for task in tasks],
            "settings": {
                k: v if isinstance(v, (bool, int, float, str, type(None))) else repr(v)
                for k, v in {**settings, **(arguments or {})}.items()
            },
        }
        checkpoint = _checkpoint(resume_from_checkpoint, output, run)
        with untouched(model.root), contextlib.ExitStack() as stack:
            folder = output if output is not None or not held else stack.enter_context(tempfile.TemporaryDirectory())
            chosen = _arguments(settings, arguments, folder, _every(settings, len(learnt)), held, model)
            divide(chosen, settings["batch_size"], arguments, asked)
            if isinstance(adapter, NeuronAdapter) and "ddp_find_unused_parameters" not in (arguments or {}):
                chosen.ddp_find_unused_parameters = False  # every delta is used in every pass
            callbacks: list[Any] = [EarlyStoppingCallback(settings["patience"])] if held else []
            if progress is not None:
                callbacks.append(Watch(progress))
            trainer = NeuronTrainer(
                adapter=adapter,
                run=run,
                penalty=penalty,
                model=model.root,
                args=chosen,
                train_dataset=learnt,
                eval_dataset=held or None,
                data_collator=partial(collate, pad=pad_id(tokenizer_of(model)), style=model.style),
                callbacks=callbacks,
            )
            check_shards(trainer, arguments, asked)
            trainer.remove_callback(PrinterCallback)  # the library never prints
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            trainer.accelerator.wait_for_everyone()  # before a folder of one is taken away
            history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
        if not all(bool(torch.isfinite(whole(p)).all()) for p in adapter.parameters()):
            raise NumericalError(
                asked, "trained numbers that are not finite", f"give a lower lr than {settings['lr']:g}"
            )
    except BaseException:
        adapter.detach()
        raise
    adapter.manifest |= {
        "tasks": [task.name for task in tasks],
        "run": run,
        "examples": len(learnt),
        "held_out": len(held),
        "trained": adapter.n_parameters,
        "history": history,
        "versions": files.versions(),
    }


def _listed(tasks: Tasks) -> list[Task]:
    if not isinstance(tasks, (Task, Sequence, Mapping)):
        raise ArgumentError("finetune on tasks", f"a {type(tasks).__name__}", "give a Task, or several")
    found = [tasks] if isinstance(tasks, Task) else list(tasks.values() if isinstance(tasks, Mapping) else tasks)
    wrong = [type(task).__name__ for task in found if not isinstance(task, Task)]
    if wrong or not found:
        raise ArgumentError("finetune on tasks", wrong[0] if wrong else "no task", "give a Task, or several")
    return found


def check_recipe(asked: str, recipe: Mapping[str, Any]) -> None:
    """Refuse settings that are none, or out of range."""
    unknown = next((name for name in recipe if name not in RECIPE), None)
    if unknown is not None:
        raise ArgumentError(f"{asked} with {unknown}={recipe[unknown]!r}", "no such setting", suggest(unknown, RECIPE))
    counts = ["batch_size", "patience", *(k for k in ("steps", "every") if recipe[k] is not None)]
    for name in counts:
        value = recipe[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArgumentError(f"{asked} with {name}={value!r}", "not a positive integer", "give 1 or more")
    for name in ("epochs", "lr", "weight_decay", "dev"):
        value = recipe[name]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise ArgumentError(f"{asked} with {name}={value!r}", "not a finite number", "give a number")
    for name in ("epochs", "lr"):
        if not recipe[name] > 0:
            raise ArgumentError(f"{asked} with {name}={recipe[name]!r}", "not positive", "give more than 0")
    if recipe["weight_decay"] < 0:
        raise ArgumentError(f"{asked} with weight_decay={recipe['weight_decay']!r}", "negative", "give 0 or more")
    if not isinstance(recipe["seed"], int) or isinstance(recipe["seed"], bool) or not 0 <= recipe["seed"] < 2**32:
        raise ArgumentError(
            f"{asked} with seed={recipe['seed']!r}", "no seed", "give a whole number from 0 to 2**32 - 1"
        )
    if not 0 <= recipe["dev"] < 1:
        raise ArgumentError(f"{asked} with dev={recipe['dev']!r}", "not a fraction", "give 0 <= dev < 1, such as 0.1")


def check_arguments(asked: str, arguments: Any) -> None:
    """Refuse what is no dict; names and values are looked at where `TrainingArguments` are made."""
    if arguments is not None and not isinstance(arguments, Mapping):
        do = "give a dict of transformers.TrainingArguments by name"
        raise ArgumentError(f"{asked} with arguments={arguments!r:.60}", f"a {type(arguments).__name__}", do)


def _every(recipe: Mapping[str, Any], examples: int) -> int:
    """Steps between checkpoints and judgements."""
    total = recipe["steps"] if recipe["steps"] is not None else -(-examples // recipe["batch_size"]) * recipe["epochs"]
    return recipe["every"] or max(1, int(total) // CHECKS)


def _encoded(model: Model, task: Task) -> list[Encoded]:
    # a masked model answers at mask tokens, as many as the answer has: there is no end to learn
    return encode(model, task, task.split("train"), end=model.style != "masked")


def _split(encoded: list[Encoded], dev: float, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Examples to learn from, and held-out ones; at least one each where any are to be held out."""
    if dev == 0:
        return encoded, []
    if len(encoded) < 2:
        raise ArgumentError(f"dev={dev}", f"{len(encoded)} training example", "give more examples, or dev=0")
    order = random.Random(seed).sample(range(len(encoded)), len(encoded))
    cut = min(max(1, round(dev * len(encoded))), len(encoded) - 1)
    return [encoded[i] for i in sorted(order[cut:])], [encoded[i] for i in sorted(order[:cut])]


def every_ffn(model: Model) -> NeuronMask:
    """All hidden neurons of a model."""
    widths = {a: s.width for a, s in model.sites("hidden").items()}
    return NeuronMask({a: torch.arange(w) for a, w in widths.items()}, widths, "hidden", {"selection": "ffn"})


def _checkpoint(wanted: bool | str | PathLike, output: str | PathLike | None, run: Mapping[str, Any]) -> Path | None:
    if wanted is False:
        if output is not None and last_checkpoint(output) is not None:
            do = "give resume_from_checkpoint=True to go on with it, or another folder"
            raise FileError(f"start a run in {output}", "checkpoints of an earlier run", do)
        return None
    if not isinstance(wanted, (bool, str, PathLike)):
        raise ArgumentError(
            f"resume_from_checkpoint={wanted!r}", f"a {type(wanted).__name__}", "give a folder, or True"
        )
    if wanted is True and output is None:
        raise ArgumentError("resume_from_checkpoint=True", "output=None", "give the run's output folder")
    path = last_checkpoint(output or "") if wanted is True else Path(wanted)
    if path is None:
        return None
    if not is_complete(path):
        raise FileError(f"resume from {path}", "no complete checkpoint", "give a checkpoint's folder, or True")
    refuse_other_run(path, run)  # before anything of it is read
    return path


def _arguments(
    settings: Mapping[str, Any],
    further: Mapping[str, Any] | None,
    output: str | PathLike | None,
    every: int,
    held_out: Sequence[Encoded],
    model: Model,
) -> TrainingArguments:
    known = [f.name for f in dataclasses.fields(TrainingArguments) if f.init]
    values: dict[str, Any] = {
        "output_dir": str(output) if output is not None else tempfile.gettempdir(),  # nothing is written there
        "max_steps": settings["steps"] if settings["steps"] is not None else -1,
        "num_train_epochs": settings["epochs"],
        "learning_rate": settings["lr"],
        "per_device_train_batch_size": settings["batch_size"],
        "per_device_eval_batch_size": settings["batch_size"],
        "weight_decay": settings["weight_decay"],
        "seed": settings["seed"],
        "optim": "adamw_torch",
        "logging_steps": max(1, every * CHECKS // LOGS),
        "save_strategy": "no" if output is None else "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": every,
        "load_best_model_at_end": bool(held_out),
        "metric_for_best_model": "eval_loss" if held_out else None,
        "prediction_loss_only": True,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "use_cpu": model.device.type == "cpu" and not shards_elsewhere(further),
        "dataloader_pin_memory": model.device.type != "cpu",
    }
    given = dict(further or {})
    for name in given:
        if name not in known:
            raise ArgumentError(f"arguments[{name!r}]", "no TrainingArguments of that name", suggest(name, known))
        if name in OWN:
            raise ArgumentError(f"arguments[{name!r}]", "an argument of its own", f"give {OWN[name]}=...")
        if name in GLOBAL and given[name]:
            raise ArgumentError(f"arguments[{name!r}]", "a switch for the whole process", "set it in torch yourself")
    if output is None and str(given.get("save_strategy", "no")) not in ("no", "SaveStrategy.NO"):
        raise ArgumentError("arguments['save_strategy']", "output=None", "give a folder for checkpoints: output=...")
    try:
        return TrainingArguments(**values | given)
    except (TypeError, ValueError) as error:
        do = "see transformers.TrainingArguments"
        raise ArgumentError(f"arguments={given}", str(error), do) from error
